"""Temperatures that the system reports."""

from __future__ import annotations

from pathlib import Path


def temperatures(root: Path = Path("/sys/class/thermal")) -> dict[str, float]:
    """Degrees Celsius of each thermal zone, by its number and kind; none where there are none."""
    degrees = {}
    for zone in sorted(root.glob("thermal_zone*")):
        try:
            kind = (zone / "type").read_text(encoding="utf-8").strip()
            degrees[f"{zone.name.removeprefix('thermal_zone')}:{kind}"] = int((zone / "temp").read_text()) / 1000
        except (OSError, ValueError):
            continue
    return degrees
