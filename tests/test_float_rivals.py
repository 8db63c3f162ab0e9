"""The rivals of `lpgnas bench` compute the model that they are timed for."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import runs
import samples
import torch

from lpgnas.float_rivals import csr_rival, pyg_rival
from lpgnas.graph_tensors import graph_tensors
from lpgnas.layers import QuantizedModel
from lpgnas.number_formats import FLOAT32
from lpgnas.spec import ModelSpec

MODELS = {
    "every operation": runs.every_operation(),
    "gcn and gat": runs.rich_spec(),
    "activations by table": runs.spec(
        *(runs.layer("gcn", "sum", name, 8) for name in ("sigmoid", "softplus", "leaky_relu", "elu")),
        runs.layer("const", "sum", "none", runs.CLASSES, last=True),
    ),
    "learned attentions": runs.spec(
        runs.layer("sym-gat", "sum", "relu", 8, heads=2),
        runs.layer("cos", "max", "none", 8, heads=4, shortcut="identity"),
        runs.layer("linear", "mean", "relu", 8, self_loops=False),
        runs.layer("gene-linear", "sum", "none", runs.CLASSES, last=True, shortcut="linear"),
    ),
    "without loops": runs.spec(
        runs.layer("gat", "mean", "relu", 8, heads=2, self_loops=False),
        runs.layer("gat", "max", "none", 8, shortcut="identity"),
        runs.layer("gcn", "sum", "relu", 8, self_loops=False),
        runs.layer("const", "mean", "none", 8, self_loops=False),
        runs.layer("const", "sum", "none", runs.CLASSES, last=True),
    ),
}


def in_float32(spec: ModelSpec) -> ModelSpec:
    layers = tuple(replace(layer, formats=dict.fromkeys(layer.formats, FLOAT32)) for layer in spec.layers)
    return replace(spec, layers=layers, input_format=FLOAT32)


@pytest.mark.parametrize("name", MODELS)
def test_logits_are_those_of_the_float_model(name: str) -> None:
    spec, graph = in_float32(MODELS[name]), runs.small_graph()
    torch.manual_seed(1)
    words = samples.random_words(0, spec)
    model = QuantizedModel(spec, 0, None if words is None else torch.from_numpy(words))
    with torch.no_grad():
        for block in model.blocks:
            block.bias.normal_()
        expected = model(graph_tensors(graph, None, spec.rounding, row_normalize=spec.row_normalize)).numpy()
    for rival in (csr_rival, pyg_rival):
        run = rival(model, graph)
        logits = run().numpy()
        assert logits.shape == (runs.NODES, runs.CLASSES)
        # the model's degree coefficients have 15 bits
        assert np.abs(logits - expected).max() < 1e-4 * max(1.0, np.abs(expected).max())
        assert np.array_equal(run().numpy(), logits)
