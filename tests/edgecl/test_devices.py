"""Profiles of boards: all of them can be read, say where they have it from, and are found by a board's own name."""

import tomllib
from pathlib import Path

import pytest

from edgecl import devices
from edgecl.errors import ProfileError

FOLDER = Path(__file__).parents[2] / "devices"
PROFILES = {path.stem: path for path in sorted(FOLDER.glob("*.toml"))}
BOARDS = {
    "raspberry-pi-5",
    "raspberry-pi-4",
    "raspberry-pi-zero-2w",
    "jetson-nano",
    "jetson-orin-nano",
    "jetson-orin-nx",
    "jetson-agx-orin",
}


def test_the_boards_that_are_promised_are_there() -> None:
    assert set(PROFILES) == {"linux-aarch64", "linux-x86_64"} | BOARDS
    assert [profile.name for profile in devices.profiles()] == sorted(PROFILES)


@pytest.mark.parametrize("path", PROFILES.values(), ids=PROFILES)
def test_a_profile_says_what_is_so_and_where_it_has_it_from(path: Path) -> None:
    profile = devices.read(path)
    assert profile.budget_bytes <= profile.memory_bytes / 4
    assert profile.latency is not None and profile.latency.source
    assert profile.latency.measured == (profile.name == devices.REFERENCE)
    assert "onnxruntime" in profile.engines or not profile.providers
    if path.stem in BOARDS:
        assert len(profile.sources) >= 2 and all(url.startswith("https://") for url in profile.sources)
        assert profile.models and profile.core
    assert set(tomllib.loads(path.read_text())) >= {"name", "title", "arch", "latency"}


@pytest.mark.parametrize(
    ("model", "arch", "name"),
    [
        ("Raspberry Pi 5 Model B Rev 1.0", "aarch64", "raspberry-pi-5"),
        ("Raspberry Pi 4 Model B Rev 1.4", "aarch64", "raspberry-pi-4"),
        ("Raspberry Pi Zero 2 W Rev 1.0", "aarch64", "raspberry-pi-zero-2w"),
        ("NVIDIA Jetson Orin Nano Engineering Reference Developer Kit Super", "aarch64", "jetson-orin-nano"),
        ("NVIDIA Jetson Orin NX Engineering Reference Developer Kit", "aarch64", "jetson-orin-nx"),
        ("NVIDIA Jetson AGX Orin Developer Kit", "aarch64", "jetson-agx-orin"),
        ("NVIDIA Jetson Nano Developer Kit", "aarch64", "jetson-nano"),
        ("Radxa ROCK 5B", "aarch64", "linux-aarch64"),
        ("", "x86_64", "linux-x86_64"),
        ("", "armv7l", None),
    ],
)
def test_a_board_is_known_by_its_own_name(model: str, arch: str, name: str | None) -> None:
    found = devices.of_model(model, arch)
    assert (found.name if found else None) == name


def test_a_jetson_prefers_its_gpu_and_takes_the_processor_without_one() -> None:
    jetson, board = devices.find("jetson-orin-nano"), devices.find("raspberry-pi-4")
    cuda = {"executorch": (), "onnxruntime": ("CUDAExecutionProvider", "CPUExecutionProvider")}
    plain = {"executorch": (), "onnxruntime": ("CPUExecutionProvider",)}
    assert jetson.engine(cuda) == "onnxruntime"
    assert jetson.engine(plain) == jetson.engine({"executorch": ()}) == "executorch"
    assert jetson.engine({"onnxruntime": ("CPUExecutionProvider",)}) == "onnxruntime"
    assert board.engine(cuda) == board.engine(plain) == "executorch"
    assert board.engine({}) == ""


def test_a_time_on_a_board_is_one_here_times_a_factor() -> None:
    board, here = devices.find("raspberry-pi-4"), devices.find(devices.REFERENCE)
    assert board.latency and here.latency
    factor = board.latency.mobilenet_ms / here.latency.mobilenet_ms
    assert board.estimate_ms(2.0) == pytest.approx(2.0 * factor) and factor > 5
    assert here.estimate_ms(2.0) == 2.0


OLD = """name = "{name}"
title = "A board"
arch = "aarch64"
cores = 4
memory_bytes = 1_000_000_000
budget_bytes = 100_000_000
engines = ["executorch"]
link = "ssh"
"""


def test_a_profile_without_the_later_fields_is_still_one(tmp_path: Path) -> None:
    (tmp_path / "own.toml").write_text(OLD.format(name="own"))
    profile = devices.read(tmp_path / "own.toml")
    assert profile.estimate_ms(1.0) is None
    assert profile.engine({"executorch": ()}) == "executorch"


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        (OLD.format(name="other"), "its name is other"),
        (OLD.format(name="own") + "speed = 3\n", "unknown field `speed`"),
        (OLD.format(name="own") + "[latency]\nmobilenet_ms = 0\nmeasured = true\nsource = 's'\n", "> 0"),
        (OLD.format(name="own") + "[latency]\nmobilenet_ms = 5\n", "missing required field"),
        ("name = ", "Invalid value"),
    ],
)
def test_a_profile_that_is_none_is_refused_in_a_line(tmp_path: Path, text: str, problem: str) -> None:
    (tmp_path / "own.toml").write_text(text)
    with pytest.raises(ProfileError) as caught:
        devices.read(tmp_path / "own.toml")
    assert problem in str(caught.value) and "\n" not in str(caught.value)
