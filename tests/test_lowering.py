"""Lowering: what it decides, and what it refuses by name."""

from __future__ import annotations

import math
from dataclasses import replace
from fractions import Fraction
from typing import Any

import naive
import numpy as np
import pytest
import samples

from lpgnas.components import Component
from lpgnas.errors import LoweringError
from lpgnas.integer_program import Aggregate, Transform
from lpgnas.lowering import LayerCodes, Quantized, activation_table, clamp_range, lower
from lpgnas.number_formats import FLOAT32, FixedPoint, FormatChoice, Rounding
from lpgnas.operators import ACTIVATIONS
from lpgnas.spec import LayerSpec, ModelSpec


def model(attention: str = "const", *, shortcut: str = "none", bits: int = 8, features: int = 4) -> ModelSpec:
    choice = FormatChoice("fixed", bits)
    formats = {Component.LINEAR_WEIGHT: FormatChoice("fixed", 8), Component.MESSAGE: choice, Component.OUTPUT: choice}
    if attention == "gat":
        formats |= {Component.ATTENTION_WEIGHT: FormatChoice("fixed", 4), Component.SCORE: FormatChoice("fixed", 4)}
    layer = LayerSpec(attention, "sum", "none", 2, shortcut=shortcut, formats=formats)
    return ModelSpec(num_features=features, num_classes=2, layers=(layer,), input_format=FormatChoice("fixed", 8))


def codes(features: int = 4, **changes: Any) -> LayerCodes:
    made = LayerCodes(
        weight=Quantized(np.full((2, features), 3), 2),
        bias=Quantized(np.array([5, -6]), 6),
        message_fraction=4,
        output_fraction=3,
        attention=(Quantized(np.ones((1, 2), dtype=np.int64), 1),) * 2,
        score_fraction=1,
    )
    return replace(made, **changes)


def lowered(spec: ModelSpec, one: LayerCodes, *, max_degree: int = 9, input_fraction: int = 1) -> Any:
    return lower(spec, (one,), input_fraction=input_fraction, max_degree=max_degree)


def test_shifts_follow_the_fractions() -> None:
    program = lowered(
        model(shortcut="linear"), codes(shortcut_weight=Quantized(np.ones((2, 4), int), 2), shortcut_fraction=5)
    )
    message, shortcut, aggregate = program.operations
    assert (message.shift, shortcut.shift) == (2 + 1 - 4, 2 + 1 - 5)
    assert (aggregate.term_shift, aggregate.bias_shift, aggregate.shortcut_shift, aggregate.shift) == (2, 0, 1, 3)
    gcn = lowered(model("gcn"), codes()).operations
    assert gcn[0].shift == 2 + 1 + 15 - 4
    assert (gcn[1].term_shift, gcn[1].bias_shift, gcn[1].shift) == (0, 4 + 15 - 6, 4 + 15 - 3)
    gat = lowered(model("gat"), codes()).operations
    assert gat[2].score_shift == 4 + 1 + 2 - 1
    assert gat[2].shift == 4 + 26 - 3
    normalised = lowered(replace(model(), row_normalize=True), codes()).operations
    assert normalised[0].shift == 2 + 24 - 4  # the input's fraction cancels


def test_metadata_is_kept() -> None:
    assert lower(model(), (codes(),), input_fraction=0, max_degree=1, metadata={"a": "b"}).metadata == {"a": "b"}


def test_wide_sums_get_64_bits() -> None:
    narrow = lowered(model(bits=16), codes(message_fraction=12), max_degree=65_535 - 1).operations
    assert isinstance(narrow[0], Transform)
    assert isinstance(narrow[1], Aggregate)
    assert narrow[1].accumulator_bound == 32768 * 65_535
    assert narrow[1].accumulator_bits == 32
    assert lowered(model(bits=16), codes(message_fraction=12), max_degree=65_535).operations[1].accumulator_bits == 64


def test_wide_sums_are_executed_exactly() -> None:
    from lpgnas.kernels.executor import Executor
    from lpgnas.kernels.reference import run_reference

    program = lowered(model(bits=16), codes(message_fraction=9, output_fraction=-8), max_degree=70_000)
    rng = np.random.default_rng(0)
    x, edges = rng.random((4, 4)).astype(np.float32) * 90, np.stack([np.arange(70_000) % 4, np.zeros(70_000, int)])
    expected = naive.run(program, x, edges)
    assert expected[0][0] != expected[1][0]
    assert Executor(program).run(x, edges).codes.tolist() == expected
    assert run_reference(program, x, edges).tolist() == expected


def test_float_components_are_refused_by_name() -> None:
    spec = model()
    layer = replace(spec.layers[0], formats=spec.layers[0].formats | {Component.MESSAGE: FLOAT32})
    with pytest.raises(LoweringError, match="Float32 components cannot be lowered: input, layer 0 message"):
        lowered(replace(spec, input_format=FLOAT32, layers=(layer,)), codes())


