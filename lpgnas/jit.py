"""The one way in which kernels are compiled: module level, cached on disk, without the interpreter lock.

Numba is imported when a kernel runs for the first time, so that a module with a kernel costs nothing to import.

With `NUMBA_DISABLE_JIT=1` the same functions run as plain Python on NumPy scalars, so that coverage sees them. They
therefore widen every narrow operand to int64 before arithmetic; the compiler narrows it again where it can.

Numba's disk cache notices a change of a kernel's own file only, not of a helper that it inlines from another file:
after editing or moving a helper, delete the `__pycache__` beside its callers.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cached_property, update_wrapper
from typing import Any, TypeVar, cast

Function = TypeVar("Function", bound=Callable[..., Any])


class _Kernel:
    """A function that is compiled at its first call, or when a kernel that calls it is compiled."""

    def __init__(self, function: Callable[..., Any]) -> None:
        self._function = function
        update_wrapper(self, function)

    @cached_property
    def _compiled(self) -> Callable[..., Any]:
        import numba

        compiled: Callable[..., Any] = numba.njit(cache=True, nogil=True, error_model="numpy")(self._function)
        return compiled

    def __call__(self, *arguments: Any) -> Any:  # noqa: ANN401 - whatever the function takes and gives
        return self._compiled(*arguments)

    @property
    def _numba_type_(self) -> Any:  # noqa: ANN401 - a type of Numba's, by which it knows what a global name calls
        return self._compiled._numba_type_  # type: ignore[attr-defined]


def jit(function: Function) -> Function:
    """`function` compiled at its first call for each combination of dtypes; indices are not checked."""
    return cast(Function, _Kernel(function))


class _Lowered:
    """A Python function that compiled kernels replace by code of its own."""

    def __init__(self, function: Callable[..., Any], make_intrinsic: Callable[[], Any]) -> None:
        self._function, self._make_intrinsic = function, make_intrinsic

    def __call__(self, *arguments: Any) -> Any:  # noqa: ANN401 - only with NUMBA_DISABLE_JIT
        return self._function(*arguments)

    @cached_property
    def _numba_type_(self) -> Any:  # noqa: ANN401 - by which Numba knows what a global name calls
        from numba.core.registry import cpu_target

        intrinsic = self._make_intrinsic()
        cpu_target.typing_context.refresh()  # the intrinsic was registered a moment ago
        return cpu_target.typing_context.resolve_value_type(intrinsic)


def lowered(make_intrinsic: Callable[[], Any]) -> Callable[[Function], Function]:
    """Marks a function for other kernels, which compiled ones replace by the intrinsic that `make_intrinsic` gives."""

    def mark(function: Function) -> Function:
        return cast(Function, _Lowered(function, make_intrinsic))

    return mark
