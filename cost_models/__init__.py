"""Cost models: weight, buffer and peak size, MACs and BOPs, from a spec or from a program (no torch)."""

from __future__ import annotations

if __name__ != "lpgnas.cost_models":  # another distribution owns the bare name: refuse a second copy
    raise ImportError(f"import this package as lpgnas.cost_models, not as {__name__!r}")
