"""Seeded random specs, codes, programs and graphs for the tests; every operator and format can come up."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TypeVar

import numpy as np
import numpy.typing as npt

from lpgnas.components import Component
from lpgnas.integer_program import IntegerProgram
from lpgnas.kernels.csr import CsrGraph
from lpgnas.lowering import LayerCodes, Quantized, lower
from lpgnas.number_formats import FormatChoice, Rounding
from lpgnas.operators import ACTIVATIONS, AGGREGATIONS, ATTENTIONS
from lpgnas.spec import LayerSpec, ModelSpec, required_components

Option = TypeVar("Option")
WEIGHT_FORMATS = ("binary", "ternary", "fixed2", "fixed3", "fixed4", "fixed8")
CODE_BITS = (2, 3, 4, 8)
BOUNDED = ("tanh", "sigmoid")
"""Activations whose values stay within 1."""


@dataclass(frozen=True)
class SampleGraph:
    """Features [N, F] float32 and edges [2, E] int64."""

    name: str
    x: npt.NDArray[np.float32]
    edge_index: npt.NDArray[np.int64]

    @property
    def max_degree(self) -> int:
        """Most incoming edges of a node."""
        return int(np.bincount(self.edge_index[1], minlength=len(self.x)).max(initial=0))


def _pick(rng: np.random.Generator, options: Sequence[Option]) -> Option:
    return options[int(rng.integers(len(options)))]


def random_routes(rng: np.random.Generator, layers: int) -> list[tuple[int, ...]]:
    """Sources of each layer: half of the time the one before it, else some of all; every layer is read."""
    routes: list[tuple[int, ...]] = [(-1,)]
    for index in range(1, layers):
        chosen = [source for source in range(-1, index) if rng.integers(2)] or [index - 1]
        routes.append((index - 1,) if rng.integers(2) else tuple(chosen))
    for index in range(layers - 1):
        if not any(index in route for route in routes):
            reader = int(rng.integers(index + 1, layers))
            routes[reader] = tuple(sorted({*routes[reader], index}))
    return routes


def random_layer(
    rng: np.random.Generator, width: int, sources: tuple[int, ...], *, last: bool, identity: bool
) -> LayerSpec:
    """A layer of `width` columns with operators and formats drawn uniformly; `identity`: it may have that shortcut."""
    attention = _pick(rng, ATTENTIONS.names())
    aggregation = _pick(rng, [n for n in AGGREGATIONS if n in ATTENTIONS.get(attention).aggregations])
    activation = _pick(rng, ACTIVATIONS.names())
    learned = ATTENTIONS.get(attention).learned
    heads = _pick(rng, [h for h in (1, 2, 4) if width % h == 0]) if learned and not last else 1
    shortcuts = ["none", "linear"] + (["identity"] if identity else [])
    loops = bool(rng.integers(4) > 0) or not ATTENTIONS.get(attention).neighbours
    bare = LayerSpec(attention, aggregation, activation, width, heads, _pick(rng, shortcuts), loops, sources=sources)
    signed_output = ACTIVATIONS.get(activation).signed
    formats: dict[Component, FormatChoice] = {}
    for component in sorted(required_components(bare, last=last)):
        if component in (Component.LINEAR_WEIGHT, Component.ATTENTION_WEIGHT):
            formats[component] = FormatChoice.parse(_pick(rng, WEIGHT_FORMATS))
        elif component in (Component.ACTIVATION, Component.OUTPUT) and not signed_output:
            formats[component] = FormatChoice("fixed", _pick(rng, (1, 2, 4, 8)))
        else:
            formats[component] = FormatChoice("fixed", _pick(rng, CODE_BITS))
    return replace(bare, formats=formats)


def random_spec(rng: np.random.Generator, num_features: int, num_classes: int) -> ModelSpec:
    """One to four random layers, with random routes, on a random input format."""
    widths = [int(rng.choice([4, 8])) for _ in range(int(rng.integers(0, 4)))] + [num_classes]
    signed = bool(rng.integers(3) == 0)
    row_normalize = not signed and bool(rng.integers(2))
    bits = int(rng.choice([2, 4, 8] if signed else [1, 2, 4, 8]))
    columns = {-1: num_features, **dict(enumerate(widths))}

    own = rng.spawn(1)[0]
    keeps = int(own.integers(1, num_features + 1)) if own.integers(3) == 0 else num_features

    def identity(width: int, route: tuple[int, ...]) -> bool:
        raw = route == (-1,) and (row_normalize or keeps < num_features)
        return [columns[source] for source in route] == [width] and not raw

    layers = tuple(
        random_layer(rng, width, route, last=k == len(widths) - 1, identity=identity(width, route))
        for k, (width, route) in enumerate(zip(widths, random_routes(rng, len(widths)), strict=True))
    )
    return ModelSpec(
        num_features=num_features,
        num_classes=num_classes,
        layers=layers,
        rounding=list(Rounding)[int(rng.integers(3))],
        input_format=FormatChoice("fixed", bits),
        input_signed=signed,
        row_normalize=row_normalize,
        input_words=keeps,
    )


def random_words(seed: int, spec: ModelSpec) -> npt.NDArray[np.int64] | None:
    """Kept words of a spec, rising; None where it keeps all."""
    if spec.input_words is None:
        return None
    return np.sort(np.random.default_rng(seed).permutation(spec.num_features)[: spec.input_words]).astype(np.int64)


def _weight_codes(rng: np.random.Generator, choice: FormatChoice, shape: tuple[int, ...]) -> npt.NDArray[np.int64]:
    if choice.kind == "binary":
        return rng.integers(0, 2, shape) * 2 - 1
    if choice.kind == "ternary":
        return rng.integers(-1, 2, shape)
    return rng.integers(-(1 << (choice.bits - 1)), 1 << (choice.bits - 1), shape)


def _deviation(choice: FormatChoice) -> float:
    """Standard deviation of `_weight_codes`."""
    return {"binary": 1.0, "ternary": 0.8}.get(choice.kind, 2.0 ** (choice.bits - 1) / 1.7)


def _places(value: float) -> int:
    """The fraction at which a typical `value` becomes a code near 1."""
    return -round(float(np.log2(value)))


def random_codes(rng: np.random.Generator, spec: ModelSpec, input_fraction: int) -> tuple[LayerCodes, ...]:
    """Codes whose fractions keep typical values inside their formats, so that logits vary."""
    result = []
    typical = {-1: min(1.0, 2.0 ** (spec.input_format.bits - 1 - input_fraction))}
    if spec.row_normalize:
        typical = {-1: 1.0 / spec.num_features}
    for index, layer in enumerate(spec.layers):
        choice = layer.formats[Component.LINEAR_WEIGHT]
        shape = (layer.width, spec.input_width(index))
        places = -_places(_deviation(choice) * float(np.sqrt(shape[1]))) + int(rng.integers(-1, 2))
        spread = [spec.source_width(source) * typical[source] ** 2 for source in spec.sources(index)]
        value = _deviation(choice) * float(np.sqrt(sum(spread))) * 2.0**-places
        bits = layer.formats[Component.MESSAGE].bits
        message = bits - 2 + _places(value)
        last = index == len(spec.layers) - 1
        out_bits = layer.formats[Component.OUTPUT if last else Component.ACTIVATION].bits
        signed = ACTIVATIONS.get(layer.activation).signed
        out = out_bits - (2 if signed else 1) + _places(value) + int(rng.integers(-1, 2))
        aggregate_bits = layer.formats.get(Component.AGGREGATE, FormatChoice("fixed", 8)).bits
        if layer.activation in BOUNDED:
            out = out_bits - (1 if signed else 0)
        score_fraction = int(rng.integers(0, 5))
        attention, argument = _attention_codes(rng, layer, value, score_fraction)
        linear = layer.shortcut == "linear"
        extent = 1 << (bits + 2)
        result.append(
            LayerCodes(
                weight=Quantized(_weight_codes(rng, choice, shape), places),
                bias=Quantized(rng.integers(-extent, extent + 1, layer.width), message + 5),
                message_fraction=message,
                output_fraction=out,
                aggregate_fraction=aggregate_bits - 2 + _places(max(value, 0.25)),
                shortcut_weight=Quantized(_weight_codes(rng, choice, shape), places) if linear else None,
                shortcut_fraction=message - int(rng.integers(0, 2)),
                attention=attention,
                score_fraction=score_fraction,
                argument_fraction=argument,
            )
        )
        typical[index] = min(value, 1.0) if layer.activation in BOUNDED else value
    return tuple(result)


def _attention_codes(
    rng: np.random.Generator, layer: LayerSpec, value: float, score_fraction: int
) -> tuple[tuple[Quantized, ...], int]:
    """Attention weights whose scores fill about a quarter of their format, and the fraction of a table's argument."""
    score = ATTENTIONS.get(layer.attention).score
    if score is None:
        return (), 0
    choice, width = layer.formats[Component.ATTENTION_WEIGHT], layer.width // layer.heads
    bits = layer.formats[Component.SCORE].bits
    weights = {name: _weight_codes(rng, choice, (layer.heads, width)) for name in score.weights}
    spread = _deviation(choice) * float(np.sqrt(width))
    wanted = 2.0 ** (bits - 2 - score_fraction)
    typical = value**2 if layer.attention == "cos" else value
    fraction = _places(wanted) - _places(typical * spread)
    if score.table is None:
        return tuple(Quantized(codes, fraction) for codes in weights.values()), 0
    # arguments of about 1, and a gate whose sum of entries fills the score
    fractions = {name: -_places(value * spread) for name in score.weights} | {
        "gate": _places(wanted) - _places(0.5 * spread)
    }
    return tuple(Quantized(codes, fractions[name]) for name, codes in weights.items()), bits - 3


