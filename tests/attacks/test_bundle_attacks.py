"""Bundles made to deceive: each is refused in one line, in bounded time and memory, and leaves nothing behind."""

import hashlib
import io
import os
import random
import socket
import subprocess
import sys
import tarfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import numpy.typing as npt
import pytest
import safetensors.numpy
import zstandard

from edgecl import archive, bundle, contents, head, manifest, state, unpack
from edgecl.errors import BundleError
from edgecl.manifest import File, Manifest
from edgecl.manifest_reader import decode

MUTATIONS = 500
Members = list[tuple[str, bytes]]


@pytest.fixture(autouse=True)
def private(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Private copies are made in a place of their own; nothing is left in it, nor put above it."""
    above = tmp_path_factory.mktemp("above")
    place = above / "deep" / "private"
    place.mkdir(parents=True)
    monkeypatch.setattr("tempfile.tempdir", str(place))
    yield
    assert sorted(above.rglob("*")) == [above / "deep", place]


def sealed(made: Manifest, files: dict[str, bytes]) -> bytes:
    """The manifest with these files, told truly."""
    listed = tuple(
        File(path=name, bytes=len(content), sha256=hashlib.sha256(content).hexdigest())
        for name, content in sorted(files.items())
    )
    return manifest.encode(msgspec.structs.replace(made, files=listed))


def members_of(made: Manifest, files: dict[str, bytes]) -> Members:
    return [("manifest.json", sealed(made, files)), *sorted(files.items())]


@pytest.fixture
def tiny_members(tiny_manifest: Manifest, tiny_files: dict[str, bytes]) -> Members:
    return members_of(tiny_manifest, tiny_files)


def packed(members: Members) -> bytes:
    return b"".join(archive.pack(members))


def unzipped(data: bytes) -> bytes:
    return zstandard.ZstdDecompressor().decompressobj().decompress(data)


def laid_out(members: Members, directory: Path) -> Path:
    for name, content in members:
        (directory / name).parent.mkdir(parents=True, exist_ok=True)
        (directory / name).write_bytes(content)
    return directory


def refused(path: Path, message: str) -> None:
    with pytest.raises(BundleError, match=message) as error:
        bundle.open_bundle(path)
    assert "\n" not in str(error.value)
    assert str(error.value).startswith(f"{path}: ")
    assert ";" in str(error.value), "a cure is missing"
    assert error.value.exit_code == 5


def refused_as_both(members: Members, place: Path, message: str) -> None:
    place.mkdir()
    (place / "attack.ecl").write_bytes(packed(members))
    refused(place / "attack.ecl", message)
    refused(laid_out(members, place / "attack"), message)


# Damage on the way


def test_an_archive_cut_off_anywhere_is_refused(tiny_members: Members, tmp_path: Path) -> None:
    whole, path = packed(tiny_members), tmp_path / "cut.ecl"
    for length in (*range(0, len(whole), 53), *range(len(whole) - 24, len(whole))):
        path.write_bytes(whole[:length])
        refused(path, "get the bundle again")


def test_a_tar_cut_off_anywhere_is_refused(tiny_members: Members, tmp_path: Path) -> None:
    whole, path = unzipped(packed(tiny_members)), tmp_path / "cut.ecl"
    for length in (*range(0, len(whole), 509), *range(len(whole) - 1024, len(whole), 128)):
        path.write_bytes(zstandard.compress(whole[:length]))
        refused(path, "ends too early; get the bundle again")


@pytest.mark.parametrize(
    ("harm", "message"),
    [
        (lambda content: content[:-1], "bytes where"),
        (lambda content: content[: len(content) // 2], "bytes where"),
        (lambda content: b"", "bytes where"),
        (lambda content: content + b"\0", "bytes where"),
        (lambda content: bytes([content[0] ^ 1]) + content[1:], "sha256 differs"),
        (lambda content: content[:-1] + bytes([content[-1] ^ 0x80]), "sha256 differs"),
        (lambda content: None, "is missing"),
    ],
    ids=["short by one", "half", "empty", "long by one", "first bit", "last bit", "gone"],
)
def test_a_file_that_is_not_what_the_manifest_lists_is_refused(
    harm: Callable[[bytes], bytes | None], message: str, tiny_members: Members, tmp_path: Path
) -> None:
    for number, (victim, content) in enumerate(tiny_members[1:], 1):
        harmed = harm(content)
        other = [] if harmed is None else [(victim, harmed)]
        members = tiny_members[:number] + other + tiny_members[number + 1 :]
        refused_as_both(members, tmp_path / str(number), f"{victim}.*{message}")


def test_a_bundle_without_its_manifest_is_refused(tiny_members: Members, tmp_path: Path) -> None:
    refused_as_both(tiny_members[1:], tmp_path / "a", r"manifest\.json")


def test_an_archive_that_does_not_start_with_its_manifest_is_refused(tiny_members: Members, tmp_path: Path) -> None:
    (tmp_path / "a.ecl").write_bytes(packed([*tiny_members[1:], tiny_members[0]]))
    refused(tmp_path / "a.ecl", "starts with 'canaries")


def test_an_empty_archive_is_refused(tmp_path: Path) -> None:
    (tmp_path / "a.ecl").write_bytes(packed([]))
    refused(tmp_path / "a.ecl", "starts with 'nothing'")


@pytest.mark.parametrize(
    "data", [b"", b"PK\x03\x04" + bytes(100), bytes(100), b"\x28\xb5\x2f\xfd", random.Random(1).randbytes(5000)]
)
def test_a_file_that_is_no_archive_is_refused(data: bytes, tmp_path: Path) -> None:
    (tmp_path / "a.ecl").write_bytes(data)
    refused(tmp_path / "a.ecl", "get it again|get the bundle again")


def test_a_path_without_a_bundle_is_refused(tmp_path: Path) -> None:
    refused(tmp_path / "nothing", "no bundle is here")
    (tmp_path / "folder").mkdir()
    refused(tmp_path / "folder", r"no manifest\.json")
    os.mkfifo(tmp_path / "pipe")
    refused(tmp_path / "pipe", "no bundle is here")


# More than there should be


@pytest.mark.parametrize(
    "name", ["extra", "manifest.json.bak", "program.pte2", ".hidden", "onnx/other.onnx", "edgecl.so"]
)
def test_a_file_that_is_not_listed_is_refused(name: str, tiny_members: Members, tmp_path: Path) -> None:
    refused_as_both([*tiny_members, (name, b"")], tmp_path / "a", f"{name}'? is not in manifest")


@pytest.mark.parametrize(
    "name", ["code.py", "model.pkl", "onnx/unknown.onnx", "manifest.json", "signature.json", "onnx"]
)
def test_a_listed_file_that_no_bundle_has_is_refused(
    name: str, tiny_manifest: Manifest, tiny_files: dict[str, bytes], tmp_path: Path
) -> None:
    with_it = sealed(tiny_manifest, {**tiny_files, name: b"cos"})
    (tmp_path / "a.ecl").write_bytes(
        packed([("manifest.json", with_it), *sorted({**tiny_files, name: b"cos"}.items())])
    )
    refused(tmp_path / "a.ecl", f"lists '{name}', which no bundle has")


@pytest.mark.parametrize("name", ["program.pte", "state.safetensors", "vectors.safetensors", "canaries.safetensors"])
def test_a_manifest_that_lists_no_needed_file_is_refused(
    name: str, tiny_manifest: Manifest, tiny_files: dict[str, bytes], tmp_path: Path
) -> None:
    del tiny_files[name]
    refused_as_both(members_of(tiny_manifest, tiny_files), tmp_path / "a", f"lists no {name}")


def test_a_member_that_stands_twice_is_refused(tiny_members: Members, tmp_path: Path) -> None:
    for number, member in enumerate(tiny_members):
        path = tmp_path / f"{number}.ecl"
        path.write_bytes(packed([*tiny_members, member]))
        refused(path, "stands twice" if number else "is not in manifest")


def test_a_second_signature_and_a_large_one_are_refused(tiny_members: Members, tmp_path: Path) -> None:
    signed = [*tiny_members, ("signature.json", b"{}")]
    (tmp_path / "a.ecl").write_bytes(packed([*signed, signed[-1]]))
    refused(tmp_path / "a.ecl", "stands twice")
    large = ("signature.json", bytes(manifest.MAX_SIGNATURE_BYTES + 1))
    refused_as_both([*tiny_members, large], tmp_path / "b", "more than the limit")


@pytest.mark.parametrize(
    "garbage",
    [b"\0", b"garbage", zstandard.compress(b""), zstandard.compress(bytes(1024)), b"\x50\x2a\x4d\x18\4\0\0\0skip"],
    ids=["zero", "text", "empty frame", "frame", "skippable frame"],
)
def test_anything_behind_the_archive_is_refused(garbage: bytes, tiny_members: Members, tmp_path: Path) -> None:
    (tmp_path / "a.ecl").write_bytes(packed(tiny_members) + garbage)
    refused(tmp_path / "a.ecl", "something follows the end")


@pytest.mark.parametrize("garbage", [b"\0", bytes(512), bytes(8192), b"x" * 512])
def test_anything_behind_the_tar_is_refused(garbage: bytes, tiny_members: Members, tmp_path: Path) -> None:
    (tmp_path / "a.ecl").write_bytes(zstandard.compress(unzipped(packed(tiny_members)) + garbage))
    refused(tmp_path / "a.ecl", "something follows the end")


def test_the_end_is_found_wherever_it_falls(
    tiny_manifest: Manifest, tiny_files: dict[str, bytes], tmp_path: Path
) -> None:
    """An archive is taken in slices of 512 bytes; frames are made to end around the border between two."""
    noise, path, missing = random.Random(3).randbytes(20_000), tmp_path / "a.ecl", {0, 1, 4, 5, 511}
    for size in range(700, len(noise)):
        whole = packed(members_of(tiny_manifest, {**tiny_files, "program.pte": noise[:size]}))
        behind = len(whole) % 512
        if behind in missing:
            missing.remove(behind)
            path.write_bytes(whole)
            bundle.open_bundle(path).close()
            path.write_bytes(whole + b"x")
            refused(path, "something follows the end")
        if not missing:
            return
    raise AssertionError(f"no archive ends {missing} bytes behind a border")


def test_a_tar_with_half_an_end_is_refused(tiny_members: Members, tmp_path: Path) -> None:
    tar = unzipped(packed(tiny_members))
    (tmp_path / "a.ecl").write_bytes(zstandard.compress(tar[:-512] + b"x" * 512))
    refused(tmp_path / "a.ecl", "one end block where two are needed")


def test_a_padding_that_hides_bytes_is_refused(tiny_members: Members, tmp_path: Path) -> None:
    tar = bytearray(unzipped(packed(tiny_members)))
    end = 512 + len(tiny_members[0][1])
    assert tar[end : end + 1] == b"\0" and end % 512
    tar[end] = 1
    (tmp_path / "a.ecl").write_bytes(zstandard.compress(tar))
    refused(tmp_path / "a.ecl", "padding that is not zero")


# Names and kinds of files


@pytest.mark.parametrize(
    "name", ["../evil", "/tmp/evil", "onnx/../../evil", "./program.pte", "onnx//infer_b1.onnx", "a\\b", "..", "onnx/.."]
)
def test_a_name_that_leaves_its_place_is_refused(
    name: str, tiny_manifest: Manifest, tiny_files: dict[str, bytes], tmp_path: Path
) -> None:
    (tmp_path / "a.ecl").write_bytes(packed([*members_of(tiny_manifest, tiny_files), (name, b"evil")]))
    refused(tmp_path / "a.ecl", "is not in manifest")
    (tmp_path / "b.ecl").write_bytes(packed(members_of(tiny_manifest, {**tiny_files, name: b"evil"})))
    refused(tmp_path / "b.ecl", "is not a plain relative path")


@pytest.mark.parametrize("name", ["../evil", "/tmp/edgecl-evil", "onnx/../../evil", "deep/er/evil"])
@pytest.mark.parametrize("form", ["made", "made.ecl"])
def test_a_name_that_leaves_its_place_is_not_written_either(
    name: str, form: str, tiny_manifest: Manifest, tiny_files: dict[str, bytes], tmp_path: Path
) -> None:
    place = tmp_path / "above" / "place"
    place.mkdir(parents=True)
    with pytest.raises(BundleError, match="evil"):
        bundle.write(tiny_manifest, {**tiny_files, name: b"evil"}, place / form)
    assert list(tmp_path.rglob("*")) == [tmp_path / "above", place]
    assert not Path("/tmp/edgecl-evil").exists()


def tar_with(members: Members, victim: str, change: Callable[[tarfile.TarInfo], None], form: int) -> bytes:
    """A tar of these members from another writer, with one member changed."""
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w", format=form) as tar:
        for name, content in members:
            info = tarfile.TarInfo(name)
            info.size = len(content)
            if name == victim:
                change(info)
            tar.addfile(info, io.BytesIO(content) if info.isreg() else None)
    return out.getvalue()


def test_a_tar_of_another_writer_in_the_same_form_would_do(tiny_members: Members, tmp_path: Path) -> None:
    """So that the refusals below are due to what they change."""
    tar = tar_with(tiny_members, "", lambda info: None, tarfile.USTAR_FORMAT).rstrip(b"\0")
    tar += bytes(-len(tar) % 512 + 1024)
    (tmp_path / "a.ecl").write_bytes(zstandard.compress(tar))
    bundle.open_bundle(tmp_path / "a.ecl").close()


@pytest.mark.parametrize(
    ("kind", "message"),
    [
        (tarfile.SYMTYPE, "a symbolic link"),
        (tarfile.LNKTYPE, "a hard link"),
        (tarfile.CHRTYPE, "a device"),
        (tarfile.BLKTYPE, "a device"),
        (tarfile.FIFOTYPE, "a fifo"),
        (tarfile.DIRTYPE, "a directory"),
        (tarfile.AREGTYPE, "not a plain file"),
        (tarfile.CONTTYPE, "not a plain file"),
        (tarfile.GNUTYPE_SPARSE, "not a plain file"),
    ],
)
def test_a_member_that_is_no_plain_file_is_refused(
    kind: bytes, message: str, tiny_members: Members, tmp_path: Path
) -> None:
    def change(info: tarfile.TarInfo) -> None:
        info.type, info.linkname, info.size = kind, "/etc/passwd", 0

    for victim, _ in tiny_members:
        tar = tar_with(tiny_members, victim, change, tarfile.USTAR_FORMAT)
        (tmp_path / "a.ecl").write_bytes(zstandard.compress(tar))
        refused(tmp_path / "a.ecl", message)


@pytest.mark.parametrize("field", ["mode", "uid", "gid", "mtime"])
def test_a_member_with_other_attributes_is_refused(field: str, tiny_members: Members, tmp_path: Path) -> None:
    tar = tar_with(tiny_members, "program.pte", lambda info: setattr(info, field, 0o4755), tarfile.USTAR_FORMAT)
    (tmp_path / "a.ecl").write_bytes(zstandard.compress(tar))
    refused(tmp_path / "a.ecl", "'program.pte' is not a plain file")


@pytest.mark.parametrize("form", [tarfile.PAX_FORMAT, tarfile.GNU_FORMAT])
def test_extended_headers_are_refused(form: int, tiny_members: Members, tmp_path: Path) -> None:
    def change(info: tarfile.TarInfo) -> None:
        info.name = "program.pte" + "x" * 200

    (tmp_path / "a.ecl").write_bytes(zstandard.compress(tar_with(tiny_members, "program.pte", change, form)))
    refused(tmp_path / "a.ecl", "an extended header|not a plain file")


def test_links_and_special_files_in_a_directory_are_refused(tiny_members: Members, tmp_path: Path) -> None:
    directory = laid_out(tiny_members, tmp_path / "a")
    for name, content in tiny_members:
        path = directory / name
        path.unlink()
        (tmp_path / "real").write_bytes(content)
        path.symlink_to(tmp_path / "real")
        refused(directory, "not a plain file")
        path.unlink()
        os.mkfifo(path)
        refused(directory, "not a plain file")
        path.unlink()
        path.mkdir()
        refused(directory, "not a plain file")
        path.rmdir()
        path.write_bytes(content)
    with socket.socket(socket.AF_UNIX) as listener:
        place = os.open(directory, os.O_RDONLY)
        listener.bind(f"/proc/self/fd/{place}/extra")  # a socket's whole path must be short
        os.close(place)
    refused(directory, "'extra' is not a plain file")
    (directory / "extra").unlink()
    bundle.open_bundle(directory).close()


def test_a_device_in_a_directory_is_refused(tiny_members: Members, tmp_path: Path) -> None:
    directory = laid_out(tiny_members, tmp_path / "a")
    (directory / "program.pte").unlink()
    try:
        os.mknod(directory / "program.pte", 0o600 | 0o020000, os.makedev(1, 5))  # /dev/zero
    except PermissionError:
        pytest.skip("only root makes devices")
    refused(directory, "not a plain file")


def test_folders_in_a_directory_are_refused(tiny_members: Members, tmp_path: Path) -> None:
    directory = laid_out(tiny_members, tmp_path / "a")
    (directory / "deeper").mkdir()
    refused(directory, "'deeper' is not a plain file")
    (directory / "deeper").rmdir()
    (directory / "onnx" / "onnx").mkdir()
    refused(directory, "'onnx/onnx' is not a plain file")
    (directory / "onnx" / "onnx").rmdir()
    (tmp_path / "elsewhere").mkdir()
    (directory / "onnx" / "infer_b1.onnx").rename(tmp_path / "elsewhere" / "infer_b1.onnx")
    (directory / "onnx").rmdir()
    (directory / "onnx").symlink_to(tmp_path / "elsewhere")
    refused(directory, "'onnx' is not a plain file")


def test_a_hard_link_in_a_directory_is_copied_like_any_file(tiny_members: Members, tmp_path: Path) -> None:
    directory = laid_out(tiny_members, tmp_path / "a")
    os.link(directory / "program.pte", tmp_path / "other-name")
    with bundle.open_bundle(directory) as opened:
        assert opened.path("program.pte").stat().st_nlink == 1
        assert opened.path("program.pte").stat().st_ino != (tmp_path / "other-name").stat().st_ino


def test_a_directory_of_thousands_of_files_is_refused(tiny_members: Members, tmp_path: Path) -> None:
    directory = laid_out(tiny_members, tmp_path / "a")
    for number in range(manifest.MAX_FILES):
        (directory / f"{number}").touch()
    refused(directory, "more than 256 files")


# Manifests that lie


def test_an_unknown_schema_or_field_is_refused(tiny_members: Members, tmp_path: Path) -> None:
    data = tiny_members[0][1]
    for number, (old, new, message) in enumerate(
        (
            (b'"schema": 1', b'"schema": 2', "schema 2, this edgecl reads schema 1"),
            (b'"schema": 1', b'"schema": "1"', "not a manifest"),
            (b'"schema": 1', b'"schema": 1, "extra": 1', "unknown field"),
            (b'"name": "tiny"', b'"name": "../tiny"', "name"),
            (b'"name": "tiny"', b'"name": "tiny\\n"', "name"),
            (b'"version": 3', b'"version": -3', "version"),
            (b'"min_version": 1', b'"min_version": 4', "min_version 4 is above version 3"),
            (b'"value": 0.001', b'"value": 1e999', "out of range"),
            (b'"value": 0.001', b'"value": NaN', "malformed"),
        )
    ):
        assert old in data
        harmed = [("manifest.json", data.replace(old, new, 1)), *tiny_members[1:]]
        refused_as_both(harmed, tmp_path / str(number), message)


def test_a_manifest_built_to_exhaust_its_reader_is_refused(tiny_members: Members, tmp_path: Path) -> None:
    data = tiny_members[0][1]
    shape = b'"shape": [' + b"2147483648," * 300_000 + b"1]"
    theta = b'"shape": [\n          2,\n          3\n        ]'
    assert theta in data
    for number, harmed in enumerate(
        (
            data + b" " * manifest.MAX_MANIFEST_BYTES,
            b'{"schema": 1, "x": ' + b"[" * 1_000_000,
            b'{"schema": 1, "x": ' + b'{"x":' * 500_000,
            b'{"schema": ' + b"9" * 1_000_000 + b"}",
            data.replace(theta, shape, 1),
            data[:-3],
            data.replace(b"tiny", b"\xff\xfe\xff\xfe"),
        )
    ):
        refused_as_both([("manifest.json", harmed), *tiny_members[1:]], tmp_path / str(number), r"manifest\.json")


def relaid(made: Manifest) -> Manifest:
    """The same manifest with one number more in theta."""
    first, second = made.layout.theta
    layout = msgspec.structs.replace(made.layout, theta=(first, msgspec.structs.replace(second, shape=(6,))))
    with_layout = msgspec.structs.replace(made, layout=layout)
    return refit(with_layout)


def widened(made: Manifest) -> Manifest:
    """The same manifest with one more channel in the first tap."""
    first, second = made.taps
    taps = (msgspec.structs.replace(first, channels=first.channels + 1), second)
    return refit(msgspec.structs.replace(made, features=made.features + 1, taps=taps))


def refit(made: Manifest) -> Manifest:
    """Give every method the signature that the manifest implies."""
    methods = []
    for method in made.methods:
        inputs, outputs = manifest.signature(made, method.kind, method.batch)
        methods.append(msgspec.structs.replace(method, inputs=inputs, outputs=outputs))
    return msgspec.structs.replace(made, methods=tuple(methods))


@pytest.mark.parametrize(
    ("lie", "message"),
    [
        (relaid, r"state\.safetensors: 'theta' is F32\[11\], the manifest says F32\[12\]"),
        (widened, r"vectors\.safetensors: .* the manifest says"),
        (lambda made: refit(msgspec.structs.replace(made, features=8)), "taps: 7 channels, features says 8"),
        (lambda made: refit(msgspec.structs.replace(made, features=0, taps=())), "detector: there are no taps for it"),
        (
            lambda made: msgspec.structs.replace(made, canaries=manifest.Canaries(count=5, accuracy=0.5)),
            r"canaries\.safetensors: '[xy]' is .*, the manifest says",
        ),
        (
            lambda made: msgspec.structs.replace(made, classes=("cat", "dog")),
            "methods.infer_b1",
        ),
        (
            lambda made: msgspec.structs.replace(
                made,
                layout=msgspec.structs.replace(made.layout, slots=(manifest.Piece(name="n", shape=(2,), offset=0),)),
            ),
            "not a state of this bundle's layout",
        ),
        (lambda made: msgspec.structs.replace(made, methods=made.methods[:-1]), "'adapt_b2/.* is not in the manifest"),
    ],
    ids=["theta", "features", "taps", "no taps", "canaries", "classes", "slots", "methods"],
)
def test_a_manifest_that_does_not_fit_its_tensors_is_refused(
    lie: Callable[[Manifest], Manifest],
    message: str,
    tiny_manifest: Manifest,
    tiny_files: dict[str, bytes],
    tmp_path: Path,
) -> None:
    refused_as_both(members_of(lie(tiny_manifest), tiny_files), tmp_path / "a", message)


def test_an_image_without_three_dimensions_is_refused(tiny_members: Members, tmp_path: Path) -> None:
    name, data = tiny_members[0]
    whole, flat = b'"shape": [\n      4,\n      4,\n      3\n    ]', b'"shape": [4, 3]'
    assert data.count(whole) == 1
    refused_as_both(
        [(name, data.replace(whole, flat)), *tiny_members[1:]], tmp_path / "a", "not height, width, channels"
    )


def test_sizes_beyond_the_limit_are_refused_before_anything_is_read(
    tiny_manifest: Manifest, tiny_files: dict[str, bytes], tmp_path: Path
) -> None:
    honest = decode(sealed(tiny_manifest, tiny_files))
    for size in (unpack.MAX_BUNDLE_BYTES, 1 << 46):
        files = tuple(
            msgspec.structs.replace(file, bytes=size) if file.path == "program.pte" else file for file in honest.files
        )
        data = manifest.encode(msgspec.structs.replace(honest, files=files))
        (tmp_path / "a.ecl").write_bytes(packed([("manifest.json", data)]))
        refused(tmp_path / "a.ecl", "more than the limit")


# Tensors that lie


def resealed(made: Manifest, files: dict[str, bytes], name: str, content: bytes) -> Members:
    return members_of(made, {**files, name: content})


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("vector", ["theta", "slots"])
def test_a_state_that_is_not_finite_is_refused(
    vector: str, value: float, tiny_manifest: Manifest, tiny_files: dict[str, bytes], tmp_path: Path
) -> None:
    vectors = safetensors.numpy.load(tiny_files["state.safetensors"])
    vectors[vector][1] = value
    content = state.dump(state.State(tiny_manifest.layout, vectors["theta"], vectors["slots"]))
    members = resealed(tiny_manifest, tiny_files, "state.safetensors", content)
    refused_as_both(members, tmp_path / "a", f"'{vector}' holds numbers that are not finite")


def test_a_state_that_has_learned_already_is_refused(
    tiny_manifest: Manifest, tiny_files: dict[str, bytes], tmp_path: Path
) -> None:
    vectors = safetensors.numpy.load(tiny_files["state.safetensors"])
    content = state.dump(state.State(tiny_manifest.layout, vectors["theta"], vectors["slots"], step=3))
    members = resealed(tiny_manifest, tiny_files, "state.safetensors", content)
    refused_as_both(members, tmp_path / "a", "made at step 3")


def test_a_copy_planted_in_the_cache_does_not_save_a_bundle_from_being_checked(
    tiny_manifest: Manifest, tiny_files: dict[str, bytes], tmp_path: Path
) -> None:
    bad = detector_with(tiny_files, mean=np.full(7, np.nan, np.float32))
    members = resealed(tiny_manifest, tiny_files, "detector.safetensors", bad)
    laid_out(members, tmp_path / "cache" / hashlib.sha256(members[0][1]).hexdigest())
    (tmp_path / "a.ecl").write_bytes(packed(members))
    with pytest.raises(BundleError, match="not finite"):
        bundle.open_bundle(tmp_path / "a.ecl", cache=tmp_path / "cache")


def detector_with(tiny_files: dict[str, bytes], **changes: npt.NDArray[Any] | None) -> bytes:
    """The detector's file with tensors changed, added, or left out where None."""
    tensors = safetensors.numpy.load(tiny_files["detector.safetensors"]) | changes
    return safetensors.numpy.save({name: tensor for name, tensor in tensors.items() if tensor is not None})


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"mean": np.full(7, np.inf, np.float32)}, "'mean' holds numbers that are not finite"),
        ({"scale": np.zeros(7, np.float32)}, "a scale that is not above zero"),
        ({"scale": np.ones(6, np.float32)}, r"'scale' is F32\[6\], the manifest says F32\[7\]"),
        ({"prototypes": np.zeros((3, 8), np.float32)}, r"'prototypes' is F32\[3, 8\], the manifest says U8\[3, 8\]"),
        ({"prototypes": np.zeros((2, 8), np.uint8)}, r"'prototypes' is U8\[2, 8\], the manifest says U8\[3, 8\]"),
        ({"prototypes": None}, "it has no 'prototypes'"),
        ({"more": np.zeros(1)}, "'more' is not in the manifest"),
    ],
)
def test_a_detector_that_does_not_fit_is_refused(
    changes: dict[str, npt.NDArray[Any] | None],
    message: str,
    tiny_manifest: Manifest,
    tiny_files: dict[str, bytes],
    tmp_path: Path,
) -> None:
    members = resealed(tiny_manifest, tiny_files, "detector.safetensors", detector_with(tiny_files, **changes))
    refused_as_both(members, tmp_path / "a", rf"detector\.safetensors: {message}")


