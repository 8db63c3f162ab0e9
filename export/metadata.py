"""What an exported file says of itself: readable with `InferenceSession.get_modelmeta()` or in Netron."""

from __future__ import annotations

import hashlib
import json
from typing import Any

from lpgnas import program_file
from lpgnas.integer_program import Aggregate, IntegerProgram, Transform

SCHEMA = "lpgnas-onnx-1"
PROGRAM_METADATA_PREFIX = "metadata."


def _compact(value: Any) -> str:  # noqa: ANN401 - any JSON value
    return json.dumps(value, separators=(",", ":"))


def file_metadata(program: IntegerProgram, dialect: str) -> dict[str, str]:
    """Properties of a file: schema, arithmetic, counted tensors and arrays, origin.

    `tensors` lists what the program materialises for each node (rows x columns x bits), `arrays` its constants
    (elements x bits), so that a size can be counted again from the file. Facts that the program carries keep their
    keys behind the prefix `metadata.`.
    """
    tensors = [
        {
            "name": tensor.name,
            "rows": "num_nodes",
            "columns": tensor.columns,
            "bits": tensor.bits,
            "fraction": tensor.fraction,
            "signed": tensor.signed,
        }
        for tensor in (program.input, *program.tensors)
    ]
    arrays = [
        {
            "name": array.name,
            "kind": array.kind,
            "elements": int(array.values.size),
            "bits": array.bits,
            "fraction": array.fraction,
            "signed": array.signed,
        }
        for array in program.arrays
    ]
    accumulators = {
        operation.output: operation.accumulator_bits
        for operation in program.operations
        if isinstance(operation, (Transform, Aggregate))
    }
    return {
        "schema": SCHEMA,
        "dialect": dialect,
        "rounding": program.rounding.value,
        "row_normalize": _compact(program.row_normalize),
        "max_degree": str(program.max_degree),
        "tensors": _compact(tensors),
        "arrays": _compact(arrays),
        "accumulator_bits": _compact(accumulators),
        "program_sha256": hashlib.sha256(program_file.to_bytes(program)).hexdigest(),
        **{PROGRAM_METADATA_PREFIX + key: value for key, value in sorted(program.metadata.items())},
    }


def describe(program: IntegerProgram, form: str) -> str:
    """One sentence for the `doc_string` of a file."""
    layers = sum(isinstance(operation, Aggregate) for operation in program.operations)
    return (
        f"Low-precision graph neural network, {layers} layer(s), {program.num_features} features, "
        f"{program.num_classes} classes; {form}. x [num_nodes, F] float32, edge_index [2, num_edges] int64 (source, "
        f"target), at most {program.max_degree} incoming edges a node."
    )
