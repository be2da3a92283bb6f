"""Real wheels without a network: of this tree, and of packages as they are installed here."""

import base64
import hashlib
import sys
import sysconfig
import zipfile
from importlib.metadata import distribution
from pathlib import Path

import edgecl
from edgecl import __version__, _runtime

TAG = f"cp{sys.version_info.major}{sys.version_info.minor}"
PLATFORM = sysconfig.get_platform().replace("-", "_").replace(".", "_")
NEEDS = ("cbor2", "click", "cobs", "msgspec")
"""What the agent needs; numpy and the rest would only make the test slow."""


def make(folder: Path, comment: bytes = b"") -> Path:
    """A wheelhouse with edgecl, little of what it needs, and pip; the file of edgecl's own wheel, with a comment."""
    folder.mkdir(exist_ok=True)
    for name in (*NEEDS, "pip"):
        _repack(name, folder)
    return _edgecl(folder, comment)


def _edgecl(folder: Path, comment: bytes) -> Path:
    root = Path(edgecl.__file__).parent  # an editable install has the compiled part elsewhere
    files = {f"edgecl/{path.relative_to(root)}": path for path in root.rglob("*") if _wanted(path)}
    compiled = Path(_runtime.__file__)
    files |= {f"edgecl/{path.relative_to(compiled.parent)}": path for path in (compiled, *_libraries(compiled))}
    files |= {f"edgecl/devices/{path.name}": path for path in (root.parent / "devices").glob("*.toml")}
    content = {name: path.read_bytes() for name, path in files.items()}
    info = f"edgecl-{__version__}.dist-info"
    needs = "".join(f"Requires-Dist: {name}\n" for name in NEEDS)
    content[f"{info}/METADATA"] = f"Metadata-Version: 2.1\nName: edgecl\nVersion: {__version__}\n{needs}\n".encode()
    content[f"{info}/entry_points.txt"] = b"[console_scripts]\nedgecl = edgecl.cli:main\n"
    content[f"{info}/COMMENT"] = comment
    content[f"{info}/WHEEL"] = _wheel_file(f"{TAG}-{TAG}-{PLATFORM}")
    return _write(folder / f"edgecl-{__version__}-{TAG}-{TAG}-{PLATFORM}.whl", content, info)


def _wanted(path: Path) -> bool:
    return path.is_file() and "__pycache__" not in path.parts and path.suffix in (".py", ".service", ".conf")


def _libraries(compiled: Path) -> list[Path]:
    return sorted((compiled.parent / "lib").glob("*.so*"))


def _repack(name: str, folder: Path) -> Path:
    found = distribution(name)
    tags = [line.partition(": ")[2] for line in (found.read_text("WHEEL") or "").splitlines() if line[:5] == "Tag: "]
    content = {}
    for file in found.files or ():
        path = Path(str(found.locate_file(file)))
        if (
            ".." not in file.parts
            and path.is_file()
            and file.suffix != ".pyc"
            and file.name not in ("RECORD", "INSTALLER")
        ):
            content[str(file)] = path.read_bytes()
    # Several platforms are one wheel, whose name has them all.
    parts = [tag.split("-") for tag in tags]
    tag = "-".join(".".join(dict.fromkeys(part[place] for part in parts)) for place in range(3))
    info = f"{found.metadata['Name'].replace('-', '_')}-{found.version}.dist-info"
    info = next(name.split("/")[0] for name in content if name.split("/")[0].lower() == info.lower())
    return _write(folder / f"{info.removesuffix('.dist-info')}-{tag}.whl", content, info)


def _wheel_file(tag: str) -> bytes:
    return f"Wheel-Version: 1.0\nGenerator: test\nRoot-Is-Purelib: false\nTag: {tag}\n".encode()


def _write(path: Path, content: dict[str, bytes], info: str) -> Path:
    rows = []
    with zipfile.ZipFile(path, "w") as file:
        for name, data in content.items():
            file.writestr(zipfile.ZipInfo(name), data)  # without a time: the same content is the same file
            digest = base64.urlsafe_b64encode(hashlib.sha256(data).digest()).rstrip(b"=").decode()
            rows.append(f"{name},sha256={digest},{len(data)}\n")
        file.writestr(zipfile.ZipInfo(f"{info}/RECORD"), "".join(rows) + f"{info}/RECORD,,\n")
    return path
