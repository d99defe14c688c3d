"""Collapse of answers: a model that gives the same choice whatever the question, told from the rows of lm-eval's tasks.

A converted model may answer every question with one letter, and its accuracy is then the share of questions for which
that letter is right.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from ...results.record import Metric
from ...results.stats.statistics import accuracy_stderr

COLLAPSED = 0.9
"""Share of answers at one place from which a note says that answers collapse."""


def answer_collapse(rows: Sequence[Mapping[str, Any]]) -> tuple[list[Metric], list[str]]:
    """How often the answer is the choice at the most frequent place, and how often that is right.

    Args:
        rows: Predictions; those that hold the log-likelihoods of two choices or more, and the right one's place, count.

    Returns:
        `top_choice_share` and `top_choice_target_share`, and a note if nearly all answers are at one place and far
        fewer are right there; nothing for other tasks.
    """
    answered = [(choice, int(row["target"])) for row in rows if (choice := _choice(row)) is not None]
    if not answered:
        return [], []
    n = len(answered)
    (place, count), *_ = Counter(choice for choice, _ in answered).most_common()
    right = sum(target == place for _, target in answered)
    metrics = [
        Metric("top_choice_share", count / n, "1", None, accuracy_stderr(count, n), n),
        Metric("top_choice_target_share", right / n, "1", None, accuracy_stderr(right, n), n),
    ]
    note = (
        f"answers collapse: {count / n:.0%} of {n} answers are choice {place + 1}, which is right for {right / n:.0%} "
        "of the questions"
    )
    return metrics, [note] if count / n >= COLLAPSED and right / n < COLLAPSED - 0.2 else []


def _choice(row: Mapping[str, Any]) -> int | None:
    """The place of the likeliest choice; None for a row of another kind."""
    responses, target = row.get("responses"), row.get("target")
    if not isinstance(responses, list) or len(responses) < 2 or not isinstance(target, int | str):
        return None
    likely = [_likelihood(each) for each in responses]
    if any(each is None for each in likely) or not str(target).isdecimal() or int(target) >= len(likely):
        return None
    return max(range(len(likely)), key=lambda i: likely[i] or 0.0)


def _likelihood(response: Any) -> float | None:
    """The log-likelihood in a response, below however many lists."""
    while isinstance(response, list) and response:
        response = response[0]
    try:
        return float(str(response))
    except ValueError:
        return None
