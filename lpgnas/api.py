"""Runs as Python calls, of the same shape as the command line.

`lpgnas.search(data, ...)` makes a run folder and searches; the `RunResult` that it returns has one method a stage, each
doing what is missing before it. `lpgnas.run(data, ...)` does everything, and `lpgnas.open_run(folder)` goes on with a
folder of either. What a stage does, and which files it leaves, is the same as on the command line, to the byte.

Example:
    >>> import lpgnas
    >>> result = lpgnas.search("cora", budget=lpgnas.Budget(weights="3KiB", buffers="60KiB"))  # doctest: +SKIP
    >>> result.train().lower().export().verify().program.num_classes  # doctest: +SKIP
    7
"""

from __future__ import annotations

import os
import shutil
import tempfile
import weakref
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lpgnas.budget import QUANTITIES, Budget
from lpgnas.config import RunConfig
from lpgnas.datasets import graph_from_pyg, graph_to_npz
from lpgnas.errors import ConfigError, GraphError, RunFolderError, UnknownName
from lpgnas.export.targets import TARGETS
from lpgnas.fixed_point import FixedPointReport
from lpgnas.graph import Graph
from lpgnas.integer_program import IntegerProgram
from lpgnas.pipeline import GRAPH, PROGRAM, RECORD, Run
from lpgnas.preparation import prepare, search_space
from lpgnas.progress import standard_error
from lpgnas.report_files import write_reports
from lpgnas.results import STAGES
from lpgnas.space_table import SpaceSize
from lpgnas.spec import ModelSpec
from lpgnas.sweeps import TABLE, Sweep, SweepConfig, SweepPoint, list_key

if TYPE_CHECKING:
    import pandas as pd
    from torch_geometric.data import Data

_BUDGETS = frozenset(one.option for one in QUANTITIES)


class RunResult:
    """A run folder and its stages; made by `search`, `run` and `open_run`.

    Each stage's method does the stages before it that are not done yet, then its own if it is not done, and returns
    the object. All raise what `lpgnas.pipeline.Run` raises: `RunFolderError` for a folder that cannot be used,
    `CheckFailed` for files that were changed or forms that disagree, other errors of `lpgnas.errors` by name.

    Attributes:
        folder: the run folder. One that `out=None` made lives as long as this object.
    """

    def __init__(self, run: Run) -> None:
        self._run = run
        self.folder = run.folder

    def __repr__(self) -> str:
        done = [stage for stage in STAGES if stage in self._run.record()["stages"]]
        return f"<RunResult in {str(self.folder)!r}: {', '.join(done) or 'nothing'} done>"

    def train(self) -> RunResult:
        """Train the model that was found: `model.safetensors`."""
        return self._through("train")

    def lower(self) -> RunResult:
        """Lower it to integers: `program.npz`, `costs.csv`."""
        return self._through("lower")

    def export(self, *targets: str, graph: Graph | None = None) -> RunResult:
        """Write the exported files.

        Args:
            *targets: such as "onnx-int", "onnx-qdq", "qonnx", "c"; none for all default ones that can hold the program.
                Files of other targets stay.
            graph: a small graph, for targets that compile one in ("hls4ml", "finn").

        Raises:
            ExportError: a target that was named cannot hold the program exactly.
            UnknownName: there is no such target.
            ConfigError: a graph that no target takes.
        """
        if graph is not None and not any(TARGETS.get(name).on_graph is not None for name in targets):
            known = ", ".join(name for name in TARGETS if TARGETS.get(name).on_graph is not None)
            raise ConfigError(f"a graph goes with targets that compile one in: {known}")
        self._through("lower")
        self._run.run_stage("export", targets, graph)
        return self

    def verify(self, *, fixed_point: bool = False) -> RunResult:
        """Check that every form of the model gives the same numbers.

        Args:
            fixed_point: do `check_fixed_point` too.

        Raises:
            CheckFailed: one does not; the message names it.
        """
        self._through("verify")
        if fixed_point:
            self.check_fixed_point()
        return self

    def check_fixed_point(self) -> FixedPointReport:
        """Count what each component of the program reaches on the run's graph, into `fixed_point.json` too.

        Returns:
            The counts; `sentences()` says where a format wastes or lacks bits.

        Raises:
            CheckFailed: the kernels' codes are not the counted ones.
        """
        return self._through("lower")._run.check_fixed_point()

    def evaluate(self) -> RunResult:
        """Measure accuracies; the one look at the test nodes."""
        return self._through("evaluate")

    def report(self) -> RunResult:
        """Do whatever is missing, then write the report of the run, also of one that failed a check."""
        try:
            self._through("evaluate")
        finally:
            if (self.folder / RECORD).exists():
                write_reports(self.folder)
        return self

    def _through(self, last: str) -> RunResult:
        self._run.run_all(last)
        return self

    @property
    def spec(self) -> ModelSpec:
        """The architecture and the formats that were found.

        Raises:
            RunFolderError: the search has not ended.
        """
        return self._run.spec()

    @property
    def program(self) -> IntegerProgram:
        """The integer program.

        Raises:
            RunFolderError: there is none yet.
        """
        if not (self.folder / PROGRAM).exists():
            raise RunFolderError(f"{self.folder} has no {PROGRAM} yet; make it with .lower()")
        return self._run.program()

    @property
    def record(self) -> dict[str, Any]:
        """What `record.json` says: accuracies, sizes, times, versions, hashes (docs/run_folder.md)."""
        return self._run.record()

    @property
    def files(self) -> dict[str, Path]:
        """Path of every file of the folder by its name; the C code is `c/lpgnas_model.h` and `c/lpgnas_model.c`."""
        paths = {path.relative_to(self.folder): path for path in sorted(self.folder.rglob("*")) if path.is_file()}
        return {one.as_posix(): path for one, path in paths.items() if not any(p.startswith(".") for p in one.parts)}


