"""What deployments brought, and sizes, in words."""

from edgecl.deployments import Deployment, Figures, State


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
    parts = [f"{found.samples} samples"]
    for name, now, old in (
        ("right", found.accuracy, before.accuracy if before else None),
        ("canaries", found.canary_accuracy, before.canary_accuracy if before else None),
    ):
        if now is not None:
            parts.append(f"{name} {f'{old:.3f} -> ' if old is not None else ''}{now:.3f}")
    parts.append(f"{found.latency_ms:.1f} ms{f' ({allowed_ms:g} allowed)' if allowed_ms else ''}")
    parts.append(size(found.resident_bytes))
    return ", ".join(parts)
