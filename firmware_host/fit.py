"""Whether a bundle will run on a board: what it requires, against a profile in `devices/` or a board's facts."""

from collections.abc import Iterable, Iterator
from typing import Final

import msgspec

from edgecl.bundle import Bundle, check_requirements
from edgecl.devices import Profile
from edgecl.errors import BudgetError, BundleError, EdgeclError
from edgecl.facts import Facts
from edgecl.manifest import Manifest, Method
from edgecl.selftest import Result

COPIES: Final = 2
"""Of a bundle, which the board has room for: the new one, and the one it goes back to."""

CURES: Final = {
    "arch": "build it for that device",
    "engine": "build it for that engine, or install the engine there",
    "versions": "run edgecl provision, or build the bundle with the edgecl that is there",
    "memory": "build it with a smaller batch, another learner, or --fit",
    "disk": "make room there",
    "latency": "build it with int8, a smaller network or a smaller batch",
}
"""What helps, by what does not fit."""


class Finding(msgspec.Struct, frozen=True, kw_only=True):
    """One thing that was compared."""

    name: str
    fits: bool | None
    """None: cannot be told from here."""
    found: str


class Estimate(msgspec.Struct, frozen=True, kw_only=True):
    """How long a method is likely to take there."""

    method: str
    here_ms: float
    there_ms: float
    measured: bool
    """Whether the board's speed was measured; what is computed from it is an estimate in any case."""


def to_profile(manifest: Manifest, profile: Profile) -> Iterator[Finding]:
    """Against a kind of board, as it is known before one is at hand."""
    yield _arch(manifest, profile.arch)
    engine = manifest.requires.engine.split()[0]
    yield Finding(
        name="engine", fits=engine in profile.engines, found=f"{engine}; {' or '.join(profile.engines)} there"
    )
    yield Finding(name="edgecl", fits=None, found=f"{manifest.requires.edgecl} or later; the board's is not known")
    yield _memory(manifest, profile.budget_bytes, f"budget of {profile.name}")


def to_facts(bundle: Bundle, facts: Facts, profile: Profile | None) -> Iterator[Finding]:
    """Against one board."""
    manifest = bundle.manifest
    yield _arch(manifest, facts.arch)
    engines = {engine.name: engine.version for engine in facts.engines}
    needed = manifest.requires.engine.split()[0]
    if needed in engines:
        yield _versions(manifest, facts.edgecl, engines[needed], facts)
    else:
        yield Finding(
            name="engine", fits=False, found=f"{manifest.requires.engine}; {', '.join(engines) or 'none'} there"
        )
    yield _memory(manifest, facts.available_bytes, "available")
    if profile is not None:
        yield _memory(manifest, profile.budget_bytes, f"budget of {profile.name}")
    size = COPIES * sum(file.bytes for file in manifest.files)
    free = facts.disk.free_bytes
    found = f"{size / 1e6:.1f} MB with the bundle that it replaces, {free / 1e6:.0f} MB free"
    yield Finding(name="disk", fits=size <= free and not facts.disk.refused, found=facts.disk.refused or found)
    if facts.throttles:
        yield Finding(name="throttling", fits=None, found="the board holds itself back now")


def estimates(results: Iterable[Result], profile: Profile) -> tuple[Estimate, ...]:
    """From the times of the self-test on this computer. Nothing where the profile has no speed."""
    found = []
    for result in results:
        there_ms = profile.estimate_ms(result.ms)
        if there_ms is not None and profile.latency is not None:
            told = Estimate(
                method=result.method, here_ms=result.ms, there_ms=there_ms, measured=profile.latency.measured
            )
            found.append(told)
    return tuple(found)


def answering(manifest: Manifest) -> Method:
    """The method that answers one sample. Raises BundleError: there is none."""
    return manifest.method("infer", 1)


def require(where: str, device: str, findings: Iterable[Finding]) -> None:
    """Raises BundleError or BudgetError, of the first thing that does not fit."""
    for finding in findings:
        if finding.fits is False:
            kind: type[EdgeclError] = BudgetError if finding.name in ("memory", "latency") else BundleError
            raise kind(f"{where}: not for {device}: {finding.name}: {finding.found}; {CURES[finding.name]}")


def _arch(manifest: Manifest, arch: str) -> Finding:
    wanted = manifest.requires.arch
    found = f"{' or '.join(wanted) or 'any processor'}; {arch} there"
    return Finding(name="arch", fits=not wanted or arch in wanted, found=found)


def _versions(manifest: Manifest, edgecl: str, engine: str, facts: Facts) -> Finding:
    found = f"edgecl {manifest.requires.edgecl}, {manifest.requires.engine}; {edgecl} and {engine} there"
    loose = msgspec.structs.replace(manifest.requires, arch=(), memory_bytes=0)
    try:
        check_requirements(
            msgspec.structs.replace(manifest, requires=loose),
            edgecl_version=edgecl,
            arch=facts.arch,
            executorch_version=engine,
            available_memory_bytes=0,
        )
    except BundleError:
        return Finding(name="versions", fits=False, found=found)
    return Finding(name="versions", fits=True, found=found)


def _memory(manifest: Manifest, have: int, what: str) -> Finding:
    need = manifest.requires.memory_bytes
    found = f"{need / 1e6:.1f} MB for the whole process, {have / 1e6:.0f} MB {what}"
    return Finding(name="memory", fits=need <= have, found=found)
