"""The ExecuTorch runtime itself: damaged files, locks, threads, its log and trace, the memory it takes."""

import hashlib
import logging
import os
import re
import shutil
import struct
import subprocess
import sys
import threading
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path

import numpy as np
import pytest

from edgecl import _runtime
from edgecl.engine import Array, open_program
from edgecl.errors import ProgramError

METHODS = ("adapt_b4", "infer_b4", "infer_b1")

Vectors = Callable[[str, str], list[Array]]


def run_child(code: str, *arguments: object, **environment: str) -> subprocess.CompletedProcess[str]:
    """A process of its own, for what cannot be undone in this one."""
    command = [sys.executable, "-P", "-c", code, *map(str, arguments)]
    return subprocess.run(command, env=os.environ | environment, capture_output=True, text=True, timeout=120)


def test_shared_and_isolated_methods_give_the_same_bits(programs: Path, vectors: Vectors) -> None:
    results = []
    for isolated in (False, True):
        program = open_program(programs / "small.pte", methods=METHODS, isolated=isolated)
        results.append([a.tobytes() for m in METHODS for a in program.execute(m, vectors(m, "in"))])
        program.close()
    assert results[0] == results[1]


def test_constants_that_are_not_packed_survive_loading(programs: Path, vectors: Vectors) -> None:
    # MALLOC_PERTURB_ makes memory that was freed differ from what it held.
    code = (
        "import sys, numpy; from pathlib import Path; from edgecl.engine import open_program\n"
        "v = numpy.load(sys.argv[2])\n"
        "for isolated in (False, True):\n"
        "    p = open_program(Path(sys.argv[1]), methods=['infer_b4', 'infer_b1'], isolated=isolated)\n"
        "    for m in ('infer_b4', 'infer_b1'):\n"
        "        taps = p.execute(m, [v[m + '.in.0'], v[m + '.in.1']])[1]\n"
        "        numpy.testing.assert_allclose(taps, v[m + '.out.1'], rtol=1e-5, atol=1e-6)\n"
    )
    arguments = [programs / "small.pte", programs / "vectors.npz"]
    child = run_child(code, *arguments, MALLOC_PERTURB_="165")
    assert child.returncode == 0, child.stderr


def test_a_method_is_loaded_once(programs: Path) -> None:
    with pytest.raises(ProgramError, match="infer_b1 is loaded already"):
        open_program(programs / "small.pte", methods=["infer_b1", "infer_b1"])


def test_types_that_edgecl_does_not_take_are_refused_at_loading(programs: Path) -> None:
    with pytest.raises(ProgramError, match="doubles: input 0 has a dtype other than float32, int64"):
        open_program(programs / "doubles.pte", methods=["doubles"])


def test_a_method_without_memory_for_its_inputs_and_outputs_is_refused(programs: Path) -> None:
    with pytest.raises(ProgramError, match="unplanned: input 0 has no memory; export it with alloc_graph_input"):
        open_program(programs / "unplanned.pte", methods=["unplanned"])


