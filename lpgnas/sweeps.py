"""A sweep: runs over budgets and seeds in one folder, which share one teacher and one supernet for each seed.

Every run is an ordinary run folder whose config names the shared files, so that it can be repeated by itself. The
supernet is trained under the loosest limit of each quantity, and each budget's search takes its losses: they are an
opinion about choices, and what fits is decided anew. A sweep that was killed goes on where it stopped.
"""

from __future__ import annotations

import tomllib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, fields
from itertools import product
from pathlib import Path
from statistics import mean, stdev
from typing import TYPE_CHECKING, Any, TextIO

from lpgnas.budget import QUANTITIES, Budget, Quantity, Size
from lpgnas.config import RunConfig, toml_lines
from lpgnas.errors import ConfigError, InfeasibleBudget, RunFolderError
from lpgnas.pipeline import GRAPH, RECORD, Run, key_of
from lpgnas.plots import front_panel, pareto_png
from lpgnas.preparation import graph_fingerprint
from lpgnas.progress import Progress
from lpgnas.report import markdown_table
from lpgnas.report_files import write_reports
from lpgnas.results import (
    RECORD_VERSION,
    STAGES,
    is_leftover,
    read_file,
    read_record,
    read_text,
    remove_leftovers,
    sealed,
    sha256,
    write_atomic,
)
from lpgnas.run_facts import percent
from lpgnas.strategy import fits_within
from lpgnas.supernet import train_supernet
from lpgnas.teacher_file import read_teacher, teacher_bytes
from lpgnas.trials import supernet_csv

if TYPE_CHECKING:
    import pandas as pd

SWEEP, TABLE, REPORT, FIGURE, SHARED = "sweep.toml", "sweep.csv", "sweep.md", "pareto.png", "sweep.json"
DONE, PENDING, INFEASIBLE = "done", "pending", "infeasible"
OWN = ("spec", "teacher_file", "supernet_file")
"""Options of a run that a sweep does not take."""


def list_key(quantity: Quantity) -> str:
    """The key of a sweep's limits of a quantity; its flag is the same with hyphens."""
    return f"{quantity.option}s"


@dataclass(frozen=True)
class SweepPoint:
    """One run of a sweep: its folder's name, its budget and its seed."""

    name: str
    budget: Budget
    seed: int


