"""The time of a whole `lpgnas run` beside 200 epochs of PyG's GCN-16 on the same graph.

    python -m benchmarks.run_time --dataset cora planetoid/PubMed --seeds 10 --data-root FOLDER

Each is a process of its own with one thread; the two take turns. `whole` is the time of the process, imports included;
`work` leaves out imports and loading: the stages of the run, the training loop of PyG. PyG's model is configured as its
documentation does: dropout 0.5, dense normalised features, cached adjacency, Adam at 0.01 with weight decay 5e-4 on the
first layer, an evaluation each epoch. Rows are keyed by a hash of what they measure and appended to
`benchmarks/results/run_time.csv`; what is there is not measured again. Run something once before, so that Numba's
kernels are compiled.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from itertools import product
from pathlib import Path

import numpy as np
import pandas as pd

from benchmarks import RESULTS
from lpgnas import __version__
from lpgnas.datasets import default_protocol, load_dataset, make_split
from lpgnas.known_effects import effects_digest
from lpgnas.report import markdown_table
from lpgnas.results import read_record
from lpgnas.rows import Rows, key_of
from lpgnas.teachers import recipe

BUDGETS = {
    "cora": ("3KiB", "60KiB"),
    "planetoid/Cora": ("3KiB", "60KiB"),
    "planetoid/CiteSeer": ("7.5KiB", "65KiB"),
    "planetoid/PubMed": ("2KiB", "350KiB"),
}
"""Weight and buffer budget of each graph."""
EPOCHS, HIDDEN, DROPOUT, LEARNING_RATE, WEIGHT_DECAY = 200, 16, 0.5, 0.01, 5e-4
RUN, PYG = "lpgnas run", "PyG GCN-16"


def time_run(dataset: str, seed: int, data_root: Path | None) -> dict[str, float]:
    """One `lpgnas run`, as a user calls it."""
    weights, buffers = BUDGETS[dataset]
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "run"
        command = ["lpgnas.cli", "run", "--quiet", "--dataset", dataset, "--seed", str(seed), "--threads", "1"]
        command += ["--weight-budget", weights, "--buffer-budget", buffers, "--out", str(out)]
        whole, _ = _timed([*command, *_root(data_root)])
        stages = read_record(out / "record.json")["stages"]
    return {
        "whole_seconds": whole,
        "work_seconds": sum(stage["seconds"] for stage in stages.values()),
        "test_accuracy": stages["evaluate"]["accuracy"]["test"],
    }


def time_pyg(dataset: str, seed: int, data_root: Path | None) -> dict[str, float]:
    """One training by PyG, in a process of its own."""
    options = ["--pyg", "--dataset", dataset, "--seed", str(seed), *_root(data_root)]
    whole, printed = _timed(["benchmarks.run_time", *options])
    measured: dict[str, float] = json.loads(printed)
    return {"whole_seconds": whole, **measured}


def _root(data_root: Path | None) -> list[str]:
    return [] if data_root is None else ["--data-root", str(data_root.resolve())]


def _timed(module: list[str]) -> tuple[float, str]:
    """Seconds and output of a Python module in a process of its own, with one thread."""
    threads = dict.fromkeys(("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS", "NUMBA_NUM_THREADS"), "1")
    started = time.perf_counter()
    done = subprocess.run(
        [sys.executable, "-m", *module], env={**os.environ, **threads}, capture_output=True, text=True, check=False
    )
    seconds = time.perf_counter() - started
    if done.returncode:
        raise RuntimeError(f"{' '.join(module)} ended with {done.returncode}: {done.stderr}")
    return seconds, done.stdout


def train_pyg(dataset: str, seed: int, data_root: Path | None) -> dict[str, float]:
    """PyG's GCN-16 for 200 epochs; times the loop only."""
    import torch
    from torch.nn import functional
    from torch_geometric.nn import GCNConv

    graph = load_dataset(dataset, data_root)
    split = make_split(graph, default_protocol(dataset), 0)
    dense = graph.x if isinstance(graph.x, np.ndarray) else graph.x.toarray()
    x = torch.from_numpy(dense / np.maximum(dense.sum(axis=1, keepdims=True), 1.0))
    edges, y = torch.from_numpy(graph.edge_index), torch.from_numpy(np.asarray(graph.y))
    train, val, test = (torch.from_numpy(mask) for mask in (split.train, split.val, split.test))
    torch.set_num_threads(1)
    torch.manual_seed(seed)
    first = GCNConv(graph.num_features, HIDDEN, cached=True)
    second = GCNConv(HIDDEN, graph.num_classes, cached=True)
    groups = [
        {"params": first.parameters(), "weight_decay": WEIGHT_DECAY},
        {"params": second.parameters(), "weight_decay": 0.0},
    ]
    optimizer = torch.optim.Adam(groups, lr=LEARNING_RATE)

    def forward(*, training: bool) -> torch.Tensor:
        hidden = first(functional.dropout(x, DROPOUT, training), edges).relu()
        logits: torch.Tensor = second(functional.dropout(hidden, DROPOUT, training), edges)
        return logits

    best, kept = -1.0, y
    started = time.perf_counter()
    for _ in range(EPOCHS):
        optimizer.zero_grad()
        functional.cross_entropy(forward(training=True)[train], y[train]).backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        with torch.no_grad():
            classes = forward(training=False).argmax(dim=1)
        accuracy = float((classes[val] == y[val]).double().mean())
        if accuracy >= best:
            best, kept = accuracy, classes
    seconds = time.perf_counter() - started
    return {"work_seconds": seconds, "test_accuracy": float((kept[test] == y[test]).double().mean())}


