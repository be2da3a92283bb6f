"""`edgecl merge`: one learned state of those of several boards, if it answers no worse than each of them."""

import contextlib
from collections.abc import Sequence
from pathlib import Path
from typing import cast

import click
import msgspec

from edgecl import disk, state
from edgecl.bundle import SUFFIX, Bundle, open_bundle, read_state
from edgecl.commands.table import aligned
from edgecl.errors import EXIT_OK, StoreError
from edgecl.state import State
from firmware_host.commands.options import json_option
from firmware_host.merge import gate, restated, states
from firmware_host.merge.combine import Method, Recipe, Weights
from firmware_host.merge.combine import merge as combine
from firmware_host.merge.gate import MERGED, GateError, Score
from firmware_host.merge.held_out import HeldOut, Tally
from firmware_host.replay.bundles import Bundles
from firmware_host.replay.recording import recordings


@click.command()
@click.argument("given", nargs=-1, required=True, metavar="STATE...", type=click.Path(path_type=Path))
@click.option("--bundle", "bundle_path", required=True, type=click.Path(path_type=Path), metavar="BUNDLE",
              help="That the states were learned with.")  # fmt: skip
@click.option("--output", "-o", required=True, type=click.Path(path_type=Path), metavar="FILE",
              help="A state file; or, where it ends in .ecl, a bundle that begins with the merged state.")  # fmt: skip
@click.option("--held-out", multiple=True, type=click.Path(path_type=Path), metavar="JOURNAL",
              help="State directory, or a directory of several, whose samples judge. May be repeated.")  # fmt: skip
@click.option("--method", type=click.Choice(["average", "sequential"]), default="average", show_default=True,
              help="Weighted mean, or one after another by orthogonal projection.")  # fmt: skip
@click.option("--weights", type=click.Choice(["updates", "equal"]), default="updates", show_default=True,
              help="What a state counts by.")  # fmt: skip
@click.option("--alpha", type=click.FloatRange(0, 1), default=0.5, show_default=True,
              help="Of sequential merging: share of what is merged that is kept clear.")  # fmt: skip
@click.option("--domain", default="", help="Of each board; source unless told.")
@click.option("--samples", "most", type=click.IntRange(min=1), default=2000, show_default=True, metavar="N",
              help="Held-out samples of each board at most, spread over its stream.")  # fmt: skip
@click.option("--slack", type=click.FloatRange(0, 1), default=0.0, show_default=True, metavar="SHARE",
              help="By which the merged state may be worse.")  # fmt: skip
@click.option("--anyway", is_flag=True, help="Write it though it is worse, or though nothing was held out.")
@click.option("--bundle-version", type=click.IntRange(min=0), metavar="N", help="Of a bundle that is written; one more "
              "than that of BUNDLE unless told.")  # fmt: skip
@click.option("--bundles", multiple=True, type=click.Path(path_type=Path), metavar="DIR",
              help="Where to look for other bundles of the journals. May be repeated.")  # fmt: skip
@json_option
def merge(
    given: tuple[Path, ...],
    bundle_path: Path,
    output: Path,
    held_out: tuple[Path, ...],
    method: str,
    weights: str,
    alpha: float,
    domain: str,
    most: int,
    slack: float,
    anyway: bool,
    bundle_version: int | None,
    bundles: tuple[Path, ...],
    as_json: bool,
) -> int:
    """Make one learned state of those of several boards, and write it if it answers no worse than each of them.

    STATE is a state file, or a state directory or a pulled copy of one, with what was learned (edgecl pull --learned).
    """
    if not held_out and not anyway:
        raise click.UsageError("give --held-out, to judge by; or --anyway, to write it unjudged")
    if bundle_version is not None and output.suffix != SUFFIX:
        raise click.UsageError(f"--bundle-version is of a bundle; give -o FILE{SUFFIX}")
    recipe = Recipe(cast(Method, method), cast(Weights, weights), alpha)
    with open_bundle(bundle_path) as bundle:
        entries = states.read(given, bundle, domain or "source")
        form = bundle.manifest.form_of(entries[0].state.layout)
        merged = combine([one.state for one in entries], read_state(bundle, form), recipe)
        if not merged.finite:
            raise GateError("merged: it holds numbers that are not finite; nothing was written")
        with contextlib.ExitStack() as stack:
            found = recordings(held_out)
            homes = [one.home for one in found if one.home]
            known = stack.enter_context(Bundles(bundles, homes))
            taught = [one.home for one in entries if one.home]
            samples = HeldOut(found, bundle, known, domain=domain, most=most, taught=taught)
            scores = gate.score(bundle, {one.name: one.state for one in entries} | {MERGED: merged}, samples)
        _tell(scores, samples.tally, as_json=as_json)
        try:
            gate.check(bundle, scores, slack)
        except GateError as error:
            if not anyway:
                raise GateError(f"{error}; nothing was written (--anyway writes it)") from None
        _write(bundle, merged, output, bundle_version)
    if not as_json:
        print(f"\n{output}: {len(entries)} states merged, {merged.digest}")
    return EXIT_OK


def _write(bundle: Bundle, merged: State, output: Path, version: int | None) -> None:
    """Raises StoreError, BundleError."""
    if output.suffix == SUFFIX:
        restated.write(bundle, merged, bundle.manifest.version + 1 if version is None else version, output)
        return
    try:
        disk.replace(output.absolute(), state.dump(merged))
    except OSError as error:
        raise StoreError(f"{output}: {error.strerror}; give another file") from None


def _tell(scores: Sequence[Score], tally: Tally, *, as_json: bool) -> None:
    if as_json:
        for one in scores:
            told = {name: value for name, value in vars(one).items() if name != "classes"}
            told |= {"accuracy": one.accuracy, "agreement": one.agreement, "classes": one.classes.tolist()}
            print(msgspec.json.encode(told).decode(), flush=True)
        return
    rows: list[tuple[str, ...]] = [("", "accuracy", "agrees", "entropy", "canaries")]
    for one in scores:
        shares = ("-" if value is None else f"{value:.4f}" for value in (one.accuracy, one.agreement))
        rows.append((one.name, *shares, f"{one.entropy:.4f}" if one.answers else "-", f"{one.canaries:.3f}"))
    print(aligned(rows))
    print(f"\non {scores[0].answers} samples of {len(tally.devices)} boards, {scores[0].known} with a label")
    for count, what in (
        (tally.taught, "were left out, as their labels were learned by what is merged"),
        (tally.foreign, "were left out, as they are none of the bundle's classes, or of another form"),
    ):
        if count:
            print(f"  {count} {what}")
    for one_bundle in sorted(tally.nameless):
        print(f"  bundle {one_bundle[:12]} is not here, so its labels and answers have no names; give --bundles")
