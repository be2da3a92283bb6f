"""Programs compiled by the real exporters, run by both engines: what they compute, and what they refuse."""

import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest

from edgecl.engine import ENGINES, Array, Program, open_program
from edgecl.errors import ProgramError

METHODS = ("adapt_b4", "infer_b4", "infer_b1")

Open = Callable[..., Program]
Vectors = Callable[[str, str], list[Array]]


@pytest.fixture(params=ENGINES)
def opened(request: pytest.FixtureRequest, programs: Path) -> Iterator[Open]:
    """Opens programs by their short name with one engine, and closes them."""
    if request.param == "onnxruntime":
        pytest.importorskip("onnxruntime", reason="pip install 'edgecl[onnx]'")
    suffix = ".pte" if request.param == "executorch" else ""
    programs_open: list[Program] = []

    def open_one(name: str = "small", methods: tuple[str, ...] = METHODS) -> Program:
        program = open_program(programs / f"{name}{suffix}", engine=request.param, methods=methods)
        programs_open.append(program)
        return program

    yield open_one
    for program in programs_open:
        program.close()


@pytest.mark.parametrize("method", METHODS)
def test_a_method_computes_what_its_eager_function_does(opened: Open, vectors: Vectors, method: str) -> None:
    outputs = opened().execute(method, vectors(method, "in"))
    for output, expected in zip(outputs, vectors(method, "out"), strict=True):
        assert output.dtype == np.float32
        np.testing.assert_allclose(output, expected, rtol=1e-5, atol=1e-6)


def test_all_dtypes_pass_through(opened: Open, vectors: Vectors) -> None:
    outputs = opened("types", ("types",)).execute("types", vectors("types", "in"))
    for output, expected in zip(outputs, vectors("types", "out"), strict=True):
        assert output.dtype == expected.dtype
        np.testing.assert_array_equal(output, expected)


def test_the_same_inputs_give_the_same_bits(opened: Open, vectors: Vectors) -> None:
    program, inputs = opened(), vectors("adapt_b4", "in")
    first = program.execute("adapt_b4", inputs)
    program.execute("infer_b4", vectors("infer_b4", "in"))
    assert [a.tobytes() for a in program.execute("adapt_b4", inputs)] == [a.tobytes() for a in first]


def test_outputs_are_not_overwritten_by_the_next_call(opened: Open, vectors: Vectors) -> None:
    program, (theta, x) = opened(), vectors("infer_b1", "in")
    logits, taps = program.execute("infer_b1", [theta, x])
    kept = logits.copy(), taps.copy()
    program.execute("infer_b1", [theta, x + 1])
    np.testing.assert_array_equal(logits, kept[0])
    np.testing.assert_array_equal(taps, kept[1])
    logits[:] = 0  # and belong to the caller


def test_read_only_inputs_are_taken_and_left_alone(opened: Open, vectors: Vectors) -> None:
    inputs = vectors("adapt_b4", "in")
    before = [array.copy() for array in inputs]
    for array in inputs:
        array.flags.writeable = False
    opened().execute("adapt_b4", inputs)
    for array, same in zip(inputs, before, strict=True):
        np.testing.assert_array_equal(array, same)


def test_not_a_number_passes_through(opened: Open, vectors: Vectors) -> None:
    theta, x = vectors("infer_b4", "in")
    x[2] = np.nan
    logits, _ = opened().execute("infer_b4", [theta, x])
    np.testing.assert_array_equal(np.isnan(logits).all(axis=1), [False, False, True, False])


def wrong_inputs() -> dict[str, tuple[Callable[[list[Array]], list[Array]], str]]:
    """What is done to the inputs (theta, x) of infer_b4, and what the error then says."""
    return {
        "none": (lambda a: [], r"infer_b4: 0 inputs given, it takes 2: float32\[32\], float32\[4, 3, 8, 8\]"),
        "one missing": (lambda a: a[:1], "infer_b4: 1 inputs given, it takes 2"),
        "one more": (lambda a: [*a, a[1]], "infer_b4: 3 inputs given, it takes 2"),
        "order": (lambda a: a[::-1], r"input 0 is float32\[4, 3, 8, 8\], it takes float32\[32\]"),
        "batch": (lambda a: [a[0], a[1][:3]], r"input 1 is float32\[3, 3, 8, 8\], it takes float32\[4, 3, 8, 8\]"),
        "rank": (lambda a: [a[0], a[1][0]], r"input 1 is float32\[3, 8, 8\], it takes"),
        "empty": (lambda a: [a[0], a[1][:0]], r"input 1 is float32\[0, 3, 8, 8\], it takes"),
        "int64": (lambda a: [a[0], a[1].astype(np.int64)], r"input 1 is int64\[4, 3, 8, 8\], it takes float32"),
        "float64": (lambda a: [a[0], a[1].astype(float)], "input 1 is of float64, which no program takes"),
        "big-endian": (lambda a: [a[0].astype(">f4"), a[1]], "input 0 is of >f4, which no program takes"),
        "objects": (lambda a: [a[0].astype(object), a[1]], "input 0 is of object, which no program takes"),
        "list": (lambda a: [a[0].tolist(), a[1]], "input 0 is of <class 'list'>, which no program takes"),
        "transposed": (lambda a: [a[0], a[1].transpose(0, 1, 3, 2)], "input 1 is not C-contiguous; pass"),
        "strided": (lambda a: [np.repeat(a[0], 2)[::2], a[1]], "input 0 is not C-contiguous; pass"),
        "backwards": (lambda a: [a[0][::-1], a[1]], "input 0 is not C-contiguous; pass"),
    }