def run(datasets: list[str], seeds: int, data_root: Path | None, target: Path) -> pd.DataFrame:
    """Measure what `target` does not hold yet, the two in turns, saving after every row; returns all current rows."""
    rows = Rows(target)
    for dataset in datasets:
        for seed in range(seeds):
            for what, measure in ((RUN, time_run), (PYG, time_pyg)):
                key = row_key(dataset, what, seed)
                if key in rows:
                    continue
                facts, measured = {"dataset": dataset, "what": what, "seed": seed}, measure(dataset, seed, data_root)
                rows.add({"key": key, **facts, **{name: round(value, 4) for name, value in measured.items()}})
                print(f"{dataset} seed {seed} {what}: {measured['whole_seconds']:.1f} s", flush=True)
    return rows.among(row_key(*one) for one in product(BUDGETS, (RUN, PYG), rows.seeds()))


def row_key(dataset: str, what: str, seed: int) -> str:
    """Hash of everything that decides a row or the one beside it: the two are timed in turns."""
    facts: dict[str, object] = {"dataset": dataset, "what": what, "seed": seed, "epochs": EPOCHS}
    facts |= {"lpgnas": __version__, "budgets": BUDGETS[dataset]}
    return key_of({**facts, "teacher": recipe(), "known_effects": effects_digest()})


def summary(table: pd.DataFrame) -> str:
    """Medians over seeds, and the ratios of the medians, as Markdown: a table for each graph and its protocol."""
    header = ["", "seeds", "whole, s", "work, s", "test accuracy %"]
    parts = ["Made by `python -m benchmarks.run_time`: one thread each, in turns; median, lowest to highest.\n"]
    for dataset, (weights, buffers) in BUDGETS.items():
        part = table[table["dataset"] == dataset]
        ours, theirs = part[part["what"] == RUN], part[part["what"] == PYG]
        if ours.empty or theirs.empty:
            continue
        rows = []
        for side, name in ((ours, RUN), (theirs, PYG)):
            accuracy = 100 * side["test_accuracy"]
            cells = [_spread(side[column]) for column in ("whole_seconds", "work_seconds")]
            rows.append([name, len(side), *cells, f"{accuracy.mean():.1f} ± {accuracy.std(ddof=1):.1f}"])
        ratios = [ours[c].median() / theirs[c].median() for c in ("whole_seconds", "work_seconds")]
        rows.append(["ratio of the medians", "", *(f"{ratio:.2f}" for ratio in ratios), ""])
        title = f"{dataset}, split {default_protocol(dataset)}, {weights} of weights and {buffers} of buffers:"
        parts += [title + "\n", markdown_table(header, rows)]
    return "\n".join(parts)


def _spread(values: pd.Series) -> str:
    return f"{values.median():.1f} ({values.min():.1f} to {values.max():.1f})"


def main() -> None:
    """Measure and write the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data-root", type=Path, help="folder of graphs in PyG's layout (also LPGNAS_DATA)")
    parser.add_argument("--dataset", nargs="+", default=["cora"], choices=list(BUDGETS))
    parser.add_argument("--seeds", type=int, default=10)
    parser.add_argument("--out", type=Path, default=RESULTS / "run_time.csv")
    parser.add_argument("--pyg", action="store_true", help=argparse.SUPPRESS)  # the process that PyG is timed in
    parser.add_argument("--seed", type=int, default=0, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.pyg:
        print(json.dumps(train_pyg(options.dataset[0], options.seed, options.data_root)))
        return
    rows = run(options.dataset, options.seeds, options.data_root, options.out)
    options.out.with_suffix(".md").write_text(summary(rows))


if __name__ == "__main__":
    main()
