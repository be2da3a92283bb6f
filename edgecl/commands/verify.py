"""`edgecl verify`: check everything in a bundle, and run its self-test on this machine."""

import sys
from pathlib import Path

import click
import msgspec

from edgecl import selftest
from edgecl.bundle import open_bundle
from edgecl.commands.table import aligned
from edgecl.here import check_here
from edgecl.selftest import Result
from edgecl.settings import Settings


@click.command()
@click.argument("bundle", type=click.Path(path_type=Path))
@click.option("--engine", default=Settings.engine, show_default=True, help="executorch or onnxruntime.")
@click.option("--threads", type=click.IntRange(min=1), default=1, show_default=True, help="Threads of a method.")
@click.option("--json", "as_json", is_flag=True, help="Print a line of JSON a method.")
def verify(bundle: Path, engine: str, threads: int, as_json: bool) -> None:
    """Check on this machine that a bundle computes what it should.

    Sizes, digests and contents of all files are checked first, and what the bundle requires of the machine.
    """
    Settings(engine=engine)  # refuses an unknown one before anything is unpacked
    with open_bundle(bundle) as opened:
        check_here(opened.manifest)
        results = selftest.run(opened, engine=engine, threads=threads)
        for result in results if as_json else ():
            print(msgspec.json.encode(result).decode())
        if not as_json:
            print(_shown(results))
            print(f"{len(opened.manifest.files)} files, id {opened.id}")
    sys.stdout.flush()
    selftest.require(results, str(bundle))


def _shown(results: list[Result]) -> str:
    rows = [("method", "difference", "distance", "of", "ms", "")]
    for result in results:
        numbers = f"{result.difference:.1e}", f"{result.distance:.1e}", result.output, f"{result.ms:.2f}"
        rows.append((result.method, *numbers, "ok" if result.within else "wrong"))
    return aligned(rows)
