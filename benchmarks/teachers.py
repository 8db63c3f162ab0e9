"""Which teacher: GCNs or APPNP, sharpened or not, themselves and what models of 16 units learn from them.

    python -m benchmarks.teachers --seeds 4 --data-root FOLDER

On splits drawn anew: `few` has 20 training labels a class like the public split, `many` 60 % of the nodes like the
fully supervised one. The public test nodes take no part in either; 250 nodes stop early, and accuracies are those of
the other nodes, so that the choice of a teacher has seen no node that the public table tests on. Each row is a teacher
of three members, and for each format the mean of two students that learn from it as in a run; `not sharpened` is the
kind that a run takes, its probabilities as they are. Rows are appended to `benchmarks/results/teachers.csv`; what is
there is not measured again.
"""

from __future__ import annotations

import argparse
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from benchmarks import RESULTS
from lpgnas.config import RunConfig
from lpgnas.datasets import load_dataset
from lpgnas.graph import BoolArray, Graph
from lpgnas.manual_models import ModelShape, UniformFormats, manual_spec
from lpgnas.pipeline import EVALUATE_EVERY
from lpgnas.preparation import search_space
from lpgnas.report import markdown_table
from lpgnas.rows import Rows, key_of
from lpgnas.teachers import CONFIDENCE, GCN_REACH, recipe, soft_labels, usual_share
from lpgnas.training import TrainingSettings, train_model, transductive_data

DATASETS = ("planetoid/Cora", "planetoid/CiteSeer", "planetoid/PubMed")
FLAT = "not sharpened"
KINDS = {"GCN": (0.0, CONFIDENCE), "APPNP": (2.0, CONFIDENCE), FLAT: (GCN_REACH, 0.0)}
"""Kinds of teachers: the reach from which on GCNs teach, and how sure they are made."""
SPLITS = {"few": "APPNP", "many": "GCN"}
"""Numbers of labels, and the kind that a run takes."""
STUDENTS = {"W1A8": ("binary", 8), "W1A4": ("binary", 4), "W4A4": ("fixed4", 4)}
SETTINGS = TrainingSettings(learning_rate=0.03, evaluate_every=EVALUATE_EVERY)
TEACHER = replace(SETTINGS, epochs=100, distillation=0.0)
STOP, TRIES, HIDDEN = 250, 2, 16


def drawn_split(graph: Graph, split: str, seed: int) -> tuple[BoolArray, BoolArray, BoolArray]:
    """Training, early-stopping and measured nodes, none of them a public test node."""
    if graph.y is None or graph.masks is None:
        raise ValueError(f"{graph.name} has no labels or no public split")
    order = np.random.default_rng(100 + seed).permutation(np.flatnonzero(~graph.masks.test))
    if split == "few":
        train = np.concatenate([order[graph.y[order] == label][:20] for label in range(graph.num_classes)])
    else:
        train = order[: len(order) * 6 // 10]
    rest = order[~np.isin(order, train)]
    masks = [np.isin(np.arange(graph.num_nodes), part) for part in (train, rest[:STOP], rest[STOP:])]
    return masks[0], masks[1], masks[2]


def measure(graph: Graph, split: str, kind: str, seed: int) -> dict[str, float]:
    """Accuracies of a teacher and of its students."""
    train, stop, measured = drawn_split(graph, split, seed)
    data, shape = transductive_data(graph, train, stop), ModelShape.of(search_space(graph, RunConfig(graph.name)))
    reach, confidence = KINDS[kind]
    soft = soft_labels(
        data,
        TEACHER,
        seed,
        row_normalize=shape.row_normalize,
        input_signed=shape.input_signed,
        num_classes=graph.num_classes,
        gcn_reach=reach,
        confidence=confidence,
    )

    def accuracy(logits: Tensor) -> float:
        return float((logits.argmax(dim=1).numpy() == graph.y)[measured].mean())

    result, settings = {"teacher": accuracy(soft)}, replace(SETTINGS, distillation=usual_share(data.train))
    for name, (weights, bits) in STUDENTS.items():
        spec, found = manual_spec("gcn", shape, HIDDEN, UniformFormats.of(weights, bits)), []
        for attempt in range(TRIES):
            model = train_model(spec, data, settings, seed * 10 + attempt, teacher=soft).model
            with torch.no_grad():
                found.append(accuracy(model(data.tensors(model, stop=False))))
        result[name] = float(np.mean(found))
    return result


def run(seeds: int, data_root: Path | None, target: Path) -> pd.DataFrame:
    """Measure what `target` does not hold yet, saving after every row; returns the rows of these settings."""
    torch.set_num_threads(1)
    rows, keys = Rows(target), []
    settings: dict[str, object] = {
        "teacher": asdict(TEACHER),
        "student": asdict(SETTINGS),
        "recipe": recipe(),
    }
    settings |= {"students": STUDENTS, "tries": TRIES}
    for seed in range(seeds):
        for dataset in DATASETS:
            graph = load_dataset(dataset, data_root)
            for split in SPLITS:
                for kind in KINDS:
                    facts = {"dataset": dataset, "split": split, "kind": kind, "seed": seed}
                    keys.append(key := key_of({**facts, **settings}))
                    if key not in rows:
                        measured = measure(graph, split, kind, seed)
                        rows.add({"key": key, **facts, **{name: round(value, 6) for name, value in measured.items()}})
                        print(facts, {name: f"{100 * value:.1f}" for name, value in measured.items()}, flush=True)
    return rows.table[rows.table["key"].isin(keys)]


def summary(table: pd.DataFrame) -> str:
    """Means over the splits, and the paired differences with their standard errors, as Markdown."""
    columns = ["teacher", *STUDENTS]
    lines = []
    for (dataset, split), part in table.groupby(["dataset", "split"], sort=False):
        by_kind = {kind: one.set_index("seed")[columns] * 100 for kind, one in part.groupby("kind")}
        if set(by_kind) != set(KINDS):
            continue
        for kind, one in by_kind.items():
            lines.append([dataset, split, kind, len(one), *(f"{one[column].mean():.1f}" for column in columns)])
        usual = SPLITS[str(split)]
        for better, worse in (("APPNP", "GCN"), (usual, FLAT)):
            gain = (by_kind[better] - by_kind[worse]).dropna()
            errors = gain.std(ddof=1) / np.sqrt(len(gain))
            cells = [f"{gain[column].mean():+.1f} ± {errors[column]:.1f}" for column in columns]
            lines.append([dataset, split, f"{better} - {worse}", len(gain), *cells])
    header = ["graph", "labels", "teachers", "splits", "teacher %", *(f"{name} student %" for name in STUDENTS)]
    return "Made by `python -m benchmarks.teachers`; differences with standard errors.\n\n" + markdown_table(
        header, lines
    )


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
