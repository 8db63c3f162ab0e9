"""The kept columns of the features, taken out by the packed index that a file holds (one bit a column)."""

from __future__ import annotations

import numpy as np

from lpgnas.export.graph_builder import GraphBuilder
from lpgnas.export.packed_weights import unpacked_bits
from lpgnas.integer_program import Array
from lpgnas.program_file import pack_codes


def kept_columns(builder: GraphBuilder, value: str, index: Array | None) -> str:
    """The columns [N, K] of `value` [N, F] that the index keeps, in the same type; `value` itself without an index."""
    name = f"{value}/kept"
    if index is None or name in builder:
        return value if index is None else name
    return builder.add("Compress", name, value, _unpacked(builder, index), axis=1)


def _unpacked(builder: GraphBuilder, index: Array) -> str:
    """The index as bool [F], stored as bits in UINT8, the first column in the least significant one."""
    b, name = builder, index.name
    packed = b.initializer(name, pack_codes(index.values, 1, index.kind)[:, None])
    return b.cast(unpacked_bits(b, name, packed, index.values.size), np.bool_)
