"""Samples without a label of which one would be worth most, of all devices together: the queue of `edgecl evaluate`.

What a label is worth, and how like things are left out, is told in firmware_host/evaluate/queue.py. Here the ranks are
those among the answers of a device that were chosen, and the greedy choice goes over all devices.
"""

import duckdb
import numpy as np
import pyarrow as pa

from edgecl.manifest import Input
from firmware_host.evaluate import queue
from firmware_host.harvest import gather, sql
from firmware_host.harvest.choice import CHOSEN
from firmware_host.host_store import HostStore

POOL = "_pool"


def pick(connection: duckdb.DuckDBPyConnection, store: HostStore, given: Input, count: int) -> None:
    """Leave so many of the samples without a label in `_once`. Raises JournalError."""
    size = min(queue.MOST_POOL, count * queue.POOL)
    connection.execute(f"CREATE TEMP TABLE {POOL} AS {_WORTH} ORDER BY worth DESC, device, seq LIMIT {size}").fetchall()
    names: list[str] = []
    seqs: list[int] = []
    rows: list[np.ndarray] = []
    worth: list[float] = []
    for device in gather.devices(connection, POOL):
        values = dict(
            connection.execute(f"SELECT seq, worth FROM {POOL} WHERE device = ? ORDER BY seq", [device]).fetchall()
        )
        for record in gather.read(store, device, gather.numbers(connection, POOL, device)):
            x = gather.fitting(record, given)
            if x is not None:
                names.append(device)
                seqs.append(record.seq)
                rows.append(queue.coarse(x))
                worth.append(values[record.seq])
    found = np.stack(rows) if rows else np.zeros((0, 1), np.float32)
    chosen = queue.choose(np.array(worth), found, count)
    table = {
        "device": pa.array([names[one] for one in chosen], pa.string()),
        "seq": pa.array([seqs[one] for one in chosen], pa.uint64()),
    }
    sql.create(connection, "_suggested", pa.table(table))
    sql.value(
        connection, "DELETE FROM _once WHERE label < 0 AND (device, seq) NOT IN (SELECT device, seq FROM _suggested)"
    )


_WORTH = f"""
    SELECT device, seq, (unsure + coalesce(unlike, unsure)) / 2 AS worth FROM (
        SELECT device, seq, o.label, (rank() OVER (PARTITION BY device ORDER BY entropy) - 1) / n AS unsure,
            if(similarity IS NULL, NULL, (rank() OVER (PARTITION BY device ORDER BY -similarity) - 1) / n) AS unlike
        FROM (SELECT *, count(*) OVER (PARTITION BY device) AS n FROM {CHOSEN} WHERE entropy IS NOT NULL) c
        JOIN _once o USING (device, seq)
    ) WHERE label < 0
"""
"""Half how unsure an answer was, half how unlike the source its sample is, as shares of the answers below."""
