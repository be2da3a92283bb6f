"""State = theta + slots, the two flat vectors that are all a learner changes; saved as one safetensors file.

The file holds `theta` and `slots` (float32) and one metadata entry, `edgecl`: the JSON of `Header`. One entry, because
safetensors writes several in an order that changes from process to process, and equal states must give equal bytes.
"""

import hashlib
import os
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final

import msgspec
import numpy as np
import numpy.typing as npt
import safetensors
import safetensors.numpy

from edgecl.errors import BundleError, StoreError
from edgecl.manifest import Layout, Piece

FORMAT: Final = "edgecl-state-1"
MAX_STATE_BYTES: Final = 1 << 31
"""Larger files are refused unread: a state is kilobytes to a few megabytes."""

Vector = npt.NDArray[np.float32]


class Header(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What a state file says of itself."""

    format: str
    layout: str
    """sha256 of the layout that the vectors follow."""
    step: int
    seen: int
    digest: str
    """`State.digest`."""


@dataclass(frozen=True)
class State:
    """Theta and slots with their layout. The vectors are read-only: an update makes a new State."""

    layout: Layout
    theta: Vector
    slots: Vector
    step: int = 0
    """Updates committed since the bundle was built."""
    seen: int = 0
    """Samples answered when this state was made."""

    def __post_init__(self) -> None:
        for name, vector, size in (
            ("theta", self.theta, self.layout.theta_size),
            ("slots", self.slots, self.layout.slots_size),
        ):
            if vector.dtype != np.float32 or vector.shape != (size,):
                raise BundleError(
                    f"{name}: {vector.dtype}{list(vector.shape)} where the layout has float32[{size}]; "
                    "the state belongs to another bundle"
                )
            vector.flags.writeable = False

    @property
    def finite(self) -> bool:
        """Whether every number is finite."""
        return bool(np.isfinite(self.theta).all() and np.isfinite(self.slots).all())

    @property
    def digest(self) -> str:
        """sha256 over the layout's digest, theta and slots (little-endian): equal digests, equal learners."""
        return hashlib.sha256(
            self.layout.digest.encode() + self.theta.astype("<f4").tobytes() + self.slots.astype("<f4").tobytes()
        ).hexdigest()

    def piece(self, name: str) -> Vector:
        """One named piece of theta, or of slots, in its own shape.

        Raises KeyError when the layout has no such piece.
        """
        for pieces, vector in ((self.layout.theta, self.theta), (self.layout.slots, self.slots)):
            for piece in pieces:
                if piece.name == name:
                    return _cut(vector, piece)
        raise KeyError(name)

    def after(self, theta: Vector, slots: Vector, *, seen: int) -> "State":
        """The state that one update makes of this one."""
        return replace(self, theta=theta, slots=slots, step=self.step + 1, seen=seen)


def _cut(vector: Vector, piece: Piece) -> Vector:
    return vector[piece.offset : piece.offset + piece.size].reshape(piece.shape)


def dump(state: State) -> bytes:
    """The bytes of a state file; the same state gives the same bytes."""
    header = Header(format=FORMAT, layout=state.layout.digest, step=state.step, seen=state.seen, digest=state.digest)
    tensors = {"theta": state.theta, "slots": state.slots}
    return safetensors.numpy.save(tensors, metadata={"edgecl": msgspec.json.encode(header).decode()})


def load(path: Path, *layouts: Layout) -> State:
    """Read a state that follows one of these layouts.

    Raises BundleError: it follows another. StoreError: missing, damaged, or with a number that is not finite.
    """
    try:
        size = os.stat(path).st_size
        if size > MAX_STATE_BYTES:
            raise StoreError(f"{path}: {size} bytes, more than the limit of {MAX_STATE_BYTES}; delete it")
        with safetensors.safe_open(path, framework="numpy") as file:
            header = msgspec.json.decode((file.metadata() or {}).get("edgecl", ""), type=Header)
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (not a mapping)
    except OSError as error:
        raise StoreError(f"{path}: {error.strerror or error}; give another state") from None
    except (safetensors.SafetensorError, msgspec.DecodeError, ValueError, TypeError) as error:
        raise StoreError(f"{path}: not a state file: {error}; delete it, or give another state") from None
    if header.format != FORMAT or set(tensors) != {"theta", "slots"}:
        raise StoreError(f"{path}: not an edgecl state; give a file that edgecl wrote")
    layout = next((one for one in layouts if header.layout == one.digest), None)
    if not layout:
        raise BundleError(f"{path}: this state belongs to another bundle (layouts differ); give another --state")
    state = State(layout, tensors["theta"], tensors["slots"], header.step, header.seen)
    if not state.finite:
        raise StoreError(f"{path}: it holds numbers that are not finite; delete it, or give another state")
    if header.digest != state.digest:
        raise StoreError(f"{path}: its digest does not match its contents; delete it, or give another state")
    return state
