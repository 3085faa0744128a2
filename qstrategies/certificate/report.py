"""The certificate: four guarantees, what breaks them, and the figures of every layer with
weights."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from qstrategies.certificate.grid import FLOAT_EXACT
from qstrategies.text import line

GUARANTEES = {
    "integer_kernels": "exact on integer kernels",
    "float_executors": "exact on float executors too",
    "saturation_safe": "safe without VNNI",
}
FIXED_POINT, ON_FIXED_POINT = "fixed_point", "exact on fixed-point kernels"
"""The guarantee that a file gives only if it was asked for."""
SHOWN = 3
"""So many of the nodes that break that one are named: usually all do."""
EXACT = ("integer_kernels", "float_executors")


@dataclass(frozen=True)
class Breach:
    """A node that breaks a guarantee, and why."""

    node: str
    reason: str


@dataclass(frozen=True)
class Layer:
    """Figures per output channel of a node with weights.

    ``form`` is "int8", or "float" for a layer that is left in float, which has no pairs.
    ``accumulators``: largest |partial sum| in any order, in steps s_x s_w; ``mantissas``: the odd
    part of that step. ``pairs``: the largest |w_i| + |w_j| of any two weights of one sign;
    ``adjacent``: of two that kernels multiply side by side.
    """

    node: str
    weights: str
    form: str
    accumulators: tuple[int, ...]
    mantissas: tuple[int, ...]
    pairs: tuple[int, ...] = ()
    adjacent: tuple[int, ...] = ()

    @property
    def float_units(self) -> tuple[int, ...]:
        """Accumulator times mantissa per channel: exact in float32 up to 2^24."""
        return tuple(
            bound * odd for bound, odd in zip(self.accumulators, self.mantissas, strict=True)
        )


@dataclass(frozen=True)
class Certificate:
    """``breaches`` has a key per guarantee; a guarantee holds if nothing breaks it. ``others``: how
    many other nodes were proven. ``fixed_point_breaches``: what breaks the guarantee of fixed-point
    kernels, which asks for other integers than the usual."""

    layers: tuple[Layer, ...]
    breaches: dict[str, tuple[Breach, ...]]
    others: int
    fixed_point_breaches: tuple[Breach, ...] = ()

    def holds(self, guarantee: str) -> bool:
        """Whether nothing breaks ``guarantee``, a key of ``GUARANTEES`` or ``FIXED_POINT``."""
        return not (
            self.fixed_point_breaches if guarantee == FIXED_POINT else self.breaches[guarantee]
        )

    @property
    def complete(self) -> bool:
        """Whether all guarantees hold but that of fixed-point kernels."""
        return all(map(self.holds, GUARANTEES))

    @property
    def summary(self) -> dict[str, Any]:
        """One truth value per guarantee, and the largest accumulator of all layers."""
        largest = max((bound for layer in self.layers for bound in layer.accumulators), default=0)
        held = {name: self.holds(name) for name in (*GUARANTEES, FIXED_POINT)}
        return {**held, "largest_accumulator": largest}

    @property
    def as_dict(self) -> dict[str, Any]:
        """All of it as plain data for JSON."""
        all_breaches = {**self.breaches, FIXED_POINT: self.fixed_point_breaches}
        broken = {name: list(map(vars, found)) for name, found in all_breaches.items()}
        return {
            "summary": self.summary,
            "broken_by": broken,
            "layers": [vars(layer) for layer in self.layers],
            "others": self.others,
        }

    def __repr__(self) -> str:
        texts = {**GUARANTEES, FIXED_POINT: ON_FIXED_POINT}
        verdicts = ", ".join(
            f"{text}: {'yes' if self.holds(name) else 'no'}" for name, text in texts.items()
        )
        return f"Certificate({len(self.layers)} layers, {self.others} other nodes; {verdicts})"

    def as_text(self) -> str:
        """A table of the layers and the four verdicts, for a terminal."""
        names = [(line(layer.node), line(layer.weights)) for layer in self.layers] or [("", "")]
        first, second = (
            max(map(len, column)) for column in zip(*names, ("layer", "weights"), strict=True)
        )
        columns = (
            f"{'channels':>8} {'accumulator':>12} {'of 2^24':>8} {'adjacent':>9} {'any pair':>9}"
        )
        lines = [f"{'layer':<{first}} {'weights':<{second}} {columns}"]
        for layer in self.layers:
            pairs = [
                f"{max(figures):>9}" if figures else f"{'float':>9}"
                for figures in (layer.adjacent, layer.pairs)
            ]
            share = f"{max(layer.float_units) / FLOAT_EXACT:>8.2f}"
            figures = (
                f"{len(layer.accumulators):>8} {max(layer.accumulators):>12} {share} "
                f"{' '.join(pairs)}"
            )
            lines.append(f"{line(layer.node):<{first}} {line(layer.weights):<{second}} {figures}")
        lines.append(f"and {self.others} other operators that are exact")
        for name, text in GUARANTEES.items():
            lines += _verdict(text, self.breaches[name])
        lines += _verdict(ON_FIXED_POINT, self.fixed_point_breaches, SHOWN)
        return "\n".join(lines)


def _verdict(text: str, found: Sequence[Breach], most: int | None = None) -> list[str]:
    """Whether a guarantee holds, and what breaks it; ``most`` of that."""
    shown = [line(f"  {breach.node}: {breach.reason}") for breach in found[:most]]
    more = len(found) - len(shown)
    return [f"{text:<30} {'NO' if found else 'yes'}", *shown, *[f"  and {more} more"] * (more > 0)]
