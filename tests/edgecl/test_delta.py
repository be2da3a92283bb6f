"""Deltas: what was changed comes back bit by bit, in few bytes; a hostile one is refused in bounded time and memory."""

import hashlib
import random
import struct
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
import zstandard
from hypothesis import given, settings
from hypothesis import strategies as st

from edgecl import delta
from edgecl.errors import BundleError, StoreError
from tests.attacks.mutated_bundles import mutate

Floats = npt.NDArray[np.float32]

HEADER = struct.Struct("<8sB3sIQQ32s32s")
PIECE = struct.Struct("<BB2sI")
WEIGHTS = np.random.default_rng(0).standard_normal(300_000).astype(np.float32)


def applied(made: bytes, base: bytes | Path | None) -> bytes:
    pieces: list[bytes] = []
    digest = delta.apply(made, base, pieces.append)
    whole = b"".join(pieces)
    assert digest == hashlib.sha256(whole).hexdigest()
    return whole


def round_trip(base: bytes | None, target: bytes) -> bytes | None:
    made = delta.make(base, target)
    if made is None:
        return None
    assert len(made) < len(target)
    assert applied(made, base) == target
    return made


def refused(made: bytes, base: bytes | None, message: str = "^delta: ") -> None:
    with pytest.raises(BundleError, match=message) as error:
        applied(made, base)
    said = str(error.value)
    assert said.startswith("delta: ") and said.isprintable() and ";" in said
    assert error.value.exit_code == 5


# What comes back


def changed_by(base: bytes, edits: list[tuple[int, int, bytes]]) -> bytes:
    target = bytearray(base)
    for place, cut, put in edits:
        at = place % (len(target) + 1)
        target[at : at + cut] = put
    return bytes(target)


@settings(max_examples=150, deadline=None)
@given(
    st.binary(max_size=3000).map(lambda data: data * 3),
    st.lists(st.tuples(st.integers(0, 1 << 16), st.integers(0, 500), st.binary(max_size=500)), max_size=5),
)
def test_any_change_comes_back(base: bytes, edits: list[tuple[int, int, bytes]]) -> None:
    round_trip(base, changed_by(base, edits))


@settings(max_examples=50, deadline=None)
@given(st.one_of(st.none(), st.binary(max_size=300)), st.binary(max_size=300))
def test_anything_comes_back(base: bytes | None, target: bytes) -> None:
    round_trip(base, target)


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 99), st.sampled_from(delta.ELEMENTS))
def test_shuffled_bytes_come_back(size: int, element: int) -> None:
    content = random.Random(size).randbytes(size)
    assert delta._unshuffled(delta._shuffled(content, element), element) == content


