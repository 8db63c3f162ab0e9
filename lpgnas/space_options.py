"""What a user says of the search space: the options of its choices by name, checked and in the order that it needs.

Two spaces have a name: `default`, two blocks of the operators that small models gain from, and `whole`, everything that
is registered. Lists narrow or widen either. Their order does not matter: the cheapest options are put first, then those
of the default space in its order, then the others in that of their registry.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from fractions import Fraction
from typing import Any

from lpgnas.attentions.score import Attention
from lpgnas.errors import ConfigError, UnknownName
from lpgnas.number_formats import FLOAT32, FormatChoice
from lpgnas.operators import ACTIVATIONS, AGGREGATIONS, ATTENTIONS
from lpgnas.registry import Registry
from lpgnas.search_space import SearchSpace
from lpgnas.spec import MAX_WIDTH

SPACES = ("default", "whole")
LISTS = (
    "blocks", "attentions", "aggregations", "activations", "widths", "heads", "shortcuts", "weight_formats",
    "code_bits", "kept_words",
)  # fmt: skip
"""Choices whose options can be listed, by the names of `SearchSpace`."""
NAMED = ("attentions", "aggregations", "activations", "shortcuts", "weight_formats", "kept_words")
"""Those that list names, or shares; the others list whole numbers."""
LEAST_CODE_BITS, MOST_CODE_BITS = 2, 8
"""Of searched codes: a signed code has a sign, and codes of more than 8 bits cannot index a table."""
MOST_BLOCKS = 8
_REGISTRIES: Mapping[str, Registry[Any]] = {
    "attentions": ATTENTIONS,
    "aggregations": AGGREGATIONS,
    "activations": ACTIVATIONS,
}
SHORTCUTS = ("none", "linear")
"""An identity needs a block as wide as what it reads, which searched widths leave open."""
_DEFAULT = SearchSpace(1, 1)
_OF_SEVERAL_BLOCKS = ("activations", "widths", "heads", "shortcuts")


def whole_space() -> dict[str, Any]:
    """Everything there is, as arguments of `SearchSpace`; an operator that is registered later is in it then."""
    return {
        "blocks": (1, 2, 3, 4),
        "routes": True,
        "attentions": _attentions(ATTENTIONS.names()),
        "aggregations": AGGREGATIONS.names(),
        "activations": _activations(ACTIVATIONS.names()),
        "widths": (4, 8, 12, 16, 24, 32, 48, 64, 96, 128, 256),
        "heads": (1, 2, 4, 8, 16),
        "shortcuts": SHORTCUTS,
        "weight_formats": ("binary", "ternary", *(f"fixed{bits}" for bits in range(2, 9))),
        "code_bits": tuple(range(LEAST_CODE_BITS, MOST_CODE_BITS + 1)),
    }


def space_arguments(space: str, routes: bool | None, lists: Mapping[str, Sequence[Any]]) -> dict[str, Any]:
    """Arguments of `SearchSpace` for a named space and the lists of options that a user gave.

    Args:
        space: a name of `SPACES`.
        routes: whether blocks choose what they read; None as the space has it.
        lists: options by the names of `LISTS`; an empty list leaves a choice as the space has it.

    Raises:
        ConfigError: options that no model could have, or that have no effect on any.
        UnknownName: an unknown space, operator or shortcut; the message lists what exists.
        SpecError: an unknown number format.
    """
    if space not in SPACES:
        raise UnknownName("search space", space, SPACES)
    given = {name: tuple(options) for name, options in lists.items() if options}
    for name, options in given.items():
        _check_options(name, options)
    made = whole_space() if space == "whole" else {}
    made |= {name: _ORDERS[name](options) for name, options in given.items()}
    if "aggregations" in given or "attentions" in given:
        made["attentions"] = _attentions(made.get("attentions", _DEFAULT.attentions), made.get("aggregations"))
    if routes is not None:
        made["routes"] = routes
    full = {name: made.get(name, getattr(_DEFAULT, name)) for name in (*LISTS, "routes")}
    _check_effects(given, routes, full)
    SearchSpace(num_features=1, num_classes=2, **made)
    return made


def _check_options(name: str, options: tuple[Any, ...]) -> None:
    if len(set(options)) < len(options):
        raise ConfigError(f"{name} of the search space: {', '.join(map(str, options))} holds an option twice")
    if name == "weight_formats":
        _check_formats(options)
    elif name == "kept_words":
        _shares(options)
    elif name == "shortcuts":
        for option in options:
            if option not in SHORTCUTS:
                raise UnknownName("shortcut", option, SHORTCUTS)
    elif name in _REGISTRIES:
        for option in options:
            _REGISTRIES[name].get(option)
    else:
        _check_numbers(name, options)


def _check_numbers(name: str, options: tuple[int, ...]) -> None:
    bounds = {"blocks": (1, MOST_BLOCKS), "widths": (1, MAX_WIDTH), "heads": (1, MAX_WIDTH)}
    low, high = bounds.get(name, (LEAST_CODE_BITS, MOST_CODE_BITS))
    for option in options:
        if not low <= option <= high:
            raise ConfigError(f"{name} of the search space holds {option}; each must be in {low} to {high}")


def _check_formats(names: Iterable[str]) -> None:
    for name in names:
        choice = FormatChoice.parse(name)
        if choice == FLOAT32 or choice.bits > MOST_CODE_BITS or str(choice) == "fixed1":
            raise ConfigError(
                f"weight_formats of the search space holds {name}; each must be binary, ternary, or fixed2 to fixed8"
            )


def _check_effects(given: Mapping[str, tuple[Any, ...]], routes: bool | None, full: Mapping[str, Any]) -> None:
    """Refuse what was given and can have no effect, or none as it stands."""
    learned = [name for name in full["attentions"] if ATTENTIONS.get(name).learned]
    if len(learned) == len(full["attentions"]) > 1:
        raise ConfigError(
            f"attentions {', '.join(learned)}: of several learned ones none is the cheapest, which budgets are "
            "bounded by; add gcn, const or self, or choose one"
        )
    for name in given.get("aggregations", ()):
        if not any(name in ATTENTIONS.get(one).aggregations for one in full["attentions"]):
            raise ConfigError(f"aggregation {name} goes with none of the attentions {', '.join(full['attentions'])}")
    if full["blocks"] == (1,):
        idle = [name for name in _OF_SEVERAL_BLOCKS if name in given] + (["routes"] if routes else [])
        if idle:
            raise ConfigError(f"{idle[0]} are of models with at least 2 blocks, and blocks of the search space is 1")
    if "heads" in given and given["heads"] != (1,):
        if not learned:
            raise ConfigError(
                f"heads are of learned attentions, and {', '.join(full['attentions'])} are none; add one, such as gat"
            )
        for count in given["heads"]:
            if all(width % count for width in full["widths"]):
                raise ConfigError(f"{count} heads divide none of the widths {', '.join(map(str, full['widths']))}")


def _shares(options: Iterable[str]) -> tuple[float, ...]:
    """Shares of the input words, rising.

    Raises:
        ConfigError: not a share above 0 and up to 1, or one of them twice.
    """
    shares = []
    for text in options:
        try:
            share = float(Fraction(text))
        except (ValueError, ZeroDivisionError):
            share = 0.0
        if not 0.0 < share <= 1.0 or share in shares:
            raise ConfigError(
                f"kept_words of the search space holds {text!r}; "
                "give each share above 0 and up to 1, such as 1/4 or 0.5, once"
            )
        shares.append(share)
    return tuple(sorted(shares))


def _ranked(options: Iterable[str], default: Sequence[str], cost: Callable[[str], Any]) -> tuple[str, ...]:
    """Options by their cost, equal ones as the default space has them, then as they come."""
    listed = list(options)
    place = {name: rank for rank, name in enumerate((*default, *(one for one in listed if one not in default)))}
    return tuple(sorted(listed, key=lambda name: (cost(name), place[name])))


def _rising(options: Iterable[int]) -> tuple[int, ...]:
    return tuple(sorted(options))


def _registered(options: Iterable[str], known: Sequence[str]) -> tuple[str, ...]:
    return tuple(name for name in known if name in set(options))


def _attentions(options: Iterable[str], aggregations: Sequence[str] | None = None) -> tuple[str, ...]:
    """Plain ones before learned ones, those without neighbours first, then by their cheapest aggregation."""
    order, wanted = AGGREGATIONS.names(), aggregations or _DEFAULT.aggregations

    def cost(name: str) -> tuple[bool, bool, int]:
        one: Attention = ATTENTIONS.get(name)
        cheapest = min(order.index(SearchSpace.aggregation(one, kind)) for kind in wanted)
        return one.learned, one.neighbours, cheapest

    return _ranked(_registered(options, ATTENTIONS.names()), _DEFAULT.attentions, cost)


def _activations(options: Iterable[str]) -> tuple[str, ...]:
    """Clamps before tables."""
    listed = _registered(options, ACTIVATIONS.names())
    return _ranked(listed, _DEFAULT.activations, lambda name: ACTIVATIONS.get(name).function is not None)


def _formats(options: Iterable[str]) -> tuple[str, ...]:
    return _ranked(sorted(options), ("binary", "ternary"), lambda name: FormatChoice.parse(name).bits)


_ORDERS: Mapping[str, Callable[[Any], tuple[Any, ...]]] = {
    "blocks": _rising,
    "attentions": _attentions,
    "aggregations": lambda options: _registered(options, AGGREGATIONS.names()),
    "activations": _activations,
    "widths": _rising,
    "heads": _rising,
    "shortcuts": lambda options: _registered(options, SHORTCUTS),
    "weight_formats": _formats,
    "code_bits": _rising,
    "kept_words": _shares,
}
