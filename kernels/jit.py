"""The one way in which kernels are compiled: module level, cached on disk, without the interpreter lock.

With `NUMBA_DISABLE_JIT=1` the same functions run as plain Python on NumPy scalars, so that coverage sees them. They
therefore widen every narrow operand to int64 before arithmetic; the compiler narrows it again where it can.

Numba's disk cache notices a change of a kernel's own file only, not of a helper that it inlines from another file:
after editing a helper, delete `kernels/__pycache__`.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar, cast

import numba

Function = TypeVar("Function", bound=Callable[..., Any])


def jit(function: Function) -> Function:
    """`function` compiled at its first call for each combination of dtypes; indices are not checked."""
    return cast(Function, numba.njit(cache=True, nogil=True, error_model="numpy")(function))