DAMAGES: dict[str, Callable[[bytes], bytes]] = {
    "empty": lambda data: b"",
    "a few bytes": lambda data: data[:40],
    "half": lambda data: data[: len(data) // 2],
    "one byte short": lambda data: data[:-1],
    "zeros": lambda data: bytes(len(data)),
    "random": lambda data: np.random.default_rng(0).bytes(len(data)),
    "another version": lambda data: data[:4] + b"ET99" + data[8:],
    "bytes that are no text": lambda data: data[:4] + b"\xff\xfe\n\x00" + data[8:],
    "offsets of the flatbuffer": lambda data: data[:64] + b"\xff" * 64 + data[128:],
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_file_is_refused_in_one_line(programs: Path, tmp_path: Path, damage: str) -> None:
    path = tmp_path / "program.pte"
    path.write_bytes(DAMAGES[damage]((programs / "small.pte").read_bytes()))
    with pytest.raises(ProgramError) as caught:
        open_program(path, methods=METHODS)
    message = str(caught.value)
    assert message.startswith(f"{path}: ")
    assert re.search(r": Error::[A-Z]\w+[; ]", message)
    assert message.endswith("install or build the bundle again")
    assert message.isprintable()


def test_a_program_of_another_version_is_told_by_its_identifier(programs: Path, tmp_path: Path) -> None:
    path = tmp_path / "program.pte"
    path.write_bytes(DAMAGES["another version"]((programs / "small.pte").read_bytes()))
    with pytest.raises(ProgramError, match=r"Error::InvalidProgram \(.*'ET99' != expected 'ET12'"):
        open_program(path, methods=METHODS)


def test_a_program_that_wants_more_memory_than_there_is_is_refused(programs: Path, tmp_path: Path) -> None:
    path, data = tmp_path / "program.pte", (programs / "small.pte").read_bytes()
    planned = struct.pack("<q", _runtime.Program(programs / "small.pte").describe("adapt_b4").planned_bytes)
    assert data.count(planned) == 1
    path.write_bytes(data.replace(planned, struct.pack("<q", 1 << 60)))
    with pytest.raises(ProgramError, match="adapt_b4: Error::MemoryAllocationFailed"):
        open_program(path, methods=["adapt_b4"])


@pytest.mark.parametrize("where", ["missing.pte", "."])
def test_a_missing_file_and_a_folder_are_refused(tmp_path: Path, where: str) -> None:
    with pytest.raises(ProgramError, match=re.escape(f"{tmp_path / where}: Error::")):
        open_program(tmp_path / where, methods=METHODS)


def test_a_file_cut_short_after_opening_is_an_error_and_no_crash(programs: Path, tmp_path: Path) -> None:
    shutil.copy(programs / "small.pte", tmp_path / "program.pte")
    program = open_program(tmp_path / "program.pte", methods=[])
    assert isinstance(program, _runtime.Program)
    (tmp_path / "program.pte").write_bytes(b"")
    with pytest.raises(ProgramError, match="program.pte: adapt_b4: Error::"):
        program.load("adapt_b4", isolated=False)


def test_describe_gives_shapes_bytes_and_delegates(programs: Path) -> None:
    program = _runtime.Program(programs / "small.pte")
    method = program.describe("adapt_b4")
    assert [(spec.dtype, spec.shape) for spec in method.inputs] == [
        ("float32", (32,)),
        ("float32", (32,)),
        ("float32", (4, 3, 8, 8)),
        ("float32", (1,)),
        ("float32", (1,)),
    ]
    assert [spec.shape for spec in method.outputs] == [(4, 4), (4, 8), (32,), (32,), (1,)]
    assert method.planned_bytes >= 4 * (4 * 3 * 8 * 8 + 32 + 32)
    assert 1 <= method.delegates <= method.instructions
    assert _runtime.Program(programs / "types.pte").describe("types").inputs[4].dtype == "bool"


@pytest.mark.usefixtures("programs")
def test_the_runtime_is_of_the_version_that_exports() -> None:
    assert _runtime.EXECUTORCH_VERSION.split("+")[0] == version("executorch").split("+")[0]


@pytest.mark.parametrize("isolated", [True, False])
def test_answers_do_not_wait_for_an_isolated_program(programs: Path, vectors: Vectors, isolated: bool) -> None:
    """While one long method executes in a thread, many short ones of another program finish."""
    busy = open_program(programs / "busy.pte", methods=["long"], isolated=True)
    quick = open_program(programs / "small.pte", methods=["infer_b1"], isolated=isolated)
    x, inputs = np.ones((8, 64, 64, 64), np.float32), vectors("infer_b1", "in")
    busy.execute("long", [x])
    events: list[str] = []

    def work() -> None:
        events.append("begin")
        busy.execute("long", [x])
        events.append("end")

    thread = threading.Thread(target=work)
    thread.start()
    while thread.is_alive():
        quick.execute("infer_b1", inputs)
        events.append("answer")
        hashlib.sha256(bytes(1 << 20))  # a millisecond without any lock, so that a thread waiting for one gets it
    thread.join()
    answers = events[events.index("begin") : events.index("end")].count("answer")
    assert answers > 20, f"{answers} answers while the long method ran"


def test_one_program_serves_several_threads(programs: Path) -> None:
    program = open_program(programs / "busy.pte", methods=["short"], isolated=True)
    inputs = [np.random.default_rng(k).random((1, 64, 8, 8), np.float32) for k in range(4)]
    expected = [program.execute("short", [x])[0].tobytes() for x in inputs]
    wrong: list[int] = []

    def work(k: int) -> None:
        for _ in range(500):
            if program.execute("short", [inputs[k]])[0].tobytes() != expected[k]:
                wrong.append(k)

    threads = [threading.Thread(target=work, args=(k,)) for k in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []


def test_the_thread_count_is_settled_before_the_first_program(programs: Path) -> None:
    code = (
        "import sys; from pathlib import Path; from edgecl import _runtime as r\n"
        "from edgecl.engine import open_program; from edgecl.errors import ProgramError\n"
        "def refused(count):\n"
        "    try: r.set_threads(count)\n"
        "    except ProgramError as error: print(error)\n"
        "    else: print('set')\n"
        "refused(0); refused(257); refused(2); print(r.threads())\n"
        "p = open_program(Path(sys.argv[1]), methods=['infer_b1', 'infer_b4'], threads=3); print(r.threads())\n"
        "refused(1); refused(3); print(r.threads())\n"
        "p.close(); refused(1); print(r.threads())\n"
    )
    child = run_child(code, programs / "small.pte")
    assert child.stdout.splitlines() == [
        "threads: 0; give 1 to 256",
        "threads: 257; give 1 to 256",
        "set",
        "2",
        "3",
        "threads: 2 methods are loaded for 3; set the count before opening a program",
        "set",
        "3",
        "set",
        "1",
    ], child.stderr


@pytest.mark.parametrize("isolated", [True, False])
def test_results_do_not_depend_on_the_thread_count(programs: Path, isolated: bool) -> None:
    code = (
        "import sys, hashlib, numpy; from pathlib import Path; from edgecl.engine import open_program\n"
        "path, threads, isolated = Path(sys.argv[1]), int(sys.argv[2]), sys.argv[3] == 'True'\n"
        "p = open_program(path, methods=['short'], threads=threads, isolated=isolated)\n"
        "x = numpy.random.default_rng(0).random((1, 64, 8, 8), numpy.float32)\n"
        "print(hashlib.sha256(p.execute('short', [x])[0].tobytes()).hexdigest())"
    )
    one, three = (run_child(code, programs / "busy.pte", threads, isolated) for threads in (1, 3))
    assert one.returncode == 0, one.stderr
    assert one.stdout == three.stdout


def test_only_a_method_that_is_not_isolated_uses_the_thread_pool(programs: Path) -> None:
    code = (
        "import sys, time, numpy; from pathlib import Path; from edgecl.engine import open_program\n"
        "isolated, x = sys.argv[2] == 'True', numpy.ones((8, 64, 64, 64), numpy.float32)\n"
        "p = open_program(Path(sys.argv[1]), methods=['long'], threads=3, isolated=isolated)\n"
        "p.execute('long', [x]); mine, all = time.thread_time(), time.process_time()\n"
        "p.execute('long', [x]); mine, all = time.thread_time() - mine, time.process_time() - all\n"
        "print((all - mine) / all)"
    )
    isolated, pooled = (float(run_child(code, programs / "busy.pte", flag).stdout) for flag in (True, False))
    assert isolated < 0.05
    assert pooled > 0.2


def test_a_daemon_thread_does_not_crash_the_process_at_its_end(programs: Path) -> None:
    code = (
        "import sys, threading, numpy; from pathlib import Path; from edgecl.engine import open_program\n"
        "p = open_program(Path(sys.argv[1]), methods=['short'], isolated=True); begun = threading.Event()\n"
        "x = numpy.ones((1, 64, 8, 8), numpy.float32)\n"
        "def work():\n"
        "    while True:\n"
        "        p.execute('short', [x]); begun.set()\n"
        "threading.Thread(target=work, daemon=True).start(); begun.wait()\n"
    )
    child = run_child(code, programs / "busy.pte")
    assert (child.returncode, child.stderr) == (0, "")


def test_a_fork_in_the_middle_of_a_call_ends_normally(programs: Path) -> None:
    code = (
        "import os, sys, threading, numpy; from pathlib import Path; from edgecl.engine import open_program\n"
        "p = open_program(Path(sys.argv[1]), methods=['long'], isolated=True); begun = threading.Event()\n"
        "x = numpy.ones((8, 64, 64, 64), numpy.float32)\n"
        "def work():\n"
        "    begun.set(); p.execute('long', [x])\n"
        "thread = threading.Thread(target=work); thread.start(); begun.wait()\n"
        "pid = os.fork()\n"
        "if pid: thread.join(); print(os.waitpid(pid, 0)[1])\n"
    )
    child = run_child(code, programs / "busy.pte")
    assert child.stdout == "0\n", child.stderr


def test_the_log_goes_to_python(
    programs: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture, capfd: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "program.pte"
    path.write_bytes(DAMAGES["bytes that are no text"]((programs / "small.pte").read_bytes()))
    with (
        caplog.at_level(logging.DEBUG, "edgecl.executorch"),
        pytest.raises(ProgramError, match="\N{REPLACEMENT CHARACTER}"),
    ):
        open_program(path, methods=METHODS)
    errors = [record.getMessage() for record in caplog.records if record.levelno == logging.ERROR]
    assert any("Program identifier" in message and "program.cpp" in message for message in errors)
    assert {record.name for record in caplog.records} == {"edgecl.executorch"}
    assert capfd.readouterr().err == ""


@pytest.mark.parametrize("before", ["", "import logging; "])
def test_nothing_is_logged_to_stderr_when_nobody_listens(programs: Path, tmp_path: Path, before: str) -> None:
    (tmp_path / "damaged.pte").write_bytes(b"damaged")
    code = (
        f"{before}import sys; from pathlib import Path; from edgecl.engine import open_program\n"
        "from edgecl.errors import ProgramError\n"
        "open_program(Path(sys.argv[1]), methods=['infer_b1'], threads=2)\n"
        "try: open_program(Path(sys.argv[2]), methods=[], threads=2)\n"
        "except ProgramError: print('refused')"
    )
    child = run_child(code, programs / "small.pte", tmp_path / "damaged.pte")
    assert (child.stdout, child.stderr) == ("refused\n", "")


def test_a_trace_holds_what_ran_since_the_last_one(programs: Path, vectors: Vectors, tmp_path: Path) -> None:
    program = open_program(programs / "small.pte", methods=["infer_b1", "infer_b4"], trace=True)
    assert len(program.trace()) > 0  # the two loads
    assert program.trace() == b""
    for count in (3, 1):
        for _ in range(count):
            program.execute("infer_b1", vectors("infer_b1", "in"))
        (tmp_path / f"{count}.etdump").write_bytes(program.trace())
    program.close()
    code = (
        "import sys; from executorch.devtools import Inspector\n"
        "for path in sys.argv[1:]:\n"
        "    blocks = [b for b in Inspector(etdump_path=path).event_blocks if b.name == 'Execute']\n"
        "    print([len(e.perf_data.raw) for b in blocks for e in b.events if e.name == 'Method::execute'])\n"
    )
    child = run_child(code, tmp_path / "3.etdump", tmp_path / "1.etdump")
    assert child.stdout.splitlines() == ["[3]", "[1]"], child.stderr


def test_heap_bytes_counts_what_is_allocated() -> None:
    before = _runtime.heap_bytes()
    block = bytearray(32 << 20)
    with_block = _runtime.heap_bytes()
    del block
    _runtime.trim()
    assert with_block - before > 31 << 20
    assert _runtime.heap_bytes() - before < 1 << 20


def test_methods_that_are_not_isolated_share_one_workspace(programs: Path) -> None:
    code = (
        "import sys, numpy; from edgecl import _runtime as r\n"
        "p = r.Program(sys.argv[1]); x = numpy.ones((8, 64, 64, 64), numpy.float32)\n"
        "q = r.Program(sys.argv[1])\n"
        "for program in (p, q):\n"
        "    program.load('long', isolated=sys.argv[2] == 'True'); before = r.heap_bytes()\n"
        "    program.execute('long', [x]); print(r.heap_bytes() - before)\n"
    )
    shared, isolated = (
        [int(line) for line in run_child(code, programs / "busy.pte", flag).stdout.split()] for flag in (False, True)
    )
    activation_bytes = 4 * 8 * 64 * 64 * 64  # two of them live at a time, one read and one written
    assert shared[0] == pytest.approx(isolated[0], rel=0.1)
    assert isolated[1] == pytest.approx(isolated[0], rel=0.1)
    assert isolated[1] - shared[1] == pytest.approx(2 * activation_bytes, rel=0.1)


@pytest.mark.parametrize("channels", [1, 2, 3, 4])
def test_pixels_become_planes_with_the_rounding_of_numpy(channels: int) -> None:
    random = np.random.default_rng(channels)
    pixels = random.integers(0, 256, (2, 5, 7, channels), dtype=np.uint8)
    scale, shift = random.standard_normal((2, channels)).astype(np.float32)
    planes = _runtime.to_planar(pixels, scale, shift)
    expected = (pixels.astype(np.float32) * scale + shift).transpose(0, 3, 1, 2)
    assert planes.dtype == np.float32
    np.testing.assert_array_equal(planes, expected)


def test_a_scale_for_another_number_of_channels_is_refused() -> None:
    pixels, three = np.zeros((1, 2, 2, 3), np.uint8), np.ones(3, np.float32)
    with pytest.raises(ValueError, match="one number for each channel"):
        _runtime.to_planar(pixels, three[:2], three)
