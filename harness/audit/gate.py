"""The gate before scoring: a converted or loaded model must give the same outputs on every path, or it is not scored."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any
from weakref import WeakKeyDictionary

from ...results.record import Metric
from ..cell import PlannedCell
from ..config import RunConfig
from ..recipes import RECIPES

if TYPE_CHECKING:
    from ...adapters.equivalence import Equivalence
    from ...adapters.model_adapter import ModelAdapter

_passed: WeakKeyDictionary[Any, Equivalence] = WeakKeyDictionary()
"""What was found for models that this process keeps for several cells, which nothing trains in between."""


def is_gated(planned: PlannedCell, config: RunConfig) -> bool:
    """Whether a cell's model is compared with itself first: one that was loaded or converted, unless a flag forbids it.

    Models that are trained from scratch as they are have no attention put in place of another.
    """
    is_converted = "swap" in RECIPES[planned.cell.recipe].stages
    return not config.no_gate and (planned.weights is not None or is_converted)


def gate(adapter: ModelAdapter[Any]) -> tuple[list[Metric], tuple[str, ...]]:
    """Compares the paths of a model.

    Returns:
        The largest difference of a path, relative to the spread of the outputs, where `n` is the number of paths; and
        what was not compared, in words.

    Raises:
        EquivalenceError: A path differs, or the decode state has another size than its formula.
    """
    from ...adapters.equivalence import compare_paths

    model = adapter.model
    found = _passed.get(model) or compare_paths(adapter)
    found.require()
    _passed[model] = found
    largest = max(found.differences.values(), default=0.0)
    metric = Metric("path_difference", largest, "1", None, None, len(found.differences))
    return [metric], found.notes
