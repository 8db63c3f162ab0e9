"""`lpgnas reproduce`: a table of models over graphs and seeds as CSV, Markdown and figure, made row by row.

Integer models are whole runs, verified in every form, and their test accuracy is that of the integer program. float32
models are tuned over a grid of twelve settings, 2,400 steps beside the 2,240 of a search, chosen on the selection
nodes, and trained from as many initial weights as a run's winner. The test nodes of a split are looked at once for each
row. A row is keyed by a hash of what it measures, so that an interrupted table goes on; so do run folders.
"""

from __future__ import annotations

import io
import json
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from itertools import product
from pathlib import Path
from typing import Any, TextIO

import pandas as pd
import torch
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from lpgnas import __version__
from lpgnas.budget import format_bits
from lpgnas.config import RunConfig
from lpgnas.cost_models.spec_cost import spec_cost
from lpgnas.errors import ConfigError
from lpgnas.graph_tensors import graph_tensors
from lpgnas.manual_models import ModelShape, manual_spec
from lpgnas.pdnas import search_float
from lpgnas.pipeline import RECORD, SPEC, Run
from lpgnas.progress import Progress
from lpgnas.references import node_accuracy
from lpgnas.report import markdown_table
from lpgnas.reproduce_tables import TABLES, Entry, Table
from lpgnas.results import read_record, write_atomic
from lpgnas.rows import Rows, key_of
from lpgnas.spec import ModelSpec
from lpgnas.strategy import BestTraining, train_best

HIDDEN, RATES, DECAYS = (16, 32, 64), (0.01, 0.03), (5e-4, 5e-3)
"""What a manual float32 model is tuned over."""


@dataclass(frozen=True)
class Measured:
    """What a row says of a model. Accuracies from 0 to 1."""

    test_accuracy: float
    selection_accuracy: float
    weight_bits: int
    buffer_bits: int
    macs: int
    bops: int
    steps: int
    formats: str


