"""The command line: thin, and importing torch only where a command needs it.

Exit codes: 0 fine; 1 a check failed; 2 bad input or an infeasible budget.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import fields
from pathlib import Path
from typing import TYPE_CHECKING

from lpgnas import __version__
from lpgnas.budget import QUANTITIES
from lpgnas.config import RunConfig
from lpgnas.errors import CheckFailed, ConfigError, LpgnasError
from lpgnas.results import read_text, write_atomic

if TYPE_CHECKING:
    from lpgnas.graph import Graph
    from lpgnas.integer_program import IntegerProgram
    from lpgnas.pipeline import Run

CHECK_FAILED, BAD_INPUT, INTERRUPTED = 1, 2, 130
_HELP = {
    "dataset": "a name of `lpgnas datasets`, or a graph in .npz",
    "protocol": "public, full, shchur or own; default: the dataset's own",
    "split_seed": "seed of a drawn split",
    "inductive": "validation and test nodes are absent in training",
    **{one.option: one.help for one in QUANTITIES},
    "latency_table": "times of operations, a JSON file (docs/budgets.md)",
    "seed": "of search and training",
    "strategy": "feasible (supernet, then draws that learn), lpgnas (two controllers in one differentiable round), "
    "lpgnas-textbook, random, or uniform (no search: --architecture, --hidden, --weight-format, --activation-bits)",
    "architecture": "of the strategy uniform: gcn, graphsage, gat or jknet",
    "hidden": "width of its blocks but the last",
    "weight_format": "of all its weights: binary, ternary, or fixed2 to fixed8",
    "activation_bits": "of all its codes: 2 to 16",
    "space": "the search space by name: default or whole; the next options change it (`lpgnas space` shows it)",
    "blocks": "numbers of blocks that are searched, such as 2,3,4",
    "routes": "every block chooses which earlier outputs it reads, the input among them",
    "attentions": "of the search, such as gcn,gat,cos",
    "aggregations": "of the search, such as sum,max",
    "activations": "of the search, such as relu,tanh",
    "widths": "hidden sizes of the search, such as 8,16,32",
    "heads": "of learned attentions, such as 1,2,4",
    "shortcuts": "of the search: none,linear",
    "weight_formats": "of the search, such as binary,ternary,fixed4",
    "code_bits": "of all searched codes, such as 4,8",
    "kept_words": "shares of the input words that weights may have bits for, such as 1/4,1/2,1",
    "candidates": "feasible models that the search trains",
    "supernet_steps": "training steps of the supernet (not random, uniform)",
    "epochs": "of the final training",
    "restarts": "trainings of the winner; the best on the selection nodes stays",
    "learning_rate": "of Adam, for searched models, teacher and references alike",
    "distillation_weight": "the teacher's share of the loss, up to 1 (0: the share of nodes without a training label)",
    "distillation": "learn from a full-precision teacher too",
    "max_degree": "most incoming edges that the program is proved for (0: from the graph)",
    "reference_seeds": "trainings of the full-precision GCN-16 for the report",
    "threads": "of torch",
    "spec": "train this spec.json instead of a searched one",
    "teacher_file": "learn from this teacher (of `lpgnas sweep`) instead of training one",
    "supernet_file": "take the losses of this supernet.csv instead of training a supernet",
}
_SINGLE = frozenset({*(one.option for one in QUANTITIES), "seed", "spec", "teacher_file", "supernet_file"})
"""Options of a run that a sweep has lists for, or does not take."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command; returns the exit code."""
    parser = _parser()
    options = parser.parse_args(arguments)
    command: Callable[[argparse.Namespace], None] = options.command
    try:
        command(options)
    except CheckFailed as error:
        sys.stderr.write(f"check failed: {error}\n")
        return CHECK_FAILED
    except LpgnasError as error:
        sys.stderr.write(f"{type(error).__name__}: {error}\n")
        return BAD_INPUT
    except ImportError as error:
        sys.stderr.write(f"ImportError: this command needs {error.name or error}, which cannot be imported: {error}\n")
        return BAD_INPUT
    except OSError as error:  # a place that no named error foresaw
        sys.stderr.write(f"{type(error).__name__}: {error}\n")
        return BAD_INPUT
    except KeyboardInterrupt:
        sys.stderr.write("interrupted; the same command goes on where it stopped\n")
        return INTERRUPTED
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="lpgnas", description="Low-precision graph neural networks under budgets.")
    parser.add_argument("--version", action="version", version=f"lpgnas {__version__}")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    for name, text, command in (
        ("run", "search, train, lower, export, verify and report in one go", _run),
        ("search", "search under the budgets, into a new run folder", _search),
    ):
        made = _command(commands, name, text, command)
        _add_config(made)
        made.add_argument("--out", type=Path, required=True, help="the run folder")
    made = _command(commands, "space", "the choices of a search, their options, and its size", _space)
    _add_config(made)
    made = _command(commands, "sweep", "runs over every combination of budgets and seeds, into a new folder", _sweep)
    _add_config(made, without=_SINGLE)
    for one in QUANTITIES:
        made.add_argument(f"{one.flag}s", nargs="+", metavar="LIMIT", help=f"each: {one.help}")
    made.add_argument("--seeds", nargs="+", type=int, help="each: of search and training")
    made.add_argument("--out", type=Path, required=True, help="the sweep folder")
    made = _command(commands, "reproduce", "a table of models over graphs and seeds; it goes on", _reproduce)
    made.add_argument("table", help="public (public split), citation, amazon, large, pareto or statistics (full)")
    made.add_argument("--out", type=Path, required=True, help="folder of the table's CSV, Markdown and figure")
    made.add_argument("--work", type=Path, help="folder of the run folders; default: `runs` in --out")
    made.add_argument("--seeds", type=int, default=0, help="how many; default: the table's own number")
    made.add_argument("--only", nargs="+", default=(), metavar="MODEL", help="only these models")
    made.add_argument("--datasets", nargs="+", default=(), help="only these graphs")
    _add_stages(commands)
    _add_files(commands)
    return parser