def random_program(
    rng: np.random.Generator, num_features: int, num_classes: int, max_degree: int
) -> tuple[ModelSpec, IntegerProgram]:
    """A random spec lowered with random codes."""
    spec = random_spec(rng, num_features, num_classes)
    input_fraction = int(rng.integers(0, spec.input_format.bits + 1))
    codes = random_codes(rng, spec, input_fraction)
    words = random_words(int(rng.spawn(1)[0].integers(1 << 30)), spec)
    return spec, lower(spec, codes, input_fraction=input_fraction, max_degree=max_degree, words=words)


def extreme_program(spec: ModelSpec, codes: tuple[LayerCodes, ...], *, sign: int, max_degree: int) -> IntegerProgram:
    """The spec lowered with every weight and bias at an extreme code, so that accumulators come near their bounds."""

    def push(values: Quantized | None, choice: FormatChoice | None) -> Quantized | None:
        if values is None or choice is None:
            return None
        low, high = (-1, 1) if choice.kind != "fixed" else (-(1 << (choice.bits - 1)), (1 << (choice.bits - 1)) - 1)
        return Quantized(np.full(values.codes.shape, high if sign > 0 else low, dtype=np.int64), values.fraction)

    pushed = []
    for layer, one in zip(spec.layers, codes, strict=True):
        linear, attention = layer.formats[Component.LINEAR_WEIGHT], layer.formats.get(Component.ATTENTION_WEIGHT)
        pushed.append(
            replace(
                one,
                weight=push(one.weight, linear) or one.weight,
                shortcut_weight=push(one.shortcut_weight, linear),
                attention=tuple(push(weight, attention) or weight for weight in one.attention),
                bias=Quantized(np.full(layer.width, 32767 if sign > 0 else -32768), one.bias.fraction),
            )
        )
    words = random_words(0, spec)
    return lower(spec, tuple(pushed), input_fraction=0, max_degree=max_degree, words=words)


