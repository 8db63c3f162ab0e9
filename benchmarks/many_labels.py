"""Which teacher where labels are many: GCNs or GraphSAGE, and what their students make of it.

    python -m benchmarks.many_labels --seeds 3 --data-root FOLDER

On fully supervised splits whose seeds no table uses. Both are trained for as long as a run trains its teacher there.
Half of the validation nodes stop the students early; accuracies are those of the other half, and no test node of a
split is looked at, though nodes of one split are test nodes of others, as in all random splits of a graph. `run` says
which kind a run takes, which labels held out decide (`lpgnas/teachers.py`). Rows are appended to
`benchmarks/results/many_labels.csv`; what is there is not measured again.
"""

from __future__ import annotations

import argparse
from dataclasses import asdict, replace
from itertools import product
from pathlib import Path

import pandas as pd
import torch
from torch import Tensor

from benchmarks import RESULTS
from benchmarks.teachers import SETTINGS, TEACHER, with_error
from lpgnas import __version__
from lpgnas.config import RunConfig
from lpgnas.datasets import load_dataset, make_split
from lpgnas.graph import Graph
from lpgnas.manual_models import ModelShape, UniformFormats, manual_spec
from lpgnas.preparation import halves, search_space
from lpgnas.report import markdown_table
from lpgnas.rows import Rows, key_of
from lpgnas.teachers import COMPARED_FROM, HELD_OUT, MANY_LABELS_EPOCHS, Kind, recipe, soft_labels, usual_share
from lpgnas.training import train_model, transductive_data

DATASETS = ("cora", "planetoid/CiteSeer", "planetoid/PubMed", "amazon/Photo", "amazon/Computers")
KINDS: tuple[Kind, ...] = ("GCN", "GraphSAGE")
STUDENTS = {"GCN": "gcn", "GraphSAGE": "graphsage"}
FIRST_SPLIT, HIDDEN = 100, 16


def measure(graph: Graph, seed: int) -> dict[str, float | str]:
    """Accuracies of both teachers and of the students of each, W4A8 of 16 units."""
    split = make_split(graph, "full", FIRST_SPLIT + seed)
    stop, measured = halves(split.val, 0)
    data = transductive_data(graph, split.train, stop)
    shape = ModelShape.of(search_space(graph, RunConfig(graph.name)))

    def taught(kind: Kind | None, epochs: int) -> Tensor:
        return soft_labels(
            data,
            replace(TEACHER, epochs=epochs),
            seed,
            row_normalize=shape.row_normalize,
            input_signed=shape.input_signed,
            num_classes=graph.num_classes,
            kind=kind,
        )

    def accuracy(logits: Tensor) -> float:
        return round(float((logits.argmax(dim=1).numpy() == graph.y)[measured].mean()), 6)

    result: dict[str, float | str] = {}
    settings, usual = replace(SETTINGS, distillation=usual_share(data.train)), taught(None, TEACHER.epochs)
    many = HELD_OUT * float(data.train.sum()) >= COMPARED_FROM
    soft = {kind: taught(kind, TEACHER.epochs * (MANY_LABELS_EPOCHS if many else 1)) for kind in KINDS}
    result["run"] = next(kind for kind in KINDS if torch.equal(soft[kind], usual))
    for kind in KINDS:
        result[kind] = accuracy(soft[kind])
        for name, architecture in STUDENTS.items():
            spec = manual_spec(architecture, shape, HIDDEN, UniformFormats.of("fixed4", 8))
            model = train_model(spec, data, settings, seed, teacher=soft[kind]).model
            with torch.no_grad():
                result[student(name, kind)] = accuracy(model(data.tensors(model, stop=False)))
    return result


def student(name: str, kind: Kind) -> str:
    """The column of a student of this kind of teacher."""
    return f"{name} W4A8 by {kind}"


def row_key(dataset: str, seed: int) -> str:
    """Hash of everything that decides a row."""
    facts: dict[str, object] = {"dataset": dataset, "seed": seed, "recipe": recipe(), "kinds": KINDS}
    facts |= {"teacher": asdict(TEACHER), "student": asdict(SETTINGS), "lpgnas": __version__}
    return key_of({**facts, "students": STUDENTS, "hidden": HIDDEN})


def run(seeds: int, data_root: Path | None, target: Path) -> pd.DataFrame:
    """Measure what `target` does not hold yet, saving after every row; returns the rows of these settings."""
    torch.set_num_threads(1)
    rows = Rows(target)
    for seed, dataset in product(range(seeds), DATASETS):
        key = row_key(dataset, seed)
        if key not in rows:
            measured = measure(load_dataset(dataset, data_root), seed)
            rows.add({"key": key, "dataset": dataset, "seed": seed, **measured})
            print(dataset, seed, measured, flush=True)
    return rows.among(row_key(*one) for one in product(DATASETS, rows.seeds()))


def summary(table: pd.DataFrame) -> str:
    """Means over the splits, and paired differences with their standard errors, as Markdown."""
    lines = []
    for dataset, part in table.groupby("dataset", sort=False):
        better, worse = KINDS[1], KINDS[0]
        pairs = [(better, worse), *((student(name, better), student(name, worse)) for name in STUDENTS)]
        cells = [[f"{100 * part[one].mean():.1f}" for one in (low, high)] for high, low in pairs]
        gains = [with_error(100 * (part[high] - part[low])) for high, low in pairs]
        chosen = " or ".join(f"{kind} ({count})" for kind, count in part["run"].value_counts().items())
        flat = [cell for both, gain in zip(cells, gains, strict=True) for cell in (*both, gain)]
        lines.append([dataset, len(part), *flat, chosen])
    header = ["graph", "splits"]
    for name in ("teacher", *(f"{one} W4A8" for one in STUDENTS)):
        header += [f"{name}, GCN %", f"{name}, GraphSAGE %", "difference"]
    return (
        "Made by `python -m benchmarks.many_labels`; means over splits, paired differences with standard errors.\n\n"
        + markdown_table([*header, "a run takes"], lines)
    )


def main() -> None:
    """Measure and write the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data-root", type=Path, help="folder of graphs in PyG's layout (also LPGNAS_DATA)")
    parser.add_argument("--seeds", type=int, default=3, help="splits")
    parser.add_argument("--out", type=Path, default=RESULTS / "many_labels.csv")
    options = parser.parse_args()
    rows = run(options.seeds, options.data_root, options.out)
    options.out.with_suffix(".md").write_text(summary(rows))


if __name__ == "__main__":
    main()
