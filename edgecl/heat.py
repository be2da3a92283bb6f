"""How hot a board is, as its kernel says."""

from collections.abc import Iterator
from pathlib import Path

ZONES = "sys/class/thermal"


def sensors(root: Path = Path("/")) -> Iterator[tuple[str, float]]:
    """Each sensor and its degrees Celsius; an unused one of a Jetson gives an error instead, and is none."""
    for zone in sorted((root / ZONES).glob("thermal_zone*")):
        try:
            celsius = int((zone / "temp").read_text()) / 1000
        except (OSError, ValueError):
            continue
        try:
            name = (zone / "type").read_text().strip("\0 \n")
        except OSError:
            name = ""
        yield name or zone.name, celsius


def hottest(root: Path = Path("/")) -> float | None:
    """Of all sensors, in degrees Celsius; None where there is none."""
    return max((celsius for _, celsius in sensors(root)), default=None)
