"""lpgnas: search, train and deploy low-precision graph neural networks, bit-true from PyTorch to ONNX.

`search`, `run`, `sweep`, `space` and `open_run` are the command line as Python calls; see `lpgnas.api`. The
package imports lazily: a machine without torch can run, check and export an integer program.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from lpgnas.api import RunResult, SweepResult, open_run, run, search, space, sweep
    from lpgnas.budget import Budget
    from lpgnas.fixed_point import fixed_point_checks
    from lpgnas.graph import Graph

__all__ = [
    "Budget",
    "Graph",
    "RunResult",
    "SweepResult",
    "__version__",
    "fixed_point_checks",
    "open_run",
    "run",
    "search",
    "space",
    "sweep",
]
__version__ = "0.1.0"

_HOMES = {
    "Budget": "lpgnas.budget",
    "Graph": "lpgnas.graph",
    "RunResult": "lpgnas.api",
    "SweepResult": "lpgnas.api",
    "fixed_point_checks": "lpgnas.fixed_point",
    "open_run": "lpgnas.api",
    "run": "lpgnas.api",
    "search": "lpgnas.api",
    "space": "lpgnas.api",
    "sweep": "lpgnas.api",
}


def __getattr__(name: str) -> object:
    if name not in _HOMES:
        raise AttributeError(f"module 'lpgnas' has no attribute {name!r}")
    return getattr(importlib.import_module(_HOMES[name]), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
