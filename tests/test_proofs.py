"""The bounds hold, extreme inputs reach them, and a program that states anything else is refused."""

from __future__ import annotations

from dataclasses import replace
from functools import cache
from itertools import product
from typing import Any

import naive
import numpy as np
import numpy.typing as npt
import pytest
import samples

from lpgnas.errors import ProgramError
from lpgnas.integer_program import (
    Aggregate,
    Array,
    IntegerProgram,
    Lookup,
    Operation,
    Part,
    Score,
    Tensor,
    Transform,
    accumulator_bits,
    narrow,
    reciprocal,
    rsqrt15,
    softmax_table,
)
from lpgnas.proofs import aggregate_bounds, check_program, score_bound, transform_bounds


def tensor(bits: int, *, signed: bool = True, columns: int = 3) -> Tensor:
    return Tensor("t", columns, bits, 0, signed, 0, None)


def aggregate(**changes: Any) -> Aggregate:
    """An aggregation without alignment, bias, shortcut or rounding."""
    made = Aggregate(
        layer=0,
        input="m",
        output="o",
        attention="const",
        aggregation="sum",
        self_loops=False,
        heads=1,
        source_scores=None,
        target_scores=None,
        score_shift=0,
        score_low=0,
        score_high=0,
        table=None,
        term_shift=0,
        bias=None,
        bias_shift=0,
        shortcut=None,
        shortcut_shift=0,
        shift=0,
        clamp_low=-8,
        clamp_high=7,
        accumulator_bits=32,
        accumulator_bound=0,
        total_bound=0,
    )
    return replace(made, **changes)


