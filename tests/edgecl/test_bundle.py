"""Bundles: written reproducibly, opened as they were written, and copied before they are used."""

import hashlib
import io
import os
import subprocess
import sys
import tarfile
from pathlib import Path

import msgspec
import numpy as np
import pytest
import zstandard

from edgecl import bundle, state
from edgecl.errors import BundleError, StoreError
from edgecl.manifest import Canaries, Manifest
from edgecl.manifest_reader import decode

FORMS = ["tiny.ecl", "tiny"]
"""An archive and a directory."""

REPRODUCE = """
import os, sys, tempfile
from pathlib import Path
from edgecl import bundle
from edgecl.manifest_reader import decode
os.umask(int(sys.argv[3], 8))
source = Path(sys.argv[1])
made = decode((source / "manifest.json").read_bytes())
names = [file.path for file in made.files]
if sys.argv[4] == "backwards":
    names.reverse()
bundle.write(made, {name: (source / name).read_bytes() for name in names}, Path(sys.argv[2])).close()
"""


def contents_of(directory: Path) -> dict[str, bytes]:
    return {str(path.relative_to(directory)): path.read_bytes() for path in directory.rglob("*") if path.is_file()}


@pytest.mark.parametrize("form", FORMS)
def test_a_bundle_opens_as_it_was_written(
    form: str, tiny_manifest: Manifest, tiny_files: dict[str, bytes], tmp_path: Path
) -> None:
    with bundle.write(tiny_manifest, tiny_files, tmp_path / form) as written:
        pass
    with bundle.open_bundle(tmp_path / form) as opened:
        found = contents_of(opened.directory)
        data = found.pop("manifest.json")
        assert found == tiny_files
        assert opened.id == written.id == hashlib.sha256(data).hexdigest()
        assert opened.manifest == written.manifest == decode(data)
        assert msgspec.structs.replace(opened.manifest, files=()) == tiny_manifest
        assert opened.path("program.pte").read_bytes() == tiny_files["program.pte"]
        assert opened.has("onnx/infer_b1.onnx")
        assert not opened.has("onnx/infer_b2.onnx")
        with pytest.raises(BundleError, match=r"no onnx/infer_b2\.onnx; build"):
            opened.path("onnx/infer_b2.onnx")
    assert not opened.directory.exists()


@pytest.mark.parametrize("form", FORMS)
def test_the_readers_give_what_was_put_in(
    form: str, tiny_manifest: Manifest, tiny_files: dict[str, bytes], tmp_path: Path
) -> None:
    import safetensors.numpy

    vectors = safetensors.numpy.load(tiny_files["vectors.safetensors"])
    canaries = safetensors.numpy.load(tiny_files["canaries.safetensors"])
    with bundle.write(tiny_manifest, tiny_files, tmp_path / form) as opened:
        assert state.dump(bundle.read_state(opened)) == tiny_files["state.safetensors"]
        found = bundle.read_canaries(opened)
        assert np.array_equal(found.x, canaries["x"])
        assert np.array_equal(found.y, canaries["y"])
        adapt = opened.manifest.method("adapt")
        read = bundle.read_vectors(opened, adapt)
        assert [tensor.name for tensor in adapt.inputs] == ["theta", "slots", "x", "hyper"]
        for tensor, array in zip(adapt.inputs, read.inputs, strict=True):
            assert np.array_equal(array, vectors[f"adapt_b2/in/{tensor.name}"])
        for tensor, array in zip(adapt.outputs, read.outputs, strict=True):
            assert np.array_equal(array, vectors[f"adapt_b2/out/{tensor.name}"])


@pytest.mark.parametrize("form", FORMS)
def test_the_same_input_gives_the_same_bytes_in_any_process(
    form: str, tiny_manifest: Manifest, tiny_files: dict[str, bytes], tmp_path: Path
) -> None:
    bundle.write(tiny_manifest, tiny_files, tmp_path / "source").close()
    made = []
    for number, (umask, order, seed, zone) in enumerate(
        (("077", "forwards", "1", "UTC"), ("000", "backwards", "77", "Asia/Tokyo"))
    ):
        target = tmp_path / str(number) / form
        target.parent.mkdir()
        environment = {**os.environ, "PYTHONHASHSEED": seed, "TZ": zone, "USER": f"user{number}"}
        arguments: list[str | Path] = [tmp_path / "source", target, umask, order]
        subprocess.run([sys.executable, "-c", REPRODUCE, *arguments], check=True, env=environment)
        made.append(contents_of(target) if target.is_dir() else target.read_bytes())
    assert made[0] == made[1]


