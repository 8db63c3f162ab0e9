"""Activation by table."""

from __future__ import annotations

from lpgnas.jit import jit
from lpgnas.requantize import AnyCodes


@jit
def look_up(codes: AnyCodes, low: int, table: AnyCodes, out: AnyCodes) -> None:
    """`out = table[codes - low]`; codes and out [N, width], table [2^bits], `low` the smallest code."""
    for n in range(codes.shape[0]):
        for c in range(codes.shape[1]):
            out[n, c] = table[int(codes[n, c]) - low]
