"""Signatures made to deceive, one attack a test: each is refused in one line, or changes nothing."""

import base64
import hashlib
import json
import os
import random
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import msgspec
import pytest
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from cryptography.hazmat.primitives.asymmetric.utils import decode_dss_signature, encode_dss_signature

from edgecl import bundle, keys, oms, signed, trust
from edgecl.bundle import open_bundle
from edgecl.errors import BundleError, KeyFileError
from edgecl.keys import PrivateKey, PublicKey
from edgecl.manifest import MAX_SIGNATURE_BYTES, Manifest
from tests.attacks.mutated_bundles import mutate

Json = dict[str, Any]

N = 0xFFFFFFFF00000000FFFFFFFFFFFFFFFFBCE6FAADA7179E84F3B9CAC2FC632551
"""The order of P-256."""


def pair(folder: Path, name: str) -> PrivateKey:
    keys.new(folder, name)
    return keys.read_private(folder / f"{name}.key", lambda: "")


@dataclass(frozen=True)
class Victim:
    """A signed bundle, and a board that trusts its signer."""

    path: Path
    key: PrivateKey
    board: Path

    @property
    def signature(self) -> Path:
        return self.path / "signature.json"

    @property
    def files(self) -> dict[str, str]:
        """What is there, by its digests."""
        paths = [path for path in self.path.rglob("*") if path.is_file() and path != self.signature]
        return {str(path.relative_to(self.path)): hashlib.sha256(path.read_bytes()).hexdigest() for path in paths}

    @property
    def statement(self) -> Json:
        found: Json = json.loads(oms.read(self.signature.read_bytes(), "here").payload)
        return found

    def forge(self, statement: Json | bytes, key: PrivateKey | None = None, hint: str = "") -> None:
        """Put another statement in, truly signed: by the trusted key, or by another one."""
        key = key or self.key
        payload = statement if isinstance(statement, bytes) else json.dumps(statement).encode()
        encoded = b"DSSEv1 28 application/vnd.in-toto+json %d %s" % (len(payload), payload)
        sig = key.secret.sign(encoded, ec.ECDSA(hashes.SHA256()))
        self.rewrite(payload=payload, sig=sig, hint=hint or key.public.hint)

    def rewrite(self, *, payload: bytes = b"", sig: bytes = b"", hint: str = "") -> None:
        """Change what is around the signature, or it."""
        outer = json.loads(self.signature.read_text())
        if hint:
            outer["verificationMaterial"]["publicKey"]["hint"] = hint
        if payload:
            outer["dsseEnvelope"]["payload"] = base64.b64encode(payload).decode()
        if sig:
            outer["dsseEnvelope"]["signatures"][0]["sig"] = base64.b64encode(sig).decode()
        self.signature.write_text(json.dumps(outer))

    def admitted(self) -> PublicKey | None:
        """As a board does it."""
        with open_bundle(self.path) as opened:
            files, signature = signed.digests(opened), signed.signature(opened)
            lineage = opened.manifest.lineage
            return trust.admit(trust.read(self.board), lineage, files, signature, opened.origin)

    def refused(self, message: str) -> None:
        with pytest.raises(BundleError, match=message) as error:
            self.admitted()
        said = str(error.value)
        assert said.startswith(f"{self.path}: ") and said.isprintable() and ";" in said, said
        assert error.value.exit_code == 5

    def refused_here(self, message: str, data: bytes | None = None) -> None:
        """The same without a process for it."""
        data = self.signature.read_bytes() if data is None else data
        with pytest.raises(BundleError, match=message) as error:
            oms.verify(data, self.files, [self.key.public], "there")
        said = str(error.value)
        assert said.startswith("there: ") and said.isprintable() and ";" in said, said


