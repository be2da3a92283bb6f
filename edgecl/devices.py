"""Profiles of boards: architecture, memory, cores, and what edgecl may take of them.

One TOML a board, in `devices/`.
"""

import tomllib
from pathlib import Path
from typing import Annotated, Final, Literal

import msgspec

from edgecl.errors import ProfileError

_INSTALLED: Final = Path(__file__).parent / "devices"
_CHECKOUT: Final = Path(__file__).parent.parent / "devices"
"""Where an editable install leaves them."""

Bytes = Annotated[int, msgspec.Meta(ge=1)]


class Profile(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A board."""

    name: str
    title: str
    arch: Literal["x86_64", "aarch64"]
    cores: Annotated[int, msgspec.Meta(ge=1)]
    memory_bytes: Bytes
    """All of the board's."""
    budget_bytes: Bytes
    """What the learning process may take, unless the project says otherwise."""
    engines: tuple[Literal["executorch", "onnxruntime"], ...]
    link: Literal["local", "ssh", "serial"]
    """How the host reaches it."""


def find(name: str) -> Profile:
    """The profile of this name. Raises ProfileError: there is none, or it cannot be read."""
    for profile in profiles():
        if profile.name == name:
            return profile
    have = ", ".join(profile.name for profile in profiles())
    raise ProfileError(f"device {name}: no such profile; choose {have}")


def profiles() -> tuple[Profile, ...]:
    """All profiles, by name. Raises ProfileError: one cannot be read."""
    folder = _INSTALLED if _INSTALLED.is_dir() else _CHECKOUT
    return tuple(read(path) for path in sorted(folder.glob("*.toml")))


def read(path: Path) -> Profile:
    """The profile in a file. Raises ProfileError."""
    try:
        profile = msgspec.convert(tomllib.loads(path.read_text("utf-8")), Profile)
    except OSError as error:
        raise ProfileError(f"{path}: {error.strerror}; give the file of a profile") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError, msgspec.ValidationError) as error:
        raise ProfileError(f"{path}: {error}; see docs/formats/device.md") from None
    if profile.name != path.stem:
        raise ProfileError(f"{path}: its name is {profile.name}; give file and profile the same name")
    return profile