@dataclass(frozen=True)
class SweepConfig:
    """Everything that decides what a sweep computes.

    Attributes:
        base: the options of every run; its budgets are empty and its seed is not used.
        limits: the limits of each limited quantity by the quantity's name, as exact texts.
        seeds: of searches and trainings.

    Raises:
        ConfigError: no seed, a seed or a limit that stands twice, or what a run refuses.
    """

    base: RunConfig
    limits: Mapping[str, tuple[str, ...]]
    seeds: tuple[int, ...] = (0,)

    def __post_init__(self) -> None:
        for what, values in (("seeds", self.seeds), *((one, texts) for one, texts in self.limits.items())):
            if not values:
                raise ConfigError(f"a sweep needs at least one of its {what}, got none")
            if len(set(values)) < len(values):
                raise ConfigError(f"{what} of the sweep: {', '.join(map(str, values))} holds a value twice")
        for point in self.points():
            self.run_config(point)  # refuses what a run refuses

    @classmethod
    def of(cls, options: Mapping[str, Any]) -> SweepConfig:
        """The config of options by name: those of a run, with lists `<quantity>_budgets` and `seeds`.

        Raises:
            ConfigError: an unknown option, or a value of the wrong type or range.
        """
        rest, limits = dict(options), {}
        single = {one.option: list_key(one) for one in QUANTITIES} | {"seed": "seeds"}
        for name in rest:
            if name in single:
                raise ConfigError(f"a sweep takes the list {single[name]}, not {name}")
            if name in OWN:
                raise ConfigError(f"a sweep does not take {name}: it searches, and makes its own shared files")
        seeds = _listed(rest.pop("seeds", [0]), "seeds", int)
        for one in QUANTITIES:
            listed = _listed(rest.pop(list_key(one), []), list_key(one), str, int)
            if listed:
                limits[one.name] = tuple(one.scale.text(one.scale.limit(size, f"{one.what} budget")) for size in listed)
        if "dataset" not in rest:
            raise ConfigError("the config lacks the key 'dataset'")
        return cls(RunConfig.of(rest), limits, tuple(seeds))

    @classmethod
    def from_toml(cls, text: str) -> SweepConfig:
        """The config in a TOML text.

        Raises:
            ConfigError: not TOML, or as `of`.
        """
        try:
            raw = tomllib.loads(text)
        except tomllib.TOMLDecodeError as error:
            raise ConfigError(f"the config is not TOML: {error}") from error
        return cls.of(raw)

    def options(self) -> dict[str, Any]:
        """What `of` reads."""
        left_out = {*(one.option for one in QUANTITIES), "seed", *OWN}
        base = {item.name: getattr(self.base, item.name) for item in fields(RunConfig) if item.name not in left_out}
        limits = {list_key(one): list(self.limits[one.name]) for one in QUANTITIES if one.name in self.limits}
        return base | limits | {"seeds": list(self.seeds)}

    def to_toml(self) -> str:
        """One `key = value` line each."""
        return toml_lines(self.options())

    def located(self, folder: Path) -> SweepConfig:
        """The same with relative paths taken from `folder`."""
        return SweepConfig(self.base.located(folder), self.limits, self.seeds)

    def points(self) -> tuple[SweepPoint, ...]:
        """Every combination of a limit of each quantity and a seed, seeds fastest."""
        limited = [one for one in QUANTITIES if one.name in self.limits]
        made = []
        for texts in product(*(self.limits[one.name] for one in limited)):
            parts = [f"{one.what}-{text}_" for one, text in zip(limited, texts, strict=True)]
            budget = Budget(**{one.keyword: text for one, text in zip(limited, texts, strict=True)})
            made += [SweepPoint(f"{''.join(parts)}seed-{seed}", budget, seed) for seed in self.seeds]
        return tuple(made)

    def loosest(self) -> Budget:
        """The largest limit of every limited quantity."""
        limited: dict[str, Size | None] = {
            one.keyword: max(one.scale.parse(text, one.what) for text in self.limits[one.name])
            for one in QUANTITIES
            if one.name in self.limits
        }
        return Budget(**limited)

    def run_config(self, point: SweepPoint, *, teacher: bool = True, supernet: bool = True) -> RunConfig:
        """The config of a point's run, with paths from its folder; with or without the shared files."""
        shared = {"dataset": f"../{GRAPH}"} if self.base.dataset == GRAPH else {}
        if teacher and self.base.distillation:
            shared["teacher_file"] = f"../{teacher_name(point.seed)}"
        if supernet and self.base.strategy == "feasible":
            shared["supernet_file"] = f"../{supernet_name(point.seed)}"
        return RunConfig(**self.base.__dict__ | point.budget.options() | {"seed": point.seed} | shared)


def teacher_name(seed: int) -> str:
    """The file of a seed's teacher."""
    return f"teacher-{seed}.npz"


def supernet_name(seed: int) -> str:
    """The file of a seed's supernet steps."""
    return f"supernet-{seed}.csv"


def _listed(values: object, name: str, *kinds: type) -> list[Any]:
    if not isinstance(values, (list, tuple)) or any(type(value) not in kinds for value in values):
        raise ConfigError(
            f"{name} of a sweep must be a list of {' or '.join(k.__name__ for k in kinds)}, got {values!r}"
        )
    return list(values)


