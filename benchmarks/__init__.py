"""Measured comparisons; see docs."""
