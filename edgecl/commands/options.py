"""Values of command-line options, read from text."""

import re
import sys
from pathlib import Path
from typing import Final

import click

from edgecl import keys
from edgecl.errors import KeyFileError
from edgecl.keys import PrivateKey

_UNITS: Final = {"B": 1, "KB": 10**3, "MB": 10**6, "GB": 10**9, "KIB": 1 << 10, "MIB": 1 << 20, "GIB": 1 << 30}


def parse_bytes(text: str) -> int | None:
    """`64 MB` (10^6) or `64 MiB` (2^20) in bytes, or a plain number of bytes; None where it is neither."""
    found = re.fullmatch(r"(\d+(?:\.\d+)?) *([A-Za-z]*)", text.strip())
    unit = _UNITS.get(found[2].upper() or "B") if found else None
    return round(float(found[1]) * unit) if found and unit else None


def size(text: str) -> int:
    """A number of bytes. Raises BadParameter."""
    found = parse_bytes(text)
    if found is None:
        raise click.BadParameter(f'"{text}" is no size; write it like "64 MB" or "64 MiB"')
    return found


def named_number(text: str) -> tuple[str, float]:
    """`name=number`. Raises BadParameter."""
    name, _, number = text.partition("=")
    try:
        return name, float(number)
    except ValueError:
        raise click.BadParameter(f'"{text}" is not like rate=0.001') from None


def private_key(given: str, passphrase_file: Path | None) -> PrivateKey:
    """The key that a user means, its passphrase asked for where it has one. Raises KeyFileError."""
    path = keys.find(given, keys.PRIVATE, keys.folder())
    return keys.read_private(path, lambda: passphrase_of(passphrase_file, f"Passphrase of {path}"))


def passphrase_of(file: Path | None, prompt: str, *, confirm: bool = False) -> str:
    """The first line of a file, or what is typed. Raises KeyFileError: there is no such line, or nobody to type."""
    if file is None:
        if not sys.stdin.isatty():
            raise KeyFileError(f"{prompt}: nobody is here to type it; give --passphrase-file FILE")
        words: str = click.prompt(prompt, hide_input=True, confirmation_prompt=confirm, err=True)
        return words
    try:
        with file.open(encoding="utf-8") as opened:
            line = opened.readline(keys.MAX_KEY_BYTES).rstrip("\r\n")
    except (OSError, UnicodeDecodeError) as error:
        raise KeyFileError(f"{file}: {getattr(error, 'strerror', None) or error}; give a readable file") from None
    if not line:
        raise KeyFileError(f"{file}: its first line is empty; write the passphrase there")
    return line


def duration_ms(text: str) -> float:
    """A time in milliseconds, from `40 ms` or `0.5 s`; a plain number is of milliseconds. Raises BadParameter."""
    found = re.fullmatch(r"(\d+(?:\.\d+)?) *(ms|s|)", text.strip())
    if found is None or float(found[1]) == 0:
        raise click.BadParameter(f'"{text}" is no time; write it like "40 ms"')
    return float(found[1]) * (1000 if found[2] == "s" else 1)
