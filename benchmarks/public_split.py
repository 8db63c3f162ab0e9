"""The two-layer GCN of hidden size 16 on the public Planetoid split, full precision and quantised, over many seeds.

    python -m benchmarks.public_split --data-root FOLDER

Rows are keyed by a hash of what they measure and appended to `benchmarks/results/public_split.csv`; what is there is
not measured again. The table beside it is made from the CSV. Early stopping uses the validation nodes; the test nodes
are looked at once for each trained model. Quantised models are measured as integer programs in the Numba executor.
`W4A8` and `fp32` take Kipf & Welling's settings, `distilled` rows those of `lpgnas run`.
"""

from __future__ import annotations

import argparse
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from benchmarks import RESULTS
from lpgnas.budget import format_bits
from lpgnas.cost_models.program_cost import program_cost
from lpgnas.cost_models.rows import GraphSize
from lpgnas.datasets import load_dataset, make_split
from lpgnas.graph import Graph
from lpgnas.kernels.executor import Executor
from lpgnas.lowering import lower
from lpgnas.manual_models import ModelShape, UniformFormats, manual_spec
from lpgnas.number_formats import FormatChoice
from lpgnas.preparation import default_max_degree
from lpgnas.report import markdown_table
from lpgnas.rows import Rows, key_of
from lpgnas.teachers import soft_labels
from lpgnas.training import (
    TrainedModel,
    TrainingData,
    TrainingSettings,
    train_model,
    transductive_data,
)

DATASETS = ("planetoid/Cora", "planetoid/CiteSeer", "planetoid/PubMed")
KIPF = TrainingSettings(distillation=0.0)
DISTILLED = replace(KIPF, learning_rate=0.03, distillation=0.8)


TEACHER = replace(DISTILLED, distillation=0.0, early_stopping=False)


@dataclass(frozen=True)
class Row:
    """One kind of model."""

    name: str
    weights: str
    activations: str
    settings: TrainingSettings


ROWS = (
    Row("fp32", "float32", "float32", KIPF),
    Row("W4A8", "fixed4", "fixed8", KIPF),
    Row("W1A8", "binary", "fixed8", KIPF),
    Row("fp32 distilled", "float32", "float32", DISTILLED),
    Row("W4A4 distilled", "fixed4", "fixed4", DISTILLED),
    Row("W1A8 distilled", "binary", "fixed8", DISTILLED),
)


def measure(
    row: Row, graph: Graph, data: TrainingData, test: np.ndarray, seed: int, teacher: Tensor | None
) -> dict[str, float]:
    """Train one model and measure it."""
    binary = bool(np.isin(graph.x if isinstance(graph.x, np.ndarray) else graph.x.data, (0.0, 1.0)).all())
    quantized = row.weights != "float32"
    shape = ModelShape(
        graph.num_features, graph.num_classes, FormatChoice("fixed", 1 if binary else 8), row_normalize=True
    )
    formats = UniformFormats(FormatChoice.parse(row.weights), FormatChoice.parse(row.activations))
    spec = manual_spec("gcn", shape, 16, formats)
    trained = train_model(spec, data, row.settings, seed, teacher=teacher if row.settings.distillation else None)
    classes, sizes = _integer(trained, graph) if quantized else _float(trained, data)
    if graph.y is None:
        raise ValueError(f"{graph.name} has no labels")
    return {"test_accuracy": float((classes[test] == graph.y[test]).mean()), **sizes}


def _float(trained: TrainedModel, data: TrainingData) -> tuple[np.ndarray, dict[str, float]]:
    with torch.no_grad():
        logits = trained.model(data.tensors(trained.model, stop=True))
    bits = 32 * sum(parameter.numel() for parameter in trained.model.parameters())
    return logits.argmax(dim=1).numpy(), {"weight_bits": bits, "buffer_bits": float("nan")}


def _integer(trained: TrainedModel, graph: Graph) -> tuple[np.ndarray, dict[str, float]]:
    model = trained.model
    program = lower(
        model.spec,
        model.layer_codes(),
        input_fraction=model.input_fraction,
        max_degree=default_max_degree(graph),
    )
    cost = program_cost(program, GraphSize.of(graph))
    codes = Executor(program).run(graph.x, graph.edge_index).codes
    return codes.argmax(axis=1), {"weight_bits": cost.weight_bits, "buffer_bits": cost.buffer_bits}


def row_key(dataset: str, row: Row, seed: int) -> str:
    """Hash of everything that decides a measurement."""
    teacher = asdict(TEACHER) if row.settings.distillation else None
    return key_of({"dataset": dataset, **asdict(row), "teacher": teacher, "seed": seed})


def run(datasets: list[str], seeds: int, data_root: Path | None, target: Path) -> None:
    """Measure what `target` does not hold yet, saving after every row."""
    torch.set_num_threads(1)
    rows = Rows(target)
    for dataset in datasets:
        todo = [(row, s) for row in ROWS for s in range(seeds) if row_key(dataset, row, s) not in rows]
        if not todo:
            continue
        graph = load_dataset(dataset, data_root)
        split = make_split(graph, "public", 0)
        data = transductive_data(graph, split.train, split.val)
        teachers: dict[int, Tensor] = {}
        for row, seed in todo:
            if row.settings.distillation and seed not in teachers:  # a teacher a seed, so that its spread counts
                teachers[seed] = soft_labels(
                    data, TEACHER, seed, row_normalize=True, input_signed=False, num_classes=graph.num_classes
                )
            measured = measure(row, graph, data, split.test, seed, teachers.get(seed))
            line = {"key": row_key(dataset, row, seed), "dataset": dataset, "model": row.name, "seed": seed, **measured}
            rows.add(line)
            print(f"{dataset} {row.name} seed {seed}: {100 * measured['test_accuracy']:.1f} %", flush=True)


def summary(table: pd.DataFrame) -> str:
    """The table as Markdown: mean and standard deviation over seeds."""
    rows = []
    for dataset in DATASETS:
        for row in ROWS:
            part = table[(table["dataset"] == dataset) & (table["model"] == row.name)]
            if len(part):
                accuracy = 100 * part["test_accuracy"]
                spread = f"{accuracy.mean():.1f} ± {accuracy.std(ddof=1):.1f}"
                rows.append([dataset, row.name, spread, len(part), format_bits(int(part["weight_bits"].median()))])
    header = ["graph", "GCN-16", "test accuracy %", "seeds", "weights"]
    return "Made by `python -m benchmarks.public_split`, public split.\n\n" + markdown_table(header, rows)


def main() -> None:
    """Measure and write the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data-root", type=Path, help="folder of graphs in PyG's layout (also LPGNAS_DATA)")
    parser.add_argument("--datasets", nargs="+", default=list(DATASETS), choices=DATASETS)
    parser.add_argument("--seeds", type=int, default=10)
    parser.add_argument("--out", type=Path, default=RESULTS / "public_split.csv")
    options = parser.parse_args()
    run(options.datasets, options.seeds, options.data_root, options.out)
    options.out.with_suffix(".md").write_text(summary(pd.read_csv(options.out)))


if __name__ == "__main__":
    main()
