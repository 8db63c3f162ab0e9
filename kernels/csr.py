"""`CsrGraph`: the edges by target, checked once, so that kernels can run without checks."""

from __future__ import annotations

from dataclasses import InitVar, dataclass
from typing import TypeAlias

import numpy as np
import numpy.typing as npt

from lpgnas.errors import DegreeError, GraphError
from lpgnas.graph import check_edges, is_array
from lpgnas.jit import jit

MOST_NODES = 1 << 48
SourceArray: TypeAlias = npt.NDArray[np.int32] | npt.NDArray[np.int64]


@dataclass(frozen=True, eq=False)
class CsrGraph:
    """The sources of each node's incoming edges.

    Attributes:
        indptr: [N + 1] int64; the edges into node i are `sources[indptr[i] : indptr[i + 1]]`.
        sources: [E'] int32 (int64 beyond 2^31 nodes), every entry in [0, N), or in [0, num_sources).
        self_loops: whether one edge i -> i was added for every node.
        num_sources: how many rows of messages there are where targets have rows of their own (a sampled block, a
            bipartite graph); None for the N nodes themselves.

    The arrays are copied, so that those that were checked are those that kernels read; do not change them.

    Raises:
        GraphError: arrays that do not describe a graph.
    """

    indptr: npt.NDArray[np.int64]
    sources: SourceArray
    self_loops: bool
    num_sources: int | None = None
    owned: InitVar[bool] = False

    def __post_init__(self, owned: bool) -> None:
        indptr, sources = self.indptr, self.sources
        for name, array in (("indptr", indptr), ("sources", sources)):
            if not is_array(array) or not array.flags.c_contiguous:
                raise GraphError(f"{name} must be a C-contiguous array, got {type(array).__name__}")
        _check_flag("self_loops", self.self_loops)
        if self.num_sources is not None:
            _check_count("num_sources", self.num_sources, 0)
        if indptr.dtype != np.int64 or indptr.ndim != 1 or indptr.size < 2:
            raise GraphError(f"indptr must be int64 of shape [N + 1], N >= 1, got {indptr.dtype} {list(indptr.shape)}")
        if sources.dtype not in (np.int32, np.int64) or sources.ndim != 1:
            raise GraphError(f"sources must be int32 or int64 of shape [E], got {sources.dtype} {list(sources.shape)}")
        if indptr[0] != 0 or indptr[-1] != sources.size or bool((indptr[1:] < indptr[:-1]).any()):
            raise GraphError(f"indptr must rise from 0 to the {sources.size} edges")
        # negative numbers are the largest ones without a sign, so that one pass finds both
        if sources.size and int(sources.view(f"u{sources.itemsize}").max()) >= self.message_rows:
            raise GraphError(f"sources must lie in [0, {self.message_rows}), got {sources.min()} to {sources.max()}")
        if not owned:  # a copy is aligned and writeable too: Numba would compile every kernel once more
            for name, array in (("indptr", indptr), ("sources", sources)):
                object.__setattr__(self, name, np.array(array))

    @classmethod
    def from_edges(cls, edge_index: npt.NDArray[np.int64], num_nodes: int, *, self_loops: bool) -> CsrGraph:
        """The graph of `edge_index` [2, E] int64 (row 0 source, row 1 target), a multigraph as given.

        Args:
            edge_index: the edges.
            num_nodes: N >= 1.
            self_loops: add one edge i -> i for every node.

        Raises:
            GraphError: a wrong shape, dtype or index.
        """
        _check_count("num_nodes", num_nodes, 1)
        num_nodes = int(num_nodes)  # a narrow integer would overflow
        _check_flag("self_loops", self_loops)
        check_edges(edge_index, num_nodes, "graph")
        loops = 1 if self_loops else 0
        try:
            indptr = np.zeros(num_nodes + 1, dtype=np.int64)
            np.cumsum(np.bincount(edge_index[1], minlength=num_nodes) + loops, out=indptr[1:])
        except (MemoryError, ValueError) as error:
            raise GraphError(f"graph: {num_nodes} nodes do not fit into memory") from error
        narrow = num_nodes <= np.iinfo(np.int32).max
        sources: SourceArray = (
            np.empty(int(indptr[-1]), dtype=np.int32) if narrow else np.empty(int(indptr[-1]), np.int64)
        )
        fill_sources(edge_index[0], edge_index[1], loops, indptr[:-1].copy(), sources)
        return cls(indptr, sources, self_loops, owned=True)

    @property
    def num_nodes(self) -> int:
        """N."""
        return self.indptr.size - 1

    @property
    def message_rows(self) -> int:
        """Rows of messages that sources may name."""
        return self.num_nodes if self.num_sources is None else self.num_sources

    @property
    def degree(self) -> npt.NDArray[np.int64]:
        """Incoming edges of each node [N] int64, an added self-loop counted."""
        return np.diff(self.indptr)

    def check_degree(self, max_degree: int) -> None:
        """Refuse a node with more than `max_degree` incoming edges, an added self-loop not counted.

        Raises:
            DegreeError: there is one; the message names the node of the highest degree.
            GraphError: `max_degree` is not an integer from 0 on.
        """
        _check_count("max_degree", max_degree, 0)
        degree = self.degree - (1 if self.self_loops else 0)
        node = int(degree.argmax())
        if int(degree[node]) > max_degree:
            raise DegreeError(int(degree[node]), max_degree, node)


def _check_flag(name: str, value: object) -> None:
    if not isinstance(value, bool | np.bool_):
        raise GraphError(f"{name} must be True or False, got {value!r:.40}")


def _check_count(name: str, value: object, least: int) -> None:
    if isinstance(value, bool) or not isinstance(value, int | np.integer) or not least <= value <= MOST_NODES:
        raise GraphError(f"{name} must be an integer from {least} to {MOST_NODES}, got {value!r:.40}")


@jit
def fill_sources(
    edge_sources: npt.NDArray[np.int64],
    edge_targets: npt.NDArray[np.int64],
    loops: int,
    next_slot: npt.NDArray[np.int64],
    sources: SourceArray,
) -> None:
    """Counting sort of the sources by target, in edge order; `next_slot` [N] starts as indptr and is used up."""
    for edge in range(edge_sources.size):
        target = edge_targets[edge]
        sources[next_slot[target]] = edge_sources[edge]
        next_slot[target] += 1
    if loops:
        for node in range(next_slot.size):
            sources[next_slot[node]] = node
