"""Exporters from an integer program to ONNX dialects, one file a dialect (no torch)."""

from __future__ import annotations

if __name__ != "lpgnas.export":  # another distribution owns the bare name: refuse a second copy
    raise ImportError(f"import this package as lpgnas.export, not as {__name__!r}")