@pytest.fixture(scope="module")
def template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder in which the first test makes what the others copy."""
    return tmp_path_factory.mktemp("template")


@pytest.fixture
def victim(template: Path, tiny_manifest: Manifest, tiny_files: dict[str, bytes], tmp_path: Path) -> Victim:
    if not any(template.iterdir()):
        bundle.write(tiny_manifest, tiny_files, template / "tiny").close()
        key = pair(template / "keys", "release")
        signed.sign(template / "tiny", key).close()
        trust.add(template / "trust.d", key.public, ("tiny",))
    shutil.copytree(template, tmp_path, dirs_exist_ok=True)
    key = keys.read_private(tmp_path / "keys" / "release.key", lambda: "")
    return Victim(tmp_path / "tiny", key, tmp_path / "trust.d")


# What the board is given


def test_a_signed_bundle_is_taken(victim: Victim) -> None:
    assert victim.admitted() == victim.key.public
    with open_bundle(victim.path) as opened:
        assert signed.digests(opened) == victim.files


def test_an_unsigned_bundle_is_refused(victim: Victim) -> None:
    victim.signature.unlink()
    victim.refused(r"not signed; sign it with a key that this board trusts: release \(SHA256:")


def test_a_downgrade_is_refused_though_it_is_signed(tiny_manifest: Manifest) -> None:
    floor = 0
    for version, min_version, then in ((3, 1, 1), (5, 4, 4), (4, 2, 4), (9, 9, 9), (9, 0, 9)):
        made = msgspec.structs.replace(tiny_manifest, version=version, min_version=min_version)
        floor = trust.check_version(made, floor, "there")
        assert floor == then
    for version in (8, 5, 0):
        made = msgspec.structs.replace(tiny_manifest, version=version, min_version=0)
        with pytest.raises(BundleError, match=f"^there: version {version} of tiny is a downgrade.*below 9; deploy"):
            trust.check_version(made, floor, "there")


def test_the_signature_of_another_bundle_is_refused(
    victim: Victim, tiny_manifest: Manifest, tiny_files: dict[str, bytes], tmp_path: Path
) -> None:
    later = msgspec.structs.replace(tiny_manifest, version=4)
    bundle.write(later, tiny_files, tmp_path / "later").close()
    signed.sign(tmp_path / "later", victim.key).close()
    shutil.copy(tmp_path / "later" / "signature.json", victim.path)
    victim.refused(r"it is of another manifest\.json, so of another bundle")


def test_files_of_two_signed_bundles_do_not_mix(
    victim: Victim, tiny_manifest: Manifest, tiny_files: dict[str, bytes], tmp_path: Path
) -> None:
    bundle.write(tiny_manifest, {**tiny_files, "program.pte": b"older"}, tmp_path / "older").close()
    signed.sign(tmp_path / "older", victim.key).close()
    shutil.copy(tmp_path / "older" / "program.pte", victim.path)
    victim.refused(r"program\.pte: 5 bytes where 700 belong")
    shutil.copy(tmp_path / "older" / "manifest.json", victim.path)
    victim.refused(r"it is of another manifest\.json")
    shutil.copy(tmp_path / "older" / "signature.json", victim.path)
    assert victim.admitted() == victim.key.public  # which is then the older bundle, whole


def test_another_content_of_the_same_size_is_refused_though_the_manifest_lists_it(
    victim: Victim, tiny_manifest: Manifest, tiny_files: dict[str, bytes]
) -> None:
    kept = victim.signature.read_bytes()
    bundle.write(tiny_manifest, {**tiny_files, "program.pte": bytes(700)}, victim.path).close()
    victim.signature.write_bytes(kept)
    victim.refused(r"it is of another manifest\.json")


def test_an_extra_file_is_refused(victim: Victim) -> None:
    (victim.path / "extra.so").write_bytes(b"code")
    victim.refused("'extra.so' is not in manifest.json")


def test_a_link_for_a_signature_is_refused(victim: Victim, tmp_path: Path) -> None:
    victim.signature.rename(tmp_path / "elsewhere.json")
    victim.signature.symlink_to(tmp_path / "elsewhere.json")
    victim.refused("'signature.json' is not a plain file")


# Keys


def test_a_signature_by_another_key_is_refused(victim: Victim, tmp_path: Path) -> None:
    other = pair(tmp_path / "keys", "other")
    signed.sign(victim.path, other).close()
    victim.refused(
        rf"signed by a key that is not trusted here, {other.public.fingerprint}; trust that key, or sign with"
    )
    victim.refused_here(f"signed by another key, {other.public.fingerprint}; trusted here: release")


def test_a_signature_that_names_a_key_that_did_not_make_it_is_refused(victim: Victim, tmp_path: Path) -> None:
    other = pair(tmp_path / "keys", "other")
    victim.forge(victim.statement, other, hint=victim.key.public.hint)
    victim.refused(r"not made by release \(SHA256:[0-9a-f]{64}\), which it names")


def test_a_key_signs_for_its_lineages_only(victim: Victim) -> None:
    trust.add(victim.board, victim.key.public, ("gate", "door-cam"))
    victim.refused(r"signed by release \(SHA256:\w+\), which is trusted for lineage gate, door-cam and not for tiny")
    trust.add(victim.board, victim.key.public, ("*",))
    assert victim.admitted() == victim.key.public


def test_a_key_is_rotated_without_a_moment_in_which_none_or_every_signature_holds(
    victim: Victim, tmp_path: Path
) -> None:
    old, new = victim.key, pair(tmp_path / "keys", "release-2")
    trust.add(victim.board, new.public, ("tiny",))
    assert victim.admitted() == old.public
    signed.sign(victim.path, new).close()
    assert victim.admitted() == new.public
    trust.remove(victim.board, "release")
    assert victim.admitted() == new.public
    signed.sign(victim.path, old).close()
    victim.refused(r"not trusted here, SHA256:\w+; trust that key, or sign with release-2 \(")


@pytest.mark.parametrize("kind", ["P-384", "secp256k1", "Ed25519", "RSA", "private", "no point", "garbage"])
def test_another_kind_of_key_is_not_trusted(kind: str, victim: Victim) -> None:
    made: dict[str, Callable[[], Any]] = {
        "P-384": lambda: ec.generate_private_key(ec.SECP384R1()),
        "secp256k1": lambda: ec.generate_private_key(ec.SECP256K1()),
        "Ed25519": ed25519.Ed25519PrivateKey.generate,
        "RSA": lambda: rsa.generate_private_key(65537, 2048),
    }
    path = victim.board / "release.pem"
    if kind in made:
        public = made[kind]().public_key()
        form = serialization.PublicFormat.SubjectPublicKeyInfo
        path.write_bytes(public.public_bytes(serialization.Encoding.PEM, form))
    elif kind == "private":
        shutil.copy(victim.board.parent / "keys" / "release.key", path)
    elif kind == "no point":
        path.write_text(PublicKey("release", victim.key.public.der[:-1] + b"\0").pem)
        with pytest.raises(BundleError, match="key release .* is no point of its curve"):
            wrong = keys.read_public(path)
            oms.verify_apart(
                victim.signature.read_bytes().replace(victim.key.public.hint.encode(), wrong.hint.encode()),
                {"manifest.json": ""},
                [wrong],
                "there",
            )
    else:
        path.write_bytes(random.Random(1).randbytes(200))
    victim.refused(r"signed by a key that is not trusted here")
    problems = trust.read(victim.board).problems
    assert bool(problems) == (kind != "no point") and all(str(path) in problem for problem in problems)


def test_a_signature_with_another_curve_is_refused(victim: Victim) -> None:
    secret = ec.generate_private_key(ec.SECP384R1())
    payload = oms.read(victim.signature.read_bytes(), "here").payload
    encoded = b"DSSEv1 28 application/vnd.in-toto+json %d %s" % (len(payload), payload)
    victim.rewrite(sig=secret.sign(encoded, ec.ECDSA(hashes.SHA384())))
    victim.refused("not made by release")


def test_a_private_key_of_another_curve_does_not_sign(tmp_path: Path) -> None:
    for number, curve in enumerate((ec.SECP384R1(), ec.SECP256K1())):
        pem = ec.generate_private_key(curve).private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        )
        path = tmp_path / f"{number}.key"
        path.write_bytes(pem)
        path.chmod(0o600)
        with pytest.raises(KeyFileError, match="not an ECDSA key of the curve P-256"):
            keys.read_private(path, lambda: "")


# The envelope


def test_a_replaced_statement_is_refused(victim: Victim) -> None:
    statement = victim.statement
    statement["predicate"]["resources"][0]["digest"] = "0" * 64
    victim.rewrite(payload=json.dumps(statement).encode())
    victim.refused("not made by release")


def test_a_signature_over_the_statement_alone_is_refused(victim: Victim) -> None:
    """What DSSE signs says of what type it is; a signature over the bare text may have been given for another use."""
    payload = oms.read(victim.signature.read_bytes(), "here").payload
    victim.rewrite(sig=victim.key.secret.sign(payload, ec.ECDSA(hashes.SHA256())))
    victim.refused_here("not made by release")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda outer: outer.update(mediaType="application/json"), "its media type is 'application/json' where"),
        (lambda outer: outer["dsseEnvelope"].update(payloadType="text/plain"), "its payload type is 'text/plain'"),
        (lambda outer: outer["dsseEnvelope"].update(signatures=[]), "signatures"),
        (lambda outer: outer["dsseEnvelope"]["signatures"].append({"sig": "AAAA"}), "signatures"),
        (lambda outer: outer["dsseEnvelope"]["signatures"][0].update(sig=""), "broken base64"),
        (lambda outer: outer["dsseEnvelope"]["signatures"][0].update(sig="AAA"), "broken base64"),
        (lambda outer: outer["dsseEnvelope"]["signatures"][0].update(sig=" AAAA"), "broken base64"),
        (lambda outer: outer["dsseEnvelope"]["signatures"][0].update(sig="AAB="), "broken base64"),
        (lambda outer: outer["dsseEnvelope"]["signatures"][0].update(sig="ÄÄÄÄ"), "broken base64"),
        (lambda outer: outer["dsseEnvelope"]["signatures"][0].update(sig="AAAA"), "not made by release"),
        (lambda outer: outer["dsseEnvelope"].update(payload="!"), "broken base64"),
        (lambda outer: outer["verificationMaterial"].update(publicKey={}), "hint"),
        (lambda outer: outer["verificationMaterial"]["publicKey"].update(hint="00"), "not a signature"),
        (lambda outer: outer["verificationMaterial"]["publicKey"].update(hint=None), "not a signature"),
        (lambda outer: outer["verificationMaterial"].update(certificate={"rawBytes": ""}), "certificate"),
        (lambda outer: outer["verificationMaterial"].update(tlogEntries=[{}]), "tlogEntries"),
        (lambda outer: outer.update({"more\x1b[2J\n": 1}), "unknown field"),
        (lambda outer: outer.pop("dsseEnvelope"), "dsseEnvelope"),
    ],
)
def test_another_envelope_is_refused(change: Callable[[Json], Any], message: str, victim: Victim) -> None:
    outer = json.loads(victim.signature.read_text())
    change(outer)
    victim.refused_here(message, json.dumps(outer).encode())


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"{}",
        b"[]",
        b"null",
        b'"text"',
        b"\xff\xfe{\0}\0",
        b"\xef\xbb\xbf{}",
        b"{" * 30_000,
        b"[" * 60_000,
        b'{"a":' * 10_000,
        b"1" * 60_000,
        b'{"mediaType": NaN}',
        b'{"mediaType": "\\ud800"}',
        bytes(MAX_SIGNATURE_BYTES),
        bytes(MAX_SIGNATURE_BYTES + 1),
    ],
    ids=lambda data: repr(data[:12]),
)
def test_what_is_no_signature_is_refused(data: bytes, victim: Victim) -> None:
    victim.refused_here("not a signature|more than the limit", data)


def test_a_signature_cut_off_anywhere_is_refused(victim: Victim) -> None:
    whole = victim.signature.read_bytes()
    files = victim.files
    for length in range(len(whole) - 1):  # the last byte is a newline
        with pytest.raises(BundleError, match="^there: "):
            oms.verify(whole[:length], files, [victim.key.public], "there")


def test_a_damaged_signature_is_refused_or_says_the_same(victim: Victim) -> None:
    whole, chance = victim.signature.read_bytes(), random.Random(5)
    files, refused = victim.files, 0
    for _ in range(1500):
        changed = mutate(whole, chance)
        try:
            oms.verify(changed, files, [victim.key.public], "there")
            assert oms.read(changed, "there") == oms.read(whole, "there")
        except BundleError as error:
            assert str(error).isprintable() and str(error).startswith("there: ")
            refused += 1
    assert refused > 1400


def test_a_key_that_stands_twice_is_refused(victim: Victim) -> None:
    """Of two, one reader takes the first and another the last: what one verified, another would use."""
    text = victim.signature.read_text()
    victim.refused_here("a key stands twice", text.replace('{"hint":', '{"hint":"%s","hint":' % ("0" * 64)).encode())
    victim.refused_here("a key stands twice", ('{"mediaType":"x",' + text.removeprefix("{")).encode())
    payload = oms.read(text.encode(), "here").payload
    twice = payload.replace(b'"name":"manifest.json"', b'"name":"program.pte","name":"manifest.json"')
    assert twice != payload
    victim.forge(twice)
    victim.refused_here("a key stands twice")


def test_signatures_that_are_no_der_are_refused(victim: Victim) -> None:
    der = oms.read(victim.signature.read_bytes(), "here").sig
    r, s = decode_dss_signature(der)
    for wrong in (
        r.to_bytes(32, "big") + s.to_bytes(32, "big"),
        der + b"\0",
        der[:-1],
        b"\x30\x06\x02\x01\x00\x02\x01\x00",
        encode_dss_signature(0, 0),
        encode_dss_signature(N, N),
        encode_dss_signature(r, s + N),
        encode_dss_signature(1 << 4000, s),
        b"\x30\x84\xff\xff\xff\xff",
    ):
        victim.rewrite(sig=wrong)
        victim.refused_here("not made by release")


# The statement, signed by the very key: a sloppy tool, or a signer who was deceived


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda s: s.update(_type="https://in-toto.io/Statement/v0.1"), "its statement is"),
        (lambda s: s.update(predicateType="https://model_signing/Digests/v0.1"), "its predicate is"),
        (lambda s: s.update(predicateType="https://slsa.dev/provenance/v1"), "its predicate is"),
        (lambda s: s["subject"].append(s["subject"][0]), "subject"),
        (lambda s: s.update(subject=[]), "subject"),
        (lambda s: s["subject"][0]["digest"].update(sha256="0" * 64), "digest of its subject"),
        (lambda s: s["subject"][0].update(digest={"sha512": "0" * 128}), "sha256"),
        (lambda s: s["predicate"].update(resources=[]), "another bundle"),
        (lambda s: s["predicate"]["serialization"].update(method="shards"), "its serialization is 'shards'"),
        (lambda s: s["predicate"]["serialization"].update(hash_type="blake3"), "its digest is 'blake3'"),
        (lambda s: s["predicate"]["serialization"].update(shard_size=1), "shard_size"),
        (lambda s: s["predicate"]["serialization"].update(allow_symlinks=True), "symbolic links"),
        (lambda s: s["predicate"]["resources"][0].update(algorithm="sha512"), "by 'sha512', not sha256"),
        (lambda s: s["predicate"]["resources"][0].update(digest="0" * 63), "digest"),
        (lambda s: s["predicate"]["resources"][0].update(digest="A" * 64), "digest"),
        (lambda s: s["predicate"]["resources"][0].update(name=None), "name"),
    ],
)
def test_another_statement_is_refused(change: Callable[[Json], Any], message: str, victim: Victim) -> None:
    statement = victim.statement
    change(statement)
    if statement["predicate"]["resources"] == []:
        statement["subject"][0]["digest"]["sha256"] = hashlib.sha256().hexdigest()
    victim.forge(statement)
    victim.refused_here(message)


@pytest.mark.parametrize("path", [".", "", "onnx", "program.pte", "*", "../tiny", "/", ".git/..", "./signature.json"])
def test_a_statement_that_leaves_out_more_than_itself_is_refused(path: str, victim: Victim) -> None:
    """A reader that believes it would not look at those files."""
    statement = victim.statement
    statement["predicate"]["serialization"]["ignore_paths"].append(path)
    victim.forge(statement)
    victim.refused_here("it leaves out")


def named(victim: Victim, change: Callable[[list[Json]], Any]) -> None:
    """Sign other resources, with the digest that they have."""
    statement = victim.statement
    resources = statement["predicate"]["resources"]
    change(resources)
    whole = b"".join(bytes.fromhex(one["digest"]) for one in resources)
    statement["subject"][0]["digest"]["sha256"] = hashlib.sha256(whole).hexdigest()
    victim.forge(statement)


@pytest.mark.parametrize(
    "name",
    [
        "../evil",
        "/etc/passwd",
        "./program.pte",
        "onnx/../program.pte",
        "onnx//infer_b1.onnx",
        "extra",
        "",
        "a\n\x1b[2J",
    ],
)
def test_a_statement_that_names_what_is_not_there_is_refused(name: str, victim: Victim) -> None:
    extra = {"name": name, "algorithm": "sha256", "digest": "0" * 64}
    named(victim, lambda resources: resources.append(extra))
    victim.refused_here("which the bundle does not have")


def leave_out(name: str, resources: list[Json]) -> None:
    resources[:] = [one for one in resources if one["name"] != name]


def put_in(place: int, one: Json, resources: list[Json]) -> None:
    resources.insert(place, one)


def test_a_statement_that_leaves_out_a_file_is_refused(victim: Victim) -> None:
    for name in [one["name"] for one in victim.statement["predicate"]["resources"]]:
        kept = victim.signature.read_bytes()
        named(victim, partial(leave_out, name))
        victim.refused_here("another bundle" if name == "manifest.json" else f"does not name {name}")
        victim.signature.write_bytes(kept)


def test_a_statement_that_names_a_file_twice_is_refused(victim: Victim) -> None:
    twice = {"name": "program.pte", "algorithm": "sha256", "digest": "0" * 64}
    for place in (0, 100):
        kept = victim.signature.read_bytes()
        named(victim, partial(put_in, place, twice))
        victim.refused_here("names 'program.pte' twice")
        victim.signature.write_bytes(kept)


def test_a_statement_with_more_files_than_any_bundle_has_is_refused(victim: Victim) -> None:
    more = [{"name": f"{n}", "algorithm": "sha256", "digest": "0" * 64} for n in range(300)]
    named(victim, lambda resources: resources.extend(more))
    victim.refused_here("resources")


def test_fields_that_a_later_statement_may_have_do_no_harm(victim: Victim) -> None:
    statement = victim.statement
    statement["annotations"] = statement["predicate"]["modelCard"] = {"any": [1, 2.5, None, "thing"]}
    victim.forge(statement)
    assert victim.admitted() == victim.key.public


# The board itself


def test_development_mode_takes_unsigned_bundles_and_no_wrong_signatures(victim: Victim) -> None:
    trust.set_development(victim.board, True)
    kept = victim.signature.read_bytes()
    victim.rewrite(sig=b"\x30\x06\x02\x01\x01\x02\x01\x01")
    victim.refused("not made by release")
    victim.signature.write_bytes(b"{}")
    victim.refused("not a signature")
    victim.signature.unlink()
    assert victim.admitted() is None
    trust.set_development(victim.board, False)
    victim.refused("not signed")
    victim.signature.write_bytes(kept)
    assert victim.admitted() == victim.key.public


def test_a_trust_directory_that_everybody_may_write_trusts_nobody(victim: Victim) -> None:
    victim.board.chmod(0o777)
    with pytest.raises(Exception, match="everybody may write here") as error:
        victim.admitted()
    assert getattr(error.value, "exit_code", None) == 1


def test_verifying_does_not_load_cryptography_into_the_process_that_asks(victim: Victim) -> None:
    code = (
        "import sys; from pathlib import Path; from edgecl import signed, trust, keys, loop\n"
        "from edgecl.bundle import open_bundle\n"
        "with open_bundle(Path(sys.argv[1])) as opened:\n"
        "    found = trust.admit(trust.read(Path(sys.argv[2])), 'tiny', signed.digests(opened),\n"
        "                        signed.signature(opened), opened.origin)\n"
        "print(found.name, [name for name in sys.modules if name.startswith('cryptography')])"
    )
    command = [sys.executable, "-P", "-c", code, str(victim.path), str(victim.board)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert done.stdout == "release []\n"


def test_the_child_needs_no_numbers(victim: Victim) -> None:
    """It stays small: neither numpy nor the programs are loaded to verify."""
    code = (
        "import sys, edgecl.oms; print(*[n for n in ('numpy', 'edgecl._runtime', 'cryptography') if n in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-P", "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "\n"


def test_a_child_that_cannot_verify_is_no_yes(victim: Victim, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "broken" / "cryptography").mkdir(parents=True)
    (tmp_path / "broken" / "cryptography" / "__init__.py").write_text("raise ImportError('broken')")
    monkeypatch.setenv("PYTHONPATH", f"{tmp_path / 'broken'}{os.pathsep}{os.environ.get('PYTHONPATH', '')}")
    victim.refused("could not be verified")
