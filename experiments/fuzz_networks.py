"""Random networks of what the files of ``qstrategies/operators`` say may be drawn of them, one for
every number."""

from __future__ import annotations

import copy
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from random import Random
from typing import Any

import torch
from torch import Tensor, nn

import qstrategies as qs
from qstrategies.operators.drawing import DRAWINGS, Drawing, Sizes, happens
from qstrategies.records import LEVELS

LARGEST = 3000  # elements of one example of a tensor
EXTREMES = ("usual", "spread", "tiny", "huge", "dead channel", "zero", "constant output")
SHAPES = (
    (4, 12, 12),
    (3, 7, 9),
    (1, 8, 8),
    (6, 5, 4),
    (4, 16),
    (3, 11),
    (2, 4, 5, 3),
    (3, 3, 4, 4),
    (12,),
    (5,),
)
REFUSED_BY_TORCH = (
    RuntimeError,
    ValueError,
    IndexError,
    TypeError,
    NotImplementedError,
    AssertionError,
)


@dataclass(frozen=True)
class Step:
    """``module`` of the tensors at ``places``; its result, or its ``results`` if they are several,
    get the next places."""

    module: nn.Module
    places: tuple[int, ...]
    results: int | None = None

    def __call__(self, tensors: Sequence[Tensor]) -> list[Tensor]:
        given = self.module(*(tensors[place] for place in self.places))
        return [given] if self.results is None else [given[each] for each in range(self.results)]


class Network(nn.Module):
    """Steps one behind another, each of which reads what stands at some places: the inputs have the
    first of them.

    ``twice``: all of it again for half of the inputs in reverse order, and the sums of both, as in
    a Siamese network.
    """

    def __init__(
        self, inputs: int, steps: Sequence[Step], ends: Sequence[int], *, twice: bool = False
    ) -> None:
        super().__init__()
        self.inputs, self.steps, self.ends = inputs, tuple(steps), tuple(ends)
        self.twice = twice
        self.held = nn.ModuleList(step.module for step in steps)

    def forward(self, x: Tensor, *others: Tensor) -> Any:
        found = self._once([x, *others])
        if self.twice:
            again = self._once([0.5 * each for each in reversed([x, *others])])
            found = [one + other for one, other in zip(found, again, strict=True)]
        return found[0] if len(found) == 1 else tuple(found)

    def _once(self, tensors: list[Tensor]) -> list[Tensor]:
        for step in self.steps:
            tensors += step(tensors)
        return [tensors[end] for end in self.ends]

    def __str__(self) -> str:
        place, lines = self.inputs, []
        for step in self.steps:
            count = step.results or 1
            names = ", ".join(f"t{each}" for each in range(place, place + count))
            read = ", ".join(f"t{each}" for each in step.places)
            lines.append(f"  {names} = {step.module}({read})")
            place += count
        ends = ", ".join(f"t{end}" for end in self.ends)
        return "\n".join([*lines, f"  return {ends}{', of it called twice' * self.twice}"])


@dataclass(frozen=True)
class Case:
    """A network of ``number``, how it is quantized, and what it is run on.

    Attributes:
        shapes: of the inputs, without the batch.
        exact: whether all of it has an exact integer form.
        usual: whether none of its weights is extreme.
        spread: how large real inputs are.
        beyond: how much larger than in calibration those of inference are.
    """

    number: int
    network: Network
    shapes: tuple[tuple[int, ...], ...]
    exact: bool
    usual: bool
    config: qs.QuantizationConfig
    input_scale: float | None
    batch: int
    spread: float
    beyond: float

    def inputs(self, count: int, beyond: float = 1.0) -> tuple[Tensor, ...]:
        """``count`` examples as the float model takes them."""
        made = torch.Generator().manual_seed(self.number + count)
        if self.input_scale is not None:
            top = 1 + min(int(128 * beyond), 255)
            pixels = [
                torch.randint(0, top, (count, *shape), generator=made) for shape in self.shapes
            ]
            return tuple(each.float() * self.input_scale for each in pixels)
        size = self.spread * beyond
        return tuple(torch.randn(count, *shape, generator=made) * size for shape in self.shapes)

    def __str__(self) -> str:
        config = self.config
        settings = {
            "weight_bits": config.weight_bits,
            "levels": config.levels,
            "fixed_point": config.fixed_point,
            "per_channel": config.per_channel,
            "observer": config.observer,
            "input_scale": self.input_scale,
            "batch": self.batch,
            "spread": self.spread,
            "beyond": self.beyond,
        }
        spelled = ", ".join(f"{name}={value}" for name, value in settings.items())
        inputs = ", ".join(f"[N, {', '.join(map(str, shape))}]" for shape in self.shapes)
        return f"number {self.number}: {inputs}; {spelled}\n{self.network}"


