"""The command itself: its table, its help, and how it tells of errors."""

import importlib
import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click
import pytest

from edgecl import __version__, devices
from edgecl.bundle import open_bundle
from edgecl.cli import COMMANDS

MakeBundle = Callable[..., Path]

COMMAND = (sys.executable, "-P", "-m", "edgecl")
ROOT = Path(__file__).parents[2]
LARGE = ("numpy", "msgspec", "google.protobuf", "safetensors", "zstandard", "PIL", "edgecl._runtime", "export", "torch")


def edgecl(*arguments: Any, **more: Any) -> subprocess.CompletedProcess[str]:
    return subprocess.run([*COMMAND, *map(str, arguments)], capture_output=True, text=True, **more)


def test_help_names_every_command_and_imports_none() -> None:
    code = (
        "import sys; from edgecl.cli import main; code = main(['--help'])\n"
        f"print(code, *[name for name in {LARGE} if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-P", "-c", code], capture_output=True, text=True, check=True)
    *help_lines, last = done.stdout.splitlines()
    assert last == "0"
    told = dict(line.split(maxsplit=1) for line in help_lines[help_lines.index("Commands:") + 1 :])
    assert told == {name: says for name, (_, says) in COMMANDS.items()}


def test_importing_edgecl_costs_nothing() -> None:
    code = f"import sys, edgecl; print(*[name for name in {LARGE} if name in sys.modules])"
    done = subprocess.run([sys.executable, "-P", "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "\n"


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_is_there_and_documented(name: str) -> None:
    module, _, function = COMMANDS[name][0].partition(":")
    if module.startswith("export."):
        pytest.importorskip("torch", reason="pip install 'edgecl[export]'")
    command = getattr(importlib.import_module(module), function)
    assert isinstance(command, click.Command)
    page = (ROOT / "docs" / "commands" / f"{name}.md").read_text("utf-8")
    for parameter in command.params:
        for option in parameter.opts if isinstance(parameter, click.Option) else ():
            if option.startswith("--"):
                assert f"`{option}" in page, f"{option} is not in docs/commands/{name}.md"


def test_the_version_is_told() -> None:
    assert edgecl("--version").stdout == f"edgecl {__version__}\n"


@pytest.mark.parametrize("arguments", [(), ("nothing",), ("run",), ("inspect", "--nothing"), ("verify", "a", "b")])
def test_a_wrong_command_line_is_told_and_exits_2(arguments: tuple[str, ...]) -> None:
    done = edgecl(*arguments)
    assert done.returncode == 2
    assert "Usage: edgecl" in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize("name", ["build", "learners"])
def test_a_command_that_needs_pytorch_says_how_to_get_it(name: str, tmp_path: Path) -> None:
    for package in ("torch", "executorch", "onnx"):
        (tmp_path / f"{package}.py").write_text(f"raise ModuleNotFoundError('no {package}', name='{package}')")
    done = edgecl(name, ".", env=os.environ | {"PYTHONPATH": str(tmp_path)})
    assert (done.returncode, done.stderr) == (1, f"edgecl: {name} needs torch: pip install 'edgecl[export]'\n")


def test_a_bug_keeps_its_traceback(looped: Path, tmp_path: Path) -> None:
    (tmp_path / "PIL.py").write_text("1 / 0")  # nobody expects that of Pillow
    environment = os.environ | {"PYTHONPATH": str(tmp_path)}
    done = edgecl("run", looped, "--source", f"folder:{tmp_path}", "--state", tmp_path / "state", env=environment)
    assert done.returncode == 1
    assert "Traceback" in done.stderr
    assert done.stderr.endswith("ZeroDivisionError: division by zero\n")


def test_devices_are_listed() -> None:
    table, lines = edgecl("devices"), edgecl("devices", "--json")
    found = [json.loads(line) for line in lines.stdout.splitlines()]
    assert [profile["name"] for profile in found] == [profile.name for profile in devices.profiles()]
    assert {"raspberry-pi-zero-2w", "jetson-orin-nano", "linux-x86_64"} <= {profile["name"] for profile in found}
    head, *rows = table.stdout.splitlines()
    assert head.split() == ["device", "processor", "cores", "memory", "budget", "engines", "link"]
    assert [row.split()[0] for row in rows] == [profile["name"] for profile in found]
    assert any("512 MB" in row and "aarch64" in row for row in rows)


def test_a_bundle_is_inspected(looped: Path) -> None:
    with open_bundle(looped) as opened:
        shown = edgecl("inspect", looped)
        assert shown.returncode == 0, shown.stderr
        assert f"id             {opened.id}\n" in shown.stdout
        assert f"{256} bytes, layout {opened.manifest.layout.digest}\n" in shown.stdout
        for file in opened.manifest.files:
            assert f"{file.path:20}  {file.bytes:<5}  {file.sha256}\n" in shown.stdout
    for line in (
        "bundle         looped version 1 (not below 1), lineage looped",
        "learner        faulty: adapts and learns from labels",
        "hyper          rate=0.001, shrink=0, poison=0, step=1",
        "input          image 8x8x3",
        "classes        4: cat, dog, owl, yak",
        "requires       edgecl 0.1.0, executorch 1.5.1, any processor, 1.05 MB",
        "theta  1       32       32",
        "slots  1       32       0",
        "adapt_b4  4      0.00 MB  0.00 MB    0.00 MB  0.00 MB    1          nothing",
    ):
        assert f"{line}\n" in shown.stdout
    pieces = edgecl("inspect", looped, "--pieces").stdout
    assert "theta.head  8x4    32       by gradients\nslots.mean  8x4    32\n256 bytes" in pieces
    told = json.loads(edgecl("inspect", looped, "--json").stdout)
    assert told["id"] == opened.id
    assert told["manifest"]["learner"]["name"] == "faulty"


def test_a_bundle_is_verified(looped: Path) -> None:
    done = edgecl("verify", looped)
    assert done.returncode == 0, done.stderr
    head, *rows, signature, last = done.stdout.splitlines()
    assert signature == "not signed"
    assert head.split() == ["method", "difference", "distance", "of", "ms"]
    assert [(row.split()[0], row.split()[-1]) for row in rows] == [
        (name, "ok") for name in ("infer_b1", "infer_b4", "adapt_b4", "learn_b4")
    ]
    with open_bundle(looped) as opened:
        assert last == f"7 files, id {opened.id}"
    *results, whole = [json.loads(line) for line in edgecl("verify", looped, "--json").stdout.splitlines()]
    assert whole["id"] == opened.id
    assert [result["method"] for result in results] == ["infer_b1", "infer_b4", "adapt_b4", "learn_b4"]
    assert all(0 < result["difference"] < 1e-5 and result["ms"] > 0 for result in results)


def test_a_program_that_computes_something_else_does_not_verify(make_bundle: MakeBundle, tmp_path: Path) -> None:
    wrong = {
        "adapt_b4/out/theta": lambda theta: theta * 1.001,  # little of theta, but much of its change
        "infer_b1/out/logits": lambda logits: logits * 1.001,  # as much as another processor may do
    }
    done = edgecl("verify", make_bundle(tmp_path / "b.ecl", expected=wrong))
    assert done.returncode == 5
    assert [row.split()[-1] for row in done.stdout.splitlines()[1:5]] == ["ok", "ok", "wrong", "ok"]
    assert done.stderr.startswith(f"edgecl: {tmp_path / 'b.ecl'}: adapt_b4: theta is ")
    assert done.stderr.count("\n") == 1


@pytest.mark.parametrize(
    ("damage", "problem"),
    [
        (lambda program: program[:4000], "program"),
        (lambda program: b"", "program"),
        (lambda program: bytes(len(program)), "program"),
        (lambda program: program.replace(b"ET12", b"ET99"), "program"),
        (lambda program: program.replace(b"XnnpackBackend", b"ZnnpackBackend"), "ZnnpackBackend"),
    ],
    ids=["cut off", "empty", "zeros", "another version", "another backend"],
)
def test_a_program_that_cannot_be_run_is_refused_in_a_line(
    make_bundle: MakeBundle, tmp_path: Path, damage: Callable[[bytes], bytes], problem: str
) -> None:
    bundle = make_bundle(tmp_path / "b.ecl", damage=damage)
    for arguments in (("verify", bundle), ("run", bundle, "--source", "canaries", "--state", tmp_path / "state")):
        done = edgecl(*arguments)
        assert done.returncode == 5, done.stderr
        assert done.stdout == ""
        assert done.stderr.startswith(f"edgecl: {bundle}")
        assert done.stderr.count("\n") == 1
        assert problem in done.stderr
