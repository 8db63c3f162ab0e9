"""`RunConfig`: everything that decides what a run computes, to and from TOML."""

from __future__ import annotations

import os
import re
import tomllib
from collections.abc import Mapping
from dataclasses import Field, asdict, dataclass, fields
from pathlib import Path
from typing import Any

from lpgnas.budget import Budget
from lpgnas.errors import ConfigError
from lpgnas.manual_models import MANUAL_MODELS
from lpgnas.number_formats import FLOAT32, FormatChoice
from lpgnas.space_options import LISTS, space_arguments
from lpgnas.spec import MAX_WIDTH

SEARCHES = ("feasible", "lpgnas", "lpgnas-textbook", "random")
"""Strategies that search."""
STRATEGIES = (*SEARCHES, "uniform")
PATHS = ("spec", "latency_table", "teacher_file", "supernet_file")
"""Options that name a file."""
LEAST_BITS, MOST_BITS = 2, 16
"""Of the codes of a uniform model."""
SPACE_OPTIONS = ("space", "routes", *LISTS)
"""Options that say what is searched."""
MAX_SEED = 1_000_000
MAX_THREADS = 256


@dataclass(frozen=True)
class RunConfig:
    """Everything that decides what a run computes.

    Attributes:
        dataset: a name of `lpgnas datasets`, or a path to a graph in `.npz`; a relative one is relative to the file
            that holds the config.
        protocol: the split, `default` for the dataset's own.
        split_seed: seed of a drawn split.
        inductive: whether validation and test nodes are absent in training.
        weight_budget: size text such as `3KiB`, or empty for none.
        buffer_budget: likewise.
        peak_budget: likewise.
        mac_budget: count text such as `2M`, or empty for none.
        bop_budget: likewise.
        latency_budget: time text such as `2ms`, or empty for none; needs a `latency_table`.
        latency_table: path of a table of measured operations (docs/budgets.md), or empty; relative as `dataset`.
        seed: of search and training.
        strategy: `feasible` (supernet, then draws that learn from real trainings), `lpgnas` (two controllers and shared
            weights in one differentiable round), `lpgnas-textbook` (the same with the textbook's gradient), `random`
            (uniform feasible draws) or `uniform` (no search: the model of the next four options).
        architecture: of the strategy `uniform`, a name of `lpgnas.manual_models`.
        hidden: width of its blocks but the last.
        weight_format: of all its weights, such as `fixed4`.
        activation_bits: of all its codes.
        space: the search space by name, `default` or `whole`; the next options change its choices
            (`lpgnas.space_options`). Empty lists leave them.
        blocks: numbers of blocks.
        routes: whether every block chooses what it reads; None as the space has it.
        attentions: names of `lpgnas.operators.ATTENTIONS`; likewise the next two.
        aggregations: where the attention leaves the choice.
        activations: of every block but the last.
        widths: hidden sizes.
        heads: of learned attentions, 1 among them.
        shortcuts: `none`, `linear`.
        weight_formats: such as `binary`, `ternary`, `fixed4`.
        code_bits: of all codes but the logits'.
        kept_words: shares of the input words that weights may have bits for, such as `1/4`, `0.5` or `1`.
        candidates: feasible specs that the search trains.
        supernet_steps: training steps of the supernet, for the strategies but `random` and `uniform`; `lpgnas` spends
            them, and those of the trainings of `candidates`, on its round.
        epochs: of the final training; the search's rungs take a fifth, a half and all of them.
        restarts: trainings of the winner from different initial weights; the best on the selection nodes stays.
        learning_rate: of Adam, for searched models and the teacher; references choose between it and 0.01.
        distillation: whether models also learn from a full-precision teacher.
        distillation_weight: the teacher's share of the loss, up to 1; 0 takes the share of nodes without a label in
            training, within 0.5 to 0.95.
        max_degree: most incoming edges that the program is proved for; 0 chooses from the graph.
        reference_seeds: trainings of the full-precision GCN-16 for the report.
        threads: of torch.
        spec: path of a `spec.json` to train instead of a searched one, or empty; relative as `dataset`.
        teacher_file: path of a teacher to learn from instead of training one (`lpgnas sweep` makes it), or empty;
            relative as `dataset`.
        supernet_file: path of a `supernet.csv` whose losses are taken instead of training a supernet, or empty;
            likewise.
    """

    dataset: str
    protocol: str = "default"
    split_seed: int = 0
    inductive: bool = False
    weight_budget: str = ""
    buffer_budget: str = ""
    peak_budget: str = ""
    mac_budget: str = ""
    bop_budget: str = ""
    latency_budget: str = ""
    latency_table: str = ""
    seed: int = 0
    strategy: str = "feasible"
    architecture: str = "gcn"
    hidden: int = 16
    weight_format: str = "fixed4"
    activation_bits: int = 8
    space: str = "default"
    blocks: tuple[int, ...] = ()
    routes: bool | None = None
    attentions: tuple[str, ...] = ()
    aggregations: tuple[str, ...] = ()
    activations: tuple[str, ...] = ()
    widths: tuple[int, ...] = ()
    heads: tuple[int, ...] = ()
    shortcuts: tuple[str, ...] = ()
    weight_formats: tuple[str, ...] = ()
    code_bits: tuple[int, ...] = ()
    kept_words: tuple[str, ...] = ()
    candidates: int = 16
    supernet_steps: int = 100
    epochs: int = 200
    restarts: int = 3
    learning_rate: float = 0.03
    distillation: bool = True
    distillation_weight: float = 0.0
    max_degree: int = 0
    reference_seeds: int = 3
    threads: int = 1
    spec: str = ""
    teacher_file: str = ""
    supernet_file: str = ""

    def __post_init__(self) -> None:
        for name, least in (("candidates", 1), ("epochs", 5), ("restarts", 1), ("reference_seeds", 0), ("threads", 1)):
            if getattr(self, name) < least:
                raise ConfigError(f"{name} is {getattr(self, name)}; it must be at least {least}")
        for name in ("seed", "split_seed", "max_degree", "supernet_steps"):
            if getattr(self, name) < 0:
                raise ConfigError(f"{name} is {getattr(self, name)}; it must not be negative")
        for name, most in (("seed", MAX_SEED), ("split_seed", MAX_SEED), ("threads", MAX_THREADS)):
            if getattr(self, name) > most:
                raise ConfigError(f"{name} is {getattr(self, name)}; it must be at most {most}")
        if not 0.0 < self.learning_rate < 10.0:
            raise ConfigError(f"learning_rate is {self.learning_rate}; it must be above 0 and below 10")
        if not 0.0 <= self.distillation_weight <= 1.0:
            raise ConfigError(f"distillation_weight is {self.distillation_weight}; it must be in 0 to 1")
        self._check_strategy()
        self._check_space()
        self._check_limits()
        self._check_files()

    def _check_files(self) -> None:
        if self.teacher_file and not self.distillation:
            raise ConfigError(f"teacher_file is {self.teacher_file!r}, but distillation is off; leave one of them out")
        takes_supernet = self.strategy == "feasible" and not self.spec
        if self.supernet_file and not takes_supernet:
            why = "the spec is given" if self.spec else f"the strategy {self.strategy} has no use for it"
            raise ConfigError(f"supernet_file is {self.supernet_file!r}, but {why}; leave it out")

    def _check_limits(self) -> None:
        if "latency_ns" in self.budget() and not self.latency_table:
            raise ConfigError(
                f"latency_budget is {self.latency_budget!r} without a latency_table; give one with --latency-table"
            )

    def _check_space(self) -> None:
        self.space_arguments()
        given = [item.name for item in fields(self) if item.name in SPACE_OPTIONS and self._is_set(item)]
        idle = "the spec is given" if self.spec else "the strategy uniform searches nothing"
        if given and (self.spec or self.strategy == "uniform"):
            raise ConfigError(f"{given[0]} says what is searched, but {idle}; leave it out")

    def _is_set(self, item: Field[Any]) -> bool:
        return bool(getattr(self, item.name) != item.default)

    def space_arguments(self) -> dict[str, Any]:
        """What the options say of the search space, as arguments of `SearchSpace`."""
        return space_arguments(self.space, self.routes, {name: getattr(self, name) for name in LISTS})

    def _check_strategy(self) -> None:
        if self.strategy == "pdnas":
            raise ConfigError(
                "strategy 'pdnas' searches float32 models, which have no integer form to lower; "
                "`lpgnas reproduce` runs it, and `lpgnas.pdnas.search_float` in Python"
            )
        if self.strategy not in STRATEGIES:
            raise ConfigError(f"strategy is {self.strategy!r}; it must be one of {', '.join(STRATEGIES)}")
        MANUAL_MODELS.get(self.architecture)
        if not 1 <= self.hidden <= MAX_WIDTH:
            raise ConfigError(f"hidden is {self.hidden}; it must be in 1 to {MAX_WIDTH}")
        if not LEAST_BITS <= self.activation_bits <= MOST_BITS:
            raise ConfigError(f"activation_bits is {self.activation_bits}; it must be in {LEAST_BITS} to {MOST_BITS}")
        choice = FormatChoice.parse(self.weight_format)
        if choice == FLOAT32:
            raise ConfigError("weight_format is float32, which cannot be lowered to integers; give fixed8 or less")

    def budget(self) -> Budget:
        """The parsed budgets."""
        return Budget.of_options(asdict(self))

    def to_toml(self) -> str:
        """One `key = value` line each; a key that says nothing is left out."""
        return toml_lines(asdict(self))

    @classmethod
    def from_toml(cls, text: str) -> RunConfig:
        """The config in a TOML text.

        Raises:
            ConfigError: not TOML, an unknown key, a missing dataset, or a value of the wrong type.
        """
        try:
            raw = tomllib.loads(text)
        except tomllib.TOMLDecodeError as error:
            raise ConfigError(f"the config is not TOML: {error}") from error
        if "dataset" not in raw:
            raise ConfigError("the config lacks the key 'dataset'")
        return cls.of(raw)

    @classmethod
    def of(cls, options: Mapping[str, Any]) -> RunConfig:
        """The config of options by name.

        Raises:
            ConfigError: an unknown option, or a value of the wrong type or range.
        """
        known = {item.name: str(item.type) for item in fields(cls)}
        unknown = sorted(set(options) - set(known))
        if unknown:
            raise ConfigError(f"unknown keys in the config: {', '.join(unknown)}; known: {', '.join(known)}")
        return cls(**{name: _typed(name, value, known[name]) for name, value in options.items()})

    def located(self, folder: Path) -> RunConfig:
        """The same with relative paths taken from `folder`."""
        names = [*PATHS, "dataset"] if self.dataset.endswith(".npz") else PATHS
        # lexically, so that `..` works from a folder that is not there yet
        paths = {name: os.path.normpath(folder.absolute() / path) for name in names if (path := getattr(self, name))}
        return RunConfig(**asdict(self) | paths)


