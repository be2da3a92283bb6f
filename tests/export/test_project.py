"""Reading `edgecl.toml` and what it names: good files, and one line for each kind of bad one."""

from pathlib import Path

import numpy as np
import pytest

from edgecl.errors import ProjectError
from export import project

GOOD = """
name = "digits"
[model]
factory = "model:make"
classes = ["zero", "one", "two"]
taps = ["layer1", "layer2:in"]
[input]
shape = [4, 6, 3]
mean = [0.5, 0.25, 0.0]
std = [0.5, 0.25, 1.0]
[data]
train = "data.npz"
held_out = "model:held_out"
[learner]
name = "ecotta"
batch = 8
settings = { kernel = 3 }
hyper = { lr = 0.01 }
"""

MODEL = """
import numpy as np

def make(): return "a model"
def held_out(): return np.zeros((3, 4, 6, 3), np.uint8), [0, 1, 2]
def no_pair(): return np.zeros((3, 4, 6, 3), np.uint8)
def floats(): return np.zeros((3, 4, 6, 3), np.float32), [0, 1, 2]
def small(): return np.zeros((3, 4, 4, 3), np.uint8), [0, 1, 2]
def short(): return np.zeros((3, 4, 6, 3), np.uint8), [0, 1]
def fourth(): return np.zeros((3, 4, 6, 3), np.uint8), [0, 1, 3]
def negative(): return np.zeros((3, 4, 6, 3), np.uint8), [0, 1, -1]
def shares(): return np.zeros((3, 4, 6, 3), np.uint8), [0.0, 1.0, 2.0]
def nothing(): return np.zeros((0, 4, 6, 3), np.uint8), np.zeros(0, np.int64)
"""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A project that is in order."""
    (tmp_path / "edgecl.toml").write_text(GOOD)
    (tmp_path / "model.py").write_text(MODEL)
    np.savez(tmp_path / "data.npz", x=np.zeros((2, 4, 6, 3), np.uint8), y=np.array([2, 0], np.uint8))
    return tmp_path


def test_a_good_file_is_read_from_its_folder_or_by_its_name(folder: Path) -> None:
    read = project.read(folder)
    assert read == project.read(folder / "edgecl.toml")
    assert read.folder == folder.resolve()
    tables = read.tables
    assert tables.model.taps == ("layer1", "layer2:in")
    assert tables.learner.settings == {"kernel": 3} and tables.learner.hyper == {"lr": 0.01}
    assert (tables.version, tables.learned, tables.build.quantize, tables.build.onnx) == (1, "carry", "none", False)


def test_an_image_becomes_the_input_that_mean_and_std_say(folder: Path) -> None:
    given = project.read(folder).given
    x = np.array([0.0, 51.0, 255.0])
    for channel, (mean, std) in enumerate(((0.5, 0.5), (0.25, 0.25), (0.0, 1.0))):
        np.testing.assert_allclose(x * given.scale[channel] + given.shift[channel], (x / 255 - mean) / std, atol=1e-12)


def test_a_vector_without_mean_and_std_stays_as_it_is(folder: Path) -> None:
    text = GOOD.replace("shape = [4, 6, 3]", 'kind = "vector"\nshape = [12]')
    (folder / "edgecl.toml").write_text(
        "\n".join(line for line in text.splitlines() if line[:4] not in ("mean", "std "))
    )
    given = project.read(folder).given
    assert (given.scale, given.shift) == ((1.0,) * 12, (0.0,) * 12)


def test_data_come_from_a_file_of_arrays_or_from_a_function(folder: Path) -> None:
    read = project.read(folder)
    x, y = read.data("data.npz")
    assert x.shape == (2, 4, 6, 3) and y.tolist() == [2, 0] and y.dtype == np.int64
    x, y = read.data("model:held_out")
    assert x.shape == (3, 4, 6, 3) and y.tolist() == [0, 1, 2]


def test_a_factory_may_import_its_neighbours(folder: Path) -> None:
    (folder / "neighbour_of_model.py").write_text("answer = 42")
    (folder / "other.py").write_text("import neighbour_of_model\ndef make(): return neighbour_of_model.answer")
    assert project.read(folder).function("other:make")() == 42


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ('name = "digits"', "", "Object missing required field `name`"),
        ('name = "digits"', "name = 3", "Expected `str`, got `int` - at `$.name`"),
        ('name = "digits"', 'name = "digits"\nnmae = "x"', "Object contains unknown field `nmae`"),
        ("[learner]", "[lerner]", "Object contains unknown field `lerner`"),
        ("batch = 8", "batch = 0", "Expected `int` >= 1 - at `$.learner.batch`"),
        ("batch = 8", "btach = 8", "Object contains unknown field `btach` - at `$.learner`"),
        ("hyper = { lr = 0.01 }", 'hyper = { lr = "fast" }', "Expected `float`, got `str` - at `$.learner.hyper[...]`"),
        ("shape = [4, 6, 3]", "shape = [4, 6, 0]", "Expected `int` >= 1 - at `$.input.shape[2]`"),
        ("[input]", '[input]\nkind = "sound"', "Invalid enum value 'sound' - at `$.input.kind`"),
        ("[data]", '[build]\nquantize = "int4"\n[data]', "Invalid enum value 'int4' - at `$.build.quantize`"),
        ("[data]", "[warmup]\nlr = 0\n[data]", "Expected `float` > 0.0 - at `$.warmup.lr`"),
    ],
)
def test_a_wrong_field_is_one_line_with_the_file_and_where_it_is(
    old: str, new: str, message: str, folder: Path
) -> None:
    (folder / "edgecl.toml").write_text(GOOD.replace(old, new, 1))
    with pytest.raises(ProjectError) as error:
        project.read(folder)
    assert str(error.value) == f"{folder / 'edgecl.toml'}: {message}; see docs/formats/project.md"


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("shape = [4, 6, 3]", "shape = [4, 6]", "input.shape [4, 6]: an image has height, width, channels"),
        ("shape = [4, 6, 3]", "shape = []", "input.shape []: an image has height, width, channels"),
        ("shape = [4, 6, 3]", 'kind = "vector"\nshape = []', "input.shape []: a vector has one number or more"),
        ("mean = [0.5, 0.25, 0.0]", "mean = [0.5]", "input.mean has 1 numbers for 3 channels"),
        ("std = [0.5, 0.25, 1.0]", "std = [0.5, 0.25]", "input.std has 2 numbers for 3 channels"),
        ("std = [0.5, 0.25, 1.0]", "std = [0.5, 0.0, 1.0]", "input.std must be finite and above zero"),
        ("std = [0.5, 0.25, 1.0]", "std = [0.5, nan, 1.0]", "input.std must be finite and above zero"),
        ("mean = [0.5, 0.25, 0.0]", "mean = [0.5, inf, 0.0]", "input.mean must be finite"),
        ('["zero", "one", "two"]', '["zero"]', "model.classes must name two or more different classes"),
        ('["zero", "one", "two"]', '["zero", "one", "one"]', "model.classes must name two or more different classes"),
    ],
)
def test_fields_that_contradict_each_other_are_one_line_too(old: str, new: str, message: str, folder: Path) -> None:
    (folder / "edgecl.toml").write_text(GOOD.replace(old, new, 1))
    with pytest.raises(ProjectError) as error:
        project.read(folder)
    assert str(error.value) == f"{folder / 'edgecl.toml'}: {message}"


@pytest.mark.parametrize("text", [b"name = ", b"name = '\xff'"])
def test_a_file_that_is_no_toml_is_one_line(text: bytes, folder: Path) -> None:
    (folder / "edgecl.toml").write_bytes(text)
    with pytest.raises(ProjectError, match=f"^{folder / 'edgecl.toml'}: not TOML: .*$"):
        project.read(folder)


def test_a_folder_without_a_project_is_one_line(tmp_path: Path) -> None:
    with pytest.raises(ProjectError, match=f"^{tmp_path / 'edgecl.toml'}: No such file or directory; give the folder "):
        project.read(tmp_path)


SAYS = "input says x uint8[N, 4, 6, 3] and y integers [N]"


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("floats", f"data model:floats: x float32[3, 4, 6, 3] and y int64[3]; {SAYS}"),
        ("small", f"data model:small: x uint8[3, 4, 4, 3] and y int64[3]; {SAYS}"),
        ("short", f"data model:short: x uint8[3, 4, 6, 3] and y int64[2]; {SAYS}"),
        ("shares", f"data model:shares: x uint8[3, 4, 6, 3] and y float64[3]; {SAYS}"),
        ("fourth", "data model:fourth: labels must be 0 to 2, and at least one"),
        ("negative", "data model:negative: labels must be 0 to 2, and at least one"),
        ("nothing", "data model:nothing: labels must be 0 to 2, and at least one"),
        ("no_pair", "data model:no_pair: it must return a pair (x, y)"),
    ],
)
def test_data_of_another_form_are_refused_in_one_line(name: str, message: str, folder: Path) -> None:
    with pytest.raises(ProjectError) as error:
        project.read(folder).data(f"model:{name}")
    assert str(error.value) == message


@pytest.mark.parametrize("content", [b"", b"no arrays", b"PK\x03\x04 cut short"])
def test_damaged_files_of_arrays_are_refused_in_one_line(content: bytes, folder: Path) -> None:
    (folder / "data.npz").write_bytes(content)
    with pytest.raises(ProjectError, match=f"^{folder / 'data.npz'}: [^\n]*; it needs arrays x and y$"):
        project.read(folder).data("data.npz")


def test_files_of_other_arrays_are_refused_in_one_line(folder: Path) -> None:
    np.savez(folder / "data.npz", images=np.zeros(3))
    np.save(folder / "one.npy", np.zeros(3))
    (folder / "one.npy").rename(folder / "one.npz")
    for name in ("data.npz", "one.npz", "missing.npz"):
        with pytest.raises(ProjectError, match=f"^{folder / name}: [^\n]*; it needs arrays x and y$"):
            project.read(folder).data(name)


@pytest.mark.parametrize("name", ["make", "model", "model:", "other:make", "model:makes"])
def test_a_function_that_is_not_there_is_one_line_with_its_name(name: str, folder: Path) -> None:
    with pytest.raises(ProjectError) as error:
        project.read(folder).function(name)
    assert "\n" not in str(error.value) and str(folder) in str(error.value)


@pytest.mark.parametrize(
    ("text", "count"),
    [("64 MB", 64_000_000), ("64MiB", 64 << 20), ("1.5 GB", 1_500_000_000), (" 2 kib ", 2048), ("7 B", 7)],
)
def test_sizes_are_read(text: str, count: int) -> None:
    assert project.parse_bytes(text) == count


@pytest.mark.parametrize("text", ["", "64", "-1 MB", "64 XB", "64 MB more", "1e3 MB"])
def test_other_sizes_are_refused(text: str) -> None:
    with pytest.raises(ProjectError, match='is no size; write it like "64 MB" or "64 MiB"$'):
        project.parse_bytes(text)