class Reproduction:
    """The making of one table in a folder.

    Args:
        name: a name of `TABLES`.
        folder: where `<name>.csv`, `.md` and `.png` go.
        work: where run folders go.
        data_root: folder of graphs in PyG's layout.
        stream: where progress goes, or None.

    Raises:
        UnknownName: there is no such table.
    """

    def __init__(
        self, name: str, folder: Path, work: Path, data_root: Path | None = None, stream: TextIO | None = None
    ) -> None:
        self.table = TABLES.get(name)
        self._folder, self._work, self._data_root, self._stream = folder, work, data_root, stream
        self._rows = Rows(folder / f"{name}.csv")

    def run(self, seeds: int = 0, only: Sequence[str] = (), datasets: Sequence[str] = ()) -> str:
        """Measure the rows that are missing, the first seed of every line first; returns the table as Markdown.

        Args:
            seeds: how many, 0 for the table's own number.
            only: models, all of them where empty.
            datasets: likewise.

        Raises:
            ConfigError: nothing in the table bears such names.
        """
        lines = [
            entry
            for entry in self.table.entries
            if (not only or entry.model in only) and (not datasets or entry.config.dataset in datasets)
        ]
        self._check_names("model", only, [entry.model for entry in self.table.entries])
        self._check_names("graph", datasets, _datasets(self.table))
        if not lines or seeds < 0:
            raise ConfigError(f"seeds is {seeds} for {len(lines)} lines of the table; both must be positive")
        wanted = [(seed, entry) for seed in range(seeds or self.table.seeds) for entry in lines]
        left = [(seed, entry) for seed, entry in wanted if self.key(entry, seed) not in self._rows]
        self._tell(len(wanted), left)
        progress = Progress(f"reproduce {self.table.name}", len(left), self._stream)
        for seed, entry in left:
            started = time.monotonic()
            measured = self.measure(entry, seed)
            facts = {"dataset": entry.config.dataset, "protocol": self.table.protocol, "model": entry.model}
            spent = {"seconds": round(time.monotonic() - started, 1)}
            self._rows.add({"key": self.key(entry, seed), **facts, "seed": seed, **asdict(measured), **spent})
            self.write()
            progress.advance(1, f"{entry.model} on {entry.config.dataset}")
        return self.write()

    def _check_names(self, what: str, given: Sequence[str], known: Sequence[str]) -> None:
        unknown = [name for name in given if name not in known]
        if unknown:
            raise ConfigError(
                f"the table {self.table.name} has no {what} {unknown[0]!r}; known: {', '.join(dict.fromkeys(known))}"
            )

    def _tell(self, wanted: int, left: Sequence[tuple[int, Entry]]) -> None:
        if self._stream is None:
            return
        known = self.rows()
        alike = [known[known["model"] == entry.model]["seconds"] if len(known) else known for _, entry in left]
        about = ""
        if all(len(one) for one in alike):
            about = f", about {sum(one.median() for one in alike) / 60:.0f} minutes by those that are done"
        self._stream.write(f"{self.table.title}: {len(left)} of {wanted} rows to measure{about}\n")

    def key(self, entry: Entry, seed: int) -> str:
        """Hash of everything that decides a row."""
        facts = {"kind": entry.kind, "blocks": entry.blocks, "lpgnas": __version__, **asdict(entry.seeded(seed))}
        return key_of(facts | ({"grid": [HIDDEN, RATES, DECAYS]} if entry.kind == "manual" else {}))

    def rows(self) -> pd.DataFrame:
        """What is measured of the table as it is now; rows of other settings or versions stay in the file unread."""
        known, most = self._rows.table, int(self._rows.table["seed"].max()) + 1 if len(self._rows.table) else 0
        keys = {self.key(entry, seed) for entry in self.table.entries for seed in range(most)}
        return known[known["key"].isin(keys)]

    # --- measuring ---

    def measure(self, entry: Entry, seed: int) -> Measured:
        """One row."""
        if entry.kind == "run":
            return self._of_run(self._whole(entry.seeded(seed)))
        if entry.kind == "retrained":
            searched = self._run(entry.seeded(0))
            searched.run_all(last="search")
            spec = str((searched.folder / SPEC).resolve())
            return self._of_run(self._whole(replace(entry.seeded(seed), spec=spec)), searched)
        run = self._run(entry.seeded(seed))
        return self._manual(entry, run) if entry.kind == "manual" else self._pdnas(entry, run)

    def _run(self, config: RunConfig) -> Run:
        return Run(self._work / key_of({"lpgnas": __version__, **asdict(config)}), config, self._data_root)

    def _whole(self, config: RunConfig) -> Run:
        run = self._run(config)
        run.run_all()
        return run

    def _of_run(self, run: Run, searched: Run | None = None) -> Measured:
        stages = read_record(run.folder / RECORD)["stages"]
        search = stages if searched is None else read_record(searched.folder / RECORD)["stages"]
        sizes = {name: int(stages["lower"][name]) for name in ("weight_bits", "buffer_bits", "macs", "bops")}
        return Measured(
            test_accuracy=round(stages["evaluate"]["accuracy"]["test"], 6),
            selection_accuracy=round(stages["train"]["selection_accuracy"], 6),
            steps=int(search["search"]["steps"]),
            formats=formats_of(run.spec()),
            **sizes,
        )

    def _manual(self, entry: Entry, run: Run) -> Measured:
        task, shape, config = run.task(), ModelShape.of(run.space()), run.config
        tried: list[tuple[tuple[float, float], ModelSpec, Any]] = []
        for hidden, rate, decay in product(HIDDEN, RATES, DECAYS):
            spec = manual_spec(config.architecture, shape, hidden, blocks=entry.blocks)
            settings = replace(task.settings, learning_rate=rate, weight_decay=decay)
            best = train_best(spec, replace(task, settings=settings), [config.seed * 1000])
            tried.append(((-best.selection.score, best.selection.loss), spec, settings))
        _, spec, settings = min(tried, key=lambda one: one[0])
        seeds = [config.seed * 1000 + 500 + restart for restart in range(config.restarts)]
        training = train_best(spec, replace(task, settings=settings), seeds)
        return self._of_float(run, spec, training, config.epochs * len(tried))

    def _pdnas(self, entry: Entry, run: Run) -> Measured:
        config = run.config
        space = replace(run.space(), routes=True)
        winner = search_float(
            space, run.task(), run.search_settings(), config.seed, blocks=entry.blocks, restarts=config.restarts
        )
        return self._of_float(run, winner.spec, winner.training, winner.steps)

    def _of_float(self, run: Run, spec: ModelSpec, training: BestTraining, steps: int) -> Measured:
        graph, cost = run.prepared.graph, spec_cost(spec, run.prepared.size)
        tensors = graph_tensors(graph, None, spec.rounding, row_normalize=spec.row_normalize)
        with torch.no_grad():
            classes = training.trained.model(tensors).argmax(dim=1).numpy()
        return Measured(
            test_accuracy=round(node_accuracy(classes, graph, run.prepared.split.test) or 0.0, 6),
            selection_accuracy=round(training.selection.accuracy, 6),
            weight_bits=cost.weight_bits,
            buffer_bits=cost.buffer_bits,
            macs=cost.macs,
            bops=cost.bops,
            steps=steps,
            formats=formats_of(spec),
        )

    # --- writing ---

    def write(self) -> str:
        """The Markdown and the figure of what is measured; returns the former."""
        rows = self.rows()
        text = report(self.table, rows)
        write_atomic(self._folder / f"{self.table.name}.md", text)
        if len(rows):
            write_atomic(self._folder / f"{self.table.name}.png", figure(self.table, rows))
        return text


