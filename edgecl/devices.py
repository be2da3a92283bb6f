"""Profiles of boards: architecture, memory, cores, speed, and what edgecl may take of them.

One TOML a board, in `devices/`; docs/formats/device.md tells every field.
"""

import tomllib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Final, Literal

import msgspec

from edgecl.errors import ProfileError

_INSTALLED: Final = Path(__file__).parent / "devices"
_CHECKOUT: Final = Path(__file__).parent.parent / "devices"
"""Where an editable install leaves them."""

Bytes = Annotated[int, msgspec.Meta(ge=1)]

REFERENCE: Final = "linux-x86_64"
"""The profile whose speed stands for the computer that a bundle is timed on."""


class Latency(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """How fast one core is, told by one network that many processors have been timed with."""

    mobilenet_ms: Annotated[float, msgspec.Meta(gt=0)]
    """Milliseconds of MobileNet v1 1.0, one image of 224x224, float32, one thread."""
    measured: bool
    """Whether that was measured on such a board, or estimated."""
    source: str
    """Where the number is from."""


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
    """Preferred first."""
    link: Literal["local", "ssh", "serial"]
    """How the host reaches it."""
    providers: tuple[str, ...] = ()
    """ONNX Runtime is preferred only where it has one of these execution providers; empty for in any case."""
    core: str = ""
    """Name of the processor's cores."""
    clock_hz: Annotated[int, msgspec.Meta(ge=0)] = 0
    """Their highest clock; 0 where no source was found."""
    models: tuple[str, ...] = ()
    """What /proc/device-tree/model of such a board begins with."""
    throttles_at_c: float | None = None
    """Degrees Celsius from which on the board slows itself down, where the maker tells."""
    latency: Latency | None = None
    note: str = ""
    """What its owner should know before anything else."""
    sources: tuple[str, ...] = ()
    """Public pages that the facts are from."""

    def engine(self, present: Mapping[str, Sequence[str]]) -> str:
        """The engine to run with, of those that are there, given with their execution providers; empty for none."""
        for name in self.engines:
            fast = name != "onnxruntime" or not self.providers or set(self.providers) & set(present.get(name, ()))
            if name in present and fast:
                return name
        return next((name for name in self.engines if name in present), "")

    def estimate_ms(self, measured_ms: float) -> float | None:
        """Milliseconds that something takes there which took so long on the reference processor; None where unknown.

        A ratio of two cores on one float32 network: good to a factor of two or three, and for one thread.
        """
        here = find(REFERENCE).latency
        return measured_ms * self.latency.mobilenet_ms / here.mobilenet_ms if self.latency and here else None


def find(name: str) -> Profile:
    """The profile of this name. Raises ProfileError: there is none, or it cannot be read."""
    for profile in profiles():
        if profile.name == name:
            return profile
    have = ", ".join(profile.name for profile in profiles())
    raise ProfileError(f"device {name}: no such profile; choose {have}")


def of_model(model: str, arch: str) -> Profile | None:
    """The profile of a board that calls itself so in its device tree, or the generic one of its architecture."""
    found = [(len(start), profile) for profile in profiles() for start in profile.models if model.startswith(start)]
    if found:
        return max(found, key=lambda one: one[0])[1]
    return next((profile for profile in profiles() if profile.name == f"linux-{arch}"), None)


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
