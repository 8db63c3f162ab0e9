"""What a program reaches on a graph, counted in plain Python on `naive.run`: reference of the fixed-point checks."""

from __future__ import annotations

from collections import defaultdict
from fractions import Fraction
from typing import Any

import naive

Counts = dict[str, dict[str, Any]]


def count(program: Any, x: Any, edge_index: Any) -> Counts:
    """Counts by the name of a component; only those that `lpgnas.kernels.fixed_point` counts for it too."""
    seen: dict[tuple[str, str], list[Any]] = defaultdict(list)
    naive.run(program, x, edge_index, lambda name, what, value: seen[name, what].append(value))
    result: Counts = {"x": _input(program, x)}
    for operation in program.operations:
        kind = type(operation).__name__
        if kind == "Transform":
            out = program.tensor(operation.output)
            result[out.name] = _sums(seen, out.name, operation) | _rounded(
                seen[out.name, "total"], operation.shift, (out.low, out.high), (out.low, out.high), program
            )
        elif kind == "Score":
            for name in (operation.source_output, operation.target_output):
                if name is not None:
                    result[name] = _sums(seen, name, operation)
        elif kind == "Aggregate":
            result |= _scores(program, operation, seen)
            out, clamp = program.tensor(operation.output), (operation.clamp_low, operation.clamp_high)
            result[out.name] = _sums(seen, out.name, operation) | _rounded(
                seen[out.name, "total"], operation.shift, clamp, (out.low, out.high), program
            )
        else:
            entries = seen[operation.output, "entry"]
            result[operation.output] = _codes([entry for _, entry in entries]) | {
                "nonzero": sum(code != 0 for code, _ in entries),
                "underflows": sum(code != 0 and entry == 0 for code, entry in entries),
            }
    return result


def _span(values: list[int]) -> tuple[int, int]:
    return min(values, default=0), max(values, default=0)


def _codes(codes: list[int]) -> dict[str, Any]:
    return {"values": len(codes), "codes": _span(codes), "codes_used": len(set(codes))}


def _sums(seen: Any, name: str, operation: Any) -> dict[str, Any]:
    span = _span(seen[name, "accumulator"])
    assert max(-span[0], span[1]) <= operation.accumulator_bound
    return {"accumulator": span}


def _rounded(
    totals: list[int], shift: int, clamp: tuple[int, int], limits: tuple[int, int], program: Any
) -> dict[str, Any]:
    """`clamp` is what a value is clamped to, `limits` are the format's."""
    exact = [Fraction(total) / Fraction(2) ** shift for total in totals]
    return {"total": _span(totals)} | _clamped(exact, clamp, limits, program)


def _clamped(exact: list[Fraction], clamp: tuple[int, int], limits: tuple[int, int], program: Any) -> dict[str, Any]:
    rounded = [naive.round_fraction(value, str(program.rounding)) for value in exact]
    below, above = sum(value < clamp[0] for value in rounded), sum(value > clamp[1] for value in rounded)
    high = above if clamp[1] == limits[1] else 0
    low = below if clamp[0] == limits[0] < 0 else 0
    counted = [(value, code) for value, code in zip(exact, rounded, strict=True) if value > 0 or value < 0 > clamp[0]]
    return _codes([min(max(value, clamp[0]), clamp[1]) for value in rounded]) | {
        "rounded": _span(rounded),
        "saturated_low": low,
        "saturated_high": high,
        "cut": below + above - low - high,
        "nonzero": len(counted),
        "underflows": sum(code == 0 for _, code in counted),
    }


def _input(program: Any, x: Any) -> dict[str, Any]:
    fmt = program.input
    exact = [Fraction(float(value)) * Fraction(2) ** fmt.fraction for row in x for value in row]
    counts = _clamped(exact, (fmt.low, fmt.high), (fmt.low, fmt.high), program)
    return counts | {"saturated_low": counts["saturated_low"] + counts["cut"], "cut": 0}


def _scores(program: Any, operation: Any, seen: Any) -> Counts:
    """Arguments, scores and probabilities of a learned attention."""
    if operation.table is None:
        return {}
    limits, layer = (operation.score_low, operation.score_high), f"layer{operation.layer}"
    codes = seen[f"{layer}/probability", "code"]
    result: Counts = {
        f"{layer}/score": _rounded(seen[f"{layer}/score", "total"], operation.score_shift, limits, limits, program),
        f"{layer}/probability": _codes(codes) | {"nonzero": len(codes), "underflows": codes.count(0)},
    }
    if operation.argument_table is not None:
        values = seen[f"{layer}/argument", "total"]
        result[f"{layer}/argument"] = _rounded(values, operation.argument_shift, limits, limits, program)
    return result
