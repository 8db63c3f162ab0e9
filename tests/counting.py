"""Sizes counted again from files alone: the header of a `program.npz`, and what an ONNX file says of itself."""

from __future__ import annotations

import io
import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import onnx


def header_of(program: Path | io.BytesIO) -> dict[str, Any]:
    """The header of a `program.npz`."""
    with np.load(program) as archive:
        header: dict[str, Any] = json.loads(archive["header"].tobytes())
    return header


def counted_bits(header: dict[str, Any], nodes: int) -> dict[str, int]:
    """Weights, buffers and peak of a program, counted from the header of its file alone."""
    weights = sum(math.prod(array["shape"]) * array["bits"] for array in header["arrays"]) + 2 * 8
    columns = {one["name"]: one["columns"] * one["bits"] for one in (header["input"], *header["tensors"])}
    touched: dict[str, list[int]] = {"x": [0]}
    for step, operation in enumerate(header["operations"]):
        if operation["op"] == "transform":
            several = len(operation["inputs"]) > 1  # then each has an alignment beside the shift of the result
            weights += 8 * (1 + (len(operation["inputs"]) if several else 0))
        if operation["op"] == "aggregate":  # term, bias and result; shortcut, score and its argument; and the clamp
            optional = ("shortcut", "table", "argument_table")
            weights += 8 * (3 + sum(operation[name] is not None for name in optional)) + 16
        fields = ("input", "output", "source_output", "target_output", "source_scores", "target_scores", "shortcut")
        for field in fields:
            if operation.get(field) is not None:
                touched.setdefault(operation[field], []).append(step)
        for name in operation.get("inputs", ()):
            touched[name].append(step)
    touched[header["output"]].append(len(header["operations"]) - 1)
    alive = [
        sum(columns[name] for name, steps in touched.items() if min(steps) <= step <= max(steps))
        for step in range(len(header["operations"]))
    ]
    buffers = sum(bits for name, bits in columns.items() if name not in ("x", header["output"]))
    return {"weight_bits": weights, "buffer_bits": nodes * buffers, "peak_bits": nodes * max(alive)}


def counted_operations(header: dict[str, Any], nodes: int, edges: int) -> dict[str, int]:
    """MACs and BOPs of a program, counted from the header of its file alone."""
    arrays = {one["name"]: one for one in header["arrays"]}
    tensors = {one["name"]: one for one in (header["input"], *header["tensors"])}
    macs = bops = 0
    indices = [one for one in header["arrays"] if one["role"] == "index"]
    for operation in header["operations"]:
        sources = [tensors[name] for name in operation.get("inputs") or [operation["input"]]]
        for name in ("weight", "source_weight", "target_weight"):
            if operation.get(name) is not None:
                array = arrays[operation[name]]
                rows, columns = array["shape"]
                read = sources if name == "weight" else [{**sources[0], "columns": columns}]
                if indices and name == "weight":  # a weight has no columns for the words that are left out
                    others = sum(source["columns"] for source in sources if source["name"] != "x")
                    read = [{**one, "columns": columns - others} if one["name"] == "x" else one for one in sources]
                for source in read:
                    products = nodes * rows * source["columns"]
                    macs += products
                    bops += products * array["bits"] * source["bits"]
        if operation["op"] == "aggregate" and operation["attention"] != "self":
            source = sources[0]
            products = (edges + nodes * operation["self_loops"]) * source["columns"]
            operands = [(source["bits"], 7 if operation["table"] is not None else 1)]
            operands += score_operands(operation, arrays, source["bits"])
            macs += products * len(operands)
            bops += products * sum(left * right for left, right in operands)
    return {"macs": macs, "bops": bops}


def score_operands(operation: dict[str, Any], arrays: dict[str, Any], message: int) -> list[tuple[int, int]]:
    """Bits of both operands of every product that a score makes once an edge and column, from its written formula."""
    if not operation["edge_weights"]:
        return []
    weight = int(arrays[operation["edge_weights"][0]]["bits"])
    if operation["attention"] == "cos":  # (s h_i) h_j
        return [(message, weight), (message + weight, message)]
    assert operation["attention"] == "gene-linear"  # g tanh(s h_j + t h_i)
    entry = int(arrays[operation["argument_table"]]["bits"])
    return [(message, weight), (message, weight), (entry, weight)]


def listed_bits(model: bytes, nodes: int) -> dict[str, int]:
    """Constants (but shifts and clamps) and buffers, counted from the arrays and tensors that an ONNX file lists."""
    metadata = {entry.key: entry.value for entry in onnx.load_from_string(model).metadata_props}
    tensors = json.loads(metadata["tensors"])
    assert tensors[0]["name"] == "x"
    assert {tensor["rows"] for tensor in tensors} == {"num_nodes"}
    return {
        "array_bits": sum(array["elements"] * array["bits"] for array in json.loads(metadata["arrays"])),
        "buffer_bits": nodes * sum(tensor["columns"] * tensor["bits"] for tensor in tensors[1:-1]),
    }


def parameter_bits(header: dict[str, Any]) -> int:
    """Shifts, fractions and clamps of a program: what `counted_bits` counts beside the arrays."""
    bare = {**header, "arrays": []}
    return counted_bits(bare, 1)["weight_bits"]
