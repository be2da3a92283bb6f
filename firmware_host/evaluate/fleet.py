"""All devices of a host store in one look, those that are unlike the others of their lineage first."""

from collections.abc import Sequence
from typing import Any, Final

import numpy as np

from firmware_host import query
from firmware_host.evaluate import metrics
from firmware_host.evaluate.answers import at
from firmware_host.evaluate.evaluation import Fleet, Overview
from firmware_host.host_store import HostStore

FEW: Final = 5
"""Devices of a lineage below which none is odd."""
COMPARED: Final = {
    "accuracy": "accuracy",
    "entropy": "entropy",
    "confidence": "confidence",
    "novel": "share of novel",
    "refused_share": "refused updates",
    "latency_p95_ms": "latency",
}
"""Figure -> how people are told of it."""

_SQL: Final = """
WITH
b AS (SELECT DISTINCT device, bundle, coalesce(nullif(lineage, ''), name) AS lineage FROM runs WHERE bundle <> ''),
p AS (
    SELECT a.device, lineage, count(*) AS answers, count(truth) AS labelled,
        (count(*) FILTER (correct)) / nullif(count(truth), 0) AS accuracy,
        avg(entropy) FILTER (isfinite(entropy)) AS entropy,
        avg(confidence) FILTER (isfinite(confidence)) AS confidence,
        if(count(similarity) > 0, avg(novel::INT), NULL) AS novel,
        approx_quantile(latency_ns, 0.95) / 1e6 AS latency_p95_ms,
        epoch_us(min(time)) AS first, epoch_us(max(time)) AS last
    FROM answers a JOIN b ON a.device = b.device AND a.bundle = b.bundle GROUP BY ALL
),
u AS (
    SELECT u.device, lineage, count(*) FILTER (committed) AS updates
    FROM updates u JOIN b ON u.device = b.device AND u.bundle = b.bundle GROUP BY ALL
),
g AS (
    SELECT g.device, lineage, count(*) AS refused
    FROM guard g JOIN b ON g.device = b.device AND g.bundle = b.bundle GROUP BY ALL
)
SELECT device, lineage, answers, labelled, accuracy, coalesce(entropy, 'nan'::DOUBLE) AS entropy,
    coalesce(confidence, 'nan'::DOUBLE) AS confidence, novel, coalesce(updates, 0) AS updates,
    coalesce(refused, 0) AS refused, latency_p95_ms, first, last
FROM p LEFT JOIN u USING (device, lineage) LEFT JOIN g USING (device, lineage) ORDER BY device, lineage
"""


def evaluate_fleet(store: HostStore, devices: Sequence[str] | None = None) -> Fleet:
    """Each lineage on each device, the oddest first. Raises StoreError."""
    with query.opened(store, devices) as connection:
        found = connection.execute(_SQL)
        names = [column[0] for column in found.description]
        rows: list[dict[str, Any]] = [dict(zip(names, row, strict=True)) for row in found.fetchall()]
    for row in rows:
        row["first"], row["last"] = at(row["first"]), at(row["last"])
        row |= {"distance": 0.0, "odd": ""}
    notes: list[str] = []
    few: list[str] = []
    for lineage in dict.fromkeys(row["lineage"] for row in rows):
        of = [row for row in rows if row["lineage"] == lineage]
        if len(of) >= FEW:
            _compare(of)
        else:
            few.append(lineage)
    if few and len(rows) > 1:
        notes.append(f"too few devices to tell which is odd ({FEW} of a lineage are enough): {', '.join(few)}")
    ordered = sorted(rows, key=lambda row: (-row["distance"], row["device"], row["lineage"]))
    return Fleet(tuple(Overview(**row) for row in ordered), tuple(notes))


def _compare(rows: list[dict[str, Any]]) -> None:
    """Say of each device by which figure it is most unlike the others."""
    values = {
        "refused_share": [row["refused"] / max(1, row["updates"] + row["refused"]) for row in rows],
        **{name: [row[name] for row in rows] for name in COMPARED if name != "refused_share"},
    }
    away = np.stack([metrics.robust_deviations(np.array(values[name], np.float64)) for name in COMPARED])
    away = np.nan_to_num(away)
    for place, row in enumerate(rows):
        most = int(away[:, place].argmax())
        row["distance"] = float(away[most, place])
        row["odd"] = list(COMPARED.values())[most] if row["distance"] else ""
