"""A run's graph with the role of every node: who trains, who stops early, who selects, who tests."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from lpgnas.config import RunConfig
from lpgnas.cost_models.rows import GraphSize
from lpgnas.datasets import (
    default_protocol,
    inductive_training_graph,
    inductive_validation_graph,
    load_dataset,
    make_split,
)
from lpgnas.errors import ConfigError
from lpgnas.graph import BoolArray, Graph, Split
from lpgnas.integer_program import MAX_DEGREE_LIMIT
from lpgnas.number_formats import FormatChoice
from lpgnas.results import sha256
from lpgnas.search_space import SearchSpace
from lpgnas.training import TrainingData, transductive_data

KEPT_WORDS = (0.125, 0.25, 0.5, 1.0)
"""Shares of the input words that a search chooses from by default."""


@dataclass(frozen=True)
class Prepared:
    """A run's graph with the roles of its nodes.

    Attributes:
        graph: the whole graph, as deployed.
        split: train, validation and test nodes.
        data: what training may see.
        select: selection nodes of the stopping graph.
        max_degree: what programs are proved for.
    """

    graph: Graph
    split: Split
    data: TrainingData
    select: Tensor
    max_degree: int

    @property
    def size(self) -> GraphSize:
        """Nodes and edges that costs are counted for."""
        return GraphSize.of(self.graph)


def default_max_degree(graph: Graph) -> int:
    """Room for graphs with hubs twice as large: the next `2^k - 1`, at least 1023, where programs allow it."""
    return min(MAX_DEGREE_LIMIT, max(1023, (1 << (2 * graph.max_degree).bit_length()) - 1))


def halves(mask: BoolArray, seed: int) -> tuple[BoolArray, BoolArray]:
    """Two random halves of the nodes of `mask` [N]: one to stop early on, one to select on."""
    nodes = np.random.default_rng(seed).permutation(np.flatnonzero(mask))
    first, second = np.zeros_like(mask), np.zeros_like(mask)
    first[nodes[: (len(nodes) + 1) // 2]] = True
    second[nodes[(len(nodes) + 1) // 2 :]] = True
    if not second.any():
        raise ConfigError(f"{int(mask.sum())} validation nodes cannot both stop and select; give at least 2")
    return first, second


def prepare(config: RunConfig, data_root: Path | None) -> Prepared:
    """Load the graph and give every node its role."""
    graph = load_dataset(config.dataset, data_root)
    if graph.y is None:
        raise ConfigError(f"{graph.name} has no labels; a run needs y")
    protocol = default_protocol(config.dataset) if config.protocol == "default" else config.protocol
    split = make_split(graph, protocol, config.split_seed)
    if config.inductive:
        seen, seen_split, _ = inductive_training_graph(graph, split)
        stop_graph, stop_split, _ = inductive_validation_graph(graph, split)
        if seen.y is None or stop_graph.y is None:
            raise ConfigError(f"{graph.name} has no labels; a run needs y")
        stop, select = halves(stop_split.val, config.split_seed)
        data = TrainingData(
            graph=seen,
            labels=torch.from_numpy(seen.y),
            train=torch.from_numpy(seen_split.train),
            stop_graph=stop_graph,
            stop_labels=torch.from_numpy(stop_graph.y),
            stop=torch.from_numpy(stop),
        )
    else:
        stop, select = halves(split.val, config.split_seed)
        data = transductive_data(graph, split.train, stop)
    degree = config.max_degree or default_max_degree(graph)
    if degree > MAX_DEGREE_LIMIT:
        raise ConfigError(f"max_degree {degree} is beyond {MAX_DEGREE_LIMIT}, the most that a program is proved for")
    if degree < graph.max_degree:
        raise ConfigError(
            f"max_degree {degree} is below the largest in-degree of {graph.name}, {graph.max_degree}; "
            f"give --max-degree {graph.max_degree} or more"
        )
    return Prepared(graph, split, data, torch.from_numpy(select), degree)


def search_space(graph: Graph, config: RunConfig) -> SearchSpace:
    """The space that a config asks for; its input format follows from the features of `graph`.

    Raises:
        ConfigError: shares of kept words that are no choice on this graph.
    """
    space = replace(default_search_space(graph), **config.space_arguments())
    if len(space.word_counts) < len(config.kept_words):
        raise ConfigError(
            f"kept_words {', '.join(config.kept_words)}: of {graph.num_features} words only "
            f"{', '.join(map(str, space.word_counts))} kept ones are choices, since others cost more index than they "
            "save or keep as many; leave those shares out"
        )
    return space


def default_search_space(graph: Graph) -> SearchSpace:
    """The default space: binary features stay 1 bit, others take 8; rows of unsigned ones are normalised."""
    values = graph.x if isinstance(graph.x, np.ndarray) else graph.x.data
    binary = bool(np.isin(values, (0.0, 1.0)).all())
    signed = bool((values < 0).any())
    return SearchSpace(
        num_features=graph.num_features,
        num_classes=graph.num_classes,
        input_format=FormatChoice("fixed", 1 if binary else 8),
        input_signed=signed,
        row_normalize=not signed,
        kept_words=KEPT_WORDS,
    )


def graph_fingerprint(graph: Graph) -> str:
    """SHA-256 over edges, features, labels and the masks that came with them."""
    parts: list[np.ndarray] = [graph.edge_index]
    parts += [graph.x] if isinstance(graph.x, np.ndarray) else [graph.x.data, graph.x.indices, graph.x.indptr]
    parts += [] if graph.y is None else [graph.y]
    parts += [] if graph.masks is None else [graph.masks.train, graph.masks.val, graph.masks.test]
    return sha256(b"".join(f"{p.shape}{p.dtype}".encode() + np.ascontiguousarray(p).tobytes() for p in parts))
