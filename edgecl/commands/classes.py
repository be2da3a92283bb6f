"""`edgecl classes`: the classes that a state directory knows, and new ones. Live where a run has it open."""

from pathlib import Path

import click
import msgspec

from edgecl.commands.table import aligned
from edgecl.control import opened
from edgecl.errors import RequestError
from edgecl.operations import ClassFacts
from edgecl.requests import AddClass, ListClasses

state = click.argument("state", type=click.Path(path_type=Path))
as_json = click.option("--json", "as_json", is_flag=True, help="Print a line of JSON a class.")


@click.group()
def classes() -> None:
    """List the classes of a state directory, and add new ones.

    STATE is the --state of a run, which may be running.
    """


@classes.command("list")
@state
@as_json
def list_(state: Path, as_json: bool) -> None:
    """List the classes, and how many labels named each."""
    with opened(state) as ask:
        _print(ask(ListClasses(), tuple[ClassFacts, ...]), as_json)


@classes.command()
@state
@click.argument("names", nargs=-1, required=True)
@as_json
def add(state: Path, names: tuple[str, ...], as_json: bool) -> None:
    """Add classes by name. Labels teach them (edgecl label)."""
    with opened(state) as ask:
        known = [one.name for one in ask(ListClasses(), tuple[ClassFacts, ...])]
        for place, name in enumerate(names):
            if name in known or name in names[:place]:
                raise RequestError(f"class {name}: there is one of that name; give another")
        for name in names:
            ask(AddClass(name=name), int)
        _print(ask(ListClasses(), tuple[ClassFacts, ...]), as_json)


def _print(facts: tuple[ClassFacts, ...], as_json: bool) -> None:
    if as_json:
        for one in facts:
            print(msgspec.json.encode(one).decode())
        return
    rows = [("", "class", "labels", "")]
    for one in facts:
        rows.append((str(one.index), one.name, str(one.labels), "added" if one.added else ""))
    print(aligned(rows))
