"""Which teacher: GCNs, APPNP, or APPNP that has to be consistent, and what its students gain by sharpening.

    python -m benchmarks.teachers --seeds 4 --data-root FOLDER

On splits drawn anew with some training labels a class. The public test nodes take no part; 250 nodes stop early, and
accuracies are those of the other nodes, so that the choice of a teacher has seen no node that the public table tests
on. Each row is a teacher of three members. Of the kind that a run takes on such a split, students of 16 units learn as
in a run: from its probabilities sharpened and as they are. Rows are appended to `benchmarks/results/teachers.csv`;
what is there is not measured again.
"""

from __future__ import annotations

import argparse
from dataclasses import asdict, replace
from itertools import product
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from benchmarks import RESULTS
from lpgnas import __version__
from lpgnas.config import RunConfig
from lpgnas.datasets import load_dataset
from lpgnas.graph import BoolArray, Graph
from lpgnas.manual_models import ModelShape, UniformFormats, manual_spec
from lpgnas.pipeline import EVALUATE_EVERY
from lpgnas.preparation import search_space
from lpgnas.report import markdown_table
from lpgnas.rows import Rows, key_of
from lpgnas.teachers import BALANCE, CONFIDENCE, Kind, recipe, sharpened, soft_labels, usual_kind, usual_share
from lpgnas.training import TrainingSettings, train_model, transductive_data

DATASETS = ("planetoid/Cora", "planetoid/CiteSeer", "planetoid/PubMed")
UNBALANCED = "consistent APPNP, not balanced"
KINDS: dict[str, tuple[Kind, float]] = {
    "GCN": ("GCN", 0.0),
    "APPNP": ("APPNP", 0.0),
    UNBALANCED: ("consistent APPNP", 0.0),
    "consistent APPNP": ("consistent APPNP", BALANCE),
}
"""Kinds of members, and the weight of the balance of classes."""
PAIRS = (("APPNP", "GCN"), (UNBALANCED, "APPNP"), ("consistent APPNP", "APPNP"))
LABELS = (3, 20, 100)
"""Training labels a class."""
FLAT = "not sharpened"
STUDENTS = {"W1A8": ("binary", 8), "W4A4": ("fixed4", 4)}
CONFIDENCES = {"": CONFIDENCE, f", {FLAT}": 0.0}
SETTINGS = TrainingSettings(learning_rate=0.03, evaluate_every=EVALUATE_EVERY)
TEACHER = replace(SETTINGS, epochs=100, distillation=0.0)
STOP, HIDDEN = 250, 16


