"""A source unpacked once, so that every worker can take any sample of it: `x.npy` and `y.npy`, mapped into memory."""

import hashlib
from pathlib import Path
from typing import Any, BinaryIO, Final

import numpy as np
import numpy.typing as npt

from edgecl.errors import EXIT_USAGE, EdgeclError, StoreError
from edgecl.manifest import Manifest
from edgecl.sources import RECORDED, Damaged, open_source

UNKNOWN: Final = -1
"""Label of a sample that has none."""


class DataError(EdgeclError):
    """The data cannot be simulated with: give other data."""

    exit_code = EXIT_USAGE


class DataSet:
    """Of which any sample can be had."""

    def __init__(self, folder: Path) -> None:
        """What `unpack` has written."""
        self.x: npt.NDArray[Any] = np.load(folder / "x.npy", mmap_mode="r", allow_pickle=False)
        self.y: npt.NDArray[np.int64] = np.load(folder / "y.npy", allow_pickle=False)

    def __len__(self) -> int:
        return len(self.x)


def unpack(spec: str, manifest: Manifest, folder: Path) -> str:
    """Write the samples of a source that fit a bundle; their digest. Damaged ones are left out.

    Raises SourceError, DataError: there are no samples, or they cannot be had again. StoreError.
    """
    if spec.partition(":")[0] not in RECORDED:
        raise DataError(f"{spec}: its samples cannot be had again; give npz:FILE or folder:DIR")
    source = open_source(spec, manifest.input, manifest.classes)
    dtype = np.dtype("uint8" if manifest.input.kind == "image" else "<f4")
    labels: list[int] = []
    digest = hashlib.sha256()
    try:
        with (folder / "x.npy").open("wb") as file:
            _header(file, (0, *manifest.input.shape), dtype)
            for sample in source:
                if isinstance(sample, Damaged):
                    continue
                content = np.ascontiguousarray(sample.x, dtype).tobytes()
                digest.update(content)
                file.write(content)
                labels.append(UNKNOWN if sample.y is None else sample.y)
            file.seek(0)
            _header(file, (len(labels), *manifest.input.shape), dtype)
        y = np.array(labels, np.int64)
        np.save(folder / "y.npy", y)
    except OSError as error:
        raise StoreError(f"{folder}: {error.strerror}; make room, or give another --out") from None
    if not labels:
        raise DataError(f"{spec}: no sample in it can be read; give other data")
    digest.update(y.tobytes())
    return digest.hexdigest()


_ROOM: Final = 10**12
"""Samples that the header of the array has room for: it is written before they are counted."""


def _header(file: BinaryIO, shape: tuple[int, ...], dtype: np.dtype[Any]) -> None:
    """Of the form of numpy, always of the same length."""
    described = {"descr": np.lib.format.dtype_to_descr(dtype), "fortran_order": False, "shape": shape}
    length = len(repr({**described, "shape": (_ROOM, *shape[1:])}))
    text = repr(described).ljust(length + (-(length + 11) % 64)) + "\n"
    file.write(np.lib.format.magic(1, 0) + len(text).to_bytes(2, "little") + text.encode("latin1"))
