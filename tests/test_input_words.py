"""The rank of the input words: against sums written out, from what training sees alone."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import runs
import torch
from scipy import sparse

from lpgnas.components import Component
from lpgnas.errors import ConfigError
from lpgnas.graph import Graph
from lpgnas.input_words import explained_variance, propagated_classes, rank_words
from lpgnas.spec import ModelSpec
from lpgnas.training import TrainingSettings, train_model, transductive_data

NODES = np.arange(runs.NODES)
TRAIN = NODES < 20


def some_words(count: int) -> ModelSpec:
    """Two layers that keep `count` words."""
    return replace(runs.rich_spec(), input_words=count)


def test_explained_variance_is_that_of_a_regression() -> None:
    rng = np.random.default_rng(0)
    x = (rng.normal(size=(40, 6)) * (rng.random((40, 6)) < 0.4)).astype(np.float32)
    x[:, 4] = 3.0
    x[:, 5] = 0.0
    classes = rng.dirichlet(np.ones(3), 40)
    expected = []
    for column in x.astype(np.float64).T:
        line = np.stack([np.ones(40), column], axis=1)
        fitted = line @ np.linalg.lstsq(line, classes, rcond=None)[0]
        expected.append(((fitted - classes.mean(axis=0)) ** 2).mean(axis=0).sum())
    for kind in (np.asarray, sparse.csr_array):
        np.testing.assert_allclose(explained_variance(kind(x), classes), expected, atol=1e-12)
    assert explained_variance(x, classes)[4:].tolist() == [0.0, 0.0]


def test_huge_features_have_a_rank() -> None:
    x = np.full((4, 2), 3e38, dtype=np.float32)
    x[:2, 1] = -3e38
    classes = np.eye(2)[[0, 0, 1, 1]]
    assert explained_variance(x, classes).tolist() == pytest.approx([0.0, 0.5])


def test_classes_spread_along_the_edges() -> None:
    """0 - 1 - 2 is a path from a node of class 0 to none; 3 is alone; 4 has class 1."""
    edges = np.array([[0, 1, 1, 2], [1, 0, 2, 1]], dtype=np.int64)
    graph = Graph("path", np.ones((5, 1), np.float32), edges, np.array([0, 1, 1, 0, 1]), 2)
    train = np.array([True, False, False, False, True])
    classes = propagated_classes(graph, train)
    np.testing.assert_allclose(classes.sum(axis=1), 1.0)
    assert (classes[:3, 0] > 0.99).all()
    assert classes[3].tolist() == [0.5, 0.5]
    assert classes[4, 1] > 0.99
    # one step by hand: the self-loop counts in the degree
    near = np.eye(5)
    near[edges[1], edges[0]] = 1.0
    scale = near.sum(axis=1) ** -0.5
    spread, own = scale[:, None] * near * scale, np.zeros((5, 2))
    own[0, 0] = own[4, 1] = 1.0
    mass = own
    for _ in range(10):
        mass = 0.9 * spread @ mass + 0.1 * own
    np.testing.assert_allclose(classes, (mass + 5e-4) / (mass.sum(axis=1, keepdims=True) + 1e-3))


def test_the_rank_sees_training_labels_only() -> None:
    graph = runs.small_graph()
    ranks = rank_words(graph, TRAIN)
    assert sorted(ranks) == list(range(runs.FEATURES))
    assert graph.y is not None
    other = replace(graph, y=np.where(TRAIN, graph.y, (graph.y + 1) % runs.CLASSES))
    assert rank_words(other, TRAIN).tolist() == ranks.tolist()
    assert rank_words(replace(graph, y=(graph.y * 5 + NODES // 7) % 3), TRAIN).tolist() != ranks.tolist()
    assert rank_words(replace(graph, x=sparse.csr_array(graph.x)), TRAIN).tolist() == ranks.tolist()


def test_telling_words_come_first() -> None:
    graph = runs.small_graph()
    assert graph.y is not None
    noise = np.random.default_rng(0).random((runs.NODES, 20)) < 0.3
    own = np.arange(6) // 2 == graph.y[:, None]
    x = np.concatenate([noise, own], axis=1).astype(np.float32)
    assert sorted(rank_words(replace(graph, x=x), TRAIN)[:6]) == list(range(20, 26))


def test_no_labels_are_refused() -> None:
    graph = runs.small_graph()
    for unlabelled, train in ((replace(graph, y=None), TRAIN), (graph, np.zeros(runs.NODES, dtype=bool))):
        with pytest.raises(ConfigError, match="small: words are ranked by labels, and there are none"):
            rank_words(unlabelled, train)


def test_training_keeps_the_first_words() -> None:
    data = transductive_data(runs.small_graph(), TRAIN, ~TRAIN)
    settings = TrainingSettings(epochs=20, distillation=0.0)
    ranks = rank_words(data.graph, TRAIN)
    for count in (1, 5):
        trained = train_model(some_words(count), data, settings, 0)
        assert trained.model.words is not None
        assert trained.model.words.tolist() == sorted(ranks[:count])
        assert trained.model.blocks[0].whole("weight").shape == (8, count)
    whole = train_model(some_words(runs.FEATURES), data, settings, 0)
    assert whole.model.words is None
    given = replace(data, ranked_words=torch.arange(runs.FEATURES))
    kept = train_model(some_words(2), given, settings, 0).model
    assert kept.words is not None and kept.words.tolist() == [0, 1]


def test_other_words_change_nothing_but_the_row_sums() -> None:
    data = transductive_data(runs.small_graph(), TRAIN, ~TRAIN)
    spec = replace(some_words(4), row_normalize=False)
    model = train_model(spec, data, TrainingSettings(epochs=10, distillation=0.0), 0).model
    assert model.words is not None
    kept = np.isin(np.arange(runs.FEATURES), model.words.numpy())
    x = data.graph.x.copy()
    assert isinstance(x, np.ndarray)
    x[:, ~kept] = 1.0 - x[:, ~kept]
    changed = replace(data, graph=replace(data.graph, x=x))
    assert model(changed.tensors(model, stop=False)).equal(model(data.tensors(model, stop=False)))
    x[:, kept] = 1.0 - x[:, kept]
    other = replace(data, graph=replace(data.graph, x=x))
    assert not model(other.tensors(model, stop=False)).equal(model(data.tensors(model, stop=False)))


def test_kept_words_of_a_float_model() -> None:
    """Full precision may keep some words as well."""
    from lpgnas.manual_models import ModelShape, manual_spec

    spec = replace(manual_spec("gcn", ModelShape(runs.FEATURES, runs.CLASSES), 8), input_words=3)
    data = transductive_data(runs.small_graph(), TRAIN, ~TRAIN)
    model = train_model(spec, data, TrainingSettings(epochs=5, distillation=0.0), 0).model
    assert model.blocks[0].whole("weight").shape == (8, 3)
    assert model.spec.layers[0].formats[Component.LINEAR_WEIGHT].kind == "float32"
