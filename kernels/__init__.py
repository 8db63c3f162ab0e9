"""Numba integer kernels, the NumPy reference and the executor of integer programs (no torch).

`docs/kernels.md` lists the entry points that check what they are given, and their errors; all else is for their use.
"""

from __future__ import annotations

if __name__ != "lpgnas.kernels":  # another distribution owns the bare name: refuse a second copy
    raise ImportError(f"import this package as lpgnas.kernels, not as {__name__!r}")
