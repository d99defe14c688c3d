"""What a record says of how far a model's attention is from softmax attention, before and after distillation."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ...results.record import CurvePoint, Metric
from .artifacts import Outcome

if TYPE_CHECKING:
    import numpy as np
    from jaxtyping import Float


def divergence(batches: Float[np.ndarray, "batches layers h"], when: str, step: int) -> Outcome:
    """KL divergence of the rows of linear attention from those of softmax attention, given the same queries and keys.

    The metric is the mean over layers, heads and queries, in nats, its standard error that over batches of validation
    rows. Layers and heads are points of a curve, so that they can be plotted.

    Args:
        batches: Divergence of each batch of validation rows, layer and head, in nats.
        when: `swapped` or `distilled`; part of the metric's name.
        step: Steps of distillation taken.
    """
    means = batches.mean((1, 2))
    stderr = float(means.std(ddof=1) / len(means) ** 0.5) if len(means) > 1 else None
    metric = Metric(f"attention_kl_{when}", float(means.mean()), "nats", False, stderr, len(means))
    points = [
        CurvePoint(step, "validation", f"attention_kl/layer {layer}/head {head}", float(value))
        for layer, heads in enumerate(batches.mean(0))
        for head, value in enumerate(heads)
    ]
    return Outcome(tuple(points), (metric,))
