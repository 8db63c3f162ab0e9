"""The support matrix: which target can hold which operator, found by exporting a small program of each.

`python -m lpgnas.support > docs/targets/support.md` writes the page. A cell is what the target's emitters really do
with a program that has the operator: they export it, or refuse it with a named error.
"""

from __future__ import annotations

import sys
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from lpgnas.components import WEIGHTS, Component
from lpgnas.errors import LpgnasError
from lpgnas.export.targets import TARGETS
from lpgnas.graph import Graph
from lpgnas.integer_program import IntegerProgram
from lpgnas.lowering import LayerCodes, Quantized, lower
from lpgnas.number_formats import FormatChoice, Rounding
from lpgnas.operators import ACTIVATIONS, AGGREGATIONS, ATTENTIONS, SHORTCUTS
from lpgnas.spec import INPUT, LayerSpec, ModelSpec, required_components

COLUMNS, WIDTH, CLASSES, MAX_DEGREE = 6, 6, 3, 50
WEIGHT_FORMATS = ("binary", "ternary", *(f"fixed{bits}" for bits in range(2, 9)))
CODE_BITS = (2, 3, 4, 6, 8, 12, 16)
_PLACES = 4
"""Binary places of the features and of all codes that have so many: values of about 1 are codes of about 16."""
_WIDE_COLUMNS = 4096
"""Of 8-bit features times 8-bit weights, whose sums pass 2^24."""


@dataclass(frozen=True)
class Probe:
    """A small program with one thing in question.

    Attributes:
        group: what kind of thing.
        name: the operator or format.
        program: one that has it.
    """

    group: str
    name: str
    program: IntegerProgram


def probes() -> Iterator[Probe]:
    """A program for every operator, format and choice that a spec can ask for."""
    for attention in ATTENTIONS:
        for aggregation in (name for name in AGGREGATIONS if name in ATTENTIONS.get(attention).aggregations):
            layer = LayerSpec(attention, aggregation, "relu", WIDTH)
            yield Probe("attention, aggregation", f"{attention}, {aggregation}", small_program(layer))
    base = LayerSpec("gcn", "sum", "relu", WIDTH)
    for activation in ACTIVATIONS:
        yield Probe("activation", activation, small_program(replace(base, activation=activation)))
    for shortcut in SHORTCUTS:
        yield Probe("shortcut", shortcut, small_program(replace(base, shortcut=shortcut)))
    for heads in (1, 2, 3):
        yield Probe("heads", str(heads), small_program(replace(base, attention="gat", heads=heads)))
    for name in WEIGHT_FORMATS:
        yield Probe("weights", name, small_program(base, weights=name))
    for bits in CODE_BITS:
        yield Probe("codes", f"fixed{bits}", small_program(base, code_bits=bits))
    for rounding in Rounding:
        yield Probe("rounding", rounding.value, small_program(base, rounding=rounding))
    yield from _inputs(base)


def _inputs(base: LayerSpec) -> Iterator[Probe]:
    """What a program may do with its input."""
    one_bit = FormatChoice("fixed", 1)
    yield Probe("input", "1 bit", small_program(base, input_format=one_bit, input_signed=False))
    yield Probe("input", "rows normalised", small_program(base, input_signed=False, row_normalize=True))
    yield Probe("input", "some words", small_program(base, kept_words=COLUMNS - 2))
    yield Probe("input", "read again by a later block", small_program(base, sources=(INPUT, 0)))
    wide = small_program(base, num_features=_WIDE_COLUMNS, weights="fixed8")
    yield Probe("input", f"{_WIDE_COLUMNS} words, sums beyond 2^24", wide)


