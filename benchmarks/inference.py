"""Whole inferences of two-layer models with 64 hidden columns beside the same architecture in float32.

    python -m benchmarks.inference --data-root FOLDER --work runs/inference

`searched` is the winner of a short search among two-block models of that width within 64 KiB, `GCN` a manual one with
4-bit weights and 8-bit codes; both are trained, lowered and kept under `--work`. One process, one thread, in turns, in
processor time of the process; each call is timed right after another of the same contender. `integers, prepared` are
the operations of a program on a prepared graph, up to decoded logits; `whole` takes in everything from float features
and an edge list on. torch has CSR matrices of the features and the normalised adjacency prepared.
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path
from typing import Any

import pandas as pd
import torch

from benchmarks import RESULTS
from lpgnas import api
from lpgnas.bench import PREPARED, by_operation, contenders, interleaved
from lpgnas.budget import Budget
from lpgnas.machine import cpu_name
from lpgnas.pipeline import Run
from lpgnas.report import markdown_table
from lpgnas.results import write_atomic

TORCH, WHOLE = "torch CSR, float32", "integers, whole"
GRAPHS = {"planetoid/Cora": 8.0, "amazon/Photo": 8.0, "planetoid/PubMed": 5.0}
"""How many times as long as the integers torch was set out to take."""
QUICK = {"cora": 8.0}
TRAINING: dict[str, Any] = {"epochs": 80, "restarts": 1, "reference_seeds": 1}
MODELS: dict[str, dict[str, Any]] = {
    "searched": {"blocks": (2,), "widths": (64,), "candidates": 8, "supernet_steps": 60},
    "GCN": {
        "strategy": "uniform",
        "architecture": "gcn",
        "hidden": 64,
        "weight_format": "fixed4",
        "activation_bits": 8,
    },
}


def lowered(model: str, graph: str, data_root: Path | None, work: Path, training: dict[str, Any]) -> Run:
    """The run of a model on a graph, searched, trained and lowered where it is not."""
    options = MODELS[model] | training
    budget = Budget(weights="64KiB") if model == "searched" else None
    folder = work / f"{model}-{graph.rpartition('/')[2]}"
    result = api.search(graph, budget, out=folder, data_root=data_root, **options)
    return Run(result.lower().folder, None, data_root)


def measure(run: Run, rounds: int) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """Quartiles of the contenders and of the operations."""
    program, model, graph = run.program(), run.model(), run.prepared.graph
    wanted = (PREPARED, WHOLE, TORCH)
    timed = [one for one in contenders(program, model, graph) if one.name in wanted]
    measured = interleaved(timed, rounds, time.process_time_ns)
    return measured, by_operation(program, graph, rounds, time.process_time_ns)


def rows_of(graph: str, model: str, run: Run, rounds: int) -> list[dict[str, Any]]:
    """One row a contender and operation."""
    spec = run.spec()
    shape = " -> ".join(f"{one.attention} {one.aggregation} {one.width}" for one in spec.layers)
    facts = {"graph": graph, "model": model, "blocks": shape, "words": spec.input_words or spec.num_features}
    measured, operations = measure(run, rounds)
    named = [("inference", one["name"], one) for one in measured]
    named += [("operation", f"{one['block']}: {one['operation']} {one['writes']}", one) for one in operations]
    times = ("median_ms", "q1_ms", "q3_ms")
    return [{**facts, "kind": kind, "what": what, **{k: one[k] for k in times}} for kind, what, one in named]


def summary(rows: pd.DataFrame, rounds: int, targets: dict[str, float]) -> str:
    """The tables as Markdown."""
    told = (
        f"Made by `python -m benchmarks.inference --data-root FOLDER` on {cpu_name()}: one thread, {rounds} rounds, in "
        "turns, processor time; ms, median and quartiles. `times` is torch's median over that of prepared integers.\n"
    )
    lines, profile = [], []
    for (graph, model), part in rows.groupby(["graph", "model"], sort=False):
        blocks, words = part["blocks"].iloc[0], part["words"].iloc[0]
        whole = part[part["kind"] == "inference"].set_index("what")
        ratio = whole.loc[TORCH, "median_ms"] / whole.loc[PREPARED, "median_ms"]
        cells = [_spread(whole.loc[name]) for name in (PREPARED, WHOLE, TORCH)]
        lines.append([graph, model, blocks, words, *cells, f"{ratio:.1f}", f"{targets[graph]:g}"])
        for row in part[part["kind"] == "operation"].itertuples():
            share = row.median_ms / whole.loc[PREPARED, "median_ms"]
            profile.append([graph, model, row.what, _spread(row._asdict()), f"{100 * share:.0f} %"])
    header = ["graph", "model", "blocks", "words", PREPARED, WHOLE, TORCH, "times", "target"]
    shares = markdown_table(["graph", "model", "operation", "ms", "of the prepared integers"], profile)
    return f"{told}\n{markdown_table(header, lines)}\nOperations, one by one:\n\n{shares}"


def _spread(row: Any) -> str:  # noqa: ANN401 - a row of a table
    return f"{row['median_ms']:.3f} ({row['q1_ms']:.3f} to {row['q3_ms']:.3f})"


def main() -> None:
    """Measure and write the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data-root", type=Path, help="folder of graphs in PyG's layout (also LPGNAS_DATA)")
    parser.add_argument("--work", type=Path, default=Path("runs/inference"), help="where the runs are kept")
    parser.add_argument("--rounds", type=int, default=41)
    parser.add_argument("--quick", action="store_true", help="the embedded graph, one epoch, few rounds")
    parser.add_argument("--out", type=Path, default=RESULTS / "inference.csv")
    options = parser.parse_args()
    if options.quick and options.out == parser.get_default("out"):
        parser.error("--quick measures too little for the committed table; say where its own goes with --out")
    targets, rounds = (QUICK, 3) if options.quick else (GRAPHS, options.rounds)
    training = TRAINING | ({"epochs": 1} if options.quick else {})
    made = [
        (graph, model, lowered(model, graph, options.data_root, options.work, training))
        for graph in targets
        for model in MODELS
    ]
    torch.set_num_threads(1)
    rows = pd.DataFrame([row for graph, model, run in made for row in rows_of(graph, model, run, rounds)])
    write_atomic(options.out, rows.to_csv(index=False, lineterminator="\n"))
    write_atomic(options.out.with_suffix(".md"), summary(rows, rounds, targets))


if __name__ == "__main__":
    main()