def case(number: int) -> Case:
    """The case of ``number``: always the same."""
    random = Random(number)  # noqa: S311  # no secret: it must repeat
    torch.manual_seed(number)
    shapes = (random.choice(SHAPES),) * random.choice((1, 1, 1, 2))
    exact = happens(random, 0.97)
    usual = happens(random, 0.5)
    steps, ends = _Drawer(random, shapes, exact=exact).drawn()
    network = Network(len(shapes), steps, ends, twice=happens(random, 0.1)).eval()
    _weights(network, random, usual=usual)
    config = qs.QuantizationConfig(
        weight_bits=random.choice((8, 8, 8, 7, 6, 5, 4, 3, 2)),
        per_channel=happens(random, 0.6),
        observer="histogram" if happens(random, 0.5) else "min_max",
    )
    found = Case(
        number,
        network,
        shapes,
        exact,
        usual,
        config,
        random.choice((1 / 255, None)) if len(shapes[0]) > 1 or happens(random, 0.1) else None,
        random.choice((1, 2, 7)),
        random.choice((1.0, 1.0, 1e-3, 50.0)),
        random.choice((1.0, 2.0, 5.0)),
    )
    network.twice &= _runs(found)  # a step may have reshaped the input
    sets = ("narrow", "narrow", "full") if config.weight_bits == 8 else LEVELS
    levels = random.choice(sets)
    stored_twice = levels != "no_zero" or config.weight_bits < 7
    fixed_point = happens(random, 0.3) and stored_twice
    return replace(found, config=replace(config, levels=levels, fixed_point=fixed_point))


def smaller(found: Case) -> Iterator[Case]:
    """``found`` called once, with one output only, or without one of its steps."""
    network = found.network
    if network.twice:
        once = Network(network.inputs, network.steps, network.ends)
        yield replace(found, network=once.eval())
    if len(network.ends) > 1:
        for end in network.ends:
            yield _with(found, network.steps, [end])
    for left_out in reversed(range(len(network.steps))):
        made = _without(found, left_out)
        if made is not None:
            yield made


def _without(found: Case, left_out: int) -> Case | None:
    """Whoever read the step's results reads its first input instead; None if that is no network."""
    network = found.network
    start = network.inputs + sum(step.results or 1 for step in network.steps[:left_out])
    count = network.steps[left_out].results or 1
    source = network.steps[left_out].places[0]

    def moved(place: int) -> int:
        if start <= place < start + count:
            return source
        return place - count if place >= start else place

    steps = []
    for index, step in enumerate(network.steps):
        if index != left_out:
            steps.append(replace(step, places=tuple(map(moved, step.places))))
    ends = [moved(end) for end in network.ends]
    if min(ends) < network.inputs:
        return None
    made = _with(found, steps, ends)
    return made if _runs(made) else None


def _with(found: Case, steps: Sequence[Step], ends: Sequence[int]) -> Case:
    before = found.network
    network = Network(before.inputs, steps, list(dict.fromkeys(ends)), twice=before.twice)
    return replace(found, network=network.eval())


@torch.no_grad()
def _runs(found: Case) -> bool:
    try:
        copy.deepcopy(found.network)(*found.inputs(2))
    except REFUSED_BY_TORCH:
        return False
    return True


