"""Fewer bits than one a weight: which input words to keep, and what that is worth beside narrower models.

    python -m benchmarks.input_words --data-root FOLDER

Two-layer GCNs with binary weights and 8-bit codes (W1A8), fully supervised on the splits 11 to 13, each trained from
two initial weights; accuracies are those on the selection nodes, never on the test nodes. The first table compares
orders of the words, the second widths and shares of kept words at one order. With `--search`, whole searches with and
without the choice of kept words instead. Rows are keyed by a hash of what they measure; what is there is not measured
again.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from functools import cached_property
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from benchmarks import RESULTS
from lpgnas import __version__
from lpgnas.budget import Budget
from lpgnas.config import RunConfig
from lpgnas.cost_models.spec_cost import spec_cost
from lpgnas.input_words import explained_variance, rank_words
from lpgnas.layers import QuantizedModel
from lpgnas.manual_models import ModelShape, UniformFormats, manual_spec
from lpgnas.pipeline import EVALUATE_EVERY
from lpgnas.preparation import Prepared, default_search_space, prepare
from lpgnas.report import markdown_table
from lpgnas.rows import Rows, key_of
from lpgnas.search_space import SearchSpace
from lpgnas.spec import ModelSpec
from lpgnas.strategy import SearchSettings, Task, search, selection_score
from lpgnas.training import TrainingSettings, train_model

DATASETS = ("cora", "planetoid/CiteSeer")
SPLITS, WEIGHT_SEEDS = (11, 12, 13), (900, 901)
SHARES = (0.5, 0.25, 0.125)
RANKS = ("frequency", "weights", "teacher", "labels")
"""Orders: how many nodes have a word; norms of the teachers' first weights times the root of that; variance of the
teacher's classes that a word explains; the same of propagated training labels (what models take)."""
WIDTHS = ((16, 1.0), (16, 0.5), (16, 0.25), (16, 0.125), (8, 1.0), (8, 0.5), (8, 0.25), (4, 1.0), (4, 0.5),
          (32, 0.5), (32, 0.25), (32, 0.125))  # fmt: skip
"""Hidden sizes and shares of `worth`."""
SEARCHED = (("cora", "3KiB", "60KiB"), ("cora", "1.5KiB", "40KiB"))
"""Graphs and budgets of `--search`."""
TRAINING = TrainingSettings(learning_rate=0.03, evaluate_every=EVALUATE_EVERY)
MEMBERS, TEACHER_WIDTH, RETRAININGS = 3, 64, 3


@dataclass(frozen=True)
class Model:
    """What a row measures: an order, a hidden size, a share of kept words, and whether it learns from a teacher."""

    rank: str
    hidden: int
    share: float
    distilled: bool


