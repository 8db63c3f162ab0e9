"""`Budget`: the memory that a model may take, in exact bits, parsed from texts such as `3KiB`."""

from __future__ import annotations

import re
from dataclasses import dataclass, fields
from fractions import Fraction
from operator import index
from typing import SupportsIndex, TypeAlias

from lpgnas.errors import ConfigError

Size: TypeAlias = str | SupportsIndex
"""A text such as `3KiB`, or a whole number of bits."""
_UNITS = {"B": 8, "KiB": 8 << 10, "MiB": 8 << 20, "GiB": 8 << 30}
_SIZE = re.compile(r"\s*([+-]?[0-9]{1,20}(?:\.[0-9]{1,20})?)\s*([A-Za-z]*)\s*", re.ASCII)


def parse_size(text: str, what: str = "size") -> int:
    """Bits of a size such as `3KiB`, `60 KiB` or `1500B` (KiB = 1,024 bytes); a fraction of a bit is dropped.

    Raises:
        ConfigError: not a positive number with one of the units; the message names `what` and the text.
    """
    match = _SIZE.fullmatch(text)
    if match is None or match.group(2) not in _UNITS:
        raise ConfigError(f"{what}: cannot read {text!r} as a size; write a number and B, KiB, MiB or GiB, e.g. 3KiB")
    bits = int(Fraction(match.group(1)) * _UNITS[match.group(2)])
    if bits <= 0:
        raise ConfigError(f"{what}: {text!r} is not a positive size")
    return bits


def format_bits(bits: int) -> str:
    """`bits` for people: bytes below 1 KiB, KiB below 1 MiB, then MiB, with three decimals at most."""
    value, unit = bits / 8, "B"
    for larger in ("KiB", "MiB", "GiB"):
        if value < 1024:
            break
        value, unit = value / 1024, larger
    return f"{value:.3f}".rstrip("0").rstrip(".") + f" {unit}"


def size_text(bits: int) -> str:
    """The text of exactly `bits`, in the largest unit that divides it; `parse_size` reads it back."""
    for unit in ("GiB", "MiB", "KiB"):
        if bits % _UNITS[unit] == 0:
            return f"{bits // _UNITS[unit]}{unit}"
    eighths = f".{bits % 8 * 125:03d}".rstrip("0").rstrip(".")
    return f"{bits // 8}{eighths}B"


def _limit(size: Size | None, what: str) -> int | None:
    if size is None or isinstance(size, str):
        return None if size is None else parse_size(size, what)
    try:
        bits = index(size)
    except TypeError as error:
        raise ConfigError(f"{what}: {size!r} is neither a size such as '3KiB' nor a whole number of bits") from error
    if bits <= 0:
        raise ConfigError(f"{what}: {bits} bits is not a positive size")
    return bits


@dataclass(frozen=True, init=False)
class Budget:
    """Upper limits, in bits; None where there is none. Definitions of the sizes are in `lpgnas.cost_models`.

    Example:
        >>> Budget(weights="3KiB", buffers="60KiB").weight_bits
        24576

    Attributes:
        weight_bits: packed weights, biases, tables, shifts.
        buffer_bits: all intermediate tensors between the features and the logits.
        peak_bits: most that is alive at once, input and output included.
    """

    weight_bits: int | None
    buffer_bits: int | None
    peak_bits: int | None

    def __init__(
        self,
        weights: Size | None = None,
        buffers: Size | None = None,
        peak: Size | None = None,
    ) -> None:
        """Limits as texts such as `3KiB`, or as whole numbers of bits; None leaves a size free.

        Raises:
            ConfigError: not a size, or not a positive one.
        """
        object.__setattr__(self, "weight_bits", _limit(weights, "weight budget"))
        object.__setattr__(self, "buffer_bits", _limit(buffers, "buffer budget"))
        object.__setattr__(self, "peak_bits", _limit(peak, "peak budget"))

    @classmethod
    def parse(cls, weights: str | None = None, buffers: str | None = None, peak: str | None = None) -> Budget:
        """The budget that texts such as `3KiB` say; None leaves a size free.

        Raises:
            ConfigError: as `parse_size`.
        """
        return cls(weights, buffers, peak)

    def allows(self, *, weight_bits: int, buffer_bits: int, peak_bits: int) -> bool:
        """Whether sizes in bits are within every limit."""
        return not self.excess(weight_bits=weight_bits, buffer_bits=buffer_bits, peak_bits=peak_bits)

    def excess(self, *, weight_bits: int, buffer_bits: int, peak_bits: int) -> tuple[str, ...]:
        """Names of the limits that sizes in bits pass."""
        sizes = {"weight_bits": weight_bits, "buffer_bits": buffer_bits, "peak_bits": peak_bits}
        limits = {item.name: getattr(self, item.name) for item in fields(self)}
        return tuple(name for name, size in sizes.items() if limits[name] is not None and size > limits[name])

    def __str__(self) -> str:
        named = (("weights", self.weight_bits), ("buffers", self.buffer_bits), ("peak", self.peak_bits))
        parts = [f"{what} {format_bits(bits)}" for what, bits in named if bits is not None]
        return ", ".join(parts) or "unlimited"
