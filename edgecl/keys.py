"""Key pairs that sign bundles: ECDSA P-256, `NAME.key` to sign with and `NAME.pem` to tell by who signed.

The fingerprint of a key is the SHA-256 of its public half in PEM as OpenSSL and edgecl write it: what `sha256sum
NAME.pem` prints, and what a signature names its key by. Public keys are read here without the cryptography package,
which takes 9 MB of memory: their DER has one exact form on this curve.
"""

import base64
import binascii
import hashlib
import os
import re
import stat
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final

from edgecl import disk
from edgecl.errors import KeyFileError

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.ec import EllipticCurvePrivateKey

PRIVATE: Final = ".key"
PUBLIC: Final = ".pem"
MAX_KEY_BYTES: Final = 16 << 10
"""A key is a few hundred bytes; some tools write what it is in front."""

NAME: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}")

_P256: Final = bytes.fromhex("3059301306072a8648ce3d020106082a8648ce3d030107034200") + b"\x04"
"""SubjectPublicKeyInfo (RFC 5480) of an uncompressed point of secp256r1; the two coordinates follow."""

_POINT_BYTES: Final = 64
_BEGIN, _END = "-----BEGIN PUBLIC KEY-----", "-----END PUBLIC KEY-----"
_PEM: Final = re.compile(rf"\s*{_BEGIN}\s([A-Za-z0-9+/=\s]+){_END}\s*")


@dataclass(frozen=True)
class PublicKey:
    """What tells whether its private half signed. Keys are compared by `der`; the name is its holder's."""

    name: str
    der: bytes

    @property
    def pem(self) -> str:
        """The file, as OpenSSL writes it."""
        text = base64.b64encode(self.der).decode()
        return "\n".join([_BEGIN, *(text[at : at + 64] for at in range(0, len(text), 64)), _END, ""])

    @property
    def hint(self) -> str:
        """SHA-256 of the file, in lower-case hexadecimal; a signature names its key by it."""
        return hashlib.sha256(self.pem.encode()).hexdigest()

    @property
    def fingerprint(self) -> str:
        """The same for people: `SHA256:9f...`."""
        return f"SHA256:{self.hint}"

    def __str__(self) -> str:
        return f"{self.name} ({self.fingerprint})"


@dataclass(frozen=True)
class PrivateKey:
    """What signs."""

    public: PublicKey
    secret: "EllipticCurvePrivateKey"


def folder() -> Path:
    """Where a user's keys lie unless told otherwise: `$XDG_CONFIG_HOME/edgecl/keys`."""
    config = os.environ.get("XDG_CONFIG_HOME") or "~/.config"
    return Path(config).expanduser() / "edgecl" / "keys"


def parse(data: bytes, name: str, where: str) -> PublicKey:
    """The public key in a PEM file. Raises KeyFileError: it is something else, or of another curve."""
    if b"PRIVATE KEY" in data:
        raise KeyFileError(f"{where}: a private key where a public one belongs; give the {PUBLIC} file")
    try:
        found = _PEM.fullmatch(data.decode("ascii"))
        der = base64.b64decode("".join(found[1].split()), validate=True) if found else b""
    except (UnicodeDecodeError, binascii.Error):
        der = b""
    if not der:
        raise KeyFileError(f"{where}: not a public key in PEM; give the {PUBLIC} file of a key pair")
    if len(der) != len(_P256) + _POINT_BYTES or not der.startswith(_P256):
        raise KeyFileError(f"{where}: not an ECDSA key of the curve P-256; make one with: edgecl keys new NAME")
    return PublicKey(name, der)


def read_public(path: Path) -> PublicKey:
    """The public key in a file, named after it. Raises KeyFileError."""
    return parse(_read(path), path.name.removesuffix(PUBLIC), str(path))


def known(directory: Path) -> tuple[PublicKey, ...]:
    """The readable public keys of a directory, by name; none where there is no directory."""
    found = []
    for path in sorted(directory.glob(f"*{PUBLIC}")) if directory.is_dir() else ():
        try:
            found.append(read_public(path))
        except KeyFileError:
            continue  # of certificates and other curves there may be any number beside ours
    return tuple(found)


