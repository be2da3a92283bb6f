"""`edgecl deploy`: bring a bundle onto devices, and see it committed, refused or rolled back."""

import sys
from pathlib import Path

import click
import msgspec

from edgecl import keys
from edgecl.commands.options import duration_ms
from edgecl.commands.table import aligned
from edgecl.deployments import Policy
from edgecl.errors import EXIT_OK, EXIT_PARTIAL, EXIT_REFUSED
from firmware_host import fleet as fleets
from firmware_host import offer as offers
from firmware_host import together
from firmware_host.client import Client
from firmware_host.commands.options import devices_argument, duration_s, fleet_option, json_option, me
from firmware_host.deploy import deploy as deploy_to
from firmware_host.deploy import require
from firmware_host.events import Ended, Planned
from firmware_host.fleet import Device, Rollout, share
from firmware_host.offer import Offer
from firmware_host.patient import Patient
from firmware_host.plan import Plan, Wishes, look
from firmware_host.rollout import exit_code, roll_out
from firmware_host.show import Show, plan_lines


@click.command()
@click.argument("bundle", type=click.Path(path_type=Path))
@devices_argument
@click.option("--plan", "only_plan", is_flag=True, help="Say what would be done, and change nothing.")
@click.option("--resume", is_flag=True, help="Only go on with a deployment that is under way; never begin one.")
@click.option("--learned", type=click.Choice(["carry", "rebase", "discard"]), help="What becomes of what was learned "
              "there; else what the bundle says.")  # fmt: skip
@click.option("--latency", type=duration_ms, metavar="MS", help="Refuse it where an answer takes longer "
              "(95th percentile).")  # fmt: skip
@click.option("--probation", type=duration_s, metavar="TIME", help="Watch it for so long before it is committed; "
              "30 s unless fleet.toml says otherwise.")  # fmt: skip
@click.option("--supersede", is_flag=True, help="Give up a deployment that is under way and has not switched yet.")
@click.option("--signed-by", "signers", multiple=True, metavar="PUB", help="Send nothing unless this key, a .pem file "
              "or the name of one of yours, signed it. May be repeated.")  # fmt: skip
@click.option("--no-deltas", is_flag=True, help="Send changed files whole: quicker where the link is faster than zstd.")
@click.option("--canaries", type=click.IntRange(min=0), help="Devices that get it first, one after another.")
@click.option("--max-in-flight", metavar="N|%", help="Devices at a time after those.")
@click.option("--error-threshold", metavar="N|%", help="No more devices begin once more of them have failed.")
@click.option("--pause-after-canary", is_flag=True, help="End after the canaries; the same command does the others.")
@fleet_option
@json_option
def deploy(
    bundle: Path,
    devices: tuple[str, ...],
    only_plan: bool,
    resume: bool,
    learned: str | None,
    latency: float | None,
    probation: float | None,
    supersede: bool,
    signers: tuple[str, ...],
    no_deltas: bool,
    canaries: int | None,
    max_in_flight: str | None,
    error_threshold: str | None,
    pause_after_canary: bool,
    fleet_file: Path | None,
    as_json: bool,
) -> int:
    """Bring a bundle onto devices, and see it committed, refused or rolled back.

    DEVICE is a name or a group of fleet.toml, or an address: HOST, ssh://user@host:port, serial:PORT@BAUD, local:DIR.
    Only files that a device does not have are sent, and a deployment that was cut off goes on where it was when the
    command is given again. Once everything is there, the device needs no host.
    """
    fleet = fleets.load(fleet_file)
    found = fleet.find(devices)
    rollout = _rollout(fleet.rollout(devices), canaries, max_in_flight, error_threshold, pause_after_canary)
    watched_s = fleet.defaults.probation_s if probation is None else probation
    wishes = Wishes(
        by=me(),
        learned=msgspec.convert(learned, Policy | None),
        latency_ms=latency or 0.0,
        probation_s=Wishes.probation_s if watched_s is None else watched_s,
        supersede=supersede,
        resume=resume,
        deltas=not no_deltas,
    )
    trusted = tuple(keys.read_public(keys.find(name, keys.PUBLIC, keys.folder())) for name in signers)
    show = Show(as_json=as_json, several=len(found) > 1)
    with offers.opened(bundle, trusted) as offer:
        if only_plan:
            return _plan(found, offer, wishes, as_json=as_json)

        def do(device: Device) -> Ended:
            with Client(device.link()) as client:
                return deploy_to(client, device.name, offer, wishes, show)

        try:
            if len(found) == 1:
                ended = do(found[0])
                require(ended)
                if not as_json:
                    print(_done(ended))
                return EXIT_OK
            results = roll_out(found, rollout, do, offer.title, show)
        except KeyboardInterrupt:
            show.say(
                "", "interrupted: the same command goes on where it was; a device that has everything does so itself"
            )
            raise
        if not as_json:
            print(_summary(results))
        return exit_code(results)


def _rollout(
    given: Rollout, canaries: int | None, max_in_flight: str | None, error_threshold: str | None, pause: bool
) -> Rollout:
    """That of the group, with what the command line says instead."""
    changes: dict[str, object] = {"pause_after_canary": True} if pause else {}
    if canaries is not None:
        changes["canaries"] = canaries
    for name, value in (("max_in_flight", max_in_flight), ("error_threshold", error_threshold)):
        if value is not None:
            try:
                share(value, 1, up=True)
            except ValueError as error:
                raise click.BadParameter(str(error), param_hint=f"'--{name.replace('_', '-')}'") from None
            changes[name] = value
    return msgspec.structs.replace(given, **changes)


def _plan(devices: tuple[Device, ...], offer: Offer, wishes: Wishes, *, as_json: bool) -> int:
    def do(device: Device) -> Plan:
        with Client(device.link()) as client:
            return look(Patient(client), offer, wishes).plan

    results = together.in_order(devices, do)
    code = together.exit_code(results)
    for device, plan in results:
        if not isinstance(plan, Plan):
            print(together.told(device, plan), file=sys.stderr)
        elif as_json:
            print(msgspec.json.encode(Planned(device=device.name, plan=plan)).decode())
        else:
            first, *others = plan_lines(plan)
            print("\n".join([f"{device.name}  {first}", *others]))
    if any(isinstance(plan, Plan) and plan.against for _, plan in results):
        return EXIT_REFUSED if len(devices) == 1 else EXIT_PARTIAL
    return code


def _done(event: Ended) -> str:
    if event.outcome == "there":
        return f"{event.title} answers already"
    return f"committed {event.title}   undo: edgecl rollback {event.device}"


def _summary(results: list[Ended]) -> str:
    rows = [("device", "outcome", "")]
    for event in results:
        reason = event.reason.removeprefix(f"{event.device}: ")
        rows.append((event.device, "there already" if event.outcome == "there" else event.outcome, reason))
    counts: dict[str, int] = {}
    for row in rows[1:]:
        counts[row[1]] = counts.get(row[1], 0) + 1
    told = ", ".join(f"{count} {outcome}" for outcome, count in counts.items())
    return f"{aligned(rows)}\n{results[0].title} on {len(results)} devices: {told}"
