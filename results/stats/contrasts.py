"""Contrasts of models' metrics, which claims are about: differences, scores in percent of softmax's, gaps closed."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import combinations


class UndefinedContrastError(ValueError):
    """A contrast has no meaning: a metric is not finite, or the denominator is not positive."""


@dataclass(frozen=True)
class Contrast:
    """What a claim is about, from models' metrics.

    Attributes:
        name: Such as `hedgehog over elu`.
        top: Weights by model of a sum of metrics.
        bottom: Weights by model of the sum that it is divided by; empty: by 1.
    """

    name: str
    top: Mapping[str, float]
    bottom: Mapping[str, float] = field(default_factory=dict)

    def of(self, values: Mapping[str, float]) -> float:
        """The contrast of single values by model.

        Raises:
            UndefinedContrastError: The denominator is not positive.
        """
        top, bottom = (sum(weight * values[m] for m, weight in side.items()) for side in (self.top, self.bottom))
        return top / self.denominator(bottom)

    def denominator(self, bottom: float) -> float:
        """What the numerator is divided by: the sum over `bottom`, or 1.

        Raises:
            UndefinedContrastError: It is not positive.
        """
        if not self.bottom:
            return 1.0
        if not 0 < bottom < math.inf:
            raise UndefinedContrastError(f"{self.name}: the denominator is {bottom:.4g}; it must be above 0")
        return bottom


def difference(model: str, base: str, higher_is_better: bool) -> Contrast:
    """How much better a model is than another, in the metric's unit."""
    sign = 1.0 if higher_is_better else -1.0
    return Contrast(f"{model} over {base}", {model: sign, base: -sign})


def recovered(model: str, softmax: str, higher_is_better: bool) -> Contrast:
    """A model's score in percent of softmax's, above 100 if it is better; over several tasks a ratio of sums."""
    top, bottom = (model, softmax) if higher_is_better else (softmax, model)
    return Contrast(f"{model} in percent of {softmax}", {top: 100.0}, {bottom: 1.0})


def gap_closed(model: str, base: str, softmax: str, higher_is_better: bool) -> Contrast:
    """How much of the gap from a base model to softmax a model closes, in percent."""
    sign = 1.0 if higher_is_better else -1.0
    top, bottom = {model: 100 * sign, base: -100 * sign}, {softmax: sign, base: -sign}
    return Contrast(f"gap from {base} to {softmax} closed by {model}", top, bottom)


def ordered(models: Sequence[str], higher_is_better: bool) -> tuple[Contrast, ...]:
    """The differences of each model, best first, to each one after it: an order holds if all are above 0."""
    return tuple(difference(better, worse, higher_is_better) for better, worse in combinations(models, 2))
