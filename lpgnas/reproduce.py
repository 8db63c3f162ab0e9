"""`lpgnas reproduce`: a table of models over graphs and seeds as CSV, Markdown and figure, made row by row.

Integer models are whole runs, verified in every form, and their test accuracy is that of the integer program. float32
models are tuned over a grid of twelve settings, 2,400 steps beside the 2,040 of a search, chosen on the selection
nodes, and trained from as many initial weights as a run's winner. The test nodes of a split are looked at once for each
row. A row is keyed by a hash of what it measures, so that an interrupted table goes on; so do run folders.
"""

from __future__ import annotations

import json
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from itertools import product
from pathlib import Path
from typing import Any, TextIO

import pandas as pd
import torch

from lpgnas import __version__
from lpgnas.config import SPACE_OPTIONS, RunConfig
from lpgnas.cost_models.spec_cost import spec_cost
from lpgnas.datasets import load_dataset
from lpgnas.errors import ConfigError, DatasetError, LoweringError
from lpgnas.graph_tensors import graph_tensors
from lpgnas.known_effects import effects_digest
from lpgnas.manual_models import ModelShape, UniformFormats, manual_spec
from lpgnas.pdnas import search_float
from lpgnas.pipeline import RECORD, SPEC, Run
from lpgnas.progress import Progress
from lpgnas.references import node_accuracy
from lpgnas.reproduce_report import datasets_of, figure, report
from lpgnas.reproduce_tables import TABLES, Entry
from lpgnas.results import read_record, write_atomic
from lpgnas.rows import Rows, key_of
from lpgnas.spec import ModelSpec
from lpgnas.strategy import BestTraining, restart_seeds, train_best
from lpgnas.teachers import recipe

