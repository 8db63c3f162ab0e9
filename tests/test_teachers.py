"""The teacher: what it may see, and what it needs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pytest
import runs
import torch
from torch import Tensor

from lpgnas.errors import ConfigError
from lpgnas.graph import Graph
from lpgnas.graph_tensors import graph_tensors
from lpgnas.manual_models import ModelShape, manual_spec
from lpgnas.number_formats import Rounding
from lpgnas.teachers import (
    BALANCE,
    Kind,
    imbalance,
    inconsistency,
    sharpened,
    soft_labels,
    spread_logits,
    usual_kind,
    usual_share,
)
from lpgnas.training import TrainingData, TrainingSettings, train_model, transductive_data

SETTINGS = TrainingSettings(epochs=10, distillation=0.0)


KINDS: tuple[Kind, ...] = ("GCN", "GraphSAGE", "APPNP", "consistent APPNP")


def small_data(graph: Graph) -> TrainingData:
    nodes = np.arange(runs.NODES)
    return transductive_data(graph, nodes < 30, (nodes >= 30) & (nodes < 40))


def taught(graph: Graph, kind: Kind | None = None, balance: float = BALANCE) -> Tensor:
    return soft_labels(
        small_data(graph),
        SETTINGS,
        0,
        row_normalize=True,
        input_signed=False,
        num_classes=runs.CLASSES,
        members=2,
        kind=kind,
        balance=balance,
    )


@pytest.mark.parametrize("kind", KINDS)
def test_it_sees_training_labels_only(kind: Kind) -> None:
    graph = runs.small_graph()
    assert graph.y is not None
    soft = taught(graph, kind)
    torch.testing.assert_close(soft.sum(dim=1), torch.ones(runs.NODES))
    assert float((soft.argmax(dim=1)[:30] == torch.from_numpy(graph.y)[:30]).double().mean()) > 0.6
    y = graph.y.copy()
    y[30:] = (y[30:] + 1) % runs.CLASSES
    assert torch.equal(taught(Graph(graph.name, graph.x, graph.edge_index, y, graph.num_classes), kind), soft)
    y[:30] = (y[:30] + 1) % runs.CLASSES
    assert not torch.equal(taught(Graph(graph.name, graph.x, graph.edge_index, y, graph.num_classes), kind), soft)


def test_consistent_members_draw_twice_a_step(monkeypatch: pytest.MonkeyPatch) -> None:
    graph, sizes = runs.small_graph(), list[int]()

    def counted(views: Sequence[Tensor]) -> Tensor:
        sizes.append(len(views))
        assert not torch.equal(views[0], views[1])  # draws of their own
        return inconsistency(views)

    soft = taught(graph, "consistent APPNP")
    monkeypatch.setattr("lpgnas.teachers.inconsistency", counted)
    assert torch.equal(taught(graph, "consistent APPNP"), soft)  # repeats
    assert sizes == [2] * 2 * SETTINGS.epochs
    monkeypatch.setattr("lpgnas.teachers.CONSISTENCY", 0.0)
    assert not torch.allclose(taught(graph, "consistent APPNP"), soft, atol=1e-4)
    monkeypatch.setattr("lpgnas.teachers.inconsistency", None)  # the others ask for nothing
    monkeypatch.setattr("lpgnas.teachers.imbalance", None)
    for kind in KINDS[:3]:
        taught(graph, kind)


@pytest.mark.parametrize(
    ("nodes", "labelled", "kind"),
    [(40, 10, "GCN"), (40, 9, "consistent APPNP"), (100, 1, "consistent APPNP"), (101, 1, "APPNP")],
)
def test_labels_decide_the_kind(nodes: int, labelled: int, kind: Kind) -> None:
    path = np.stack([np.arange(1, nodes), np.arange(nodes - 1)])  # messages flow down: a label sees two nodes above
    y = np.arange(nodes) % 2
    train = np.zeros(nodes, dtype=bool)
    train[: 4 * labelled : 4] = True
    data = transductive_data(Graph("path", np.ones((nodes, 2), np.float32), path, y, 2), train, ~train)
    shape = ModelShape(2, 2, row_normalize=True, input_signed=False)
    assert usual_kind(data, shape) == kind
    usual, asked = (
        soft_labels(data, SETTINGS, 0, row_normalize=True, input_signed=False, num_classes=2, members=1, kind=one)
        for one in (None, kind)
    )
    assert torch.equal(usual, asked)


@pytest.mark.parametrize(("labels_needed", "kind", "longer"), [(12, "GraphSAGE", 2), (13, "GCN", 1)])
def test_labels_held_out_decide_for_graphsage(
    labels_needed: int, kind: Kind, longer: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where a node's features tell its class and its neighbours' say nothing, a GCN drowns in them."""
    nodes, rng = 200, np.random.default_rng(0)
    y = np.arange(nodes) % 2
    x = np.eye(2, dtype=np.float32)[y]
    edges = rng.integers(0, nodes, (2, 20 * nodes))
    graph = Graph("features alone", x, edges[:, edges[0] != edges[1]], y, 2)
    train = np.arange(nodes) < 120
    data = transductive_data(graph, train, ~train)
    monkeypatch.setattr("lpgnas.teachers.COMPARED_FROM", labels_needed)

    def taught_by(kind: Kind | None, longer: int = 1) -> Tensor:
        settings = replace(SETTINGS, epochs=20 * longer, dropout=0.0)
        return soft_labels(
            data, settings, 0, row_normalize=True, input_signed=False, num_classes=2, members=1, kind=kind
        )

    assert torch.equal(taught_by(None), taught_by(kind, longer))
    assert not torch.equal(taught_by("GCN"), taught_by("GraphSAGE"))


