"""The search strategies against each other at equal steps, each on the same splits.

    python -m benchmarks.strategies --dataset cora --seeds 10

Fully supervised protocol, one stratified 60/20/20 split a seed (split seeds from 20 on). On each split all strategies
have the same budget, teacher and number of training steps: `random` starts with more candidates, since it trains no
supernet; `lpgnas` spends all of them on its search round. The winner is trained from four initial weights that no
search used: `score` is what the search maximises (half accuracy on the selection nodes, half agreement with the
teacher), `test_accuracy` the mean over the four on the test nodes, which are looked at once. Rows are keyed by a hash
of what they measure; what is there is not measured again.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from itertools import product
from pathlib import Path

import numpy as np
import pandas as pd
import torch

from benchmarks import RESULTS
from benchmarks.run_time import BUDGETS
from lpgnas import __version__
from lpgnas.config import RunConfig
from lpgnas.known_effects import effects_digest
from lpgnas.pipeline import EVALUATE_EVERY
from lpgnas.preparation import Prepared, default_search_space, prepare
from lpgnas.references import node_accuracy
from lpgnas.report import markdown_table
from lpgnas.rows import Rows, key_of
from lpgnas.search_space import SearchSpace
from lpgnas.spec import ModelSpec
from lpgnas.strategy import SearchSettings, Task, search, selection_score
from lpgnas.teachers import recipe, soft_labels, usual_share
from lpgnas.training import TrainedModel, TrainingSettings, train_model

FIRST_SPLIT, RETRAININGS = 20, 4
TRAINING = TrainingSettings(learning_rate=0.03, evaluate_every=EVALUATE_EVERY)
STRATEGIES = {
    "feasible": SearchSettings("feasible", candidates=16),
    "random": SearchSettings("random", candidates=19),
    "lpgnas": SearchSettings("lpgnas"),
    "lpgnas-textbook": SearchSettings("lpgnas-textbook"),
}
"""2,040 steps, for `random` 2,060."""
T_QUANTILE = {2: 12.706, 3: 4.303, 4: 3.182, 5: 2.776, 6: 2.571, 7: 2.447, 8: 2.365, 9: 2.306, 10: 2.262}
"""97.5 % point of Student's t for this many pairs."""


