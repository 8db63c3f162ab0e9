"""The stages of a run: search -> train -> lower -> export -> verify -> evaluate, each from and to files of one folder.

A stage that is done, with its files unharmed, is not done again; an interrupted one starts over and ends in the same
bytes. Only `evaluate`, once at the end, looks at the test nodes.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import asdict, fields, replace
from pathlib import Path
from typing import Any, TextIO

import numpy as np
import torch
from torch import Tensor

from lpgnas import __version__
from lpgnas.budget import QUANTITIES, Budget
from lpgnas.config import RunConfig
from lpgnas.constant_forms import check_compiled, compare_compiled, drop_projects, write_projects
from lpgnas.cost_models.latency import LatencyTable
from lpgnas.cost_models.program_cost import program_cost
from lpgnas.cost_models.spec_cost import spec_cost
from lpgnas.errors import CheckFailed, InfeasibleBudget, LpgnasError, RunFolderError, SpecError
from lpgnas.export.c_build import compiled, find_compiler
from lpgnas.export.files import export_files
from lpgnas.export.targets import HLS4ML, ONNX_INT, ONNX_QDQ, QONNX, TARGETS, C, c_source, default_targets
from lpgnas.fixed_point import FixedPointReport, fixed_point_checks
from lpgnas.graph import Graph
from lpgnas.graph_tensors import graph_tensors
from lpgnas.integer_program import IntegerProgram
from lpgnas.kernels.executor import Executor
from lpgnas.known_effects import effects_digest
from lpgnas.layers import QuantizedModel
from lpgnas.lowering import lower, refuse_float
from lpgnas.manual_models import ModelShape, UniformFormats, manual_spec
from lpgnas.model_file import model_bytes, model_from_bytes
from lpgnas.preparation import graph_fingerprint, prepare, search_space
from lpgnas.program_file import load_program, to_bytes
from lpgnas.progress import Progress
from lpgnas.references import measure_references, node_accuracy, reference_trainings
from lpgnas.results import (
    RECORD_VERSION,
    STAGES,
    is_leftover,
    package_versions,
    read_file,
    read_record,
    read_text,
    remove_leftovers,
    sealed,
    sha256,
    write_atomic,
)
from lpgnas.search_space import SearchSpace
from lpgnas.spec import ModelSpec
from lpgnas.strategy import (
    Candidate,
    Rung,
    SearchSettings,
    Task,
    Trial,
    budget_for,
    require_feasible,
    restart_seeds,
    search,
    train_best,
)
from lpgnas.supernet import SupernetStep
from lpgnas.teacher_file import read_teacher
from lpgnas.teachers import recipe, soft_labels, usual_share
from lpgnas.training import TrainingSettings
from lpgnas.trials import TrialTable, read_supernet, supernet_csv
from lpgnas.verification import (
    C_FORM,
    NO_COMPILER,
    Comparison,
    Form,
    check_c_code,
    forms_of,
    unseen_graphs,
    verify_forms,
)

RECORD, CONFIG, SPEC = "record.json", "config.toml", "spec.json"
CANDIDATES, SUPERNET = "candidates.csv", "supernet.csv"
MODEL, PROGRAM, COSTS = "model.safetensors", "program.npz", "costs.csv"
LATENCY = "latency_table.json"
FIXED_POINT = "fixed_point.json"
"""Of `check_fixed_point`; no stage writes it, so it is no part of the record."""
EVALUATE_EVERY = 4
"""Epochs between evaluations in a run; a training of 200 loses nothing by looking half as often as every second."""
GRAPH = "graph.npz"
"""Of a run on a graph that was not a file."""


class Run:
    """One run folder and the stages that fill it.

    Args:
        folder: where the files are.
        config: what to compute, or None to take the folder's own.
        data_root: where graphs are.
        stream: where progress goes, or None.
        graph_file: the graph that the config calls `graph.npz`, to be kept in the folder; None if it is there.

    Raises:
        RunFolderError: the folder belongs to another run, or has no config and none is given.
        DatasetError, GraphError, ConfigError: the graph cannot be used.
        CheckFailed: the config, the record or the graph are not the ones of the run.
    """

    def __init__(
        self,
        folder: Path,
        config: RunConfig | None = None,
        data_root: Path | None = None,
        stream: TextIO | None = None,
        graph_file: Path | None = None,
    ) -> None:
        self.folder = folder
        self._stream = stream
        config = self._owned_config(config)
        self.config = config
        torch.set_num_threads(config.threads)
        located = config.located(folder)
        self._graph_file = read_file(graph_file) if graph_file is not None else None
        if graph_file is not None:
            kept = folder / GRAPH
            if kept.exists() and read_file(kept) != self._graph_file:
                raise RunFolderError(f"{folder} holds a run on another graph; choose another folder with --out")
            located = replace(located, dataset=str(graph_file))
        self._located = located
        self.prepared = prepare(located, data_root)
        record = self.record()
        # an unfinished search on another graph starts anew; what ended cannot be gone on with
        if record["stages"] and record["dataset"]["graph_sha256"] != graph_fingerprint(self.prepared.graph):
            raise CheckFailed(f"the graph {self.prepared.graph.name} is not the one that {folder} was made on")
        self._teacher: Tensor | None = None
        self._task: Task | None = None
        self.latency = self._latency_table()
        for place in (folder, folder / C):
            remove_leftovers(place)

    def _owned_config(self, config: RunConfig | None) -> RunConfig:
        """The folder's config, which the given one must be; or the given one for a new folder."""
        folder = self.folder
        if (folder / CONFIG).exists():
            self._check_files("search", only=CONFIG)
            kept = RunConfig.from_toml(read_text(folder / CONFIG))
            if config is not None and config.located(folder) != kept.located(folder):
                changed = [f.name for f in fields(kept) if getattr(kept, f.name) != getattr(config, f.name)]
                raise RunFolderError(
                    f"{folder} holds another run: {', '.join(changed)} differ; choose another folder with --out"
                )
            return kept
        if config is None:
            raise RunFolderError(f"{folder} is not a run folder: it has no {CONFIG}; make one with lpgnas run --out")
        if folder.exists() and (not folder.is_dir() or not all(map(is_leftover, folder.iterdir()))):
            raise RunFolderError(f"{folder} exists and is not a run folder; choose another with --out")
        return config

    # --- record ---

    def record(self) -> dict[str, Any]:
        """What the run has recorded so far."""
        path = self.folder / RECORD
        return read_record(path) if path.exists() else {"schema_version": RECORD_VERSION, "stages": {}}

    def is_done(self, stage: str) -> bool:
        """Whether a stage ended, without a failed check, and its files are the ones it wrote."""
        entry = self.record()["stages"].get(stage)
        if entry is None or not entry.get("passed", True):
            return False
        return all(
            (self.folder / name).exists() and sha256(read_file(self.folder / name)) == digest
            for name, digest in entry["files"].items()
        )

    def _finish(self, stage: str, files: dict[str, str], started: float, **facts: object) -> None:
        record = self.record() | self._facts()
        before = record["stages"].get(stage, {}).get("files")
        record["stages"][stage] = {"files": files, "seconds": round(time.monotonic() - started, 3), **facts}
        if files != before:
            # what came from older files is no longer true; accuracies are the program's, and need no exported file
            for later in ("verify",) if stage == "export" else STAGES[STAGES.index(stage) + 1 :]:
                record["stages"].pop(later, None)
        write_atomic(self.folder / RECORD, sealed(record))

    def _facts(self) -> dict[str, object]:
        """What a record says before any stage."""
        return {
            "lpgnas_version": __version__,
            "versions": package_versions(),
            "config": asdict(self.config),
            "dataset": self._dataset_facts(),
        }

    def _dataset_facts(self) -> dict[str, object]:
        graph, split = self.prepared.graph, self.prepared.split
        return {
            "name": graph.name,
            "protocol": split.protocol,
            "split_seed": self.config.split_seed,
            "inductive": self.config.inductive,
            "num_nodes": graph.num_nodes,
            "num_edges": graph.num_edges,
            "num_features": graph.num_features,
            "num_classes": graph.num_classes,
            "train_nodes": int(split.train.sum()),
            "validation_nodes": int(split.val.sum()),
            "test_nodes": int(split.test.sum()),
            "graph_sha256": graph_fingerprint(graph),
        }

    def _save(self, name: str, content: bytes | str) -> dict[str, str]:
        return {name: write_atomic(self.folder / name, content)}

    # --- stages ---

    def run_all(self, last: str = STAGES[-1]) -> None:
        """Every stage up to `last` that is not done yet, in order.

        Raises:
            CheckFailed: the forms of the model disagree.
        """
        for stage in STAGES[: STAGES.index(last) + 1]:
            if not self.is_done(stage):
                self.run_stage(stage)

    def run_stage(self, stage: str, targets: Sequence[str] = (), graph: Graph | None = None) -> None:
        """One stage, whether or not it was done before; `targets` and `graph` are those of an export.

        Raises:
            RunFolderError: a stage before it is missing.
            CheckFailed: a file of a stage before it was changed, or a check of one failed.
        """
        done = self.record()["stages"]
        for before in STAGES[: STAGES.index(stage)]:
            if before not in done:
                raise RunFolderError(f"{self.folder}: stage {stage!r} needs {before!r} to be done first")
            self._check_files(before)
            if not done[before].get("passed", True):
                raise CheckFailed(f"{self.folder}: stage {before!r} failed its check; stage {stage!r} needs it to pass")
        stages: dict[str, Callable[[], None]] = {
            "search": self.search,
            "train": self.train,
            "lower": self.lower,
            "export": lambda: self.export(targets, graph),
            "verify": self.verify,
            "evaluate": self.evaluate,
        }
        stages[stage]()

    def training_settings(self) -> TrainingSettings:
        """How models are trained in this run."""
        config = self.config
        weight = config.distillation_weight or usual_share(self.prepared.data.train)
        weight = weight if config.distillation else 0.0
        return TrainingSettings(
            epochs=config.epochs,
            learning_rate=config.learning_rate,
            evaluate_every=EVALUATE_EVERY,
            distillation=weight,
        )

    def search_settings(self) -> SearchSettings:
        """How the search spends its steps in this run."""
        config = self.config
        return SearchSettings(config.strategy, config.candidates, _rungs(config.epochs), config.supernet_steps)

    def task(self) -> Task:
        """What searches and trainings work on (makes the teacher on first use); it remembers whole trainings."""
        prepared = self.prepared
        if self._task is None:
            self._task = Task(
                data=prepared.data,
                select=prepared.select,
                size=prepared.size,
                max_degree=prepared.max_degree,
                teacher=self.teacher(),
                settings=self.training_settings(),
                latency=self.latency,
            )
        return self._task

    def teacher(self) -> Tensor | None:
        """Soft labels of the training graph, or None without distillation.

        Raises:
            RunFolderError: `teacher_file` cannot be read, or was made for something else.
        """
        if self.config.distillation and self._teacher is None and self.config.teacher_file:
            path = Path(self._located.teacher_file)
            self._teacher = read_teacher(path, self.teacher_key())
            if self._teacher is None:
                raise RunFolderError(f"{path} holds the teacher of another graph, split, seed, training or version")
        if self.config.distillation and self._teacher is None:
            progress = Progress("teacher", 1, self._stream)
            space = self.space()
            self._teacher = soft_labels(
                self.prepared.data,
                self._teacher_settings(),
                self.config.seed,
                row_normalize=space.row_normalize,
                input_signed=space.input_signed,
                num_classes=space.num_classes,
            )
            progress.advance()
        return self._teacher

    def _teacher_settings(self) -> TrainingSettings:
        # half the epochs teach as well: soft labels need no last percent
        return replace(self.training_settings(), distillation=0.0, epochs=max(1, self.config.epochs // 2))

    def teacher_key(self) -> str:
        """Hash of all that decides the teacher."""
        config, space = self.config, self.space()
        return key_of(
            graph_fingerprint(self.prepared.graph),
            (self.prepared.split.protocol, config.split_seed, config.inductive, config.seed, config.threads),
            self._teacher_settings(),
            (space.row_normalize, space.input_signed, space.num_classes),
            recipe(),
        )

    def space(self) -> SearchSpace:
        """What the search draws from; its input format follows from the features that training may see."""
        return search_space(self.prepared.data.graph, self.config)

    def search(self) -> None:
        """Search under the budgets: `candidates.csv`, `spec.json`; or check and take the spec that was given.

        Raises:
            InfeasibleBudget: no model of the space, or not the given one, fits; before anything is written.
        """
        started = time.monotonic()
        self.require_feasible(self.config.budget())  # before the first file is written
        space, budget = self.space(), self.config.budget()
        shared = self._shared_supernet(space)
        spec = self._fixed_spec()
        if spec is not None:
            files = self._save_inputs() | self._save(SPEC, spec.to_json())
            self._finish("search", files, started, steps=0)
            return
        config = self.config
        settings = self.search_settings()
        files = self._save_inputs()
        self._begin_search(space)
        table = TrialTable(self.folder / CANDIDATES)
        supernet = self._kept_supernet(space, shared)
        task = self.task()
        progress = Progress("search", settings.steps(), self._stream)
        progress.advance(len(supernet or ()))
        best = 0.0

        def on_trial(candidate: Candidate, trial: Trial) -> None:
            nonlocal best
            best = max(best, trial.accuracy)
            table.add(candidate, trial)
            steps = trial.epochs * settings.rungs[trial.rung].seeds
            progress.advance(steps, f"best selection accuracy {100 * best:.1f} %")

        def on_supernet(steps: Sequence[SupernetStep]) -> None:
            self._save(SUPERNET, supernet_csv(space, steps))

        result = search(
            space,
            budget,
            task,
            settings,
            config.seed,
            done=table.known(),
            on_trial=on_trial,
            supernet=supernet,
            on_step=lambda: progress.advance(1, "supernet" if config.strategy == "feasible" else "search round"),
            on_supernet=on_supernet,
        )
        for name in (CANDIDATES,) if config.strategy == "random" else (CANDIDATES, SUPERNET):
            files[name] = sha256(read_file(self.folder / name))
        files |= self._save(SPEC, result.best.spec.to_json())
        self._finish(
            "search",
            files,
            started,
            steps=result.steps,
            strategy=config.strategy,
            space_size=str(space.size()),
            winner=result.best.number,
        )

    def _save_inputs(self) -> dict[str, str]:
        """Keep what the run starts from: its config, and a graph that came without a file of its own."""
        files = self._save(CONFIG, self.config.to_toml())
        if self.config.dataset == GRAPH:
            files |= self._save(GRAPH, self._graph_file or read_file(self.folder / GRAPH))
        if self.latency is not None:
            files |= self._save(LATENCY, self.latency.to_json())
        return files

    def _latency_table(self) -> LatencyTable | None:
        """The table of the config: the copy of the search, or before it the file that the config names."""
        path, kept = self._located.latency_table, self.folder / LATENCY
        if not path:
            return None
        digest = self.record()["stages"].get("search", {}).get("files", {}).get(LATENCY)
        unharmed = digest is not None and kept.exists() and sha256(read_file(kept)) == digest
        return LatencyTable.load(kept if unharmed else Path(path))

    def _shared_supernet(self, space: SearchSpace) -> list[SupernetStep] | None:
        """The steps in `supernet_file`, or None where the config names none; a `teacher_file` is read too.

        Raises:
            RunFolderError: one is missing, damaged, or of something else.
        """
        config = self.config
        if config.teacher_file:
            self.teacher()
        if not config.supernet_file:
            return None
        path = Path(self._located.supernet_file)
        if not path.exists():
            raise RunFolderError(f"{path}, the supernet_file, is missing")
        steps = read_supernet(path, space)
        if steps is None or len(steps) != config.supernet_steps:
            raise RunFolderError(f"{path} does not hold {config.supernet_steps} supernet steps of this search space")
        return steps

    def _kept_supernet(
        self, space: SearchSpace, shared: Sequence[SupernetStep] | None
    ) -> Sequence[SupernetStep] | None:
        """The steps that the search need not train: shared ones, which are kept too, or those of an earlier call."""
        if shared is not None:
            self._save(SUPERNET, supernet_csv(space, shared))
            return shared
        if self.config.strategy != "feasible":
            # the steps of a round leave nothing to go on from: its weights and controllers are trained together
            return None
        steps = read_supernet(self.folder / SUPERNET, space)
        return steps if steps is not None and len(steps) == self.config.supernet_steps else None

    def _given_hashes(self) -> list[str]:
        """Hashes of the files that decide a search."""
        paths = (self._located.teacher_file, self._located.supernet_file)
        latency = [] if self.latency is None else [sha256(self.latency.to_json().encode())]
        return [sha256(read_file(Path(path))) for path in paths if path] + latency

    def _begin_search(self, space: SearchSpace) -> None:
        """Keep only trials and supernet steps of this very search: others would decide it.

        The record holds a key of all that decides them before the first is made.
        """
        given = (self.config.to_toml(), graph_fingerprint(self.prepared.graph), space, self._given_hashes())
        key = key_of(*given, recipe(), effects_digest())
        record = self.record()
        written = record["stages"].get("search", {}).get("files", {})
        for name in (CANDIDATES, SUPERNET):
            path = self.folder / name
            if not path.exists():
                continue
            changed = name in written and sha256(read_file(path)) != written[name]
            if changed or record.get("search_key") != key:
                path.unlink()
        if record.get("search_key") != key:
            write_atomic(self.folder / RECORD, sealed(record | self._facts() | {"search_key": key}))

    def _given_spec(self) -> ModelSpec:
        spec = ModelSpec.from_json(read_text(Path(self._located.spec)))
        graph = self.prepared.graph
        if (spec.num_features, spec.num_classes) != (graph.num_features, graph.num_classes):
            raise SpecError(
                f"{self.config.spec} is for {spec.num_features} features and {spec.num_classes} classes, "
                f"{graph.name} has {graph.num_features} and {graph.num_classes}"
            )
        refuse_float(spec)
        return spec

    def _uniform_spec(self) -> ModelSpec:
        """The manual model with one format for weights and one for codes."""
        config = self.config
        formats = UniformFormats.of(config.weight_format, config.activation_bits)
        return manual_spec(config.architecture, ModelShape.of(self.space()), config.hidden, formats)

    def _fixed_spec(self) -> ModelSpec | None:
        """The spec of a run that searches nothing."""
        if self.config.spec:
            return self._given_spec()
        return self._uniform_spec() if self.config.strategy == "uniform" else None

    def require_feasible(self, budget: Budget) -> None:
        """Refuse a budget that no model of this run fits.

        Raises:
            InfeasibleBudget: the message names the smallest budget that fits.
        """
        spec = self._fixed_spec()
        if spec is None:
            require_feasible(self.space(), budget, self.prepared.size, self.latency)
            return
        cost = spec_cost(spec, self.prepared.size, latency=self.latency)
        if not budget.allows(cost):
            what, needed = self.config.spec or f"the uniform {self.config.architecture}", budget_for(cost, budget)
            raise InfeasibleBudget(f"{what} does not fit the budget ({budget}): it needs {needed}", smallest=needed)

    def spec(self) -> ModelSpec:
        """The searched (or given) spec."""
        return ModelSpec.from_json(read_text(self.folder / SPEC))

    def train(self) -> None:
        """Train the spec from several initial weights and keep the best on the selection nodes: `model.safetensors`."""
        started = time.monotonic()
        spec, task = self.spec(), self.task()
        progress = Progress("training", self.config.restarts * self.config.epochs, self._stream)
        seeds = restart_seeds(self.config.seed, self.config.restarts)
        kept = train_best(spec, task, seeds, lambda _: progress.advance())
        files = self._save(MODEL, model_bytes(kept.trained.model))
        self._finish(
            "train",
            files,
            started,
            stop_accuracy=kept.trained.stop_accuracy,
            selection_accuracy=kept.selection.accuracy,
            selection_score=kept.selection.score,
            restart=kept.restart,
            distillation=self.config.distillation,
        )

    def model(self) -> QuantizedModel:
        """The trained model."""
        return model_from_bytes(read_file(self.folder / MODEL), self.spec())

    def lower(self) -> None:
        """Lower to integers: `program.npz`, `costs.csv`."""
        started = time.monotonic()
        model, prepared = self.model(), self.prepared
        program = lower(
            model.spec,
            model.layer_codes(),
            input_fraction=model.input_fraction,
            max_degree=prepared.max_degree,
            words=model.word_codes(),
            metadata={"dataset": prepared.graph.name, "protocol": prepared.split.protocol, "lpgnas": __version__},
        )
        cost = program_cost(program, prepared.size, latency=self.latency)
        budget = self.config.budget()
        excess = budget.excess(cost)
        if excess:
            raise CheckFailed(f"the lowered program passes its budget ({budget}) in {', '.join(excess)}")
        files = self._save(PROGRAM, to_bytes(program))
        files |= self._save(COSTS, cost.table().to_csv(index=False, lineterminator="\n"))
        counted = [one.name for one in QUANTITIES if one.name in cost.totals()]
        sizes = {name: cost.quantity(name) for name in (*counted, "node_coefficient_bits", "energy_aj")}
        self._finish("lower", files, started, max_degree=prepared.max_degree, **sizes)

    def program(self) -> IntegerProgram:
        """The lowered program."""
        return load_program(self.folder / PROGRAM)

    def export(self, targets: Sequence[str] = (), graph: Graph | None = None) -> None:
        """Write the files of `targets`, or of the default ones where they can be exact; those of others stay.

        Args:
            targets: by name.
            graph: what the targets that compile a graph in do so with.

        Raises:
            ExportError: a target that was named cannot hold the program exactly; nothing is written.
            UnknownName: there is no such target.
            CheckFailed: the C code, or a form with its graph compiled in, differs from the kernels.
        """
        started, program = time.monotonic(), self.program()
        made = export_files(program, targets, graph)
        before = self.record()["stages"].get("export", {"files": {}})
        others = [name for name in TARGETS if name not in (targets or default_targets())]
        code, unchecked = c_source(made.files), before.get("c_unchecked", "") if C in others else ""
        if code is not None:
            unchecked = check_c_code(program, code)
        compiled_in = check_compiled(program, made.files)
        files: dict[str, str] = {}
        for target in others:  # kept whole or not at all
            kept = {name: before["files"].get(name, "") for name in TARGETS.get(target).files}
            if all(self._holds(name, digest) for name, digest in kept.items()):
                files |= kept
        for name, content in made.files.items():
            files |= self._save(name, content)
        for name in (file for target in TARGETS for file in TARGETS.get(target).files):
            if name not in files:  # of another program, or of a target that refuses this one
                (self.folder / name).unlink(missing_ok=True)
        refused = {name: reason for name, reason in before.get("refused", {}).items() if name in others}
        if HLS4ML in others and f"{HLS4ML}/model.onnx" in files:  # the project and what was not checked stay with it
            compiled_in = compiled_in or before.get("compiled_in_unchecked", "")
        else:
            drop_projects(self.folder)
        told = {} if not compiled_in else {"compiled_in_unchecked": compiled_in}
        self._finish("export", files, started, refused=refused | made.refused, c_unchecked=unchecked, **told)
        write_projects(self.folder, made.files)

    def _holds(self, name: str, digest: str) -> bool:
        """Whether a file of the folder has these contents."""
        path = self.folder / name
        return path.exists() and sha256(read_file(path)) == digest

    def verify(self) -> None:
        """Check hashes, then run every form on the training graph and on unseen ones.

        Raises:
            CheckFailed: a file was changed, or a form disagrees; the message names it.
        """
        started = time.monotonic()
        self.check_hashes()
        try:
            results = self.compare_forms()
        except CheckFailed:
            raise
        except LpgnasError as error:  # behind a right hash: what a stage wrote does not hold
            raise CheckFailed(f"{self.folder}: {type(error).__name__}: {error}") from error
        failed = [result for result in results if result.failed]
        self._finish("verify", {}, started, passed=not failed, comparisons=[asdict(result) for result in results])
        if failed:
            lines = [result.told for result in failed]
            raise CheckFailed(f"{self.folder}: {len(failed)} comparisons failed:\n  " + "\n  ".join(lines))

    def check_hashes(self) -> None:
        """Refuse a run whose files are not the ones it wrote.

        Raises:
            CheckFailed: a changed or missing file, by name.
        """
        for stage in self.record()["stages"]:
            self._check_files(stage)

    def _check_files(self, stage: str, only: str | None = None) -> None:
        for name, digest in self.record()["stages"].get(stage, {"files": {}})["files"].items():
            path = self.folder / name
            if only not in (None, name):
                continue
            if not path.exists():
                raise CheckFailed(f"{path} is missing; stage {stage!r} wrote it")
            if sha256(read_file(path)) != digest:
                raise CheckFailed(f"{path} was changed after stage {stage!r} wrote it: its SHA-256 differs")

    def compare_forms(self) -> list[Comparison]:
        """Every form of the model on the training graph and on unseen graphs."""
        program = self.program()
        exported = {name: read_file(self.folder / name) for name in self.record()["stages"]["export"]["files"]}
        source, compiler = c_source(exported), find_compiler()
        graphs = [self.prepared.graph, *unseen_graphs(self.prepared.graph, program.max_degree)]
        with ExitStack() as opened:
            built = None
            if source is not None and compiler is not None:
                built = opened.enter_context(compiled(program, source, compiler))
            forms = forms_of(
                program,
                fake_quant=fake_quant_form(self.model(), program),
                onnx_int=exported.get(ONNX_INT),
                onnx_qdq=exported.get(ONNX_QDQ),
                qonnx=exported.get(QONNX),
                c_code=built,
            )
            progress = Progress("verify", len(graphs) * len(forms), self._stream)
            results = verify_forms(program, forms, graphs, lambda name: progress.advance(1, name))
        if source is not None and compiler is None:
            results.append(Comparison(C_FORM, graphs[0].name, 0, 0, f"not run: {NO_COMPILER}"))
        return results + compare_compiled(program, exported)

    def check_fixed_point(self) -> FixedPointReport:
        """Count what the program reaches on the run's graph, and write it into `fixed_point.json`.

        Raises:
            RunFolderError: the run has not been lowered.
            CheckFailed: a file was changed, or the kernels' codes are not the counted ones.
        """
        if "lower" not in self.record()["stages"]:
            raise RunFolderError(f"{self.folder}: the fixed-point checks need 'lower' to be done first")
        self.check_hashes()
        report = fixed_point_checks(self.program(), self.prepared.graph)
        self._save(FIXED_POINT, report.to_json())
        return report

    def evaluate(self) -> None:
        """Accuracies of the integer program and of the references; the one look at the test nodes."""
        started = time.monotonic()
        graph, split = self.prepared.graph, self.prepared.split
        prediction = Executor(self.program()).run(graph.x, graph.edge_index)
        classes = prediction.codes.argmax(axis=1)
        accuracy = {name: node_accuracy(classes, graph, getattr(split, name)) for name in ("train", "val", "test")}
        space = self.space()
        progress = Progress("references", reference_trainings(self.config), self._stream)
        references = measure_references(
            self.config,
            self.prepared,
            replace(self.task(), teacher=None),  # references are tuned by accuracy alone
            self.teacher(),
            row_normalize=space.row_normalize,
            input_signed=space.input_signed,
            progress=progress,
        )
        self._finish(
            "evaluate", {}, started, accuracy=accuracy, arena_bytes=prediction.arena_bytes, references=references
        )


def fake_quant_form(model: QuantizedModel, program: IntegerProgram) -> Form:
    """The fake-quantised model in float64 as a form of the chain."""
    exact = model.double()

    def form(graph: Graph) -> Any:  # noqa: ANN401 - the codes [N, C] float64
        spec = exact.spec
        tensors = graph_tensors(
            graph, exact.input_format, spec.rounding, row_normalize=spec.row_normalize, dtype=torch.float64
        )
        with torch.no_grad():
            return np.ldexp(exact(tensors).numpy(), program.logits.fraction)

    return form


def key_of(*facts: object) -> str:
    """Hash of facts that decide a result, with the versions of what computes it."""
    versions = str(sorted(package_versions().items()))
    return sha256("\n".join([*(f if isinstance(f, str) else repr(f) for f in facts), __version__, versions]).encode())


def _rungs(epochs: int) -> tuple[Rung, ...]:
    return (Rung(max(1, epochs // 5), 5), Rung(max(1, epochs // 2), 2), Rung(epochs, 1, seeds=2))
