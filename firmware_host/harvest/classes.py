"""The classes of a data set: those of the newest bundle in its order, and behind them those that boards added."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import duckdb

from edgecl.errors import EdgeclError
from edgecl.manifest import Input
from firmware_host.harvest import sql
from firmware_host.harvest.choice import CHOSEN
from firmware_host.replay.bundles import Bundles


class MixedError(EdgeclError):
    """What was chosen does not go together: choose less."""


@dataclass(frozen=True)
class Classes:
    """What labels may be called, and what a sample is."""

    lineage: str
    bundle: str
    """Id of the newest."""
    given: Input
    names: tuple[str, ...]
    """Of that bundle."""
    added: tuple[str, ...]
    """On boards, in the order of their indices there."""
    by_bundle: Mapping[tuple[str, str], Sequence[str]]
    """By device and bundle, the names that its indices stand for."""

    @property
    def all(self) -> tuple[str, ...]:
        """As a data set counts them."""
        return self.names + self.added


def find(connection: duckdb.DuckDBPyConnection, bundles: Bundles, lineage: str) -> Classes:
    """Of what was chosen. Raises MixedError: of several lineages. EdgeclError: a bundle that is needed is not here."""
    if lineage:
        sql.value(connection, f"DELETE FROM {CHOSEN} WHERE lineage IS DISTINCT FROM ?", [lineage])
    lineages = sql.column(connection, f"SELECT DISTINCT lineage FROM {CHOSEN} WHERE lineage IS NOT NULL ORDER BY 1")
    if len(lineages) > 1:
        raise MixedError(f"these samples are of several lineages, {', '.join(lineages)}; choose one with --lineage")
    if not lineages:
        raise MixedError("no sample that is kept was chosen; see the tables with edgecl query, or choose others")
    versions = connection.execute(
        "SELECT bundle, any_value(name), max(version) FROM runs WHERE lineage = ? GROUP BY bundle "
        f"HAVING bundle IN (SELECT bundle FROM {CHOSEN}) ORDER BY max(version) DESC, max(time) DESC, bundle",
        lineages,
    ).fetchall()
    known: dict[str, tuple[str, ...]] = {}
    given: Input | None = None
    for place, (bundle, title, version) in enumerate(versions):
        found = bundles.find(bundle)
        if found:
            known[bundle] = found.manifest.classes
            given = given or found.manifest.input
        elif place == 0 or _labelled_by_source(connection, bundle):
            raise EdgeclError(
                f"bundle {bundle} ({title}@{version}), which tells the names of the classes, is not here; "
                "give --bundles DIR with it"
            )
    assert given is not None  # the newest one was found
    newest = versions[0][0]
    added = _added(connection, lineages[0])
    by_bundle = {
        (device, bundle): (*known[bundle], *added.get((device, bundle), ()))
        for device, bundle in connection.execute(f"SELECT DISTINCT device, bundle FROM {CHOSEN}").fetchall()
        if bundle in known
    }
    behind: dict[str, int] = {}
    for names in (*by_bundle.values(), *((*known[newest], *one) for one in added.values())):
        for index, name in enumerate(names):
            if name not in known[newest]:
                behind[name] = min(index, behind.get(name, index))
    order = tuple(sorted(behind, key=lambda name: (behind[name], name)))
    return Classes(lineages[0], newest, given, known[newest], order, by_bundle)


def _labelled_by_source(connection: duckdb.DuckDBPyConnection, bundle: str) -> bool:
    return bool(sql.column(connection, f"SELECT 1 FROM {CHOSEN} WHERE bundle = ? AND y IS NOT NULL LIMIT 1", [bundle]))


def _added(connection: duckdb.DuckDBPyConnection, lineage: str) -> dict[tuple[str, str], tuple[str, ...]]:
    """By device and bundle, the names of the classes that were added there."""
    rows = connection.execute(
        """
        SELECT device, bundle, name FROM (
            SELECT device, bundle, added.name AS name, added.place AS place FROM (
                SELECT device, bundle, unnest(list_transform(added, lambda x, i: {'name': x, 'place': i})) AS added
                FROM runs WHERE lineage = $1
            )
            UNION ALL
            SELECT device, bundle, name, index FROM classes
            WHERE bundle IN (SELECT bundle FROM runs WHERE lineage = $1)
        ) GROUP BY ALL ORDER BY device, bundle, min(place), name
        """,
        [lineage],
    ).fetchall()
    found: dict[tuple[str, str], list[str]] = {}
    for device, bundle, name in rows:
        found.setdefault((device, bundle), []).append(name)
    return {key: tuple(names) for key, names in found.items()}
