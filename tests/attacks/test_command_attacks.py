"""Hostile bundles, given to the command: it refuses in one line and exit code 5, and no bundle ends it otherwise."""

import subprocess
import sys
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pytest

MakeBundle = Callable[..., Path]


@pytest.fixture(scope="module")
def folder(make_bundle: MakeBundle, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_bundle(tmp_path_factory.mktemp("bundles") / "looped")


@pytest.mark.parametrize(("kind", "count"), [("archive", 300), ("files", 150), ("programs", 60)])
def test_no_damaged_bundle_ends_the_command(looped: Path, folder: Path, tmp_path: Path, kind: str, count: int) -> None:
    script = str(Path(__file__).with_name("mutated_bundles.py"))
    arguments = [str(looped), str(folder), str(tmp_path), kind, str(count), "9"]
    done = subprocess.run([sys.executable, "-P", script, *arguments], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    said = [line.split(maxsplit=2) for line in done.stdout.splitlines()]
    assert len(said) == count
    refused = [line for line in said if line[0] == "5"]
    for _, lines, text in refused:
        assert lines == "1", text
        assert text.startswith("edgecl: ")
    # Some bytes of a program mean nothing, and some weights matter less than another processor would.
    others = Counter(line[0] for line in said if line[0] != "5")
    assert set(others) <= ({"0"} if kind == "programs" else set()), [line for line in said if line[0] != "5"]
    assert len(refused) > count / 2
