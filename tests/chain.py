"""Random models through the whole chain, drawn until every operator and format has come up often enough."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import samples
import torch

from lpgnas.errors import LoweringError
from lpgnas.graph import Graph
from lpgnas.graph_tensors import graph_tensors, input_fraction
from lpgnas.integer_program import Aggregate, IntegerProgram, Score, Transform
from lpgnas.kernels.reference import run_reference
from lpgnas.layers import QuantizedModel
from lpgnas.lowering import lower
from lpgnas.number_formats import Rounding
from lpgnas.operators import ACTIVATIONS, AGGREGATIONS, ATTENTIONS, SHORTCUTS
from lpgnas.spec import ModelSpec

HITS = 20
MOST_REFUSED = 10
"""Random weights may ask for an epilogue beyond 2^53, but seldom."""


@dataclass(frozen=True)
class ChainCase:
    """A random model calibrated on a graph, with its program."""

    seed: int
    model: QuantizedModel
    program: IntegerProgram


def features_of(spec: ModelSpec) -> set[str]:
    """What a spec exercises: operators, rounding, input, and each component's format."""
    found = {f"rounding {spec.rounding}", f"input {spec.input_format} signed={spec.input_signed}"}
    found.add(f"row_normalize {spec.row_normalize}")
    found |= routes_of(spec)
    found.add("all words" if spec.input_words is None else "some words")
    for layer in spec.layers:
        found |= {f"attention {layer.attention}", f"aggregation {layer.aggregation}", f"activation {layer.activation}"}
        found.add(f"pair {layer.attention}-{layer.aggregation}")
        found |= {f"shortcut {layer.shortcut}", f"self_loops {layer.self_loops}", f"heads {layer.heads}"}
        signed = ACTIVATIONS.get(layer.activation).signed
        for component, choice in layer.formats.items():
            sign = f" signed={signed}" if component in ("activation", "output") else ""
            found.add(f"{component} {choice}{sign}")
    return found


def routes_of(spec: ModelSpec) -> set[str]:
    """What the routes of a spec exercise."""
    found = {f"layers {len(spec.layers)}"}
    for index in range(len(spec.layers)):
        sources = spec.sources(index)
        several, reads_x = len(sources) > 1, -1 in sources
        traits = {
            "one source": not several,
            "several sources": several,
            "x read again": reads_x and index > 0,
            "x beside a block, rows normalised": several and reads_x and spec.row_normalize,
            "some words of x beside a block": several and reads_x and spec.input_words is not None,
            "some words of x read again": index > 0 and reads_x and spec.input_words is not None,
            "a block before the last one": any(0 <= source < index - 1 for source in sources),
        }
        found |= {name for name, holds in traits.items() if holds}
    if not any(ATTENTIONS.get(layer.attention).neighbours for layer in spec.layers):
        found.add("no edges read")
    return found


ROUTES = {
    *(f"layers {count}" for count in (1, 2, 3, 4)),
    "one source",
    "several sources",
    "x read again",
    "x beside a block, rows normalised",
    "some words of x beside a block",
    "some words of x read again",
    "a block before the last one",
    "no edges read",
}


def wanted_features() -> set[str]:
    """Everything that has to come up `HITS` times, a pair of attention and aggregation a quarter as often."""
    wanted = (
        ROUTES
        | {"all words", "some words"}
        | {f"rounding {mode}" for mode in Rounding}
        | {f"activation {name}" for name in ACTIVATIONS}
    )
    wanted |= {f"attention {name}" for name in ATTENTIONS} | {f"aggregation {name}" for name in AGGREGATIONS}
    for attention in ATTENTIONS:
        wanted |= {
            f"pair {attention}-{name}" for name in AGGREGATIONS if name in ATTENTIONS.get(attention).aggregations
        }
    wanted |= {f"shortcut {name}" for name in SHORTCUTS} | {"self_loops True", "self_loops False"}
    wanted |= {"row_normalize True", "row_normalize False", "heads 1", "heads 2", "heads 4"}
    wanted |= {f"input fixed{bits} signed=False" for bits in (1, 2, 4, 8)}
    wanted |= {f"input fixed{bits} signed=True" for bits in (2, 4, 8)}
    for component in ("linear_weight", "attention_weight"):
        wanted |= {f"{component} {name}" for name in samples.WEIGHT_FORMATS}
    for component in ("message", "score", "aggregate"):
        wanted |= {f"{component} fixed{bits}" for bits in samples.CODE_BITS}
    for component in ("activation", "output"):
        wanted |= {f"{component} fixed{bits} signed=True" for bits in samples.CODE_BITS}
        wanted |= {f"{component} fixed{bits} signed=False" for bits in (1, 2, 4, 8)}
    return wanted


def calibrated_case(seed: int, graph: Graph, num_classes: int, max_degree: int) -> ChainCase:
    """A random spec with random weights, its fractions observed on `graph`."""
    rng = np.random.default_rng(seed)
    torch.manual_seed(seed)
    spec = samples.random_spec(rng, graph.num_features, num_classes)
    kept = samples.random_words(seed, spec)
    words = None if kept is None else torch.from_numpy(kept)
    fraction = input_fraction(graph, spec.input_format.bits, signed=spec.input_signed)
    model = QuantizedModel(spec, fraction, words).double()
    for layer in model.layers:
        torch.nn.init.uniform_(layer.get_parameter("bias"), -0.3, 0.3)
    tensors = graph_tensors(
        graph, model.input_format, spec.rounding, row_normalize=spec.row_normalize, dtype=torch.float64
    )
    with torch.no_grad():
        model(tensors, observe=True)
    program = lower(spec, model.layer_codes(), input_fraction=model.input_fraction, max_degree=max_degree, words=kept)
    return ChainCase(seed, model, program)


def covering_cases(graph: Graph, num_classes: int, max_degree: int, hits: int, least: int = 0) -> Iterator[ChainCase]:
    """Models whose logits vary on `graph`, until every wanted feature came up `hits` times; `least` at any rate.

    A spec with few features that are still wanted is passed over, so that few models suffice; once none is wanted,
    every spec is taken.
    """
    made = 0
    left = Counter({name: -(-hits // 4) if name.startswith("pair") else hits for name in wanted_features()})
    passed_over = refused = 0
    for seed in range(100_000):
        spec = samples.random_spec(np.random.default_rng(seed), graph.num_features, num_classes)
        useful = features_of(spec) & set(left)
        if left and len(useful) < max(1, 6 - passed_over // 50):
            passed_over += 1
            continue
        try:
            case = calibrated_case(seed, graph, num_classes, max_degree)
        except LoweringError as error:  # refused by name: the next model takes its place
            assert "beyond 2^53" in str(error), error
            refused += 1
            assert refused <= MOST_REFUSED, error
            continue
        codes = run_reference(case.program, graph.x, graph.edge_index)
        if len(np.unique(codes, axis=0)) < 3:
            continue
        left -= Counter(dict.fromkeys(useful, 1))
        passed_over, made = 0, made + 1
        yield case
        if not left and made >= least:
            return
    raise AssertionError(f"never came up often enough: {dict(left)}")


def float32_bound(program: IntegerProgram) -> int:
    """The largest proved sum of a program: QONNX must refuse it above 2^24."""
    sums = [op for op in program.operations if isinstance(op, Transform | Score | Aggregate)]
    return max(operation.accumulator_bound for operation in sums)
