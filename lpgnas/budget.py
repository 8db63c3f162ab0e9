"""`Budget`: upper limits on what a model may cost, as exact whole numbers, parsed from texts such as `3KiB` or `2ms`.

`QUANTITIES` says once what can be limited; options, flags, reports and errors are made from its rows.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from fractions import Fraction
from operator import index
from typing import Protocol, SupportsIndex, TypeAlias

from lpgnas.errors import ConfigError, UnknownName

Size: TypeAlias = str | SupportsIndex
"""A text such as `3KiB`, or a whole number of the quantity's unit (bits, operations, nanoseconds)."""
_AMOUNT = re.compile(r"\s*([+-]?[0-9]{1,20}(?:\.[0-9]{1,20})?)\s*([A-Za-z]*)\s*", re.ASCII)


@dataclass(frozen=True, eq=False)
class Scale:
    """How amounts of one kind are written.

    Attributes:
        noun: what an amount is called in errors.
        counted: the unit that whole numbers count.
        units: how many of it each unit of a text is worth, from the smallest upwards.
        advice: how a text is written.
    """

    noun: str
    counted: str
    units: Mapping[str, int]
    advice: str

    def parse(self, text: str, what: str) -> int:
        """The amount that a text says; a fraction of the counted unit is dropped.

        Raises:
            ConfigError: not a positive number with one of the units; the message names `what` and the text.
        """
        match = _AMOUNT.fullmatch(text)
        if match is None or match.group(2) not in self.units:
            raise ConfigError(f"{what}: cannot read {text!r} as a {self.noun}; {self.advice}")
        amount = int(Fraction(match.group(1)) * self.units[match.group(2)])
        if amount <= 0:
            raise ConfigError(f"{what}: {text!r} is not a positive {self.noun}")
        return amount

    def limit(self, size: Size, what: str) -> int:
        """The limit that a text or a whole number says.

        Raises:
            ConfigError: as `parse`, or neither a text nor a whole number.
        """
        if isinstance(size, str):
            return self.parse(size, what)
        try:
            amount = index(size)
        except TypeError as error:
            example = self.advice.rsplit(" ", 1)[1]
            raise ConfigError(
                f"{what}: {size!r} is neither a {self.noun} such as {example!r} nor a whole number of {self.counted}"
            ) from error
        if amount <= 0:
            raise ConfigError(f"{what}: {amount} {self.counted} is not a positive {self.noun}")
        return amount

    def text(self, amount: int) -> str:
        """The text of exactly `amount`, in the largest unit that divides it; `parse` reads it back."""
        for unit in reversed(tuple(self.units)):
            if amount % self.units[unit] == 0:
                return f"{amount // self.units[unit]}{unit}"
        return size_text(amount)  # only sizes count less than their smallest unit

    def rounded_up(self, amount: int) -> str:
        """The text of the smallest whole number of the smallest unit that is not below `amount`."""
        unit, worth = next(iter(self.units.items()))
        return f"{-(-amount // worth)}{unit}"


SIZE = Scale(
    "size", "bits", {"B": 8, "KiB": 8 << 10, "MiB": 8 << 20, "GiB": 8 << 30},
    "write a number and B, KiB, MiB or GiB, e.g. 3KiB",
)  # fmt: skip
COUNT = Scale(
    "count", "operations", {"": 1, "K": 10**3, "M": 10**6, "G": 10**9, "T": 10**12},
    "write a number alone or with K, M, G or T (thousands), e.g. 2M",
)  # fmt: skip
TIME = Scale(
    "time", "nanoseconds", {"ns": 1, "us": 10**3, "ms": 10**6, "s": 10**9},
    "write a number and ns, us, ms or s, e.g. 2ms",
)  # fmt: skip


@dataclass(frozen=True)
class Quantity:
    """Something that a model costs and that can be limited.

    Attributes:
        name: of the total in a cost report and in `record.json`.
        keyword: the argument of `Budget`, and the word in reports.
        what: the word in options: `<what>_budget`.
        scale: how its amounts are written.
        meaning: what is counted, in a few words.
        help: of the option.
    """

    name: str
    keyword: str
    what: str
    scale: Scale
    meaning: str
    help: str

    @property
    def option(self) -> str:
        """The key of the limit in a config."""
        return f"{self.what}_budget"

    @property
    def flag(self) -> str:
        """The flag of the limit on the command line."""
        return f"--{self.what}-budget"

    @property
    def title(self) -> str:
        """The word in tables."""
        return self.keyword.upper()[:-1] + "s" if self.scale is COUNT else self.keyword

    def format(self, amount: int) -> str:
        """`amount` for people."""
        return {SIZE.noun: format_bits, COUNT.noun: "{:,}".format, TIME.noun: format_time}[self.scale.noun](amount)


