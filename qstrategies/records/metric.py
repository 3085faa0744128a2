"""What the figures of a run are figures of. Imports no torch."""

from __future__ import annotations

from dataclasses import dataclass

from qstrategies.typed_json import Name


@dataclass(frozen=True, kw_only=True)
class Metric:
    """The mean of a score of each example.

    Attributes:
        name: as tables call it.
        higher_is_better: whether more of it is better.
        fraction: whether it lies in [0, 1] and is shown in percent, its differences in points.
    """

    name: Name = "accuracy"
    higher_is_better: bool = True
    fraction: bool = True

    @property
    def sign(self) -> int:
        """What makes more of it better: 1 or -1."""
        return 1 if self.higher_is_better else -1

    @property
    def factor(self) -> float:
        """Between a difference and what is shown of it."""
        return 100.0 if self.fraction else 1.0

    @property
    def unit(self) -> str:
        """Of a difference that is shown."""
        return "points" if self.fraction else self.name

    @property
    def best(self) -> str:
        """What the best of several is called."""
        return "the most accurate" if self == ACCURACY else "the best"

    @property
    def head(self) -> str:
        """Over a column of it: "%", "mse", "pixel accuracy %"."""
        percent = "%" if self.fraction else ""
        return percent if self == ACCURACY else f"{self.name} {percent}".rstrip()

    @property
    def key(self) -> str:
        """Its name as a part of a key."""
        return "_".join(self.name.split())

    def shown(self, value: float) -> str:
        """``value`` as text: 98.76%, or 0.1234."""
        return f"{value:.2%}" if self.fraction else f"{value:.4g}"

    def difference(self, value: float) -> str:
        """A difference as text, without its unit."""
        scaled = value * self.factor
        return f"{scaled:z.2f}" if self.fraction else f"{scaled:z.3g}"


ACCURACY = Metric()
"""The share of examples whose class is right."""