def test_coefficients_are_exact() -> None:
    degrees = np.arange(1, 1 << 20, dtype=np.int64)
    codes = rsqrt15(degrees)
    assert ((2 * codes - 1) ** 2 * degrees <= 1 << 32).all()
    assert ((2 * codes + 1) ** 2 * degrees > 1 << 32).all()
    for bits in (15, 24, 26):
        few = np.unique(np.concatenate([np.arange(70_000), 1 << np.arange(31), (1 << np.arange(31)) // 3]))
        assert reciprocal(bits, few).tolist() == [naive.reciprocal(bits, int(d)) for d in few]
    assert [int(rsqrt15(np.array([d]))[0]) for d in range(300)] == [naive.rsqrt15(d) for d in range(300)]


@pytest.mark.parametrize("fraction", range(5))
def test_softmax_table_ends_before_its_zeros(fraction: int) -> None:
    table = softmax_table(fraction)
    assert table[0] == 127
    assert table[-1] > 0
    assert (np.diff(table.astype(int)) <= 0).all()
    assert np.floor(127 * 2.0 ** (-(8 << fraction) / (1 << fraction)) + 0.5) == 0


def test_narrow_refuses_codes_that_a_cast_would_wrap() -> None:
    assert narrow(np.array([-128, 127]), -128, 127).dtype == np.int8
    assert narrow(np.array([0, 255]), 0, 255).dtype == np.uint8
    with pytest.raises(ProgramError, match="leave the range"):
        narrow(np.array([128]), -128, 127)
    with pytest.raises(ProgramError, match="no 16-bit type"):
        narrow(np.array([0]), 0, 1 << 16)


def part_of(weight: npt.NDArray[np.int64], source: Tensor, align: int = 0) -> Part:
    """An input with its columns of a weight."""
    return Part(source, Array("w", "weight", "fixed", 16, 0, True, 0, None, weight), align, row_factor=False)


@pytest.mark.parametrize("bits", [2, 8, 16])
def test_transform_bound_is_attained(bits: int) -> None:
    rng = np.random.default_rng(bits)
    source = tensor(bits)
    weight = -rng.integers(0, 128, (4, 3))
    part = part_of(weight, source)
    bound, total = transform_bounds([part], degree_factor=True, shift=0)
    assert int((weight @ np.full(3, source.low)).max()) == bound
    assert total == bound << 15  # rsqrt15(1) is 2^15
    assert transform_bounds([part], degree_factor=False, shift=-3)[1] == bound << 3
    assert transform_bounds([part], degree_factor=False, shift=5)[1] == bound + 16


@pytest.mark.parametrize("bits", [1, 2, 3])
def test_transform_bound_with_row_factor_holds_for_every_input(bits: int) -> None:
    rng = np.random.default_rng(bits)
    source = tensor(bits, signed=False)
    for _ in range(10):
        weight = rng.integers(-9, 10, (2, 3))
        part = replace(part_of(weight, source), row_factor=True)
        bound, total = transform_bounds([part], degree_factor=False, shift=0)
        largest = 0
        for codes in product(range(1 << bits), repeat=3):
            products = [abs(int(value)) for value in weight @ np.array(codes)]
            assert max(products) <= bound
            largest = max(largest, max(products) * naive.reciprocal(24, sum(codes)))
        assert 0.9 * total < largest <= total


def test_parts_add_up_aligned() -> None:
    wide, narrow_one = np.array([[3, -2]]), np.array([[-1]])
    parts = [part_of(wide, tensor(4), 2), part_of(narrow_one, tensor(3, signed=False))]
    bound, total = transform_bounds(parts, degree_factor=False, shift=4)
    assert bound == 5 * 8
    assert total == (5 * 8 << 2) + 7 + 8  # the last 8 is the addend of the rounding


def test_score_bound_is_attained() -> None:
    weight = np.array([[-3, -2], [-7, 0]])
    message = tensor(4)
    assert score_bound([weight, weight[:1]], message) == 7 * 8 == int(weight[1] @ np.array([-8, 0]))


@pytest.mark.parametrize("self_loops", [False, True])
@pytest.mark.parametrize(
    ("attention", "aggregation"), [("const", "sum"), ("const", "mean"), ("const", "max"), ("gcn", "sum")]
)
def test_aggregate_bounds_hold_for_every_degree(attention: str, aggregation: str, self_loops: bool) -> None:
    made = aggregate(attention=attention, aggregation=aggregation, self_loops=self_loops)
    for max_degree in (0, 1, 2, 3, 17, 400):
        bound, total = aggregate_bounds(made, tensor(4), None, None, max_degree)
        terms, sums = [0], [0]
        for degree in range(max_degree + self_loops + 1):
            sums.append(0 if degree == 0 else 8 if aggregation == "max" else 8 * degree)
            factor = naive.rsqrt15(degree) if attention == "gcn" else 1
            factor = naive.reciprocal(15, degree) if aggregation == "mean" else factor
            terms.append(sums[-1] * factor)
        assert max(sums) == bound or max_degree + self_loops == 0
        assert max(terms) <= total
        assert total <= 1.1 * max(terms) or max_degree < 17


@pytest.mark.parametrize("aggregation", ["sum", "mean", "max"])
def test_learned_bounds_hold_for_every_probability(aggregation: str) -> None:
    made = aggregate(attention="gat", aggregation=aggregation)
    for edges in (1, 2, 40):
        bound, total = aggregate_bounds(made, tensor(4), None, None, edges)
        assert bound == 8 * 127 * (1 if aggregation == "max" else edges)
        degree_factor = naive.reciprocal(15, 1) if aggregation == "mean" else 1
        reached = max(8 * mass * naive.reciprocal(26, mass) for mass in range(127, 127 * edges + 1))
        assert 0.99 * total < reached * degree_factor <= total


def test_bias_and_shortcut_enter_the_total() -> None:
    made = aggregate(bias="b", bias_shift=3, shortcut="s", shortcut_shift=2, term_shift=1, shift=4)
    bias = np.array([5, -9, 0])
    total = aggregate_bounds(made, tensor(4), tensor(3, signed=False), bias, 6)[1]
    assert total == (8 * 6 << 1) + (9 << 3) + (7 << 2) + 8


@pytest.mark.parametrize(("bound", "bits"), [(0, 32), ((1 << 31) - 1, 32), (1 << 31, 64)])
def test_accumulator_bits(bound: int, bits: int) -> None:
    assert accumulator_bits(bound) == bits


@cache
def programs(count: int = 60) -> tuple[IntegerProgram, ...]:
    return tuple(samples.random_program(np.random.default_rng(seed), 7, 3, 20)[1] for seed in range(count))


def with_operation(program: IntegerProgram, kind: type, **changes: object) -> IntegerProgram:
    """The program with its first operation of `kind` changed."""
    operations: list[Operation] = list(program.operations)
    index = next(k for k, operation in enumerate(operations) if isinstance(operation, kind))
    operations[index] = replace(operations[index], **changes)  # type: ignore[arg-type]
    return replace(program, operations=tuple(operations))


def first(kind: type, **wanted: object) -> tuple[IntegerProgram, Any]:
    """A program whose first operation of `kind` has the wanted fields, and that operation."""
    for program in programs(400):
        operation = next((op for op in program.operations if isinstance(op, kind)), None)
        if operation is not None and all(getattr(operation, name) == value for name, value in wanted.items()):
            return program, operation
    raise AssertionError(f"no sample has a {kind.__name__} with {wanted}")


def refused(program: IntegerProgram, message: str) -> None:
    with pytest.raises(ProgramError, match=message):
        check_program(program)


def test_every_number_of_every_operation_is_proved() -> None:
    tried = 0
    for program in programs():
        check_program(program)
        for kind in (Transform, Aggregate):
            operation = next(op for op in program.operations if isinstance(op, kind))
            for name in ("shift", "accumulator_bound", "total_bound"):
                for step in (-1, 1):
                    refused(with_operation(program, kind, **{name: getattr(operation, name) + step}), "bounds|shift")
                    tried += 1
            refused(with_operation(program, kind, accumulator_bits=96 - operation.accumulator_bits), "another width")
        for name in ("term_shift", "bias_shift"):
            value = getattr(next(op for op in program.operations if isinstance(op, Aggregate)), name)
            refused(with_operation(program, Aggregate, **{name: value + 1}), "but the fractions of its tensors")
            refused(with_operation(program, Aggregate, **{name: -1}), "alignment shift of -1")
    assert tried == 720


@pytest.mark.parametrize(
    ("kind", "wanted", "changes", "message"),
    [
        (Transform, {}, {"inputs": ("nothing",)}, "before any operation computes it"),
        (Transform, {}, {"inputs": ()}, "must have different inputs"),
        (Transform, {}, {"inputs": ("x", "x")}, "must have different inputs"),
        (Transform, {}, {"aligns": (0, 0)}, "must have different inputs"),
        (Transform, {}, {"aligns": (1,)}, "the alignment of 'x' is 1, but the fractions"),
        (Transform, {}, {"aligns": (-1,)}, "an alignment shift of -1"),
        (Transform, {}, {"weight": "nothing"}, "no array"),
        (Transform, {}, {"output": "nothing"}, "no tensor"),
        (Transform, {}, {"weight": "layer0/bias"}, "weight has shape"),
        (Transform, {"row_factor": True}, {"row_factor": False}, "row_normalize contradicts"),
        (Transform, {}, {"shift": 53}, "the shift is 53, but the fractions"),
        (Transform, {}, {"shift": -53}, "the shift is -53, but the fractions"),
        (Score, {}, {"heads": 0}, "do not divide"),
        (Score, {"heads": 1}, {"source_weight": "layer0/bias"}, "must have shape"),
        (Score, {}, {"accumulator_bound": 1}, "stated 1"),
        (Aggregate, {}, {"attention": "other"}, "unknown operator"),
        (Aggregate, {}, {"aggregation": "other"}, "unknown operator"),
        (Aggregate, {"attention": "gcn"}, {"aggregation": "max"}, "gcn goes with sum"),
        (Aggregate, {"attention": "self"}, {"aggregation": "max"}, "self goes with sum"),
        (Aggregate, {"attention": "self"}, {"self_loops": False}, "but its loops are off"),
        (Aggregate, {}, {"clamp_low": -(1 << 20)}, "leaves its format"),
        (Aggregate, {}, {"clamp_high": 1 << 20}, "leaves its format"),
        (Aggregate, {"attention": "const"}, {"table": "layer0/bias"}, "no scores"),
        (Aggregate, {"attention": "const"}, {"heads": 2}, "one head"),
        (Aggregate, {"attention": "gat"}, {"table": None}, "lacks its scores"),
        (Aggregate, {"attention": "gat"}, {"heads": 3}, "does not divide|must have 3 columns"),
        (Aggregate, {"attention": "gat"}, {"source_scores": "x"}, "must have"),
        (Aggregate, {"attention": "gat"}, {"score_high": 128}, "not 8-bit"),
        (Aggregate, {"attention": "gat"}, {"score_shift": -52}, "may pass 2\\^53"),
        (Aggregate, {"attention": "gat"}, {"table": "layer0/bias"}, "softmax table"),
        (Aggregate, {"attention": "gat"}, {"edge_weights": ("layer0/bias",)}, "lacks its scores, its weights"),
        (Aggregate, {"attention": "gat"}, {"argument_shift": 1}, "the argument shift is 1, but"),
        (Aggregate, {"attention": "sym-gat"}, {"target_scores": None}, "sym-gat lacks its scores"),
        (Aggregate, {"attention": "cos"}, {"edge_weights": ()}, "cos lacks its scores, its weights"),
        (Aggregate, {"attention": "cos"}, {"edge_weights": ("layer0/bias",)}, "edge weight 'layer0/bias' must have"),
        (Aggregate, {"attention": "linear"}, {"argument_table": None}, "linear lacks its scores, its weights or a"),
        (Aggregate, {"attention": "linear"}, {"argument_fraction": 23}, "the argument shift is"),
        (Aggregate, {"attention": "linear"}, {"score_shift": 1}, "the score shift is 1, but"),
        (Aggregate, {"attention": "gene-linear"}, {"argument_shift": -50}, "the argument shift -50 may pass"),
        (Aggregate, {"attention": "gene-linear"}, {"argument_table": "layer0/linear_weight"}, "one signed entry a"),
        (Aggregate, {"attention": "const"}, {"edge_weights": ("layer0/bias",)}, "no scores and one head"),
        (Aggregate, {}, {"bias": "layer0/linear_weight"}, "bias has shape"),
        (Aggregate, {"shortcut": "layer0/shortcut"}, {"shortcut": "x"}, "shortcut 'x' has 7 columns"),
        (Lookup, {}, {"table": "layer0/linear_weight"}, "one entry a code"),
    ],
)
def test_tampered_operations(kind: type, wanted: dict[str, object], changes: dict[str, object], message: str) -> None:
    refused(with_operation(first(kind, **wanted)[0], kind, **changes), message)


def with_array(program: IntegerProgram, which: str, /, **changes: object) -> IntegerProgram:
    arrays: list[Array] = [
        replace(array, **changes) if array.name == which else array  # type: ignore[arg-type]
        for array in program.arrays
    ]
    return replace(program, arrays=tuple(arrays))


def test_tampered_arrays() -> None:
    program, operation = first(Transform)
    weight = program.array(operation.weight)
    refused(with_array(program, weight.name, values=weight.values.astype(np.int64) * 0 + 999), "outside")
    refused(with_array(program, weight.name, values=weight.values[:0]), "is empty")
    refused(with_array(program, weight.name, kind="fixed", bits=17), "17 bits")
    refused(with_array(program, weight.name, kind="ternary", bits=1), "1 bits")
    refused(with_array(program, weight.name, kind="binary", bits=1, values=weight.values * 0), "holds a 0")
    refused(with_array(program, weight.name, name="layer0/bias"), "share a name")
    program, operation = first(Aggregate, attention="gat")
    table = program.array(operation.table)
    refused(with_array(program, table.name, values=np.maximum(table.values, 1)[1:]), "start with the last")
    program, operation = first(Lookup)
    table = program.array(operation.table)
    refused(with_array(program, table.name, values=table.values[:-1]), "one entry a code")


def test_the_fraction_of_a_score_follows_from_its_factors() -> None:
    program, operation = first(Score)
    name = operation.source_output
    tensors = [
        replace(tensor, fraction=tensor.fraction + 1) if tensor.name == name else tensor for tensor in program.tensors
    ]
    refused(replace(program, tensors=tuple(tensors)), "the fraction is .* but the fractions of its tensors")
    refused(
        with_operation(program, Score, source_output=None, target_output=None), "neither a source nor a target|read"
    )


def test_tampered_tensors_and_header() -> None:
    program = programs(1)[0]
    check_program(program)
    for change, message in (
        ({"bits": 0}, "impossible"),
        ({"bits": 1, "signed": True}, "impossible"),
        ({"columns": 0}, "impossible"),
        ({"fraction": 61}, "impossible"),
    ):
        changed = replace(program.tensors[0], **change)  # type: ignore[arg-type]
        refused(replace(program, tensors=(changed, *program.tensors[1:])), message)
    refused(replace(program, input=replace(program.input, name="y")), "the input is 'y'")
    refused(replace(program, input=replace(program.input, bits=17)), "more than 16")
    refused(replace(program, num_features=8), "the input is 'x'")
    refused(replace(program, num_classes=4), "4 columns")
    refused(replace(program, output="x", num_classes=7), "not a computed tensor")
    refused(replace(program, max_degree=1 << 20), "max_degree")
    refused(replace(program, max_degree=program.max_degree + 5), "not the proved ones")
    refused(replace(program, operations=(program.operations[0], *program.operations)), "written twice")
    spare = replace(program.tensors[0], name="spare")
    refused(replace(program, tensors=(*program.tensors, spare)), "no operation computes: spare")
    signed = replace(program.input, signed=True, bits=8)
    refused(replace(program, input=signed, row_normalize=True), "unsigned input")
