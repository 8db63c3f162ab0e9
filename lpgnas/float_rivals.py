"""A trained model's architecture in float32: PyG layers, and plain torch or scipy on sparse CSR matrices.

All hold the trained weights before quantisation and give the logits of `float_model`; they exist to be timed. What
depends on the graph alone (normalised adjacency, normalised feature rows, self-loops) is prepared once, outside.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Sequence
from dataclasses import fields, replace
from functools import partial
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from scipy import sparse
from torch import Tensor, nn

from lpgnas.attentions import gat
from lpgnas.errors import LoweringError
from lpgnas.graph import Graph
from lpgnas.graph_tensors import GraphTensors, Neighbourhood, graph_tensors
from lpgnas.layers import QuantizedLayer, QuantizedModel
from lpgnas.lowering import score_activation
from lpgnas.number_formats import FLOAT32
from lpgnas.operators import ACTIVATIONS, LEAKY_SLOPE, Activation
from lpgnas.spec import INPUT
from lpgnas.torch_scores import TorchScores

Rival = Callable[[], Tensor]
"""One inference: the logits [N, C] float32 of the graph that it was made for."""
FloatArray = npt.NDArray[np.float32]
ArrayRival = Callable[[], FloatArray]
"""The same without torch."""

_LOG_2 = math.log(2.0)
"""The trained softmax is one of powers of 2, a float one of powers of e: scores are scaled by this."""


_TORCH_ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "tanh": torch.tanh,
    "sigmoid": torch.sigmoid,
    "softplus": nn.functional.softplus,
    "leaky_relu": partial(nn.functional.leaky_relu, negative_slope=LEAKY_SLOPE),
    "elu": nn.functional.elu,
}
"""What a user of torch would call; an activation without an entry is evaluated by its row."""


def _activated(name: str, value: Tensor) -> Tensor:
    if name in _TORCH_ACTIVATIONS:
        return _TORCH_ACTIVATIONS[name](value)
    return _evaluated(ACTIVATIONS.get(name), value)


def _evaluated(activation: Activation, value: Tensor) -> Tensor:
    if activation.function is not None:
        return torch.from_numpy(activation.function(value.double().numpy())).to(value.dtype)
    if activation.low is None and activation.high is None:
        return value
    return value.clamp(min=activation.low, max=activation.high)


def float_model(model: QuantizedModel) -> QuantizedModel:
    """The same parameters without any quantisation: what the rivals have to give."""
    layers = tuple(replace(layer, formats=dict.fromkeys(layer.formats, FLOAT32)) for layer in model.spec.layers)
    made = QuantizedModel(replace(model.spec, layers=layers, input_format=FLOAT32), 0, model.words)
    made.load_state_dict(model.state_dict())
    return made


class _RealCoefficients(GraphTensors):
    """A graph whose coefficients of degrees are not rounded to 15 bits."""

    def _neighbourhood(self, *, self_loops: bool) -> Neighbourhood:
        near = super()._neighbourhood(self_loops=self_loops)
        degree = torch.from_numpy(self.in_degree + int(self_loops)).to(self.dtype)[:, None]
        inverse = torch.where(degree > 0, 1.0 / degree.clamp(min=1.0), torch.zeros_like(degree))
        return replace(near, rsqrt=inverse.sqrt(), recip=inverse)


def float_logits(model: QuantizedModel, graph: Graph) -> npt.NDArray[np.float64]:
    """Logits [N, C] of `float_model` on a graph, computed in float64 with real coefficients of degrees."""
    spec, dtype = model.spec, torch.float64
    rounded = graph_tensors(graph, None, spec.rounding, row_normalize=spec.row_normalize, dtype=dtype)
    given = {one.name: getattr(rounded, one.name) for one in fields(rounded)}
    with torch.no_grad():
        logits: npt.NDArray[np.float64] = float_model(model).double()(_RealCoefficients(**given)).numpy()
    return logits


def _feature_rows(model: QuantizedModel, graph: Graph) -> Any:  # noqa: ANN401 - a scipy CSR array
    """The features as float references read them [N, F], or [N, K] of the kept words."""
    rows = sparse.csr_array(graph.x)
    if model.spec.row_normalize:
        sums = np.asarray(rows.sum(axis=1)).reshape(-1)
        rows = sparse.csr_array(sparse.diags_array(1.0 / np.where(sums > 0, sums, 1.0)) @ rows)
    return rows if model.words is None else rows[:, model.words.numpy()]


def _edges(graph: Graph, *, self_loops: bool) -> tuple[np.ndarray, np.ndarray]:
    """Sources and targets, ordered by target."""
    source, target = graph.edge_index
    if self_loops:
        nodes = np.arange(graph.num_nodes)
        source, target = np.concatenate([source, nodes]), np.concatenate([target, nodes])
    order = np.argsort(target, kind="stable")
    return source[order], target[order]


def _adjacency(block: QuantizedLayer, graph: Graph) -> Any:  # noqa: ANN401 - a scipy CSR array
    """What an edge without a score weighs [N, N], by target, in edge order."""
    source, target = _edges(graph, self_loops=block.spec.self_loops)
    degree = np.bincount(target, minlength=graph.num_nodes)
    weights = np.ones(len(source))
    if block.attention.degree_factors:
        root = 1.0 / np.sqrt(np.maximum(degree, 1))
        weights = root[source] * root[target]
    elif block.spec.aggregation == "mean":
        weights = 1.0 / degree[target]
    indptr, size = np.concatenate([[0], np.cumsum(degree)]), (graph.num_nodes, graph.num_nodes)
    return sparse.csr_array((weights, source, indptr), shape=size)


def _edge_scores(block: QuantizedLayer, by_head: Tensor, source: Tensor, target: Tensor) -> Tensor:
    """Scores [E', heads] of messages [N, heads, w]."""
    rule = block.attention.score
    if rule is None:
        raise LoweringError(f"attention {block.spec.attention!r} has no scores")
    table = Activation("score", signed=True) if rule.table is None else score_activation(rule.table)

    def function(value: Tensor) -> Tensor:
        return _evaluated(table, value)

    made: Tensor = rule.formula(TorchScores(source, target, by_head, block.attention_weight, function))
    return made


def _through(model: QuantizedModel, x: Tensor, layers: Sequence[Callable[[list[Tensor]], Tensor]]) -> Tensor:
    """Logits: every layer on the sources that its block reads."""
    values = {INPUT: x}
    for index, layer in enumerate(layers):
        values[index] = layer([values[source] for source in model.spec.sources(index)])
    return values[len(layers) - 1]


# --- torch CSR ---


def csr_tensor(matrix: Any, dtype: torch.dtype) -> Tensor:  # noqa: ANN401 - a scipy sparse array
    """A scipy CSR array as a torch CSR tensor."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Sparse CSR tensor support is in beta state", category=UserWarning)
        warnings.filterwarnings(
            "ignore", message="Sparse invariant checks are implicitly disabled", category=UserWarning
        )
        return torch.sparse_csr_tensor(
            torch.from_numpy(matrix.indptr.astype(np.int32)),
            torch.from_numpy(matrix.indices.astype(np.int32)),
            torch.from_numpy(matrix.data.astype(np.float64)).to(dtype),
            size=matrix.shape,
            check_invariants=False,
        )


def csr_rival(model: QuantizedModel, graph: Graph) -> Rival:
    """The architecture as products with CSR matrices, the features' included."""
    features = csr_tensor(_feature_rows(model, graph), torch.float32)
    layers = [_CsrLayer(block, graph) for block in model.blocks]

    def run() -> Tensor:
        with torch.no_grad():
            return _through(model, features, layers)

    return run


class _CsrLayer:
    """One block on one graph."""

    def __init__(self, block: QuantizedLayer, graph: Graph) -> None:
        self._block, self._spec = block, block.spec
        self._nodes = graph.num_nodes
        adjacency = _adjacency(block, graph)
        degree = np.diff(adjacency.indptr)
        self._indptr, self._source = (
            torch.from_numpy(a.astype(np.int64)) for a in (adjacency.indptr, adjacency.indices)
        )
        self._target = torch.from_numpy(np.repeat(np.arange(graph.num_nodes), degree))
        self._mean = torch.from_numpy(1.0 / np.maximum(degree, 1)).float()[:, None]
        self._adjacency = csr_tensor(adjacency, torch.float32)

    def _product(self, values: list[Tensor], prefix: str) -> Tensor:
        """The sources side by side times a weight; the features stay sparse."""
        parts = torch.split(self._block.whole(prefix), [value.shape[1] for value in values], dim=1)
        products = [value @ part.t() for value, part in zip(values, parts, strict=True)]
        return sum(products[1:], start=products[0])

    def __call__(self, values: list[Tensor]) -> Tensor:
        block = self._block
        message = self._product(values, "weight")
        if not block.attention.neighbours:
            total = message
        elif block.attention.learned:
            total = self._attend(message)
        elif self._spec.aggregation == "max":
            total = self._largest(message[self._source])
        else:
            total = self._adjacency @ message
        if self._spec.shortcut == "identity":
            total = total + (values[0].to_dense() if values[0].layout is torch.sparse_csr else values[0])
        elif self._spec.shortcut == "linear":
            total = total + self._product(values, "shortcut_weight")
        return _activated(self._spec.activation, total + block.bias)

    def _largest(self, rows: Tensor) -> Tensor:
        """Largest row of each target [N, k] of `rows` [E', k]; 0 where there is none."""
        index = self._target[:, None].expand_as(rows)
        return rows.new_zeros(self._nodes, rows.shape[1]).scatter_reduce(0, index, rows, "amax", include_self=False)

    def _attend(self, message: Tensor) -> Tensor:
        block, heads = self._block, self._spec.heads
        by_head = message.view(self._nodes, heads, -1)
        score = _edge_scores(block, by_head, self._source, self._target)
        power = torch.exp2(score - self._largest(score)[self._target])
        total = power.new_zeros(self._nodes, heads).index_add(0, self._target, power)
        share = power / total[self._target]
        if self._spec.aggregation == "max":
            return self._largest((by_head[self._source] * share[:, :, None]).flatten(1))
        size = (self._nodes, self._nodes)
        parts = []
        for head in range(heads):
            matrix = torch.sparse_csr_tensor(
                self._indptr, self._source, share[:, head].contiguous(), size=size, check_invariants=False
            )
            parts.append(matrix @ by_head[:, head].contiguous())
        joined = torch.cat(parts, dim=1)
        return joined * self._mean if self._spec.aggregation == "mean" else joined


# --- scipy ---


def scipy_refusal(model: QuantizedModel) -> str:
    """Why products of sparse matrices cannot be this model; empty where they can."""
    for index, block in enumerate(model.blocks):
        if block.attention.learned:
            return f"block {index} weighs edges by a softmax ({block.spec.attention}), which is no matrix product"
        if block.attention.neighbours and block.spec.aggregation == "max":
            return f"block {index} takes maxima, which are no matrix product"
    return ""


def scipy_rival(model: QuantizedModel, graph: Graph) -> ArrayRival:
    """The architecture as `scipy.sparse` CSR products in float32, the features' included.

    Raises:
        LoweringError: a block that is no matrix product; see `scipy_refusal`.
    """
    refusal = scipy_refusal(model)
    if refusal:
        raise LoweringError(f"no model of scipy products: {refusal}")
    features = _feature_rows(model, graph).astype(np.float32)
    blocks = [_ScipyBlock(block, graph) for block in model.blocks]

    def run() -> FloatArray:
        values: dict[int, Any] = {INPUT: features}
        for index, block in enumerate(blocks):
            values[index] = block([values[source] for source in model.spec.sources(index)])
        logits: FloatArray = values[len(blocks) - 1]
        return logits

    return run


class _ScipyBlock:
    """One block on one graph."""

    def __init__(self, block: QuantizedLayer, graph: Graph) -> None:
        self._spec, self._activation = block.spec, ACTIVATIONS.get(block.spec.activation)
        self._adjacency = _adjacency(block, graph).astype(np.float32) if block.attention.neighbours else None
        self._bias = block.bias.detach().numpy()
        self._weights = {"weight": block.whole("weight").detach().numpy()}
        if block.spec.shortcut == "linear":
            self._weights["shortcut_weight"] = block.whole("shortcut_weight").detach().numpy()

    def _product(self, values: list[Any], prefix: str) -> FloatArray:
        ends = np.cumsum([value.shape[1] for value in values])
        parts = np.split(self._weights[prefix], ends[:-1], axis=1)
        products: list[FloatArray] = [value @ part.T for value, part in zip(values, parts, strict=True)]
        return products[0] if len(products) == 1 else np.sum(products, axis=0)

    def __call__(self, values: list[Any]) -> FloatArray:
        total: FloatArray = self._product(values, "weight")
        if self._adjacency is not None:
            total = self._adjacency @ total
        if self._spec.shortcut == "identity":
            total = total + (values[0].toarray() if sparse.issparse(values[0]) else values[0])
        elif self._spec.shortcut == "linear":
            total = total + self._product(values, "shortcut_weight")
        total = total + self._bias
        if self._activation.function is not None:
            return self._activation.function(total.astype(np.float64)).astype(np.float32)
        low, high = self._activation.low, self._activation.high
        clipped: FloatArray = total if low is None and high is None else np.clip(total, low, high)
        return clipped


# --- PyG ---


def pyg_rival(model: QuantizedModel, graph: Graph) -> Rival:
    """The architecture from PyG's own layers on dense features: `GCNConv` (cached), `GATConv`, `SimpleConv`.

    For other learned attentions, which PyG does not have, a `MessagePassing` layer.
    """
    x = torch.from_numpy(_feature_rows(model, graph).toarray()).float()
    edges = torch.from_numpy(graph.edge_index)
    looped = torch.from_numpy(np.stack(_edges(graph, self_loops=True)))
    layers = [_PygLayer(block) for block in model.blocks]

    def run() -> Tensor:
        with torch.no_grad():
            return _through(model, x, [partial(layer, edges=edges, looped=looped) for layer in layers])

    return run


class _PygLayer:
    """One block: a PyG layer with the trained weights, the shortcut and the activation."""

    def __init__(self, block: QuantizedLayer) -> None:
        self._block, self._spec = block, block.spec
        is_gat = block.spec.attention == gat.ATTENTION.name
        self._conv = _gat(block) if is_gat else _scored(block) if block.attention.learned else _gcn(block)
        self._own_loops = is_gat or block.attention.degree_factors

    def __call__(self, values: list[Tensor], edges: Tensor, looped: Tensor) -> Tensor:
        block, value = self._block, values[0] if len(values) == 1 else torch.cat(values, dim=1)
        if not block.attention.neighbours:
            total = value @ block.whole("weight").t() + block.bias
        elif self._own_loops:
            total = self._conv(value, edges)
        else:
            near = looped if self._spec.self_loops else edges
            total = self._conv(value @ block.whole("weight").t(), near) + block.bias
        if self._spec.shortcut == "identity":
            total = total + value
        elif self._spec.shortcut == "linear":
            total = total + value @ block.whole("shortcut_weight").t()
        return _activated(self._spec.activation, total)


def _gcn(block: QuantizedLayer) -> Any:  # noqa: ANN401 - a PyG layer
    """`GCNConv`, or `SimpleConv` where neighbours count the same (its transform is the caller's)."""
    from torch_geometric.nn import GCNConv, SimpleConv

    if not block.attention.degree_factors:
        return SimpleConv(aggr=block.spec.aggregation)
    width, columns = block.whole("weight").shape
    conv = GCNConv(columns, width, cached=True, add_self_loops=block.spec.self_loops)
    with torch.no_grad():
        conv.lin.weight.copy_(block.whole("weight"))
        conv.bias.copy_(block.bias)
    return conv


def _gat(block: QuantizedLayer) -> Any:  # noqa: ANN401 - a PyG layer
    from torch_geometric.nn import GATConv

    spec, columns = block.spec, block.whole("weight").shape[1]
    conv = GATConv(
        columns,
        spec.width // spec.heads,
        heads=spec.heads,
        negative_slope=LEAKY_SLOPE,
        add_self_loops=spec.self_loops,
        aggr=spec.aggregation,
    )
    with torch.no_grad():
        conv.lin.weight.copy_(block.whole("weight"))
        conv.bias.copy_(block.bias)
        conv.att_src.copy_(block.attention_weight("source")[None] * _LOG_2)
        conv.att_dst.copy_(block.attention_weight("target")[None] * _LOG_2)
    return conv


def _scored(block: QuantizedLayer) -> Any:  # noqa: ANN401 - a PyG layer
    """A layer of messages [N, width] for an attention that PyG does not have."""
    from torch_geometric.nn import MessagePassing
    from torch_geometric.utils import softmax

    heads = block.spec.heads

    class ScoredConv(MessagePassing):  # type: ignore[misc]
        """Messages weighted by the softmax of their edges' scores."""

        def forward(self, messages: Tensor, edges: Tensor) -> Tensor:
            by_head = messages.view(len(messages), heads, -1)
            score = _edge_scores(block, by_head, edges[0], edges[1])
            share = softmax(score * _LOG_2, edges[1], num_nodes=len(messages))
            total: Tensor = self.propagate(edges, x=by_head, share=share)
            return total.flatten(1)

        def message(self, x_j: Tensor, share: Tensor) -> Tensor:
            return x_j * share[:, :, None]

    return ScoredConv(aggr=block.spec.aggregation, node_dim=0)