@pytest.mark.parametrize(
    ("attention", "shortcut", "changes", "message"),
    [
        ("const", "none", {"weight": Quantized(np.full((2, 4), 200), 2)}, "layer 0: codes 200 to 200 leave the range"),
        ("const", "none", {"weight": Quantized(np.full((2, 5), 2), 2)}, "weight has shape"),
        ("const", "none", {"bias": Quantized(np.array([1 << 15, 0]), 2)}, "leave the range"),
        ("const", "none", {"bias": Quantized(np.zeros(3, int), 2)}, "bias has shape"),
        ("const", "none", {"message_fraction": 61}, "impossible shape or format"),
        ("const", "none", {"output_fraction": 58}, "a shift of -52|beyond 2\\^53|not in -52"),
        ("const", "none", {"bias": Quantized(np.ones(2, int), 59)}, "an alignment shift of 55"),
        ("const", "none", {"bias": Quantized(np.ones(2, int), 52)}, "beyond 2\\^53"),
        ("const", "linear", {}, "a linear shortcut without a weight"),
        ("gat", "none", {"attention": ()}, "gat without attention weights"),
        ("gat", "none", {"attention": tuple(Quantized(np.ones((1, 2), int), k) for k in (0, 1))}, "share one fraction"),
        ("gat", "none", {"score_fraction": 5}, "score fraction 5 is not 0 to 4"),
        ("gat", "none", {"message_fraction": -45}, "may pass 2\\^53"),
    ],
)
def test_codes_that_are_refused(attention: str, shortcut: str, changes: dict[str, Any], message: str) -> None:
    with pytest.raises(LoweringError, match=message):
        lowered(model(attention, shortcut=shortcut), codes(**changes))


def test_arguments_that_are_refused() -> None:
    with pytest.raises(LoweringError, match="max_degree 1048576 is not in"):
        lowered(model(), codes(), max_degree=1 << 20)
    with pytest.raises(LoweringError, match="max_degree -1"):
        lowered(model(), codes(), max_degree=-1)
    with pytest.raises(LoweringError, match="2 layers of codes for a spec of 1"):
        lower(model(), (codes(), codes()), input_fraction=0, max_degree=1)


@pytest.mark.parametrize("words", [None, [0], [0, 1, 2], [2, 1], [1, 1], [-1, 2], [2, 4]])
def test_words_that_are_refused(words: list[int] | None) -> None:
    spec, weight = replace(model(), input_words=2), Quantized(np.full((2, 2), 2), 2)
    kept = np.array([1, 3])
    assert lower(spec, (codes(weight=weight),), input_fraction=0, max_degree=1, words=kept).index is not None
    with pytest.raises(LoweringError, match="keeps 2 of 4 words needs their int64 numbers, rising; got"):
        given = None if words is None else np.array(words)
        lower(spec, (codes(weight=weight),), input_fraction=0, max_degree=1, words=given)
    with pytest.raises(LoweringError, match="keeps 4 of 4 words"):
        lower(model(), (codes(),), input_fraction=0, max_degree=1, words=np.arange(4))


@pytest.mark.parametrize("rounding", list(Rounding))
def test_tanh_table(rounding: Rounding) -> None:
    source, target = FixedPoint(5, 3), FixedPoint(4, 3)
    table = activation_table(ACTIVATIONS.get("tanh"), source, target, rounding)
    expected = [naive.round_fraction(Fraction(math.tanh(c / 8) * 8), rounding) for c in range(-16, 16)]
    assert table.tolist() == [min(max(value, -8), 7) for value in expected]
    with pytest.raises(LoweringError, match="'relu' is a clamp"):
        activation_table(ACTIVATIONS.get("relu"), source, target, rounding)


def test_clamps() -> None:
    fmt = FixedPoint(8, 4, signed=False)
    assert clamp_range(ACTIVATIONS.get("none"), FixedPoint(4, 0), Rounding.FLOOR) == (-8, 7)
    assert clamp_range(ACTIVATIONS.get("relu"), fmt, Rounding.FLOOR) == (0, 255)
    assert clamp_range(ACTIVATIONS.get("relu6"), fmt, Rounding.FLOOR) == (0, 96)
    assert clamp_range(ACTIVATIONS.get("relu6"), FixedPoint(8, 6, signed=False), Rounding.FLOOR) == (0, 255)
    coarse = FixedPoint(8, -2, signed=False)  # 6 / 4 is a tie
    assert [clamp_range(ACTIVATIONS.get("relu6"), coarse, mode)[1] for mode in Rounding] == [2, 2, 1]


def test_samples_lower_for_hundreds_of_seeds() -> None:
    for seed in range(200):
        samples.random_program(np.random.default_rng(seed), 9, 4, 50)
