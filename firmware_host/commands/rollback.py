"""`edgecl rollback` and `edgecl cancel`: go back to a bundle of before, or give up a deployment under way."""

from pathlib import Path

import click

from edgecl import orders
from edgecl.errors import RequestError
from edgecl.orders import (
    BackRequest,
    BeginAnswer,
    CancelRequest,
    DeploymentAnswer,
    HistoryAnswer,
    HistoryRequest,
    NumberRequest,
)
from firmware_host import fleet as fleets
from firmware_host.client import Client
from firmware_host.commands.options import duration_s, fleet_option, json_option, me
from firmware_host.deploy import follow, require
from firmware_host.offer import title
from firmware_host.patient import Patient
from firmware_host.show import Show


@click.command()
@click.argument("device")
@click.option(
    "--to", default="", metavar="BUNDLE", help="NAME@VERSION, or the beginning of an id; else the one before."
)
@click.option("--probation", type=duration_s, default="5 s", show_default=True, metavar="TIME", help="Watch it for so "
              "long.")  # fmt: skip
@fleet_option
@json_option
def rollback(device: str, to: str, probation: float, fleet_file: Path | None, as_json: bool) -> None:
    """Go back to a bundle that answered before, and to what that one had learned.

    Nothing is sent: the device keeps the bundle before the current one.
    """
    found = fleets.load(fleet_file).one(device)
    show = Show(as_json=as_json, several=False)
    with Client(found.link()) as client:
        board = Patient(client)
        titles = _titles(board)
        request = BackRequest(to=_identity(to, titles), by=me(), probation_s=probation)
        number = client.request(orders.BACK, request, BeginAnswer).number
        try:
            ended = follow(board, found.name, number, titles, show)
        except KeyboardInterrupt:
            show.say(found.name, f"interrupted: the device goes on by itself; see edgecl history {found.name}")
            raise
    require(ended)
    if not as_json:
        print(f"{ended.title} answers again")


@click.command()
@click.argument("device")
@fleet_option
@json_option
def cancel(device: str, fleet_file: Path | None, as_json: bool) -> None:
    """Give up the deployment that is under way on a device, if it has not switched yet.

    The device stays as it is. What has switched comes to its end; edgecl rollback goes back from there.
    """
    found = fleets.load(fleet_file).one(device)
    show = Show(as_json=as_json, several=False)
    with Client(found.link()) as client:
        board = Patient(client)
        newest = board.ask(orders.DEPLOYMENT, NumberRequest(), DeploymentAnswer).deployment
        if newest is None or newest.over:
            raise RequestError(f"{found.name}: no deployment is under way; there is nothing to give up")
        titles = _titles(board)
        board.ask(orders.CANCEL, CancelRequest(number=newest.number, by=me()), DeploymentAnswer)
        ended = follow(board, found.name, newest.number, titles, show)
    if ended.outcome != "superseded":
        require(ended)
    if not as_json:
        print(f"{ended.title} {ended.outcome}: {ended.reason}; {ended.current_title or 'no bundle'} answers, as before")


def _titles(board: Patient) -> dict[str, str]:
    """Names and versions of the bundles there, by id."""
    there = board.ask(orders.HISTORY, HistoryRequest(before=0), HistoryAnswer)
    return {bundle.id: title(bundle.name, bundle.version) for bundle in there.bundles}


def _identity(given: str, titles: dict[str, str]) -> str:
    """The id, or its beginning, of what a user names. Raises RequestError."""
    named = [identity for identity, name in titles.items() if name == given]
    if named:
        return named[0]
    if "@" in given or not all(letter in "0123456789abcdef" for letter in given):
        raise RequestError(f"{given}: no such bundle there; there are {', '.join(titles.values()) or 'none'}")
    return given
