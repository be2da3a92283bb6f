"""Sources: every sample in its place, damage told and passed over, nothing read that was not asked for."""

import io
import random
import subprocess
import sys
import tracemalloc
import zipfile
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from PIL import Image

from edgecl import sources
from edgecl.manifest import Input
from edgecl.sources import Damaged, Frames, Sample, Source, SourceError, SpecError, open_source

CLASSES = ("cat", "dog", "owl")
COLOUR = Input(kind="image", shape=(4, 6, 3), scale=(1.0,) * 3, shift=(0.0,) * 3)
GREY = Input(kind="image", shape=(4, 6, 1), scale=(1.0,), shift=(0.0,))
VECTOR = Input(kind="vector", shape=(2, 3), scale=(1.0,) * 2, shift=(0.0,) * 2)

Array = npt.NDArray[Any]


def picture(seed: int, shape: tuple[int, ...] = (4, 6, 3)) -> npt.NDArray[np.uint8]:
    return np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8)


def save(path: Path, pixels: Array, **settings: Any) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path, **settings)
    return path


def read(source: Source) -> list[Sample | Damaged]:
    return list(source)


def samples(source: Source) -> list[Sample]:
    found = read(source)
    assert all(isinstance(entry, Sample) for entry in found), found
    return [entry for entry in found if isinstance(entry, Sample)]


def damage(entry: Sample | Damaged) -> str:
    assert isinstance(entry, Damaged), entry
    assert "\n" not in entry.reason
    return entry.reason


# Names


@pytest.mark.parametrize("spec", ["", "folder", "folder:", "npz", "stdin:x", "camera:0", "/some/path", ":", "FOLDER:x"])
def test_a_name_of_no_source_is_a_mistake_in_usage(spec: str) -> None:
    with pytest.raises(SpecError, match=r"give one of folder:PATH, npz:PATH, stdin") as error:
        open_source(spec, COLOUR, CLASSES)
    assert error.value.exit_code == 2


def test_every_source_of_the_table_has_a_contract(tmp_path: Path) -> None:
    save(tmp_path / "a.png", picture(1))
    np.savez(tmp_path / "a.npz", x=picture(1)[None])
    specs = {"folder": f"folder:{tmp_path}", "npz": f"npz:{tmp_path / 'a.npz'}", "stdin": "stdin"}
    assert specs.keys() == sources.SOURCES.keys()
    assert [open_source(spec, COLOUR, CLASSES).live for spec in specs.values()] == [False, False, True]


# Folder


def test_images_come_in_the_order_of_their_names_and_exact(tmp_path: Path) -> None:
    for number, name in enumerate(("b.png", "a.bmp", "c.PNG")):
        save(tmp_path / name, picture(number))
    (tmp_path / "readme.txt").write_text("not an image")
    (tmp_path / ".hidden.png").write_bytes(b"not seen")
    found = samples(open_source(f"folder:{tmp_path}", COLOUR, CLASSES))
    assert [sample.position for sample in found] == [0, 1, 2]
    for sample, seed in zip(found, (1, 0, 2), strict=True):
        assert np.array_equal(sample.x, picture(seed))
        assert sample.x.dtype == np.uint8
        assert not sample.x.flags.writeable
        assert sample.y is None


def test_a_jpeg_is_read_and_has_lost_little(tmp_path: Path) -> None:
    smooth = np.add.outer(np.arange(4) * 9, np.arange(6) * 5)[..., None].repeat(3, axis=2).astype(np.uint8)
    save(tmp_path / "a.jpg", smooth, quality=95)
    (sample,) = samples(open_source(f"folder:{tmp_path}", COLOUR, CLASSES))
    assert np.abs(sample.x.astype(int) - smooth).max() < 12


