"""The wheel for 64-bit Arm boards, compiled on this machine: `make wheel-arm64`.

ExecuTorch's libraries come out of its wheel for aarch64. Python's headers are those of the Python that runs this, and
the wheel is for that version of Python; docs/decisions/0012-cross-compiled-wheel.md says why that is sound. All but the
wheel itself stays in build/aarch64.
"""

import os
import platform
import shutil
import subprocess
import sys
import sysconfig
import tomllib
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Final

ROOT: Final = Path(__file__).resolve().parents[1]
BUILD: Final = ROOT / "build" / "aarch64"
COMPILER: Final = "aarch64-linux-gnu-g++"
PLATFORM: Final = "manylinux_2_28_aarch64"
SOABI: Final = f"cpython-{sys.version_info.major}{sys.version_info.minor}-aarch64-linux-gnu"

NAMES: Final = {
    # By these two scikit-build-core names the wheel and the module after the board instead of this machine.
    "_PYTHON_HOST_PLATFORM": "linux-aarch64",
    "SETUPTOOLS_EXT_SUFFIX": f".{SOABI}.so",
    "SOURCE_DATE_EPOCH": "1577836800",  # the same sources give the same wheel, and a board need not install it again
}
"""Added to the environment of the build."""


def main() -> None:
    """Leaves dist/edgecl-*-linux_aarch64.whl, and no older one beside it."""
    need_tools()
    packages, headers = BUILD / "packages", BUILD / "include"
    fetch(executorch(), packages)
    copy_headers(headers)
    check_sizes(headers)
    for old in (ROOT / "dist").glob("edgecl-*_aarch64.whl"):
        old.unlink()
    settings = {
        "build-dir": BUILD / "cmake",
        "cmake.define.CMAKE_TOOLCHAIN_FILE": ROOT / "cross" / "aarch64.cmake",
        "cmake.define.executorch_DIR": packages / "executorch" / "share" / "cmake",
        "cmake.define.Python_INCLUDE_DIR": headers,
    }
    command = [sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", str(ROOT / "dist"), str(ROOT)]
    run([*command, *(f"-C{name}={value}" for name, value in settings.items())], environment=NAMES)


def need_tools() -> None:
    """Raises SystemExit with the line that says what is missing."""
    if sys.platform != "linux" or sys.maxsize < 1 << 32 or sys.byteorder != "little" or sys.abiflags:
        raise SystemExit("wheel-arm64: headers of this Python do not fit; use a release build of it on 64-bit Linux")
    if not shutil.which(COMPILER):
        raise SystemExit(f"wheel-arm64: no {COMPILER} here; apt install g++-aarch64-linux-gnu")


def executorch() -> str:
    """The requirement that pyproject.toml builds with."""
    with (ROOT / "pyproject.toml").open("rb") as file:
        requires = tomllib.load(file)["build-system"]["requires"]
    return next(str(one) for one in requires if one.startswith("executorch"))


def fetch(requirement: str, into: Path) -> None:
    """Unpack the package for the board, unless that version is there already."""
    done = into / "requirement.txt"
    if done.is_file() and done.read_text() == requirement:
        return
    shutil.rmtree(into, ignore_errors=True)
    wheels = into / "wheels"
    options = ["--quiet", "--no-deps", "--only-binary=:all:", f"--platform={PLATFORM}"]
    options += [f"--python-version={platform.python_version()}", f"--dest={wheels}"]
    run([sys.executable, "-m", "pip", "download", *options, requirement])
    (wheel,) = wheels.glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(into)
    shutil.rmtree(wheels)
    done.write_text(requirement)


def copy_headers(into: Path) -> None:
    """Python's headers, with the pyconfig.h of this machine also where a distribution has one for each architecture."""
    source = Path(sysconfig.get_path("include"))
    if not (source / "Python.h").is_file():
        raise SystemExit(f"wheel-arm64: no Python.h in {source}; install the headers of Python, on Debian python3-dev")
    shutil.rmtree(into, ignore_errors=True)
    shutil.copytree(source, into)
    shutil.copyfile(sysconfig.get_config_h_filename(), into / "pyconfig.h")


SIZES: Final = {
    "SIZEOF_DOUBLE": "double",
    "SIZEOF_FLOAT": "float",
    "SIZEOF_INT": "int",
    "SIZEOF_LONG": "long",
    "SIZEOF_LONG_LONG": "long long",
    "SIZEOF_OFF_T": "off_t",
    "SIZEOF_PID_T": "pid_t",
    "SIZEOF_PTHREAD_KEY_T": "pthread_key_t",
    "SIZEOF_PTHREAD_T": "pthread_t",
    "SIZEOF_SHORT": "short",
    "SIZEOF_SIZE_T": "size_t",
    "SIZEOF_TIME_T": "time_t",
    "SIZEOF_UINTPTR_T": "uintptr_t",
    "SIZEOF_VOID_P": "void*",
    "SIZEOF_WCHAR_T": "wchar_t",
    "SIZEOF__BOOL": "bool",
}
"""What pyconfig.h says of types, and the type: only these decide how Python's structures lie in memory."""


def check_sizes(headers: Path) -> None:
    """Compile a line for each size. Raises SystemExit where the board's compiler disagrees with the headers."""
    lines = ["#include <Python.h>", "#include <pthread.h>", "#include <sys/types.h>"]
    lines += [f'static_assert({name} == sizeof({kind}), "{kind}");' for name, kind in SIZES.items()]
    run([COMPILER, "-std=c++17", "-fsyntax-only", f"-I{headers}", "-xc++", "-"], "\n".join(lines) + "\n")


def run(command: list[str], text: str | None = None, environment: Mapping[str, str] | None = None) -> None:
    """Raises SystemExit with the command where it fails."""
    done = subprocess.run(command, input=text, text=True, env={**os.environ, **(environment or {})}, check=False)
    if done.returncode:
        raise SystemExit(f"wheel-arm64: this failed: {' '.join(command)}")


if __name__ == "__main__":
    main()
