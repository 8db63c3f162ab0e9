"""The integer aggregation kernels beside their float32 rivals.

    python -m benchmarks.kernels --data-root FOLDER
    python -m benchmarks.kernels --quick --out kernels.csv

One process and one thread; the contenders of a comparison take turns of two calls, the second of which is timed, in
processor time of the process. Messages are random 8-bit codes; sums end in a rounded shift to int8. Rows are keyed by a
hash of what they measure and appended to `benchmarks/results/kernels.csv`; a comparison that is there is not measured
again.
"""

from __future__ import annotations

import argparse
import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd
import torch
from scipy import sparse

from benchmarks import RESULTS
from lpgnas import __version__
from lpgnas.datasets import load_dataset
from lpgnas.jit import jit
from lpgnas.kernels import sparse_products
from lpgnas.kernels.aggregation import Bounds, aggregate
from lpgnas.kernels.arena import empty_arena
from lpgnas.kernels.csr import CsrGraph, SourceArray
from lpgnas.kernels.packed import aggregate_packed, pack_codes
from lpgnas.kernels.spmm import Epilogue, aggregate_sum
from lpgnas.machine import cpu_name
from lpgnas.number_formats import Rounding
from lpgnas.report import markdown_table
from lpgnas.requantize import rescale
from lpgnas.rows import Rows, key_of

GRAPHS = ("planetoid/Cora", "planetoid/PubMed", "amazon/Photo", "amazon/Computers")
RANDOM = "random, 1M nodes"
RANDOM_NODES, RANDOM_EDGES = 1_000_000, 25_000_000
SHIFT = 5
OURS, PLAIN, SIMD, TORCH, SCIPY = "int8", "int8, plain loops", "fp32 SIMD", "torch.sparse.mm", "scipy"
COUNTING, MANY_CLIPPED = "int8, saturations counted", "counting, most sums beyond the format"
FLOOR = "one word of every message, nothing fetched ahead"
NARROW, INT4, INT2, INT1 = "int8 that hold 4 bits", "int4", "int2", "1 bit"
CONTENDERS = {
    "sum": (OURS, PLAIN, SIMD, TORCH, SCIPY),
    "weighted sum": (OURS, SIMD, TORCH, SCIPY),
    "packed sum": (OURS, NARROW, INT4, INT2, INT1),
    "large sum": (OURS, TORCH, FLOOR),
    "counting": (OURS, COUNTING),
    MANY_CLIPPED: (OURS, COUNTING),
}
"""What is timed in each kind of comparison."""


@dataclass(frozen=True)
class Comparison:
    """One aggregation on one graph, and how many turns its contenders take."""

    kind: str
    graph: str
    columns: int
    rounds: int

    def key(self, contender: str) -> str:
        """Hash of everything that decides a row."""
        facts = {"kind": self.kind, "graph": self.graph, "columns": self.columns, "contender": contender}
        return key_of({**facts, "lpgnas": __version__, "cpu": cpu_name()})


COMPARISONS = (
    *(Comparison("sum", graph, columns, 40) for columns in (64, 256) for graph in GRAPHS),
    Comparison("weighted sum", "amazon/Computers", 256, 30),
    Comparison("packed sum", "amazon/Computers", 128, 60),
    Comparison("large sum", RANDOM, 64, 5),
    *(Comparison("counting", graph, 256, 60) for graph in GRAPHS),
    *(Comparison(MANY_CLIPPED, graph, 256, 60) for graph in GRAPHS),
)
QUICK = (
    Comparison("sum", "cora", 16, 2),
    Comparison("weighted sum", "cora", 16, 2),
    Comparison("packed sum", "cora", 16, 2),
    Comparison("large sum", "random, 1,000 nodes", 64, 2),
    Comparison("counting", "cora", 16, 2),
)


@jit
def touch(sources: SourceArray, words: npt.NDArray[np.int64]) -> int:
    """The least that a gather does: the sum of the first word of every edge's row."""
    total = 0
    for edge in range(sources.size):
        total += words[sources[edge], 0]
    return total