def _typed(name: str, value: object, kind: str) -> Any:  # noqa: ANN401 - of the kind that a field is declared with
    listed = re.fullmatch(r"tuple\[(\w+), \.\.\.\]", kind)
    if listed is None:
        allowed = kind.split(" | ")
        if (value is None and "None" in allowed) or type(value).__name__ in allowed:
            return value
        raise ConfigError(f"config key {name} must be of type {kind.removesuffix(' | None')}, got {value!r}")
    if not isinstance(value, (list, tuple)) or any(type(one).__name__ != listed[1] for one in value):
        raise ConfigError(f"config key {name} must be a list of {listed[1]}, got {value!r}")
    return tuple(value)


def toml_lines(options: Mapping[str, Any]) -> str:
    """One `key = value` line each; None, which TOML lacks, is left out."""
    return "".join(f"{name} = {_toml(value)}\n" for name, value in options.items() if value is not None)


def _toml(value: object) -> str:
    if isinstance(value, (list, tuple)):
        return f"[{', '.join(map(_toml, value))}]"
    if isinstance(value, str):
        return toml_string(value)
    return str(value).lower() if isinstance(value, bool) else repr(value)


def toml_string(text: str) -> str:
    """`text` as a TOML string."""
    escaped = text.replace("\\", "\\\\").replace('"', '\\"')
    control = re.compile("[\x00-\x1f\x7f]")  # TOML wants them escaped
    return '"' + control.sub(lambda found: f"\\u{ord(found.group()):04x}", escaped) + '"'
