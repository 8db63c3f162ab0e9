"""Manual models: their blocks, formats and float forms beside PyG's."""

from __future__ import annotations

import pytest
import runs
import torch
from torch_geometric.nn import GCNConv, JumpingKnowledge, SAGEConv

from lpgnas.components import Component
from lpgnas.errors import ConfigError, SpecError, UnknownName
from lpgnas.graph_tensors import graph_tensors
from lpgnas.layers import QuantizedModel
from lpgnas.manual_models import MANUAL_MODELS, ModelShape, UniformFormats, manual_spec
from lpgnas.number_formats import FLOAT32, FormatChoice

SHAPE = ModelShape(runs.FEATURES, runs.CLASSES)


@pytest.mark.parametrize("name", MANUAL_MODELS.names())
@pytest.mark.parametrize("blocks", [2, 3])
def test_every_model_in_float_and_with_uniform_formats(name: str, blocks: int) -> None:
    full = manual_spec(name, SHAPE, 16, blocks=blocks)
    assert full.is_float and full.input_format == FLOAT32
    hidden = blocks if name == "jknet" else blocks - 1  # its linear layer comes behind
    assert [layer.width for layer in full.layers] == [16] * hidden + [runs.CLASSES]
    uniform = manual_spec(name, SHAPE, 16, UniformFormats.of("fixed4", 8), blocks=blocks)
    assert not uniform.is_float and uniform.input_format == SHAPE.input_format
    for layer in uniform.layers:
        for component, choice in layer.formats.items():
            assert str(choice) == ("fixed4" if component.value.endswith("weight") else "fixed8")
    wide = manual_spec(name, SHAPE, 16, UniformFormats.of("binary", 12), blocks=blocks)
    tables = {Component.SCORE, Component.AGGREGATE}
    for layer in wide.layers:
        for component, choice in layer.formats.items():
            assert choice.kind == "binary" or choice.bits == (8 if component in tables else 12)


def test_outputs_may_have_a_format_of_their_own() -> None:
    formats = UniformFormats(FormatChoice("binary", 1), FormatChoice("fixed", 4), FormatChoice("fixed", 8))
    spec = manual_spec("gcn", SHAPE, 16, formats)
    assert str(spec.layers[1].formats[Component.OUTPUT]) == "fixed8"
    assert str(spec.layers[1].formats[Component.MESSAGE]) == "fixed4"


def test_heads_divide_the_width() -> None:
    for hidden, heads in ((16, 8), (12, 4), (6, 2), (7, 1)):
        layers = manual_spec("gat", SHAPE, hidden).layers
        assert [layer.heads for layer in layers] == [heads, 1]


def test_graphsage_is_pyg_sageconv() -> None:
    graph = runs.small_graph()
    torch.manual_seed(0)
    spec = manual_spec("graphsage", SHAPE, 16)
    model = QuantizedModel(spec, 0).double()
    convolutions = [SAGEConv(runs.FEATURES, 16).double(), SAGEConv(16, runs.CLASSES).double()]
    with torch.no_grad():
        for block, convolution in zip(model.blocks, convolutions, strict=True):
            block.bias.uniform_(-1, 1)
            convolution.lin_l.weight.copy_(block.weight)
            convolution.lin_l.bias.copy_(block.bias)
            convolution.lin_r.weight.copy_(block.shortcut_weight)
        x, edges = torch.from_numpy(graph.x).double(), torch.from_numpy(graph.edge_index)
        expected = convolutions[1](convolutions[0](x, edges).relu(), edges)
        found = model(graph_tensors(graph, None, spec.rounding, row_normalize=False, dtype=torch.float64))
    # the reciprocal of a degree has 15 binary places in the reference too
    torch.testing.assert_close(found, expected, rtol=3e-4, atol=3e-4)


def test_jknet_is_pyg_jumping_knowledge() -> None:
    graph = runs.small_graph()
    torch.manual_seed(0)
    spec = manual_spec("jknet", SHAPE, 16)
    model = QuantizedModel(spec, 0).double()
    assert [spec.sources(index) for index in range(3)] == [(-1,), (0,), (0, 1)]
    convolutions = [GCNConv(runs.FEATURES, 16).double(), GCNConv(16, 16).double()]
    head = torch.nn.Linear(32, runs.CLASSES).double()
    with torch.no_grad():
        for block, bias in zip(model.blocks, (convolutions[0].bias, convolutions[1].bias, head.bias), strict=True):
            block.bias.uniform_(-1, 1)
            bias.copy_(block.bias)
        for block, convolution in zip(model.blocks[:2], convolutions, strict=True):
            convolution.lin.weight.copy_(block.whole("weight"))
        head.weight.copy_(model.blocks[2].whole("weight"))
        x, edges = torch.from_numpy(graph.x).double(), torch.from_numpy(graph.edge_index)
        first = convolutions[0](x, edges).relu()
        second = convolutions[1](first, edges).relu()
        expected = head(JumpingKnowledge("cat")([first, second]))
        found = model(graph_tensors(graph, None, spec.rounding, row_normalize=False, dtype=torch.float64))
    torch.testing.assert_close(found, expected, rtol=1e-3, atol=1e-3)


def test_what_is_refused() -> None:
    with pytest.raises(UnknownName, match=r"unknown manual model 'gnc'. Did you mean 'gcn'\?"):
        manual_spec("gnc", SHAPE, 16)
    with pytest.raises(ConfigError, match="at least 2 blocks, got 1"):
        manual_spec("gcn", SHAPE, 16, blocks=1)
    with pytest.raises(SpecError, match="unknown number format 'fixed'"):
        UniformFormats.of("fixed", 8)