@pytest.mark.parametrize("wrong", wrong_inputs())
def test_wrong_inputs_are_refused_and_change_nothing(opened: Open, vectors: Vectors, wrong: str) -> None:
    change, message = wrong_inputs()[wrong]
    program, inputs = opened(), vectors("infer_b4", "in")
    right = program.execute("infer_b4", inputs)
    with pytest.raises(ProgramError, match=message) as caught:
        program.execute("infer_b4", change(inputs))
    assert str(caught.value).startswith("infer_b4: ")
    assert "\n" not in str(caught.value)
    for again, output in zip(program.execute("infer_b4", inputs), right, strict=True):
        np.testing.assert_array_equal(again, output)


def test_a_view_with_a_dimension_of_one_counts_as_contiguous(opened: Open, vectors: Vectors) -> None:
    theta, x = vectors("infer_b1", "in")
    odd = np.lib.stride_tricks.as_strided(x, x.shape, (12345, *x.strides[1:]))
    logits, _ = opened().execute("infer_b1", [theta, odd])
    np.testing.assert_allclose(logits, vectors("infer_b1", "out")[0], rtol=1e-5, atol=1e-6)


def test_method_names_lists_all_methods(opened: Open) -> None:
    assert opened(methods=("infer_b1",)).method_names() == sorted(METHODS)


def test_a_missing_method_is_named_with_those_that_exist(opened: Open) -> None:
    with pytest.raises(ProgramError, match="no method infer_b9; it has adapt_b4 infer_b1 infer_b4"):
        opened(methods=("infer_b1", "infer_b9"))


def test_a_method_that_was_not_loaded_is_not_executed(opened: Open, vectors: Vectors) -> None:
    with pytest.raises(ProgramError, match="infer_b4: not loaded; name it when opening"):
        opened(methods=("infer_b1",)).execute("infer_b4", vectors("infer_b4", "in"))


def test_a_closed_program_says_so(opened: Open, vectors: Vectors) -> None:
    program = opened()
    program.close()
    program.close()
    with pytest.raises(ProgramError, match="closed; open it again"):
        program.execute("infer_b1", vectors("infer_b1", "in"))
    with pytest.raises(ProgramError, match="closed; open it again"):
        program.method_names()


def test_a_program_opened_without_trace_has_none(opened: Open) -> None:
    with pytest.raises(ProgramError, match="recorded|records nothing"):
        opened().trace()


def test_an_unknown_engine_is_named_with_those_that_exist(programs: Path) -> None:
    with pytest.raises(ProgramError, match="engine tflite: unknown; choose executorch or onnxruntime"):
        open_program(programs / "small.pte", engine="tflite", methods=METHODS)


def test_a_missing_onnxruntime_names_the_extra(programs: Path) -> None:
    code = (
        "import sys; from pathlib import Path; from edgecl.engine import open_program\n"
        "sys.modules['onnxruntime'] = None\n"  # what Python takes for a package that cannot be imported
        "open_program(Path(sys.argv[1]), engine='onnxruntime', methods=['infer_b1'])"
    )
    child = subprocess.run([sys.executable, "-P", "-c", code, programs / "small"], capture_output=True, text=True)
    assert re.search(r"ProgramError: engine onnxruntime: .*pip install 'edgecl\[onnx\]'\n$", child.stderr)


def test_a_damaged_onnx_file_is_refused_in_one_line(
    programs: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("onnxruntime", reason="pip install 'edgecl[onnx]'")
    data = (programs / "small" / "infer_b1.onnx").read_bytes()
    (tmp_path / "infer_b1.onnx").write_bytes(data[: len(data) // 2])
    with pytest.raises(ProgramError, match=r"infer_b1\.onnx: .*; build the bundle again") as caught:
        open_program(tmp_path, engine="onnxruntime", methods=["infer_b1"])
    assert "\n" not in str(caught.value)
    assert capfd.readouterr().err == ""


def test_an_onnx_folder_that_is_missing_is_named(tmp_path: Path) -> None:
    with pytest.raises(ProgramError, match="missing: no folder of ONNX files"):
        open_program(tmp_path / "missing", engine="onnxruntime", methods=["infer_b1"])
