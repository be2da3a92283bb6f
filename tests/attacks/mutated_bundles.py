"""Gives damaged bundles to the `edgecl` command: `mutated_bundles.py ARCHIVE FOLDER SCRATCH KIND COUNT SEED`.

KIND is `archive` (bytes of an .ecl file change), `files` (one file of a bundle's folder changes) or `programs` (the
program changes, and the manifest is made to agree with it, as an attacker would). Each is given to a process of its own
that has imported everything already. Prints what each said: exit code, lines on stderr, and the last of them.
"""

import os
import random
import shutil
import sys
from collections.abc import Callable
from pathlib import Path

from edgecl import bundle
from edgecl.cli import main as edgecl
from edgecl.commands import run, verify  # noqa: F401  so that no child imports them again
from edgecl.manifest_reader import decode


def mutate(data: bytes, chance: random.Random, *, kinds: int = 6) -> bytes:
    """Other bytes: some flipped, made up or zeroed; of the further kinds, some put in, cut out or cut off."""
    changed, at = bytearray(data), chance.randrange(len(data))
    length = min(len(data) - at, chance.choice((1, 2, 8, 64, 512)))
    match chance.randrange(kinds):
        case 0:
            changed[at] ^= 1 << chance.randrange(8)
        case 1:
            changed[at : at + length] = chance.randbytes(length)
        case 2:
            changed[at : at + length] = bytes(length)
        case 3:
            changed[at:at] = chance.randbytes(length)
        case 4:
            del changed[at : at + length]
        case 5:
            del changed[at:]
    return bytes(changed) if changed != data else mutate(data, chance, kinds=kinds)


def of_archive(archive: Path, folder: Path, made: Path, chance: random.Random) -> Path:
    path = made.with_suffix(".ecl")
    path.write_bytes(mutate(archive.read_bytes(), chance))
    return path


def of_files(archive: Path, folder: Path, made: Path, chance: random.Random) -> Path:
    shutil.copytree(folder, made)
    victim = chance.choice(sorted(path for path in made.rglob("*") if path.is_file() and path.name != "manifest.json"))
    victim.write_bytes(mutate(victim.read_bytes(), chance))
    return made


def of_programs(archive: Path, folder: Path, made: Path, chance: random.Random) -> Path:
    files = {path.name: path.read_bytes() for path in folder.iterdir()}
    manifest = decode(files.pop("manifest.json"))
    files["program.pte"] = mutate(files["program.pte"], chance, kinds=3)  # the size is checked at once
    bundle.write(manifest, files, made).close()
    return made


KINDS: dict[str, Callable[[Path, Path, Path, random.Random], Path]] = {
    "archive": of_archive,
    "files": of_files,
    "programs": of_programs,
}


def command(arguments: list[str], errors: Path) -> int:
    """Exit code of a command in a process of its own; negative is a signal."""
    child = os.fork()
    if not child:
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
        os.dup2(os.open(errors, os.O_WRONLY | os.O_CREAT | os.O_TRUNC), 2)
        code = 99
        try:
            code = edgecl(arguments)
        finally:
            sys.stderr.flush()
            os._exit(code)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def main(archive: Path, folder: Path, scratch: Path, kind: str, count: int, seed: int) -> None:
    chance = random.Random(seed)
    for number in range(count):
        made = KINDS[kind](archive, folder, scratch / str(number), chance)
        state = scratch / "state"
        asked = ["verify", str(made)]
        if number % 2:
            asked = ["run", str(made), "--source", "canaries", "--state", str(state)]
        code = command(asked, scratch / "errors")
        lines = (scratch / "errors").read_text().splitlines()
        print(code, len(lines), *lines[-1:], flush=True)
        for path in (made, state):
            if path.is_dir():
                shutil.rmtree(path)
            else:
                path.unlink(missing_ok=True)


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]), Path(sys.argv[3]), sys.argv[4], int(sys.argv[5]), int(sys.argv[6]))
