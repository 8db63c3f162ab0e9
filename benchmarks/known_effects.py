"""Effects of every option on random models of synthetic graphs: the table that a search starts from.

    python -m benchmarks.known_effects

A graph has communities whose words and edges tell them apart, with a different size, number of classes and noise each
time, and labels as few as on a public split or as many as in the fully supervised protocol, in turns. On each, random
models of two blocks over all operators and formats, mostly those of the default space, are trained for 60 epochs, half
of them drawn under a random limit of their buffers, and rated on selection nodes as a search does: once with a teacher
and once without. No real graph takes part. Ratings become normal scores within a graph; one Bayesian linear model over
all graphs, in which neighbouring numbers have similar effects, gives a column of the table. Trials are appended to
`benchmarks/results/known_effects.csv`; what is there is not measured again, whatever became of teachers since: those of
the rows had no term for the balance of classes. The table is written to
`lpgnas/data/known_effects.csv`; `--check FOLDER` also tells how well it ranks random models of real graphs.
"""

from __future__ import annotations

import argparse
import csv
import io
from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd
import torch
from scipy import sparse, stats

from benchmarks import RESULTS
from benchmarks.teachers import SETTINGS, TEACHER, drawn_split
from lpgnas.config import RunConfig
from lpgnas.cost_models.rows import GraphSize
from lpgnas.cost_models.spec_cost import spec_cost
from lpgnas.datasets import load_dataset
from lpgnas.graph import BoolArray, Graph
from lpgnas.known_effects import ALONE, TAUGHT, Named, axis, gene_options
from lpgnas.preferences import normal_scores, one_hot, supernet_opinion
from lpgnas.preparation import default_max_degree, default_search_space
from lpgnas.report import markdown_table
from lpgnas.results import write_atomic
from lpgnas.rows import Rows, key_of
from lpgnas.search_space import Choices, SearchSpace
from lpgnas.space_options import space_arguments
from lpgnas.strategy import Candidate, Rung, Task, rate_candidate
from lpgnas.supernet import train_supernet
from lpgnas.teachers import soft_labels, usual_share
from lpgnas.training import transductive_data

GRAPHS, MODELS = 6, 120
EPOCHS = 60
USUAL_SHARE, TRIES = 0.8, 200
REAL = ("planetoid/Cora", "planetoid/CiteSeer")
CHECKED = {"few": 60, "many": 60}
"""Models of a real graph that the table is checked on."""
PER_CLASS = {"few": 20, "many": None}
"""Training labels a class; None for 60 % of the nodes."""
LISTS: dict[str, tuple[Any, ...]] = {
    "blocks": (2,),
    "widths": (4, 8, 12, 16, 24, 32, 48, 64, 96),
    "heads": (1, 2, 4, 8),
    "weight_formats": ("binary", "ternary", "fixed2", "fixed3", "fixed4", "fixed6", "fixed8"),
    "code_bits": (2, 3, 4, 5, 6, 8),
}
"""What is sampled where it is not all that the whole space has."""
EFFECT_VARIANCE, NOISE_VARIANCE, OCTAVES = 0.15, 0.5, 1.0
"""Prior variance of an effect, and of what effects do not explain; how far apart numbers have different effects."""
TARGET = Path(__file__).parents[1] / "lpgnas" / "data" / "known_effects.csv"
Floats = npt.NDArray[np.float64]


