"""Writes what a benchmark found: `results/NAME.md` to read, `results/NAME.json` to compute with."""

import importlib.metadata
import os
import platform
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, Final

import msgspec

FOLDER: Final = Path(__file__).parent / "results"

PACKAGES: Final = ("edgecl", "torch", "executorch", "numpy")


def write(name: str, title: str, sections: Sequence[str], found: Any) -> None:
    """Both files of one benchmark; `sections` are Markdown."""
    FOLDER.mkdir(exist_ok=True)
    head = [f"# {title}", f"{machine()}. {versions()}.", f"`python benchmarks/run.py {name}`"]
    (FOLDER / f"{name}.md").write_text("\n\n".join([*head, *sections]) + "\n", encoding="utf-8")
    content = {"machine": machine(), "versions": versions(), "found": found}
    (FOLDER / f"{name}.json").write_bytes(msgspec.json.format(msgspec.json.encode(content), indent=1) + b"\n")


def machine() -> str:
    """Processor, cores, memory."""
    cpu = dict(line.split(":", 1) for line in Path("/proc/cpuinfo").read_text().splitlines() if ":" in line)
    stripped = {key.strip(): value.strip() for key, value in cpu.items()}
    name = stripped.get("model name", platform.machine())
    extensions = [
        flag for flag in ("avx2", "avx512_vnni", "amx_int8", "asimd") if flag in stripped.get("flags", "").split()
    ]
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    return f"{name} ({platform.machine()} {' '.join(extensions)}), {os.cpu_count()} cores, {memory / 1e9:.0f} GB memory"


def versions() -> str:
    """Of what was measured."""
    packages = [f"{name} {importlib.metadata.version(name)}" for name in PACKAGES]
    return ", ".join([f"Python {platform.python_version()}", *packages])


def table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A Markdown table; the first column holds words, the others numbers."""
    lines = [list(head), ["---", *["---:"] * (len(head) - 1)], *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def verdict(met: bool) -> str:
    """For tables of targets."""
    return "met" if met else "**missed**"
