"""`edgecl doctor`: what is wrong, and what helps. It changes nothing."""

import sys
from collections.abc import Iterator

import click
import msgspec

from edgecl.commands.table import aligned
from edgecl.errors import EXIT_FAILED, EXIT_OK, LinkError
from firmware_host import checks, host_checks
from firmware_host.checks import Check
from firmware_host.facts_of import facts_of
from firmware_host.remote import remote


@click.command()
@click.argument("device", required=False)
@click.option("--json", "as_json", is_flag=True, help="Print a line of JSON a check.")
def doctor(device: str | None, as_json: bool) -> int:
    """Find out what is wrong with a board, or with this computer.

    Exit code 1 where a check failed; warnings do not count.
    """
    found = []
    for one in _all(device):
        found.append(one)
        if as_json:
            print(msgspec.json.encode(one).decode(), flush=True)
    if not as_json:
        print(aligned([(one.name, one.status, one.found) for one in found]))
        for one in found:
            if one.cure:
                print(f"\n{one.name}: {one.cure}")
    sys.stdout.flush()
    return EXIT_FAILED if any(one.status == "failed" for one in found) else EXIT_OK


def _all(device: str | None) -> Iterator[Check]:
    scheme = (device or "").partition(":")[0] if ":" in (device or "") else ""
    serial, local = scheme in ("serial", "rfc2217"), scheme == "local"
    if not serial and not local:
        yield from host_checks.of_ssh(remote(device) if device else None)
    if not local:
        yield from host_checks.of_serial(wanted=serial)
    if device:
        try:
            facts = facts_of(device)
        except LinkError as error:
            what, _, cure = str(error).rpartition("; ")
            yield checks.failed("agent", what, cure)
            return
        yield checks.passed("agent", "answers")
        yield from checks.of_board(facts)