class Setting:
    """One split of one graph, with its teacher."""

    def __init__(self, dataset: str, split_seed: int, data_root: Path | None) -> None:
        self.prepared: Prepared = prepare(RunConfig(dataset, "full", split_seed), data_root)
        self.space: SearchSpace = default_search_space(self.prepared.graph)

    @cached_property
    def teachers(self) -> list[QuantizedModel]:
        """Full-precision GCNs that saw the training labels only."""
        spec = manual_spec("gcn", ModelShape.of(self.space), TEACHER_WIDTH)
        settings = replace(TRAINING, distillation=0.0, epochs=TRAINING.epochs // 2, early_stopping=False)
        return [train_model(spec, self.prepared.data, settings, seed).model for seed in range(MEMBERS)]

    @cached_property
    def soft_labels(self) -> Tensor:
        """Their mean class probabilities [N, C]."""
        graph = self.prepared.data.tensors(self.teachers[0], stop=False)
        with torch.no_grad():
            return torch.stack([torch.softmax(one(graph), dim=1) for one in self.teachers]).mean(dim=0)

    def ranked(self, rank: str) -> np.ndarray:
        """The words in one of the orders `RANKS`, int64 [F]."""
        graph, data = self.prepared.graph, self.prepared.data
        frequency = np.asarray((graph.x != 0).sum(axis=0)).reshape(-1).astype(np.float64)
        if rank == "labels":
            return rank_words(graph, data.train.numpy())
        norms = sum(one.blocks[0].whole("weight").detach().norm(dim=0).double().numpy() for one in self.teachers)
        values = {
            "frequency": frequency,
            "weights": norms * np.sqrt(frequency),
            "teacher": explained_variance(graph.x, self.soft_labels.double().numpy()),
        }[rank]
        return np.argsort(-values, kind="stable")

    def task(self, rank: str, *, distilled: bool) -> Task:
        """What models with this order of the words train on."""
        prepared = self.prepared
        share = min(0.95, max(0.5, 1.0 - float(prepared.data.train.double().mean())))
        return Task(
            data=replace(prepared.data, ranked_words=torch.from_numpy(self.ranked(rank))),
            select=prepared.select,
            size=prepared.size,
            max_degree=prepared.max_degree,
            teacher=self.soft_labels if distilled else None,
            settings=replace(TRAINING, distillation=share if distilled else 0.0),
        )

    def spec(self, model: Model) -> ModelSpec:
        """W1A8 of a GCN."""
        bare = manual_spec("gcn", ModelShape.of(self.space), model.hidden, UniformFormats.of("binary", 8))
        return replace(bare, input_words=int(model.share * bare.num_features))

    def measure(self, model: Model) -> dict[str, float]:
        """Accuracy on the selection nodes, mean over the initial weights, and the weight size."""
        task, spec = self.task(model.rank, distilled=model.distilled), self.spec(model)
        return {
            "weight_bits": spec_cost(spec, task.size).weight_bits,
            "selection_accuracy": rated(spec, task, WEIGHT_SEEDS)[0],
        }

    def searched(self, weights: str, buffers: str, kept_words: tuple[float, ...]) -> dict[str, float]:
        """A whole search and trainings of its winner from initial weights that it did not see."""
        task, space = self.task("labels", distilled=True), replace(self.space, kept_words=kept_words)
        result = search(space, Budget(weights=weights, buffers=buffers), task, SearchSettings(), 0)
        spec = result.best.spec
        accuracy, score = rated(spec, task, range(70_000, 70_000 + RETRAININGS))
        return {
            "selection_accuracy": accuracy,
            "score": score,
            "hidden": spec.layers[0].width,
            "share": spec.kept_words / spec.num_features,
            "weight_bits": result.best.cost.weight_bits,
        }


def rated(spec: ModelSpec, task: Task, seeds: Sequence[int]) -> tuple[float, float]:
    """Accuracy on the selection nodes and score (with the agreement with the teacher), means over trainings."""
    made = [train_model(spec, task.data, task.settings, seed, teacher=task.teacher) for seed in seeds]
    ratings = [selection_score(one, task) for one in made]
    return float(np.mean([one.accuracy for one in ratings])), float(np.mean([one.score for one in ratings]))


def models() -> Iterator[Model]:
    """What is measured on every split."""
    listed = [Model(rank, 16, share, distilled) for distilled in (True, False) for rank in RANKS for share in SHARES]
    listed += [Model("labels", 16, 1.0, distilled=False)]
    listed += [Model("labels", hidden, share, distilled=True) for hidden, share in WIDTHS]
    yield from dict.fromkeys(listed)


def run(data_root: Path | None, target: Path) -> None:
    """Measure what `target` does not hold yet."""
    rows = Rows(target)
    for dataset in DATASETS:
        for split_seed in SPLITS:
            setting = Setting(dataset, split_seed, data_root)
            for model in models():
                facts = {"dataset": dataset, "split_seed": split_seed, **asdict(model)}
                key = key_of({**facts, "lpgnas": __version__, "seeds": WEIGHT_SEEDS, "training": asdict(TRAINING)})
                if key not in rows:
                    measured = setting.measure(model)
                    rows.add({"key": key, **facts, **{name: round(value, 5) for name, value in measured.items()}})


def run_searches(data_root: Path | None, target: Path, seeds: tuple[int, ...]) -> None:
    """Search with and without the choice."""
    rows = Rows(target)
    for dataset, weights, buffers in SEARCHED:
        for split_seed in seeds:
            setting = Setting(dataset, split_seed, data_root)
            for kept in ((1.0,), setting.space.kept_words):
                facts = {"dataset": dataset, "weights": weights, "buffers": buffers, "split_seed": split_seed}
                facts["choice"] = " ".join(map(str, kept))
                key = key_of({**facts, "lpgnas": __version__, "retrainings": RETRAININGS})
                if key not in rows:
                    measured = setting.searched(weights, buffers, kept)
                    rows.add({"key": key, **facts, **{name: round(value, 5) for name, value in measured.items()}})


def summary(table: pd.DataFrame) -> str:
    """Means over the splits as Markdown."""
    told = (
        "Made by `python -m benchmarks.input_words`; accuracy on the selection nodes in %, W1A8, mean of 3 splits.\n\n"
    )
    return told + _ranks(table) + "\n" + _worth(table)


def _mean(table: pd.DataFrame, **wanted: object) -> str:
    for name, value in wanted.items():
        table = table[table[name] == value]
    return f"{100 * table['selection_accuracy'].mean():.1f}" if len(table) else ""


def _ranks(table: pd.DataFrame) -> str:
    lines = []
    for dataset in DATASETS:
        for distilled in (True, False):
            own = {"dataset": dataset, "distilled": distilled, "hidden": 16}
            everything = _mean(table, **own, share=1.0)
            for rank in RANKS:
                kept = [_mean(table, **own, rank=rank, share=share) for share in SHARES]
                lines.append([dataset, "yes" if distilled else "no", rank, everything, *kept])
    return markdown_table(["graph", "distilled", "order", "all words", "1/2", "1/4", "1/8"], lines)


def _worth(table: pd.DataFrame) -> str:
    lines = []
    for dataset in DATASETS:
        part = table[(table["dataset"] == dataset) & table["distilled"] & (table["rank"] == "labels")]
        sized = part.groupby(["hidden", "share"])["weight_bits"].first().sort_values(ascending=False)
        for hidden, share in sized.index:
            size = f"{sized[hidden, share] / 8192:.3f}"
            lines.append([dataset, hidden, f"{share:g}", size, _mean(part, hidden=hidden, share=share)])
    return markdown_table(["graph", "hidden", "share of words", "weights, KiB", "accuracy"], lines)


def searches_summary(table: pd.DataFrame) -> str:
    """Means over the splits as Markdown."""
    lines = []
    for names, part in table.groupby(["dataset", "weights", "buffers", "choice"], sort=False):
        figures = [f"{100 * part[what].mean():.2f}" for what in ("selection_accuracy", "score")]
        chosen = ", ".join(f"{row['hidden']:g} x {row['share']:.3g}" for _, row in part.iterrows())
        lines.append([*names, len(part), *figures, chosen])
    header = ["graph", "weights", "buffers", "shares", "splits", "selection accuracy %", "score %", "hidden x share"]
    return "Made by `python -m benchmarks.input_words --search`.\n\n" + markdown_table(header, lines)


def main() -> None:
    """Measure and write the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data-root", type=Path, help="folder of graphs in PyG's layout (also LPGNAS_DATA)")
    parser.add_argument("--search", action="store_true", help="compare whole searches")
    parser.add_argument("--seeds", nargs="+", type=int, default=[11, 12], help="splits of the searches")
    parser.add_argument("--out", type=Path, help="the CSV file; by default among the results of the repository")
    options = parser.parse_args()
    torch.set_num_threads(1)
    name = "input_words_search.csv" if options.search else "input_words.csv"
    target = options.out or RESULTS / name
    if options.search:
        run_searches(options.data_root, target, tuple(options.seeds))
    else:
        run(options.data_root, target)
    table = pd.read_csv(target)
    target.with_suffix(".md").write_text(searches_summary(table) if options.search else summary(table))


if __name__ == "__main__":
    main()
