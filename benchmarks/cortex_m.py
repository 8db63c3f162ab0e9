"""Flash, RAM, stack and instructions of a run's C code on emulated Cortex-M, for a neighbourhood of one node.

    python -m benchmarks.cortex_m runs/cora

The graph is the nearest nodes of a node, compiled in; their features are constants beside the model. The codes must be
those of the kernels. `optimize` is gcc's option; instructions are counted by QEMU's clock (see `export/cortex_m.py`).
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd

from benchmarks import RESULTS
from lpgnas.config import RunConfig
from lpgnas.datasets import load_dataset
from lpgnas.errors import CheckFailed
from lpgnas.export.c_code import CodeOptions, arena_bytes, export_c
from lpgnas.export.cortex_m import BOARDS, run_on_cortex_m
from lpgnas.graph import Graph
from lpgnas.integer_program import IntegerProgram
from lpgnas.kernels.arena import plan_arena
from lpgnas.kernels.csr import CsrGraph
from lpgnas.kernels.executor import Executor
from lpgnas.kernels.quantize import quantize_features
from lpgnas.program_file import load_program
from lpgnas.report import markdown_table
from lpgnas.results import read_text, write_atomic

OPTIONS = ("-Os", "-O2")


def neighbourhood(graph: Graph, node: int, nodes: int) -> Graph:
    """The subgraph of the `nodes` nodes (or fewer) that reach `node` over the fewest edges, `node` first."""
    csr = CsrGraph.from_edges(graph.edge_index, graph.num_nodes, self_loops=False)
    found = [node]
    for current in found:  # it grows on the way
        incoming = csr.sources[csr.indptr[current] : csr.indptr[current + 1]].tolist()
        found += [source for source in dict.fromkeys(incoming) if source not in found]
        if len(found) >= nodes:
            break
    kept = found[:nodes]
    place = np.full(graph.num_nodes, -1, dtype=np.int64)
    place[kept] = np.arange(len(kept))
    edges = place[graph.edge_index]
    inside = (edges >= 0).all(axis=0)
    return Graph(f"{len(kept)} nodes around node {node}", graph.x[kept], np.ascontiguousarray(edges[:, inside]))


def measure(program: IntegerProgram, graph: Graph) -> pd.DataFrame:
    """One row a processor and optimisation.

    Raises:
        CheckFailed: the emulated processor gives other codes than the kernels.
    """
    csr = CsrGraph.from_edges(graph.edge_index, graph.num_nodes, self_loops=False)
    source = export_c(program, CodeOptions(graph=csr))
    codes = quantize_features(graph.x, program.input_format, program.rounding)
    wanted = Executor(program).run(graph.x, graph.edge_index).codes
    constant_bits = sum(array.values.size * array.bits for array in program.arrays)
    rows = []
    for processor in BOARDS:
        for optimize in OPTIONS:
            made = run_on_cortex_m(program, source, codes, processor=processor, optimize=optimize)
            if not np.array_equal(made.codes, wanted):
                raise CheckFailed(f"{processor} {optimize}: codes differ from those of the kernels")
            rows.append(
                {
                    "processor": processor,
                    "optimize": optimize,
                    "nodes": graph.num_nodes,
                    "edges": graph.num_edges,
                    "weight_bytes": -(-constant_bits // 8),
                    "constant_bytes": made.constant_bytes,
                    "code_bytes": made.code_bytes,
                    "flash_bytes": made.flash_bytes,
                    "plan_bytes": plan_arena(program, graph.num_nodes).size,
                    "arena_bytes": arena_bytes(program, graph.num_nodes),
                    "ram_bytes": made.ram_bytes,
                    "stack_bytes": made.stack_bytes,
                    "instructions": made.instructions,
                }
            )
    return pd.DataFrame(rows)


def main(arguments: Sequence[str] | None = None) -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path, help="a run folder")
    parser.add_argument("--node", type=int, default=0, help="in the middle of the neighbourhood")
    parser.add_argument("--nodes", type=int, default=32, help="of the neighbourhood")
    parser.add_argument("--data-root", type=Path, help="folder of graphs")
    parser.add_argument(
        "--out", type=Path, default=RESULTS / "cortex_m.csv", help="a CSV file; the table for people lies beside it"
    )
    options = parser.parse_args(arguments)
    config = RunConfig.from_toml(read_text(options.run / "config.toml")).located(options.run)
    graph = load_dataset(config.dataset, options.data_root, require_labels=False)
    table = measure(load_program(options.run / "program.npz"), neighbourhood(graph, options.node, options.nodes))
    print(table.to_string(index=False))
    write_atomic(options.out, table.to_csv(index=False, lineterminator="\n"))
    shown = table.drop(columns=["nodes", "edges"])
    header = [name.replace("_", " ") for name in shown.columns]
    write_atomic(options.out.with_suffix(".md"), markdown_table(header, shown.values.tolist()))


if __name__ == "__main__":
    main()
