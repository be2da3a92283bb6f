"""`edgecl report`: writes one HTML file that shows what devices answered, met and learned."""

import sys
from pathlib import Path

import click
import msgspec

from edgecl.errors import EXIT_OK, EXIT_PARTIAL
from firmware_host.commands.options import json_option
from firmware_host.evaluate.device import BEFORE, Options
from firmware_host.evaluate.given import Labels, Phases, read_labels, read_phases
from firmware_host.host_store import HostStore
from firmware_host.report import tried
from firmware_host.report.make import DETAILS, Wanted, make


@click.command()
@click.argument("store", type=click.Path(path_type=Path), default=Path("pulled"))
@click.option("--output", "-o", type=click.Path(path_type=Path), default=Path("report.html"), show_default=True,
              metavar="FILE", help="The file to write.")  # fmt: skip
@click.option("--device", "devices", multiple=True, metavar="NAME",
              help=f"Tell it in full. May be repeated. Else the {DETAILS} most unlike the others are.")  # fmt: skip
@click.option("--lineage", default="", metavar="NAME", help="Of this lineage alone.")
@click.option("--what-if", "what_if", type=click.Path(path_type=Path), metavar="FILE",
              help="Show other settings: what edgecl replay --what-if --json printed, or a file of tries.")  # fmt: skip
@click.option("--labels", type=click.Path(path_type=Path), metavar="FILE", help="Labels of answers, as CSV.")
@click.option("--phases", type=click.Path(path_type=Path), metavar="FILE",
              help="Where the stream was in which domain, as CSV.")  # fmt: skip
@click.option("--before", type=click.IntRange(min=0), default=BEFORE, show_default=True, metavar="N",
              help="Samples that the source model answers again, of each device.")  # fmt: skip
@click.option("--bundles", multiple=True, type=click.Path(path_type=Path), metavar="DIR",
              help="Where to look for bundles. May be repeated.")  # fmt: skip
@click.option("--no-samples", is_flag=True, help="Leave pictures of samples out.")
@click.option("--title", default="", help="Of the page.")
@json_option
def report(
    store: Path,
    output: Path,
    devices: tuple[str, ...],
    lineage: str,
    what_if: Path | None,
    labels: Path | None,
    phases: Path | None,
    before: int,
    bundles: tuple[Path, ...],
    no_samples: bool,
    title: str,
    as_json: bool,
) -> int:
    """Write a report on devices: one HTML file that needs nothing but a browser.

    STORE is the folder that edgecl pull fills and edgecl ingest makes tables in, `pulled` if it is not given.
    """
    options = Options(
        labels=read_labels(labels) if labels else Labels({}),
        phases=read_phases(phases) if phases else Phases({}),
        before=before,
        lineage=lineage,
    )
    wanted = Wanted(
        devices=devices,
        options=options,
        tried=tried.read(what_if) if what_if else (),
        folder=what_if.parent if what_if else Path(),
        bundles=bundles,
        title=title,
        pictures=not no_samples,
    )
    made = make(HostStore(store), output, wanted, _progress)
    if as_json:
        print(msgspec.json.encode({**vars(made), "path": str(made.path)}).decode())
    else:
        told = f"{len(set(made.told))} of {made.devices} devices in full" if made.devices > 1 else made.told[0]
        print(f"{made.path}: {told}, {made.bytes / 1e6:.1f} MB")
    for device, why in made.failed.items():
        print(f"edgecl: {device} is left out: {why}", file=sys.stderr)
    return EXIT_PARTIAL if made.failed else EXIT_OK


def _progress(name: str, done: int, of: int) -> None:
    if of > 1:
        print(f"{done + 1} of {of}: {name}", file=sys.stderr, flush=True)
