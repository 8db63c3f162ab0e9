"""The time of a step of the search round beside the mean float32 step of the models that it samples.

    python -m benchmarks.round_step

Each way runs some steps on Cora under the budget of `benchmarks.strategies`; then every sampled architecture takes
one float32 training step of its own (forward, loss, backward, Adam) with the same engine. One thread; they take turns
in blocks. Times depend on the machine, the ratio hardly.
"""

from __future__ import annotations

import argparse
import time
from dataclasses import replace
from pathlib import Path

import torch

from benchmarks import RESULTS
from benchmarks.differentiable import FIRST_SPLIT
from benchmarks.strategies import Setting
from lpgnas.adam import Adam, ParameterGroup
from lpgnas.dropout import FRESH_EVERY, Dropout
from lpgnas.layers import QuantizedModel
from lpgnas.report import markdown_table
from lpgnas.search_round import RoundSettings, SearchRound
from lpgnas.search_space import Choices
from lpgnas.strategy import TEXTBOOK, round_tools
from lpgnas.supernet import SupernetTraining
from lpgnas.training import training_loss

STEPS, BLOCKS = 40, 3
SHOWN = {
    "lpgnas-textbook": TEXTBOOK,
    "lpgnas": RoundSettings(),
    "lpgnas without mixed formats": RoundSettings(gradient="paired"),
}


def round_seconds(setting: Setting, settings: RoundSettings, seed: int) -> tuple[float, list[Choices]]:
    """Seconds of a sampled model in a round, the controllers' work included, and what was sampled."""
    task = setting.task
    fits, shares = round_tools(setting.config.budget(), task.size)
    training = SupernetTraining(setting.space, task.data, task.settings, seed, task.teacher)
    searching = SearchRound(setting.space, fits, shares, training, replace(settings, snapshots=1), seed)
    started = time.perf_counter()
    result = searching.run(STEPS)
    return (time.perf_counter() - started) / STEPS, [step.choices for step in result.steps]


def float_seconds(setting: Setting, sampled: list[Choices]) -> float:
    """Mean seconds of a float32 step of the sampled architectures."""
    task, space = setting.task, setting.space.in_float(setting.space.depth)
    total = 0.0
    for choices in sampled:
        spec = space.spec(tuple(min(k, count - 1) for k, (_, count) in zip(choices, space.genes(), strict=True)))
        model = QuantizedModel(spec, 0)
        graph, dropout = task.data.tensors(model, stop=False), Dropout(task.settings.dropout, 0)
        optimizer = Adam([ParameterGroup(tuple(model.parameters()), task.settings.learning_rate)])
        for step in range(1 + FRESH_EVERY):  # the first one warms up, one of the others draws the features' entries
            if step == 1:
                started = time.perf_counter()
            optimizer.zero_grad()
            logits = model(graph, dropout=dropout)
            training_loss(logits, task.data, task.settings, task.teacher).backward()  # type: ignore[no-untyped-call]
            optimizer.step()
            dropout.next_step()
        total += (time.perf_counter() - started) / FRESH_EVERY
    return total / len(sampled)


def main() -> None:
    """Measure and write the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data-root", type=Path, help="folder of graphs in PyG's layout (also LPGNAS_DATA)")
    parser.add_argument("--dataset", default="cora")
    parser.add_argument("--out", type=Path, default=RESULTS / "round_step.md")
    options = parser.parse_args()
    torch.set_num_threads(1)
    setting = Setting.of(options.dataset, FIRST_SPLIT, 0, options.data_root)
    lines = []
    for name, settings in SHOWN.items():
        rounds, floats = [], []
        for block in range(BLOCKS + 1):
            seconds, sampled = round_seconds(setting, settings, block)
            rounds.append(seconds)
            floats.append(float_seconds(setting, sampled))
        ours, theirs = (1000 * sum(part[1:]) / BLOCKS for part in (rounds, floats))  # the first block compiles
        lines.append([name, f"{ours:.1f}", f"{theirs:.1f}", f"{ours / theirs:.2f}"])
    header = ["search round", "ms a sampled model", "ms its float32 step", "ratio"]
    told = "Made by `python -m benchmarks.round_step`, one thread; the times depend on the machine.\n\n"
    options.out.write_text(told + markdown_table(header, lines))


if __name__ == "__main__":
    main()
