"""What sampled neighbourhoods cost in accuracy: a program on the neighbourhood of each node, and on the whole graph.

    python -m benchmarks.neighbourhoods runs/cora runs/pubmed

The nodes are the validation nodes of each run; test nodes are not looked at. Each has a neighbourhood of its own, with
at most `fan out` incoming edges a node, drawn for several seeds; `agreement` is the share of nodes whose class is that
of full inference. Without a limit every logit has to be that of full inference, to the last bit. `padded to` are the
nodes that fit every neighbourhood of this fan-out: 1 + f + f^2 for two hops.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pandas as pd

from benchmarks import RESULTS
from lpgnas.errors import CheckFailed
from lpgnas.export.neighbourhoods import NeighbourSampler, hops_of
from lpgnas.graph import Graph
from lpgnas.integer_program import IntegerProgram
from lpgnas.kernels.executor import Executor
from lpgnas.pipeline import Run
from lpgnas.report import markdown_table
from lpgnas.results import write_atomic

FAN_OUTS = (1, 2, 3, 4, 6, 8, 16, None)
PERCENT = ("full_accuracy", "accuracy", "accuracy_deviation", "loss", "agreement")
IntArray = npt.NDArray[np.int64]


def neighbourhood_codes(executor: Executor, sampler: NeighbourSampler, nodes: IntArray) -> tuple[IntArray, IntArray]:
    """Codes of the logits [K, C] of each node by its own neighbourhood, and the sizes [K] of these."""
    rows, sizes = [], []
    for node in nodes.tolist():
        made = sampler.around(node).graph
        rows.append(executor.run(made.x, made.edge_index).codes[0])
        sizes.append(made.num_nodes)
    return np.array(rows), np.array(sizes, dtype=np.int64)


def measure(
    program: IntegerProgram, graph: Graph, nodes: IntArray, fan_outs: Sequence[int | None], seeds: int
) -> pd.DataFrame:
    """One row a fan-out, for a labelled graph.

    Raises:
        CheckFailed: without a limit a logit differs from that of full inference.
    """
    executor, hops = Executor(program), hops_of(program)
    full, labels = executor.run(graph.x, graph.edge_index).codes[nodes], np.asarray(graph.y)[nodes]
    full_accuracy = float((full.argmax(axis=1) == labels).mean())
    rows = []
    for fan_out in fan_outs:
        accuracies, agreements, sizes = [], [], np.zeros(0, dtype=np.int64)
        for seed in range(1 if fan_out is None else seeds):
            sampler = NeighbourSampler(graph, hops, fan_out, seed)
            codes, counted = neighbourhood_codes(executor, sampler, nodes)
            if fan_out is None and not np.array_equal(codes, full):
                raise CheckFailed(f"{graph.name}: whole neighbourhoods do not give the logits of full inference")
            accuracies.append(float((codes.argmax(axis=1) == labels).mean()))
            agreements.append(float((codes.argmax(axis=1) == full.argmax(axis=1)).mean()))
            sizes = np.concatenate([sizes, counted])
        rows.append(
            {
                "graph": graph.name,
                "fan_out": "all" if fan_out is None else str(fan_out),
                "hops": hops,
                "nodes_measured": len(nodes),
                "seeds": len(accuracies),
                "padded_to": "" if fan_out is None else str(sum(fan_out**hop for hop in range(hops + 1))),
                "median_nodes": int(np.median(sizes)),
                "most_nodes": int(sizes.max()),
                "full_accuracy": round(100 * full_accuracy, 1),
                "accuracy": round(100 * float(np.mean(accuracies)), 1),
                "accuracy_deviation": round(100 * float(np.std(accuracies)), 1),
                "loss": round(100 * (full_accuracy - float(np.mean(accuracies))), 1) + 0.0,  # no -0.0
                "agreement": round(100 * float(np.mean(agreements)), 1),
            }
        )
    return pd.DataFrame(rows)


def summary(table: pd.DataFrame) -> str:
    """The table as Markdown."""
    header = [f"{name.replace('_', ' ')}{' %' * (name in PERCENT)}" for name in table.columns]
    told = "Made by `python -m benchmarks.neighbourhoods RUN ...`, on the validation nodes of each run.\n"
    return f"{told}\n{markdown_table(header, table.values.tolist())}"


def main(arguments: Sequence[str] | None = None) -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("runs", type=Path, nargs="+", help="run folders")
    parser.add_argument("--seeds", type=int, default=5, help="draws of each fan-out")
    parser.add_argument("--data-root", type=Path, help="folder of graphs")
    parser.add_argument(
        "--out",
        type=Path,
        default=RESULTS / "neighbourhoods.csv",
        help="a CSV file; the table for people lies beside it",
    )
    options = parser.parse_args(arguments)
    tables = []
    for folder in options.runs:
        run = Run(folder, None, options.data_root)
        prepared = run.prepared
        nodes = np.flatnonzero(prepared.split.val)
        tables.append(measure(run.program(), prepared.graph, nodes, FAN_OUTS, options.seeds))
    table = pd.concat(tables, ignore_index=True)
    print(table.to_string(index=False))
    write_atomic(options.out, table.to_csv(index=False, lineterminator="\n"))
    write_atomic(options.out.with_suffix(".md"), summary(table))


if __name__ == "__main__":
    main()