@pytest.mark.parametrize(
    ("lie", "message"),
    [
        ({"dimensions": 96}, r"'prototypes' is U8\[3, 8\], the manifest says U8\[3, 12\]"),
        ({"form": "full"}, r"'prototypes' is U8\[3, 8\], the manifest says F32\[3, 64\]"),
    ],
)
def test_a_manifest_that_lies_about_the_detector_is_refused(
    lie: dict[str, Any], message: str, tiny_manifest: Manifest, tiny_files: dict[str, bytes], tmp_path: Path
) -> None:
    assert tiny_manifest.detector
    changed = msgspec.structs.replace(tiny_manifest, detector=msgspec.structs.replace(tiny_manifest.detector, **lie))
    refused_as_both(members_of(changed, tiny_files), tmp_path / "a", message)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"blocks": np.full(25, np.nan, np.float32)}, "'blocks' holds numbers that are not finite"),
        ({"blocks": np.zeros(24, np.float32)}, r"'blocks' is F32\[24\], the manifest says F32\[25\]"),
        ({"mean": np.full(7, -np.inf, np.float32)}, "'mean' holds numbers that are not finite"),
        ({"prototype": np.zeros(9, np.uint8)}, r"'prototype' is U8\[9\], the manifest says U8\[8\]"),
        ({"prototype": None}, "it has no 'prototype'"),
        ({"more": np.zeros(1)}, "'more' is not in the manifest"),
    ],
)
def test_a_router_that_does_not_fit_is_refused(
    changes: dict[str, npt.NDArray[Any] | None],
    message: str,
    tiny_manifest: Manifest,
    tiny_files: dict[str, bytes],
    tmp_path: Path,
) -> None:
    tensors = safetensors.numpy.load(tiny_files["router.safetensors"]) | changes
    content = safetensors.numpy.save({name: tensor for name, tensor in tensors.items() if tensor is not None})
    members = resealed(tiny_manifest, tiny_files, "router.safetensors", content)
    refused_as_both(members, tmp_path / "a", rf"router\.safetensors: {message}")