def test_subfolders_named_like_classes_are_labels(tmp_path: Path) -> None:
    for name, folder in (("1.png", "owl"), ("2.png", "cat"), ("3.png", "owl"), ("2.png", "dog")):
        save(tmp_path / folder / name, picture(len(folder) + int(name[0])))
    save(tmp_path / "0.png", picture(0))
    found = samples(open_source(f"folder:{tmp_path}", COLOUR, CLASSES))
    assert [sample.y for sample in found] == [None, 2, 0, 1, 2]


@pytest.mark.parametrize(
    ("mode", "given", "expected"),
    [
        ("L", COLOUR, lambda image: np.array(image)[..., None].repeat(3, axis=2)),
        ("RGBA", COLOUR, lambda image: np.array(image)[..., :3]),
        ("P", COLOUR, lambda image: np.array(image.convert("RGB"))),
        ("RGB", GREY, lambda image: np.array(image.convert("L"))[..., None]),
        ("L", GREY, lambda image: np.array(image)[..., None]),
        ("1", GREY, lambda image: np.array(image.convert("L"))[..., None]),
    ],
)
def test_images_of_other_modes_are_converted(mode: str, given: Input, expected: Any, tmp_path: Path) -> None:
    image = Image.fromarray(picture(3)).convert(mode)
    image.save(tmp_path / "a.png")
    (sample,) = samples(open_source(f"folder:{tmp_path}", given, CLASSES))
    assert sample.x.shape == given.shape
    assert np.array_equal(sample.x, expected(image))


def test_what_cannot_be_read_is_told_and_the_rest_goes_on(tmp_path: Path) -> None:
    whole = save(tmp_path / "00-good.png", picture(0, (4, 6, 3))).read_bytes()
    (tmp_path / "01-cut.png").write_bytes(whole[:-40])
    (tmp_path / "02-empty.png").write_bytes(b"")
    (tmp_path / "03-text.png").write_text("no picture")
    save(tmp_path / "04-wide.png", picture(4, (4, 7, 3)))
    save(tmp_path / "05-gif.gif", picture(5)).rename(tmp_path / "05-gif.png")
    Image.fromarray(picture(6, (4, 6)).astype(np.uint16) * 256).save(tmp_path / "06-deep.png")
    (tmp_path / "07-flipped.png").write_bytes(whole[:60] + bytes([whole[60] ^ 0xFF]) + whole[61:])
    (tmp_path / "08-secret.png").write_bytes(whole)
    save(tmp_path / "09-good.png", picture(9))
    source = open_source(f"folder:{tmp_path}", COLOUR, CLASSES)
    (tmp_path / "08-secret.png").unlink()
    found = read(source)
    assert [entry.position for entry in found] == list(range(10))
    assert [entry.position for entry in found if isinstance(entry, Sample)] == [0, 9]
    assert all(damage(entry).startswith(f"0{entry.position}-") for entry in found[1:9])
    assert damage(found[4]) == "04-wide.png: 7x4 pixels where the bundle takes 6x4; resize it"
    assert "identify" in damage(found[5])
    assert "8 bits" in damage(found[6])
    assert "No such file" in damage(found[8])


def test_a_decompression_bomb_is_not_decoded(tmp_path: Path) -> None:
    side = 12_000
    Image.new("1", (side, side)).save(tmp_path / "bomb.png")
    assert (tmp_path / "bomb.png").stat().st_size < 50_000
    Image.new("1", (side * 2, side)).save(tmp_path / "worse.png")
    source = open_source(f"folder:{tmp_path}", COLOUR, CLASSES)
    tracemalloc.start()
    try:
        with pytest.warns(Image.DecompressionBombWarning):
            found = read(source)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert [f"{side}x{side} pixels where" in damage(found[0]), "exceeds limit" in damage(found[1])] == [True, True]
    assert peak < 5_000_000