def aligned(codes: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """The same codes from the start of a cache line on, as in the arena of a program."""
    place = empty_arena(codes.nbytes).view(codes.dtype).reshape(codes.shape)
    place[:] = codes
    return place


def read_graph(name: str, data_root: Path | None) -> CsrGraph:
    """The edges of a graph with a self-loop a node, or as many random edges as its name says."""
    if name.startswith("random"):
        return random_graph(*((RANDOM_NODES, RANDOM_EDGES) if name == RANDOM else (1000, 25_000)))
    graph = load_dataset(name, data_root)
    return CsrGraph.from_edges(graph.edge_index, graph.num_nodes, self_loops=True)


def random_graph(nodes: int, edges: int) -> CsrGraph:
    """Edges between random nodes."""
    rng = np.random.default_rng(0)
    indptr = np.concatenate([[0], np.cumsum(np.bincount(rng.integers(0, nodes, edges), minlength=nodes))])
    return CsrGraph(indptr, rng.integers(0, nodes, edges, dtype=np.int32), self_loops=False)


class Task:
    """The arrays of a comparison, and what each contender does with them."""

    def __init__(self, comparison: Comparison, graph: CsrGraph) -> None:
        self.comparison, self.graph = comparison, graph
        nodes, columns, rng = graph.num_nodes, comparison.columns, np.random.default_rng(0)
        self.message = aligned(rng.integers(-128, 128, (nodes, columns), dtype=np.int8))
        self.out = aligned(np.zeros((nodes, columns), dtype=np.int8))
        weighted = comparison.kind == "weighted sum"
        self.weights = rng.integers(0, 128, graph.sources.size, dtype=np.uint8) if weighted else None
        nothing, zeros = np.zeros((nodes, 0), dtype=np.int8), np.zeros(columns, dtype=np.int64)
        shift = 0 if comparison.kind == MANY_CLIPPED else SHIFT + (7 if weighted else 0)
        by = rescale(shift, Rounding.HALF_EVEN, -128, 127)
        self.epilogue = Epilogue(np.zeros(0, dtype=np.int64), 0, zeros, nothing, 0, by)
        accumulator = int(graph.degree.max()) * 128 * (127 if weighted else 1)
        self.bounds = Bounds(128, accumulator, accumulator + (1 << shift >> 1))

    def arguments(self) -> tuple[CsrGraph, npt.NDArray[Any], Epilogue, Bounds, npt.NDArray[Any]]:
        """What `aggregate` takes, but the weights."""
        return self.graph, self.message, self.epilogue, self.bounds, self.out

    def calls(self) -> dict[str, Callable[[], object]]:
        """The contenders by name."""
        makers = {OURS: self._ours, PLAIN: self._plain, SIMD: self._simd, TORCH: self._torch, SCIPY: self._scipy}
        makers |= {FLOOR: self._floor, NARROW: self._narrow, COUNTING: self._counting}
        makers |= {name: self._packed(bits) for name, bits in ((INT4, 4), (INT2, 2), (INT1, 1))}
        return {name: makers[name]() for name in CONTENDERS[self.comparison.kind]}

    def _ours(self) -> Callable[[], object]:
        return lambda: aggregate(*self.arguments(), weights=self.weights)

    def _counting(self) -> Callable[[], object]:
        epilogue = self.epilogue._replace(clipped=np.zeros(2, dtype=np.int64))
        return lambda: aggregate(self.graph, self.message, epilogue, self.bounds, self.out)

    def _narrow(self) -> Callable[[], object]:
        rest = (aligned(self.message >> 4), self.epilogue, replace(self.bounds, magnitude=8), self.out)
        return lambda: aggregate(self.graph, *rest)

    def _plain(self) -> Callable[[], object]:
        scratch = np.empty(self.comparison.columns, dtype=np.int32)
        rest = (self.graph.indptr, self.graph.sources, self.message, self.epilogue, scratch, self.out)
        return lambda: aggregate_sum(*rest)

    def _packed(self, bits: int) -> Callable[[], Callable[[], object]]:
        def make() -> Callable[[], object]:
            packed = pack_codes(self.message.view(np.uint8) >> (8 - bits), bits, signed=False)
            packed = replace(packed, data=aligned(packed.data))
            total = self.bounds.total
            return lambda: aggregate_packed(self.graph, packed, self.epilogue, total, self.out)

        return make

    def _floats(self) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.float32]]:
        """Messages and the values of the edges."""
        values = np.ones(self.graph.sources.size, dtype=np.float32) if self.weights is None else self.weights
        return aligned(self.message.astype(np.float32)), values.astype(np.float32)

    def _simd(self) -> Callable[[], object]:
        x, values = self._floats()
        values, result = values[:1] if self.weights is None else values, aligned(np.empty_like(x))
        return lambda: sparse_products.sum_rows(self.graph.indptr, self.graph.sources, values, x, result)

    def _torch(self) -> Callable[[], object]:
        x, values = (torch.from_numpy(array) for array in self._floats())
        indptr, sources = (torch.from_numpy(a.astype(np.int64)) for a in (self.graph.indptr, self.graph.sources))
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)  # CSR is a beta feature of torch
            matrix = torch.sparse_csr_tensor(indptr, sources, values, size=(len(x), len(x)), check_invariants=False)
        return lambda: torch.sparse.mm(matrix, x)

    def _scipy(self) -> Callable[[], object]:
        x, values = self._floats()
        matrix = sparse.csr_array((values, self.graph.sources, self.graph.indptr), shape=(len(x), len(x)))
        return lambda: matrix @ x

    def _floor(self) -> Callable[[], object]:
        words = self.message.view(np.int64)
        return lambda: touch(self.graph.sources, words)