@pytest.mark.parametrize("extra", [0, 1])
def test_pieces_meet_wherever_they_end(extra: int) -> None:
    base = np.arange(2 * delta.PIECE_BYTES // 4 + 2, dtype=np.int32).tobytes()[: 2 * delta.PIECE_BYTES + extra]
    target = changed_by(base, [(delta.PIECE_BYTES - 2, 4, b"edge"), (len(base) - 1, 1, b"e")])
    assert round_trip(base, target) and round_trip(target[:-9], base)


@pytest.mark.parametrize(
    ("change", "share"),
    [
        (lambda w: w, 0.0005),
        (lambda w: np.where(np.random.default_rng(1).random(w.size) < 0.02, w + np.float32(0.01), w), 0.04),
        (lambda w: w + np.random.default_rng(1).standard_normal(w.size).astype(np.float32) * 1e-4, 0.66),
    ],
    ids=["the same", "two in a hundred", "all a little"],
)
def test_weights_trained_further_take_a_part_of_the_bytes(
    change: Callable[[np.ndarray], np.ndarray],
    share: float,
) -> None:
    base, target = WEIGHTS.tobytes(), change(WEIGHTS).tobytes()
    made = round_trip(base, target)
    assert made is not None
    plain = delta.make(None, target)
    assert plain is not None and applied(plain, None) == target
    assert len(made) < share * len(target) < len(plain)


def test_bytes_put_in_or_cut_out_take_few_bytes() -> None:
    base = WEIGHTS.tobytes()
    for target in (base[:1000] + b"put in" + base[1000:], base[:500] + base[900:], base + b"more", base[:-77]):
        made = round_trip(base, target)
        assert made is not None and len(made) < 3000


def test_what_cannot_become_smaller_is_none() -> None:
    noise = random.Random(1)
    for base in (None, b"", b"short", noise.randbytes(5000)):
        for target in (b"", b"x", noise.randbytes(5000)):
            assert delta.make(base, target) is None


def test_a_target_that_owes_nothing_to_the_base_needs_none() -> None:
    made = delta.make(random.Random(1).randbytes(9000), b"text " * 1000)
    assert made is not None
    assert delta.read_header(made) == delta.Header(None, 0, hashlib.sha256(b"text " * 1000).hexdigest(), 5000)
    assert applied(made, None) == b"text " * 1000


def test_files_and_bytes_are_the_same(tmp_path: Path) -> None:
    base, target = WEIGHTS.tobytes(), WEIGHTS.tobytes() + b"more"
    for name, content in (("base", base), ("target", target)):
        (tmp_path / name).write_bytes(content)
    made = delta.make(tmp_path / "base", tmp_path / "target")
    assert made is not None and made == delta.make(base, target)
    (tmp_path / "delta").write_bytes(made)
    pieces: list[bytes] = []
    assert delta.apply(tmp_path / "delta", tmp_path / "base", pieces.append) == hashlib.sha256(target).hexdigest()
    assert b"".join(pieces) == target
    header = delta.read_header(made[:100])
    assert header.base == hashlib.sha256(base).hexdigest() and header.base_bytes == len(base)
    with pytest.raises(StoreError, match="give a readable object"):
        delta.apply(tmp_path / "delta", tmp_path / "nothing", pieces.append)


def test_a_delta_has_the_bytes_that_the_format_page_tells() -> None:
    base, target = bytes(range(100)), bytes(range(99)) + b"!"
    digests = [hashlib.sha256(data).digest() for data in (base, target)]
    change = bytes(99) + bytes([99 ^ ord("!")])
    frame = zstandard.compress(change, 3)
    by_hand = HEADER.pack(b"ecldelta", 1, b"", 1, 100, 100, *digests) + PIECE.pack(1, 1, b"", len(frame)) + frame
    assert len(by_hand) == 96 + 8 + len(frame)
    assert applied(by_hand, base) == target
    shuffled = bytes(range(0, 100, 4)) + bytes(range(1, 100, 4)) + bytes(range(2, 100, 4)) + bytes(range(3, 100, 4))
    assert delta._shuffled(base, 4) == shuffled
    frame = zstandard.compress(shuffled)
    from_zeros = HEADER.pack(b"ecldelta", 1, b"", 1, 100, 100, hashlib.sha256(bytes(100)).digest(), digests[0])
    assert applied(from_zeros + PIECE.pack(1, 4, b"", len(frame)) + frame, bytes(100)) == base


# What is refused


@pytest.fixture(scope="module")
def base() -> bytes:
    return WEIGHTS[:4000].tobytes()


@pytest.fixture(scope="module")
def made(base: bytes) -> bytes:
    found = delta.make(base, changed_by(base, [(0, 4, b"abcd"), (9000, 0, b"put in")]))
    assert found is not None
    return found


def test_a_delta_of_another_base_is_refused(made: bytes, base: bytes) -> None:
    for other in (None, b"", base[:-1], base + b"\0", bytes(len(base)), base[:-1] + b"\0"):
        refused(made, other, "which this base is not; send the whole object")


def test_a_delta_cut_off_anywhere_is_refused(made: bytes, base: bytes) -> None:
    for length in range(len(made)):
        refused(made[:length], base)


def test_a_delta_with_more_behind_it_is_refused(made: bytes, base: bytes) -> None:
    refused(made + b"\0", base, "something follows its end")


def test_a_damaged_delta_is_refused(made: bytes, base: bytes) -> None:
    chance = random.Random(3)
    for _ in range(600):
        refused(mutate(made, chance), base)


def piece(content: bytes, form: int = 0, element: int = 1, length: int | None = None) -> bytes:
    return PIECE.pack(form, element, b"", len(content) if length is None else length) + content


def header(size: int, pieces: int = 1, base: bytes = b"", target: bytes = b"") -> bytes:
    digest = hashlib.sha256(base).digest() if base else bytes(32)
    return HEADER.pack(b"ecldelta", 1, b"", pieces, len(base), size, digest, hashlib.sha256(target).digest())


ZEROS = zstandard.compress(bytes(100))
UNTOLD = zstandard.ZstdCompressor(write_content_size=False).compress(bytes(100))


@pytest.mark.parametrize(
    ("attack", "message"),
    [
        (b"ecldelta" + bytes(100), "not a delta of version 1"),
        (b"ecldelta\2" + bytes(100), "not a delta of version 1"),
        (header(1 << 31, 1024), "sizes 0 and"),
        (HEADER.pack(b"ecldelta", 1, b"", 1, 5, 100, bytes(32), bytes(32)), "sizes 5 and"),
        (HEADER.pack(b"ecldelta", 1, b"", 1, 0, 100, b"x" * 32, bytes(32)), "sizes 0 and"),
        (header(100, 2), "2 pieces for 100 bytes"),
        (header(100, 0), "0 pieces for 100 bytes"),
        (header(0, 1), "1 pieces for 0 bytes"),
        (header(1 << 30, 512), "cut off before byte 0"),
        (header(100) + piece(ZEROS, length=1 << 30), "cut off or damaged at byte 0"),
        (header(100) + piece(ZEROS, form=3), "a piece of form 3"),
        (header(100) + piece(ZEROS, form=1), "a piece of form 1"),  # of which there is no base
        (header(100) + piece(ZEROS, form=2), "a piece of form 2"),
        (header(100) + piece(ZEROS, element=4), "elements of 4 bytes"),
        (header(100) + piece(ZEROS, element=0), "elements of 0 bytes"),
        (header(100) + piece(b""), "piece"),
        (header(100) + piece(bytes(50)), "piece"),
        (header(100) + piece(zstandard.compress(bytes(101))), "101 bytes where 100 belong"),
        (header(100) + piece(zstandard.compress(bytes(1 << 28))), f"{1 << 28} bytes where 100 belong"),
        (header(100) + piece(UNTOLD), "bytes where 100 belong"),
        (header(100) + piece(ZEROS + ZEROS), "piece"),
        (header(100) + piece(ZEROS + b"x"), "piece"),
        (header(100) + piece(b"\x50\x2a\x4d\x18\4\0\0\0skip" + ZEROS), "piece"),
        (header(100) + piece(ZEROS), "it does not make"),
        (header(100, target=bytes(100)) + piece(ZEROS) + piece(ZEROS), "something follows"),
    ],
)
def test_a_made_up_delta_is_refused(attack: bytes, message: str) -> None:
    refused(attack, None, message)


def test_a_base_shorter_than_what_is_asked_of_it_is_refused() -> None:
    frame = zstandard.compress(bytes(100))
    refused(header(100, base=b"x" * 99) + piece(frame, form=1), b"x" * 99, "a piece of form 1")
    refused(header(100, base=b"x" * 7) + piece(frame, form=2), b"x" * 7, "a piece of form 2")


def test_a_frame_that_lies_about_its_size_makes_no_room(tmp_path: Path) -> None:
    """A terabyte in a header of ten bytes, and a gigabyte really in one piece; with 300 MB of memory for all."""
    lie = bytes.fromhex("28b52ffd") + b"\xe0" + (1 << 40).to_bytes(8, "little") + bytes(3)
    bomb = zstandard.compress(bytes(1 << 27))
    for number, frame in enumerate((lie, bomb)):
        (tmp_path / str(number)).write_bytes(header(100) + piece(frame))
    code = (
        "import resource, sys; from pathlib import Path; from edgecl import delta, errors\n"
        "limit = 100 << 20; used = int(Path('/proc/self/statm').read_text().split()[0]) * 4096\n"
        "resource.setrlimit(resource.RLIMIT_AS, (used + limit, used + limit))\n"
        "for path in sys.argv[1:]:\n"
        "    try: delta.apply(Path(path), None, print)\n"
        "    except errors.BundleError as error: print(error)"
    )
    done = subprocess.run(
        [sys.executable, "-P", "-c", code, str(tmp_path / "0"), str(tmp_path / "1")], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    assert [line.split(";")[0] for line in done.stdout.splitlines()] == [
        f"delta: a piece of {1 << 40} bytes where 100 belong",
        f"delta: a piece of {1 << 27} bytes where 100 belong",
    ]


def test_applying_takes_a_few_pieces_of_memory(tmp_path: Path) -> None:
    """Of an object of 24 MiB, shifted, so that every piece has a dictionary."""
    block = random.Random(2).randbytes(1 << 20)
    content = b"".join(number.to_bytes(8, "big") + block for number in range(24))
    (tmp_path / "base").write_bytes(content)
    target = b"shifted" + content
    made = delta.make(tmp_path / "base", target)
    assert made is not None and len(made) < len(target) / 9
    (tmp_path / "delta").write_bytes(made)
    code = (
        "import resource, sys; from pathlib import Path; from edgecl import delta\n"
        "def peak(): return int(Path('/proc/self/status').read_text().split('VmHWM:')[1].split()[0]) >> 10\n"
        "before = peak(); size = 0\n"
        "def write(piece):\n"
        "    global size; size += len(piece)\n"
        "print(delta.apply(Path(sys.argv[1]), Path(sys.argv[2]), write), size, peak() - before)"
    )
    command = [sys.executable, "-P", "-c", code, str(tmp_path / "delta"), str(tmp_path / "base")]
    digest, size, more_mib = subprocess.run(command, capture_output=True, text=True, check=True).stdout.split()
    assert digest == hashlib.sha256(target).hexdigest() and int(size) == len(target)
    assert int(more_mib) < 22, more_mib
