"""Quantize part by part, measure each, and apply the rules."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from qstrategies.arguments import public
from qstrategies.diagnosis.findings import Finding, findings
from qstrategies.diagnosis.measure import Site, site, sqnr
from qstrategies.diagnosis.simulate import Simulation
from qstrategies.errors import InputError
from qstrategies.guest import guest, own_randomness
from qstrategies.quantization.calibrate import Batches, as_batches, calibrate
from qstrategies.quantization.copies import copy_of
from qstrategies.quantization.exact_forms import NORM_KINDS, folds, module_at
from qstrategies.quantization.float_graph import normalized_copy
from qstrategies.quantization.prepare import Prepared, prepare
from qstrategies.quantization.scales import LARGEST_PAIR, largest_pair
from qstrategies.quantization.structure import Arguments
from qstrategies.records import MARGIN, QuantizationConfig
from qstrategies.records.levels import LevelSet
from qstrategies.text import json_text, line

Inputs = Tensor | tuple[Tensor, ...]
GOOD = 30.0  # dB: noise of 3 % of the logits


@dataclass(frozen=True, kw_only=True)
class Trial:
    """One part quantized: SQNR of the outputs against the float model, dB, and accuracy (None
    without labels)."""

    sqnr: float
    accuracy: float | None


@dataclass(frozen=True, kw_only=True)
class Diagnosis:
    """``trials`` by name: "nothing", "everything", "weights only", "activations only", "only L" and
    "all but L" for every layer L (its weight and its output), "other calibration" (half of the
    batches), "ranges of the examples"."""

    sites: tuple[Site, ...]
    inputs: tuple[Site, ...]
    trials: dict[str, Trial]
    layers: tuple[str, ...]
    standing_norms: tuple[str, ...]
    unsafe_layers: tuple[str, ...]
    per_channel: bool
    float_accuracy: float | None

    @property
    def inside(self) -> list[Site]:
        """The activations but the inputs."""
        return [
            item for item in self.sites if item.kind == "activation" and item not in self.inputs
        ]

    @property
    def losing(self) -> bool:
        """Whether there is a loss to explain: logits below ``GOOD`` dB, or accuracy lost beyond the
        usual margin."""
        everything = self.trials["everything"]
        lost = (
            0.0
            if self.float_accuracy is None or everything.accuracy is None
            else self.float_accuracy - everything.accuracy
        )
        return everything.sqnr < GOOD or lost > MARGIN

    @property
    def findings(self) -> tuple[Finding, ...]:
        """What the rules say, the likely cause first."""
        return findings(self)

    def to_json(self) -> str:
        """All figures and findings; infinite ones as null."""
        content = {
            **dataclasses.asdict(self),
            "findings": [dataclasses.asdict(finding) for finding in self.findings],
        }
        return json_text(content)

    def __repr__(self) -> str:  # at a prompt and in a notebook
        return str(self)

    def __str__(self) -> str:
        head = (
            f"{'rounded':<34} {'SQNR dB':>8} {'expected':>8} {'max/rms':>8} {'kurtosis':>8} "
            f"{'spread':>7} {'clipped':>8} {'unused':>7}"
        )
        lines = ["Every tensor that is rounded, measured on the examples", head]
        lines += [
            f"{item.kind + ' of ' + line(item.name):<34} {item.sqnr:>8.1f} "
            f"{item.predicted:>8.1f} {item.peak:>8.1f} {item.kurtosis:>8.1f}"
            f" {item.spread:>7.1f} {item.clipped:>8.2%} {item.unused:>7.0%}"
            for item in self.sites
        ]
        known = self.float_accuracy is not None
        lines += [
            "",
            "Parts quantized, the rest in float",
            f"{'':<34} {'SQNR of outputs, dB':>20}" + (f" {'accuracy':>9}" if known else ""),
        ]
        lines += [
            f"{line(name):<34} {trial.sqnr:>20.1f}" + (f" {trial.accuracy:>9.2%}" if known else "")
            for name, trial in self.trials.items()
        ]
        lines += ["", "What to try next" if self.findings else "Nothing stands out: no rule fires."]
        for number, finding in enumerate(self.findings, 1):
            lines.append(
                line(
                    f"{number}. {finding.rule} ({finding.where}): {finding.evidence}. Try: "
                    f"{finding.advice}."
                )
            )
        return "\n".join(lines)


@public
@guest
@own_randomness()
def diagnose(  # noqa: PLR0913 - one keyword per setting
    model: nn.Module,
    calibration: Batches,
    examples: Inputs,
    labels: Tensor | None = None,
    *,
    config: QuantizationConfig = QuantizationConfig(),
    input_scale: float | None = None,
    leave_in_float: Collection[str | type[nn.Module]] = (),
) -> Diagnosis:
    """Say where quantizing ``model`` loses, with the arguments of ``quantize``. ``model`` is not
    changed.

    Args:
        calibration: batches, at least two for the question whether another sample would do.
        examples: inputs [N, ...] as the model takes them, not those of the calibration; a tuple
            where it takes several.
        labels: [N] classes, for accuracies.

    Raises:
        InputError: as ``quantize``; labels that are not one per example.
    """
    batches, inputs = list(as_batches(calibration)), _tuple(examples)
    if labels is not None and labels.shape != inputs[0].shape[:1]:
        raise InputError(
            f"labels of shape {tuple(labels.shape)}: expected "
            f"{tuple(inputs[0].shape[:1])}, one per example"
        )
    model = copy_of(model).eval()
    first = tuple(tensor[:2] for tensor in inputs)

    def calibrated(chosen: Sequence[Inputs]) -> Prepared:
        prepared = prepare(
            model, config, first, input_scale=input_scale, leave_in_float=leave_in_float
        )
        calibrate(prepared, chosen)
        return prepared

    return diagnose_calibrated(model, calibrated, batches, inputs, labels, config, leave_in_float)


@torch.no_grad()
def diagnose_calibrated(  # noqa: PLR0913 - what diagnose takes
    model: nn.Module,
    calibrated: Callable[[Sequence[Inputs]], Prepared],
    batches: Sequence[Inputs],
    inputs: tuple[Tensor, ...],
    labels: Tensor | None,
    config: QuantizationConfig,
    left: Collection[str | type[nn.Module]] = (),
) -> Diagnosis:
    """The same for a caller who has a way of his own to a calibrated graph: ``calibrated`` makes
    one from batches."""
    examples = [
        tuple(parts) for parts in zip(*(tensor.split(200) for tensor in inputs), strict=True)
    ]
    expected = torch.cat([model(*batch) for batch in examples])

    def trial(
        simulation: Simulation, layers: Collection[str], quantizers: Collection[str]
    ) -> Trial:
        outputs = simulation.run(examples, layers, quantizers)
        return Trial(sqnr=sqnr(expected, outputs), accuracy=_accuracy(outputs, labels))

    ours = Simulation(calibrated(batches))
    parts = {layer: [ours.nodes[layer].output.name] for layer in ours.layers}
    every = ours.quantizers
    trials = {
        "nothing": trial(ours, [], []),
        "everything": trial(ours, ours.layers, every),
        "weights only": trial(ours, ours.layers, []),
        "activations only": trial(ours, [], every),
        **{f"only {layer}": trial(ours, [layer], outputs) for layer, outputs in parts.items()},
        **{
            f"all but {layer}": trial(
                ours,
                [name for name in ours.layers if name != layer],
                [name for name in every if name not in outputs],
            )
            for layer, outputs in parts.items()
        },
    }
    within = [ours.admitted(batch) for batch in examples]
    for name, sample in (
        ("other calibration", batches[len(batches) // 2 :]),
        ("ranges of the examples", within),
    ):
        other = Simulation(calibrated(sample))
        trials[name] = trial(other, other.layers, other.quantizers)
    weights, activations = _weight_sites(ours, config), _activation_sites(ours, examples)
    return Diagnosis(
        sites=(*weights, *activations.values()),
        inputs=tuple(activations[name] for name in ours.entries if name is not None),
        trials=trials,
        layers=tuple(ours.layers),
        standing_norms=standing_norms(model, inputs, left),
        unsafe_layers=tuple(
            layer for layer in ours.layers if _largest_pair(ours, layer) > LARGEST_PAIR
        ),
        per_channel=config.per_channel,
        float_accuracy=_accuracy(expected, labels),
    )


def _tuple(inputs: Inputs) -> tuple[Tensor, ...]:
    return inputs if isinstance(inputs, tuple) else (inputs,)


def _accuracy(outputs: Tensor, labels: Tensor | None) -> float | None:
    return None if labels is None else (outputs.argmax(1) == labels).double().mean().item()


def _weight_sites(simulation: Simulation, config: QuantizationConfig) -> list[Site]:
    found = []
    for layer in simulation.layers:
        floating, rounded, step = simulation.weights(layer)
        levels = LevelSet.of(config.levels, simulation.nodes[layer].rounded_layer.bits)
        interval = (levels.quant_min * step, levels.quant_max * step)
        found.append(site(layer, "weight", floating, rounded, interval, levels.count))
    return found


def _activation_sites(
    simulation: Simulation, examples: Sequence[tuple[Tensor, ...]]
) -> dict[str, Site]:
    """By quantizer, over all examples; those that only pass on what another has rounded already are
    left out."""
    seen: dict[str, list[Tensor]] = {}
    passing = set()

    def note(name: str, x: Tensor) -> None:
        if name not in simulation.entries and torch.equal(simulation.rounded(name, x), x):
            passing.add(name)

    simulation.run(examples[:1], simulation.layers, simulation.quantizers, watch=note)
    simulation.run(examples, [], [], watch=lambda name, x: seen.setdefault(name, []).append(x))
    found = {}
    for name, parts in ((name, parts) for name, parts in seen.items() if name not in passing):
        signal = torch.cat(parts)
        rounded = simulation.rounded(name, signal)
        low, high, steps = simulation.range(name)
        kind = "activation"
        found[name] = site(simulation.quantizers[name], kind, signal, rounded, (low, high), steps)
    return found


def _largest_pair(simulation: Simulation, layer: str) -> int:
    """The largest sum of the integers of two weights of one sign in one channel."""
    integers = simulation.integers(layer).float()
    return int(largest_pair(integers).max())


def standing_norms(
    model: nn.Module, inputs: tuple[Tensor, ...], left: Collection[str | type[nn.Module]]
) -> tuple[str, ...]:
    """The names of batch normalizations that no convolution or linear layer feeds, in the order of
    execution."""
    graph = normalized_copy(
        model, Arguments.of(model, tuple(each[:2] for each in inputs)), left
    ).module
    nodes = [node for node in graph.graph.nodes if isinstance(module_at(graph, node), NORM_KINDS)]
    return tuple(str(node.target) for node in nodes if not folds(graph, node))