HIDDEN, RATES, DECAYS = (16, 32, 64), (0.01, 0.03), (5e-4, 5e-3)
"""What a manual float32 model is tuned over."""
UNIFORM_TRIES = 2
"""Initial weights of each setting of a quantised manual model, which has no weight decay to tune."""
SEARCH_STEPS = 2040
"""Of a search with the default settings (for the estimate of a table's time)."""
FIXED_SECONDS = 20.0
"""Of a row without its training: loading, lowering, export, verification; likewise."""
PACE_STEPS = 20
UNSEARCHED: dict[str, Any] = {name: getattr(RunConfig("cora"), name) for name in SPACE_OPTIONS}
"""The options of the search space left out, for a run that searches nothing."""
SEARCH_OPTIONS = {*SPACE_OPTIONS, "candidates", "supernet_steps"}
"""What says nothing about a line without a search: a new default leaves its rows as they are."""


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
        self._paces: dict[str, float] = {}

    def run(self, seeds: int = 0, only: Sequence[str] = (), datasets: Sequence[str] = ()) -> str:
        """Measure the rows that are missing, the first seed of every line first; returns the table as Markdown.

        Args:
            seeds: how many, 0 for the table's own number.
            only: models, all of them where empty.
            datasets: likewise.

        Raises:
            ConfigError: nothing in the table bears such names.
            DatasetError: a graph that cannot be loaded, before anything is measured.
        """
        lines = [
            entry
            for entry in self.table.entries
            if (not only or entry.model in only) and (not datasets or entry.config.dataset in datasets)
        ]
        self._check_names("model", only, [entry.model for entry in self.table.entries])
        self._check_names("graph", datasets, datasets_of(self.table))
        if not lines or seeds < 0:
            raise ConfigError(f"seeds is {seeds} for {len(lines)} lines of the table; both must be positive")
        wanted = [(seed, entry) for seed in range(seeds or self.table.seeds) for entry in lines]
        self._take_over(wanted)
        left = [(seed, entry) for seed, entry in wanted if self.key(entry, seed) not in self._rows]
        absent = self._without_data([entry.config.dataset for _, entry in left], asked=bool(datasets))
        left = [(seed, entry) for seed, entry in left if entry.config.dataset not in absent]
        self._tell(len(wanted), left)
        progress = Progress(f"reproduce {self.table.name}", len(left), self._stream)
        for seed, entry in left:
            started = time.monotonic()
            measured = self.measure(entry, seed)
            facts = {"dataset": entry.config.dataset, "protocol": self.table.protocol, "model": entry.model}
            spent = {"seconds": round(time.monotonic() - started, 1), "settings": settings_of(entry, seed)}
            self._rows.add({"key": self.key(entry, seed), **facts, "seed": seed, **asdict(measured), **spent})
            self.write()
            progress.advance(1, f"{entry.model} on {entry.config.dataset}")
        return self.write()

    def _take_over(self, wanted: Sequence[tuple[int, Entry]]) -> None:
        """Rows that another table in the folder has: lines of two tables with the same key are the same measurement."""
        others = [self._folder / f"{name}.csv" for name in TABLES.names() if name != self.table.name]
        tables = [Rows(target).table for target in others if target.exists()]
        known = {row["key"]: row for table in tables for row in table.to_dict("records")}
        for seed, entry in wanted:
            key = self.key(entry, seed)
            if key in known and key not in self._rows:
                self._rows.add({**known[key], "model": entry.model})

    def _check_names(self, what: str, given: Sequence[str], known: Sequence[str]) -> None:
        unknown = [name for name in given if name not in known]
        if unknown:
            raise ConfigError(
                f"the table {self.table.name} has no {what} {unknown[0]!r}; known: {', '.join(dict.fromkeys(known))}"
            )

    def _without_data(self, wanted: Sequence[str], *, asked: bool) -> set[str]:
        """Graphs that cannot be loaded, where the table goes on without them.

        Raises:
            DatasetError: any other graph that cannot be loaded, or all of them.
        """
        absent: dict[str, DatasetError] = {}
        for name in dict.fromkeys(wanted):
            try:
                load_dataset(name, self._data_root)
            except DatasetError as error:
                absent[name] = error
        if absent and (asked or not self.table.optional or absent.keys() >= set(wanted)):
            raise next(iter(absent.values()))
        for name, reason in absent.items():
            if self._stream is not None:
                self._stream.write(f"without {name}: {reason}\n")
        return set(absent)

    def _tell(self, wanted: int, left: Sequence[tuple[int, Entry]]) -> None:
        """How much there is to do, and about how long it takes."""
        if self._stream is None:
            return
        about = ""
        if left:
            minutes = max(1.0, sum(self._seconds(entry, seed) for seed, entry in left) / 60)
            about = f", about {minutes:.0f} min" if minutes < 600 else f", about {minutes / 60:.0f} hours"
            about += " by the rows that are done and by the time of a training step"
        self._stream.write(f"{self.table.title}: {len(left)} of {wanted} rows to measure{about}\n")

    def _seconds(self, entry: Entry, seed: int) -> float:
        """The median of the rows of this line, else its steps at the pace of this graph."""
        known, dataset = self.rows(), entry.config.dataset
        if len(known):
            here = known[known["dataset"] == dataset]
            alike = here[here["model"] == entry.model]["seconds"]
            if len(alike):
                return float(alike.median())
            if len(here):
                steps = here["model"].map({one.model: self._steps(one) for one in self.table.entries})
                return float((here["seconds"] / steps).median()) * self._steps(entry)
        if dataset not in self._paces:
            self._paces[dataset] = self._pace(entry.seeded(seed))
        return FIXED_SECONDS + self._paces[dataset] * self._steps(entry)

    def _steps(self, entry: Entry) -> int:
        """Training steps of a row, about."""
        config = entry.config
        teacher = 1.5 * config.epochs if config.distillation else 0
        if entry.kind in ("manual", "uniform"):
            searched = len(HIDDEN) * len(RATES) * len(DECAYS) * config.epochs
        else:
            searched = 0 if config.strategy == "uniform" else SEARCH_STEPS
        return int(searched + config.restarts * config.epochs + teacher)

    def _pace(self, config: RunConfig) -> float:
        """Seconds of a training step on a graph: of a GCN-32 in float32, compiled kernels aside."""
        run = self._run(replace(config, distillation=False, strategy="uniform", **UNSEARCHED))
        task, spec = run.task(), manual_spec("gcn", ModelShape.of(run.space()), HIDDEN[1])
        seconds = []
        for steps in (1, PACE_STEPS):
            started = time.monotonic()
            train_best(spec, replace(task, settings=replace(task.settings, epochs=steps)), [0])
            seconds.append(time.monotonic() - started)
        return seconds[-1] / PACE_STEPS

    def key(self, entry: Entry, seed: int) -> str:
        """Hash of everything that decides a row."""
        facts = json.loads(settings_of(entry, seed)) | {"lpgnas": __version__}
        facts |= {"teacher": recipe()} if entry.config.distillation else {}
        facts |= {"known_effects": effects_digest()} if entry.searches and entry.config.strategy == "feasible" else {}
        grid = {"manual": [HIDDEN, RATES, DECAYS], "uniform": [HIDDEN, RATES, UNIFORM_TRIES]}.get(entry.kind)
        return key_of(facts | ({} if grid is None else {"grid": grid}))

    def rows(self) -> pd.DataFrame:
        """What is measured of the table as it is now; rows of other settings or versions stay in the file unread."""
        return self._rows.among(self.key(entry, seed) for entry in self.table.entries for seed in self._rows.seeds())

    # --- measuring ---

    def measure(self, entry: Entry, seed: int) -> Measured:
        """One row."""
        if entry.kind == "run":
            return self._of_run(self._whole(entry.seeded(seed)))
        if entry.kind == "retrained":
            searched = self._run(entry.seeded(0))
            searched.run_all(last="search")
            spec = str((searched.folder / SPEC).resolve())
            return self._of_run(self._whole(replace(entry.seeded(seed), spec=spec, **UNSEARCHED)), searched)
        if entry.kind == "uniform":
            return self._uniform(entry.seeded(seed))
        run = self._run(entry.seeded(seed))
        return self._manual(entry, run) if entry.kind == "manual" else self._pdnas(entry, run)

    def _run(self, config: RunConfig) -> Run:
        decides = {"lpgnas": __version__, "teacher": recipe(), "known_effects": effects_digest()}
        return Run(self._work / key_of({**decides, **asdict(config)}), config, self._data_root)

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
        seeds = restart_seeds(config.seed, config.restarts)
        training = train_best(spec, replace(task, settings=settings), seeds)
        return self._of_float(run, spec, training, config.epochs * len(tried))

    def _uniform(self, config: RunConfig) -> Measured:
        """Tuned by as many trainings as a float32 model, then a whole run of the best setting."""
        run = self._run(config)
        task, shape = run.task(), ModelShape.of(run.space())
        formats = UniformFormats.of(config.weight_format, config.activation_bits)
        tried: list[tuple[float, float, int, float]] = []
        refused: list[LoweringError] = []
        for hidden, rate in product(HIDDEN, RATES):
            spec = manual_spec(config.architecture, shape, hidden, formats)
            settings = replace(task.settings, learning_rate=rate)
            seeds = [config.seed * 1000 + one for one in range(UNIFORM_TRIES)]
            try:
                best = train_best(spec, replace(task, settings=settings), seeds)
            except LoweringError as error:  # this setting has no exact integer form; others may
                refused.append(error)
                continue
            tried.append((-best.selection.score, best.selection.loss, hidden, rate))
        if not tried:
            raise refused[0]
        _, _, hidden, rate = min(tried)
        measured = self._of_run(self._whole(replace(config, hidden=hidden, learning_rate=rate)))
        return replace(measured, steps=config.epochs * len(tried) * UNIFORM_TRIES)

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


def settings_of(entry: Entry, seed: int) -> str:
    """How a row is measured, as JSON: kind, blocks, and the options of its config that say something about it."""
    idle = set() if entry.searches else SEARCH_OPTIONS
    options = {
        name: value
        for name, value in asdict(entry.seeded(seed)).items()
        if value not in ("", (), None) and name not in idle
    }
    return json.dumps({"kind": entry.kind, "blocks": entry.blocks, "options": options}, sort_keys=True)


def entry_of(model: str, settings: str) -> Entry:
    """The line that `settings_of` wrote down, with the seeds of its row.

    Raises:
        ConfigError: options that this version does not know.
    """
    read = json.loads(settings)
    return Entry(model, read["kind"], RunConfig.of(read["options"]), read["blocks"])


def formats_of(spec: ModelSpec) -> str:
    """The format of every component, as JSON with sorted keys: `{"layer0.activation": "fixed4", ...}`."""
    named = {
        f"layer{index}.{component.value}": str(choice)
        for index, layer in enumerate(spec.layers)
        for component, choice in layer.formats.items()
    }
    return json.dumps(named, sort_keys=True)
