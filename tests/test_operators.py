"""The rows of the operators: every function is the textbook's, and no float64 argument overflows it."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import pytest

from lpgnas.operators import ACTIVATIONS

TEXTBOOK: dict[str, Callable[[float], float]] = {
    "tanh": math.tanh,
    "sigmoid": lambda x: 1.0 / (1.0 + math.exp(-x)),
    "softplus": lambda x: math.log(1.0 + math.exp(x)),
    "leaky_relu": lambda x: x if x >= 0.0 else x / 4.0,
    "elu": lambda x: x if x > 0.0 else math.exp(x) - 1.0,
}


def test_every_function_has_a_textbook_form() -> None:
    assert set(TEXTBOOK) == {name for name in ACTIVATIONS if ACTIVATIONS.get(name).function is not None}


@pytest.mark.parametrize("name", TEXTBOOK)
def test_functions_are_those_of_the_textbook(name: str) -> None:
    function = ACTIVATIONS.get(name).function
    assert function is not None
    x = np.linspace(-30.0, 30.0, 4001)
    expected = np.array([TEXTBOOK[name](float(value)) for value in x])
    assert np.allclose(function(x), expected, rtol=1e-12, atol=1e-13)
    assert ACTIVATIONS.get(name).signed == bool(expected.min() < 0.0)


@pytest.mark.parametrize("name", TEXTBOOK)
def test_the_largest_arguments_are_harmless(name: str) -> None:
    """Warnings are errors here, so that an overflow would be one."""
    function = ACTIVATIONS.get(name).function
    assert function is not None
    x = np.array([-1e308, -1e3, -0.0, 0.0, 1e3, 1e308])
    values = function(x)
    assert np.isfinite(values).all()
    assert (np.diff(values) >= 0.0).all()
