"""Scores that need no learning, and metrics whose percentage of another score has no meaning."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass

from ..record import Record

_LEVELS = {
    "chance": ("accuracy", "chance"),
    "chance_in_context": ("accuracy", "chance in context"),
    "random_walk_accuracy": ("accuracy", "random walk"),
    "majority_accuracy": ("accuracy", "majority class"),
    "constant_accuracy": ("accuracy", "one answer to all"),
    "constant_f1": ("f1", "always class 1"),
    "unigram_perplexity": ("perplexity", "unigram"),
    "zero_squared_error": ("squared_error", "always 0"),
}
"""Metrics that state a score without learning: the prefix of the metrics that it is compared with, and its name."""

_LOW_IS_GOOD = ("perplexity", "squared_error")

_SIGNED = re.compile(r"matthews|pearson|spearman|kendall|kappa|(^|_)r2|r_squared")


def is_signed(metric: str) -> bool:
    """Whether a metric can be 0 or negative, as correlations are: its ratio to another value has no meaning."""
    return bool(_SIGNED.search(metric))


@dataclass(frozen=True)
class ChanceLevel:
    """A score without learning.

    Attributes:
        name: How it is reached, such as `chance` or `majority class`.
        value: The score.
    """

    name: str
    value: float


def chance_level(metric: str, records: Iterable[Record]) -> ChanceLevel | None:
    """The best score without learning among those of the first record that has any.

    Returns:
        The score; 0 for correlations, None if no record has one.
    """
    if is_signed(metric):
        return ChanceLevel("chance", 0.0)
    for record in records:
        stated = [
            ChanceLevel(name, m.value)
            for m in record.metrics
            for begins, name in [_LEVELS.get(m.name, ("", ""))]
            if begins and metric.startswith(begins) and not m.at and m.value is not None
        ]
        if stated:
            best = min if metric.startswith(_LOW_IS_GOOD) else max
            return best(stated, key=lambda level: level.value)
    return None