@dataclass(frozen=True)
class Setting:
    """One split of one graph with everything that a search needs, the same for all strategies."""

    config: RunConfig
    prepared: Prepared
    space: SearchSpace
    task: Task

    @classmethod
    def of(cls, dataset: str, split_seed: int, seed: int, data_root: Path | None) -> Setting:
        """The split of `split_seed`, with a teacher of `seed`."""
        weights, buffers = BUDGETS[dataset]
        config = RunConfig(dataset, "full", split_seed, weight_budget=weights, buffer_budget=buffers, seed=seed)
        prepared = prepare(config, data_root)
        space = default_search_space(prepared.graph)
        training = replace(TRAINING, distillation=usual_share(prepared.data.train))
        teacher = soft_labels(
            prepared.data,
            replace(training, distillation=0.0, epochs=training.epochs // 2),
            seed,
            row_normalize=space.row_normalize,
            input_signed=space.input_signed,
            num_classes=space.num_classes,
        )
        task = Task(prepared.data, prepared.select, prepared.size, prepared.max_degree, teacher, training)
        return cls(config, prepared, space, task)

    def searched(self, settings: SearchSettings) -> dict[str, float]:
        """Search, and retrain the winner from initial weights that no search used."""
        started = time.perf_counter()
        task = replace(self.task)  # what it remembers of other searches would shorten this one
        result = search(self.space, self.config.budget(), task, settings, self.config.seed)
        seconds = time.perf_counter() - started
        scores, accuracies = [], []
        for weight_seed in range(RETRAININGS):
            trained = self.trained(result.best.spec, 70_000 + weight_seed)
            scores.append(selection_score(trained, self.task).score)
            accuracies.append(self.test_accuracy(trained))
        return {
            "steps": result.steps,
            "seconds": seconds,
            "score": float(np.mean(scores)),
            "test_accuracy": float(np.mean(accuracies)),
            "weight_bits": result.best.cost.weight_bits,
            "buffer_bits": result.best.cost.buffer_bits,
        }

    def trained(self, spec: ModelSpec, seed: int) -> TrainedModel:
        """A model trained from scratch as a winner is."""
        return train_model(spec, self.task.data, self.task.settings, seed, teacher=self.task.teacher)

    def test_accuracy(self, trained: TrainedModel) -> float:
        """On the test nodes."""
        with torch.no_grad():
            classes = trained.model(self.task.data.tensors(trained.model, stop=True)).argmax(dim=1).numpy()
        return node_accuracy(classes, self.prepared.graph, self.prepared.split.test) or 0.0


def measure(dataset: str, names: list[str], seed: int, data_root: Path | None) -> dict[str, dict[str, float]]:
    """Search with each strategy on the split of `seed`, and retrain its winner."""
    setting = Setting.of(dataset, FIRST_SPLIT + seed, seed, data_root)
    return {name: setting.searched(STRATEGIES[name]) for name in names}


def run(
    datasets: list[str], seeds: int, data_root: Path | None, target: Path, only: Sequence[str] = ()
) -> pd.DataFrame:
    """Measure what is missing of all strategies or `only` some, saving after every split; returns all current rows."""
    torch.set_num_threads(1)
    rows = Rows(target)
    for dataset in datasets:
        for seed in range(seeds):
            keys = {name: row_key(dataset, name, seed) for name in STRATEGIES}
            todo = [name for name, key in keys.items() if key not in rows and (not only or name in only)]
            for name, measured in measure(dataset, todo, seed, data_root).items() if todo else ():
                facts = {"key": keys[name], "dataset": dataset, "strategy": name, "seed": seed}
                rows.add({**facts, **{what: round(value, 5) for what, value in measured.items()}})
                print(f"{dataset} {name} seed {seed}: {measured}", flush=True)
    return rows.among(row_key(*one) for one in product(BUDGETS, STRATEGIES, rows.seeds()))


def row_key(dataset: str, name: str, seed: int) -> str:
    """Hash of everything that decides a row."""
    facts: dict[str, object] = {"dataset": dataset, "seed": seed, "budgets": BUDGETS[dataset], "lpgnas": __version__}
    facts |= {"first_split": FIRST_SPLIT, "retrainings": RETRAININGS, "training": asdict(TRAINING)}
    return key_of({**facts, **settings_facts(STRATEGIES[name])})


def settings_facts(settings: SearchSettings) -> dict[str, object]:
    """What a strategy's settings say in a row's key, with what decides its teacher and where it starts."""
    facts = {name: value for name, value in asdict(settings).items() if value is not None}
    return {**facts, "teacher": recipe(), "known_effects": effects_digest()}


def summary(table: pd.DataFrame) -> str:
    """Means over splits, and every strategy's paired difference from `random` with its 95 % interval, as Markdown."""
    lines = []
    measured = ("score", "test_accuracy")
    for dataset in BUDGETS:
        parts = {name: table[(table["dataset"] == dataset) & (table["strategy"] == name)] for name in STRATEGIES}
        pairs = {
            name: part.merge(parts["random"], on="seed", suffixes=("", "_random"))
            for name, part in parts.items()
            if name != "random"
        }
        for name, part in parts.items():
            if len(part) > 1:
                figures = [f"{100 * part[what].mean():.2f}" for what in measured]
                lines.append([dataset, name, len(part), int(part["steps"].median()), *figures])
        for name, pair in pairs.items():
            if len(pair) > 1:
                differences = [_interval(100 * (pair[what] - pair[f"{what}_random"]).to_numpy()) for what in measured]
                lines.append([dataset, f"{name} - random, paired", len(pair), "", *differences])
    header = ["graph", "strategy", "splits", "steps", "score %", "test accuracy %"]
    told = "Made by `python -m benchmarks.strategies`, fully supervised; differences with their 95 % interval.\n\n"
    return told + markdown_table(header, lines)


def _interval(differences: np.ndarray) -> str:
    half = T_QUANTILE[min(10, len(differences))] * differences.std(ddof=1) / len(differences) ** 0.5
    mean = differences.mean()
    return f"{mean:+.2f} ({mean - half:+.2f} to {mean + half:+.2f})"


def main() -> None:
    """Measure and write the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data-root", type=Path, help="folder of graphs in PyG's layout (also LPGNAS_DATA)")
    parser.add_argument("--dataset", nargs="+", default=["cora"], choices=list(BUDGETS))
    parser.add_argument("--seeds", type=int, default=10)
    parser.add_argument("--only", nargs="+", default=[], choices=list(STRATEGIES))
    parser.add_argument("--out", type=Path, default=RESULTS / "strategies.csv")
    options = parser.parse_args()
    rows = run(options.dataset, options.seeds, options.data_root, options.out, options.only)
    options.out.with_suffix(".md").write_text(summary(rows))


if __name__ == "__main__":
    main()
