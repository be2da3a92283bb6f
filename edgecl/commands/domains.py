"""`edgecl domains`: what the bank of a state directory holds, and changes of it. Live where a run has it open."""

from pathlib import Path

import click
import msgspec

from edgecl.commands.table import aligned
from edgecl.control import opened
from edgecl.errors import RequestError
from edgecl.operations import DomainFacts
from edgecl.requests import DropDomain, ExportDomain, ListDomains, MergeDomains, RenameDomain, Request

state = click.argument("state", type=click.Path(path_type=Path))
as_json = click.option("--json", "as_json", is_flag=True, help="Print a line of JSON a domain.")


@click.group()
def domains() -> None:
    """List and change the domains of a state directory.

    STATE is the --state of a run, which may be running. A domain is named by its name or its number.
    """


@domains.command("list")
@state
@as_json
def list_(state: Path, as_json: bool) -> None:
    """List the domains."""
    _print(_facts(state), as_json)


@domains.command()
@state
@click.argument("name")
@as_json
def show(state: Path, name: str, as_json: bool) -> None:
    """Show one domain."""
    found = [one for one in _facts(state) if name in (one.name, str(one.number))]
    if not found:
        raise RequestError(f"domain {name}: there is none of that name; see edgecl domains list {state}")
    if as_json:
        _print(tuple(found), as_json)
        return
    one = found[0]
    print(
        f"domain   {one.name}, number {one.number}{', where the stream is' if one.active else ''}\n"
        f"updates  {one.step}\n"
        f"labels   {one.labels}\n"
        f"answers  by the {one.answers}\n"
        f"takes    {one.bytes / 1e3:.1f} kB\n"
        f"state    {one.digest}"
    )


@domains.command()
@state
@click.argument("name")
@click.argument("to")
@as_json
def rename(state: Path, name: str, to: str, as_json: bool) -> None:
    """Give a domain another name."""
    _do(state, RenameDomain(name=name, to=to), as_json)


@domains.command()
@state
@click.argument("name")
@click.argument("other")
@as_json
def merge(state: Path, name: str, other: str, as_json: bool) -> None:
    """Make one domain of two; the earlier keeps its name and number."""
    _do(state, MergeDomains(name=name, other=other), as_json)


@domains.command()
@state
@click.argument("name")
@as_json
def drop(state: Path, name: str, as_json: bool) -> None:
    """Forget a domain: its state, and its labels."""
    _do(state, DropDomain(name=name), as_json)


@domains.command()
@state
@click.argument("name")
@click.argument("file", type=click.Path(path_type=Path))
@as_json
def export(state: Path, name: str, file: Path, as_json: bool) -> None:
    """Write the state of a domain into a file."""
    _do(state, ExportDomain(name=name, file=str(file.absolute())), as_json)


def _do(directory: Path, request: Request, as_json: bool) -> None:
    with opened(directory) as ask:
        ask(request, type(None))
        _print(ask(ListDomains(), tuple[DomainFacts, ...]), as_json)


def _facts(directory: Path) -> tuple[DomainFacts, ...]:
    with opened(directory) as ask:
        facts: tuple[DomainFacts, ...] = ask(ListDomains(), tuple[DomainFacts, ...])
        return facts


def _print(facts: tuple[DomainFacts, ...], as_json: bool) -> None:
    if as_json:
        for one in facts:
            print(msgspec.json.encode(one).decode())
        return
    rows = [("", "domain", "updates", "labels", "answers", "takes", "")]
    for one in facts:
        here = "here" if one.active else ""
        size = f"{one.bytes / 1e3:.1f} kB"
        rows.append((str(one.number), one.name, str(one.step), str(one.labels), one.answers, size, here))
    print(aligned(rows))
