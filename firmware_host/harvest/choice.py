"""Which samples of a host store are wanted, and the table of them that everything else goes on from."""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Final

import duckdb

from firmware_host import query
from firmware_host.query import QueryError

CHOSEN: Final = "_chosen"
"""The table: `device`, `seq`, and `boot` and `monotonic_ns`, which tell the record of the sample; `time`, `bundle`,
`lineage`, `domain`, `y`, `answer` (index), `confidence`, `entropy`, `novel`, `similarity`."""

_AGO_S: Final = {"d": 86400, "h": 3600, "min": 60, "w": 7 * 86400}


@dataclass(frozen=True)
class Choice:
    """What a sample must be to be wanted; all that is given has to hold."""

    labelled: bool = False
    """Whether its label is known. Without any other wish, that is the choice."""
    novel: bool = False
    """The detector took it for novel."""
    domains: Sequence[str] = ()
    """Name or number of the domain that answered."""
    devices: Sequence[str] = ()
    since: datetime | None = None
    """UTC."""
    sql: str = ""
    """A query that gives `device` and `seq`."""
    suggested: int = 0
    """So many unlabelled ones, of which a label is worth most."""
    lineage: str = ""

    @property
    def only_labelled(self) -> bool:
        """Whether samples without a label are left out."""
        return self.labelled or not (self.novel or self.domains or self.sql or self.suggested)


def moment(text: str, now: datetime) -> datetime:
    """A date, a time (UTC unless it says otherwise), or how long ago: `2025-06-15`, `7 d`. Raises ValueError."""
    if found := re.fullmatch(r"(\d{1,6}) *(d|h|min|w)", text.strip()):
        return (now - timedelta(seconds=int(found[1]) * _AGO_S[found[2]])).replace(tzinfo=None)
    given = datetime.fromisoformat(text.strip())
    return given.astimezone(UTC).replace(tzinfo=None) if given.tzinfo else given


def choose(connection: duckdb.DuckDBPyConnection, choice: Choice) -> None:
    """Make the table `_chosen`, of all wishes but those about labels. Raises QueryError."""
    if choice.sql:
        found = query.ask(connection, choice.sql)
        if not {"device", "seq"} <= set(found.columns):
            raise QueryError(f"query: it gives {', '.join(found.columns)}; give device and seq")
        with query.told():
            wanted = found.project("CAST(device AS VARCHAR) AS device, CAST(seq AS UBIGINT) AS seq")
            wanted.distinct().create("_wanted")
    wheres = ["true"]
    values: list[object] = []
    if choice.novel:
        wheres.append("p.novel")
    if choice.devices:
        wheres.append(f"s.device IN ({', '.join('?' * len(choice.devices))})")
        values += choice.devices
    if choice.since:
        wheres.append("s.time >= ?")
        values.append(choice.since)
    if choice.sql:
        wheres.append("(s.device, s.seq) IN (SELECT device, seq FROM _wanted)")
    if choice.domains:
        ways = []
        for name in choice.domains:
            if name.isdecimal() or name == "source":
                ways.append("s.domain = ?")
                values.append(0 if name == "source" else int(name))
            else:
                ways.append("(s.device, s.domain) IN (SELECT device, domain FROM _named WHERE name = ?)")
                values.append(name)
        wheres.append(f"({' OR '.join(ways)})")
    with query.told():
        connection.execute(_NAMED).fetchall()
        connection.execute(f"CREATE TEMP TABLE {CHOSEN} AS {_KEPT} WHERE {' AND '.join(wheres)}", values).fetchall()


_NAMED: Final = """
    CREATE TEMP TABLE _named AS
    SELECT device, domain, arg_max(name, time) AS name FROM (
        SELECT device, domain, name, time FROM domains
        UNION ALL
        SELECT device, kept.domain AS domain, kept.name AS name, time
        FROM (SELECT device, time, unnest(domains) AS kept FROM runs)
    ) GROUP BY device, domain
"""
"""Domains of each device by their latest names."""

_KEPT: Final = """
    SELECT s.device, s.seq, s.boot, s.monotonic_ns, s.time, coalesce(p.bundle, r.bundle) AS bundle,
        coalesce(q.lineage, r.lineage) AS lineage, s.domain, s.learned, s.y AS y, p.label AS answer, p.confidence,
        p.entropy, p.novel, p.similarity
    FROM (
        SELECT * FROM samples
        QUALIFY row_number() OVER (PARTITION BY device, seq ORDER BY time DESC, monotonic_ns DESC, sequence DESC) = 1
    ) s
    LEFT JOIN (
        SELECT * FROM predictions
        QUALIFY row_number() OVER (PARTITION BY device, seq ORDER BY time DESC, monotonic_ns DESC, sequence DESC) = 1
    ) p ON s.device = p.device AND s.seq = p.seq AND NOT s.learned
    ASOF LEFT JOIN (SELECT device, boot, monotonic_ns, bundle, lineage FROM runs) r
        ON s.device = r.device AND s.boot = r.boot AND s.monotonic_ns >= r.monotonic_ns
    LEFT JOIN (SELECT bundle, any_value(lineage) AS lineage FROM runs GROUP BY bundle) q ON q.bundle = p.bundle
"""
"""Every sample that is kept, with its answer; one that was learned with its label instead of answered has none."""
