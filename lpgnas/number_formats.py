"""Number formats: what one code means, which codes exist, and how a tie is rounded. Said once, here.

A tensor is stored as integer *codes*; its value is `code * 2**-fraction`. `FormatChoice` is what a search picks
(a kind and a number of bits); the fraction is calibrated in training and turns the choice into a `NumberFormat`.
"""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from enum import StrEnum

import numpy as np
import numpy.typing as npt

from lpgnas.errors import SpecError

MAX_BITS = 16
"""Widest code of any component; accumulators are 32 or 64 bits and proved apart."""
MAX_FRACTION = 24
"""Calibrated fractions lie between this and its negative."""


class Rounding(StrEnum):
    """How `x` becomes an integer: to nearest with ties to even, `floor(x + 1/2)`, or `floor(x)`."""

    HALF_EVEN = "half_even"
    HALF_UP = "half_up"
    FLOOR = "floor"


@dataclass(frozen=True)
class FixedPoint:
    """Two's complement or unsigned fixed point: `value = code * 2**-fraction`.

    Attributes:
        bits: width of a code, the sign included, 1 to 16 (at least 2 when signed).
        fraction: binary places; may be negative or exceed `bits`.
        signed: codes in [-2^(bits-1), 2^(bits-1) - 1], else in [0, 2^bits - 1].

    Raises:
        SpecError: a width that does not exist.
    """

    bits: int
    fraction: int
    signed: bool = True

    def __post_init__(self) -> None:
        least = 2 if self.signed else 1
        if not least <= self.bits <= MAX_BITS:
            kind = "signed" if self.signed else "unsigned"
            raise SpecError(f"a {kind} fixed-point format has {least} to {MAX_BITS} bits, got {self.bits}")

    @property
    def low(self) -> int:
        """Smallest code."""
        return -(1 << (self.bits - 1)) if self.signed else 0

    @property
    def high(self) -> int:
        """Largest code."""
        return (1 << (self.bits - 1)) - 1 if self.signed else (1 << self.bits) - 1


@dataclass(frozen=True)
class Binary:
    """Codes {-1, +1} times `2**-fraction`, 1 bit each."""

    fraction: int
    bits: int = 1
    signed: bool = True
    low: int = -1
    high: int = 1


@dataclass(frozen=True)
class Ternary:
    """Codes {-1, 0, +1} times `2**-fraction`, 2 bits each."""

    fraction: int
    bits: int = 2
    signed: bool = True
    low: int = -1
    high: int = 1


@dataclass(frozen=True)
class Float32:
    """No quantisation: for references only. Lowering refuses it by name."""

    bits: int = 32


IntegerFormat = FixedPoint | Binary | Ternary
NumberFormat = IntegerFormat | Float32

_CHOICE = re.compile(r"binary|ternary|float32|fixed([1-9][0-9]?)")


@dataclass(frozen=True)
class FormatChoice:
    """What a search chooses for a component: `binary`, `ternary`, `fixed<bits>` or `float32`.

    Attributes:
        kind: `binary`, `ternary`, `fixed` or `float32`.
        bits: stored bits of one element.
    """

    kind: str
    bits: int

    def __post_init__(self) -> None:
        widths = {"binary": {1}, "ternary": {2}, "float32": {32}, "fixed": set(range(1, MAX_BITS + 1))}
        if self.kind not in widths or self.bits not in widths[self.kind]:
            raise SpecError(
                f"no number format of kind {self.kind!r} with {self.bits} bits; "
                f"write binary, ternary, fixed1 to fixed{MAX_BITS}, or float32"
            )

    @classmethod
    def parse(cls, text: str) -> FormatChoice:
        """The choice that `str()` writes, e.g. `FormatChoice.parse("fixed4")`.

        Raises:
            SpecError: anything else; the message lists the forms.
        """
        match = _CHOICE.fullmatch(text) if isinstance(text, str) else None
        if match is None:
            raise SpecError(f"unknown number format {text!r}; write binary, ternary, fixed1 to fixed16, or float32")
        if match.group(1):
            return cls("fixed", int(match.group(1)))
        return cls(text, {"binary": 1, "ternary": 2, "float32": 32}[text])

    def __str__(self) -> str:
        return f"fixed{self.bits}" if self.kind == "fixed" else self.kind

    def with_fraction(self, fraction: int, *, signed: bool = True) -> NumberFormat:
        """The full format once its fraction is known."""
        if self.kind == "fixed":
            return FixedPoint(self.bits, fraction, signed)
        if self.kind == "binary":
            return Binary(fraction)
        if self.kind == "ternary":
            return Ternary(fraction)
        return Float32()


FLOAT32 = FormatChoice("float32", 32)
FIXED1 = FormatChoice("fixed", 1)


def round_to_int(values: npt.NDArray[np.float64], rounding: Rounding) -> npt.NDArray[np.float64]:
    """Integers nearest to float64 `values` under `rounding`, still float64 (exact below 2^52)."""
    if rounding is Rounding.HALF_EVEN:
        return np.rint(values)
    return np.floor(values + 0.5) if rounding is Rounding.HALF_UP else np.floor(values)


def quantize_array(values: npt.NDArray[np.floating], fmt: FixedPoint, rounding: Rounding) -> npt.NDArray[np.int64]:
    """Codes of real `values` in `fmt`, any shape: scaled, rounded and saturated in float64."""
    scaled = np.ldexp(np.asarray(values, dtype=np.float64), fmt.fraction)
    return np.clip(round_to_int(scaled, rounding), fmt.low, fmt.high).astype(np.int64)


def finest_fraction(largest: float, high: int) -> int:
    """The largest fraction, within `MAX_FRACTION` of 0, at which `largest` does not pass code `high`; 0 for 0."""
    if largest == 0.0 or not math.isfinite(largest):
        return 0
    (value, exponent), (code, bits) = math.frexp(largest), math.frexp(high)
    fraction = bits - exponent if value <= code else bits - exponent - 1
    return max(-MAX_FRACTION, min(MAX_FRACTION, fraction))
