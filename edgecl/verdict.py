"""Whether a bundle does well enough: in its trial, against limits and the bundle before; and on probation."""

from typing import Final

from edgecl.deployments import Deployment, Figures
from edgecl.errors import BundleError
from edgecl.requests import Status

LABELLED: Final = 20
"""Labelled samples below which right answers are not judged."""
WORSE: Final = 0.05
"""Share of right answers that a new bundle may lose on labelled samples of the board."""
SLOWER: Final = 3.0
SLOWER_MS: Final = 10.0
"""On probation an answer may take so many times as long as before, and this much more."""
ROLL_BACKS: Final = 3
"""Times that the guard may take learned state back on probation."""


class GiveUp(Exception):
    """The deployment cannot go on; its argument says why, in one line."""


def judge(now: Deployment, floor: float, budget_bytes: int, found: Figures, before: Figures | None) -> None:
    """Raises BundleError: the trial was worse than allowed."""
    if found.canary_accuracy is not None and found.canary_accuracy < floor:
        raise BundleError(
            f"trial: {found.canary_accuracy:.3f} of the canaries answered right, the floor is {floor:.3f}"
        )
    if budget_bytes and found.resident_bytes > budget_bytes:
        raise BundleError(
            f"trial: {found.resident_bytes / 1e6:.1f} MB resident, the budget is {budget_bytes / 1e6:.1f} MB"
        )
    if now.latency_ms and found.latency_ms > now.latency_ms:
        raise BundleError(f"trial: an answer takes {found.latency_ms:.1f} ms, {now.latency_ms:.1f} ms are allowed")
    if (
        before
        and comparable(found, before)
        and found.accuracy is not None
        and before.accuracy is not None
        and found.samples >= LABELLED
        and found.accuracy < before.accuracy - WORSE
    ):
        raise BundleError(
            f"trial: {found.accuracy:.3f} of the board's own samples answered right, {before.accuracy:.3f} before"
        )


def comparable(found: Figures, before: Figures) -> bool:
    """Whether both bundles answered the same samples of the board."""
    return bool(found.inputs) and found.inputs == before.inputs


def watch(now: Deployment, budget_bytes: int, status: Status) -> None:
    """Raises GiveUp: the bundle does worse than it may."""
    before = now.running
    if status.rolled_back >= ROLL_BACKS:
        raise GiveUp(f"the guard took what it learned back {status.rolled_back} times")
    if budget_bytes and status.resident_bytes > budget_bytes * 1.1:
        raise GiveUp(f"{status.resident_bytes / 1e6:.1f} MB resident, the budget is {budget_bytes / 1e6:.1f} MB")
    limit_ms = now.latency_ms or (before.latency_ms * SLOWER + SLOWER_MS if before and before.latency_ms else 0.0)
    if limit_ms and status.samples >= LABELLED and status.latency_ms > limit_ms:
        raise GiveUp(f"an answer takes {status.latency_ms:.1f} ms, {limit_ms:.1f} ms are allowed")
    if (
        before
        and before.accuracy is not None
        and status.accuracy is not None
        and status.labelled >= 2 * LABELLED
        and status.accuracy < before.accuracy - 2 * WORSE
    ):
        raise GiveUp(f"{status.accuracy:.3f} of labelled samples answered right, {before.accuracy:.3f} before")


def figures_of(status: Status) -> Figures:
    """Of a service, as they are kept."""
    return Figures(
        samples=status.samples,
        accuracy=status.accuracy,
        latency_ms=status.latency_ms,
        resident_bytes=status.resident_bytes,
    )