def search(
    data: str | os.PathLike[str] | Graph | Data,
    budget: Budget | None = None,
    seed: int = 0,
    out: str | os.PathLike[str] | None = None,
    *,
    data_root: str | os.PathLike[str] | None = None,
    progress: bool = False,
    **options: Any,  # noqa: ANN401 - one a field of `RunConfig`, checked there
) -> RunResult:
    """Search architecture and number formats of a model for `data` that fits `budget`.

    Args:
        data: a name of `lpgnas datasets`, the path of a graph in `.npz`, or a graph in memory: a `lpgnas.Graph` or a
            `torch_geometric.data.Data`. A graph in memory is kept in the run folder as `graph.npz`, and is called so.
        budget: limits of the model; None for none.
        seed: of search and training.
        out: the run folder, which may hold an interrupted run of the same options. None makes a temporary one that is
            deleted together with the result.
        data_root: folder of published graphs in PyG's layout (also the variable LPGNAS_DATA).
        progress: whether progress goes to standard error.
        **options: the other options of the command line, as `lpgnas.config.RunConfig` names them: `epochs`,
            `candidates`, `distillation` and so on.

    Returns:
        The run, with its search done.

    Raises:
        InfeasibleBudget: no model fits; the message names the smallest feasible budget.
        ConfigError: an unknown option, or a value that cannot be used.
        DatasetError, GraphError, UnknownName: a graph that cannot be used.
        RunFolderError: `out` holds something else, or cannot be written.

    Example:
        >>> import lpgnas
        >>> quick = {"epochs": 5, "candidates": 2, "supernet_steps": 5, "restarts": 1, "distillation": False}
        >>> result = lpgnas.search("cora", budget=lpgnas.Budget(weights="3KiB", buffers="60KiB"), **quick)
        >>> result.spec.num_classes
        7
        >>> result.lower().record["stages"]["lower"]["weight_bits"] <= 3 * 1024 * 8
        True
    """
    given = _name_or_graph(data)
    graph = given if isinstance(given, Graph) else None
    named = {"dataset": given if isinstance(given, str) else GRAPH, "seed": seed}
    config = RunConfig.of({**named, **_options(options, budget)}).located(Path.cwd())
    with _folder(out) as folder:
        made = RunResult(_run(folder, config, graph, data_root, progress=progress))
        made._through("search")
    if out is None:
        weakref.finalize(made, shutil.rmtree, folder, ignore_errors=True)
    return made