def measure(comparison: Comparison, graph: CsrGraph) -> Iterator[dict[str, object]]:
    """Quartiles of every contender, in milliseconds."""
    calls = Task(comparison, graph).calls()
    for call in calls.values():  # compiles, and fills the caches
        call()
    times: dict[str, list[float]] = {name: [] for name in calls}
    for turn in range(comparison.rounds):
        names = list(calls)
        for name in names[turn % len(names) :] + names[: turn % len(names)]:
            calls[name]()  # its own arrays come back into the caches
            started = time.process_time_ns()
            calls[name]()
            times[name].append((time.process_time_ns() - started) / 1e6)
    facts = {"kind": comparison.kind, "graph": comparison.graph, "columns": comparison.columns}
    facts |= {"nodes": graph.num_nodes, "edges": graph.sources.size}
    for name, seen in times.items():
        quartiles = {f"{q}_ms": round(float(np.quantile(seen, at)), 4) for q, at in QUARTILES.items()}
        yield {"key": comparison.key(name), **facts, "contender": name, **quartiles, "rounds": len(seen)}


QUARTILES = {"q1": 0.25, "median": 0.5, "q3": 0.75}


def run(comparisons: Sequence[Comparison], data_root: Path | None, target: Path) -> pd.DataFrame:
    """Measure what `target` does not hold yet, one comparison after the other; returns all current rows."""
    torch.set_num_threads(1)
    rows, keys = Rows(target), []
    for comparison in comparisons:
        wanted = [comparison.key(name) for name in CONTENDERS[comparison.kind]]
        keys += wanted
        if all(key in rows for key in wanted):
            continue
        for line in measure(comparison, read_graph(comparison.graph, data_root)):
            if str(line["key"]) not in rows:
                rows.add(line)
            print(f"{comparison.graph} {comparison.columns} {line['contender']}: {line['median_ms']} ms", flush=True)
    return rows.among(keys)


