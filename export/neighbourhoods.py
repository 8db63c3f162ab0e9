"""The sampled, padded neighbourhood of a node as a small graph of its own, for targets that compile the graph in.

Every node has a sample of at most `fan_out` of its incoming edges, drawn without replacement from a seed and the node's
number, so that it is the same in every neighbourhood and in every process. The neighbourhood of a node for `hops`
aggregations over edges holds the sampled edges into all nodes at most `hops - 1` edges away. Nodes at the rim
are read before their own aggregation; they get loops in the place of their sampled edges, so that their degrees, and
with them their coefficients, are those of the sampled graph. So the first row of logits equals that of the
whole sampled graph, to the last bit, and without a limit that of full inference. Other rows mean nothing.

Sampling with a fan-out a node follows GraphSAGE (Hamilton et al. 2017), which draws anew in every layer.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from lpgnas.errors import GraphError
from lpgnas.graph import Features, Graph
from lpgnas.integer_program import Aggregate, IntegerProgram, reads, writes
from lpgnas.kernels.csr import CsrGraph
from lpgnas.operators import ATTENTIONS

IntArray = npt.NDArray[np.int64]


@dataclass(frozen=True, eq=False)
class Neighbourhood:
    """A small graph whose node 0 is the one in question.

    Attributes:
        nodes: numbers in the large graph [K] int64, in the order in which they were reached; rows beyond are padding.
        graph: N >= K nodes with their features; padding nodes have zeros and no edges.
    """

    nodes: IntArray
    graph: Graph


def hops_of(program: IntegerProgram) -> int:
    """How many aggregations over edges stand one behind the other at most: from how far a node is reached."""
    reach = {program.input.name: 0}
    for operation in program.operations:
        far = max(reach[name] for name in reads(operation))
        if isinstance(operation, Aggregate) and ATTENTIONS.get(operation.attention).neighbours:
            far = max(far, reach[operation.input] + 1)
        reach |= dict.fromkeys(writes(operation), far)
    return reach[program.output]


class NeighbourSampler:
    """Draws the neighbourhoods of one graph; see the module's page.

    Args:
        graph: the large graph.
        hops: aggregations over edges, >= 0.
        fan_out: most incoming edges of a node that are kept; None for all.
        seed: of the draw.

    Raises:
        GraphError: hops or a fan-out that cannot be.
    """

    def __init__(self, graph: Graph, hops: int, fan_out: int | None = None, seed: int = 0) -> None:
        if hops < 0:
            raise GraphError(f"a neighbourhood over {hops} hops cannot be; say 0 or more")
        if fan_out is not None and fan_out < 1:
            raise GraphError(f"a fan-out of {fan_out} keeps no edge; say 1 or more, or leave it out for all edges")
        self._graph = graph
        self._edges = CsrGraph.from_edges(graph.edge_index, graph.num_nodes, self_loops=False)
        self._hops, self._fan_out, self._seed = hops, fan_out, seed

    def kept_sources(self, node: int) -> IntArray:
        """Sources of the sampled edges into a node, in edge order, int64."""
        first, last = self._edges.indptr[node], self._edges.indptr[node + 1]
        sources = self._edges.sources[first:last].astype(np.int64)
        if self._fan_out is None or sources.size <= self._fan_out:
            return sources
        chosen = np.random.default_rng([self._seed, node]).choice(sources.size, self._fan_out, replace=False)
        return sources[np.sort(chosen)]

    def sampled_graph(self) -> Graph:
        """The whole graph with the sampled edges alone."""
        kept = [self.kept_sources(node) for node in range(self._graph.num_nodes)]
        targets = np.repeat(np.arange(self._graph.num_nodes), [one.size for one in kept])
        edges = np.stack([np.concatenate(kept), targets]).astype(np.int64)
        return Graph(f"{self._graph.name}, sampled", self._graph.x, edges)

    def around(self, node: int, num_nodes: int | None = None) -> Neighbourhood:
        """The neighbourhood of a node.

        Args:
            node: its number.
            num_nodes: rows to pad to; None for no padding.

        Raises:
            GraphError: no such node, or more nodes than `num_nodes`.
        """
        if not 0 <= node < self._graph.num_nodes:
            raise GraphError(f"{self._graph.name} has no node {node}; its nodes are 0 to {self._graph.num_nodes - 1}")
        place, sources, targets = self._reached(node)
        nodes = np.array(list(place), dtype=np.int64)
        count = nodes.size if num_nodes is None else num_nodes
        if count < nodes.size:
            raise GraphError(
                f"the neighbourhood of node {node} has {nodes.size} nodes, more than the {count} of its graph; "
                f"take a smaller fan-out, or pad to more"
            )
        edges = np.array([sources, targets], dtype=np.int64).reshape(2, -1)
        name = f"neighbourhood of node {node} of {self._graph.name}"
        return Neighbourhood(nodes, Graph(name, _padded_rows(self._graph.x, nodes, count), edges))

    def _reached(self, node: int) -> tuple[dict[int, int], list[int], list[int]]:
        """New number of each node that is reached, and both ends of the edges in new numbers."""
        place, rim = {node: 0}, [node]
        sources: list[int] = []
        targets: list[int] = []
        for _ in range(self._hops):
            found: list[int] = []
            for target in rim:
                for source in self.kept_sources(target).tolist():
                    if source not in place:
                        place[source] = len(place)
                        found.append(source)
                    sources.append(place[source])
                    targets.append(place[target])
            rim = found
        for one in rim:  # only their degree matters
            loops = [place[one]] * self.kept_sources(one).size
            sources += loops
            targets += loops
        return place, sources, targets


def _padded_rows(x: Features, nodes: IntArray, count: int) -> npt.NDArray[np.float32]:
    made = np.zeros((count, x.shape[1]), dtype=np.float32)
    made[: nodes.size] = x[nodes] if isinstance(x, np.ndarray) else x[nodes].toarray()
    return made
