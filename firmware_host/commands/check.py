"""`edgecl check`: will a bundle run on a board, and how fast."""

from pathlib import Path
from typing import Final

import click
import msgspec

from edgecl import devices, selftest
from edgecl.bundle import Bundle, open_bundle
from edgecl.commands.options import duration_ms
from edgecl.commands.table import aligned
from edgecl.devices import Profile
from edgecl.errors import BundleError, ProfileError
from edgecl.facts import Facts
from edgecl.here import check_here
from firmware_host import fit
from firmware_host.facts_of import facts_of
from firmware_host.fit import Estimate, Finding

MAX_FACTS_BYTES: Final = 1 << 20


@click.command()
@click.argument("bundle", type=click.Path(path_type=Path))
@click.option("--for", "device", required=True, help="A device, a profile, or a file that edgecl probe --json made.")
@click.option("--latency", type=duration_ms, metavar="TIME", help='Refuse where an answer takes longer, like "40 ms".')
@click.option("--no-time", is_flag=True, help="Do not time the bundle on this computer.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
def check(bundle: Path, device: str, latency: float | None, no_time: bool, as_json: bool) -> None:
    """Say whether a bundle will run on a board.

    Everything in the bundle is verified first. Exit code 5 where it will not run, or not fast enough.
    """
    if no_time and latency is not None:
        raise click.UsageError("--latency needs the time that --no-time leaves out")
    profile, facts = _target(device)
    with open_bundle(bundle) as opened:
        if facts is not None:
            findings = list(fit.to_facts(opened, facts, profile))
        else:
            assert profile is not None
            findings = list(fit.to_profile(opened.manifest, profile))
        found: tuple[Estimate, ...] = ()
        if profile is not None and not no_time:
            found, finding = _timed(opened, profile, latency)
            findings.append(finding)
        _show(opened, device, findings, found, as_json=as_json)
        fit.require(str(bundle), device, findings)


def _target(device: str) -> tuple[Profile | None, Facts | None]:
    """What `--for` names. Raises ProfileError, LinkError."""
    known = {profile.name: profile for profile in devices.profiles()}
    if device in known:
        return known[device], None
    facts = _read(Path(device)) if device.endswith(".json") else facts_of(device)
    return known.get(facts.profile), facts


def _read(path: Path) -> Facts:
    try:
        if path.stat().st_size > MAX_FACTS_BYTES:
            raise ProfileError(f"{path}: too large for facts; make it with edgecl probe --json")
        return msgspec.json.decode(path.read_bytes(), type=Facts)
    except OSError as error:
        raise ProfileError(f"{path}: {error.strerror}; make it with edgecl probe --json") from None
    except msgspec.DecodeError as error:
        raise ProfileError(f"{path}: no facts of a board: {error}; make it with edgecl probe --json") from None


def _timed(bundle: Bundle, profile: Profile, limit_ms: float | None) -> tuple[tuple[Estimate, ...], Finding]:
    """How long the methods take there, from how long they take here."""
    wrong = None if limit_ms is None else False
    try:
        check_here(bundle.manifest)
    except BundleError as error:
        return (), Finding(name="latency", fits=wrong, found=f"not known: it cannot be timed here: {error}")
    results = selftest.run(bundle)
    selftest.require(results, bundle.origin)
    found = fit.estimates(results, profile)
    answer = next((one for one in found if one.method == fit.answering(bundle.manifest).name), None)
    if answer is None:
        return (), Finding(name="latency", fits=wrong, found=f"not known: {profile.name} has no speed")
    told = f"about {answer.there_ms:.3g} ms an answer"
    if limit_ms is None:
        return found, Finding(name="latency", fits=None, found=told)
    return found, Finding(name="latency", fits=answer.there_ms <= limit_ms, found=f"{told}, {limit_ms:g} ms allowed")


def _show(bundle: Bundle, device: str, findings: list[Finding], found: tuple[Estimate, ...], *, as_json: bool) -> None:
    if as_json:
        told = {
            "bundle": bundle.id,
            "device": device,
            "runs": all(finding.fits is not False for finding in findings),
            "findings": findings,
            "estimates": found,
        }
        print(msgspec.json.encode(told).decode(), flush=True)
        return
    signs = {True: "yes", False: "NO", None: "-"}
    print(aligned([(finding.name, signs[finding.fits], finding.found) for finding in findings]), flush=True)
    if found:
        rows = [("method", "ms here", "ms there, estimated")]
        rows += [(one.method, f"{one.here_ms:.2f}", f"{one.there_ms:.3g}") for one in found]
        print(f"\n{aligned(rows)}", flush=True)