def summary(table: pd.DataFrame) -> str:
    """Medians with quartiles, and how many times as long every other contender takes as int8, as Markdown."""
    told = f"Made by `python -m benchmarks.kernels` on {cpu_name()}: one thread, in turns, processor time; ms, median "
    parts = [told + "and quartiles. `times` is the median over that of int8.\n"]
    for kind in CONTENDERS:
        rows = []
        for _, group in table[table["kind"] == kind].groupby(["columns", "graph"], sort=False):
            base = group.loc[group["contender"] == OURS, "median_ms"].iloc[0]
            for _, line in group.iterrows():
                spread = f"{line['median_ms']:.3f} ({line['q1_ms']:.3f} to {line['q3_ms']:.3f})"
                cells = [line["graph"], line["columns"], line["contender"], spread]
                rows.append([*cells, f"{line['median_ms'] / base:.2f}"])
        if rows:
            parts += [f"{kind}:\n", markdown_table(["graph", "columns", "", "ms", "times"], rows)]
    return "\n".join([*parts, "targets:\n", markdown_table(["what", "at least", "measured"], targets(table))])


def targets(table: pd.DataFrame) -> list[list[str]]:
    """What was set out to be reached, beside what was measured."""

    def times(kind: str, graph: str, columns: int, other: str, base: str = OURS) -> float:
        part = table[(table["kind"] == kind) & (table["graph"] == graph) & (table["columns"] == columns)]
        medians = part.set_index("contender")["median_ms"]
        return float(medians.get(other, np.nan) / medians.get(base, np.nan))

    def listed(values: Sequence[float]) -> str:
        return ", ".join(f"{value:.1f}" for value in values)

    pair = ("planetoid/PubMed", "amazon/Computers")
    small = [times("sum", graph, 64, TORCH) for graph in GRAPHS]
    rivals = [min(times("sum", graph, 256, other) for other in (TORCH, SCIPY)) for graph in pair]
    packed = [times("packed sum", "amazon/Computers", 128, OURS, name) for name in (INT4, INT2)]
    floor = 1 / times("large sum", RANDOM, 64, FLOOR)
    counted = [f"{times('counting', graph, 256, COUNTING):.3f}" for graph in GRAPHS]
    geometric = float(np.exp(np.mean(np.log(small))))
    return [
        ["PubMed, Computers, 256 columns, torch.sparse.mm", "15", listed([times("sum", g, 256, TORCH) for g in pair])],
        [f"{', '.join(GRAPHS)}, 64 columns, torch.sparse.mm", "6 each", listed(small)],
        ["their geometric mean", "9", f"{geometric:.1f}"],
        ["PubMed, Computers, 256 columns, the faster of torch.sparse.mm and scipy", "6", listed(rivals)],
        ["PubMed, Computers, 256 columns, fp32 SIMD", "4", listed([times("sum", g, 256, SIMD) for g in pair])],
        ["weighted, Computers, 256 columns, fp32 SIMD", "3.5", listed([times("weighted sum", pair[1], 256, SIMD)])],
        ["Computers, 128 columns, int8 over int4, over int2", "1.6, 2", ", ".join(f"{one:.2f}" for one in packed)],
        ["random graph, 64 columns, torch.sparse.mm", "6", listed([times("large sum", RANDOM, 64, TORCH)])],
        ["random graph, 64 columns, int8 over one word of every message", "at most 1.15", f"{floor:.2f}"],
        [f"{', '.join(GRAPHS)}, 256 columns, saturations counted, over int8", "at most 1.1", ", ".join(counted)],
    ]


def main() -> None:
    """Measure and write the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data-root", type=Path, help="folder of graphs in PyG's layout (also LPGNAS_DATA)")
    parser.add_argument("--quick", action="store_true", help="small graphs that ship with the package, few turns")
    parser.add_argument("--only", choices=list(CONTENDERS), help="one kind of comparison")
    parser.add_argument("--out", type=Path, default=RESULTS / "kernels.csv")
    options = parser.parse_args()
    chosen = [one for one in (QUICK if options.quick else COMPARISONS) if options.only in (None, one.kind)]
    run(chosen, options.data_root, options.out)
    rows = Rows(options.out).among(one.key(name) for one in (*COMPARISONS, *QUICK) for name in CONTENDERS[one.kind])
    options.out.with_suffix(".md").write_text(summary(rows))


if __name__ == "__main__":
    main()