def find(given: str, suffix: str, directory: Path) -> Path:
    """The file that a user means: a path, or the name of a key in the directory. Raises KeyFileError."""
    path = Path(given)
    if path.exists():
        return path
    named = directory / f"{given}{suffix}"
    if NAME.fullmatch(given) and named.exists():
        return named
    raise KeyFileError(f"{given}: no such file, and no such key in {directory}; see edgecl keys list")


def new(directory: Path, name: str, passphrase: str = "") -> PublicKey:
    """Make a key pair, `name.key` (mode 0600) and `name.pem`, in a directory, which is made where it is missing.

    Raises KeyFileError: the name does not do, a key has it already, or the files cannot be written.
    """
    from cryptography.hazmat.primitives import serialization
    from cryptography.hazmat.primitives.asymmetric import ec

    if not NAME.fullmatch(name):
        raise KeyFileError(f"{name!r}: no name for a key; use up to 100 letters, digits, dots, dashes and underscores")
    private, public = directory / f"{name}{PRIVATE}", directory / f"{name}{PUBLIC}"
    for path in (private, public):
        if path.exists() or path.is_symlink():
            raise KeyFileError(f"{path}: is there already, and keys are not replaced; choose another name")
    secret = ec.generate_private_key(ec.SECP256R1())
    locked = serialization.BestAvailableEncryption(passphrase.encode()) if passphrase else serialization.NoEncryption()
    pem = secret.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, locked)
    key = PublicKey(name, _der(secret))
    try:
        directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        opened = os.open(private, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        with os.fdopen(opened, "wb") as file:
            file.write(pem)
            file.flush()
            os.fsync(opened)
        disk.write_new(public, [key.pem.encode()])
        disk.sync_directory(directory)
    except OSError as error:
        raise KeyFileError(f"{private}: {error.strerror or error}; give another --folder") from None
    return key


def locked(path: Path) -> bool:
    """Whether a private key is under a passphrase. Raises KeyFileError: it cannot be read."""
    return b"ENCRYPTED" in _read(path)


def read_private(path: Path, ask: Callable[[], str]) -> PrivateKey:
    """The private key in a PEM file (PKCS #8 or SEC 1); `ask` gives the passphrase of one that is under one.

    Raises KeyFileError: not there, open to others, not a private key, of another curve, or another passphrase.
    """
    from cryptography.exceptions import UnsupportedAlgorithm
    from cryptography.hazmat.primitives import serialization
    from cryptography.hazmat.primitives.asymmetric import ec

    data = _read(path, private=True)
    if b"PRIVATE KEY" not in data:
        raise KeyFileError(f"{path}: not a private key; give the {PRIVATE} file of a key pair")
    passphrase = ask().encode() if b"ENCRYPTED" in data else None
    try:
        secret = serialization.load_pem_private_key(data, passphrase)
    except (ValueError, TypeError, UnsupportedAlgorithm):
        wrong = "another passphrase, or damaged" if passphrase is not None else "damaged, or no key in PEM"
        raise KeyFileError(f"{path}: cannot be read: {wrong}; give it again, or another key") from None
    if not isinstance(secret, ec.EllipticCurvePrivateKey) or not isinstance(secret.curve, ec.SECP256R1):
        raise KeyFileError(f"{path}: not an ECDSA key of the curve P-256; make one with: edgecl keys new NAME")
    return PrivateKey(PublicKey(path.name.removesuffix(PRIVATE), _der(secret)), secret)


def _der(secret: "EllipticCurvePrivateKey") -> bytes:
    from cryptography.hazmat.primitives import serialization

    return secret.public_key().public_bytes(serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo)


def _read(path: Path, *, private: bool = False) -> bytes:
    try:
        with open(os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC), "rb") as file:
            status = os.fstat(file.fileno())
            if not stat.S_ISREG(status.st_mode) or status.st_size > MAX_KEY_BYTES:
                raise KeyFileError(f"{path}: not a file of at most {MAX_KEY_BYTES} bytes; give the file of a key")
            if private and status.st_mode & 0o077:
                raise KeyFileError(f"{path}: others than its owner may open it; chmod 600 {path}")
            return file.read(MAX_KEY_BYTES)
    except OSError as error:
        raise KeyFileError(f"{path}: {error.strerror or error}; give the file of a key") from None
