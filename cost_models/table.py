"""Costs of many specs as one array, for a search."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from lpgnas.cost_models.rows import TOTALS, GraphSize
from lpgnas.cost_models.spec_cost import spec_cost
from lpgnas.errors import UnknownName
from lpgnas.spec import ModelSpec


def cost_table(specs: Sequence[ModelSpec], size: GraphSize, columns: Sequence[str] = TOTALS) -> npt.NDArray[np.float64]:
    """Totals of each spec on one graph.

    Args:
        specs: n specs.
        size: the graph.
        columns: k names of `rows.TOTALS`.

    Returns:
        float64 [n, k], exact below 2^53; softmax tables are counted at their largest.

    Raises:
        UnknownName: a column that is no total, or an operator without a cost.
    """
    for name in columns:
        if name not in TOTALS:
            raise UnknownName("cost", name, TOTALS)
    table = np.empty((len(specs), len(columns)), dtype=np.float64)
    for row, spec in zip(table, specs, strict=True):
        report = spec_cost(spec, size)
        row[:] = [getattr(report, name) for name in columns]
    return table