def test_the_two_forms_have_the_same_id(tiny_manifest: Manifest, tiny_files: dict[str, bytes], tmp_path: Path) -> None:
    with (
        bundle.write(tiny_manifest, tiny_files, tmp_path / "a.ecl") as archive,
        bundle.write(tiny_manifest, tiny_files, tmp_path / "a") as directory,
    ):
        assert archive.id == directory.id


def test_an_archive_is_an_ordinary_tar_in_one_zstd_frame(
    tiny_manifest: Manifest, tiny_files: dict[str, bytes], tmp_path: Path
) -> None:
    bundle.write(tiny_manifest, tiny_files, tmp_path / "a.ecl").close()
    with (tmp_path / "a.ecl").open("rb") as file:
        data = zstandard.ZstdDecompressor().stream_reader(file).read()
    with tarfile.open(fileobj=io.BytesIO(data), format=tarfile.USTAR_FORMAT) as tar:
        members = tar.getmembers()
        assert [member.name for member in members] == ["manifest.json", *sorted(tiny_files)]
        for member in members:
            assert (member.mode, member.uid, member.gid, member.mtime) == (0o644, 0, 0, 0)
            assert (member.type, member.uname, member.gname) == (tarfile.REGTYPE, "", "")
        for name, content in tiny_files.items():
            extracted = tar.extractfile(name)
            assert extracted is not None and extracted.read() == content


def test_a_tar_has_the_bytes_that_the_format_page_tells() -> None:
    from edgecl import archive

    header = b"".join(
        (
            b"manifest.json".ljust(100, b"\0"),
            b"0000644\0",
            b"0000000\0",
            b"0000000\0",
            b"00000000003\0",
            b"00000000000\0",
            b"010437\0 ",
            b"0",
            bytes(100),
            b"ustar\x0000",
            bytes(247),
        )
    )
    frame = b"".join(archive.pack([("manifest.json", b"abc")]))
    assert zstandard.ZstdDecompressor().decompressobj().decompress(frame) == header + b"abc" + bytes(509) + bytes(1024)
    assert sum(header) - sum(b"010437\0 ") + 8 * ord(" ") == 0o10437


def test_what_was_opened_does_not_change_with_the_original(
    tiny_manifest: Manifest, tiny_files: dict[str, bytes], tmp_path: Path
) -> None:
    bundle.write(tiny_manifest, tiny_files, tmp_path / "tiny").close()
    with bundle.open_bundle(tmp_path / "tiny") as opened:
        (tmp_path / "tiny" / "program.pte").write_bytes(b"other")
        assert opened.path("program.pte").read_bytes() == tiny_files["program.pte"]
        assert opened.directory.stat().st_mode & 0o777 == 0o700


def test_writing_replaces_a_bundle_and_leaves_nothing_beside_it(
    tiny_manifest: Manifest, tiny_files: dict[str, bytes], tmp_path: Path
) -> None:
    for form in FORMS:
        bundle.write(tiny_manifest, tiny_files, tmp_path / form).close()
        with bundle.write(tiny_manifest, {**tiny_files, "program.pte": b"second"}, tmp_path / form):
            pass
        with bundle.open_bundle(tmp_path / form) as opened:
            assert opened.path("program.pte").read_bytes() == b"second"
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted(FORMS)


