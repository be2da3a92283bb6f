"""Signatures in the form of OpenSSF Model Signing 1.0: which files of which digests a key vouches for.

`signature.json` is a Sigstore bundle (v0.3) around a DSSE envelope around an in-toto statement, which lists the files
of the bundle, `manifest.json` first of all, by name and SHA-256; docs/formats/signature.md tells it field by field. The
`model_signing` tool signs and verifies the same. A signature is compared with files that were hashed already: it names
all of them and no other, or it is refused.

`python -m edgecl.oms` verifies what it is given on stdin, so that no process that stays loads the cryptography package.
"""

import base64
import binascii
import hashlib
import json
import subprocess
import sys
from collections.abc import Iterable, Mapping, Sequence
from pathlib import PurePosixPath
from typing import Annotated, Any, Final, TypeVar

import msgspec

from edgecl import keys
from edgecl.errors import BundleError
from edgecl.keys import PrivateKey, PublicKey
from edgecl.manifest import MANIFEST, MAX_FILES, MAX_SIGNATURE_BYTES, SIGNATURE, Digest, File

MEDIA_TYPE: Final = "application/vnd.dev.sigstore.bundle.v0.3+json"
PAYLOAD_TYPE: Final = "application/vnd.in-toto+json"
STATEMENT_TYPE: Final = "https://in-toto.io/Statement/v1"
PREDICATE_TYPE: Final = "https://model_signing/signature/v1.0"

IGNORABLE: Final = frozenset({SIGNATURE, ".git", ".gitattributes", ".github", ".gitignore"})
"""What a signer may have left out: the signature, and what `model_signing` leaves out. No bundle has the latter."""

TIMEOUT_S: Final = 60.0
"""Verifying takes a quarter of a second on a PC, nearly all of it for starting the process."""

Kind = TypeVar("Kind")


