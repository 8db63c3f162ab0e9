"""Latency that a calibrated table predicts against what the executor takes, on graphs that were not calibrated on.

    lpgnas calibrate --out TABLE.json
    lpgnas search --dataset NAME --latency-table TABLE.json --latency-budget LIMIT --out RUN
    lpgnas train RUN; lpgnas lower RUN
    python -m benchmarks.latency_model --table TABLE.json --data-root FOLDER --runs RUN ...

One process and thread, processor time; `measured` is the prepared inference (`Inference.predict` of the executor) of
programs with random codes, timed as the table was (`lpgnas.calibration.Stopwatch`). Times depend on the machine: the
table has to be of the same one.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd

from benchmarks import RESULTS
from lpgnas.calibration import Stopwatch, Timed, synthetic_program
from lpgnas.components import WEIGHTS
from lpgnas.cost_models.latency import LatencyTable, Point
from lpgnas.cost_models.program_cost import program_cost
from lpgnas.cost_models.rows import GraphSize
from lpgnas.cost_models.spec_cost import spec_cost
from lpgnas.datasets import load_dataset
from lpgnas.errors import LatencyTableError
from lpgnas.graph import Graph
from lpgnas.kernels.executor import Executor
from lpgnas.machine import cpu_name
from lpgnas.number_formats import FormatChoice
from lpgnas.pipeline import Run
from lpgnas.preparation import default_max_degree, default_search_space
from lpgnas.report import markdown_table
from lpgnas.results import write_atomic
from lpgnas.spec import LayerSpec, ModelSpec, required_components

DATASETS = ("planetoid/Cora", "planetoid/CiteSeer", "planetoid/PubMed", "amazon/Photo", "amazon/Computers")
TURNS = 25
DRAWS = 6
"""Random models of the default search space on every graph."""
WITHIN = 0.2
UNTIMED = Point("logits", 1, 1, 1, 1, 1)
Block = tuple[str, str, str, int, int]
"""Attention, aggregation, activation, width and heads of a block that is not the last."""
MODELS: dict[str, tuple[int, str, tuple[Block, ...], tuple[str, str]]] = {
    "GCN, 1 block": (8, "fixed4", (), ("gcn", "sum")),
    "means, 1 block": (4, "ternary", (), ("const", "mean")),
    "GAT, 1 block": (8, "fixed8", (), ("gat", "sum")),
    "GCN-16": (8, "fixed4", (("gcn", "sum", "relu", 16, 1),), ("gcn", "sum")),
    "GCN-64": (8, "fixed8", (("gcn", "sum", "relu", 64, 1),), ("gcn", "sum")),
    "GCN-24, 3 bits": (3, "binary", (("gcn", "sum", "relu", 24, 1),), ("gcn", "sum")),
    "GCN-128": (6, "fixed4", (("gcn", "sum", "relu", 128, 1),), ("gcn", "sum")),
    "means and maxima, 32": (8, "ternary", (("const", "mean", "tanh", 32, 1),), ("const", "max")),
    "GAT, 8 x 8": (8, "fixed4", (("gat", "sum", "relu", 64, 8),), ("gat", "sum")),
    "GAT, 4 x 4": (4, "fixed4", (("gat", "mean", "tanh", 16, 4),), ("gat", "sum")),
    "symmetric GAT, 12": (8, "fixed4", (("sym-gat", "sum", "relu", 12, 1),), ("gcn", "sum")),
    "cosine, 16": (8, "fixed4", (("cos", "max", "relu", 16, 2),), ("const", "sum")),
    "linear, 48": (6, "fixed8", (("linear", "sum", "relu6", 48, 1),), ("gcn", "sum")),
    "gene-linear, 8": (8, "fixed4", (("gene-linear", "sum", "none", 8, 1),), ("const", "mean")),
    "own and neighbours, 32": (8, "fixed4", (("self", "sum", "relu", 32, 1),), ("gcn", "sum")),
    "GCN, 3 blocks of 32": (8, "fixed4", (("gcn", "sum", "relu", 32, 1),) * 2, ("gcn", "sum")),
    "mixed, 3 blocks": (
        4,
        "fixed4",
        (("gat", "sum", "tanh", 24, 2), ("const", "max", "sigmoid", 48, 1)),
        ("gcn", "sum"),
    ),
}
"""By name: bits of codes, format of weights, blocks, and attention and aggregation of the last one."""


def models(graph: Graph, draws: int = DRAWS) -> Iterator[tuple[str, ModelSpec]]:
    """The fixed models and random ones of the default search space, for a graph."""
    space = default_search_space(graph)
    base = space.spec(space.smallest())
    for name, (bits, weights, blocks, (attention, aggregation)) in MODELS.items():
        last = LayerSpec(attention, aggregation, "none", graph.num_classes)
        made = [LayerSpec(*block) for block in blocks] + [last]
        layers = tuple(_formats(one, bits, weights, last=one is last) for one in made)
        yield name, replace(base, layers=layers, input_words=None)
    rng = np.random.default_rng(0)
    for number in range(draws):
        yield f"random model {number}", space.spec(space.draw(rng))


def _formats(layer: LayerSpec, bits: int, weights: str, *, last: bool) -> LayerSpec:
    wanted = sorted(required_components(layer, last=last))
    formats = {one: FormatChoice.parse(weights) if one in WEIGHTS else FormatChoice("fixed", bits) for one in wanted}
    return replace(layer, formats=formats)


def measure(
    table: LatencyTable, graph: Graph, specs: Sequence[tuple[str, ModelSpec]], watch: Stopwatch, turns: int
) -> pd.DataFrame:
    """One row a model: predicted nanoseconds, and the time relative to that of the stopwatch's reference."""
    size, timed, rows = GraphSize.of(graph), [], []
    for name, spec in specs:
        program = synthetic_program(spec, default_max_degree(graph))
        predicted = program_cost(program, size, latency=table).quantity("latency_ns")
        if predicted != spec_cost(spec, size, latency=table).latency_ns:
            raise LatencyTableError(f"{name}: a spec and its program do not take equally long")
        inference = Executor(program).prepare(graph.x, graph.edge_index)
        inference.predict()
        timed.append(Timed(inference.predict, UNTIMED))
        rows.append({"graph": graph.name, "model": name, "predicted_ns": predicted})
    for row, ratio in zip(rows, watch.ratios(timed, turns), strict=True):
        row["ratio_to_reference"] = ratio
    return pd.DataFrame(rows)