def small_program(
    layer: LayerSpec,
    *,
    weights: str = "fixed4",
    code_bits: int = 8,
    rounding: Rounding = Rounding.HALF_EVEN,
    num_features: int = COLUMNS,
    input_format: FormatChoice | None = None,
    input_signed: bool = True,
    row_normalize: bool = False,
    kept_words: int | None = None,
    sources: tuple[int, ...] = (),
) -> IntegerProgram:
    """Two blocks with random codes, the first of them `layer`."""
    last = LayerSpec("const", "mean", "none", CLASSES, sources=sources)
    layers = []
    for bare in (layer, last):
        formats = {
            component: FormatChoice.parse(weights) if component in WEIGHTS else FormatChoice("fixed", code_bits)
            for component in required_components(bare, last=bare is last)
        }
        if Component.SCORE in formats:
            formats[Component.SCORE] = FormatChoice("fixed", min(code_bits, 8))
        layers.append(replace(bare, formats=formats))
    spec = ModelSpec(
        num_features=num_features,
        num_classes=CLASSES,
        layers=tuple(layers),
        rounding=rounding,
        input_format=input_format or FormatChoice("fixed", 8),
        input_signed=input_signed,
        row_normalize=row_normalize,
        input_words=kept_words,
    )
    rng = np.random.default_rng(0)
    places = min(_PLACES, code_bits - 2)
    codes = tuple(_layer_codes(rng, spec, index, places) for index in range(len(layers)))
    words = None if kept_words is None else np.arange(kept_words, dtype=np.int64)
    return lower(spec, codes, input_fraction=_PLACES, max_degree=MAX_DEGREE, words=words)


def _layer_codes(rng: np.random.Generator, spec: ModelSpec, index: int, places: int) -> LayerCodes:
    layer = spec.layers[index]
    choice = layer.formats[Component.LINEAR_WEIGHT]
    shape = (layer.width, spec.input_width(index))
    score = ATTENTIONS.get(layer.attention).score
    heads = (layer.heads, layer.width // layer.heads)
    attention = () if score is None else tuple(_weight(rng, choice, heads) for _ in score.weights)
    return LayerCodes(
        weight=_weight(rng, choice, shape),
        bias=Quantized(rng.integers(-64, 65, layer.width), _PLACES + 3),
        message_fraction=places,
        output_fraction=places,
        aggregate_fraction=places,
        shortcut_weight=_weight(rng, choice, shape) if layer.shortcut == "linear" else None,
        shortcut_fraction=places,
        attention=attention,
        score_fraction=2,
        argument_fraction=places,
    )


def _weight(rng: np.random.Generator, choice: FormatChoice, shape: tuple[int, int]) -> Quantized:
    """Random codes of a format whose values are below 1."""
    codes: npt.NDArray[np.int64]
    if choice.kind == "binary":
        codes = 2 * rng.integers(0, 2, shape) - 1
    elif choice.kind == "ternary":
        codes = rng.integers(-1, 2, shape)
    else:
        half = 1 << (choice.bits - 1)
        codes = rng.integers(-half, half, shape)
    return Quantized(codes, 1 if choice.kind != "fixed" else choice.bits - 1)


def refusal(program: IntegerProgram, target: str) -> str:
    """Why a target cannot hold a program, or empty if it can; `small_graph` is compiled in where one has to be."""
    entry = TARGETS.get(target)
    try:
        if entry.on_graph is None:
            entry.export(program)
        else:
            entry.on_graph(program, small_graph(program))
    except LpgnasError as error:
        return f"{type(error).__name__}: {error}"
    return ""


def small_graph(program: IntegerProgram) -> Graph:
    """A constant graph for the probes: a multigraph with a loop, a double edge and a node without edges."""
    rng = np.random.default_rng(1)
    edges = np.array([[0, 1, 1, 2, 3, 4, 4, 5], [1, 0, 2, 2, 1, 5, 5, 4]], dtype=np.int64)
    x = rng.normal(size=(7, program.num_features)).astype(np.float32)
    return Graph("small", x, edges)


def support_page(rows: Iterable[Probe]) -> str:
    """The matrix of these probes as Markdown."""
    targets = tuple(TARGETS)
    lines = [
        "# Support matrix",
        "",
        "Written by `python -m lpgnas.support > docs/targets/support.md`: every cell is an export of a small program",
        "that has the operator. `exact`: the file gives the codes of the kernels, on every node and class;",
        "a number: refused by name, as said below. `hls4ml` and `finn` compile one graph in: here 7 nodes.",
        "",
        f"| | | {' | '.join(targets)} |",
        f"|---|---|{'---|' * len(targets)}",
    ]
    reasons: list[str] = []
    group = ""
    for probe in rows:
        cells = []
        for target in targets:
            reason = refusal(probe.program, target)
            if reason and reason not in reasons:
                reasons.append(reason)
            cells.append(f"{reasons.index(reason) + 1}" if reason else "exact")
        lines.append(f"| {probe.group if probe.group != group else ''} | {probe.name} | {' | '.join(cells)} |")
        group = probe.group
    lines += ["", *(f"{number}. `{reason}`" for number, reason in enumerate(reasons, 1))]
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    sys.stdout.write(support_page(probes()))
