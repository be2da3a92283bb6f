"""`edgecl check`: what a bundle requires against profiles, facts in a file, and a board that answers."""

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import pytest

from edgecl import __version__, devices, facts
from edgecl.facts import Engine, Facts, flags
from edgecl.manifest import Requires
from tests.edgecl import boards

MakeBundle = Callable[..., Path]


def check(*words: object) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-P", "-m", "edgecl", "check", *map(str, words)]
    return subprocess.run(command, capture_output=True, text=True)


def requiring(**fields: Any) -> Requires:
    """What a bundle that runs anywhere requires, changed."""
    usual = Requires(edgecl=__version__, engine="executorch 1.5.1", arch=(), memory_bytes=1 << 20)
    return msgspec.structs.replace(usual, **fields)


def saved(folder: Path, **fields: Any) -> Path:
    """Facts of a Raspberry Pi 4 that has edgecl, changed, in a file."""
    found = facts.read(Path("/var/lib/edgecl"), root=boards.write(folder / "root", boards.RASPBERRY_PI_4))
    engines = (Engine(name="executorch", version="1.5.1+cpu"),)
    usual = {"arch": "aarch64", "engines": engines, "throttling": None}
    path = folder / "pi.json"
    path.write_bytes(msgspec.json.encode(msgspec.structs.replace(found, **(usual | fields))))
    return path


def test_a_bundle_fits_a_profile_and_its_speed_there_is_estimated(looped: Path) -> None:
    done = check(looped, "--for", "raspberry-pi-4", "--latency", "1 s", "--json")
    assert done.returncode == 0, done.stderr
    told = json.loads(done.stdout)
    fits = {finding["name"]: finding["fits"] for finding in told["findings"]}
    assert told["runs"] and fits == {"arch": True, "engine": True, "edgecl": None, "memory": True, "latency": True}
    found = {one["method"]: one for one in told["estimates"]}
    assert set(found) == {"infer_b1", "infer_b4", "adapt_b4", "learn_b4"}
    board = devices.find("raspberry-pi-4")
    for one in found.values():
        assert one["there_ms"] == pytest.approx(board.estimate_ms(one["here_ms"])) and not one["measured"]
    table = check(looped, "--for", "raspberry-pi-4").stdout
    assert "about " in table and "ms there, estimated" in table and "NO" not in table


def test_too_slow_is_refused(looped: Path) -> None:
    done = check(looped, "--for", "raspberry-pi-zero-2w", "--latency", "0.00001 ms")
    assert done.returncode == 5
    assert [line.split()[:2] for line in done.stdout.splitlines() if line.startswith("latency")] == [["latency", "NO"]]
    assert done.stderr.startswith(f"edgecl: {looped}: not for raspberry-pi-zero-2w: latency: about ")
    assert done.stderr.count("\n") == 1


@pytest.mark.parametrize(
    ("fields", "name"),
    [
        ({"arch": ("x86_64",)}, "arch"),
        ({"engine": "onnxruntime 1.20"}, "engine"),
        ({"memory_bytes": 10**9}, "memory"),
    ],
)
def test_what_does_not_fit_a_profile_is_refused(
    make_bundle: MakeBundle, tmp_path: Path, fields: dict[str, Any], name: str
) -> None:
    bundle = make_bundle(tmp_path / "b.ecl", requires=requiring(**fields))
    done = check(bundle, "--for", "raspberry-pi-zero-2w", "--no-time")
    assert done.returncode == 5, done.stderr
    assert f": not for raspberry-pi-zero-2w: {name}: " in done.stderr and done.stderr.count("\n") == 1


@pytest.mark.parametrize(
    ("fields", "name"),
    [
        ({"arch": "armv7l"}, ""),
        ({"edgecl": "0.0.9"}, "versions"),
        ({"engines": (Engine(name="executorch", version="2.0.0"),)}, "versions"),
        ({"engines": ()}, "engine"),
        ({"available_bytes": 1 << 10}, "memory"),
        ({"throttling": flags(4)}, ""),
    ],
)
def test_a_boards_own_facts_decide(looped: Path, tmp_path: Path, fields: dict[str, Any], name: str) -> None:
    done = check(looped, "--for", saved(tmp_path, **fields), "--no-time", "--json")
    told = json.loads(done.stdout)
    refused = [finding["name"] for finding in told["findings"] if finding["fits"] is False]
    assert refused == ([name] if name else []), told  # this bundle runs on any processor
    assert done.returncode == (5 if name else 0) and told["runs"] == (not name)
    assert ("throttling" in [finding["name"] for finding in told["findings"]]) == ("throttling" in fields)


def test_a_disk_that_is_full_or_may_not_hold_a_store(looped: Path, tmp_path: Path) -> None:
    path = saved(tmp_path)
    good = msgspec.json.decode(path.read_bytes(), type=Facts)
    for change in ({"free_bytes": 100}, {"refused": "it is not a disk"}):
        disk = msgspec.structs.replace(good.disk, **change)
        path.write_bytes(msgspec.json.encode(msgspec.structs.replace(good, disk=disk)))
        done = check(looped, "--for", path, "--no-time")
        assert done.returncode == 5 and "disk: " in done.stderr, done.stderr


def test_a_board_is_asked(looped: Path, tmp_path: Path) -> None:
    done = check(looped, "--for", f"local:{tmp_path / 'store'}", "--no-time", "--json")
    assert done.returncode == 0, done.stderr
    assert {finding["name"] for finding in json.loads(done.stdout)["findings"]} >= {"versions", "disk", "memory"}


def test_a_bundle_that_cannot_be_timed_here_is_told(make_bundle: MakeBundle, tmp_path: Path) -> None:
    bundle = make_bundle(tmp_path / "b.ecl", requires=requiring(arch=("aarch64",)))
    done = check(bundle, "--for", "raspberry-pi-4")
    if "cannot be timed here" not in done.stdout:
        pytest.skip("this computer is a board's kind")
    assert done.returncode == 0
    assert check(bundle, "--for", "raspberry-pi-4", "--latency", "1 s").returncode == 5


@pytest.mark.parametrize(
    ("words", "code", "problem"),
    [
        (("--for", "none.json"), 1, "make it with edgecl probe --json"),
        (("--for", "bad.json"), 1, "no facts of a board"),
        (("--for", "serial:/dev/nothing"), 4, "/dev/nothing"),
        (("--for", "raspberry-pi-4", "--latency", "soon"), 2, "is no time"),
        (("--for", "raspberry-pi-4", "--latency", "1 s", "--no-time"), 2, "--no-time"),
    ],
)
def test_what_is_no_board_is_told(
    looped: Path, tmp_path: Path, words: tuple[str, ...], code: int, problem: str
) -> None:
    (tmp_path / "bad.json").write_text('{"arch": 3}')
    done = check(looped, *(str(tmp_path / word) if word.endswith(".json") else word for word in words))
    assert done.returncode == code, done.stderr
    assert problem in done.stderr and "Traceback" not in done.stderr
