"""The files of a data set: arrays that grow on the disk, or images in folders. The same samples give the same bytes."""

import shutil
import zipfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final, Protocol
from urllib.parse import quote

import numpy as np
import numpy.typing as npt

from edgecl.manifest import Input

UNLABELLED: Final = "unlabelled"
"""The set of samples without a label."""
FILES: Final = {"train": "train.npz", "held_out": "held_out.npz", UNLABELLED: "unlabelled.npz"}
_EPOCH: Final = (1980, 1, 1, 0, 0, 0)
_COPY_BYTES: Final = 1 << 20


class Sink(Protocol):
    """Where samples go."""

    def add(self, part: str, x: npt.NDArray[Any], label: int | None, name: str) -> None:
        """One more of a set. `name` tells where it comes from. Raises OSError."""

    def close(self) -> None:
        """Everything is there."""


class Arrays:
    """`<set>.npz` with `x` and, where there are labels, `y`: written to the side, and put together at the end."""

    def __init__(self, folder: Path, given: Input) -> None:
        """Raises OSError."""
        self._folder = folder
        self._shape, self._dtype = given.shape, np.dtype(np.uint8 if given.kind == "image" else np.float32)
        self._counts = dict.fromkeys(FILES, 0)
        self._x = {name: (folder / f".{name}.x").open("wb") for name in FILES}
        self._y = {name: (folder / f".{name}.y").open("wb") for name in FILES if name != UNLABELLED}

    def add(self, part: str, x: npt.NDArray[Any], label: int | None, name: str) -> None:
        self._x[part].write(np.ascontiguousarray(x, self._dtype.newbyteorder("<")).tobytes())
        if label is not None:
            self._y[part].write(label.to_bytes(8, "little"))
        self._counts[part] += 1

    def close(self) -> None:
        for file in (*self._x.values(), *self._y.values()):
            file.close()
        for part, file in FILES.items():
            if self._counts[part]:
                with zipfile.ZipFile(self._folder / file, "w", zipfile.ZIP_STORED) as archive:
                    self._member(archive, part, "x", self._dtype, self._shape)
                    if part in self._y:
                        self._member(archive, part, "y", np.dtype(np.int64), ())
            for which in ("x", "y"):
                (self._folder / f".{part}.{which}").unlink(missing_ok=True)

    def _member(
        self, archive: zipfile.ZipFile, part: str, which: str, dtype: np.dtype[Any], shape: tuple[int, ...]
    ) -> None:
        header = {
            "descr": np.lib.format.dtype_to_descr(dtype.newbyteorder("<")),
            "fortran_order": False,
            "shape": (self._counts[part], *shape),
        }
        info = zipfile.ZipInfo(f"{which}.npy", _EPOCH)
        info.external_attr = 0o644 << 16
        with (
            (self._folder / f".{part}.{which}").open("rb") as raw,
            archive.open(info, "w", force_zip64=True) as member,
        ):
            np.lib.format.write_array_header_1_0(member, header)
            shutil.copyfileobj(raw, member, _COPY_BYTES)


class Images:
    """`<set>/<class>/<device>-<seq>.png`; those without a label in `unlabelled` itself."""

    def __init__(self, folder: Path, classes: Sequence[str]) -> None:
        from PIL import Image  # late: only this needs it

        self._image = Image.fromarray
        self._folder, self._classes = folder, classes

    def add(self, part: str, x: npt.NDArray[Any], label: int | None, name: str) -> None:
        place = self._folder / part
        if label is not None:
            place /= folder_of(self._classes[label])
        place.mkdir(parents=True, exist_ok=True)
        self._image(x[..., 0] if x.shape[-1] == 1 else x).save(place / f"{quote(name, safe='')}.png")

    def close(self) -> None:
        pass


def folder_of(name: str) -> str:
    """Of a class: its name, but for what no folder may be called."""
    return quote(name, safe=" ") if name.startswith(".") or "/" in name or "\0" in name else name