def drawn_split(graph: Graph, labels: int | None, seed: int) -> tuple[BoolArray, BoolArray, BoolArray]:
    """Training, early-stopping and measured nodes, none of them a public test node.

    Args:
        graph: with labels and a public split.
        labels: training labels a class; None for 60 % of the nodes.
        seed: of the draw.
    """
    if graph.y is None or graph.masks is None:
        raise ValueError(f"{graph.name} has no labels or no public split")
    order = np.random.default_rng(100 + seed).permutation(np.flatnonzero(~graph.masks.test))
    if labels is None:
        train = order[: len(order) * 6 // 10]
    else:
        train = np.concatenate([order[graph.y[order] == one][:labels] for one in range(graph.num_classes)])
    rest = order[~np.isin(order, train)]
    masks = [np.isin(np.arange(graph.num_nodes), part) for part in (train, rest[:STOP], rest[STOP:])]
    return masks[0], masks[1], masks[2]


def measure(graph: Graph, labels: int, kind: str, seed: int) -> dict[str, float]:
    """Accuracies of a teacher and, of the kind that a run takes, of its students."""
    train, stop, measured = drawn_split(graph, labels, seed)
    data, shape = transductive_data(graph, train, stop), ModelShape.of(search_space(graph, RunConfig(graph.name)))
    members, balance = KINDS[kind]

    flat = soft_labels(
        data,
        TEACHER,
        seed,
        row_normalize=shape.row_normalize,
        input_signed=shape.input_signed,
        num_classes=graph.num_classes,
        kind=members,
        balance=balance,
        confidence=0.0,
    )

    def accuracy(logits: Tensor) -> float:
        return float((logits.argmax(dim=1).numpy() == graph.y)[measured].mean())

    result, settings = {"teacher": accuracy(flat)}, replace(SETTINGS, distillation=usual_share(data.train))
    if kind != usual_kind(data, shape):
        return result
    for label, confidence in CONFIDENCES.items():
        soft = sharpened(flat, confidence)
        for name, (weights, bits) in STUDENTS.items():
            spec = manual_spec("gcn", shape, HIDDEN, UniformFormats.of(weights, bits))
            model = train_model(spec, data, settings, seed, teacher=soft).model
            with torch.no_grad():
                result[name + label] = accuracy(model(data.tensors(model, stop=False)))
    return result


def run(seeds: int, data_root: Path | None, target: Path) -> pd.DataFrame:
    """Measure what `target` does not hold yet, saving after every row; returns the rows of these settings."""
    torch.set_num_threads(1)
    rows = Rows(target)
    for seed in range(seeds):
        for dataset in DATASETS:
            graph = load_dataset(dataset, data_root)
            for labels in LABELS:
                for kind in KINDS:
                    key = row_key(dataset, labels, kind, seed)
                    if key not in rows:
                        measured = measure(graph, labels, kind, seed)
                        facts = {"key": key, "dataset": dataset, "labels": labels, "kind": kind, "seed": seed}
                        rows.add({**facts, **{name: round(value, 6) for name, value in measured.items()}})
                        print(facts, {name: f"{100 * value:.1f}" for name, value in measured.items()}, flush=True)
    return rows.among(row_key(*one) for one in product(DATASETS, LABELS, KINDS, rows.seeds()))


def row_key(dataset: str, labels: int, kind: str, seed: int) -> str:
    """Hash of everything that decides a row."""
    facts: dict[str, object] = {"dataset": dataset, "labels": labels, "kind": kind, "seed": seed, "recipe": recipe()}
    facts |= {"teacher": asdict(TEACHER), "student": asdict(SETTINGS), "stop": STOP, "lpgnas": __version__}
    return key_of({**facts, "members": KINDS[kind], "students": STUDENTS, "hidden": HIDDEN, "to": CONFIDENCES})


def summary(table: pd.DataFrame) -> str:
    """Means over the splits that all kinds have, and paired differences with their standard errors, as Markdown."""
    lines, gains = [], []
    for (dataset, labels), part in table.groupby(["dataset", "labels"], sort=False):
        teachers = (
            100 * part.pivot(index="seed", columns="kind", values="teacher").reindex(columns=list(KINDS)).dropna()
        )
        if not len(teachers):
            continue
        differences = [with_error(teachers[better] - teachers[worse]) for better, worse in PAIRS]
        means = [f"{teachers[kind].mean():.1f}" for kind in KINDS]
        lines.append([dataset, labels, len(teachers), *means, *differences])
        taught = part.dropna(subset=list(STUDENTS))
        differences = [with_error(100 * (taught[name] - taught[f"{name}, {FLAT}"])) for name in STUDENTS]
        means = [f"{100 * taught[name].mean():.1f}" for name in STUDENTS]
        gains.append([dataset, labels, " or ".join(taught["kind"].unique()), len(taught), *means, *differences])
    header = ["graph", "labels a class", "splits", *(f"{kind} %" for kind in KINDS)]
    students = ["graph", "labels a class", "teacher", "splits", *(f"{name} student %" for name in STUDENTS)]
    return (
        "Made by `python -m benchmarks.teachers`; means over splits, paired differences with standard errors.\n\n"
        + markdown_table([*header, *(f"{better} - {worse}" for better, worse in PAIRS)], lines)
        + "\nStudents of the kind that a run takes, and what sharpening its probabilities is worth to them:\n\n"
        + markdown_table([*students, *(f"{name}: sharpened - {FLAT}" for name in STUDENTS)], gains)
    )


def with_error(values: pd.Series[float]) -> str:
    """The mean with its sign and its standard error."""
    error = f" ± {values.std(ddof=1) / len(values) ** 0.5:.1f}" if len(values) > 1 else ""
    return f"{values.mean():+.1f}{error}"


def main() -> None:
    """Measure and write the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data-root", type=Path, help="folder of graphs in PyG's layout (also LPGNAS_DATA)")
    parser.add_argument("--seeds", type=int, default=4, help="splits")
    parser.add_argument("--out", type=Path, default=RESULTS / "teachers.csv")
    options = parser.parse_args()
    rows = run(options.seeds, options.data_root, options.out)
    options.out.with_suffix(".md").write_text(summary(rows))


if __name__ == "__main__":
    main()
