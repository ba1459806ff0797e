"""How many experts steps asked for, and how many they read: what rows share. Plain data."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class ExpertUse:
    """Of some steps, all layers together. asked: the choices of every row; read: each expert once for a step that has
    rows which chose it."""

    asked: int = 0
    read: int = 0

    def __add__(self, other: ExpertUse) -> ExpertUse:
        return ExpertUse(self.asked + other.asked, self.read + other.read)

    def __sub__(self, other: ExpertUse) -> ExpertUse:
        return ExpertUse(self.asked - other.asked, self.read - other.read)

    @property
    def union_share(self) -> float:
        """Experts read for one asked for: 1 for a row alone, 1 / rows where all rows choose alike."""
        return self.read / self.asked if self.asked else 1.0