def test_consistent_teachers_keep_the_balance_of_the_labels() -> None:
    graph, nodes = runs.small_graph(), np.arange(runs.NODES)
    assert graph.y is not None
    train = (nodes < 30) & ((graph.y == 0) | (nodes < 12))  # most labels are of class 0
    data = transductive_data(graph, train, nodes >= 30)
    shares = np.bincount(graph.y[train], minlength=runs.CLASSES) + 1.0
    expected = torch.from_numpy(shares / shares.sum()).float()

    def distance(balance: float) -> float:
        soft = soft_labels(
            data,
            SETTINGS,
            0,
            row_normalize=True,
            input_signed=False,
            num_classes=runs.CLASSES,
            kind="consistent APPNP",
            balance=balance,
            confidence=0.0,
        )
        return float((soft.mean(dim=0) - expected).abs().max())

    assert float(expected.max()) > 0.5
    assert distance(100.0) < 0.5 * distance(0.0)


def test_features_out_of_range_leave_no_nan() -> None:
    graph = runs.small_graph()
    x = np.asarray(graph.x if isinstance(graph.x, np.ndarray) else graph.x.toarray()) * 500.0 + 500.0
    x[:, 0] *= -1.0
    wild = Graph("wild", x.astype(np.float32), graph.edge_index, graph.y, graph.num_classes)
    for kind in KINDS:
        soft = soft_labels(
            small_data(wild), SETTINGS, 0, row_normalize=False, input_signed=True, num_classes=runs.CLASSES, kind=kind
        )
        assert bool(torch.isfinite(soft).all()), kind


def test_imbalance_is_the_divergence_of_mean_classes() -> None:
    even, expected = torch.zeros(6, 2), torch.tensor([0.25, 0.75])
    divergence = 0.5 * np.log(0.5 / 0.25) + 0.5 * np.log(0.5 / 0.75)
    assert float(imbalance([even, even], expected)) == pytest.approx(divergence)
    certain = torch.tensor([[200.0, 0.0], [0.0, 200.0]])
    assert float(imbalance([certain], torch.tensor([0.5, 0.5]))) == pytest.approx(0.0, abs=1e-6)
    certain.requires_grad_()
    alone = imbalance([certain[:1]], expected)
    assert float(alone.detach()) == pytest.approx(np.log(4.0))
    alone.backward()  # type: ignore[no-untyped-call]
    assert certain.grad is not None and bool(torch.isfinite(certain.grad).all())  # no probability is no error


def test_inconsistency_is_the_distance_from_the_sharpened_mean() -> None:
    certain, other = torch.tensor([[50.0, 0.0]]), torch.tensor([[0.0, 50.0]])
    assert float(inconsistency([certain, certain])) == pytest.approx(0.0)
    assert float(inconsistency([certain, other])) == pytest.approx(0.5)  # the mean is (1/2, 1/2)
    unsure = torch.log(torch.tensor([[0.8, 0.2], [0.5, 0.5]]))
    sure = 0.64 / (0.64 + 0.04)
    assert float(inconsistency([unsure, unsure])) == pytest.approx((sure - 0.8) ** 2)  # the mean of two nodes
    unsure.requires_grad_()
    inconsistency([unsure, unsure]).backward()  # type: ignore[no-untyped-call]
    assert unsure.grad is not None and float(unsure.grad[0, 0]) < 0.0  # surer of the likelier class
    assert torch.equal(unsure.grad[1], torch.zeros(2))