def rectangular_graph(
    targets: npt.NDArray[np.int64], sources: npt.NDArray[np.int64], nodes: int, rows: int
) -> CsrGraph:
    """Edges from `rows` sources to `nodes` targets, in edge order within a target."""
    order = np.argsort(targets, kind="stable")
    indptr = np.concatenate([[0], np.cumsum(np.bincount(targets, minlength=nodes))]).astype(np.int64)
    return CsrGraph(indptr, sources[order].astype(np.int32), self_loops=False, num_sources=rows)


def random_features(rng: np.random.Generator, nodes: int, columns: int) -> npt.NDArray[np.float32]:
    """Dense features with zeros, binary ones and reals of both signs."""
    kind = int(rng.integers(3))
    if kind == 0:
        return (rng.random((nodes, columns)) < 0.3).astype(np.float32)
    values = rng.normal(size=(nodes, columns)).astype(np.float32)
    return np.abs(values) if kind == 1 else values


def random_graph(rng: np.random.Generator, nodes: int, edges: int, columns: int) -> SampleGraph:
    """A random multigraph: duplicates, self-loops and isolated nodes come up."""
    index = rng.integers(0, nodes, (2, edges)).astype(np.int64)
    return SampleGraph(f"random-{nodes}-{edges}", random_features(rng, nodes, columns), index)


def adversarial_graphs(columns: int, hub_edges: int = 5000) -> list[SampleGraph]:
    """N=1, E=0, isolated nodes, duplicate edges, self-loops, a hub, features at both extremes."""
    rng = np.random.default_rng(11)
    none = np.zeros((2, 0), dtype=np.int64)
    chain = np.array([[0, 1, 2], [1, 2, 3]], dtype=np.int64)
    duplicates = np.array([[0, 0, 0, 1, 2], [1, 1, 1, 1, 0]], dtype=np.int64)
    loops = np.array([[0, 1, 1, 2], [0, 1, 1, 0]], dtype=np.int64)
    hub = np.stack([rng.integers(1, 60, hub_edges), np.zeros(hub_edges, dtype=np.int64)]).astype(np.int64)
    extremes = np.concatenate([np.full((5, columns), 3e38), np.full((5, columns), -3e38)]).astype(np.float32)
    return [
        SampleGraph("one-node", random_features(rng, 1, columns), none),
        SampleGraph("no-edges", random_features(rng, 7, columns), none),
        SampleGraph("isolated", random_features(rng, 9, columns), chain),
        SampleGraph("duplicates", random_features(rng, 4, columns), duplicates),
        SampleGraph("self-loops", random_features(rng, 3, columns), loops),
        SampleGraph("hub", random_features(rng, 60, columns), hub),
        SampleGraph("extremes", extremes, rng.integers(0, 10, (2, 40)).astype(np.int64)),
        SampleGraph("zeros", np.zeros((6, columns), dtype=np.float32), rng.integers(0, 6, (2, 12)).astype(np.int64)),
    ]
