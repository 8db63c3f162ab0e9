"""Random programs that a constant graph can hold, with small graphs and the codes of the naive reference."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cache

import naive
import numpy as np
import numpy.typing as npt
import samples

from lpgnas.components import Component
from lpgnas.errors import LoweringError
from lpgnas.integer_program import IntegerProgram
from lpgnas.kernels.csr import CsrGraph
from lpgnas.lowering import lower
from lpgnas.operators import ACTIVATIONS
from lpgnas.spec import LayerSpec, ModelSpec

OPERATORS = (("const", "sum"), ("const", "mean"), ("gcn", "sum"), ("self", "sum"))
"""Attentions and aggregations that are products with a constant matrix."""
CLAMPS = tuple(name for name in ACTIVATIONS if ACTIVATIONS.get(name).function is None)


@dataclass(frozen=True)
class ConstantCase:
    """A program, graphs of three shapes, and the codes of the logits on each, by `tests/naive.py`."""

    spec: ModelSpec
    program: IntegerProgram
    graphs: tuple[samples.SampleGraph, ...]
    expected: tuple[npt.NDArray[np.int64], ...]


def csr(graph: samples.SampleGraph) -> CsrGraph:
    """The edges of a graph by target, without added loops."""
    return CsrGraph.from_edges(graph.edge_index, len(graph.x), self_loops=False)


def _layer(rng: np.random.Generator, layer: LayerSpec, *, tables: bool) -> LayerSpec:
    attention, aggregation = OPERATORS[int(rng.integers(len(OPERATORS)))]
    formats = dict(layer.formats)
    for component in (Component.ATTENTION_WEIGHT, Component.SCORE):
        formats.pop(component, None)
    activation = layer.activation
    if not tables and activation not in CLAMPS:
        signed = ACTIVATIONS.get(activation).signed
        activation = CLAMPS[0] if signed else CLAMPS[1 + int(rng.integers(len(CLAMPS) - 1))]
        formats.pop(Component.AGGREGATE)
    loops = layer.self_loops or attention == "self"
    return replace(
        layer,
        attention=attention,
        aggregation=aggregation,
        activation=activation,
        heads=1,
        self_loops=loops,
        formats=formats,
    )


@cache
def constant_case(index: int, *, tables: bool = True, features: int = 6) -> ConstantCase:
    """The case of this number: lively, with activations by table or without."""
    for attempt in range(200):
        rng = np.random.default_rng([5, index, attempt, features])
        bare = samples.random_spec(rng, features, 3)
        spec = replace(bare, layers=tuple(_layer(rng, layer, tables=tables) for layer in bare.layers))
        fraction = int(rng.integers(0, spec.input_format.bits + 1))
        try:
            codes = samples.random_codes(rng, spec, fraction)
            words = samples.random_words(index, spec)
            program = lower(spec, codes, input_fraction=fraction, max_degree=60, words=words)
        except LoweringError:
            continue
        graphs = tuple(samples.random_graph(rng, nodes, edges, features) for nodes, edges in ((9, 30), (5, 6), (1, 0)))
        expected = tuple(np.array(naive.run(program, one.x, one.edge_index), dtype=np.int64) for one in graphs)
        if len(np.unique(expected[0], axis=0)) >= 3:
            return ConstantCase(spec, program, graphs, expected)
    raise AssertionError(f"no lively program for constant case {index}")