def synthetic_graph(seed: int) -> Graph:
    """A graph of communities: words by topic, edges mostly within, hubs."""
    rng = np.random.default_rng(seed)
    nodes, classes, words = (int(rng.integers(*span)) for span in ((800, 1800), (3, 9), (300, 1200)))
    degree, inside, length, sharpness = (rng.uniform(*span) for span in ((3, 8), (0.6, 0.85), (6, 18), (0.5, 1.1)))
    y = rng.integers(0, classes, nodes)
    topics = rng.lognormal(0, sharpness, (classes, words)) * rng.lognormal(0, 1.0, words)
    topics /= topics.sum(axis=1, keepdims=True)
    counts = np.maximum(2, rng.poisson(length, nodes))
    picked = [rng.choice(words, count, p=topics[label]) for count, label in zip(counts, y, strict=True)]
    indptr = np.concatenate([[0], np.cumsum(counts)])
    x = sparse.csr_array((np.ones(indptr[-1], np.float32), np.concatenate(picked), indptr), shape=(nodes, words))
    x.sum_duplicates()
    x.data[:] = 1.0
    weight = rng.pareto(2.5, nodes) + 1.0
    source = rng.choice(nodes, int(nodes * degree / 2), p=weight / weight.sum())
    target = rng.choice(nodes, len(source), p=weight / weight.sum())
    for label in range(classes):
        own = np.flatnonzero(y == label)
        within = (y[source] == label) & (rng.random(len(source)) < inside)
        target[within] = rng.choice(own, int(within.sum()), p=weight[own] / weight[own].sum())
    source, target = source[source != target], target[source != target]
    edges = np.unique(np.stack([np.r_[source, target], np.r_[target, source]]), axis=1)
    return Graph(f"synthetic {seed}", x, edges.astype(np.int64), y, classes)