class _Strict(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What is outside the signature has no room for anything else."""


class _Hint(_Strict, frozen=True):
    hint: Digest


class _Material(_Strict, frozen=True, rename="camel"):
    public_key: _Hint
    tlog_entries: Annotated[tuple[Any, ...], msgspec.Meta(max_length=0)] = ()


class _Sig(_Strict, frozen=True):
    sig: str
    keyid: str = ""


class _Envelope(_Strict, frozen=True, rename="camel"):
    payload: str
    payload_type: str
    signatures: Annotated[tuple[_Sig, ...], msgspec.Meta(min_length=1, max_length=1)]


class _SigstoreBundle(_Strict, frozen=True, rename="camel"):
    media_type: str
    verification_material: _Material
    dsse_envelope: _Envelope


class _Sha256(msgspec.Struct, frozen=True):
    sha256: Digest


class _Subject(msgspec.Struct, frozen=True):
    name: str
    digest: _Sha256


class _Serialization(_Strict, frozen=True):
    method: str
    hash_type: str
    allow_symlinks: bool
    ignore_paths: tuple[str, ...] = ()


class _Resource(msgspec.Struct, frozen=True):
    name: str
    algorithm: str
    digest: Digest


class _Predicate(msgspec.Struct, frozen=True):
    serialization: _Serialization
    resources: Annotated[tuple[_Resource, ...], msgspec.Meta(max_length=MAX_FILES + 1)]


class _Statement(msgspec.Struct, frozen=True):
    """Other fields are passed over, as in-toto and the predicate say."""

    type: str = msgspec.field(name="_type")
    subject: Annotated[tuple[_Subject, ...], msgspec.Meta(min_length=1, max_length=1)]
    predicate_type: str = msgspec.field(name="predicateType")
    predicate: _Predicate


class Signature(msgspec.Struct, frozen=True):
    """A signature that was read, and not verified."""

    hint: str
    """Which key signed, as it says."""
    payload: bytes
    sig: bytes

    @property
    def fingerprint(self) -> str:
        """Of the key that it names."""
        return f"SHA256:{self.hint}"


def digests(identity: str, files: Iterable[File]) -> dict[str, str]:
    """SHA-256 by name of what a signature of a bundle must name: its manifest, and the files that it lists."""
    return {MANIFEST: identity} | {file.path: file.sha256 for file in files}


def sign(files: Mapping[str, str], key: PrivateKey, name: str) -> bytes:
    """The `signature.json` of files, given by their digests; `name` is what verifiers are told that was signed.

    Raises BundleError: too many files for a signature.
    """
    from cryptography.hazmat.primitives import hashes
    from cryptography.hazmat.primitives.asymmetric import ec

    resources = tuple(_Resource(each, "sha256", files[each]) for each in sorted(files, key=PurePosixPath))
    plan = _Serialization("files", "sha256", False, (SIGNATURE,))
    subject = _Subject(name, _Sha256(_root(resources)))
    payload = msgspec.json.encode(_Statement(STATEMENT_TYPE, (subject,), PREDICATE_TYPE, _Predicate(plan, resources)))
    sig = key.secret.sign(_encoded(payload), ec.ECDSA(hashes.SHA256()))
    envelope = _Envelope(_base64(payload), PAYLOAD_TYPE, (_Sig(_base64(sig)),))
    made = _SigstoreBundle(MEDIA_TYPE, _Material(_Hint(key.public.hint)), envelope)
    data = msgspec.json.encode(made) + b"\n"
    if len(data) > MAX_SIGNATURE_BYTES:
        raise BundleError(f"{name}: too many files to sign, {len(files)}; build it with fewer methods")
    return data


def read(data: bytes, where: str) -> Signature:
    """What a `signature.json` holds. Nothing of it is true yet. Raises BundleError."""
    if len(data) > MAX_SIGNATURE_BYTES:
        raise _refused(where, f"{len(data)} bytes, more than the limit of {MAX_SIGNATURE_BYTES}")
    found = _parsed(data, _SigstoreBundle, where)
    for what, has, needs in (
        ("media type", found.media_type, MEDIA_TYPE),
        ("payload type", found.dsse_envelope.payload_type, PAYLOAD_TYPE),
    ):
        if has != needs:
            raise _refused(where, f"its {what} is {has[:80]!r} where {needs} belongs")
    payload, sig = (
        _bytes(each, where) for each in (found.dsse_envelope.payload, found.dsse_envelope.signatures[0].sig)
    )
    return Signature(found.verification_material.public_key.hint, payload, sig)


def verify(data: bytes, files: Mapping[str, str], trusted: Sequence[PublicKey], where: str) -> PublicKey:
    """The key, of those trusted, that signed exactly these files. `files` are the digests of what is there.

    Raises BundleError: another key, a wrong or malformed signature, or one of other files.
    """
    from cryptography.exceptions import InvalidSignature
    from cryptography.hazmat.primitives import hashes, serialization
    from cryptography.hazmat.primitives.asymmetric import ec

    found = read(data, where)
    key = next((key for key in trusted if key.hint == found.hint), None)
    if key is None:
        have = ", ".join(str(key) for key in trusted) or "none"
        raise BundleError(f"{where}: signed by another key, {found.fingerprint}; trusted here: {have}")
    try:
        public = serialization.load_der_public_key(key.der)
        assert isinstance(public, ec.EllipticCurvePublicKey)
        public.verify(found.sig, _encoded(found.payload), ec.ECDSA(hashes.SHA256()))
    except InvalidSignature:
        raise _refused(where, f"not made by {key}, which it names") from None
    except ValueError:
        raise BundleError(f"{where}: key {key} is no point of its curve; replace that key") from None
    _compare(_parsed(found.payload, _Statement, where), files, where)
    return key


def verify_apart(data: bytes, files: Mapping[str, str], trusted: Sequence[PublicKey], where: str) -> PublicKey:
    """`verify` in a process of its own, which ends with it. Raises BundleError."""
    # A name may hold bytes that are no text; the path, which may as well, stays here.
    named = [(key.name.encode(errors="replace").decode(), key.pem) for key in trusted]
    question = _Question(data[: MAX_SIGNATURE_BYTES + 1], dict(files), named)
    command = [sys.executable, "-P", "-m", "edgecl.oms"]
    try:
        child = subprocess.run(command, input=msgspec.json.encode(question), capture_output=True, timeout=TIMEOUT_S)
        answer = msgspec.json.decode(child.stdout, type=_Answer)
    except (subprocess.TimeoutExpired, msgspec.DecodeError):
        raise BundleError(
            f"{where}: its signature could not be verified: the process for it failed; try again"
        ) from None
    if answer.refused or answer.signer not in range(len(trusted)):
        raise BundleError(where + (answer.refused or ": nobody known signed it; sign it again"))
    return trusted[answer.signer]


class _Question(msgspec.Struct):
    signature: bytes
    files: dict[str, str]
    trusted: list[tuple[str, str]]


class _Answer(msgspec.Struct):
    signer: int = -1
    refused: str = ""


def _compare(statement: _Statement, files: Mapping[str, str], where: str) -> None:
    """Raises BundleError: the statement is not of these files, all of them."""
    plan, resources = statement.predicate.serialization, statement.predicate.resources
    for what, has, needs in (
        ("statement", statement.type, STATEMENT_TYPE),
        ("predicate", statement.predicate_type, PREDICATE_TYPE),
        ("serialization", plan.method, "files"),
        ("digest", plan.hash_type, "sha256"),
    ):
        if has != needs:
            raise _refused(where, f"its {what} is {has[:80]!r} where {needs} belongs")
    if plan.allow_symlinks:
        raise _refused(where, "it allows symbolic links")
    for path in plan.ignore_paths:
        if path not in IGNORABLE:
            raise _refused(where, f"it leaves out {path[:80]!r}")
    if _root(resources) != statement.subject[0].digest.sha256:
        raise _refused(where, "the digest of its subject is not that of its files")
    signed: dict[str, str] = {}
    for resource in resources:
        if resource.algorithm != "sha256":
            raise _refused(where, f"{resource.name[:80]!r} is signed by {resource.algorithm[:80]!r}, not sha256")
        if resource.name in signed:
            raise _refused(where, f"it names {resource.name[:80]!r} twice")
        signed[resource.name] = resource.digest
    if signed.get(MANIFEST) != files[MANIFEST]:
        raise _refused(where, f"it is of another {MANIFEST}, so of another bundle")
    for name in sorted(signed.keys() | files.keys()):
        if name not in files:
            raise _refused(where, f"it names {name[:80]!r}, which the bundle does not have")
        if name not in signed:
            raise _refused(where, f"it does not name {name}, which the bundle has")
        if signed[name] != files[name]:
            raise _refused(where, f"it is of another {name}")


def _root(resources: Iterable[_Resource]) -> str:
    """The digest of a statement's subject: that of the files' digests, one after another."""
    return hashlib.sha256(b"".join(bytes.fromhex(resource.digest) for resource in resources)).hexdigest()


def _encoded(payload: bytes) -> bytes:
    """What is really signed: DSSE's pre-authentication encoding, so that no other kind of payload has the same."""
    return b"DSSEv1 %d %s %d %s" % (len(PAYLOAD_TYPE), PAYLOAD_TYPE.encode(), len(payload), payload)


def _parsed(data: bytes, kind: type[Kind], where: str) -> Kind:
    """JSON in UTF-8 in which no key stands twice: what another reader would take of two cannot be known."""
    try:
        return msgspec.convert(json.loads(data.decode(), object_pairs_hook=_unique, parse_constant=_no), kind)
    except (ValueError, RecursionError, msgspec.ValidationError) as error:
        said = "".join(letter if letter.isprintable() else " " for letter in str(error))
        raise _refused(where, f"not a signature: {said[:200]}") from None


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        raise ValueError("a key stands twice in one object")
    return found


def _no(constant: str) -> None:
    raise ValueError(f"{constant} is no JSON")


def _base64(data: bytes) -> str:
    return base64.b64encode(data).decode()


def _bytes(text: str, where: str) -> bytes:
    """Bytes of base64 in its one exact form."""
    try:
        data = base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError):
        data = b""
    if not data or _base64(data) != text:
        raise _refused(where, "not a signature: broken base64")
    return data


def _refused(where: str, problem: str) -> BundleError:
    return BundleError(f"{where}: {SIGNATURE}: {problem}; get the bundle again, or sign it again")


def _main() -> None:
    asked = msgspec.json.decode(sys.stdin.buffer.read(), type=_Question)
    trusted = [keys.parse(pem.encode(), name, name) for name, pem in asked.trusted]
    try:
        answer = _Answer(signer=trusted.index(verify(asked.signature, asked.files, trusted, "")))
    except BundleError as error:
        answer = _Answer(refused=str(error))
    print(msgspec.json.encode(answer).decode())


if __name__ == "__main__":
    _main()