def measure_runs(
    table: LatencyTable, folders: Sequence[Path], data_root: Path | None, watch: Stopwatch, turns: int
) -> pd.DataFrame:
    """One row a run that was searched under a limit on latency with this table: its limit and its winner's times."""
    rows = []
    for folder in folders:
        run = Run(folder, None, data_root)
        graph, program = run.prepared.graph, run.program()
        inference = Executor(program).prepare(graph.x, graph.edge_index)
        inference.predict()
        (ratio,) = watch.ratios([Timed(inference.predict, UNTIMED)], turns)
        rows.append(
            {
                "graph": graph.name,
                "model": "winner of a search",
                "limit_ns": run.config.budget()["latency_ns"],
                "predicted_ns": program_cost(program, GraphSize.of(graph), latency=table).quantity("latency_ns"),
                "ratio_to_reference": ratio,
            }
        )
    return pd.DataFrame(rows)


def summary(rows: pd.DataFrame) -> str:
    """Shares within 20 % by graph, the searches, and every model, as Markdown."""
    limited = rows["limit_ns"].notna() if "limit_ns" in rows else pd.Series(data=False, index=rows.index)
    searched, rows = rows[limited], rows[~limited]
    error = (rows["ratio"] - 1.0).abs()
    lines = []
    for name, own in rows.groupby("graph", sort=False):
        off = error[own.index]
        worst = own.loc[off.idxmax()]
        lines.append(
            [name, len(own), f"{100 * (off <= WITHIN).mean():.0f} %", f"{100 * off.median():.1f} %",
             f"{worst['ratio']:.2f} ({worst['model']})"]
        )  # fmt: skip
    lines.append(
        ["all", len(rows), f"{100 * (error <= WITHIN).mean():.0f} %", f"{100 * error.median():.1f} %",
         f"{rows.loc[error.idxmax(), 'ratio']:.2f}"]
    )  # fmt: skip
    told = (
        "Made by `python -m benchmarks.latency_model --table TABLE.json --data-root FOLDER --runs RUN ...` on "
        f"{cpu_name()}, one thread, processor time, with a table of `lpgnas calibrate` on the same machine. Prepared "
        "inferences of programs with random codes; a ratio is predicted over measured.\n\n"
    )
    whole = markdown_table(["graph", "models", "within 20 %", "median error", "worst ratio"], lines)
    each = [
        [row.graph, row.model, f"{row.predicted_ns / 1e6:.3f}", f"{row.measured_ns / 1e6:.3f}", f"{row.ratio:.2f}"]
        for row in rows.itertuples()
    ]
    found = [
        [
            row.graph,
            f"{row.limit_ns / 1e6:.3f}",
            f"{row.predicted_ns / 1e6:.3f}",
            f"{row.measured_ns / 1e6:.3f}",
            f"{row.ratio:.2f}",
        ]
        for row in searched.itertuples()
    ]
    if found:
        head = ["winner of a search on", "limit ms", "predicted ms", "measured ms", "ratio"]
        whole += "\n" + markdown_table(head, found)
    return told + whole + "\n" + markdown_table(["graph", "model", "predicted ms", "measured ms", "ratio"], each)


def main() -> None:
    """Measure, and write the CSV and the Markdown."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--table", type=Path, required=True)
    parser.add_argument("--data-root", type=Path)
    parser.add_argument("--datasets", nargs="+", default=DATASETS)
    parser.add_argument("--runs", nargs="+", type=Path, default=(), help="run folders, searched and lowered")
    parser.add_argument("--turns", type=int, default=TURNS)
    parser.add_argument("--out", type=Path, default=RESULTS)
    options = parser.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)
    table = LatencyTable.load(options.table)
    parts, watch = [], Stopwatch()
    for name in options.datasets:
        graph = load_dataset(name, options.data_root)
        parts.append(measure(table, graph, list(models(graph)), watch, options.turns))
    parts.append(measure_runs(table, options.runs, options.data_root, watch, options.turns))
    rows = pd.concat(parts, ignore_index=True)
    rows["measured_ns"] = (rows.pop("ratio_to_reference") * watch.reference).round().astype(int)
    rows["ratio"] = (rows["predicted_ns"] / rows["measured_ns"]).round(4)
    write_atomic(options.out / "latency_model.csv", rows.to_csv(index=False, lineterminator="\n"))
    write_atomic(options.out / "latency_model.md", summary(rows))


if __name__ == "__main__":
    main()
