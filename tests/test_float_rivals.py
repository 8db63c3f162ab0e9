"""The rivals of `lpgnas bench` compute the model that they are timed for."""

from __future__ import annotations

import numpy as np
import pytest
import runs
import samples
import torch

from lpgnas.errors import LoweringError
from lpgnas.float_rivals import csr_rival, float_logits, pyg_rival, scipy_refusal, scipy_rival
from lpgnas.layers import QuantizedModel

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
    "products alone": runs.spec(
        runs.layer("gcn", "sum", "relu6", 8, shortcut="linear"),
        runs.layer("const", "mean", "tanh", 8, shortcut="identity", self_loops=False),
        runs.layer("self", "sum", "relu", 8, sources=(-1, 0, 1)),
        runs.layer("const", "sum", "none", runs.CLASSES, last=True, shortcut="linear", sources=(-1, 2)),
    ),
    "without loops": runs.spec(
        runs.layer("gat", "mean", "relu", 8, heads=2, self_loops=False),
        runs.layer("gat", "max", "none", 8, shortcut="identity"),
        runs.layer("gcn", "sum", "relu", 8, self_loops=False),
        runs.layer("const", "mean", "none", 8, self_loops=False),
        runs.layer("const", "sum", "none", runs.CLASSES, last=True),
    ),
}


@pytest.mark.parametrize("name", MODELS)
def test_logits_are_those_of_the_float_model(name: str) -> None:
    spec, graph = MODELS[name], runs.small_graph()
    torch.manual_seed(1)
    words = samples.random_words(0, spec)
    model = QuantizedModel(spec, 0, None if words is None else torch.from_numpy(words))
    with torch.no_grad():
        for block in model.blocks:
            block.bias.normal_()
    expected = float_logits(model, graph)
    rivals = [csr_rival, pyg_rival, *([] if scipy_refusal(model) else [scipy_rival])]
    for rival in rivals:
        run = rival(model, graph)
        logits = np.asarray(run())
        assert logits.shape == (runs.NODES, runs.CLASSES)
        assert logits.dtype == np.float32
        assert np.abs(logits - expected).max() < 1e-5 * max(1.0, np.abs(expected).max())
        assert np.array_equal(np.asarray(run()), logits)


def test_scipy_takes_products_alone() -> None:
    reasons = {
        name: scipy_refusal(QuantizedModel(spec, 0)) for name, spec in MODELS.items() if spec.input_words is None
    }
    assert (reasons["products alone"], reasons["activations by table"]) == ("", "")
    assert "block 1 takes maxima" in reasons["every operation"]
    assert "block 0 weighs edges by a softmax (sym-gat)" in reasons["learned attentions"]
    with pytest.raises(LoweringError, match="softmax"):
        scipy_rival(QuantizedModel(MODELS["learned attentions"], 0), runs.small_graph())
