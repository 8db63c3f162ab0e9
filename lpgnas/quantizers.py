"""Fake quantisation with straight-through gradients, and the choice of fractions.

A fake-quantised tensor holds values `code * 2^-fraction` of a number format. In float64 the codes are exactly those of
`docs/integer_semantics.md`; in float32 (training) they differ at most where a sum was not exact.
Gradients pass straight through a rounding and stop where a code saturates.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from lpgnas.fused_ops import as_array, round_rows, scaled_codes
from lpgnas.kernels.training import MODES, squared_error
from lpgnas.number_formats import MAX_FRACTION, FormatChoice, Rounding, finest_fraction

MSE_BITS = 4
"""Activations of at most this width choose their fraction by squared error, wider ones and weights by their range
(measured: power-of-two ranges are best at 8 bits, and lose up to 40 points at 4)."""
MSE_CANDIDATES = 4
TERNARY_THRESHOLD = 0.7
"""Weights below 0.7 mean|w| become 0 (Li & Liu 2016, Ternary Weight Networks)."""


def fake_quantize(values: Tensor, fraction: int, low: int, high: int, rounding: Rounding) -> Tensor:
    """`values` (any shape) on the grid `2^-fraction`, saturated to codes [low, high]; same shape and dtype."""
    return round_rows(values.reshape(1, -1), fraction, low, high, rounding).view(values.shape)


def code_range(bits: int, *, signed: bool) -> tuple[int, int]:
    """Lowest and highest code of a fixed-point format."""
    return (-(1 << (bits - 1)), (1 << (bits - 1)) - 1) if signed else (0, (1 << bits) - 1)


def _clamped(fraction: int) -> int:
    return max(-MAX_FRACTION, min(MAX_FRACTION, fraction))


def range_fraction(values: Tensor, high: int) -> int:
    """Largest fraction at which no |value| passes code `high`; 0 for an all-zero tensor."""
    largest = float(values.detach().abs().max()) if values.numel() else 0.0
    return finest_fraction(largest, high)


def calibrated_fraction(values: Tensor, bits: int, *, signed: bool, rounding: Rounding) -> int:
    """The fraction for `values` (any shape) in a fixed-point format of `bits`.

    By range from 5 bits on; below, the candidate with the least squared error, from the range's fraction upwards.
    """
    low, high = code_range(bits, signed=signed)
    base = range_fraction(values if signed else values.clamp(min=0), high)
    if bits > MSE_BITS:
        return base
    flat = values.detach().reshape(-1)
    sample = as_array(flat[:: max(1, flat.numel() // 20_000)].double())
    best, best_error = base, math.inf
    for fraction in range(base, base + MSE_CANDIDATES):
        error = squared_error(sample, 2.0**fraction, float(low), float(high), MODES[rounding])
        if error < best_error:
            best, best_error = _clamped(fraction), error
    return best


def weight_fraction(weight: Tensor, choice: FormatChoice) -> int:
    """The fraction of a weight tensor: of its range (fixed), or of its mean |w| (binary, ternary)."""
    exact = weight.detach().double()
    if choice.kind == "fixed":
        return range_fraction(exact, code_range(choice.bits, signed=True)[1])
    magnitude = exact.abs()
    if choice.kind == "ternary":
        magnitude = magnitude[magnitude > TERNARY_THRESHOLD * magnitude.mean()]
    mean = float(magnitude.mean()) if magnitude.numel() else 0.0
    return 0 if mean == 0.0 else _clamped(-round(math.log2(mean)))


def quantize_weight(weight: Tensor, choice: FormatChoice, fraction: int) -> Tensor:
    """A weight tensor (any shape) as values of its format; straight-through gradient, none where it saturates.

    A binary weight is the sign (+1 at 0); a ternary one is 0 within `TERNARY_THRESHOLD` of its scale.
    """
    if choice.kind == "float32":
        return weight
    if choice.kind == "fixed":
        low, high = code_range(choice.bits, signed=True)
        return fake_quantize(weight, fraction, low, high, Rounding.HALF_EVEN)
    scale = 2.0**-fraction
    if choice.kind == "binary":
        return scaled_codes(weight, torch.where(weight >= 0, 1.0, -1.0), scale)
    beyond = weight.abs() > TERNARY_THRESHOLD * scale
    return scaled_codes(weight, torch.where(beyond, weight.sign(), 0.0), scale)