class Sweep:
    """One folder of runs.

    Args:
        folder: where the runs and their tables go.
        config: what to compute, or None to take the folder's own.
        data_root: where graphs are.
        stream: where progress goes, or None.
        graph_file: the graph that the config calls `graph.npz`, to be kept in the folder; None if it is there.

    Raises:
        RunFolderError: the folder holds another sweep or something else, or has no config and none is given.
        CheckFailed: its record was changed.
    """

    def __init__(
        self,
        folder: Path,
        config: SweepConfig | None = None,
        data_root: Path | None = None,
        stream: TextIO | None = None,
        graph_file: Path | None = None,
    ) -> None:
        self.folder, self._data_root, self._stream = folder, data_root, stream
        self.config = self._owned_config(config)
        self._graph_file = graph_file
        kept = folder / GRAPH
        if graph_file is not None and kept.exists() and read_file(kept) != read_file(graph_file):
            raise RunFolderError(f"{folder} holds a sweep on another graph; choose another folder with --out")
        remove_leftovers(folder)

    def _owned_config(self, config: SweepConfig | None) -> SweepConfig:
        folder = self.folder
        if (folder / SWEEP).exists():
            kept = SweepConfig.from_toml(read_text(folder / SWEEP))
            if config is not None and config.located(folder) != kept.located(folder):
                old, new = kept.options(), config.options()
                changed = sorted(name for name in old.keys() | new.keys() if old.get(name) != new.get(name))
                raise RunFolderError(
                    f"{folder} holds another sweep: {', '.join(changed)} differ; choose another folder with --out"
                )
            return kept
        if config is None:
            raise RunFolderError(f"{folder} is not a sweep folder: it has no {SWEEP}; make one with lpgnas sweep --out")
        if folder.exists() and (not folder.is_dir() or not all(map(is_leftover, folder.iterdir()))):
            raise RunFolderError(f"{folder} exists and is not a sweep folder; choose another with --out")
        return config

    def point_run(self, point: SweepPoint) -> Run:
        """The run of a point, as it is."""
        return Run(self.folder / point.name, self.config.run_config(point), self._data_root, self._stream)

    def _maker(self, config: RunConfig) -> Run:
        """A run that keeps nothing: what is there before any run."""
        return Run(self.folder / "none", config, self._data_root, self._stream, self._graph_file)

    def run(self) -> None:
        """Every run that is not done yet; then the tables and the figure.

        Raises:
            InfeasibleBudget: no point is feasible; before anything is written.
            CheckFailed: a check of a run failed.
        """
        points = self.config.points()
        infeasible = self._infeasible(points)
        if len(infeasible) == len(points):
            name, smallest = next(iter(infeasible.items()))
            raise InfeasibleBudget(
                f"none of the {len(points)} points of the sweep is feasible; {name} needs {smallest}", smallest
            )
        self._write(SWEEP, self.config.to_toml())
        if self._graph_file is not None:
            self._write(GRAPH, read_file(self._graph_file))
        left = [point for point in points if point.name not in infeasible and not self._is_done(point)]
        self._tables(points, infeasible)
        progress = Progress("sweep", len(left), self._stream)
        for point in left:
            self._share(point)
            self.point_run(point).run_all()
            write_reports(self.folder / point.name)
            self._tables(points, infeasible)
            progress.advance(1, point.name)

    def _infeasible(self, points: Sequence[SweepPoint]) -> dict[str, str]:
        """The smallest feasible budget of each point that is not feasible, by the point's name."""
        first = self._maker(self.config.run_config(points[0], teacher=False, supernet=False))
        found = {}
        for point in points:
            try:
                first.require_feasible(point.budget)
            except InfeasibleBudget as error:
                found[point.name] = error.smallest
        return found

    def _is_done(self, point: SweepPoint) -> bool:
        folder = self.folder / point.name
        if not (folder / RECORD).exists():
            return False
        run = self.point_run(point)
        return all(run.is_done(stage) for stage in STAGES) and (folder / "report.html").exists()

    # --- what runs share ---

    def _share(self, point: SweepPoint) -> None:
        """Make the shared files of a seed, unless they are there and what they should be."""
        config = self.config
        if config.base.distillation:
            self._share_teacher(point)
        if config.base.strategy == "feasible":
            self._share_supernet(point)

    def _share_teacher(self, point: SweepPoint) -> None:
        path = self.folder / teacher_name(point.seed)
        run = self._maker(self.config.run_config(point, teacher=False, supernet=False))
        key = run.teacher_key()
        if path.exists() and self._shared(path.name, key) and read_teacher(path, key) is not None:
            return
        soft = run.teacher()
        if soft is not None:
            self._keep_shared(path.name, key, teacher_bytes(soft, key))

    def _share_supernet(self, point: SweepPoint) -> None:
        path, loosest = self.folder / supernet_name(point.seed), self.config.loosest()
        run = self._maker(self.config.run_config(point, supernet=False))
        space, config, latency = run.space(), self.config.base, run.latency
        teacher = sha256(read_file(self.folder / teacher_name(point.seed))) if config.distillation else ""
        key = key_of(
            graph_fingerprint(run.prepared.graph), (run.prepared.split.protocol, config.split_seed, config.inductive),
            space, loosest, "" if latency is None else latency.to_json(), run.training_settings(),
            (config.supernet_steps, point.seed, config.threads), teacher,
        )  # fmt: skip
        if path.exists() and self._shared(path.name, key):
            return
        task, progress = run.task(), Progress("supernet", config.supernet_steps, self._stream)
        steps = train_supernet(
            space,
            fits_within(loosest, task.size, latency),
            task.data,
            task.settings,
            point.seed,
            steps=config.supernet_steps,
            teacher=task.teacher,
            on_step=progress.advance,
        )
        self._keep_shared(path.name, key, supernet_csv(space, steps).encode())

    def _record(self) -> dict[str, Any]:
        path = self.folder / SHARED
        return read_record(path) if path.exists() else {"schema_version": RECORD_VERSION, "shared": {}}

    def _shared(self, name: str, key: str) -> bool:
        """Whether a shared file is the one that was made for `key`."""
        entry: dict[str, str] = self._record()["shared"].get(name, {})
        return entry == {"key": key, "sha256": sha256(read_file(self.folder / name))}

    def _keep_shared(self, name: str, key: str, content: bytes) -> None:
        record = self._record()
        record["shared"][name] = {"key": key, "sha256": write_atomic(self.folder / name, content)}
        write_atomic(self.folder / SHARED, sealed(record))

    # --- tables ---

    def rows(self, infeasible: Mapping[str, str]) -> list[dict[str, Any]]:
        """One row a point: its limits, and what its run has come to."""
        return [self._row(point, infeasible) for point in self.config.points()]

    def _row(self, point: SweepPoint, infeasible: Mapping[str, str]) -> dict[str, Any]:
        path = self.folder / point.name / RECORD
        stages = read_record(path)["stages"] if path.exists() and point.name not in infeasible else {}
        status = INFEASIBLE if point.name in infeasible else DONE if "evaluate" in stages else PENDING
        lowered, trained, evaluated = (
            stages.get(name, {}) if status == DONE else {} for name in ("lower", "train", "evaluate")
        )
        accuracy = evaluated.get("accuracy", {})
        return {
            "name": point.name,
            "seed": point.seed,
            "status": status,
            **{f"limit_{one.name}": point.budget.get(one.name) for one in QUANTITIES},
            **{one.name: lowered.get(one.name) for one in QUANTITIES},
            "selection_accuracy": trained.get("selection_accuracy"),
            "validation_accuracy": accuracy.get("val"),
            "test_accuracy": accuracy.get("test"),
            "smallest_feasible": infeasible.get(point.name, ""),
        }

    def _tables(self, points: Sequence[SweepPoint], infeasible: Mapping[str, str]) -> None:
        rows = self.rows(infeasible)
        self._write(TABLE, sweep_table(rows).to_csv(index=False, lineterminator="\n"))
        self._write(REPORT, sweep_report(self.config, rows))
        done = [row for row in rows if row["status"] == DONE]
        if done:
            self._write(FIGURE, sweep_figure(done))

    def _write(self, name: str, content: str | bytes) -> None:
        """Write a file unless it says so already."""
        path, data = self.folder / name, content.encode() if isinstance(content, str) else content
        if not path.exists() or read_file(path) != data:
            write_atomic(path, data)


