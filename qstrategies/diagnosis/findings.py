"""Rules from figures to advice: each fires on evidence that it states."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from qstrategies.diagnosis.diagnose import Diagnosis

SPREAD = 16.0  # a channel this many times the median leaves it 4 of 8 bits
CLIPPED = 0.005  # share of values
UNUSED = 0.5  # share of the range: one bit
APART = 6.02  # dB: one bit
GAIN = 3.01  # dB of the logits' SQNR: half of the noise


@dataclass(frozen=True, kw_only=True)
class Finding:
    """What is wrong, where, the figures that say so, and what to try."""

    rule: str
    where: str
    evidence: str
    advice: str


def findings(diagnosis: Diagnosis) -> tuple[Finding, ...]:
    """All that the rules find, causes outside of quantization first."""
    return tuple(finding for rule in RULES for finding in rule(diagnosis))


def _conversion(d: Diagnosis) -> Iterator[Finding]:
    if d.trials["nothing"].sqnr < 60:
        yield Finding(
            rule="conversion",
            where="the whole model",
            evidence=(
                "with nothing rounded its outputs already differ from the float model's (SQNR "
                f"{d.trials['nothing'].sqnr:.0f} dB)"
            ),
            advice=(
                "call eval() and look for code that depends on training, on the batch or on chance"
            ),
        )


def _batch_norm(d: Diagnosis) -> Iterator[Finding]:
    for name in d.standing_norms:
        yield Finding(
            rule="batch norm not folded",
            where=name,
            evidence=(
                "no convolution or linear layer stands right before it, so that it stays a "
                "layer with roundings of its own"
            ),
            advice="put it behind the convolution, or fold it into the layer that follows",
        )


def _input(d: Diagnosis) -> Iterator[Finding]:
    for site in d.inputs:
        if site.clipped > CLIPPED or site.unused > 1 - 1 / 16:
            yield Finding(
                rule="input normalisation",
                where=site.name,
                evidence=(
                    f"{site.clipped:.1%} of the inputs lie outside of the quantizer's range, "
                    f"{site.unused:.0%} of it is never reached"
                ),
                advice=(
                    "feed the same normalisation as in calibration; input_scale is the real "
                    "value of one pixel step"
                ),
            )


def _calibration(d: Diagnosis) -> Iterator[Finding]:
    clipped = [site for site in d.inside if site.clipped > CLIPPED]
    gain = d.trials["ranges of the examples"].sqnr - d.trials["everything"].sqnr
    if clipped and gain > GAIN:
        worst = max(clipped, key=lambda site: site.clipped)
        yield Finding(
            rule="calibration too narrow",
            where=worst.name,
            evidence=(
                f"{worst.clipped:.1%} of its values exceed the calibrated range; ranges from "
                f"the examples gain {gain:.1f} dB"
            ),
            advice="calibrate on more, and more varied, training examples (all classes)",
        )


def _outlier(d: Diagnosis) -> Iterator[Finding]:
    gain = d.trials["ranges of the examples"].sqnr - d.trials["everything"].sqnr
    for site in d.inside:
        if site.unused > UNUSED and gain > GAIN:
            yield Finding(
                rule="activation outlier in calibration",
                where=site.name,
                evidence=(
                    f"{site.unused:.0%} of its range is never reached; ranges from the "
                    f"examples gain {gain:.1f} dB"
                ),
                advice=(
                    "use the histogram or moving_average observer, or remove the outlying "
                    "calibration examples"
                ),
            )


def _channels(d: Diagnosis) -> Iterator[Finding]:
    for site in d.sites:
        if site.spread > SPREAD and (site.kind == "activation" or not d.per_channel):
            fix = (
                "equalise the channels across layers or clip that channel"
                if site.kind == "activation"
                else "quantize weights per channel"
            )
            yield Finding(
                rule="channel spread",
                where=f"{site.kind} of {site.name}",
                evidence=(
                    f"the largest channel is {site.spread:.0f} times the median one, which has "
                    f"{site.sqnr:.0f} dB on average to share"
                ),
                advice=fix,
            )


def _weights_or_activations(d: Diagnosis) -> Iterator[Finding]:
    weights, activations = d.trials["weights only"].sqnr, d.trials["activations only"].sqnr
    if not d.losing or abs(weights - activations) < APART:
        return
    worse, advice = (
        ("weights", "per-channel weights, more weight bits, clamp while training, or QAT")
        if weights < activations
        else ("activations", "another observer, or QAT")
    )
    yield Finding(
        rule=f"{worse} dominate",
        where="the whole model",
        evidence=(
            f"weights alone leave the logits {weights:.1f} dB, activations alone "
            f"{activations:.1f} dB"
        ),
        advice=advice,
    )


def _sensitive(d: Diagnosis) -> Iterator[Finding]:
    everything = d.trials["everything"].sqnr
    for layer in d.layers:
        gain = d.trials[f"all but {layer}"].sqnr - everything
        if d.losing and gain > GAIN and len(d.layers) > 1:
            yield Finding(
                rule="sensitive layer",
                where=layer,
                evidence=(
                    f"it makes most of the noise: left in float, the logits gain {gain:.1f} dB"
                ),
                advice="give it more bits, or name it in leave_in_float",
            )


def _sample(d: Diagnosis) -> Iterator[Finding]:
    ours, other = d.trials["everything"], d.trials["other calibration"]
    moved = abs(ours.sqnr - other.sqnr)
    if moved > GAIN:
        yield Finding(
            rule="calibration sample too small",
            where="all activations",
            evidence=f"another calibration sample moves the logits' SQNR by {moved:.1f} dB",
            advice="calibrate on more examples",
        )


def _saturation(d: Diagnosis) -> Iterator[Finding]:
    if d.unsafe_layers:
        yield Finding(
            rule="saturation",
            where=", ".join(d.unsafe_layers),
            evidence=(
                "two weights of a channel, of one sign, exceed 128 in sum, so that 16-bit sums of "
                "CPUs without VNNI can saturate"
            ),
            advice="exact scales for any_kernel (the default), reduce_range, or 7-bit weights",
        )


RULES: tuple[Callable[[Diagnosis], Iterator[Finding]], ...] = (
    _conversion,
    _batch_norm,
    _input,
    _calibration,
    _outlier,
    _sample,
    _channels,
    _weights_or_activations,
    _sensitive,
    _saturation,
)
