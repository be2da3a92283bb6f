"""What deployments brought, and sizes, in words."""

from edgecl.deployments import Deployment, Figures, State
from edgecl.verdict import comparable


def said(state: State, now: Deployment) -> str:
    """What a state has brought, in words; empty where its time is all there is."""
    if state == "VERIFY" and now.signed_by:
        nobody, _, why = now.signed_by.partition("nobody: ")
        return f"not signed: {why}" if why and not nobody else f"signed by {now.signed_by}"
    if state == "TRIAL" and now.trial:
        return _figures(now.trial, now.before, now.latency_ms)
    if state == "QUIESCE" and now.taken:
        return now.taken
    if state == "ROLLBACK":
        return now.reason
    return ""


def size(count: int) -> str:
    """Bytes for people."""
    for unit, factor in (("GB", 10**9), ("MB", 10**6), ("kB", 10**3)):
        if count >= factor:
            return f"{count / factor:.1f} {unit}"
    return f"{count} B"


def _figures(found: Figures, before: Figures | None, allowed_ms: float) -> str:
    same = before if before and comparable(found, before) else None
    again = before if before and before.canaries == found.canaries else None
    parts = [f"{found.samples} {'samples' if found.inputs else 'canaries'}"]
    for name, now, old in (
        ("right", found.accuracy, same.accuracy if same else None),
        ("canaries", found.canary_accuracy, again.canary_accuracy if again else None),
    ):
        if now is not None:
            parts.append(f"{name} {f'{old:.3f} -> ' if old is not None else ''}{now:.3f}")
    parts.append(f"{found.latency_ms:.1f} ms{f' ({allowed_ms:g} allowed)' if allowed_ms else ''}")
    parts.append(size(found.resident_bytes))
    if before and not same:
        parts.append(f"not compared with the bundle before: {_why_not(found, before)}")
    return ", ".join(parts)


def _why_not(found: Figures, before: Figures) -> str:
    if not found.inputs and not before.inputs:
        return "the board keeps no samples of its own"
    return (
        "only one of them takes the samples of the board"
        if not found.inputs or not before.inputs
        else "samples went meanwhile"
    )