def sweep_table(rows: Sequence[Mapping[str, Any]]) -> pd.DataFrame:
    """The rows of a sweep as a data frame; whole numbers stay whole where some are missing."""
    import pandas as pd

    whole = {name: "Int64" for one in QUANTITIES for name in (f"limit_{one.name}", one.name)}
    return pd.DataFrame(list(rows)).astype(whole)


def sweep_figure(done: Sequence[Mapping[str, Any]]) -> bytes:
    """Accuracy over weights and over buffers of the runs that are done, as PNG."""
    name, label = _accuracy_column(done)
    accuracies = [float(row[name]) for row in done]
    return pareto_png(
        tuple(
            front_panel(title, f"{label}, %", [int(row[size]) for row in done], accuracies, "run")
            for title, size in (("weights", "weight_bits"), ("buffers", "buffer_bits"))
        )
    )


def _accuracy_column(done: Sequence[Mapping[str, Any]]) -> tuple[str, str]:
    """The accuracy that a sweep is drawn by: that of the test nodes, or of the selection nodes if there are none."""
    tested = all(row["test_accuracy"] is not None for row in done)
    return ("test_accuracy", "test accuracy") if tested else ("selection_accuracy", "selection accuracy")


def sweep_report(config: SweepConfig, rows: Sequence[Mapping[str, Any]]) -> str:
    """The sweep as Markdown: every run, and the mean over the seeds of each budget."""
    limited = [one for one in QUANTITIES if one.name in config.limits]
    shown = [one for one in QUANTITIES if one in limited or one.name in ("weight_bits", "buffer_bits", "peak_bits")]
    header = ["run", *(one.title for one in shown), "selection", "validation", "test"]
    every = [[row["name"], *_cells(row, shown)] for row in rows]
    parts = [
        f"# Sweep on {config.base.dataset}\n",
        f"Every combination of the budgets and of the seeds {', '.join(map(str, config.seeds))}.{_shared(config)} "
        "Accuracies are those of the selection nodes, of all validation nodes and of the test nodes.\n",
        "## Runs\n",
        markdown_table(header, every),
        "## Budgets\n",
        markdown_table(["budget", "seeds", "selection", "validation", "test"], list(_means(config, rows))),
    ]
    return "\n".join(parts)


