"""Signing: keys, signatures that the reference tool of OpenSSF Model Signing takes and makes, and the commands."""

import base64
import hashlib
import importlib.util
import json
import os
import pty
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec

from edgecl import bundle, keys, oms, signed, trust
from edgecl.bundle import open_bundle
from edgecl.errors import BundleError, KeyFileError, StoreError
from edgecl.keys import PrivateKey
from edgecl.manifest import Manifest

MakeBundle = Callable[..., Path]

FORMS = ["tiny.ecl", "tiny"]
COMMAND = (sys.executable, "-P", "-m", "edgecl")
TOOL = (sys.executable, "-P", "-m", "model_signing")

needs_the_tool = pytest.mark.skipif(
    any(importlib.util.find_spec(name) is None for name in ("model_signing", "OpenSSL")),
    reason="pip install model-signing pyopenssl",
)


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where a user of this test has keys."""
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    return tmp_path / "config" / "edgecl" / "keys"


def pair(folder: Path, name: str) -> PrivateKey:
    keys.new(folder, name)
    return keys.read_private(folder / f"{name}.key", lambda: "")


def edgecl(*arguments: Any, **more: Any) -> subprocess.CompletedProcess[str]:
    return subprocess.run([*COMMAND, *map(str, arguments)], capture_output=True, text=True, **more)


def tool(*arguments: Any) -> subprocess.CompletedProcess[str]:
    return subprocess.run([*TOOL, *map(str, arguments)], capture_output=True, text=True)


# Keys


def test_a_key_pair_is_what_openssl_makes_and_its_fingerprint_what_sha256sum_prints(tmp_path: Path) -> None:
    key = keys.new(tmp_path / "deep" / "keys", "release-2026")
    private, public = (tmp_path / "deep" / "keys" / f"release-2026{suffix}" for suffix in (".key", ".pem"))
    assert private.stat().st_mode & 0o777 == 0o600
    assert private.parent.stat().st_mode & 0o777 == 0o700
    assert private.read_text().startswith("-----BEGIN PRIVATE KEY-----\n")
    loaded = serialization.load_pem_public_key(public.read_bytes())
    assert isinstance(loaded, ec.EllipticCurvePublicKey) and loaded.curve.name == "secp256r1"
    form = serialization.PublicFormat.SubjectPublicKeyInfo
    assert loaded.public_bytes(serialization.Encoding.PEM, form) == public.read_bytes()
    assert loaded.public_bytes(serialization.Encoding.DER, form) == key.der
    summed = subprocess.run(["sha256sum", public], capture_output=True, text=True, check=True).stdout.split()[0]
    assert key.fingerprint == f"SHA256:{summed}"
    assert keys.read_public(public) == key == keys.read_private(private, lambda: "").public


def test_keys_are_not_replaced(tmp_path: Path) -> None:
    keys.new(tmp_path, "mine")
    before = {path: path.read_bytes() for path in tmp_path.iterdir()}
    with pytest.raises(KeyFileError, match=r"mine\.key: is there already, and keys are not replaced"):
        keys.new(tmp_path, "mine")
    assert {path: path.read_bytes() for path in tmp_path.iterdir()} == before
    (tmp_path / "mine.key").unlink()
    with pytest.raises(KeyFileError, match=r"mine\.pem: is there already"):
        keys.new(tmp_path, "mine")
    (tmp_path / "mine.pem").unlink()
    (tmp_path / "mine.key").symlink_to(tmp_path / "nowhere")
    with pytest.raises(KeyFileError, match=r"mine\.key: is there already"):
        keys.new(tmp_path, "mine")


@pytest.mark.parametrize("name", ["", "../evil", "a/b", ".hidden", "-k", "a b", "a\n", "x" * 101, "ä"])
def test_a_name_that_is_none_is_refused(name: str, tmp_path: Path) -> None:
    with pytest.raises(KeyFileError, match="no name for a key"):
        keys.new(tmp_path / "keys", name)
    assert not (tmp_path / "keys").exists()


def test_a_passphrase_is_needed_where_there_is_one(tmp_path: Path) -> None:
    key, asked = keys.new(tmp_path, "mine", "zwölf Boxkämpfer"), list[str]()
    assert keys.locked(tmp_path / "mine.key")

    def ask(words: str) -> Callable[[], str]:
        def answer() -> str:
            asked.append(words)
            return words

        return answer

    assert keys.read_private(tmp_path / "mine.key", ask("zwölf Boxkämpfer")).public == key
    for wrong in ("zwölf", ""):
        with pytest.raises(KeyFileError, match="another passphrase, or damaged"):
            keys.read_private(tmp_path / "mine.key", ask(wrong))
    assert asked == ["zwölf Boxkämpfer", "zwölf", ""]
    plain = keys.new(tmp_path, "plain")
    assert keys.read_private(tmp_path / "plain.key", ask("never")).public == plain
    assert len(asked) == 3


def test_a_key_in_the_older_form_of_openssl_signs_too(tmp_path: Path) -> None:
    secret = ec.generate_private_key(ec.SECP256R1())
    form = serialization.PrivateFormat.TraditionalOpenSSL
    pem = secret.private_bytes(serialization.Encoding.PEM, form, serialization.NoEncryption())
    assert b"BEGIN EC PRIVATE KEY" in pem
    (tmp_path / "old.key").write_bytes(pem)
    (tmp_path / "old.key").chmod(0o600)
    assert keys.read_private(tmp_path / "old.key", lambda: "").public.name == "old"


def test_what_is_no_private_key_is_told(tmp_path: Path) -> None:
    keys.new(tmp_path, "mine")
    path = tmp_path / "mine.key"
    whole = path.read_bytes()

    def told(problem: str) -> None:
        with pytest.raises(KeyFileError, match=problem) as error:
            keys.read_private(path, lambda: "")
        assert str(path) in str(error.value) and "\n" not in str(error.value)

    for mode in (0o640, 0o604):
        path.chmod(mode)
        told(f"others than its owner may open it; chmod 600 {path}")
    path.chmod(0o600)
    for content, problem in (
        (whole[:150], "damaged, or no key in PEM"),
        (bytes(20_000), "not a file of at most"),
        ((tmp_path / "mine.pem").read_bytes(), "not a private key"),
    ):
        path.write_bytes(content)
        told(problem)
    path.unlink()
    told("No such file")
    path.mkdir(0o700)
    told("directory")
    path.rmdir()
    os.mkfifo(path, 0o600)
    told("not a file of at most")


# Signing


@pytest.mark.parametrize("form", FORMS)
def test_signing_leaves_the_bundle_and_its_id_as_they_are(
    form: str, tiny_manifest: Manifest, tiny_files: dict[str, bytes], tmp_path: Path
) -> None:
    key, path = pair(tmp_path / "keys", "release"), tmp_path / "at" / form
    path.parent.mkdir()
    with bundle.write(tiny_manifest, tiny_files, path) as unsigned:
        assert signed.tell(unsigned, [key.public]) == signed.Told(signed=False)
    (path if path.is_file() else path.parent).chmod(0o750)
    for _ in range(2):  # the second replaces the first
        with signed.sign(path, key) as made, open_bundle(path) as opened:
            assert made.id == opened.id == unsigned.id
            told = signed.tell(opened, [key.public])
            assert told == signed.tell(made, [key.public]) and told.signer == "release"
            assert str(told) == f"signed by release ({key.public.fingerprint})"
            assert {name: opened.path(name).read_bytes() for name in tiny_files} == tiny_files
        assert [entry.name for entry in path.parent.iterdir()] == [form]
    if path.is_file():
        assert path.stat().st_mode & 0o777 == 0o750
    else:
        assert {str(p.relative_to(path)) for p in path.rglob("*") if p.is_file()} == {
            "manifest.json", "signature.json", *tiny_files,
        }  # fmt: skip


def test_a_signed_directory_and_archive_hold_the_same(
    tiny_manifest: Manifest, tiny_files: dict[str, bytes], tmp_path: Path
) -> None:
    key = pair(tmp_path / "keys", "release")
    for form in FORMS:
        bundle.write(tiny_manifest, tiny_files, tmp_path / form).close()
        signed.sign(tmp_path / form, key).close()
    unpacked = tmp_path / "unpacked"
    unpacked.mkdir()
    subprocess.run(["tar", "--zstd", "-xf", tmp_path / "tiny.ecl", "-C", unpacked], check=True)
    first = subprocess.run(["tar", "--zstd", "-tf", tmp_path / "tiny.ecl"], capture_output=True, text=True, check=True)
    assert first.stdout.split()[:2] == ["manifest.json", "signature.json"]
    for form in ("tiny", "unpacked"):
        with open_bundle(tmp_path / form) as opened:
            assert signed.tell(opened, [key.public]).signer == "release"


def test_a_bundle_is_signed_where_a_link_leads(
    tiny_manifest: Manifest, tiny_files: dict[str, bytes], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    key = pair(tmp_path / "keys", "release")
    bundle.write(tiny_manifest, tiny_files, tmp_path / "real.ecl").close()
    (tmp_path / "link.ecl").symlink_to("real.ecl")
    signed.sign(tmp_path / "link.ecl", key).close()
    assert (tmp_path / "link.ecl").is_symlink()
    bundle.write(tiny_manifest, tiny_files, tmp_path / "here").close()
    monkeypatch.chdir(tmp_path / "here")
    signed.sign(Path(), key).close()
    for name in ("real.ecl", "here"):
        with open_bundle(tmp_path / name) as opened:
            assert signed.tell(opened, [key.public]).signer == "release"


def test_what_is_no_bundle_is_not_signed(tiny_manifest: Manifest, tiny_files: dict[str, bytes], tmp_path: Path) -> None:
    key = pair(tmp_path / "keys", "release")
    bundle.write(tiny_manifest, tiny_files, tmp_path / "tiny").close()
    (tmp_path / "tiny" / "program.pte").write_bytes(bytes(700))
    with pytest.raises(BundleError, match="damaged"):
        signed.sign(tmp_path / "tiny", key)
    assert not (tmp_path / "tiny" / "signature.json").exists()


def test_a_signature_that_would_be_too_large_is_not_made(tmp_path: Path) -> None:
    files = {"manifest.json": "0" * 64} | {f"onnx/{'x' * 80}{number}.onnx": "0" * 64 for number in range(300)}
    with pytest.raises(BundleError, match="too many files to sign, 301"):
        oms.sign(files, pair(tmp_path, "release"), "many")


def test_a_bundle_that_cannot_be_written_is_told(
    tiny_manifest: Manifest, tiny_files: dict[str, bytes], tmp_path: Path
) -> None:
    key = pair(tmp_path / "keys", "release")
    long = tmp_path / ("x" * 250 + ".ecl")  # no name beside it is left
    bundle.write(tiny_manifest, tiny_files, tmp_path / "tiny.ecl").close()
    (tmp_path / "tiny.ecl").rename(long)
    with pytest.raises(StoreError, match="sign it where it can be written"):
        signed.sign(long, key)
    open_bundle(long).close()


# The reference tool


@needs_the_tool
def test_the_reference_tool_takes_our_signatures(
    tiny_manifest: Manifest, tiny_files: dict[str, bytes], tmp_path: Path
) -> None:
    bundle.write(tiny_manifest, tiny_files, tmp_path / "tiny").close()
    key, other = pair(tmp_path / "keys", "release"), pair(tmp_path / "keys", "other")
    signed.sign(tmp_path / "tiny", key).close()

    def verified(name: str) -> subprocess.CompletedProcess[str]:
        asked = ("--signature", tmp_path / "tiny" / "signature.json", "--public_key", tmp_path / "keys" / f"{name}.pem")
        return tool("verify", "key", tmp_path / "tiny", *asked)

    done = verified("release")
    assert done.returncode == 0, done.stderr
    assert "Verification succeeded" in done.stdout
    assert verified("other").returncode != 0, other
    (tmp_path / "tiny" / "program.pte").write_bytes(bytes(700))
    assert "Signature mismatch" in verified("release").stderr


@needs_the_tool
def test_we_take_signatures_of_the_reference_tool(
    tiny_manifest: Manifest, tiny_files: dict[str, bytes], tmp_path: Path
) -> None:
    bundle.write(tiny_manifest, tiny_files, tmp_path / "tiny").close()
    key = keys.new(tmp_path / "keys", "release")
    signature, secret = tmp_path / "tiny" / "signature.json", tmp_path / "keys" / "release.key"
    done = tool("sign", "key", tmp_path / "tiny", "--signature", signature, "--private_key", secret)
    assert done.returncode == 0, done.stderr
    with open_bundle(tmp_path / "tiny") as opened:
        assert signed.tell(opened, [key]) == signed.Told(signed=True, fingerprint=key.fingerprint, signer="release")
        theirs = json.loads(oms.read(signature.read_bytes(), "").payload)
    signed.sign(tmp_path / "tiny", keys.read_private(secret, lambda: "")).close()
    ours = json.loads(oms.read(signature.read_bytes(), "").payload)
    ignored = theirs["predicate"]["serialization"].pop("ignore_paths")
    assert ours["predicate"]["serialization"].pop("ignore_paths") == ["signature.json"]
    assert set(ignored) == oms.IGNORABLE
    assert ours == theirs  # the order of files, the names and the digest of the subject too


@needs_the_tool
def test_other_settings_of_the_reference_tool_are_refused(
    tiny_manifest: Manifest, tiny_files: dict[str, bytes], tmp_path: Path
) -> None:
    bundle.write(tiny_manifest, tiny_files, tmp_path / "tiny").close()
    key = keys.new(tmp_path / "keys", "release")
    for options, problem in (
        (("--allow_symlinks",), "it allows symbolic links"),
        (("--ignore-paths", tmp_path / "tiny" / "onnx"), "it leaves out 'onnx'"),
    ):
        signature = tmp_path / "tiny" / "signature.json"
        secret = tmp_path / "keys" / "release.key"
        done = tool("sign", "key", tmp_path / "tiny", "--signature", signature, "--private_key", secret, *options)
        assert done.returncode == 0, done.stderr
        with open_bundle(tmp_path / "tiny") as opened, pytest.raises(BundleError, match=problem):
            signed.tell(opened, [key])


def test_a_signature_made_by_openssl_from_the_format_page_is_taken(tmp_path: Path) -> None:
    """docs/formats/signature.md is enough to make one, with no code of ours or of the reference tool."""

    def openssl(*arguments: Any, given: bytes = b"") -> bytes:
        return subprocess.run(["openssl", *map(str, arguments)], input=given, capture_output=True, check=True).stdout

    secret, public = tmp_path / "release.key", tmp_path / "release.pem"
    openssl("genpkey", "-algorithm", "EC", "-pkeyopt", "ec_paramgen_curve:P-256", "-out", secret)
    openssl("pkey", "-in", secret, "-pubout", "-out", public)
    files = {"manifest.json": "1" * 64, "program.pte": "2" * 64}
    resources = [{"name": name, "algorithm": "sha256", "digest": digest} for name, digest in files.items()]
    root = hashlib.sha256(bytes.fromhex("1" * 64 + "2" * 64)).hexdigest()
    statement = {
        "_type": "https://in-toto.io/Statement/v1",
        "subject": [{"name": "any", "digest": {"sha256": root}}],
        "predicateType": "https://model_signing/signature/v1.0",
        "predicate": {
            "serialization": {"method": "files", "hash_type": "sha256", "allow_symlinks": False},
            "resources": resources,
        },
    }
    payload = json.dumps(statement).encode()
    encoded = b"DSSEv1 28 application/vnd.in-toto+json %d %s" % (len(payload), payload)
    (tmp_path / "encoded").write_bytes(encoded)
    sig = openssl("dgst", "-sha256", "-sign", secret, tmp_path / "encoded")
    outer = {
        "mediaType": "application/vnd.dev.sigstore.bundle.v0.3+json",
        "verificationMaterial": {"publicKey": {"hint": hashlib.sha256(public.read_bytes()).hexdigest()}},
        "dsseEnvelope": {
            "payload": base64.b64encode(payload).decode(),
            "payloadType": "application/vnd.in-toto+json",
            "signatures": [{"sig": base64.b64encode(sig).decode()}],
        },
    }
    key = keys.read_public(public)
    assert oms.verify(json.dumps(outer).encode(), files, [key], "here") == key
    made = oms.read(oms.sign(files, keys.read_private(secret, str), "any"), "here")
    (tmp_path / "encoded").write_bytes(
        b"DSSEv1 28 application/vnd.in-toto+json %d %s" % (len(made.payload), made.payload)
    )
    (tmp_path / "sig").write_bytes(made.sig)
    said = openssl("dgst", "-sha256", "-verify", public, "-signature", tmp_path / "sig", tmp_path / "encoded")
    assert said == b"Verified OK\n"


# Trust


def test_trust_is_what_was_put_there(tmp_path: Path) -> None:
    board, one, two = tmp_path / "trust.d", pair(tmp_path, "one").public, pair(tmp_path, "two.2026").public
    assert trust.read(board) == trust.Trust((), False, ())
    trust.add(board, two, ("*",))
    trust.add(board, one, ("gate", "door-cam"))
    assert (board / "one.toml").read_text() == 'lineages = ["gate", "door-cam"]\n'
    assert (board / "one.pem").read_text() == one.pem
    found = trust.read(board)
    assert found.keys == (trust.Trusted(one, ("gate", "door-cam")), trust.Trusted(two, ("*",)))
    assert [(one.covers("gate"), one.covers("gat"), one.covers("other")) for one in found.keys] == [
        (True, False, False),
        (True, True, True),
    ]
    trust.set_development(board, True)
    trust.set_development(board, True)
    trust.remove(board, "two.2026")
    assert trust.read(board) == trust.Trust(found.keys[:1], True, ())
    trust.set_development(board, False)
    assert sorted(path.name for path in board.iterdir()) == ["one.pem", "one.toml"]
    with pytest.raises(KeyFileError, match="another key has this name"):
        trust.add(board, keys.PublicKey("one", two.der), ("*",))
    for name in ("two.2026", "../one", ""):
        with pytest.raises(KeyFileError, match="no such key"):
            trust.remove(board, name)
    for lineages in ((), ("a b",), ("gate", '"'), ("g*",)):
        with pytest.raises(KeyFileError, match="name lineages"):
            trust.add(board, one, lineages)
    assert trust.read(board).keys == found.keys[:1]


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        (None, "names the lineages of the key beside it"),
        ("", "lineages"),
        ("lineages = []", "lineages"),
        ('lineages = "*"', "lineages"),
        ('lineages = ["a/b"]', "'a/b' is no lineage"),
        ('lineages = ["a"]\nexpires = 2030-01-01', "expires"),
        ("lineages = [", "one.toml"),
        ("x = 1" * 20_000, "more than"),
    ],
)
def test_a_key_that_says_not_what_for_is_trusted_for_nothing(text: str | None, problem: str, tmp_path: Path) -> None:
    board = tmp_path / "trust.d"
    for name in ("one", "two"):
        trust.add(board, pair(tmp_path, name).public, ("*",))
    (board / "one.toml").unlink()
    if text is not None:
        (board / "one.toml").write_text(text)
    found = trust.read(board)
    assert [one.key.name for one in found.keys] == ["two"]
    assert len(found.problems) == 1 and problem in found.problems[0] and "\n" not in found.problems[0]


def test_a_name_that_hides_is_no_name(tmp_path: Path) -> None:
    board, key = tmp_path / "trust.d", pair(tmp_path, "one").public
    trust.add(board, key, ("*",))
    for suffix in (".pem", ".toml"):
        (board / f"one{suffix}").rename(board / f".one{suffix}")
    found = trust.read(board)
    assert found.keys == () and "'.one' is no name for a key" in found.problems[0]


def test_paths_and_names_that_are_no_text_do_no_harm(
    tiny_manifest: Manifest, tiny_files: dict[str, bytes], tmp_path: Path
) -> None:
    folder = Path(os.fsdecode(os.fsencode(tmp_path) + b"/\xff"))
    folder.mkdir()
    key = pair(tmp_path, "one")
    bundle.write(tiny_manifest, tiny_files, folder / "tiny").close()
    with signed.sign(folder / "tiny", key) as opened:
        odd = keys.PublicKey(folder.name, key.public.der)
        assert signed.tell(opened, [odd]).signer == folder.name
        files = signed.digests(opened) | {"program.pte": "0" * 64}
        with pytest.raises(BundleError, match="is of another program.pte") as error:
            oms.verify_apart((folder / "tiny" / "signature.json").read_bytes(), files, [odd], str(folder))
        assert str(error.value).startswith(f"{folder}: signature.json: ")


def test_a_cut_while_a_key_is_added_or_removed_trusts_no_more_than_before(tmp_path: Path) -> None:
    board, key = tmp_path / "trust.d", pair(tmp_path, "one").public
    trust.add(board, key, ("gate",))
    (board / "one.pem").unlink()  # as after the first step of removing, or before the last of adding
    assert trust.read(board) == trust.Trust((), False, ())
    trust.add(board, key, ("gate",))
    assert [one.key for one in trust.read(board).keys] == [key]


def test_the_example_of_the_guide_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    text = (Path(__file__).parents[2] / "docs" / "guide" / "signing.md").read_text("utf-8")
    found = re.findall(r"^```python\n(.*?)^```", text, re.DOTALL | re.MULTILINE)
    assert len(found) == 1
    monkeypatch.chdir(tmp_path)
    exec(compile(found[0], "signing.md", "exec"), {})
    assert [one.key.name for one in trust.read(tmp_path / "state" / "trust.d").keys] == ["release-2026"]


# Commands


def test_keys_are_made_listed_and_shown(home: Path, tmp_path: Path) -> None:
    assert edgecl("keys", "list").stdout == f"no keys in {home}; make one with: edgecl keys new NAME\n"
    made = edgecl("keys", "new", "release")
    assert made.returncode == 0, made.stderr
    key = keys.read_public(home / "release.pem")
    assert made.stdout == f"private  {home}/release.key\npublic   {home}/release.pem\n{key.fingerprint}\n"
    (tmp_path / "words").write_text("secret\nmore\n")
    told = json.loads(edgecl("keys", "new", "second", "--passphrase-file", tmp_path / "words", "--json").stdout)
    assert told["passphrase"] is True and keys.read_private(home / "second.key", lambda: "secret")
    assert edgecl("keys", "show", "release").stdout == key.pem
    for given in ("release", home / "release.pem"):
        assert edgecl("keys", "fingerprint", given).stdout == f"{key.fingerprint}\n"
    (home / "second.key").unlink()
    head, *rows = edgecl("keys", "list").stdout.splitlines()
    assert head.split() == ["key", "fingerprint", "private"]
    assert [row.split()[0::2] for row in rows] == [["release", "here"], ["second", "elsewhere"]]
    assert [json.loads(line)["name"] for line in edgecl("keys", "list", "--json").stdout.splitlines()] == [
        "release",
        "second",
    ]
    trust.add(tmp_path / "trust.d", key, ("gate",))
    (tmp_path / "trust.d" / "wrong.pem").write_text("nothing")
    listed = edgecl("keys", "list", "--trust", tmp_path / "trust.d")
    assert listed.stdout.splitlines()[1:] == [f"release  {key.fingerprint}  gate", "development mode is off"]
    assert "wrong.pem: not a public key" in listed.stderr
    for refused in (("new", "release"), ("show", "nobody"), ("new", "third", "--passphrase")):
        done = edgecl("keys", *refused, stdin=subprocess.DEVNULL)
        assert (done.returncode, done.stderr.count("\n")) == (1, 1), done.stderr


def test_a_trust_directory_is_written_by_commands(home: Path, tmp_path: Path) -> None:
    board = tmp_path / "trust.d"
    key = pair(home, "release").public
    told = edgecl("keys", "trust", board, "release", "--lineage", "gate", "--lineage", "door")
    assert (told.returncode, told.stdout) == (0, f"{board}: {key} may sign gate, door\n"), told.stderr
    assert [(one.key, one.lineages) for one in trust.read(board).keys] == [(key, ("gate", "door"))]
    again = edgecl("keys", "trust", board, home / "release.pem", "--lineage", "*", "--json")
    assert json.loads(again.stdout) == {"name": "release", "fingerprint": key.fingerprint, "lineages": ["*"]}
    other = pair(tmp_path, "release").public
    assert other != key
    for words, code, reason in (
        (("trust", board, tmp_path / "release.pem", "--lineage", "gate"), 1, "another key has this name"),
        (("trust", board, "release", "--lineage", "no such"), 1, "for no lineage"),
        (("trust", board, "release"), 2, "Missing option '--lineage'"),
        (("trust", board, "nobody", "--lineage", "gate"), 1, "nobody"),
        (("revoke", board, "nobody"), 1, "no such key"),
        (("revoke", board, "../release"), 1, "no such key"),
    ):
        refused = edgecl("keys", *words)
        assert refused.returncode == code and reason in refused.stderr, refused.stderr
    assert [(one.key, one.lineages) for one in trust.read(board).keys] == [(key, ("*",))]
    gone = edgecl("keys", "revoke", board, "release")
    assert (gone.returncode, gone.stdout) == (0, f"{board}: release is trusted no longer; no keys left\n")
    assert trust.read(board).keys == () and not list(board.iterdir())
    none = edgecl("keys", "list", "--trust", board).stdout.splitlines()
    assert none == [f"no keys in {board}; trust one with: edgecl keys trust {board} KEY", "development mode is off"]


def test_a_passphrase_is_typed_on_a_terminal_and_not_shown(home: Path) -> None:
    child, terminal = pty.fork()
    if not child:
        os.execv(sys.executable, [*COMMAND, "keys", "new", "mine", "--passphrase"])
    shown = b""
    for _ in range(2):
        while not shown.endswith(b": "):
            shown += os.read(terminal, 1024)
        os.write(terminal, b"secret\n")
        shown += b"|"
    while True:
        try:
            if not (more := os.read(terminal, 1024)):
                break
        except OSError:  # the other end has gone
            break
        shown += more
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0, shown
    assert b"secret" not in shown
    assert keys.read_private(home / "mine.key", lambda: "secret").public.name == "mine"


def test_a_bundle_is_signed_verified_and_inspected(home: Path, looped: Path, tmp_path: Path) -> None:
    path = Path(shutil.copy(looped, tmp_path / "b.ecl"))
    key, other = pair(home, "release").public, pair(tmp_path / "elsewhere", "other").public
    board = tmp_path / "trust.d"
    trust.add(board, key, ("gate",))

    def verified(*options: Any) -> subprocess.CompletedProcess[str]:
        return edgecl("verify", path, *options)

    assert "\nnot signed\n" in verified().stdout
    assert verified("--signed").stderr == (
        f"edgecl: {path}: not signed; sign it, or give the public key of its signer\n"
    )
    assert verified("--trust", board).returncode == 5
    assert "signature      not signed\n" in edgecl("inspect", path).stdout

    done = edgecl("sign", path, "--key", "release")
    assert done.returncode == 0, done.stderr
    with open_bundle(path) as opened:
        identity = opened.id
    assert done.stdout == f"{path}: signed by release ({key.fingerprint})\n7 files, id {identity}\n"
    assert json.loads(edgecl("sign", path, "--key", home / "release.key", "--json").stdout) == {
        "bundle": str(path),
        "id": identity,
        "key": "release",
        "fingerprint": key.fingerprint,
    }
    for options in (("--signed",), ("--key", "release", "--key", tmp_path / "elsewhere" / "other.pem")):
        done = verified(*options)
        assert done.returncode == 0, done.stderr
        assert f"\nsigned by release ({key.fingerprint})\n" in done.stdout
    assert json.loads(verified("--json").stdout.splitlines()[-1]) == {
        "id": identity,
        "signature": {"signed": True, "fingerprint": key.fingerprint, "signer": "release"},
    }
    done = verified("--key", tmp_path / "elsewhere" / "other.pem")
    assert done.returncode == 5 and "not verified, of a key that is not known here" in done.stderr, other
    done = verified("--trust", board)
    assert done.returncode == 5 and "trusted for lineage gate and not for looped" in done.stderr
    trust.add(board, key, ("*",))
    assert verified("--trust", board).returncode == 0
    assert verified("--trust", board, "--signed").returncode == 2
    assert f"signature      signed by release ({key.fingerprint})\n" in edgecl("inspect", path).stdout

    shutil.rmtree(home)
    unknown = f"not verified, of a key that is not known here ({key.fingerprint})\n"
    assert verified().returncode == 0
    assert unknown in verified().stdout and f"signature      {unknown}" in edgecl("inspect", path).stdout
    told = json.loads(edgecl("inspect", path, "--json").stdout)
    assert told["signature"] == {"signed": True, "fingerprint": key.fingerprint, "signer": None}
    assert told["problem"] == ""


def test_a_wrong_signature_is_refused_by_verify_and_told_by_inspect(
    home: Path, make_bundle: MakeBundle, tmp_path: Path
) -> None:
    keys.new(home, "release")
    path = make_bundle(tmp_path / "b")
    (path / "signature.json").write_text("{}")
    done = edgecl("verify", path)
    assert done.returncode == 5 and done.stderr.count("\n") == 1
    assert done.stderr.startswith(f"edgecl: {path}: signature.json: not a signature")
    shown = edgecl("inspect", path)
    assert shown.returncode == 0 and "signature      wrong: signature.json: not a signature" in shown.stdout
    assert "not a signature" in json.loads(edgecl("inspect", path, "--json").stdout)["problem"]
