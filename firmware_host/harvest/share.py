"""What becomes of the samples that were found: each once, balanced, and whole stretches of a stream held out.

Neighbours of a stream are alike. Where one of them is trained on and the other held out, accuracy says more than is
true; so what is held out are stretches of samples that follow each other. Which ones, and which samples stay where
there are too many of a class, is told by a hash of their device and number: by nothing that changes from time to time.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import duckdb
import pyarrow as pa

from edgecl.manifest import Input
from firmware_host import query
from firmware_host.harvest import sql, suggest
from firmware_host.harvest.about import Left
from firmware_host.harvest.choice import CHOSEN, Choice
from firmware_host.harvest.dataset import UNLABELLED
from firmware_host.harvest.gather import FOUND
from firmware_host.harvest.labels import LABELS
from firmware_host.host_store import HostStore

TAKEN: Final = "_taken"
"""The table: `part` (of the data set), `place` in it, `device`, `seq`, `label` (index, -1 for none), `name`, `giver`,
`digest`."""

STRETCH: Final = 100
"""Samples of one device that are held out together, and no more than a twentieth of all."""


@dataclass(frozen=True)
class Shares:
    """How the samples with labels are divided."""

    held_out: float = 0.2
    balanced: bool = False
    most: int = 0
    """Of each class; 0 for no limit. Balanced, no class has more than the one that has fewest."""


def make(
    connection: duckdb.DuckDBPyConnection,
    store: HostStore,
    given: Input,
    names: Sequence[str],
    choice: Choice,
    shares: Shares,
) -> Left:
    """Make the table `_taken`; what was left out. Raises JournalError."""
    table = pa.table({"name": pa.array(names, pa.string()), "label": pa.array(range(len(names)), pa.int64())})
    sql.create(connection, "_classes", table)
    with query.told():
        connection.execute(_ONCE).fetchall()
        count = dict(connection.execute("SELECT why, count(*) FROM _once GROUP BY why").fetchall())
        _delete(connection, "why <> ''")
        unlabelled = 0
        if choice.only_labelled and not choice.suggested:
            unlabelled = _delete(connection, "label < 0")
        if choice.suggested:
            suggest.pick(connection, store, given, choice.suggested)
        if choice.suggested and not choice.labelled:
            _delete(connection, "label >= 0")
        surplus = _balance(connection, shares)
        _divide(connection, shares)
        connection.execute(_TAKEN).fetchall()
        chosen, found = (sql.value(connection, f"SELECT count(*) FROM {table}") for table in (CHOSEN, FOUND))
    return Left(
        unlabelled=unlabelled,
        duplicates=count.get("duplicate", 0),
        contradicting=count.get("contradicting", 0),
        surplus=surplus,
        missing=chosen - found,
    )


def provenance(connection: duckdb.DuckDBPyConnection, path: Path) -> None:
    """Write where each sample comes from, in the order of the sets and of places in them."""
    with query.told():
        connection.sql(
            f"""
            SELECT t.part AS "set", t.place, t.device, t.seq, c.time, c.boot, c.bundle, c.domain, t.name AS class,
                t.giver AS labelled_by, c.answer, c.confidence, c.entropy, c.novel, lower(hex(t.digest)) AS sha256
            FROM {TAKEN} t JOIN {CHOSEN} c USING (device, seq) ORDER BY t.part, t.place
            """
        ).write_csv(str(path))


def _balance(connection: duckdb.DuckDBPyConnection, shares: Shares) -> int:
    most = shares.most
    if shares.balanced:
        fewest = sql.value(
            connection, "SELECT min(count) FROM (SELECT count(*) AS count FROM _once WHERE label >= 0 GROUP BY label)"
        )
        most = min(most or fewest or 0, fewest or 0)
    if not most:
        return 0
    return _delete(
        connection,
        f"""
        label >= 0 AND (device, seq) IN (SELECT device, seq FROM (
            SELECT device, seq, row_number() OVER (PARTITION BY label ORDER BY {_hash("device, seq")}, device, seq) AS n
            FROM _once WHERE label >= 0) WHERE n > {most})
        """,
    )


def _divide(connection: duckdb.DuckDBPyConnection, shares: Shares) -> None:
    labelled = sql.value(connection, "SELECT count(*) FROM _once WHERE label >= 0")
    stretch = max(1, min(STRETCH, labelled // 20))
    connection.execute(
        f"""
        CREATE TEMP TABLE _held AS
        WITH placed AS (
            SELECT device, seq, (row_number() OVER (PARTITION BY device ORDER BY seq) - 1) // {stretch} AS stretch
            FROM _once WHERE label >= 0
        ),
        sized AS (SELECT device, stretch, count(*) AS count FROM placed GROUP BY ALL),
        upto AS (
            SELECT device, stretch, sum(count) OVER (ORDER BY {_hash("device, stretch")}, device, stretch) AS upto
            FROM sized
        )
        SELECT device, seq FROM placed JOIN upto USING (device, stretch)
        WHERE upto <= {round(shares.held_out * labelled)}
        """
    )


def _delete(connection: duckdb.DuckDBPyConnection, where: str) -> int:
    return int(sql.value(connection, f"DELETE FROM _once WHERE {where}"))


def _hash(columns: str) -> str:
    """What orders rows as if by chance, and always the same way."""
    return f"md5(concat_ws('/', {columns}))"


_ONCE: Final = f"""
    CREATE TEMP TABLE _once AS
    WITH rows AS (
        SELECT f.device, f.seq, f.digest, coalesce(n.label, -1) AS label, l.name, l.giver
        FROM {FOUND} f LEFT JOIN {LABELS} l USING (device, seq) LEFT JOIN _classes n ON l.name = n.name
    ),
    told AS (
        SELECT *, row_number() OVER (PARTITION BY digest ORDER BY label < 0, device, seq) AS nth,
            min(label) FILTER (label >= 0) OVER (PARTITION BY digest) AS lowest,
            max(label) OVER (PARTITION BY digest) AS highest
        FROM rows
    )
    SELECT device, seq, digest, label, name, giver,
        CASE WHEN lowest < highest THEN 'contradicting' WHEN nth > 1 THEN 'duplicate' ELSE '' END AS why
    FROM told
"""

_TAKEN: Final = f"""
    CREATE TEMP TABLE {TAKEN} AS
    SELECT part, row_number() OVER (PARTITION BY part ORDER BY device, seq) - 1 AS place, device, seq, label, name,
        giver, digest
    FROM (
        SELECT *, CASE WHEN label < 0 THEN '{UNLABELLED}'
            WHEN (device, seq) IN (SELECT device, seq FROM _held) THEN 'held_out' ELSE 'train' END AS part
        FROM _once
    )
"""
