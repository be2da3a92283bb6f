"""`edgecl verify`: check everything in a bundle, its signature too, and run its self-test on this machine."""

import sys
from pathlib import Path

import click
import msgspec

from edgecl import keys, selftest, signed, trust
from edgecl.bundle import Bundle, open_bundle
from edgecl.commands.table import aligned
from edgecl.here import check_here
from edgecl.selftest import Result
from edgecl.settings import Settings
from edgecl.signed import Told


@click.command()
@click.argument("bundle", type=click.Path(path_type=Path))
@click.option("--key", "given", multiple=True, metavar="PUB", help="Refuse it unless this key, a .pem file or the name "
              "of one of yours, signed it. May be repeated.")  # fmt: skip
@click.option("--trust", "directory", type=click.Path(path_type=Path), metavar="DIR", help="Refuse it as a board with "
              "this trust directory would.")  # fmt: skip
@click.option("--signed", "must", is_flag=True, help="Refuse it unless one of your keys signed it.")
@click.option("--engine", default=Settings.engine, show_default=True, help="executorch or onnxruntime.")
@click.option("--threads", type=click.IntRange(min=1), default=1, show_default=True, help="Threads of a method.")
@click.option("--json", "as_json", is_flag=True, help="Print a line of JSON a method, and one of the whole.")
def verify(
    bundle: Path, given: tuple[str, ...], directory: Path | None, must: bool, engine: str, threads: int, as_json: bool
) -> None:
    """Check on this machine that a bundle computes what it should.

    Sizes, digests and contents of all files are checked first, then the signature, and what the bundle requires of the
    machine. Without --key, --trust or --signed an unsigned bundle will do.
    """
    if directory and (given or must):
        raise click.UsageError("--trust says who may sign; give no --key and no --signed with it")
    Settings(engine=engine)  # refuses an unknown one before anything is unpacked
    wanted = [keys.read_public(keys.find(name, keys.PUBLIC, keys.folder())) for name in given]
    with open_bundle(bundle) as opened:
        known = wanted or keys.known(keys.folder())
        told = _trusted(opened, directory) if directory else signed.tell(opened, known)
        if must or given:
            signed.require(told, str(bundle))
        check_here(opened.manifest)
        results = selftest.run(opened, engine=engine, threads=threads)
        for result in results if as_json else ():
            print(msgspec.json.encode(result).decode())
        if as_json:
            print(msgspec.json.encode({"id": opened.id, "signature": told}).decode())
        else:
            print(_shown(results))
            print(told)
            print(f"{len(opened.manifest.files)} files, id {opened.id}")
    sys.stdout.flush()
    selftest.require(results, str(bundle))


def _trusted(bundle: Bundle, directory: Path) -> Told:
    """Who signed it, as a board with this trust directory decides. Raises BundleError."""
    signature, lineage = signed.signature(bundle), bundle.manifest.lineage
    signer = trust.admit(trust.read(directory), lineage, signed.digests(bundle), signature, bundle.origin)
    if signer is None:
        return Told(signed=False)
    return Told(signed=True, fingerprint=signer.fingerprint, signer=signer.name)


def _shown(results: list[Result]) -> str:
    rows = [("method", "difference", "distance", "of", "ms", "")]
    for result in results:
        numbers = f"{result.difference:.1e}", f"{result.distance:.1e}", result.output, f"{result.ms:.2f}"
        rows.append((result.method, *numbers, "ok" if result.within else "wrong"))
    return aligned(rows)