def _add_stages(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """The stages of a run folder, but for its search."""
    for name, text in (
        ("train", "train the searched model"),
        ("lower", "lower the trained model to integers"),
        ("verify", "check that every form of the model gives the same numbers"),
        ("evaluate", "measure accuracies, once, on the test nodes"),
    ):
        made = _command(commands, name, text, _verify if name == "verify" else _stage(name))
        made.add_argument("run", type=Path, help="a run folder")
        if name == "verify":
            made.add_argument(
                "--fixed-point",
                action="store_true",
                help="count ranges, saturations and underflows on the run's graph too; writes fixed_point.json",
            )
    export = _command(commands, "export", "write ONNX files and C code of a run folder or a program.npz", _export)
    export.add_argument("run", type=Path, help="a run folder, or a program.npz (needs no torch)")
    export.add_argument(
        "--target",
        nargs="+",
        default=(),
        help="onnx-int, onnx-qdq, qonnx, c, hls4ml, finn; default: the first four that can",
    )
    export.add_argument("--out", type=Path, help="where the files of a program.npz go")
    export.add_argument("--max-nodes", type=int, help="C code of a program.npz: the largest graph, for a fixed arena")
    export.add_argument("--graph", help="compile this graph in (a name or an .npz): hls4ml, finn, C of a program.npz")
    export.add_argument("--node", type=int, help="compile the neighbourhood of this node in (of --graph, or the run's)")
    export.add_argument("--fan-out", type=int, help="of a neighbourhood: most incoming edges of a node that are kept")
    export.add_argument("--nodes", type=int, help="of a neighbourhood: rows that it is padded to")


def _add_files(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """What reads a finished file or folder."""
    predict = _command(commands, "predict", "run a program.npz on a graph (needs no torch)", _predict)
    predict.add_argument("program", type=Path, help="a program.npz")
    predict.add_argument("--dataset", required=True, help=_HELP["dataset"])
    predict.add_argument("--out", type=Path, required=True, help="an .npz for codes, logits and classes")
    cost = _command(commands, "cost", "what a model costs on a graph, as a table or JSON", _cost)
    cost.add_argument("spec", type=Path, help="a spec.json or a program.npz")
    cost.add_argument("--dataset", required=True, help=_HELP["dataset"])
    cost.add_argument("--latency-table", type=Path, help=_HELP["latency_table"])
    cost.add_argument("--json", action="store_true", help="print JSON instead of the table")
    calibrate = _command(
        commands, "calibrate", "measure a latency table of this machine; the same command goes on", _calibrate
    )
    calibrate.add_argument("--out", type=Path, required=True, help="the table, a JSON file (docs/budgets.md)")
    calibrate.add_argument("--quick", action="store_true", help="fewer places: seconds, and rougher predictions")
    bench = _command(commands, "bench", "latency of a run's program beside other runtimes and float32", _bench)
    bench.add_argument("run", type=Path, help="a run folder")
    bench.add_argument("--threads", type=int, default=1, help="of torch, PyG and onnxruntime; others take one")
    bench.add_argument("--rounds", type=int, default=30, help="timed calls of each")
    report = _command(
        commands, "report", "write report.md, report.html and pareto.png into a run folder and print the first", _report
    )
    report.add_argument("run", type=Path, help="a run folder")
    _command(commands, "datasets", "list the graphs that can be named", _datasets)


def _command(
    commands: argparse._SubParsersAction[argparse.ArgumentParser],
    name: str,
    text: str,
    command: Callable[[argparse.Namespace], None],
) -> argparse.ArgumentParser:
    made = commands.add_parser(name, help=text, description=text)
    made.set_defaults(command=command)
    made.add_argument("--data-root", type=Path, help="folder of graphs in PyG's layout (also LPGNAS_DATA)")
    made.add_argument("--quiet", action="store_true", help="no progress")
    return made


def _add_config(parser: argparse.ArgumentParser, without: frozenset[str] = frozenset()) -> None:
    parser.add_argument("--config", type=Path, help="a TOML file with these options as keys; flags win over it")
    for item in fields(RunConfig):
        if item.name in without:
            continue
        flag = "--" + item.name.replace("_", "-")
        if str(item.type).startswith("bool"):
            parser.add_argument(flag, action=argparse.BooleanOptionalAction, default=None, help=_HELP[item.name])
        else:
            kind = _KINDS[str(item.type)]
            metavar = "A,B,..." if str(item.type).startswith("tuple") else None
            parser.add_argument(flag, type=kind, default=None, metavar=metavar, help=_HELP[item.name])


def _names(text: str) -> tuple[str, ...]:
    """Words between commas."""
    words = tuple(word.strip() for word in text.split(","))
    if not all(words):
        raise argparse.ArgumentTypeError(f"{text!r} is not a list such as A,B,C")
    return words


def _numbers(text: str) -> tuple[int, ...]:
    """Whole numbers between commas."""
    try:
        return tuple(int(word) for word in text.split(","))
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} is not a list of whole numbers such as 2,3,4") from None


_KINDS: dict[str, Callable[[str], object]] = {
    "int": int,
    "float": float,
    "str": str,
    "tuple[str, ...]": _names,
    "tuple[int, ...]": _numbers,
}
"""How a flag's text is read, by the type of its field in `RunConfig`."""


def _config(options: argparse.Namespace) -> RunConfig | None:
    """The config that a file and flags say; None if neither says anything (the folder's own counts)."""
    given = {f.name: getattr(options, f.name) for f in fields(RunConfig) if getattr(options, f.name) is not None}
    for one in QUANTITIES:
        if given.get(one.option) == "":
            raise ConfigError(f"{one.flag} is empty; {one.scale.advice}")
    if options.config is not None:
        base = RunConfig.from_toml(read_text(options.config)).located(options.config.parent)
        return RunConfig(**{**base.__dict__, **given}).located(Path.cwd())
    if not given:
        return None
    if "dataset" not in given:
        raise ConfigError("--dataset is missing; `lpgnas datasets` lists the names")
    return RunConfig(**given).located(Path.cwd())


def _open(options: argparse.Namespace, folder: Path, config: RunConfig | None = None) -> Run:
    from lpgnas.pipeline import Run
    from lpgnas.progress import standard_error

    return Run(folder, config, options.data_root, standard_error(quiet=options.quiet))


def _run(options: argparse.Namespace) -> None:
    from lpgnas.report_files import write_reports

    run = _open(options, options.out, _config(options))
    try:
        run.run_all()
    finally:
        if (options.out / "record.json").exists():
            text = write_reports(options.out)
    sys.stdout.write(text)


def _search(options: argparse.Namespace) -> None:
    _open(options, options.out, _config(options)).run_stage("search")


def _space(options: argparse.Namespace) -> None:
    from lpgnas.preparation import prepare, search_space
    from lpgnas.space_table import SpaceSize, space_report

    config = _config(options)
    if config is None:
        raise ConfigError("--dataset is missing; `lpgnas datasets` lists the names")
    prepared = prepare(config, options.data_root)
    sys.stdout.write(space_report(SpaceSize(search_space(prepared.data.graph, config), prepared.size)))


def _sweep(options: argparse.Namespace) -> None:
    from lpgnas.progress import standard_error
    from lpgnas.sweeps import REPORT, Sweep, SweepConfig, list_key

    names = [item.name for item in fields(RunConfig) if item.name not in _SINGLE]
    names += ["seeds", *(list_key(one) for one in QUANTITIES)]
    given = {name: getattr(options, name) for name in names if getattr(options, name) is not None}
    config = None
    if options.config is not None:
        base = SweepConfig.from_toml(read_text(options.config)).located(options.config.parent)
        given = {**base.options(), **given}
    if given:
        if "dataset" not in given:
            raise ConfigError("--dataset is missing; `lpgnas datasets` lists the names")
        config = SweepConfig.of(given).located(Path.cwd())
    Sweep(options.out, config, options.data_root, standard_error(quiet=options.quiet)).run()
    sys.stdout.write(read_text(options.out / REPORT))


def _reproduce(options: argparse.Namespace) -> None:
    from lpgnas.progress import standard_error
    from lpgnas.reproduce import Reproduction

    work = options.work or options.out / "runs"
    stream = standard_error(quiet=options.quiet)
    made = Reproduction(options.table, options.out, work, options.data_root, stream)
    sys.stdout.write(made.run(options.seeds, options.only, options.datasets))


def _stage(name: str) -> Callable[[argparse.Namespace], None]:
    def command(options: argparse.Namespace) -> None:
        _open(options, options.run).run_stage(name)
        sys.stdout.write(f"{name}: done\n")

    return command


def _verify(options: argparse.Namespace) -> None:
    run = _open(options, options.run)
    run.run_stage("verify")
    sys.stdout.write("verify: done\n")
    if options.fixed_point:
        sys.stdout.write("\n" + run.check_fixed_point().to_text())


def _export(options: argparse.Namespace) -> None:
    from lpgnas.export.targets import TARGETS, c_source, default_targets

    on_graph = bool(options.target) and all(TARGETS.get(name).on_graph is not None for name in options.target)
    of_code = options.max_nodes is not None or (options.graph is not None and not on_graph)
    if of_code and (list(options.target) != ["c"] or options.run.is_dir()):
        raise ConfigError(
            "--max-nodes and --graph go with --target c and a program.npz (a run folder holds one), --graph also with "
            "targets that compile a graph in (hls4ml, finn)"
        )
    if not on_graph and any(one is not None for one in (options.node, options.fan_out, options.nodes)):
        raise ConfigError("--node, --fan-out and --nodes go with targets that compile a graph in (hls4ml, finn)")

    if options.run.is_dir():
        if options.out is not None:
            raise ConfigError("--out goes with a program.npz; a run folder keeps its own files")
        run = _open(options, options.run)
        run.run_stage("export", options.target, _compiled_in(options, run) if on_graph else None)
        told = run.record()["stages"]["export"]
        asked = options.target or default_targets()
        _tell_refused({name: reason for name, reason in told["refused"].items() if name in asked})
        _tell_unchecked(told["c_unchecked"] if "c" in asked else "")
        _tell_unchecked(told.get("compiled_in_unchecked", ""), "not checked:")
        return
    from lpgnas.constant_forms import check_compiled, write_projects
    from lpgnas.export.files import export_files
    from lpgnas.program_file import load_program
    from lpgnas.verification import check_c_code

    if options.out is None:
        raise ConfigError("--out is missing: say where the files of a program.npz go")
    program = load_program(options.run)
    if of_code:
        _export_c(options, program)
        return
    made = export_files(program, options.target, _compiled_in(options, program) if on_graph else None)
    _tell_unchecked(check_compiled(program, made.files), "not checked:")
    if (code := c_source(made.files)) is not None:
        _tell_unchecked(check_c_code(program, code))
    for name, content in made.files.items():
        write_atomic(options.out / name, content)
    write_projects(options.out, made.files)
    _tell_refused(made.refused)


def _compiled_in(options: argparse.Namespace, made: Run | IntegerProgram) -> Graph | None:
    """The graph that an export compiles in: a named one, a run's own, or the neighbourhood of a node of either."""
    from lpgnas.constant_forms import GraphChoice
    from lpgnas.datasets import load_dataset
    from lpgnas.integer_program import IntegerProgram

    choice = GraphChoice(options.node, options.fan_out, options.nodes)
    if options.graph is not None:
        graph = load_dataset(options.graph, options.data_root, require_labels=False)
    elif isinstance(made, IntegerProgram) or options.node is None:
        return None  # the export says what is missing
    else:
        graph = made.prepared.graph
    return choice.of(graph, made if isinstance(made, IntegerProgram) else made.program())


def _tell_refused(refused: Mapping[str, str]) -> None:
    for name, reason in refused.items():
        sys.stderr.write(f"no {name}: {reason}\n")


def _export_c(options: argparse.Namespace, program: IntegerProgram) -> None:
    """Write C files for some graphs, or for one, checked against the kernels where a compiler is there."""
    from lpgnas.datasets import load_dataset
    from lpgnas.export.c_code import CodeOptions, export_c
    from lpgnas.export.targets import c_files
    from lpgnas.kernels.csr import CsrGraph
    from lpgnas.verification import check_c_code

    graph = None
    if options.graph is not None:
        named = load_dataset(options.graph, options.data_root, require_labels=False)
        graph = CsrGraph.from_edges(named.edge_index, named.num_nodes, self_loops=False)
    made = export_c(program, CodeOptions(options.max_nodes, graph))
    _tell_unchecked(check_c_code(program, made, graph, options.max_nodes))
    for name, content in c_files(made).items():
        write_atomic(options.out / name, content)


def _tell_unchecked(reason: str, what: str = "C code not checked:") -> None:
    if reason:
        sys.stderr.write(f"{what} {reason}\n")


def _predict(options: argparse.Namespace) -> None:
    import io

    import numpy as np

    from lpgnas.datasets import load_dataset
    from lpgnas.kernels.executor import Executor
    from lpgnas.program_file import load_program

    executor = Executor(load_program(options.program))
    graph = load_dataset(options.dataset, options.data_root, require_labels=False)
    prediction = executor.run(graph.x, graph.edge_index)
    buffer = io.BytesIO()
    classes = prediction.codes.argmax(axis=1)
    np.savez(buffer, codes=prediction.codes, logits=prediction.logits, classes=classes)
    write_atomic(options.out, buffer.getvalue())


def _cost(options: argparse.Namespace) -> None:
    from lpgnas.cost_models.energy import format_energy
    from lpgnas.cost_models.latency import LatencyTable
    from lpgnas.cost_models.program_cost import program_cost
    from lpgnas.cost_models.rows import GraphSize
    from lpgnas.cost_models.spec_cost import spec_cost
    from lpgnas.datasets import load_dataset
    from lpgnas.program_file import load_program
    from lpgnas.spec import ModelSpec

    graph = load_dataset(options.dataset, options.data_root, require_labels=False)
    size = GraphSize.of(graph)
    latency = None if options.latency_table is None else LatencyTable.load(options.latency_table)
    is_program = options.spec.suffix == ".npz"
    model = load_program(options.spec) if is_program else ModelSpec.from_json(read_text(options.spec))
    if model.num_features != graph.num_features:
        raise ConfigError(f"{options.spec} reads {model.num_features} features, {graph.name} has {graph.num_features}")
    if isinstance(model, ModelSpec):
        cost = spec_cost(model, size, latency=latency)
    else:
        cost = program_cost(model, size, latency=latency)
    totals = "\n".join(f"{name:>24} {value:>16,}" for name, value in cost.totals().items())
    totals += f"\n\nenergy, estimated for 45 nm (docs/budgets.md): {format_energy(cost.energy_aj)}"
    sys.stdout.write(cost.to_json() if options.json else f"{cost.table().to_string(index=False)}\n\n{totals}\n")


def _calibrate(options: argparse.Namespace) -> None:
    from lpgnas.calibration import calibrate
    from lpgnas.progress import standard_error

    table = calibrate(options.out, quick=options.quick, stream=standard_error(quiet=options.quiet))
    kinds = len({point.operation for point in table.points})
    threads = f"{table.threads} thread{'s' if table.threads > 1 else ''}"
    sys.stdout.write(f"{table.device}, {threads}: {len(table.points):,} times of {kinds} operations\n")


def _bench(options: argparse.Namespace) -> None:
    from lpgnas.bench import bench_run, bench_table

    result = bench_run(options.run, options.data_root, threads=options.threads, rounds=options.rounds)
    sys.stdout.write(bench_table(result))


def _report(options: argparse.Namespace) -> None:
    from lpgnas.report_files import write_reports

    sys.stdout.write(write_reports(options.run))


def _datasets(options: argparse.Namespace) -> None:
    from lpgnas.datasets import dataset_table

    sys.stdout.write(dataset_table(options.data_root).to_string(index=False) + "\n")


if __name__ == "__main__":
    raise SystemExit(main())