def head_of(features: int, classes: int, count: int) -> bytes:
    """A head of random samples."""
    random = np.random.default_rng(3)
    empty = head.HEADS["lda"].empty(features, classes, 0)
    return head.dump(empty.add(random.standard_normal((count, features)), random.integers(0, classes, count)))


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (head_of(6, 3, 9), "a head of .*, the bundle has"),
        (head_of(7, 4, 9), "9 samples of 4 classes"),
        (head_of(7, 2, 9), "it has 2 classes, the bundle 3"),
        (head_of(7, 3, 0), "0 samples of 3 classes"),
        (head_of(7, 3, 9)[:-8] + b"\xff" * 8, "its digest does not match|not finite"),
        (b"", "not a head"),
    ],
)
def test_a_head_that_does_not_fit_is_refused(
    content: bytes, message: str, tiny_manifest: Manifest, tiny_files: dict[str, bytes], tmp_path: Path
) -> None:
    members = resealed(tiny_manifest, tiny_files, "head.safetensors", content)
    refused_as_both(members, tmp_path / "a", rf"head\.safetensors: .*({message})")


def form_of(made: Manifest, name: str, **changes: Any) -> manifest.Form:
    """The manifest's own form, or one that is changed."""
    plain = manifest.Form(name=name, layout=made.layout, trained=made.learner.trained, gates=0)
    return msgspec.structs.replace(plain, **changes)


