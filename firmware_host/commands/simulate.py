"""`edgecl simulate`: journals and samples of boards that are not there, for tests, teaching and load."""

import sys
import time
from pathlib import Path

import click
import msgspec

from edgecl import sources
from edgecl.commands.options import size
from edgecl.errors import EXIT_FAILED, EXIT_OK, EXIT_PARTIAL, EdgeclError
from firmware_host.commands.options import json_option, workers_option
from firmware_host.executor import open_executor
from firmware_host.simulate.fleet import Wanted
from firmware_host.simulate.fleet import simulate as simulated


@click.command()
@click.argument("bundle", type=click.Path(path_type=Path))
@click.option("--source", required=True, metavar="SOURCE", help="Real samples: npz:FILE or folder:DIR.")
@click.option("--out", "store", required=True, type=click.Path(path_type=Path), metavar="STORE",
              help="Host store to write into.")  # fmt: skip
@click.option("--devices", type=click.IntRange(min=1), default=10, show_default=True, help="Boards.")
@click.option("--samples", type=click.IntRange(min=1), default=400, show_default=True, help="Of each board.")
@click.option(
    "--seed", type=click.IntRange(min=0), default=0, show_default=True, help="Another fleet for another seed."
)
@click.option("--days", type=click.IntRange(min=1), default=4, show_default=True,
              help="That the samples are spread over.")  # fmt: skip
@click.option("--drift", "drifts", multiple=True, metavar="NAME",
              help="That may come, or none; all if not given. May be repeated.")  # fmt: skip
@click.option("--labels", type=click.FloatRange(0, 1), default=0.0, show_default=True,
              help="Share of samples whose label is told the day after.")  # fmt: skip
@click.option("--power-cuts", type=click.FloatRange(min=0), default=0.0, show_default=True,
              help="Of a board, on the average.")  # fmt: skip
@click.option("--keep", type=size, default="64 MB", show_default=True, metavar="SIZE",
              help="Disk of a board for its newest samples; 0 keeps none.")  # fmt: skip
@click.option("--blind", is_flag=True, help="Do not journal the true label of each sample.")
@click.option("--learned", is_flag=True, help="Keep what each board has learned, too.")
@click.option("--checkpoint-every", type=click.IntRange(min=1), default=10, show_default=True,
              help="Updates between two checkpoints.")  # fmt: skip
@workers_option
@json_option
def simulate(
    bundle: Path,
    source: str,
    store: Path,
    devices: int,
    samples: int,
    seed: int,
    days: int,
    drifts: tuple[str, ...],
    labels: float,
    power_cuts: float,
    keep: int,
    blind: bool,
    learned: bool,
    checkpoint_every: int,
    workers: int,
    executor: str,
    as_json: bool,
) -> int:
    """Make journals of boards that run BUNDLE on real samples under drifts.

    Each board is the real loop; its clock, its drifts and its fate are drawn from the seed. The same options give the
    same bytes, and go on where an interrupted simulation was.
    """
    sources.check_spec(source)
    wanted = Wanted(
        devices=devices,
        samples=samples,
        seed=seed,
        days=days,
        labels=labels,
        power_cuts=power_cuts,
        keep_bytes=keep,
        drifts=drifts,
        blind=blind,
        learned=learned,
        checkpoint_every=checkpoint_every,
    )
    start, bar = time.monotonic(), sys.stderr.isatty() and not as_json

    def progress(done: int) -> None:
        if bar:
            print(f"\r\x1b[K  {done} of {devices} boards", end="", file=sys.stderr, flush=True)

    made, answers, updates, cuts, size_bytes, failed = 0, 0, 0, 0, 0, 0
    with open_executor(executor, min(workers, devices)) as opened:
        for name, one in simulated(bundle, source, store, wanted, opened, progress):
            if isinstance(one, EdgeclError):
                failed += 1
                print(f"{_clear(bar)}edgecl: {name}: {one}", file=sys.stderr)
                continue
            made, answers, updates = made + 1, answers + one.answers, updates + one.updates
            cuts, size_bytes = cuts + one.power_cuts, size_bytes + one.bytes
            if as_json:
                print(msgspec.json.encode(one).decode(), flush=True)
    seconds = time.monotonic() - start
    print(_clear(bar), end="", file=sys.stderr)
    if not as_json:
        there = devices - made - failed
        print(
            f"{store}: {made} boards, {answers} answers, {updates} updates, {cuts} power cuts, "
            f"{size_bytes / 1e6:.1f} MB in {seconds:.1f} s: {answers / seconds:.0f} answers a second"
            + (f"; {there} boards were there" if there else "")
        )
    return EXIT_OK if not failed else EXIT_FAILED if failed == devices else EXIT_PARTIAL


def _clear(bar: bool) -> str:
    return "\r\x1b[K" if bar else ""
