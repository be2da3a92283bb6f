"""One bundle for several devices: some first, then the others, and no more once too many have failed."""

from collections.abc import Callable, Iterator, Sequence

from edgecl.errors import EXIT_OK, EXIT_PARTIAL, EdgeclError
from firmware_host.events import Ended, Tell
from firmware_host.fleet import Device, Rollout, share
from firmware_host.together import each

Do = Callable[[Device], Ended]
"""Deploys to one device. Raises EdgeclError."""

NOT_BEGUN = "not begun"


class Progress:
    """How a rollout is."""

    def __init__(self, allowed: int) -> None:
        self._allowed = allowed
        self.ended: list[Ended] = []

    @property
    def failed(self) -> int:
        return sum(event.exit_code != EXIT_OK for event in self.ended)

    def may_go_on(self) -> bool:
        """Whether not too many have failed."""
        return self.failed <= self._allowed


def roll_out(devices: Sequence[Device], how: Rollout, do: Do, title: str, tell: Tell) -> list[Ended]:
    """What became of each device, in their order."""
    canaries = min(how.canaries, len(devices))
    first, others = devices[:canaries], devices[canaries:]
    progress = Progress(share(how.error_threshold, len(devices), up=False))
    for event in _stage(first, 1, progress, do, title, tell):
        progress.ended.append(event)
    tried = any(event.outcome != "there" for event in progress.ended)
    pause = how.pause_after_canary and tried and bool(others)
    if progress.may_go_on() and not pause:
        at_once = max(1, share(how.max_in_flight, len(devices), up=True))
        for event in _stage(others, at_once, progress, do, title, tell):
            progress.ended.append(event)
    done = {event.device: event for event in progress.ended}
    why = "the canaries have it; deploy again for the others" if pause and progress.may_go_on() else "too many failed"
    return [done.get(device.name) or _not_begun(device, title, why) for device in devices]


def exit_code(ended: Sequence[Ended]) -> int:
    """Of the whole."""
    return EXIT_OK if all(event.exit_code == EXIT_OK for event in ended) else EXIT_PARTIAL


def failure(device: Device, title: str, error: EdgeclError, tell: Tell) -> Ended:
    """An error as an outcome."""
    event = Ended(
        device=device.name,
        outcome="unreachable" if error.exit_code == 4 else "failed",
        exit_code=error.exit_code,
        bundle="",
        title=title,
        reason=str(error),
    )
    tell(event)
    return event


def _stage(
    devices: Sequence[Device], at_once: int, progress: Progress, do: Do, title: str, tell: Tell
) -> Iterator[Ended]:
    for device, result in each(devices, do, at_once, progress.may_go_on):
        yield failure(device, title, result, tell) if isinstance(result, EdgeclError) else result


def _not_begun(device: Device, title: str, why: str) -> Ended:
    return Ended(device=device.name, outcome=NOT_BEGUN, exit_code=EXIT_OK, bundle="", title=title, reason=why)
