"""The commands of the training side: `edgecl build` and `edgecl learners`."""

import json
import sys
import time
from pathlib import Path

import click

from edgecl.commands.options import private_key
from edgecl.keys import PublicKey
from edgecl.signed import sign
from export import project as projects
from export import quiet  # noqa: F401  before what imports torch
from export.build import Built
from export.build import build as build_bundle
from export.learners.table import LEARNERS
from export.project import Project


@click.command(short_help="Compile a project into a bundle.")
@click.argument("folder", type=click.Path(path_type=Path), metavar="PROJECT")
@click.option(
    "-o",
    "--output",
    type=click.Path(path_type=Path),
    metavar="FILE",
    help="The bundle: FILE.ecl, or a folder. [PROJECT/NAME.ecl]",
)
@click.option("--key", help="Sign the bundle: a .key file, or the name of a key that edgecl keys list shows.")
@click.option("--passphrase-file", type=click.Path(path_type=Path), help="Its first line is the key's passphrase.")
@click.option("--fit", is_flag=True, help="Take the largest batch, halving it, that keeps to the memory budget.")
@click.option("--json", "as_json", is_flag=True, help="Print what was built as JSON.")
def build(
    folder: Path, output: Path | None, key: str | None, passphrase_file: Path | None, fit: bool, as_json: bool
) -> None:
    """Compile the project in the folder PROJECT, described by its edgecl.toml, into a bundle.

    Takes the model and its source data, warms up the learner, compiles every method of it, measures the memory that
    each needs, and holds each against PyTorch. Needs pip install 'edgecl[export]'.
    """
    project = projects.read(folder)
    with_key = private_key(key, passphrase_file) if key else None  # asks for a passphrase now, not minutes later
    began = time.monotonic()

    def say(line: str) -> None:
        print(f"{time.monotonic() - began:6.1f} s  {line}", file=sys.stderr, flush=True)

    destination = output or project.folder / f"{project.tables.name}.ecl"
    built = build_bundle(project, destination, fit=fit, say=say)
    with built.bundle:
        if with_key:
            sign(destination, with_key).close()
        signer = with_key.public if with_key else None
        print(_as_json(built, destination, signer) if as_json else _as_text(built, destination, project, signer))


@click.command(short_help="List the learners that a project can name.")
@click.option("--json", "as_json", is_flag=True, help="Print them as JSON.")
def learners(as_json: bool) -> None:
    """List the learners that `learner.name` in edgecl.toml can name, and the numbers that each takes at run time."""
    if as_json:
        print(
            json.dumps(
                [{"name": name, "says": entry.says, "hyper": dict(entry.hyper)} for name, entry in LEARNERS.items()]
            )
        )
        return
    for name, entry in LEARNERS.items():
        hyper = ", ".join(f"{key}={value:g}" for key, value in entry.hyper.items())
        print(f"{name:14}  {entry.says}" + (f"\n{'':16}{hyper}" if hyper else ""))
    print('A learner of your own: name = "file:Class"; see docs/guide/own-learner.md.')


def _as_json(built: Built, destination: Path, signer: PublicKey | None) -> str:
    manifest = built.bundle.manifest
    return json.dumps(
        {
            "bundle": str(destination),
            "id": built.bundle.id,
            "bytes": _size(destination),
            "learner": manifest.learner.name,
            "batch": max(method.batch for method in manifest.methods),
            "accuracy": built.accuracy,
            "resident_bytes": built.resident_bytes,
            "budget_bytes": manifest.memory_budget_bytes,
            "parity": dict(built.parity),
            "signed_by": signer.fingerprint if signer else None,
        }
    )


def _as_text(built: Built, destination: Path, project: Project, signer: PublicKey | None) -> str:
    manifest = built.bundle.manifest
    budget = f" of {_mb(manifest.memory_budget_bytes)} allowed" if manifest.memory_budget_bytes else ""
    what = "held-out samples" if project.tables.data.held_out else "source samples"
    lines = [
        f"{destination}  {_mb(_size(destination))}  {manifest.name} {manifest.version}, {manifest.learner.name}",
        f"as built    {100 * (1 - built.accuracy):.1f} % error on {what}",
        f"memory      {_mb(built.resident_bytes)} resident{budget}, measured without PyTorch",
    ]
    for method in manifest.methods:
        memory = method.memory
        lines.append(
            f"{method.name:11} weights {_mb(memory.weights_bytes)}, workspace {_mb(memory.workspace_bytes)}, "
            f"{built.parity[method.name]:.0e} from PyTorch"
        )
    lines.append(f"signed by   {signer}" if signer else "not signed")
    return "\n".join([*lines, f"id          {built.bundle.id}"])


def _size(path: Path) -> int:
    return (
        sum(file.stat().st_size for file in path.rglob("*") if file.is_file()) if path.is_dir() else path.stat().st_size
    )


def _mb(count: int) -> str:
    return f"{count / 1e6:.1f} MB"