def test_forms_that_contradict_each_other_are_refused(
    tiny_manifest: Manifest, tiny_files: dict[str, bytes], tmp_path: Path
) -> None:
    first = form_of(tiny_manifest, "film")
    layout = msgspec.structs.replace(tiny_manifest.layout, slots=())
    other = form_of(tiny_manifest, "wide", layout=layout)
    for number, (forms, message) in enumerate(
        (
            ((first,), "one alone, or a name stands twice"),
            ((first, form_of(tiny_manifest, "film", layout=layout)), "one alone, or a name stands twice"),
            ((other, first), "the first one is not that of layout and learner"),
            ((first, form_of(tiny_manifest, "same")), "two have the same layout"),
            ((first, other), "none infers one sample of form wide"),
        )
    ):
        changed = msgspec.structs.replace(tiny_manifest, forms=forms)
        refused_as_both(members_of(changed, tiny_files), tmp_path / str(number), message)
    stray = msgspec.structs.replace(tiny_manifest.methods[0], name="wide.infer_b1", form="wide")
    changed = msgspec.structs.replace(tiny_manifest, methods=(*tiny_manifest.methods, stray))
    refused_as_both(members_of(changed, tiny_files), tmp_path / "stray", "there is no form wide")


def test_float_canaries_that_are_not_finite_are_refused(
    tiny_manifest: Manifest, tiny_files: dict[str, bytes], tmp_path: Path
) -> None:
    given = manifest.Input(kind="vector", shape=(3, 4, 4), scale=(1.0,) * 3, shift=(0.0,) * 3)
    vectors = msgspec.structs.replace(tiny_manifest, input=given)
    x = np.zeros((4, 3, 4, 4), np.float32)
    x[2, 1, 0, 0] = np.inf
    content = safetensors.numpy.save({"x": x, "y": np.zeros(4, np.int64)})
    members = resealed(vectors, tiny_files, "canaries.safetensors", content)
    refused_as_both(members, tmp_path / "a", "'x' holds numbers that are not finite")


