"""The struct of a rounding: exact fractions as integers, with room for every total."""

from __future__ import annotations

from fractions import Fraction
from typing import Any

from qstrategies.errors import InputError
from qstrategies.export.c99.piece import Place
from qstrategies.specification.program import Rounding

ROOM = 2**62
LARGEST_INT32 = 2**31 - 1


def rounding_of(place: Place) -> dict[str, Any]:
    """By shifts: every multiplier is an integer over a power of two."""
    rounding: Rounding = place.node.rounding
    pairs = [_over_power_of_two(each, rounding.bound) for each in rounding.multipliers]
    largest = max(abs(m) * rounding.bound >> shift for m, shift in pairs)
    lift = _lift(largest)
    if any(lift << shift > ROOM or m > LARGEST_INT32 for m, shift in pairs):
        raise InputError("its multipliers are too far apart for 64 bits")
    return {
        "multiplier": place.array("int32_t", "multiplier", [m for m, _ in pairs]),
        "shift": place.array("uint8_t", "shift", [shift for _, shift in pairs]),
        "per_channel": int(len(pairs) > 1),
        "lift": lift,
        **_ends(rounding),
    }


def _over_power_of_two(multiplier: Fraction, bound: int) -> tuple[int, int]:
    """Numerator and exponent (1 or more) of the denominator; 0 for one that rounds all to 0."""
    numerator, denominator = multiplier.numerator, multiplier.denominator
    if denominator & (denominator - 1):
        raise InputError(f"its multiplier {multiplier} is no integer over a power of two")
    if numerator * bound * 2 < denominator:
        return 0, 1
    if denominator == 1:
        return 2 * numerator, 1
    return numerator, denominator.bit_length() - 1


def quotient_of(place: Place) -> dict[str, Any]:
    """By division: the only multiplier is any fraction."""
    rounding: Rounding = place.node.rounding
    (multiplier,) = rounding.multipliers
    numerator, divisor = multiplier.numerator, multiplier.denominator
    if 2 * numerator * rounding.bound < divisor:
        numerator, divisor = 0, 1
    lift = _lift(numerator * rounding.bound // divisor)
    if lift * divisor > ROOM or numerator > LARGEST_INT32:
        raise InputError(f"its multiplier {multiplier} does not fit 64 bits")
    return {
        "divisor": divisor,
        "rounding": {
            "multiplier": place.array("int32_t", "multiplier", [numerator]),
            "lift": lift,
            **_ends(rounding),
        },
    }


def _lift(largest: int) -> int:
    """An even number above ``largest``."""
    return 2 << largest.bit_length()


def _ends(rounding: Rounding) -> dict[str, int]:
    return {name: getattr(rounding, name) for name in ("zero_point", "low", "high")}
