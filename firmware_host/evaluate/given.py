"""What people bring besides a store: labels that came later, and where the stream was in which domain."""

import csv
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from edgecl.errors import RequestError

MAX_ROWS: Final = 1 << 22


@dataclass(frozen=True)
class Labels:
    """By device, the empty name for any: sample -> name of its class."""

    of: Mapping[str, Mapping[int, str]]

    def on(self, device: str) -> Mapping[int, str]:
        """Those of a device."""
        return {**self.of.get("", {}), **self.of.get(device, {})}


@dataclass(frozen=True)
class Phases:
    """By device, the empty name for any: from which sample on the stream was in which domain."""

    of: Mapping[str, Mapping[int, str]]

    def on(self, device: str, seq: npt.NDArray[Any]) -> tuple[npt.NDArray[np.intp], list[str]] | None:
        """The domain of each sample, as a place in a list of names; None where nothing is told of the device."""
        found = {**self.of.get("", {}), **self.of.get(device, {})}
        if not found:
            return None
        begins = sorted(found)
        names = list(dict.fromkeys(found[begin] for begin in begins))
        numbers = np.array([names.index(found[begin]) for begin in begins])
        places = np.searchsorted(begins, seq, side="right") - 1
        return numbers[places.clip(0)], names


def read_labels(path: Path) -> Labels:
    """Rows with the columns `seq` and `class`, and `device` where they are of several. Rows without a class are
    passed over, as a labelling queue has them. Raises RequestError."""
    return Labels(_read(path, "class", empty=True))


def read_phases(path: Path) -> Phases:
    """Rows with the columns `seq` and `domain`, and `device` where they are of several. Raises RequestError."""
    return Phases(_read(path, "domain", empty=False))


def _read(path: Path, column: str, *, empty: bool) -> dict[str, dict[int, str]]:
    found: dict[str, dict[int, str]] = {}
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:  # as spreadsheets save it
            reader = csv.DictReader(file)
            if not {"seq", column} <= set(reader.fieldnames or ()):
                raise RequestError(f"{path}: no columns seq and {column} in its first line; add one that names them")
            for count, row in enumerate(reader):
                if count >= MAX_ROWS:
                    raise RequestError(f"{path}: more than {MAX_ROWS} rows; give fewer")
                seq, value = (row["seq"] or "").strip(), (row[column] or "").strip()
                if not seq.isdecimal() or len(seq) > 18:
                    raise RequestError(f"{path}:{reader.line_num}: seq {seq!r} is no number of a sample; correct it")
                if value:
                    found.setdefault((row.get("device") or "").strip(), {})[int(seq)] = value
                elif not empty:
                    raise RequestError(f"{path}:{reader.line_num}: no {column}; give its name")
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise RequestError(f"{path}: {getattr(error, 'strerror', None) or error}; give a file of CSV") from None
    return found