@pytest.mark.parametrize("label", [-1, 3])
def test_a_canary_of_no_class_is_refused(
    label: int, tiny_manifest: Manifest, tiny_files: dict[str, bytes], tmp_path: Path
) -> None:
    content = safetensors.numpy.save({"x": np.zeros((4, 4, 4, 3), np.uint8), "y": np.array([0, 1, label, 2])})
    members = resealed(tiny_manifest, tiny_files, "canaries.safetensors", content)
    refused_as_both(members, tmp_path / "a", "a label is none of the 3 classes")


def hostile_tensors() -> Iterator[tuple[str, bytes]]:
    def framed(header: bytes, data: bytes = b"") -> bytes:
        return len(header).to_bytes(8, "little") + header + data

    yield "nothing", b""
    yield "half a length", b"\1\0\0"
    yield "a length without a header", (8).to_bytes(8, "little")
    yield "a length beyond the file", (1 << 40).to_bytes(8, "little") + bytes(100)
    yield "a length beyond everything", b"\xff" * 8 + bytes(100)
    yield "a long header", framed(b"{" + b" " * contents.MAX_HEADER_BYTES + b"}")
    yield "a deep header", framed(b'{"a":' * 100_000)
    yield "no JSON", framed(b"nonsense")
    yield "an array", framed(b"[]")
    yield "holes", framed(b'{"theta":{"dtype":"F32","shape":[1],"data_offsets":[4,8]}}', bytes(8))
    yield (
        "an overlap",
        framed(
            b'{"theta":{"dtype":"F32","shape":[2],"data_offsets":[0,8]},"slots":{"dtype":"F32","shape":[2],"data_offsets":[0,8]}}',
            bytes(8),
        ),
    )
    yield (
        "a size that overflows",
        framed(b'{"theta":{"dtype":"F32","shape":[4611686018427387904,4],"data_offsets":[0,0]}}'),
    )
    yield "offsets backwards", framed(b'{"theta":{"dtype":"F32","shape":[1],"data_offsets":[4,0]}}', bytes(4))
    yield "an unknown type", framed(b'{"theta":{"dtype":"F31","shape":[1],"data_offsets":[0,4]}}', bytes(4))
    yield "a rare type", framed(b'{"theta":{"dtype":"BF16","shape":[2],"data_offsets":[0,4]}}', bytes(4))
    yield "bytes at the end", safetensors.numpy.save({"theta": np.zeros(1, np.float32)}) + b"x"
    yield "a pickle", b"\x80\x04cos\nsystem\n(S'true'\ntR."


