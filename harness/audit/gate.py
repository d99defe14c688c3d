"""The gate before scoring: a converted or loaded model gives the same outputs on every path, or it is not scored."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any
from weakref import WeakKeyDictionary

from ...results.record import Metric
from ..cell import PlannedCell
from ..config import RunConfig
from ..recipes import RECIPES

if TYPE_CHECKING:
    from ...adapters.audit.equivalence import Equivalence
    from ...adapters.model_adapter import ModelAdapter

_passed: WeakKeyDictionary[Any, Equivalence] = WeakKeyDictionary()
"""What was found for models that this process keeps for several cells, which nothing trains in between."""


def is_taken_over(planned: PlannedCell) -> bool:
    """Whether a cell's model was loaded or converted; others are trained from scratch with the attention they have."""
    return planned.weights is not None or "swap" in RECIPES[planned.cell.recipe].stages


def is_gated(planned: PlannedCell, config: RunConfig) -> bool:
    """Whether a cell's model is compared with itself first: a loaded or converted one, unless a flag forbids it."""
    return not config.no_gate and is_taken_over(planned)


def gate(adapter: ModelAdapter[Any]) -> tuple[list[Metric], tuple[str, ...]]:
    """Compares the paths of a model.

    Returns:
        The largest difference of a path, relative to the spread of the outputs, where `n` is the number of paths; and
        what was not compared, in words.

    Raises:
        EquivalenceError: A path differs, or the decode state has another size than its formula.
    """
    from ...adapters.audit.equivalence import compare_paths

    model = adapter.model
    found = _passed.get(model) or compare_paths(adapter)
    found.require()
    _passed[model] = found
    largest = max(found.differences.values(), default=0.0)
    metric = Metric("path_difference", largest, "1", None, None, len(found.differences))
    return [metric], found.notes