def test_soft_labels_are_as_sure_as_asked_for() -> None:
    logits = torch.randn(200, 5, generator=torch.Generator().manual_seed(0))
    soft = torch.softmax(0.5 * logits, dim=1)
    for confidence in (0.6, 0.8, 0.95):
        sure = sharpened(soft, confidence)
        assert float(sure.max(dim=1).values.mean()) == pytest.approx(confidence, abs=1e-5)
        torch.testing.assert_close(sure.sum(dim=1), torch.ones(200))
        assert torch.equal(sure.argsort(dim=1), soft.argsort(dim=1))
        power = (sure[:, 0] / sure[:, 1]).log() / (soft[:, 0] / soft[:, 1]).log()
        torch.testing.assert_close(power, power[:1].expand(200), rtol=1e-3, atol=1e-3)  # one power for all nodes
    assert sharpened(sure, 0.6) is sure  # never softer
    flat = torch.full((3, 4), 0.25)
    assert torch.equal(sharpened(flat, 0.95), flat)  # no power tells equal classes apart
    certain = torch.eye(3)
    assert torch.equal(sharpened(certain, 1.0), certain)
    assert float(taught(runs.small_graph()).max(dim=1).values.mean()) == pytest.approx(0.95, abs=1e-3)


@pytest.mark.parametrize(("labelled", "share"), [(1, 0.95), (30, 0.7), (90, 0.5)])
def test_the_teacher_has_the_share_of_nodes_without_labels(labelled: int, share: float) -> None:
    assert usual_share(torch.arange(100) < labelled) == pytest.approx(share)


@pytest.mark.parametrize(("members", "labelled"), [(0, 30), (2, 0)])
def test_members_and_labels_are_needed(members: int, labelled: int) -> None:
    nodes = np.arange(runs.NODES)
    data = transductive_data(runs.small_graph(), nodes < labelled, nodes >= 50)
    with pytest.raises(ConfigError, match=f"got {members} members and {labelled} labels"):
        soft_labels(
            data, SETTINGS, 0, row_normalize=True, input_signed=False, num_classes=runs.CLASSES, members=members
        )


def path_graph(nodes: int) -> Graph:
    """Nodes in a row, each with an edge to the next; the features tell halves apart, and so do the labels."""
    far = np.arange(nodes) >= nodes // 2
    x = np.stack([~far, far], axis=1).astype(np.float32)
    return Graph("path", x, np.stack([np.arange(nodes - 1), np.arange(1, nodes)]), far.astype(np.int64), 2)


def labels_of_path(edges: np.ndarray, train: np.ndarray) -> TrainingData:
    graph = path_graph(40)
    graph = Graph("path", graph.x, edges, graph.y, graph.num_classes)
    return transductive_data(graph, train, np.arange(40) == 5)


def one_teacher(data: TrainingData) -> Tensor:
    return soft_labels(
        data, SETTINGS, 0, row_normalize=True, input_signed=False, num_classes=2, members=1, confidence=0.0
    )


def test_few_labels_reach_further() -> None:
    """A GCN of two blocks sees nothing of an edge that is five hops away from where a node or a label is."""
    ends, edges = np.isin(np.arange(40), (0, 39)), path_graph(40).edge_index
    whole, cut = (one_teacher(labels_of_path(one, ends)) for one in (edges, np.delete(edges, 24, axis=1)))
    changed = (whole - cut).abs().amax(dim=1)
    assert float(changed[25:33].mean()) > 3 * float(changed[15:25].mean())  # edges lead onwards; the others see weights


def test_a_gcn_teaches_where_labels_are_many() -> None:
    data = labels_of_path(path_graph(40).edge_index, np.arange(40) % 2 == 0)
    spec = manual_spec("gcn", ModelShape(2, 2, row_normalize=True), 64)
    model = train_model(spec, data, replace(SETTINGS, early_stopping=False), 0).model
    torch.testing.assert_close(one_teacher(data), model(data.tensors(model, stop=False)).softmax(dim=1))


def test_logits_are_spread_by_personalised_pagerank() -> None:
    graph = runs.small_graph()
    tensors = graph_tensors(graph, None, Rounding.HALF_EVEN, row_normalize=True)
    adjacency = torch.eye(runs.NODES, dtype=torch.float64)
    for source, target in graph.edge_index.T:
        adjacency[target, source] += 1.0
    root = adjacency.sum(dim=1).rsqrt()
    step = root[:, None] * adjacency * root
    own = torch.randn(runs.NODES, 3, generator=torch.Generator().manual_seed(0)).requires_grad_()
    wanted = value = own.double()
    for _ in range(10):
        value = 0.9 * step @ value + 0.1 * wanted
    weights = torch.randn(runs.NODES, 3, generator=torch.Generator().manual_seed(1))
    (expected,) = torch.autograd.grad((value * weights).sum(), own)
    spread = spread_logits(own, tensors)
    (gradient,) = torch.autograd.grad((spread * weights).sum(), own)
    torch.testing.assert_close(spread.double(), value, atol=1e-3, rtol=1e-3)
    torch.testing.assert_close(gradient, expected, atol=1e-3, rtol=1e-3)