@pytest.mark.parametrize("name", ["state", "vectors", "canaries", "detector"])
def test_files_that_are_no_sound_tensors_are_refused(
    name: str, tiny_manifest: Manifest, tiny_files: dict[str, bytes], tmp_path: Path
) -> None:
    for what, content in hostile_tensors():
        members = resealed(tiny_manifest, tiny_files, f"{name}.safetensors", content)
        refused_as_both(members, tmp_path / what, rf"{name}\.safetensors: ")


# Bombs

MEASURE = """
import resource, sys, time
from pathlib import Path
from edgecl import bundle
from edgecl.errors import BundleError
bundle.open_bundle(Path(sys.argv[1])).close()
before_kb, started_s = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, time.process_time()
try:
    bundle.open_bundle(Path(sys.argv[2]))
except BundleError as error:
    print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before_kb, time.process_time() - started_s, error)
"""


def bombs(members: Members) -> Iterator[tuple[str, bytes]]:
    def zipped(start: bytes, filler: bytes, times: int) -> bytes:
        frame = zstandard.ZstdCompressor(level=3).compressobj()
        return frame.compress(start) + b"".join(frame.compress(filler) for _ in range(times)) + frame.flush()

    tar = unzipped(packed(members))
    zeros, mega = bytes(1 << 20), 1 << 20
    yield "nothing but zeros", zipped(b"", zeros, 2048)
    yield "zeros behind the archive", zipped(tar, zeros, 2048)
    yield "an endless first member", zipped(archive._header(b"manifest.json", 2 << 30), b" " * mega, 2048)
    yield "a manifest as large as allowed", zipped(archive._header(b"manifest.json", 4 << 20), b" " * mega, 4)
    yield (
        "an endless member",
        zipped(
            tar[: 512 + len(members[0][1]) // 512 * 512 + 512] + archive._header(b"program.pte", 2 << 30), zeros, 2048
        ),
    )
    yield "a hundred thousand members", zipped(tar[:-1024], archive._header(b"program.pte", 0) * 1000, 100)
    wide = zstandard.ZstdCompressionParameters.from_level(3, window_log=24)
    frame = zstandard.ZstdCompressor(compression_params=wide).compressobj()
    yield "a window of 16 MiB", frame.compress(tar) + frame.flush()


def test_bombs_are_refused_in_bounded_time_and_memory(tiny_members: Members, tmp_path: Path) -> None:
    good = tmp_path / "good.ecl"
    good.write_bytes(packed(tiny_members))
    for number, (what, data) in enumerate(bombs(tiny_members)):
        path = tmp_path / f"{number}.ecl"
        path.write_bytes(data)
        arguments = [sys.executable, "-c", MEASURE, str(good), str(path)]
        told = subprocess.run(arguments, capture_output=True, text=True, check=True, timeout=60).stdout
        kilobytes, seconds, message = told.split(maxsplit=2)
        assert int(kilobytes) < 64 << 10, what
        assert float(seconds) < 5, what
        assert message.startswith(str(path)), what
        assert "window" not in what or "too much memory" in message


# Chance


def mutated(data: bytes, chance: random.Random) -> bytes:
    out = bytearray(data)
    for _ in range(chance.choice((1, 1, 1, 2, 5))):
        at = chance.randrange(len(out) + 1)
        length = chance.choice((1, 1, 2, 8, 100, 600))
        match chance.randrange(6):
            case 0 if at < len(out):
                out[at] ^= 1 << chance.randrange(8)
            case 1:
                out[at : at + length] = chance.randbytes(length)
            case 2:
                del out[at : at + length]
            case 3:
                out[at:at] = chance.randbytes(length)
            case 4:
                out[at : at + length] = bytes(length)
            case 5:
                other = chance.randrange(len(out) + 1)
                out[at : at + length] = out[other : other + length]
    return bytes(out)


def opens_unchanged(path: Path, members: Members) -> bool:
    """Whether it opens, and then with exactly these files; False where it is refused.

    A manifest may have changed in a place where any value is right: then it is another bundle, with another id.
    """
    try:
        opened = bundle.open_bundle(path)
    except BundleError as error:
        assert "\n" not in str(error)
        return False
    with opened:
        found = {
            str(p.relative_to(opened.directory)): p.read_bytes() for p in opened.directory.rglob("*") if p.is_file()
        }
        assert opened.id == hashlib.sha256(found["manifest.json"]).hexdigest()
        assert {**found, "manifest.json": b""} == {**dict(members), "manifest.json": b""}
    return True


def test_random_damage_to_an_archive_is_refused_or_harmless(tiny_members: Members, tmp_path: Path) -> None:
    chance, whole, path = random.Random(20), packed(tiny_members), tmp_path / "a.ecl"
    for _ in range(MUTATIONS):
        path.write_bytes(mutated(whole, chance))
        opens_unchanged(path, tiny_members)


def test_random_damage_to_a_tar_is_refused_or_harmless(tiny_members: Members, tmp_path: Path) -> None:
    chance, whole, path = random.Random(21), unzipped(packed(tiny_members)), tmp_path / "a.ecl"
    for _ in range(MUTATIONS):
        path.write_bytes(zstandard.compress(mutated(whole, chance)))
        opens_unchanged(path, tiny_members)


def test_random_damage_to_a_directory_is_refused_or_harmless(tiny_members: Members, tmp_path: Path) -> None:
    chance, directory = random.Random(22), laid_out(tiny_members, tmp_path / "a")
    for _ in range(MUTATIONS):
        name, content = chance.choice(tiny_members)
        other, other_content = chance.choice(tiny_members)
        match chance.randrange(8):
            case 0:
                (directory / name).unlink()
            case 1:
                (directory / name).rename(directory / "renamed")
            case 2:
                (directory / name).write_bytes(other_content)
                (directory / other).write_bytes(content)
            case _:
                (directory / name).write_bytes(mutated(content, chance))
        opens_unchanged(directory, tiny_members)
        (directory / "renamed").unlink(missing_ok=True)
        laid_out([(name, content), (other, other_content)], directory)
    assert opens_unchanged(directory, tiny_members)


def test_random_damage_under_an_honest_manifest_is_refused_or_a_sound_bundle(
    tiny_manifest: Manifest, tiny_files: dict[str, bytes], tmp_path: Path
) -> None:
    """As an attacker would who makes a whole bundle: digests are right, so parsers meet the damage."""
    chance, path = random.Random(23), tmp_path / "a.ecl"
    tensors = [name for name in tiny_files if name.endswith(".safetensors")]
    opened_some = 0
    for number in range(MUTATIONS):
        name = chance.choice(tensors)
        members = resealed(tiny_manifest, tiny_files, name, mutated(tiny_files[name], chance))
        if number % 3 == 0:
            members[0] = ("manifest.json", mutated(members[0][1], chance))
        path.write_bytes(packed(members))
        if opens_unchanged(path, members):
            opened_some += 1
            with bundle.open_bundle(path) as opened:
                assert bundle.read_state(opened).finite
                assert bundle.read_canaries(opened).y.max() < 3
                for method in opened.manifest.methods:
                    bundle.read_vectors(opened, method)
    assert opened_some > 10