def synthetic_split(graph: Graph, seed: int) -> tuple[BoolArray, BoolArray, BoolArray]:
    """Training, early-stopping and selection nodes; few labels where `seed` is even."""
    if graph.y is None:
        raise ValueError(f"{graph.name} has no labels")
    order = np.random.default_rng(seed).permutation(graph.num_nodes)
    train = order[: graph.num_nodes * 6 // 10]
    if seed % 2 == 0:
        train = np.concatenate([order[graph.y[order] == label][:20] for label in range(graph.num_classes)])
    rest = order[~np.isin(order, train)]
    parts = train, rest[: len(rest) // 2], rest[len(rest) // 2 :]
    masks = [np.isin(np.arange(graph.num_nodes), part) for part in parts]
    return masks[0], masks[1], masks[2]


def sampled_space(graph: Graph) -> SearchSpace:
    """All operators and formats in two blocks."""
    return replace(default_search_space(graph), **space_arguments("whole", False, LISTS))


def drawn_models(graph: Graph, count: int, seed: int) -> Iterator[Choices]:
    """Random models of the sampled space, every other one within a random limit of its buffers.

    Four of five choices are made among the options of the default space, so that an effect is that beside reasonable
    choices: beside a sigmoid, no width helps.
    """
    rng, space, size = np.random.default_rng(seed), sampled_space(graph), GraphSize.of(graph)
    usual = {one for _, options in gene_options(default_search_space(graph)) for one in options}
    common = [
        tuple(place for place, one in enumerate(options) if one in usual) or tuple(range(len(options)))
        for _, options in gene_options(space)
    ]
    everything = [tuple(range(options)) for _, options in space.genes()]

    def drawn() -> Choices:
        picked = rng.random(len(common)) < USUAL_SHARE
        return space.draw(rng, tuple(common[k] if usual else everything[k] for k, usual in enumerate(picked)))

    for number in range(count):
        choices = drawn()
        if number % 2:
            typical = float(np.median([spec_cost(space.spec(drawn()), size).buffer_bits for _ in range(9)]))
            limit = int(typical * np.exp(rng.uniform(np.log(0.05), 0.0)))
            tries = (drawn() for _ in range(TRIES))
            fitting = (one for one in tries if spec_cost(space.spec(one), size).buffer_bits <= limit)
            choices = next(fitting, choices)
        yield choices


@dataclass(frozen=True)
class Judged:
    """A graph with labels on some nodes.

    Attributes:
        graph: the graph.
        masks: training, early-stopping and selection nodes.
        models: how many random models are rated on it.
        seed: of the models, and of their training.
        taught: whether models learn from a teacher.
    """

    graph: Graph
    masks: tuple[BoolArray, BoolArray, BoolArray]
    models: int
    seed: int
    taught: bool

    @property
    def labels(self) -> str:
        """`few` or `many` training labels."""
        return "few" if self.masks[0].mean() < 0.3 else "many"

    @property
    def space(self) -> SearchSpace:
        """What models are drawn from."""
        return sampled_space(self.graph)

    @cached_property
    def task(self) -> Task:
        """What models are trained on."""
        train, stop, select = self.masks
        space, data = self.space, transductive_data(self.graph, train, stop)
        size, degree, selected = GraphSize.of(self.graph), default_max_degree(self.graph), torch.from_numpy(select)
        if not self.taught:
            return Task(data, selected, size, degree, None, SETTINGS)
        soft = soft_labels(
            data,
            TEACHER,
            self.seed,
            row_normalize=space.row_normalize,
            input_signed=space.input_signed,
            num_classes=self.graph.num_classes,
        )
        return Task(data, selected, size, degree, soft, replace(SETTINGS, distillation=usual_share(data.train)))

    def rated(self, rows: Rows) -> pd.DataFrame:
        """Ratings of the random models, those that are missing measured and saved one by one."""
        space, size, keys = self.space, GraphSize.of(self.graph), []
        settings: dict[str, object] = {
            "epochs": EPOCHS,
            "usual": USUAL_SHARE,
            "lists": {name: list(map(str, options)) for name, options in LISTS.items()},
            "training": asdict(SETTINGS),
            "teacher": asdict(TEACHER) if self.taught else None,
        }
        for number, choices in enumerate(drawn_models(self.graph, self.models, self.seed)):
            facts = {"graph": self.graph.name, "labels": self.labels, "taught": self.taught, "seed": self.seed}
            facts["model"] = number
            keys.append(key_of({**facts, **settings}))
            if keys[-1] not in rows:
                spec = space.spec(choices)
                candidate = Candidate(number, choices, spec, spec_cost(spec, size))
                trial = rate_candidate(candidate, 0, Rung(EPOCHS, 1), self.task, self.seed)
                rated = {"accuracy": trial.accuracy, "score": trial.score}
                rows.add({"key": keys[-1], **facts, "choices": " ".join(map(str, choices)), **rated})
        print(f"{self.graph.name}, {self.labels} labels, taught {self.taught}: {self.models} models", flush=True)
        return rows.table[rows.table["key"].isin(keys)]

    def supernet(self) -> Floats:
        """The opinion [P] of a supernet on this graph, with as many steps as a search gives it."""
        task, steps = self.task, RunConfig(self.graph.name).supernet_steps
        done = train_supernet(
            self.space, lambda _: True, task.data, task.settings, self.seed, steps=steps, teacher=task.teacher
        )
        return supernet_opinion(self.space, [one.choices for one in done], np.array([one.loss for one in done]))


def design(space: SearchSpace, table: pd.DataFrame) -> Floats:
    """One-hot choices of the rows of a table [n, P]."""
    return one_hot(space, [tuple(map(int, row.split())) for row in table["choices"]])


def fitted(parts: list[tuple[SearchSpace, pd.DataFrame]]) -> dict[Named, float]:
    """The effect of every option, fitted over several graphs; the mean over each gene is 0."""
    names = list(dict.fromkeys(one for space, _ in parts for _, options in gene_options(space) for one in options))
    place = {name: column for column, name in enumerate(names)}
    gram, moment = np.zeros((len(names), len(names))), np.zeros(len(names))
    for space, table in parts:
        columns = [place[one] for _, options in gene_options(space) for one in options]
        rows = np.zeros((len(table), len(names)))
        np.add.at(rows.T, columns, design(space, table).T)
        rows -= rows.mean(axis=0)
        gram, moment = gram + rows.T @ rows, moment + rows.T @ normal_scores(table["score"].to_numpy())
    covariance = np.array([[_covariance(one, other) for other in names] for one in names])
    mean = np.linalg.solve(gram / NOISE_VARIANCE + np.linalg.inv(covariance), moment / NOISE_VARIANCE)
    genes = {one[:2]: [column for other, column in place.items() if other[:2] == one[:2]] for one in names}
    return {one: float(mean[place[one]] - mean[genes[one[:2]]].mean()) for one in names}


def _covariance(one: Named, other: Named) -> float:
    """Prior covariance of two effects: neighbouring numbers of one choice have similar ones."""
    if one[:2] != other[:2]:
        return 0.0
    first, second = axis(*one[1:]), axis(*other[1:])
    if first is None or second is None:
        return EFFECT_VARIANCE * (one == other)
    return float(EFFECT_VARIANCE * np.exp(-abs(first - second) / OCTAVES))


def table_of(taught: dict[Named, float], alone: dict[Named, float]) -> str:
    """The effects on models with a teacher and without, as CSV."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["where", "choice", "option", TAUGHT, ALONE])
    writer.writerows([*name, f"{effect:.3f}", f"{alone[name]:.3f}"] for name, effect in taught.items())
    return text.getvalue()


def summary(parts: list[tuple[Judged, pd.DataFrame]]) -> str:
    """How well effects rank models of graphs that they were not fitted on, and how well a supernet does."""
    lines = []
    synthetic = [(one, table) for one, table in parts if one.graph.name.startswith("synthetic")]
    for judged, table in parts:
        space = judged.space
        others = [one for one in synthetic if one[0].taught == judged.taught and one[0].graph is not judged.graph]
        known = fitted([(one.space, other) for one, other in others])
        effects = np.array([known.get(one, 0.0) for _, options in gene_options(space) for one in options])
        rows, score, accuracy = design(space, table), table["score"], 100 * table["accuracy"].to_numpy()
        ranks = [stats.spearmanr(rows @ one, score).statistic for one in (effects, judged.supernet())]
        best = accuracy[np.argsort(-(rows @ effects))[: max(1, len(table) // 10)]]
        figures = [f"{one:.2f}" for one in ranks] + [
            f"{one:.1f}" for one in (accuracy.mean(), best.mean(), accuracy.max())
        ]
        lines.append([judged.graph.name, judged.labels, "yes" if judged.taught else "no", len(table), *figures])
    header = [
        "graph",
        "labels",
        "teacher",
        "models",
        "rank correlation",
        "of a supernet",
        "accuracy %, mean",
        "first tenth",
        "best",
    ]
    return (
        "Made by `python -m benchmarks.known_effects --check FOLDER`: random models, ranked by effects that were "
        "fitted without their graph. A synthetic one is left out of the fit, real ones never take part. Accuracies are "
        f"of selection nodes after {EPOCHS} epochs: of all models, of the tenth that is ranked first, of the best.\n\n"
        + markdown_table(header, lines)
    )


def main() -> None:
    """Measure, fit, write the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--check", type=Path, metavar="FOLDER", help="graphs in PyG's layout to check the table on")
    parser.add_argument("--graphs", type=int, default=GRAPHS)
    parser.add_argument("--out", type=Path, default=RESULTS / "known_effects.csv")
    parser.add_argument("--table", type=Path, default=TARGET)
    options = parser.parse_args()
    torch.set_num_threads(1)
    rows = Rows(options.out)
    graphs = [synthetic_graph(seed) for seed in range(options.graphs)]
    parts, effects = [], []
    for taught in (True, False):
        judged = [Judged(one, synthetic_split(one, seed), MODELS, seed, taught) for seed, one in enumerate(graphs)]
        rated = [(one, one.rated(rows)) for one in judged]
        effects.append(fitted([(one.space, table) for one, table in rated]))
        parts += rated
    write_atomic(options.table, table_of(*effects))
    for name in REAL if options.check else ():
        graph = load_dataset(name, options.check)
        for labels, models in CHECKED.items():
            for taught in (True, False):
                real = Judged(graph, drawn_split(graph, PER_CLASS[labels], 0), models, 0, taught)
                parts.append((real, real.rated(rows)))
    options.out.with_suffix(".md").write_text(summary(parts))


if __name__ == "__main__":
    main()
