"""Full-precision references of a run: the GCN-16 on the same split, plain and distilled, tuned like ours."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from lpgnas.config import RunConfig
from lpgnas.graph import BoolArray, Graph
from lpgnas.graph_tensors import graph_tensors
from lpgnas.manual_models import ModelShape
from lpgnas.preparation import Prepared
from lpgnas.progress import Progress
from lpgnas.side_by_side import train_gcns
from lpgnas.strategy import Task, selection_score
from lpgnas.training import TrainedModel

KIPF_RATE = 0.01
"""Learning rate of Kipf & Welling (2017); a reference chooses between it and that of the run."""
HIDDEN = 16


def reference_trainings(config: RunConfig) -> int:
    """How many models `measure_references` trains."""
    kinds = 2 if config.distillation else 1
    return kinds * len(_rates(config)) * config.reference_seeds


def _rates(config: RunConfig) -> list[float]:
    return sorted({KIPF_RATE, config.learning_rate})


def measure_references(
    config: RunConfig,
    prepared: Prepared,
    task: Task,
    teacher: Tensor | None,
    *,
    row_normalize: bool,
    input_signed: bool,
    progress: Progress,
) -> dict[str, dict[str, float]]:
    """Test accuracy of each reference over `config.reference_seeds` initial weights.

    The learning rate is Kipf & Welling's or that of the run, whichever does better on the selection nodes with the
    first seed; its model is the first of those that are tested.

    Args:
        config: seeds, and whether there is a distilled reference.
        prepared: the graph and its split; without test nodes there is nothing to measure.
        task: data, selection nodes and training settings, without a teacher.
        teacher: soft labels [N, C] for the distilled reference, or None.
        row_normalize: as searched models have it.
        input_signed: likewise.
        progress: advanced once a training.
    """
    graph, test = prepared.graph, prepared.split.test
    if not test.any() or not config.reference_seeds:
        return {}
    shape = ModelShape(graph.num_features, graph.num_classes, row_normalize=row_normalize, input_signed=input_signed)
    rates, seeds = _rates(config), range(config.reference_seeds)
    members = [(replace(task.settings, learning_rate=rate), seed) for rate in rates for seed in seeds]
    kinds = {"gcn16_fp32": None} | ({"gcn16_fp32_distilled": teacher} if teacher is not None else {})
    results = {}
    for kind, soft in kinds.items():
        trained = train_gcns(shape, HIDDEN, task.data, members, teacher=soft)
        progress.advance(len(members))
        by_rate = {rate: trained[first * len(seeds) :][: len(seeds)] for first, rate in enumerate(rates)}
        scores = {rate: selection_score(models[0], task) for rate, models in by_rate.items()}
        rate = min(rates, key=lambda tried: (-scores[tried].accuracy, scores[tried].loss))
        values = [_test_accuracy(one, prepared) for one in by_rate[rate]]
        results[kind] = {
            "test_mean": float(np.mean(values)),
            "test_std": float(np.std(values, ddof=1)) if len(values) > 1 else 0.0,
            "seeds": len(values),
            "learning_rate": rate,
        }
    return results


def _test_accuracy(trained: TrainedModel, prepared: Prepared) -> float:
    model, graph = trained.model, prepared.graph
    tensors = graph_tensors(graph, None, model.spec.rounding, row_normalize=model.spec.row_normalize)
    with torch.no_grad():
        classes = model(tensors).argmax(dim=1).numpy()
    return node_accuracy(classes, graph, prepared.split.test) or 0.0


def node_accuracy(classes: Any, graph: Graph, mask: BoolArray) -> float | None:  # noqa: ANN401 - [N] integers
    """Share of right classes on the nodes of `mask`; None where there are none."""
    return float((classes[mask] == graph.y[mask]).mean()) if graph.y is not None and mask.any() else None
