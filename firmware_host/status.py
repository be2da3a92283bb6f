"""How a device is: what answers there, how it learns, and what was deployed last."""

import time
from collections.abc import Iterator

import msgspec

from edgecl import orders
from edgecl.deployments import Deployment
from edgecl.errors import RequestError
from edgecl.orders import DeploymentAnswer, HistoryAnswer, HistoryRequest, NumberRequest
from edgecl.requests import Status, TellStatus
from firmware_host import service
from firmware_host.client import Client
from firmware_host.offer import title
from firmware_host.said import size


class Standing(msgspec.Struct, frozen=True, kw_only=True):
    """How it is; a line of `--json`."""

    device: str
    edgecl: str
    free_bytes: int
    current: str
    """Id of the current bundle; empty for none."""
    current_title: str
    service: Status | None
    """None where none runs; `trouble` says so then."""
    trouble: str
    deployment: Deployment | None
    """The newest."""
    development: bool
    """Whether unsigned bundles are taken."""


def standing(client: Client, device: str) -> Standing:
    """Ask. Raises what asking raises."""
    hello = client.connect()
    there = client.request(orders.HISTORY, HistoryRequest(before=0), HistoryAnswer)
    newest = client.request(orders.DEPLOYMENT, NumberRequest(), DeploymentAnswer).deployment
    found, trouble = None, ""
    try:
        found = service.ask(client, TellStatus(), Status)
    except RequestError as error:
        trouble = str(error)
    titles = {bundle.id: title(bundle.name, bundle.version) for bundle in there.bundles}
    return Standing(
        device=device,
        edgecl=hello.edgecl,
        free_bytes=hello.free_bytes,
        current=there.current,
        current_title=titles.get(there.current, there.current[:12]),
        service=found,
        trouble=trouble,
        deployment=newest,
        development=there.development,
    )


def rows(now: Standing) -> Iterator[tuple[str, str]]:
    """All of it for people, on one device."""
    yield now.device, f"{answers(now)}, edgecl {now.edgecl}, {size(now.free_bytes)} free"
    if now.development:
        yield "development", "unsigned bundles are taken"
    if found := now.service:
        source = f", source {found.source}{' (at its end)' if found.ended else ''}" if found.source else ""
        yield "service", f"up {_age(found.uptime_s)}{source}, {size(found.resident_bytes)} resident"
        if found.bundle:
            idle = f", the last {_age(found.idle_s)} ago" if found.samples else ""
            yield "samples", f"{found.samples} answered{idle}, {found.latency_ms:.1f} ms (95 of 100 take no longer)"
            if found.accuracy is not None:
                yield "right", f"{found.accuracy:.1%} of the last {found.labelled} of known label"
            yield "learning", _learning(found)
            yield "checkpoint", _checkpoint(found)
    else:
        yield "service", now.trouble
    if now.deployment:
        yield "deployment", line(now.deployment)


def columns(now: Standing) -> tuple[str, ...]:
    """The most important of it, on one of several devices."""
    found = now.service
    if not found or not found.bundle:
        why = "no service runs" if not found else ""
        return now.device, answers(now), why, "", "", "", "", _state(now.deployment)
    return (
        now.device,
        answers(now),
        "paused" if found.paused else f"step {found.step}",
        f"{found.accuracy:.1%}" if found.accuracy is not None else "",
        f"{found.latency_ms:.1f} ms" if found.samples else "",
        size(found.resident_bytes),
        _age(found.checkpoint_age_s) if found.checkpoint_age_s >= 0 else "",
        _state(now.deployment),
    )


HEAD = ("device", "", "learning", "right", "latency", "memory", "checkpoint", "deployment")
"""Of `columns`."""


def answers(now: Standing) -> str:
    """What answers there."""
    if not now.current:
        return "no bundle yet"
    if not now.service:
        return f"{now.current_title} is current"
    if now.service.bundle != now.current:
        return f"{now.current_title} is current, {'another one' if now.service.bundle else 'none'} answers"
    return f"{now.current_title} answers"


def line(deployment: Deployment) -> str:
    """A deployment in one line."""
    what = f"back to {_title(deployment)}" if deployment.back else _title(deployment)
    state = deployment.outcome if deployment.over else f"under way ({deployment.state})"
    reason = f": {deployment.reason}" if deployment.reason else ""
    return f"{deployment.number}, {what} by {deployment.by}, {when(deployment)}: {state}{reason}"


def when(deployment: Deployment) -> str:
    """When it was begun, by the board's clock."""
    if not deployment.trace:
        return ""
    return time.strftime("%Y-%m-%d %H:%M", time.localtime(deployment.trace[0].wall_ns / 1e9))


def _title(deployment: Deployment) -> str:
    return title(deployment.name, deployment.version)


def _state(deployment: Deployment | None) -> str:
    if not deployment:
        return ""
    return deployment.outcome or f"{_title(deployment)}: {deployment.state}"


def _learning(found: Status) -> str:
    counts = f"{found.updates} updates, {found.refused} refused, {found.rolled_back} taken back"
    domain = f"{found.domain}, 1 of {found.domains} domains" if found.domains > 1 else "1 domain"
    held = "paused, " if found.paused else ""
    return f"{held}{found.learner} at step {found.step}, {counts}; {domain}, {found.classes} classes"


def _checkpoint(found: Status) -> str:
    if not found.checkpoint:
        return "none yet"
    age = f", {_age(found.checkpoint_age_s)} old" if found.checkpoint_age_s >= 0 else ", from before it started"
    return f"{found.checkpoint}{age}"


def _age(seconds: float) -> str:
    for unit, factor in (("d", 86400), ("h", 3600), ("min", 60)):
        if seconds >= 2 * factor:
            return f"{seconds / factor:.0f} {unit}"
    return f"{seconds:.0f} s"
