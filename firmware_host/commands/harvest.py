"""`edgecl harvest`: samples that boards have kept, and their labels, as a data set for `edgecl build`."""

import sys
from datetime import UTC, datetime
from pathlib import Path

import click
import msgspec

from edgecl.errors import EXIT_DATA_LOST, EXIT_OK
from firmware_host.commands.options import json_option
from firmware_host.harvest.about import About
from firmware_host.harvest.choice import Choice, moment
from firmware_host.harvest.dataset import FILES
from firmware_host.harvest.harvest import Harvest, Wishes
from firmware_host.harvest.harvest import harvest as gather
from firmware_host.harvest.share import Shares
from firmware_host.host_store import HostStore

SHOWN = 5
"""Rows of a file of labels that are told one by one."""


def _moment(context: click.Context, parameter: click.Parameter, text: str | None) -> datetime | None:
    try:
        return None if text is None else moment(text, datetime.now(UTC))
    except (ValueError, OverflowError):
        raise click.BadParameter(f'"{text}" is no time; write it like 2025-06-15, 2025-06-15T12:00 or "7 d"') from None


@click.command()
@click.argument("store", type=click.Path(path_type=Path))
@click.option("--output", "-o", required=True, type=click.Path(path_type=Path), metavar="DATASET",
              help="The folder of the data set.")  # fmt: skip
@click.option("--labelled", is_flag=True, help="Only samples whose label is known; so it is without other choices.")
@click.option("--novel", is_flag=True, help="Only those that the detector took for novel.")
@click.option("--domain", "domains", multiple=True, help="Of this domain, by name or number. May be repeated.")
@click.option("--device", "devices", multiple=True, help="Of this device. May be repeated.")
@click.option("--since", callback=_moment, metavar="TIME", help="Since 2025-06-15, or for 7 d.")
@click.option("--query", "sql", default="", metavar="SQL", help="Those of which a query gives device and seq.")
@click.option("--suggested", type=click.IntRange(min=1), metavar="N",
              help="The N of which a label would be worth most.")  # fmt: skip
@click.option("--lineage", default="", help="Of bundles, where the store has several.")
@click.option("--labels", type=click.Path(path_type=Path), metavar="CSV",
              help="Labels besides those that the boards have: columns device, seq, class, by.")  # fmt: skip
@click.option("--new-classes", is_flag=True, help="Names in that file that no board knows become classes.")
@click.option("--held-out", type=click.FloatRange(0, 1), default=0.2, show_default=True, metavar="SHARE",
              help="Held out from training, in whole stretches.")  # fmt: skip
@click.option("--balanced", is_flag=True, help="As many of each class as there are of the rarest.")
@click.option("--most", type=click.IntRange(min=1), metavar="N", help="Of each class at most.")
@click.option("--images", is_flag=True, help="Write PNG files in a folder a class, for people to look at.")
@click.option("--bundles", multiple=True, type=click.Path(path_type=Path), metavar="DIR",
              help="Where to look for bundles. May be repeated.")  # fmt: skip
@json_option
def harvest(
    store: Path,
    output: Path,
    labelled: bool,
    novel: bool,
    domains: tuple[str, ...],
    devices: tuple[str, ...],
    since: datetime | None,
    sql: str,
    suggested: int | None,
    lineage: str,
    labels: Path | None,
    new_classes: bool,
    held_out: float,
    balanced: bool,
    most: int | None,
    images: bool,
    bundles: tuple[Path, ...],
    as_json: bool,
) -> int:
    """Write samples that boards have kept, and their labels, as a data set that edgecl build takes.

    STORE is the folder that edgecl pull filled and edgecl ingest made tables in.
    """
    if new_classes and not labels:
        raise click.UsageError("--new-classes are those of a file; give --labels")
    wishes = Wishes(
        choice=Choice(
            labelled=labelled,
            novel=novel,
            domains=domains,
            devices=devices,
            since=since,
            sql=sql,
            suggested=suggested or 0,
            lineage=lineage,
        ),
        labels=labels,
        new_classes=new_classes,
        shares=Shares(held_out=held_out, balanced=balanced, most=most or 0),
        images=images,
        bundles=bundles,
    )
    done = gather(HostStore(store), output, wishes, lambda line: print(f"edgecl: {line}", file=sys.stderr))
    _tell(done)
    print(msgspec.json.encode(done.about).decode() if as_json else _text(done.about, output, images=images))
    left = done.about.left
    return EXIT_DATA_LOST if left.missing or left.dropped_labels or left.refused_labels else EXIT_OK


def _tell(done: Harvest) -> None:
    """What went wrong on the way, on stderr."""
    for row in done.refused[:SHOWN]:
        print(f"edgecl: {row.where}: {row.problem}", file=sys.stderr)
    if len(done.refused) > SHOWN:
        print(f"edgecl: {len(done.refused) - SHOWN} more labels were refused", file=sys.stderr)
    left = done.about.left
    for count, what in (
        (left.dropped_labels, "labels of samples that are not kept: their board dropped them, or never kept them"),
        (left.missing, "samples are in the tables and no longer in the segments; pull them again"),
        (done.newer, "segments are not in the tables yet; take them: edgecl ingest"),
    ):
        if count:
            print(f"edgecl: {count} {what}", file=sys.stderr)


def _text(about: About, output: Path, *, images: bool) -> str:
    total = sum(about.samples.values())
    parts = ", ".join(f"{count} {part.replace('_', ' ')}" for part, count in about.samples.items() if count)
    lines = [f"{output}: {total} samples of {len(about.devices)} devices" + (f" ({parts})" if parts else "")]
    of_class = {name: sum(part[name] for part in about.of_class.values()) for name in about.classes}
    told = ", ".join(f"{name} {count}" for name, count in of_class.items() if count)
    if told:
        lines.append(f"  {told}")
    left = [f"{count} {name.replace('_', ' ')}" for name, count in msgspec.structs.asdict(about.left).items() if count]
    if left:
        lines.append(f"  left out: {', '.join(left)}")
    if about.samples["train"] and not images:
        lines += ["", "in edgecl.toml:", "", "[model]", f"classes = {msgspec.json.encode(about.classes).decode()}"]
        lines += ["[data]"]
        for field in ("train", "held_out"):
            if about.samples[field]:
                lines.append(f"{field} = {msgspec.json.encode(str(output.absolute() / FILES[field])).decode()}")
    return "\n".join(lines)
