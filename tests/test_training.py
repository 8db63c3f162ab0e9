"""Training: it learns, it repeats, and what must not influence it does not."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import runs
import torch

from lpgnas.config import RunConfig
from lpgnas.datasets import graph_to_npz, load_dataset, make_split
from lpgnas.errors import ConfigError
from lpgnas.graph import Graph, Split
from lpgnas.graph_tensors import graph_tensors
from lpgnas.layers import QuantizedModel
from lpgnas.manual_models import ModelShape, UniformFormats, manual_spec
from lpgnas.preparation import Prepared, default_max_degree, halves, prepare
from lpgnas.training import (
    TrainedModel,
    TrainingData,
    TrainingSettings,
    train_model,
    transductive_data,
)

QUICK = TrainingSettings(epochs=10, distillation=0.0)
SPEC = runs.rich_spec()


def small_data(graph: Graph | None = None) -> TrainingData:
    nodes = np.arange(runs.NODES)
    return transductive_data(graph or runs.small_graph(), nodes < 30, (nodes >= 30) & (nodes < 40))


def same(one: TrainedModel, other: TrainedModel) -> bool:
    left, right = one.model.state_dict(), other.model.state_dict()
    return left.keys() == right.keys() and all(torch.equal(left[name], right[name]) for name in left)


def test_a_gain_is_no_part_of_a_trained_model(monkeypatch: pytest.MonkeyPatch) -> None:
    """It changes how weights move, and the model that comes of it reads features as they are."""
    data, plain = small_data(), train_model(SPEC, small_data(), QUICK, 0)
    monkeypatch.setattr("lpgnas.training.input_gain", lambda graph, *, row_normalize: 8.0)
    gained = train_model(SPEC, data, QUICK, 0)
    assert not same(plain, gained)
    again = QuantizedModel(SPEC, gained.model.input_fraction, gained.model.words)
    again.load_state_dict(gained.model.state_dict())
    tensors = graph_tensors(data.graph, again.input_format, SPEC.rounding, row_normalize=SPEC.row_normalize)
    with torch.no_grad():
        assert torch.equal(again(tensors), gained.model(tensors))
    largest = [float(one.model.blocks[0].whole("weight").detach().abs().max()) for one in (plain, gained)]
    assert largest[1] > 4 * largest[0]


@pytest.fixture(scope="module")
def trained() -> TrainedModel:
    return train_model(SPEC, small_data(), QUICK, 0)


@pytest.mark.parametrize("precision", ["float32", "2 bits"])
def test_it_learns_cora(precision: str) -> None:
    graph = load_dataset("cora")
    split = make_split(graph, "full", 0)
    stop, select = halves(split.val, 0)
    formats = UniformFormats.of("ternary", 8) if precision == "2 bits" else None
    spec = manual_spec("gcn", ModelShape(1433, 7, row_normalize=True), 16, formats)
    data = transductive_data(graph, split.train, stop)
    settings = TrainingSettings(epochs=60, learning_rate=0.03, distillation=0.0)
    model = train_model(spec, data, settings, 0).model
    tensors = graph_tensors(graph, model.input_format, spec.rounding, row_normalize=True)
    assert graph.y is not None
    with torch.no_grad():
        classes = model(tensors).argmax(dim=1).numpy()
    accuracy = (classes == graph.y)[split.test | select].mean()
    assert accuracy > 0.75  # the largest class has 0.30 of the nodes


def test_a_seed_repeats_and_another_differs(trained: TrainedModel) -> None:
    again = train_model(SPEC, small_data(), QUICK, 0)
    assert same(again, trained)
    assert (again.stop_accuracy, again.stop_loss) == (trained.stop_accuracy, trained.stop_loss)
    assert not same(train_model(SPEC, small_data(), QUICK, 1), trained)


def test_progress_counts_epochs() -> None:
    seen: list[int] = []
    assert train_model(SPEC, small_data(), QUICK, 0, progress=seen.append).epochs == 10
    assert seen == list(range(1, 11))


def test_a_teacher_counts_only_with_distillation(trained: TrainedModel) -> None:
    teacher = torch.full((runs.NODES, runs.CLASSES), 1 / runs.CLASSES)
    assert same(train_model(SPEC, small_data(), QUICK, 0, teacher=teacher), trained)
    for weight in (0.5, 1.0):
        settings = TrainingSettings(epochs=10, distillation=weight)
        assert same(train_model(SPEC, small_data(), settings, 0), trained)  # no teacher, no divergence
        assert not same(train_model(SPEC, small_data(), settings, 0, teacher=teacher), trained)


def test_the_best_state_is_kept(trained: TrainedModel) -> None:
    data = small_data()
    with torch.no_grad():
        logits = trained.model(data.tensors(trained.model, stop=True))[data.stop]
    labels = data.labels[data.stop]
    assert float((logits.argmax(dim=1) == labels).double().mean()) == trained.stop_accuracy
    assert float(torch.nn.functional.cross_entropy(logits, labels)) == trained.stop_loss
    # a learning rate that destroys the model: the first state, which was evaluated before any step, or a better one
    wild = TrainingSettings(epochs=30, learning_rate=1e4, distillation=0.0, evaluate_every=30, freeze_at=0.0)
    start = train_model(SPEC, data, TrainingSettings(epochs=1, learning_rate=0.0, distillation=0.0), 0)
    assert train_model(SPEC, data, wild, 0).stop_accuracy >= start.stop_accuracy


def test_labels_beyond_training_and_stopping_have_no_influence(trained: TrainedModel) -> None:
    graph = runs.small_graph()
    assert graph.y is not None
    y = graph.y.copy()
    y[40:] = (y[40:] + 1) % runs.CLASSES
    changed = Graph(graph.name, graph.x, graph.edge_index, y, graph.num_classes)
    assert same(train_model(SPEC, small_data(changed), QUICK, 0), trained)
    y[:30] = (y[:30] + 1) % runs.CLASSES
    changed = Graph(graph.name, graph.x, graph.edge_index, y, graph.num_classes)
    assert not same(train_model(SPEC, small_data(changed), QUICK, 0), trained)


# --- roles of nodes ---


def prepared(graph: Graph, folder: Path, **options: Any) -> Prepared:
    graph_to_npz(graph, folder / "graph.npz")
    return prepare(RunConfig(str(folder / "graph.npz"), **options), None)


def test_every_node_has_one_role(tmp_path: Path) -> None:
    made = prepared(runs.small_graph(), tmp_path)
    roles = torch.stack([made.data.train, made.data.stop, made.select, torch.from_numpy(made.split.test)])
    assert roles.sum(dim=0).tolist() == [1] * runs.NODES
    assert roles.sum(dim=1).tolist() == [36, 6, 6, 12]


def without(graph: Graph, nodes: np.ndarray) -> Graph:
    """The graph with other features, edges and labels at `nodes`."""
    assert graph.y is not None
    x, y = np.array(graph.x), graph.y.copy()
    x[nodes] = 7.25 - x[nodes]
    touched = np.isin(graph.edge_index, nodes).any(axis=0)
    new = np.stack([np.repeat(nodes, 3), np.resize(np.arange(runs.NODES), 3 * len(nodes))])
    edges = np.concatenate([graph.edge_index[:, ~touched], new], axis=1)
    return Graph(graph.name, x, edges, y, graph.num_classes, graph.masks)


def with_masks(graph: Graph) -> Graph:
    """The graph with a split of its own, which does not depend on its labels."""
    nodes = np.arange(runs.NODES)
    masks = Split("own", nodes < 30, (nodes >= 30) & (nodes < 44), nodes >= 44)
    return Graph(graph.name, graph.x, graph.edge_index, graph.y, graph.num_classes, masks)


def test_an_inductive_model_never_sees_test_nodes(tmp_path: Path) -> None:
    graph = with_masks(runs.small_graph())
    plain = prepared(graph, tmp_path, inductive=True)
    changed = prepared(without(graph, np.arange(44, 60)), tmp_path, inductive=True)
    assert (plain.data.graph.num_nodes, plain.data.stop_graph.num_nodes) == (30, 44)
    assert not np.array_equal(plain.graph.x, changed.graph.x)
    assert not np.array_equal(plain.graph.edge_index, changed.graph.edge_index)
    assert same(train_model(SPEC, plain.data, QUICK, 0), train_model(SPEC, changed.data, QUICK, 0))
    transductive = [prepared(one, tmp_path) for one in (graph, without(graph, np.arange(44, 60)))]
    assert not same(*(train_model(SPEC, one.data, QUICK, 0) for one in transductive))


def test_validation_nodes_of_an_inductive_model_only_stop_it(tmp_path: Path) -> None:
    """A float model that is evaluated before its first step and after its last has the same weights without them."""
    graph = with_masks(runs.small_graph())
    validation = np.arange(30, 44)
    x = np.array(graph.x)
    x[validation, 0] = 1.0
    edges = graph.edge_index[:, ~np.isin(graph.edge_index, validation).all(axis=0)]
    spec = manual_spec("gcn", ModelShape(runs.FEATURES, runs.CLASSES, row_normalize=True), 8)
    settings = TrainingSettings(epochs=20, evaluate_every=20, learning_rate=0.05, distillation=0.0)
    models = []
    for one in (graph, Graph(graph.name, x, edges, graph.y, graph.num_classes, graph.masks)):
        data = prepared(one, tmp_path, inductive=True).data
        models.append(train_model(spec, data, settings, 0))
        start = train_model(spec, data, TrainingSettings(epochs=1, learning_rate=0.0, distillation=0.0), 0)
        assert not same(models[-1], start)
    assert same(*models)
    assert models[0].stop_loss != models[1].stop_loss


def test_halves() -> None:
    mask = np.arange(20) % 2 == 0
    first, second = halves(mask, 3)
    assert (first.sum(), second.sum()) == (5, 5)
    assert np.array_equal(first | second, mask)
    assert not (first & second).any()
    assert not np.array_equal(first, halves(mask, 4)[0])
    with pytest.raises(ConfigError, match="1 validation nodes cannot both stop and select"):
        halves(np.arange(20) == 3, 0)


def test_default_max_degree() -> None:
    def star(degree: int) -> Graph:
        edges = np.stack([np.ones(degree, dtype=np.int64), np.zeros(degree, dtype=np.int64)])
        return Graph("star", np.ones((2, 1), np.float32), edges)

    assert [default_max_degree(star(degree)) for degree in (0, 511, 512, 600_000)] == [1023, 1023, 2047, (1 << 20) - 1]


BAD: list[tuple[Callable[[], TrainingSettings], str]] = [
    (lambda: TrainingSettings(epochs=0), "epochs 0"),
    (lambda: TrainingSettings(evaluate_every=0), "evaluate_every 0"),
    (lambda: TrainingSettings(dropout=1.5), r"dropout is 1\.5"),
    (lambda: TrainingSettings(dropout=1.0), "leaves nothing"),
    (lambda: TrainingSettings(distillation=-0.1), r"distillation is -0\.1"),
    (lambda: TrainingSettings(freeze_at=2.0), r"freeze_at is 2\.0"),
]


@pytest.mark.parametrize(("make", "message"), BAD)
def test_settings_that_are_refused(make: Callable[[], TrainingSettings], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        make()


def test_a_graph_without_labels_is_refused() -> None:
    graph = runs.small_graph()
    with pytest.raises(ConfigError, match="small has no labels"):
        small_data(Graph("small", graph.x, graph.edge_index))


def test_what_does_not_go_together_is_refused() -> None:
    graph = runs.small_graph()
    train = np.arange(graph.num_nodes) % 3 == 0
    data = transductive_data(graph, train, ~train)
    spec, settings = runs.every_operation(), TrainingSettings(epochs=1)
    with pytest.raises(ConfigError, match="the spec reads 13 features"):
        train_model(replace(spec, num_features=13), data, settings, 0)
    with pytest.raises(ConfigError, match=r"soft labels \(20, 3\); needed are \(60, 3\)"):
        train_model(spec, data, settings, 0, teacher=torch.full((20, 3), 1 / 3))
    with pytest.raises(ConfigError, match="at least one node to stop early on"):
        train_model(spec, transductive_data(graph, train, np.zeros_like(train)), settings, 0)


def test_changed_data_have_parts_of_their_own() -> None:
    graph = runs.small_graph()
    train = np.arange(graph.num_nodes) % 30 == 0
    data = transductive_data(graph, train, ~train)
    model = QuantizedModel(runs.every_operation(), 0)
    other = np.roll(train, 1)
    assert train[data.part(model, stop=False).nodes].sum() == train.sum()
    changed = replace(data, train=torch.from_numpy(other))
    assert other[changed.part(model, stop=False).nodes].sum() == other.sum()