QUANTITIES: tuple[Quantity, ...] = (
    Quantity(
        "weight_bits", "weights", "weight", SIZE, "packed weights, biases, tables and shifts",
        "most that the model may store, e.g. 3KiB",
    ),
    Quantity(
        "buffer_bits", "buffers", "buffer", SIZE, "every intermediate tensor between features and logits",
        "most that its intermediate tensors may take together, e.g. 60KiB",
    ),
    Quantity(
        "peak_bits", "peak", "peak", SIZE, "the most that is alive at once, features and logits included",
        "most that may be alive at once, features and logits included",
    ),
    Quantity(
        "macs", "macs", "mac", COUNT, "multiply-accumulates on the graph",
        "most multiply-accumulates of an inference on the graph, e.g. 2M",
    ),
    Quantity(
        "bops", "bops", "bop", COUNT, "bit operations: multiply-accumulates times the bits of both operands",
        "most bit operations (multiply-accumulates times the bits of both operands), e.g. 30M",
    ),
    Quantity(
        "latency_ns", "latency", "latency", TIME, "an inference on the graph, by the latency table",
        "longest inference on the graph by the latency table, e.g. 2ms",
    ),
)  # fmt: skip
"""What can be limited, in the order of tables. A row makes one, with its total in a cost report and
its key in `RunConfig`."""


class Cost(Protocol):
    """What is held against a budget."""

    def quantity(self, name: str) -> int:
        """The total called `name`, in the unit of its `Quantity`."""


def parse_size(text: str, what: str = "size") -> int:
    """Bits of a size such as `3KiB`, `60 KiB` or `1500B` (KiB = 1,024 bytes); a fraction of a bit is dropped.

    Raises:
        ConfigError: not a positive number with one of the units; the message names `what` and the text.
    """
    return SIZE.parse(text, what)


def format_bits(bits: int) -> str:
    """`bits` for people: bytes below 1 KiB, KiB below 1 MiB, then MiB, with three decimals at most."""
    value, unit = bits / 8, "B"
    for larger in ("KiB", "MiB", "GiB"):
        if value < 1024:
            break
        value, unit = value / 1024, larger
    return f"{_decimals(value)} {unit}"


def format_time(nanoseconds: int) -> str:
    """`nanoseconds` for people, with three decimals at most."""
    value, unit = float(nanoseconds), "ns"
    for larger in ("us", "ms", "s"):
        if value < 1000:
            break
        value, unit = value / 1000, larger
    return f"{_decimals(value)} {unit}"


def _decimals(value: float) -> str:
    return f"{value:.3f}".rstrip("0").rstrip(".")


def size_text(bits: int) -> str:
    """The text of exactly `bits`, in the largest unit that divides it; `parse_size` reads it back."""
    if bits % 8 == 0:
        return SIZE.text(bits)
    eighths = f".{bits % 8 * 125:03d}".rstrip("0")
    return f"{bits // 8}{eighths}B"


class Budget(Mapping[str, int]):
    """Upper limits by the name of their quantity; what is not limited is not in it.

    Definitions of the quantities are in `lpgnas.cost_models`.

    Example:
        >>> budget = Budget(weights="3KiB", buffers="60KiB", macs="90M")
        >>> budget["weight_bits"], budget.get("peak_bits"), dict(budget)["macs"]
        (24576, None, 90000000)
    """

    def __init__(self, **limits: Size | None) -> None:
        """Limits as texts such as `3KiB`, or as whole numbers of their unit; None leaves a quantity free.

        Args:
            limits: `weights`, `buffers` and `peak` (sizes; bits), `macs` and `bops` (counts), `latency` (a time;
                nanoseconds).

        Raises:
            ConfigError: not an amount of its kind, or not a positive one.
            UnknownName: a limit on something else.
        """
        known = {one.keyword: one for one in QUANTITIES}
        for keyword in limits:
            if keyword not in known:
                raise UnknownName("limit", keyword, known)
        self._limits = {
            one.name: one.scale.limit(size, f"{one.what} budget")
            for keyword, one in known.items()
            if (size := limits.get(keyword)) is not None
        }

    @classmethod
    def of_options(cls, options: Mapping[str, object]) -> Budget:
        """The budget of a config's options by name; an empty or missing text leaves a quantity free.

        Raises:
            ConfigError: as `Budget`.
        """
        given = {one.keyword: options.get(one.option) or None for one in QUANTITIES}
        return cls(**{keyword: str(text) for keyword, text in given.items() if text is not None})

    def options(self) -> dict[str, str]:
        """The options of a config that say this budget exactly."""
        return {one.option: one.scale.text(self[one.name]) for one in QUANTITIES if one.name in self}

    def excess(self, cost: Cost) -> tuple[str, ...]:
        """Names of the limits that a cost passes.

        Raises:
            ConfigError: a limited quantity that was not counted.
        """
        return tuple(name for name, limit in self._limits.items() if cost.quantity(name) > limit)

    def allows(self, cost: Cost) -> bool:
        """Whether a cost is within every limit."""
        return all(cost.quantity(name) <= limit for name, limit in self._limits.items())

    def limited(self) -> tuple[Quantity, ...]:
        """The quantities that have a limit."""
        return tuple(one for one in QUANTITIES if one.name in self)

    def __getitem__(self, name: str) -> int:
        return self._limits[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._limits)

    def __len__(self) -> int:
        return len(self._limits)

    def __hash__(self) -> int:
        return hash(frozenset(self._limits.items()))

    def __repr__(self) -> str:
        return f"Budget({', '.join(f'{one.keyword}={self[one.name]}' for one in self.limited())})"

    def __str__(self) -> str:
        return ", ".join(f"{one.title} {one.format(self[one.name])}" for one in self.limited()) or "unlimited"
