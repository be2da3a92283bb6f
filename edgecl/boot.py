"""What the board calls itself, and which boot of it this is: clocks and processes of another one say nothing here."""

from pathlib import Path
from typing import Final

BOOT_ID: Final = Path("/proc/sys/kernel/random/boot_id")


def boot_id() -> str:
    """32 hexadecimal digits that differ from boot to boot."""
    return BOOT_ID.read_text().strip().replace("-", "")


def model(root: Path = Path("/")) -> str:
    """Of the board, or of the one whose files lie below `root`; empty where it does not tell."""
    for name in ("proc/device-tree/model", "sys/firmware/devicetree/base/model", "sys/class/dmi/id/product_name"):
        try:
            text = (root / name).read_text("utf-8", "replace").strip("\0\n ")
        except OSError:
            continue
        if text:
            return text
    return ""
