"""Which columns of the features ("words") keep their weights where a model has bits for some of them only.

Decided before training, from what training sees: the features, the edges and the training labels. A word's rank is the
variance of the nodes' classes that it explains alone. Classes of nodes without a training label are propagated ones
(Zhou et al. 2004, "Learning with local and global consistency"), so that words of unlabelled nodes count as well.
`benchmarks/input_words.py` compares this rank with others.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
from scipy import sparse

from lpgnas.errors import ConfigError
from lpgnas.graph import BoolArray, Graph

PROPAGATION_STEPS = 10
NEIGHBOUR_SHARE = 0.9
"""What a step of the propagation takes from the neighbours; the rest is the node's own training label."""
PRIOR_WEIGHT = 1e-3
"""Weight of the training labels' distribution in a node's classes: all of it where no label comes by."""

Floats = npt.NDArray[np.float64]


def rank_words(graph: Graph, train: BoolArray) -> npt.NDArray[np.int64]:
    """The columns of `graph.x`, those that tell most about the classes first; [F] int64.

    Args:
        graph: of the training; its labels are looked at where `train` [N] is true only.
        train: nodes whose labels are known.

    Raises:
        ConfigError: no labels.
    """
    return np.argsort(-explained_variance(graph.x, propagated_classes(graph, train)), kind="stable")


def check_words(words: npt.NDArray[np.int64] | None, kept: int | None, features: int) -> None:
    """Refuse kept words that are not those of a spec.

    Args:
        words: their numbers; None for all.
        kept: how many the spec keeps; None for all.
        features: F.

    Raises:
        ConfigError: another count, or not int64 numbers of features, rising.
    """
    if kept is None and words is None:
        return
    given = np.empty(0) if words is None else words
    inside = given.dtype == np.int64 and bool(((given >= 0) & (given < features)).all() and (np.diff(given) > 0).all())
    if kept is None or len(given) != kept or not inside:
        raise ConfigError(
            f"a model that keeps {features if kept is None else kept} of {features} words needs their int64 numbers, "
            f"rising; got {len(given)}"
        )


def explained_variance(x: Any, classes: Floats) -> Floats:  # noqa: ANN401 - a NumPy or a scipy sparse array
    """Variance of the columns of `classes` [N, C] that each column of `x` [N, F] explains by linear regression, [F].

    The sum over the classes of their squared covariances with the column, over the column's variance; 0 for a constant.
    """
    nodes, values = x.shape[0], x.astype(np.float64)
    centred = classes - classes.mean(axis=0)
    covariance = np.asarray(values.T @ centred) / nodes
    mean = np.asarray(values.mean(axis=0)).reshape(-1)
    squares = values.multiply(values) if sparse.issparse(values) else values * values
    variance = np.asarray(squares.mean(axis=0)).reshape(-1) - mean**2
    varies = variance > 1e-12 * np.maximum(mean**2, 1e-300)
    explained: Floats = np.where(varies, (covariance**2).sum(axis=1) / np.where(varies, variance, 1.0), 0.0)
    return explained


def propagated_classes(graph: Graph, train: BoolArray) -> Floats:
    """Class probabilities [N, C] of every node, spread from the labels of `train` [N] along the edges.

    Raises:
        ConfigError: no labels.
    """
    if graph.y is None or not train.any():
        raise ConfigError(f"{graph.name}: words are ranked by labels, and there are none to train on")
    own = np.zeros((graph.num_nodes, graph.num_classes))
    own[train, graph.y[train]] = 1.0
    spread = _normalised_adjacency(graph)
    mass = own
    for _ in range(PROPAGATION_STEPS):
        mass = NEIGHBOUR_SHARE * (spread @ mass) + (1.0 - NEIGHBOUR_SHARE) * own
    prior = own.sum(axis=0) / own.sum()
    total = mass.sum(axis=1, keepdims=True)
    classes: Floats = (mass + PRIOR_WEIGHT * prior) / (total + PRIOR_WEIGHT)
    return classes


def _normalised_adjacency(graph: Graph) -> Any:  # noqa: ANN401 - a scipy sparse array
    """The adjacency with self-loops between the inverse square roots of the degrees [N, N], row = target."""
    nodes = np.arange(graph.num_nodes)
    source, target = (np.concatenate([row, nodes]) for row in graph.edge_index)
    shape = (graph.num_nodes, graph.num_nodes)
    near = sparse.csr_array(sparse.coo_array((np.ones(len(source)), (target, source)), shape=shape))
    scale = np.bincount(target, minlength=graph.num_nodes) ** -0.5
    return sparse.diags_array(scale) @ near @ sparse.diags_array(scale)
