"""The integers that weights are rounded to."""

from __future__ import annotations

from dataclasses import dataclass

LEVELS = ("narrow", "full", "no_zero")


@dataclass(frozen=True)
class LevelSet:
    """The integers from ``quant_min`` to ``quant_max`` that lie ``spacing`` apart, in steps of the
    scale.

    Of b bits, "narrow" has 2^b - 1 levels, as many on either side of zero, "full" one more below,
    and "no_zero" the 2^b odd integers from -(2^b - 1) on, in half steps of what they are apart.
    """

    name: str
    quant_min: int
    quant_max: int
    spacing: int

    @classmethod
    def of(cls, name: str, bits: int) -> LevelSet:
        """The set ``name`` of ``LEVELS`` for so many bits."""
        half = 2 ** (bits - 1)
        found = {
            "narrow": (1 - half, half - 1, 1),
            "full": (-half, half - 1, 1),
            "no_zero": (1 - 2 * half, 2 * half - 1, 2),
        }
        return cls(name, *found[name])

    @property
    def count(self) -> int:
        """How many levels there are."""
        return (self.quant_max - self.quant_min) // self.spacing + 1

    @property
    def largest(self) -> int:
        """The largest absolute value."""
        return max(-self.quant_min, self.quant_max)

    @property
    def reach(self) -> float:
        """Half of what the levels span, in steps: what lies within is rounded by at most half of
        ``spacing``."""
        return (self.quant_max - self.quant_min) / 2

    @property
    def offset(self) -> int:
        """Levels are ``spacing`` times an integer, plus this."""
        return self.spacing - 1

    def __str__(self) -> str:
        return f"{self.count} {self.name.replace('_', ' ')}"