def run(
    data: str | os.PathLike[str] | Graph | Data,
    budget: Budget | None = None,
    seed: int = 0,
    out: str | os.PathLike[str] | None = None,
    *,
    data_root: str | os.PathLike[str] | None = None,
    progress: bool = False,
    **options: Any,  # noqa: ANN401 - one a field of `RunConfig`, checked there
) -> RunResult:
    """Every stage in one call: search, train, lower, export, verify, evaluate and report.

    Args:
        data: as `search`.
        budget: as `search`.
        seed: as `search`.
        out: as `search`.
        data_root: as `search`.
        progress: as `search`.
        **options: as `search`.

    Returns:
        The run, with every stage done.

    Raises:
        CheckFailed: the forms of the model disagree.
        InputError: as `search`.

    Example:
        >>> import lpgnas
        >>> result = lpgnas.run("cora", budget=lpgnas.Budget(weights="3KiB"), out="runs/cora")  # doctest: +SKIP
        >>> result.record["stages"]["evaluate"]["accuracy"]["test"]  # doctest: +SKIP
    """
    return search(data, budget, seed, out, data_root=data_root, progress=progress, **options).report()


class SweepResult:
    """A sweep folder; made by `sweep`.

    Attributes:
        folder: where its runs and tables are. One that `out=None` made lives as long as this object.
    """

    def __init__(self, made: Sweep) -> None:
        self._sweep = made
        self.folder = made.folder

    def __repr__(self) -> str:
        return f"<SweepResult in {str(self.folder)!r}: {len(self._made())} runs>"

    @property
    def runs(self) -> dict[str, RunResult]:
        """The runs of feasible points by the names of their folders."""
        return {one.name: RunResult(self._sweep.point_run(one)) for one in self._made()}

    def _made(self) -> list[SweepPoint]:
        return [one for one in self._sweep.config.points() if (self.folder / one.name).exists()]

    @property
    def table(self) -> pd.DataFrame:
        """`sweep.csv`: one row a point with its limits, sizes and accuracies."""
        import pandas as pd

        return pd.read_csv(self.folder / TABLE, dtype_backend="numpy_nullable")


def sweep(
    data: str | os.PathLike[str] | Graph | Data,
    budgets: Mapping[str, Sequence[str | int]] | None = None,
    seeds: Sequence[int] = (0,),
    out: str | os.PathLike[str] | None = None,
    *,
    data_root: str | os.PathLike[str] | None = None,
    progress: bool = False,
    **options: Any,  # noqa: ANN401 - one a field of `RunConfig`, checked there
) -> SweepResult:
    """Whole runs over every combination of budgets and seeds; those of a seed share a teacher and a supernet.

    Args:
        data: as `search`.
        budgets: limits by the names of `Budget`'s arguments, each a list; None for none.
        seeds: of searches and trainings.
        out: the sweep folder, which may hold an interrupted sweep of the same options; None as `search`.
        data_root: as `search`.
        progress: as `search`.
        **options: as `search`.

    Returns:
        The sweep, with every feasible point done.

    Raises:
        InfeasibleBudget: no point is feasible.
        CheckFailed: the forms of a model disagree.
        InputError: as `search`.

    Example:
        >>> import lpgnas
        >>> budgets = {"weights": ["1KiB", "2KiB"], "buffers": ["60KiB"]}
        >>> made = lpgnas.sweep("cora", budgets, seeds=(0, 1), out="sweeps/cora")  # doctest: +SKIP
        >>> made.table[["name", "weight_bits", "test_accuracy"]]  # doctest: +SKIP
    """
    given = _name_or_graph(data)
    graph = given if isinstance(given, Graph) else None
    keys = {one.keyword: list_key(one) for one in QUANTITIES}
    lists: dict[str, object] = {"seeds": list(seeds)}
    for keyword, sizes in (budgets or {}).items():
        if keyword not in keys:
            raise UnknownName("limit", keyword, keys)
        lists[keys[keyword]] = list(sizes)
    named = {"dataset": given if isinstance(given, str) else GRAPH}
    plain = _options(options, None, "budgets={'weights': [...]}")
    config = SweepConfig.of({**named, **plain, **lists}).located(Path.cwd())
    with _folder(out) as folder:
        made = SweepResult(_sweep(folder, config, graph, data_root, progress=progress))
    if out is None:
        weakref.finalize(made, shutil.rmtree, folder, ignore_errors=True)
    return made


def _sweep(
    folder: Path,
    config: SweepConfig,
    graph: Graph | None,
    data_root: str | os.PathLike[str] | None,
    *,
    progress: bool,
) -> Sweep:
    root = None if data_root is None else Path(data_root)
    with tempfile.TemporaryDirectory(prefix="lpgnas-") as staging:
        file = None
        if graph is not None:
            file = Path(staging) / GRAPH
            graph_to_npz(graph, file)
            config = replace(config, base=replace(config.base, dataset=GRAPH))
        made = Sweep(folder, config, root, standard_error(quiet=not progress), file)
        made.run()
    return made


