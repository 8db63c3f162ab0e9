"""Energy of an inference on a simple accelerator: an estimate from published figures per operation, not a measurement.

Figures: M. Horowitz, "Computing's energy problem (and what we can do about it)", ISSCC 2014, 45 nm, 0.9 V. An addition
of 32 bits takes 0.1 pJ, a multiplication of 8 by 8 bits 0.2 pJ; a word of 64 bits takes 10, 20 or 100 pJ from an SRAM
of 8 KiB, 32 KiB or 1 MiB, and 1.3 to 2.6 nJ from DRAM.

Assumptions:

- A multiplication of a by b bits takes a b / 64 of that of 8 by 8, as an array of adders does (32 by 32 would take
  3.2 pJ; the published figure is 3.1), so that products cost in proportion to BOPs. Every MAC adds 32 bits.
- Every tensor and array lies in the smallest of the four memories that holds it alone, packed. An operation reads what
  it needs once and keeps it in registers, and writes its result once; writing takes what reading does. DRAM takes the
  middle of its range.
- An aggregation reads a row of messages, and of node scores, for every edge.
- Not counted, as they are not in MACs: the graph, roundings, softmaxes, biases. Features count dense, kept words alone.
- Numbers of float32 count as integers of 32 bits.

Energies are whole attojoules (10^-18 J), so that a spec and its program have the same.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

ADDITION = 100_000
"""Attojoules of an addition of 32 bits."""
PRODUCT = 200_000 // 64
"""Attojoules of a multiplication for each pair of bits of its operands."""
KIB = 8 * 1024
MEMORIES = ((8 * KIB, 10_000_000 // 64), (32 * KIB, 20_000_000 // 64), (1024 * KIB, 100_000_000 // 64))
"""Bits that an SRAM holds, and attojoules a bit that it gives or takes."""
DRAM = 1_950_000_000 // 64


def arithmetic(macs: int, operands: Sequence[int]) -> int:
    """Attojoules of MACs whose multiplication has `operands` bits; a single operand is only added."""
    products = PRODUCT * math.prod(operands) if len(operands) > 1 else 0
    return macs * (ADDITION + products)


def access(moved: int, held: int | None = None) -> int:
    """Attojoules of moving bits from or to the memory that holds `held` bits (default: those that are moved)."""
    held = moved if held is None else held
    return moved * next((energy for capacity, energy in MEMORIES if held <= capacity), DRAM)


def format_energy(attojoules: int) -> str:
    """`attojoules` for people: pJ, nJ, uJ, mJ or J with three digits."""
    value, unit = attojoules / 10**6, "pJ"
    for larger in ("nJ", "uJ", "mJ", "J"):
        if value < 1000:
            break
        value, unit = value / 1000, larger
    return f"{value:.3g} {unit}" if value < 1000 else f"{value:,.0f} {unit}"