@dataclass
class _Drawer:
    random: Random
    shapes: Sequence[tuple[int, ...]]
    exact: bool
    steps: list[Step] = field(default_factory=list)
    taken: list[tuple[nn.Module, list[Sizes]]] = field(default_factory=list)

    @torch.no_grad()
    def drawn(self) -> tuple[list[Step], list[int]]:
        """Steps and the places of the outputs."""
        tensors = [torch.rand(2, *shape) + 0.1 for shape in self.shapes]
        for _ in range(self.random.randint(1, 10)):
            tensors += self._step(tensors)
        inner = list(range(len(self.shapes), len(tensors)))
        more = self.random.choice((0, 0, 0, 1, 2))
        return self.steps, list(dict.fromkeys([inner[-1], *self.random.choices(inner, k=more)]))

    def _step(self, tensors: list[Tensor]) -> list[Tensor]:
        """One more step that torch takes; what it gives."""
        while True:
            drawing = self._drawing()
            places = tuple(self._place(tensors, first=not index) for index in range(drawing.inputs))
            given = [tensors[place] for place in places]
            shapes = [tuple(each.shape[1:]) for each in given]
            try:
                module = self._module(drawing, shapes)
                if module is None or not _fits(module, [each.clone() for each in given]):
                    continue
                result = module(*given)
            except REFUSED_BY_TORCH:
                continue
            self.taken.append((module, shapes))
            several = isinstance(result, tuple | list)
            self.steps.append(Step(module, places, len(result) if several else None))
            return list(result) if several else [result]

    def _drawing(self) -> Drawing:
        allowed = [each for each in DRAWINGS if each.exact or not self.exact]
        return self.random.choices(allowed, [each.often for each in allowed])[0]

    def _module(self, drawing: Drawing, shapes: Sequence[tuple[int, ...]]) -> nn.Module | None:
        """A new module, one of the network again, or a copy of one that shares its weight."""
        earlier = [module for module, taken in self.taken if _takes(module, taken, shapes)]
        if not (earlier and happens(self.random, 0.15)):
            return drawing.draw(self.random, *shapes)
        module = self.random.choice(earlier)
        if happens(self.random, 0.5):
            return module
        twin: Any = copy.deepcopy(module)
        if isinstance(getattr(module, "weight", None), nn.Parameter):
            twin.weight = module.weight
        return twin

    def _place(self, tensors: list[Tensor], *, first: bool) -> int:
        last = len(tensors) - 1
        return last if first and happens(self.random, 0.8) else self.random.randint(0, last)


def _takes(module: nn.Module, before: Sequence[Sizes], now: Sequence[Sizes]) -> bool:
    """Whether what took tensors of shapes ``before`` may take those of ``now``: layers take images
    of other sizes."""
    if isinstance(getattr(module, "weight", None), nn.Parameter):
        return list(map(len, before)) == list(map(len, now))
    return list(before) == list(now)


def _fits(module: nn.Module, tensors: Sequence[Tensor]) -> bool:
    """Whether ``module``, which may change ``tensors``, gives what a network goes on with."""
    result = module.eval()(*tensors)
    return all(map(_usable, result if isinstance(result, tuple | list) else [result]))


def _usable(result: Any) -> bool:
    """Whether a tensor is one of a network for images: real, the batch first, not too large."""
    return (
        isinstance(result, Tensor)
        and result.dtype == torch.float32
        and 2 <= result.dim() <= 5
        and len(result) == 2
        and 0 < math.prod(result.shape[1:]) <= LARGEST
        and bool(torch.isfinite(result).all())  # no window of a max pool in its padding alone
    )


@torch.no_grad()
def _weights(network: nn.Module, random: Random, *, usual: bool) -> None:
    for name, buffer in network.named_buffers():
        if name.endswith(("running_mean", "running_var")):
            buffer.uniform_(*((0.1, 3) if name.endswith("var") else (-1, 1)))
    for parameter in network.parameters():
        if parameter.dim() < 2:
            parameter.uniform_(-1.5, 1.5)
        elif not usual:
            _extreme(parameter, random.choice(EXTREMES))


def _extreme(weight: Tensor, kind: str) -> None:
    if kind == "spread":
        exponents = torch.empty(len(weight)).uniform_(-4, 4)
        weight.mul_(10.0 ** exponents.reshape(-1, *[1] * (weight.dim() - 1)))
    elif kind == "dead channel":
        weight[0] = 0
    else:
        weight.mul_({"tiny": 1e-6, "huge": 1e4, "zero": 0.0, "constant output": 0.0}.get(kind, 1.0))