def test_the_directory_that_one_is_in_can_be_replaced(
    tiny_manifest: Manifest, tiny_files: dict[str, bytes], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    bundle.write(tiny_manifest, tiny_files, tmp_path / "tiny").close()
    monkeypatch.chdir(tmp_path / "tiny")
    bundle.write(tiny_manifest, {**tiny_files, "program.pte": b"second"}, Path()).close()
    assert (tmp_path / "tiny" / "program.pte").read_bytes() == b"second"


def test_writing_refuses_to_replace_a_directory_that_is_no_bundle(
    tiny_manifest: Manifest, tiny_files: dict[str, bytes], tmp_path: Path
) -> None:
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos" / "one.png").write_bytes(b"precious")
    with pytest.raises(BundleError, match="not a bundle"):
        bundle.write(tiny_manifest, tiny_files, tmp_path / "photos")
    assert (tmp_path / "photos" / "one.png").read_bytes() == b"precious"


@pytest.mark.parametrize("form", FORMS)
def test_a_bundle_that_would_be_refused_is_not_written_over_a_good_one(
    form: str, tiny_manifest: Manifest, tiny_files: dict[str, bytes], tmp_path: Path
) -> None:
    with bundle.write(tiny_manifest, tiny_files, tmp_path / form) as good:
        pass
    with pytest.raises(BundleError, match=r"tiny.*state\.safetensors"):
        bundle.write(tiny_manifest, {**tiny_files, "state.safetensors": b"nonsense"}, tmp_path / form)
    assert [path.name for path in tmp_path.iterdir()] == [form]
    with bundle.open_bundle(tmp_path / form) as opened:
        assert opened.id == good.id


def test_writing_where_nothing_can_be_written_is_a_store_error(
    tiny_manifest: Manifest, tiny_files: dict[str, bytes], tmp_path: Path
) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(StoreError, match="give another destination"):
        bundle.write(tiny_manifest, tiny_files, tmp_path / "file" / "tiny.ecl")


def test_a_bundle_without_canaries_needs_no_canary_file(
    tiny_manifest: Manifest, tiny_files: dict[str, bytes], tmp_path: Path
) -> None:
    without = msgspec.structs.replace(tiny_manifest, canaries=Canaries(count=0, accuracy=0.0))
    del tiny_files["canaries.safetensors"]
    with bundle.write(without, tiny_files, tmp_path / "a.ecl") as opened:
        canaries = bundle.read_canaries(opened)
    assert canaries.x.shape == (0, 4, 4, 3)
    assert canaries.y.shape == (0,)


@pytest.mark.parametrize("form", FORMS)
def test_a_signature_is_carried_along_and_not_part_of_the_id(
    form: str, tiny_manifest: Manifest, tiny_files: dict[str, bytes], tmp_path: Path
) -> None:
    from edgecl import archive

    with bundle.write(tiny_manifest, tiny_files, tmp_path / "tiny") as unsigned:
        data = (unsigned.directory / "manifest.json").read_bytes()
    (tmp_path / "tiny" / "signature.json").write_bytes(b"{}")
    members = [("manifest.json", data), ("signature.json", b"{}"), *sorted(tiny_files.items())]
    (tmp_path / "tiny.ecl").write_bytes(b"".join(archive.pack(members)))
    with bundle.open_bundle(tmp_path / form) as opened:
        assert opened.id == unsigned.id
        assert (opened.directory / "signature.json").read_bytes() == b"{}"


@pytest.mark.parametrize("form", FORMS)
def test_a_cached_bundle_is_made_once_and_stays(
    form: str, tiny_manifest: Manifest, tiny_files: dict[str, bytes], tmp_path: Path
) -> None:
    cache = tmp_path / "cache"
    bundle.write(tiny_manifest, tiny_files, tmp_path / form).close()
    with bundle.open_bundle(tmp_path / form, cache=cache) as first:
        assert first.directory == cache / first.id
        inode = first.path("program.pte").stat().st_ino
    with bundle.open_bundle(tmp_path / form, cache=cache) as second:
        assert second.path("program.pte").stat().st_ino == inode
        assert contents_of(second.directory).keys() == {"manifest.json", *tiny_files}
    assert [path.name for path in cache.iterdir()] == [first.id]


def test_a_damaged_or_half_made_cached_bundle_is_made_again(
    tiny_manifest: Manifest, tiny_files: dict[str, bytes], tmp_path: Path
) -> None:
    cache = tmp_path / "cache"
    bundle.write(tiny_manifest, tiny_files, tmp_path / "tiny.ecl").close()
    place = bundle.open_bundle(tmp_path / "tiny.ecl", cache=cache).directory
    good = contents_of(place)
    damaged = bytearray(tiny_files["program.pte"])
    damaged[5] ^= 1

    def with_an_extra_file() -> None:
        (place / "extra").touch()

    def with_another_program() -> None:
        (place / "program.pte").write_bytes(damaged)

    def with_a_link() -> None:
        (place / "program.pte").unlink()
        (place / "program.pte").symlink_to("/etc/passwd")

    def interrupted() -> None:
        place.rename(cache / ".incoming")
        (cache / ".incoming" / "vectors.safetensors").unlink()

    for harm in (with_an_extra_file, with_another_program, with_a_link, interrupted):
        harm()
        with bundle.open_bundle(tmp_path / "tiny.ecl", cache=cache) as opened:
            assert contents_of(opened.directory) == good, harm.__name__
            assert not opened.path("program.pte").is_symlink()
        assert [path.name for path in cache.iterdir()] == [opened.id]


def test_a_damaged_original_leaves_a_damaged_cache_as_it_is(
    tiny_manifest: Manifest, tiny_files: dict[str, bytes], tmp_path: Path
) -> None:
    cache = tmp_path / "cache"
    bundle.write(tiny_manifest, tiny_files, tmp_path / "tiny").close()
    place = bundle.open_bundle(tmp_path / "tiny", cache=cache).directory
    for damaged in (place, tmp_path / "tiny"):
        (damaged / "program.pte").write_bytes(b"other")
    with pytest.raises(BundleError, match="program"):
        bundle.open_bundle(tmp_path / "tiny", cache=cache)
    assert (place / "state.safetensors").read_bytes() == tiny_files["state.safetensors"]


def requirements(made: Manifest, **changed: str | int) -> None:
    board = {
        "edgecl_version": "0.1.0",
        "arch": "x86_64",
        "executorch_version": "1.5.1",
        "available_memory_bytes": 1 << 30,
    }
    bundle.check_requirements(made, **{**board, **changed})  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "changed",
    [
        {},
        {"edgecl_version": "0.2.0"},
        {"edgecl_version": "0.10.0rc1"},
        {"executorch_version": "1.5.1+cpu"},
        {"executorch_version": "1.6.0"},
        {"arch": "aarch64"},
        {"available_memory_bytes": 1 << 20},
    ],
)
def test_a_board_that_has_enough_is_accepted(changed: dict[str, str | int], tiny_manifest: Manifest) -> None:
    requirements(tiny_manifest, **changed)


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"edgecl_version": "0.0.9"}, r"made for edgecl 0\.1\.0, this is 0\.0\.9; install"),
        ({"edgecl_version": "1.0.0"}, r"made for edgecl 0\.1\.0, this is 1\.0\.0"),
        ({"executorch_version": "1.5.0"}, r"made for ExecuTorch executorch 1\.5\.1, this is 1\.5\.0"),
        ({"executorch_version": "2.0.0"}, "made for ExecuTorch"),
        ({"executorch_version": "unknown"}, "made for ExecuTorch"),
        ({"arch": "armv7l"}, "made for x86_64, aarch64, this is armv7l; build"),
        ({"available_memory_bytes": (1 << 20) - 1}, "needs 1048576 bytes of memory, 1048575 are available; stop"),
    ],
)
def test_a_board_that_lacks_something_is_told_the_cure(
    changed: dict[str, str | int], message: str, tiny_manifest: Manifest
) -> None:
    with pytest.raises(BundleError, match=message) as refused:
        requirements(tiny_manifest, **changed)
    assert refused.value.exit_code == 5
    assert "\n" not in str(refused.value)


def test_a_bundle_without_architectures_runs_on_any(tiny_manifest: Manifest) -> None:
    anywhere = msgspec.structs.replace(tiny_manifest.requires, arch=())
    requirements(msgspec.structs.replace(tiny_manifest, requires=anywhere), arch="riscv64")
