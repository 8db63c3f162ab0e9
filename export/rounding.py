"""Rounding in float64, where both dialects quantise the features and QONNX rounds its epilogues."""

from __future__ import annotations

import numpy as np

from lpgnas.export.graph_builder import GraphBuilder
from lpgnas.integer_program import Tensor
from lpgnas.number_formats import Rounding


def round_float64(builder: GraphBuilder, name: str, value: str, rounding: Rounding) -> str:
    """float64 `value` rounded to integers by one mode; `Round` of ONNX is half-even."""
    if rounding is Rounding.HALF_EVEN:
        return builder.add("Round", f"{name}/rounded", value)
    if rounding is Rounding.HALF_UP:
        value = builder.add("Add", f"{name}/raised", value, builder.constant(0.5, np.float64))
    return builder.add("Floor", f"{name}/rounded", value)


def round_codes(builder: GraphBuilder, tensor: Tensor, value: str, rounding: Rounding, low: int, high: int) -> str:
    """Codes in [low, high] of the real float64 `value` in the format of `tensor`, left in float64."""
    name = tensor.name
    scaled = builder.add("Mul", f"{name}/scaled", value, builder.constant(2.0**tensor.fraction, np.float64))
    rounded = round_float64(builder, name, scaled, rounding)
    limits = (builder.constant(bound, np.float64) for bound in (low, high))
    return builder.add("Clip", f"{name}/clipped", rounded, *limits)