def test_random_damage_to_images_never_raises(tmp_path: Path) -> None:
    chance = random.Random(1)
    kinds = ("png", "jpg", "bmp")
    whole = [save(tmp_path / "made" / f"a.{kind}", picture(1)).read_bytes() for kind in kinds]
    (tmp_path / "all").mkdir()
    for number in range(300):
        harmed = bytearray(whole[number % 3])
        for _ in range(chance.randrange(1, 4)):
            harmed[chance.randrange(len(harmed))] = chance.randrange(256)
        (tmp_path / "all" / f"{number:03}.{kinds[number % 3]}").write_bytes(
            harmed[: chance.choice((len(harmed), len(harmed) // 2))]
        )
    found = read(open_source(f"folder:{tmp_path / 'all'}", COLOUR, CLASSES))
    assert [entry.position for entry in found] == list(range(300))
    assert {type(entry) for entry in found} == {Sample, Damaged}
    for entry in found:
        if isinstance(entry, Sample):
            assert entry.x.shape == (4, 6, 3)


def test_a_folder_that_does_not_fit_the_bundle_is_refused(tmp_path: Path) -> None:
    with pytest.raises(SourceError, match="No such file.*give a folder of images") as error:
        open_source(f"folder:{tmp_path / 'nowhere'}", COLOUR, CLASSES)
    assert error.value.exit_code == 1
    with pytest.raises(SourceError, match=r"no \.bmp, \.jpeg, \.jpg, \.png file is in it"):
        open_source(f"folder:{tmp_path}", COLOUR, CLASSES)
    save(tmp_path / "a.png", picture(1))
    with pytest.raises(SourceError, match=r"images, but the bundle takes float32\[n, 2, 3\]; give an npz"):
        open_source(f"folder:{tmp_path}", VECTOR, CLASSES)
    (tmp_path / "horse").mkdir()
    with pytest.raises(SourceError, match="'horse' is none of the bundle's classes; rename"):
        open_source(f"folder:{tmp_path}", COLOUR, CLASSES)
    (tmp_path / "horse").rename(tmp_path / "cat")
    (tmp_path / "cat" / "young").mkdir()
    with pytest.raises(SourceError, match="cat/young is a folder in a folder; move"):
        open_source(f"folder:{tmp_path}", COLOUR, CLASSES)


# Npz


@pytest.fixture
def stream(tmp_path: Path) -> tuple[Path, Array, Array]:
    x, y = picture(1, (50, 4, 6, 3)), np.random.default_rng(2).integers(0, 3, 50)
    np.savez(tmp_path / "stream.npz", x=x, y=y)
    return tmp_path / "stream.npz", x, y


@pytest.mark.parametrize("write", [np.savez, np.savez_compressed])
@pytest.mark.parametrize("labels", ["<i8", "u1", ">i4", None])
def test_arrays_come_row_by_row(write: Any, labels: str | None, tmp_path: Path) -> None:
    x, y = picture(1, (50, 4, 6, 3)), np.random.default_rng(2).integers(0, 3, 50)
    write(tmp_path / "a.npz", x=x, other=np.zeros(3), **({} if labels is None else {"y": y.astype(labels)}))
    found = samples(open_source(f"npz:{tmp_path / 'a.npz'}", COLOUR, CLASSES))
    assert np.array_equal([sample.x for sample in found], x)
    assert [sample.position for sample in found] == list(range(50))
    assert [sample.y for sample in found] == ([None] * 50 if labels is None else y.tolist())
    assert not found[0].x.flags.writeable


def test_float_arrays_come_exact_and_what_is_not_finite_is_damage(tmp_path: Path) -> None:
    x = np.random.default_rng(3).standard_normal((6, 2, 3)).astype(np.float32)
    x[1, 0, 0], x[3, 1, 2], x[4, 0, 1] = np.nan, np.inf, -np.inf
    np.savez(tmp_path / "a.npz", x=x)
    found = read(open_source(f"npz:{tmp_path / 'a.npz'}", VECTOR, CLASSES))
    assert [entry.position for entry in found] == list(range(6))
    for entry in found:
        if entry.position in (1, 3, 4):
            assert damage(entry) == "it holds numbers that are not finite"
        else:
            assert isinstance(entry, Sample) and np.array_equal(entry.x, x[entry.position])


def test_a_sample_may_be_one_number(tmp_path: Path) -> None:
    number = Input(kind="vector", shape=(), scale=(1.0,), shift=(0.0,))
    np.savez(tmp_path / "a.npz", x=np.array([1.5, -2.0], np.float32))
    assert [float(sample.x) for sample in samples(open_source(f"npz:{tmp_path / 'a.npz'}", number, CLASSES))] == [
        1.5,
        -2,
    ]
    np.savez(tmp_path / "a.npz", x=np.float32(1.5))
    with pytest.raises(SourceError, match=r"x is float32\[\], the bundle takes float32\[n\]"):
        open_source(f"npz:{tmp_path / 'a.npz'}", number, CLASSES)


def test_a_label_of_no_class_is_damage(tmp_path: Path) -> None:
    np.savez(tmp_path / "a.npz", x=picture(1, (4, 4, 6, 3)), y=np.array([0, 3, -1, 2]))
    found = read(open_source(f"npz:{tmp_path / 'a.npz'}", COLOUR, CLASSES))
    assert [type(entry) for entry in found] == [Sample, Damaged, Damaged, Sample]
    assert damage(found[1]) == "label 3, the bundle has 3 classes"


@pytest.mark.parametrize("write", [np.savez, np.savez_compressed])
def test_a_large_file_is_not_read_whole(write: Any, tmp_path: Path) -> None:
    given = Input(kind="image", shape=(64, 64, 3), scale=(1.0,) * 3, shift=(0.0,) * 3)
    write(tmp_path / "a.npz", x=np.zeros((1500, 64, 64, 3), np.uint8), y=np.zeros(1500, np.int64))
    tracemalloc.start()
    try:
        source = open_source(f"npz:{tmp_path / 'a.npz'}", given, CLASSES)
        source.skip_to(100)
        count = sum(1 for _ in source)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert count == 1400
    assert peak < 1_000_000


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        ({"x": picture(1, (5, 3, 4, 6))}, r"x is uint8\[5, 3, 4, 6\], the bundle takes uint8\[n, 4, 6, 3\]; convert"),
        ({"x": picture(1, (5, 4, 6, 3)).astype(np.float32)}, r"x is float32\[5, 4, 6, 3\], the bundle takes uint8"),
        ({"x": picture(1, (4, 6, 3))}, r"x is uint8\[4, 6, 3\]"),
        ({"x": np.uint8(3)}, r"x is uint8\[\]"),
        ({"y": np.zeros(3)}, "x.npy"),
        ({"x": picture(1, (5, 4, 6, 3)), "y": np.zeros(5)}, r"y is float64\[5\], not 5 integers; convert it"),
        ({"x": picture(1, (5, 4, 6, 3)), "y": np.zeros(4, int)}, r"y is int64\[4\], not 5 integers"),
        ({"x": picture(1, (5, 4, 6, 3)), "y": np.zeros((5, 1), int)}, r"y is int64\[5, 1\]"),
        ({"x": np.asfortranarray(picture(1, (5, 4, 6, 3)))}, "Fortran order; save numpy.ascontiguousarray"),
        ({"x": np.array([{}, []], object)}, "Python objects, which are never unpickled"),
    ],
)
def test_arrays_that_do_not_fit_the_bundle_are_refused_at_once(
    arrays: dict[str, Array], message: str, tmp_path: Path
) -> None:
    np.savez(tmp_path / "a.npz", **arrays)  # type: ignore[arg-type]
    with pytest.raises(SourceError, match=message) as error:
        open_source(f"npz:{tmp_path / 'a.npz'}", COLOUR, CLASSES)
    assert str(error.value).startswith(str(tmp_path / "a.npz"))
    assert "\n" not in str(error.value)


def npy(header: str, data: bytes) -> bytes:
    return b"\x93NUMPY\x01\0" + len(header).to_bytes(2, "little") + header.encode() + data


@pytest.mark.parametrize(
    "member",
    [
        b"",
        b"no array",
        npy("{'descr': '|u1', 'fortran_order': False, 'shape': (5, 4, 6, 3)}\n", bytes(359)),
        npy("{'descr': '|u1', 'fortran_order': False, 'shape': (5, 4, 6, 3)}\n", bytes(361)),
        npy("{'descr': '|u1', 'fortran_order': False, 'shape': (10000000000, 4, 6, 3)}\n", bytes(360)),
        npy("{'descr': '|u1', 'fortran_order': False, 'shape': (-5, 4, 6, 3)}\n", bytes(360)),
        npy("{'descr': '|O', 'fortran_order': False, 'shape': (5, 4, 6, 3)}\n", bytes(360)),
        npy("__import__('os').system('true')\n", bytes(360)),
        npy("(" * 9000, b""),
        npy("{'descr': 'zz', 'fortran_order': False, 'shape': (5, 4, 6, 3)}\n", bytes(360)),
        b"\x93NUMPY\x09\0" + bytes(100),
    ],
)
def test_members_that_are_no_arrays_are_refused_at_once(member: bytes, tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "a.npz", "w") as archive:
        archive.writestr("x.npy", member)
    with pytest.raises(SourceError, match=r"a\.npz: ") as error:
        open_source(f"npz:{tmp_path / 'a.npz'}", COLOUR, CLASSES)
    assert "\n" not in str(error.value)


def test_a_file_cut_off_is_refused(stream: tuple[Path, Array, Array]) -> None:
    path, _, _ = stream
    whole = path.read_bytes()
    for length in range(0, len(whole), 97):
        path.write_bytes(whole[:length])
        with pytest.raises(SourceError, match="give a file that numpy.savez wrote"):
            open_source(f"npz:{path}", COLOUR, CLASSES)
    path.unlink()
    with pytest.raises(SourceError, match="No such file"):
        open_source(f"npz:{path}", COLOUR, CLASSES)


@pytest.mark.parametrize("write", [np.savez, np.savez_compressed])
def test_random_damage_to_an_archive_is_refused_or_told(write: Any, tmp_path: Path) -> None:
    chance = random.Random(2)
    write(tmp_path / "a.npz", x=picture(1, (300, 4, 6, 3)), y=np.random.default_rng(2).integers(0, 3, 300))
    whole = (tmp_path / "a.npz").read_bytes()
    told = 0
    for _ in range(400):
        harmed = bytearray(whole)
        harmed[chance.randrange(len(harmed))] ^= 1 << chance.randrange(8)
        (tmp_path / "a.npz").write_bytes(harmed)
        try:
            found = read(open_source(f"npz:{tmp_path / 'a.npz'}", COLOUR, CLASSES))
        except SourceError as error:
            assert "\n" not in str(error)
            continue
        assert [entry.position for entry in found] == list(range(len(found)))
        broken = [entry for entry in found if isinstance(entry, Damaged)]
        assert len(found) == 300 or broken
        told += any("cannot be read" in damage(entry) for entry in broken)
    assert told > 50


# Standard input and other streams


class Slow(io.RawIOBase):
    """Gives one byte at a time."""

    def __init__(self, data: bytes) -> None:
        self._data = io.BytesIO(data)

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        return self._data.readinto(memoryview(buffer)[:1])


def test_frames_are_taken_one_after_the_other() -> None:
    x = picture(1, (5, 4, 6, 3))
    for file in (io.BytesIO(x.tobytes()), io.BufferedReader(Slow(x.tobytes()))):
        found = samples(Frames(file, COLOUR))
        assert np.array_equal([sample.x for sample in found], x)
        assert [sample.position for sample in found] == list(range(5))


def test_float_frames_are_little_endian_and_checked() -> None:
    x = np.arange(12, dtype=np.float32).reshape(2, 2, 3)
    data = x.astype("<f4").tobytes() + np.full(6, np.nan, "<f4").tobytes() + x[:1].astype("<f4").tobytes()
    found = read(Frames(io.BytesIO(data), VECTOR))
    assert [type(entry) for entry in found] == [Sample, Sample, Damaged, Sample]
    assert isinstance(found[1], Sample) and np.array_equal(found[1].x, x[1])


def test_a_short_last_frame_is_told() -> None:
    found = read(Frames(io.BytesIO(picture(1).tobytes() + b"abc"), COLOUR))
    assert [type(entry) for entry in found] == [Sample, Damaged]
    assert damage(found[1]) == "cut off after 3 of 72 bytes"


def test_an_empty_stream_has_no_samples() -> None:
    assert read(Frames(io.BytesIO(), COLOUR)) == []


def test_standard_input_is_a_source() -> None:
    code = """
import sys
from edgecl import sources
from edgecl.manifest import Input
given = Input(kind="image", shape=(4, 6, 3), scale=(1.0,) * 3, shift=(0.0,) * 3)
for entry in sources.open_source("stdin", given, ("a", "b")):
    print(entry.position, getattr(entry, "reason", None) or int(entry.x.sum()))
"""
    x = picture(1, (3, 4, 6, 3))
    child = subprocess.run([sys.executable, "-c", code], input=x.tobytes() + b"rest", capture_output=True, check=True)
    lines = child.stdout.decode().splitlines()
    assert lines == [*(f"{n} {x[n].sum()}" for n in range(3)), "3 cut off after 4 of 72 bytes"]


# Resuming


def stored(tmp_path: Path) -> Iterable[Source]:
    x = picture(1, (6, 4, 6, 3))
    np.savez(tmp_path / "a.npz", x=x, y=np.arange(6) % 3)
    np.savez_compressed(tmp_path / "b.npz", x=x)
    for number, pixels in enumerate(x):
        save(tmp_path / "images" / f"{number}.png", pixels)
    for spec in (f"npz:{tmp_path / 'a.npz'}", f"npz:{tmp_path / 'b.npz'}", f"folder:{tmp_path / 'images'}"):
        yield open_source(spec, COLOUR, CLASSES)


@pytest.mark.parametrize("position", [0, 1, 5, 6])
def test_a_stored_source_goes_on_where_it_is_told_to(position: int, tmp_path: Path) -> None:
    for source in stored(tmp_path):
        whole = samples(source)
        source.skip_to(position)
        rest = samples(source)
        assert [sample.position for sample in rest] == list(range(position, 6))
        for sample, before in zip(rest, whole[position:], strict=True):
            assert np.array_equal(sample.x, before.x)
            assert sample.y == before.y


def test_a_stored_source_that_has_become_shorter_is_refused(tmp_path: Path) -> None:
    for source in stored(tmp_path):
        with pytest.raises(SourceError, match="it has 6 samples, the run goes on at 7; give"):
            source.skip_to(7)


def test_a_live_source_counts_on_and_drops_nothing() -> None:
    x = picture(1, (2, 4, 6, 3))
    source = Frames(io.BytesIO(x.tobytes()), COLOUR)
    source.skip_to(40)
    found = samples(source)
    assert [sample.position for sample in found] == [40, 41]
    assert np.array_equal(found[0].x, x[0])


def test_pillow_is_loaded_by_the_folder_alone(tmp_path: Path) -> None:
    np.savez(tmp_path / "a.npz", x=picture(1, (3, 4, 6, 3)))
    code = f"""
import sys
from edgecl import sources
from edgecl.manifest import Input
given = Input(kind="image", shape=(4, 6, 3), scale=(1.0,) * 3, shift=(0.0,) * 3)
assert len(list(sources.open_source("npz:{tmp_path / "a.npz"}", given, ("a", "b")))) == 3
print([name for name in sys.modules if name.partition(".")[0] == "PIL"])
"""
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, check=True).stdout == b"[]\n"