def _shared(config: SweepConfig) -> str:
    """What the runs of a seed have in common, as a sentence."""
    parts = ["their teacher"] if config.base.distillation else []
    parts += ["the losses of one supernet"] if config.base.strategy == "feasible" else []
    return f" The runs of a seed share {' and '.join(parts)}." if parts else ""


def _cells(row: Mapping[str, Any], shown: Sequence[Quantity]) -> list[str]:
    sizes = ["" if row[one.name] is None else one.format(row[one.name]) for one in shown]
    accuracies = ["" if row[name] is None else percent(row[name]) for name in ACCURACIES]
    if row["status"] != DONE:
        accuracies[-1] = row["status"] + (f": smallest {row['smallest_feasible']}" if row["smallest_feasible"] else "")
    return [*sizes, *accuracies]


ACCURACIES = ("selection_accuracy", "validation_accuracy", "test_accuracy")


def _means(config: SweepConfig, rows: Sequence[Mapping[str, Any]]) -> Iterator[list[object]]:
    """For each budget: how many seeds are done, and their mean accuracies with standard deviations."""
    count = len(config.seeds)
    points = config.points()
    for first in range(0, len(rows), count):
        done = [row for row in rows[first : first + count] if row["status"] == DONE]
        yield [points[first].budget, len(done), *(_spread([row[name] for row in done]) for name in ACCURACIES)]


def _spread(values: Sequence[float | None]) -> str:
    known = [value for value in values if value is not None]
    if not known:
        return ""
    return percent(mean(known)) + (f" ± {100 * stdev(known):.1f}" if len(known) > 1 else "")
