"""Ways to make the differentiable search round learn, against each other at equal steps.

    python -m benchmarks.differentiable --dataset cora --seeds 3

As `benchmarks.strategies`, on splits that it does not use (split seeds 11, 12, ...): each variant of `VARIANTS` spends
2,240 steps in one search round; its derived model is trained four times from scratch. Variants are compared by `score`
(half accuracy on the selection nodes, half agreement with the teacher); the test accuracy stands beside and chose
nothing. `feasible` and `random` are there for comparison. Rows are keyed by a hash of what they measure; what is there
is not measured again.
"""

from __future__ import annotations

import argparse
from dataclasses import asdict, replace
from itertools import product
from pathlib import Path

import pandas as pd
import torch

from benchmarks import RESULTS
from benchmarks.run_time import BUDGETS
from benchmarks.strategies import RETRAININGS, TRAINING, Setting, settings_facts
from lpgnas import __version__
from lpgnas.budget import format_bits
from lpgnas.report import markdown_table
from lpgnas.rows import Rows, key_of
from lpgnas.search_round import RoundSettings
from lpgnas.strategy import TEXTBOOK, SearchSettings

FIRST_SPLIT = 11
PAIRED = RoundSettings("paired", "natural", "feasible")
ROUNDS = {
    "textbook": TEXTBOOK,
    "textbook, SGD": replace(TEXTBOOK, update="sgd"),
    "textbook, feasible samples": replace(TEXTBOOK, size="feasible", beta=0.0),
    "weights' formats mixed, feasible samples": replace(TEXTBOOK, gradient="mixed", size="feasible", beta=0.0),
    "pairs, Adam": replace(PAIRED, update="adam"),
    "pairs, SGD": replace(PAIRED, update="sgd"),
    "pairs, natural": PAIRED,
    "pairs, natural, raw logits": replace(PAIRED, normalise=False),
    "pairs, natural, expected size": replace(PAIRED, size="expected", beta=0.1),
    "pairs, natural, size of the derived model": replace(PAIRED, size="derived"),
    "pairs and mixed weights' formats, natural": replace(PAIRED, gradient="paired+mixed"),
    "pairs and mixed weights' formats, natural, size of the derived model": replace(
        PAIRED, gradient="paired+mixed", size="derived"
    ),
    "pairs, SGD, size of the derived model": replace(PAIRED, update="sgd", size="derived"),
}
VARIANTS = {
    **{name: SearchSettings("lpgnas", supernet_steps=300, round_settings=made) for name, made in ROUNDS.items()},
    "feasible": SearchSettings("feasible", supernet_steps=300),
    "random": SearchSettings("random", candidates=24),
}


def run(names: list[str], datasets: list[str], seeds: int, data_root: Path | None, target: Path) -> pd.DataFrame:
    """Measure what `target` does not hold yet, saving after every search; returns all current rows."""
    torch.set_num_threads(1)
    rows = Rows(target)
    for dataset in datasets:
        for split_seed in range(FIRST_SPLIT, FIRST_SPLIT + seeds):
            keys = {name: row_key(dataset, name, split_seed) for name in names}
            todo = [name for name in names if keys[name] not in rows]
            if not todo:
                continue
            setting = Setting.of(dataset, split_seed, split_seed, data_root)
            for name in todo:
                measured = {what: round(value, 5) for what, value in setting.searched(VARIANTS[name]).items()}
                rows.add({"key": keys[name], "dataset": dataset, "variant": name, "seed": split_seed, **measured})
                print(f"{dataset} {name} split {split_seed}: {measured}", flush=True)
    return rows.among(row_key(*one) for one in product(BUDGETS, VARIANTS, rows.seeds()))


def row_key(dataset: str, name: str, split_seed: int) -> str:
    """Hash of everything that decides a row."""
    facts: dict[str, object] = {"dataset": dataset, "split_seed": split_seed, "budgets": BUDGETS[dataset]}
    facts |= {"lpgnas": __version__, "retrainings": RETRAININGS, "training": asdict(TRAINING)}
    return key_of({**facts, **settings_facts(VARIANTS[name])})


def summary(table: pd.DataFrame) -> str:
    """Means over splits as Markdown."""
    lines = []
    for dataset in BUDGETS:
        for name in VARIANTS:
            part = table[(table["dataset"] == dataset) & (table["variant"] == name)]
            if len(part):
                figures = [f"{100 * part[what].mean():.2f}" for what in ("score", "test_accuracy")]
                sizes = [format_bits(int(part[what].mean())) for what in ("weight_bits", "buffer_bits")]
                seconds = f"{part['seconds'].mean():.0f}"
                lines.append([dataset, name, len(part), int(part["steps"].median()), seconds, *figures, *sizes])
    header = ["graph", "search round", "splits", "steps", "s", "score %", "test accuracy %", "weights", "buffers"]
    told = "Made by `python -m benchmarks.differentiable`, fully supervised, split seeds from 11 on.\n\n"
    return told + markdown_table(header, lines)


def main() -> None:
    """Measure and write the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data-root", type=Path, help="folder of graphs in PyG's layout (also LPGNAS_DATA)")
    parser.add_argument("--dataset", nargs="+", default=["cora"], choices=list(BUDGETS))
    parser.add_argument("--variant", nargs="+", default=list(VARIANTS), choices=list(VARIANTS))
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--out", type=Path, default=RESULTS / "differentiable.csv")
    options = parser.parse_args()
    rows = run(options.variant, options.dataset, options.seeds, options.data_root, options.out)
    options.out.with_suffix(".md").write_text(summary(rows))


if __name__ == "__main__":
    main()