def formats_of(spec: ModelSpec) -> str:
    """The format of every component, as JSON with sorted keys: `{"layer0.activation": "fixed4", ...}`."""
    named = {
        f"layer{index}.{component.value}": str(choice)
        for index, layer in enumerate(spec.layers)
        for component, choice in layer.formats.items()
    }
    return json.dumps(named, sort_keys=True)


def _lines(table: Table, rows: pd.DataFrame, dataset: str) -> list[tuple[str, pd.DataFrame]]:
    """The rows of every model on a graph, in the table's order."""
    models = dict.fromkeys(entry.model for entry in table.entries if entry.config.dataset == dataset)
    parts = ((model, rows[(rows["dataset"] == dataset) & (rows["model"] == model)]) for model in models)
    return [(model, part) for model, part in parts if len(part)]


def _datasets(table: Table) -> list[str]:
    return list(dict.fromkeys(entry.config.dataset for entry in table.entries))


def report(table: Table, rows: pd.DataFrame) -> str:
    """The table as Markdown: for each graph mean and standard deviation over the seeds, then the papers' figures."""
    parts = [
        f"# {table.title}\n",
        f"Made by `lpgnas reproduce {table.name}`; split: {table.protocol}. Accuracies are those of the test nodes, "
        "mean and standard deviation over the seeds; sizes are medians. Integer models are verified programs. Where a "
        "line says one search, the seeds are trainings of its one model.\n",
    ]
    header = ["model", "seeds", "test accuracy %", "weights", "buffers", "search steps"]
    for dataset in _datasets(table):
        lines = []
        for model, part in _lines(table, rows, dataset):
            accuracy = 100 * part["test_accuracy"]
            spread = f" ± {accuracy.std(ddof=1):.1f}" if len(part) > 1 else ""
            sizes = [format_bits(int(part[name].median())) for name in ("weight_bits", "buffer_bits")]
            lines.append([model, len(part), f"{accuracy.mean():.1f}{spread}", *sizes, int(part["steps"].median())])
        lines += [
            [f"*{one.model}, published*", "", one.accuracy, one.weights, "", ""]
            for one in table.published
            if one.dataset == dataset
        ]
        if lines:
            parts += [f"## {dataset}\n", markdown_table(header, lines)]
    return "\n".join(parts)


def figure(table: Table, rows: pd.DataFrame) -> bytes:
    """Mean test accuracy over weights, a panel for each graph, as PNG; the same bytes for the same rows."""
    datasets = [dataset for dataset in _datasets(table) if _lines(table, rows, dataset)]
    made = Figure(figsize=(5.5 * len(datasets), 4.6), dpi=130, layout="constrained", facecolor="white")
    FigureCanvasAgg(made)
    for axes, dataset in zip(made.subplots(1, len(datasets), squeeze=False)[0], datasets, strict=True):
        axes.set_title(f"{dataset}, split {table.protocol}")
        axes.set_xscale("log")
        axes.set_xlabel("weights, KiB")
        axes.set_ylabel("test accuracy, %")
        axes.grid(alpha=0.3)
        for model, part in _lines(table, rows, dataset):
            size, accuracy = part["weight_bits"].median() / (8 << 10), 100 * part["test_accuracy"]
            spread = accuracy.std(ddof=1) if len(part) > 1 else 0.0
            axes.errorbar(size, accuracy.mean(), yerr=spread, fmt="o", capsize=2)
            axes.annotate(model, (size, accuracy.mean()), xytext=(4, 4), textcoords="offset points", fontsize=7)
    content = io.BytesIO()
    made.savefig(content, format="png", metadata={"Software": None})
    return content.getvalue()
