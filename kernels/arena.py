"""Where the intermediate tensors of a program live: one arena, in which dead tensors make room for later ones."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from lpgnas.integer_program import IntegerProgram, reads, writes
from lpgnas.kernels.quantize import code_dtype

ALIGNMENT = 64
"""Bytes of a cache line: every tensor starts on one."""


@dataclass(frozen=True)
class ArenaPlan:
    """Byte offset of each tensor in an arena of `size` bytes."""

    offsets: dict[str, int]
    size: int


def empty_arena(size: int) -> npt.NDArray[np.uint8]:
    """`size` bytes that start on a cache line, so that rows of a power of two never lie on one more than they need."""
    memory = np.empty(size + ALIGNMENT, dtype=np.uint8)
    begin = -memory.ctypes.data % ALIGNMENT
    return memory[begin : begin + size]


def last_uses(program: IntegerProgram) -> dict[str, int]:
    """For each tensor the index of the last operation that touches it; the output outlives them all."""
    last: dict[str, int] = {}
    for step, operation in enumerate(program.operations):
        for name in (*writes(operation), *reads(operation)):
            last[name] = step
    last[program.output] = len(program.operations)
    return last


def plan_arena(program: IntegerProgram, num_nodes: int) -> ArenaPlan:
    """First-fit offsets for every tensor that the program computes on `num_nodes` nodes, the logits included."""
    last = last_uses(program)
    alive: dict[str, tuple[int, int]] = {}  # name -> [begin, end) in bytes
    offsets: dict[str, int] = {}
    for step, operation in enumerate(program.operations):
        alive = {name: place for name, place in alive.items() if last[name] >= step}
        for name in writes(operation):
            tensor = program.tensor(name)
            count = num_nodes * tensor.columns * code_dtype(tensor.bits, signed=tensor.signed).itemsize
            begin = _first_gap(sorted(alive.values()), count)
            offsets[name] = begin
            alive[name] = (begin, begin + -(-count // ALIGNMENT) * ALIGNMENT)
    ends = (
        offsets[t.name] + num_nodes * t.columns * code_dtype(t.bits, signed=t.signed).itemsize for t in program.tensors
    )
    return ArenaPlan(offsets, max(ends, default=0))


def _first_gap(places: list[tuple[int, int]], count: int) -> int:
    begin = 0
    for taken_begin, taken_end in places:
        if begin + count <= taken_begin:
            return begin
        begin = max(begin, taken_end)
    return begin