@contextmanager
def _folder(out: str | os.PathLike[str] | None) -> Iterator[Path]:
    """The folder of a result: the one named, or a temporary one that an error takes with it."""
    folder = Path(out).absolute() if out is not None else Path(tempfile.mkdtemp(prefix="lpgnas-"))
    try:
        yield folder
    except BaseException:
        if out is None:
            shutil.rmtree(folder, ignore_errors=True)
        raise


def space(
    data: str | os.PathLike[str] | Graph | Data,
    *,
    data_root: str | os.PathLike[str] | None = None,
    **options: Any,  # noqa: ANN401 - one a field of `RunConfig`, checked there
) -> SpaceSize:
    """The space that `search` draws from with the same options.

    Args:
        data: as `search`.
        data_root: as `search`.
        **options: as `search`; `space`, `blocks`, `routes`, `attentions`, `aggregations`, `activations`, `widths`,
            `heads`, `shortcuts`, `weight_formats`, `code_bits` and `kept_words` decide it.

    Returns:
        The space: its `models`, its `table()` of options, and itself as `space`.

    Raises:
        InputError: as `search`.

    Example:
        >>> import lpgnas
        >>> lpgnas.space("cora", attentions=("gcn",), widths=(8, 16)).models
        7247757312
    """
    given = _name_or_graph(data)
    with tempfile.TemporaryDirectory(prefix="lpgnas-") as staging:
        if isinstance(given, Graph):
            graph_to_npz(given, Path(staging) / GRAPH)
            given = str(Path(staging) / GRAPH)
        config = RunConfig.of({**_options(options, None), "dataset": given}).located(Path.cwd())
        prepared = prepare(config, None if data_root is None else Path(data_root))
    return SpaceSize(search_space(prepared.data.graph, config), prepared.size)


def open_run(
    folder: str | os.PathLike[str], *, data_root: str | os.PathLike[str] | None = None, progress: bool = False
) -> RunResult:
    """The run of a folder that `search`, `run` or the command line made.

    Args:
        folder: a run folder.
        data_root: as `search`.
        progress: whether progress goes to standard error.

    Returns:
        The run as it is; nothing is computed.

    Raises:
        RunFolderError: not a run folder.
        CheckFailed: its config, its record or its graph was changed.

    Example:
        >>> import lpgnas
        >>> lpgnas.open_run("runs/cora").verify().report()  # doctest: +SKIP
    """
    return RunResult(_run(Path(folder).absolute(), None, None, data_root, progress=progress))


def _run(
    folder: Path,
    config: RunConfig | None,
    graph: Graph | None,
    data_root: str | os.PathLike[str] | None,
    *,
    progress: bool,
) -> Run:
    root = None if data_root is None else Path(data_root)
    stream = standard_error(quiet=not progress)
    if graph is None or config is None:
        return Run(folder, config, root, stream)
    with tempfile.TemporaryDirectory(prefix="lpgnas-") as staging:
        graph_to_npz(graph, Path(staging) / GRAPH)
        return Run(folder, replace(config, dataset=GRAPH), root, stream, Path(staging) / GRAPH)


def _name_or_graph(data: object) -> str | Graph:
    """The name or path of a graph as text, or the graph itself if it is in memory."""
    if isinstance(data, (str, os.PathLike)):
        return os.fspath(data)
    if isinstance(data, Graph):
        if data.y is None:
            raise GraphError(f"{data.name} has no labels; search and training need y")
        return data
    if hasattr(data, "edge_index"):
        return graph_from_pyg(data, name="graph")
    raise GraphError(
        f"data is a {type(data).__name__}; give a dataset's name, the path of an .npz, a lpgnas.Graph or a PyG Data"
    )


def _options(
    options: dict[str, Any], budget: Budget | None, argument: str = "budget=lpgnas.Budget(...)"
) -> dict[str, Any]:
    """Options by the names of `RunConfig`, with the budget among them, which is given as `argument`."""
    for name in {"dataset", *_BUDGETS} & set(options):
        raise ConfigError(f"give {name} as {'data' if name == 'dataset' else argument}")
    texts = {} if budget is None else budget.options()
    paths = {name: os.fspath(value) for name, value in options.items() if isinstance(value, os.PathLike)}
    return {**options, **paths, **texts}
