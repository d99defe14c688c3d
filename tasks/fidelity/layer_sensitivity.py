"""What each layer's attention costs: layers swapped one by one, their order, and quality against layers that stay.

The model is converted as a whole first, as its recipe says. Then softmax attention takes the place of its layers again,
with the present weights, for as long as one measurement lasts:

- in all layers, which is the reference;
- in all layers but one, for each layer: the loss of quality is that layer's cost;
- in the layers that cost most, one more each time, from none to all: the curve says how many layers a hybrid has to
  keep. `bench run --models hedgehog:keep=...` then measures such a hybrid in every task.

With `none` as the model, attention is dropped instead of replaced. Layers that the model's spec keeps are not swapped,
so they have no cost. Conversions end with distillation here unless `finetune.steps` asks for more: the weights are then
those of the softmax teacher.

The standard error of a cost is a jackknife over ten groups of rows, which pairs the rows of both measurements.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from ...adapters.base import Adapter, LayeredAdapter, Settings, UnsupportedError
from ...results.record import DataIdentity, Metric
from ..base import Row, Sources, Task, TaskData, TaskInfo, TaskScale
from ..classification import glue
from ..language import wikitext

# Modules are imported, not their tasks: a module that holds a task is part of the code that scores it.

SWAPPED = "swapped"
"""Key of a row that lists the layers without softmax attention."""

GROUPS = 10
"""Groups of rows that the jackknife leaves out, one at a time."""

_RECIPES = ("scratch-conversion", "pretrained-conversion", "finetuned-conversion", "zero-shot")


@dataclass(frozen=True)
class LayerSensitivity:
    """The task.

    Attributes:
        info: The declaration.
        task: The task that measures quality, and whose data the model is converted on.
    """

    info: TaskInfo
    task: Task

    def identify(self, settings: Settings, sources: Sources) -> DataIdentity:
        """The data of the task that measures quality; errors are that task's."""
        return self.task.identify(settings, sources)

    def load(self, settings: Settings, sources: Sources, limit: int | None = None) -> TaskData:
        """The data of the task that measures quality; errors are that task's."""
        return replace(self.task.load(settings, sources, limit), describes_state=False)

    def predict(self, adapter: Adapter, data: TaskData, settings: Settings) -> list[Row]:
        """The rows of the task, once for each choice of layers.

        Raises:
            UnsupportedError: No layer was swapped, or layers cannot be put back to softmax one by one.
        """
        if not isinstance(adapter, LayeredAdapter):
            raise UnsupportedError(f"{type(adapter).__name__} cannot put its layers back to softmax one by one")
        layers = adapter.swapped_layers
        if not layers:
            raise UnsupportedError("the model has no layer whose attention was swapped, so none has a cost")
        rows: dict[tuple[int, ...], list[Row]] = {}

        def measure(swapped: Sequence[int]) -> None:
            chosen = tuple(sorted(swapped))
            if chosen not in rows:
                with adapter.softmax_in([layer for layer in layers if layer not in chosen]):
                    found = self.task.predict(adapter, data, settings)
                rows[chosen] = [{**row, SWAPPED: list(chosen)} for row in found]

        for alone in ((), *((layer,) for layer in layers)):
            measure(alone)
        order = self._order(rows, settings)
        for kept in range(len(order)):
            measure(order[kept:])
        return [row for found in rows.values() for row in found]

    def score(self, rows: Sequence[Row], settings: Settings) -> list[Metric]:
        """The task's metrics with every layer swapped, each layer's cost and rank, and the curve."""
        found: dict[tuple[int, ...], list[Row]] = {}
        for row in rows:
            found.setdefault(tuple(row[SWAPPED]), []).append(row)
        every = max(found, key=len)
        order = self._order(found, settings)
        main = {swapped: self._main(of, settings) for swapped, of in found.items()}
        softmax = main[()]
        metrics = [
            *self.task.score(found[every], settings),
            replace(softmax, name=f"{softmax.name}_softmax", higher_is_better=None),
        ]
        for layer in every:
            cost = self._loss(main[(layer,)], softmax)
            stderr = self._stderr(found[(layer,)], found[()], settings)
            at = {"layer": layer}
            metrics += [
                Metric("layer_cost", cost, softmax.unit, False, stderr, softmax.n, at),
                Metric("layer_rank", order.index(layer) + 1, "1", None, None, softmax.n, at),
            ]
        curve = [(kept, main[tuple(sorted(order[kept:]))]) for kept in range(len(order) + 1)]
        return metrics + [
            replace(value, name=f"{value.name}_kept_layers", at={"kept_layers": kept}) for kept, value in curve
        ]

    def _order(self, rows: Mapping[tuple[int, ...], Sequence[Row]], settings: Settings) -> list[int]:
        """The layers, the costliest first; of equal ones the first."""
        softmax = self._main(rows[()], settings)
        alone = sorted(swapped[0] for swapped in rows if len(swapped) == 1)
        costs = {layer: self._loss(self._main(rows[(layer,)], settings), softmax) for layer in alone}
        return sorted(alone, key=lambda layer: -costs[layer])

    def _main(self, rows: Sequence[Row], settings: Settings) -> Metric:
        scored = self.task.score(rows, settings)
        return next(metric for metric in scored if metric.name == self.task.info.main_metric and not metric.at)

    def _loss(self, found: Metric, softmax: Metric) -> float:
        """By how much a value is worse than softmax's."""
        worse = (found.value or 0.0) - (softmax.value or 0.0)
        return -worse if found.higher_is_better else worse

    def _stderr(self, found: Sequence[Row], softmax: Sequence[Row], settings: Settings) -> float | None:
        """The jackknife's standard error of a cost; None for a single row."""
        groups = min(GROUPS, len(found))
        if groups < 2:
            return None
        costs = []
        for group in range(groups):
            left = [[row for i, row in enumerate(side) if i % groups != group] for side in (found, softmax)]
            costs.append(self._loss(*(self._main(side, settings) for side in left)))
        mean = math.fsum(costs) / groups
        return math.sqrt((groups - 1) / groups * math.fsum((cost - mean) ** 2 for cost in costs))


def _sensitivity(name: str, task: Task, summary: str, scales: Mapping[str, Settings]) -> LayerSensitivity:
    """The task on the data of another, with settings that replace that task's at each scale."""
    own = task.info
    info = replace(
        own,
        name=name,
        version=1,
        summary=f"What each layer's attention costs alone, and quality against layers that stay softmax: {summary}",
        citation=f"LoLCATs, arXiv 2410.10254, and layer-wise hybrids; {own.citation}",
        recipes=_RECIPES,
        scales={scale: _scale(own.scales[scale], changed) for scale, changed in scales.items()},
    )
    return LayerSensitivity(info, task)


def _scale(scale: TaskScale, changed: Settings) -> TaskScale:
    return replace(
        scale,
        settings={**scale.settings, **changed},
        stages={**scale.stages, "finetune": {"steps": 0, "epochs": 0.0}},
    )


LAYER_SENSITIVITY = _sensitivity(
    "layer_sensitivity",
    wikitext.WIKITEXT2,
    "perplexity on WikiText-2",
    {"smoke": {"test_bytes": 20_000}, "small": {"test_bytes": 100_000}, "paper": {}},
)

LAYER_SENSITIVITY_COLA = _sensitivity(
    "layer_sensitivity_cola", glue.COLA, "an encoder on CoLA", {"smoke": {}, "small": {}, "paper": {}}
)
