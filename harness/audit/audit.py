"""The audit of a converted model: its score with parts of its attention taken away, and what its scores can show."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from ...adapters.base import Capability
from ...results.audit import LINEAR_EXPOSURE
from ...results.record import Metric
from ...tasks.base import TaskInfo

if TYPE_CHECKING:
    from ...adapters.audit.exposure import Exposure
    from ...adapters.model_adapter import ModelAdapter


def control_scores(
    adapter: ModelAdapter[Any], info: TaskInfo, measured: Callable[[], Sequence[Metric]]
) -> Iterator[Metric]:
    """The main metric under each control, which ends its name; none of a model that was not converted.

    A task that measures the weights of attention has none: in its place a control would be measured.

    Args:
        adapter: The model.
        info: The declaration of the task.
        measured: Predicts and scores with the model as it is when called.

    Returns:
        Metrics with the status `error` stand for controls under which the model gives numbers that are none.
    """
    from ...adapters.audit.controls import attending, controls_of

    if Capability.ATTENTION_WEIGHTS in info.needs:
        return
    for control in controls_of(adapter):
        try:
            with attending(adapter, control):
                scored = [metric for metric in measured() if metric.name == info.main_metric]
        except FloatingPointError:
            scored = [Metric(info.main_metric, None, "1", None, None, 0, status="error")]
        yield from (replace(metric, name=f"{metric.name}_{control}") for metric in scored)


@contextmanager
def exposure_of(adapter: ModelAdapter[Any]) -> Iterator[Exposure | None]:
    """Counts how many of the tokens that a hybrid scores lie beyond its window; None for other models."""
    from ...adapters.audit.controls import hybrids
    from ...adapters.audit.exposure import metered

    if not (found := hybrids(adapter)):
        yield None
        return
    with metered(adapter, max(hybrid.window for hybrid in found)) as exposure:
        yield exposure


def exposure_metrics(exposure: Exposure | None) -> tuple[list[Metric], list[str]]:
    """The share of scored tokens whose context is longer than the window, and a note if it rests on an assumption."""
    if exposure is None or exposure.share is None:
        return [], []
    note = (
        "linear exposure counts every position of the inputs: the task reads logits itself, and may score some of them "
        "alone"
    )
    metric = Metric(LINEAR_EXPOSURE, exposure.share, "1", None, None, exposure.scored)
    return [metric], [note] if exposure.assumed else []
