"""What a host store can be asked for: its tables, and views over them. docs/commands/query.md tells of each.

Every table and view but `devices` has `device` and `date`, the day of `time` in UTC.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from firmware_host.tables import NAMES


@dataclass(frozen=True)
class View:
    """A view over the tables."""

    about: str
    sql: str


TABLES: Final[Mapping[str, str]] = {
    "runs": "runs: bundle, learner, settings, seed, versions",
    "predictions": "answers: label, confidence, entropy, similarity, domain, latency, and `y` where the source knew it",
    "damaged": "samples that could not be read",
    "shifts": "the stream became unlike the source, or like it again",
    "domains": "domains that began, were founded, merged, renamed, dropped, or came back",
    "updates": "learning steps: report, state digest, whether it was committed, duration",
    "guard": "what the guard skipped, rolled back and reset, and why",
    "labels": "labels that came late, and corrections of them",
    "classes": "classes that were added",
    "checkpoints": "what was learned was written",
    "losses": "segments that a crash had cut off",
    "samples": "samples that were kept, without their bytes",
    "ends": "runs that ended in good order",
    "boots": "boots of the board, and what it is",
    "clocks": "how the wall clock stood, and when it was set",
    "gaps": "answers that were not journalled, as the journal was full",
    "dropped": "samples that were deleted, as their ring was full",
}
"""Table -> what a row of it tells of."""

assert set(TABLES) == set(NAMES.values())

VIEWS: Final[Mapping[str, View]] = {
    "answers": View(
        "predictions with the latest label that was given, as `truth`, and whether they were `correct`",
        """
        SELECT p.*, coalesce(l.given, p.y) AS truth, p.label = coalesce(l.given, p.y) AS correct
        FROM predictions p
        LEFT JOIN (
            SELECT device, seq, arg_max(y, (time, monotonic_ns, sequence)) AS given FROM labels GROUP BY device, seq
        ) l ON p.device = l.device AND p.seq = l.seq
        """,
    ),
    "health": View(
        "a row a device and day: answers, accuracy, latency, updates, what the guard did, what was lost",
        """
        WITH
        p AS (
            SELECT device, date, count(*) AS answers, count(truth) AS labelled,
                count(*) FILTER (correct) AS correct, avg(confidence) AS confidence, avg(entropy) AS entropy,
                avg(novel::INT) AS novel, approx_quantile(latency_ns, 0.5) / 1e6 AS latency_ms,
                approx_quantile(latency_ns, 0.95) / 1e6 AS latency_p95_ms, min(time) AS first, max(time) AS last
            FROM answers GROUP BY ALL
        ),
        u AS (
            SELECT device, date, count(*) FILTER (committed) AS updates, avg(duration_ns) / 1e6 AS update_ms
            FROM updates GROUP BY ALL
        ),
        g AS (
            SELECT device, date, count(*) FILTER (action = 'skipped') AS skipped,
                count(*) FILTER (action <> 'skipped') AS rolled_back
            FROM guard GROUP BY ALL
        ),
        r AS (SELECT device, date, count(*) AS runs FROM runs GROUP BY ALL),
        l AS (SELECT device, date, sum(bytes_lost) AS bytes_lost FROM losses GROUP BY ALL),
        m AS (SELECT device, date, sum(records) AS not_journalled FROM gaps GROUP BY ALL),
        d AS (
            SELECT device, date, sum(records) AS dropped FROM (
                SELECT device, date, records FROM dropped UNION ALL SELECT device, date, dropped FROM gaps
            ) GROUP BY ALL
        )
        SELECT device, date, coalesce(answers, 0) AS answers, labelled, correct / nullif(labelled, 0) AS accuracy,
            confidence, entropy, novel, latency_ms, latency_p95_ms, coalesce(updates, 0) AS updates, update_ms,
            coalesce(skipped, 0) AS skipped, coalesce(rolled_back, 0) AS rolled_back, coalesce(runs, 0) AS runs,
            coalesce(bytes_lost, 0) AS bytes_lost, coalesce(not_journalled, 0) AS not_journalled,
            coalesce(dropped, 0) AS dropped, first, last
        FROM p FULL JOIN u USING (device, date) FULL JOIN g USING (device, date) FULL JOIN r USING (device, date)
            FULL JOIN l USING (device, date) FULL JOIN m USING (device, date) FULL JOIN d USING (device, date)
        """,
    ),
    "devices": View(
        "a row a device: the bundle of its last run, its board, and when it was last heard of",
        """
        SELECT device, last_run.name AS name, last_run.lineage AS lineage, last_run.version AS version,
            last_run.bundle AS bundle, last_run.learner AS learner, runs, lineages, board.model AS model,
            board.arch AS arch, boots, last_heard
        FROM (
            SELECT device, arg_max({'name': name, 'lineage': lineage, 'version': version, 'bundle': bundle,
                'learner': learner}, time) AS last_run, count(*) AS runs, count(DISTINCT lineage) AS lineages
            FROM runs GROUP BY device
        )
        LEFT JOIN (
            SELECT device, arg_max({'model': model, 'arch': arch}, time) AS board, count(*) AS boots
            FROM boots GROUP BY device
        ) USING (device)
        LEFT JOIN (
            SELECT device, max(time) AS last_heard FROM (
                SELECT device, time FROM runs UNION ALL SELECT device, time FROM predictions
                UNION ALL SELECT device, time FROM ends
            ) GROUP BY device
        ) USING (device)
        """,
    ),
}
"""View -> what it is, over the tables and those before it."""

SEGMENTS: Final = "segments that were taken: bytes, records, and what was lost of those that are not whole"
"""The view `segments`, which is made of the indexes."""
