"""Linear exposure of a hybrid's scores: the share of scored tokens whose context is longer than its window.

Where a context fits the window, a hybrid is softmax attention, and its score says nothing of linear attention.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import wraps
from typing import Any

from torch import Tensor

from ..model_adapter import ModelAdapter
from ..scoring import window_plan


@dataclass
class Exposure:
    """Counts of scored tokens.

    Attributes:
        window: Tokens that the window holds, the last one read included.
        scored: Tokens that were scored or generated.
        beyond: Those among them that were predicted from more tokens than the window holds.
        assumed: Whether a task read logits itself, so that every position counts, scored or not.
    """

    window: int
    scored: int = 0
    beyond: int = 0
    assumed: bool = False

    @property
    def share(self) -> float | None:
        """The share beyond the window; None if nothing was scored."""
        return self.beyond / self.scored if self.scored else None

    def count(self, read: int, tokens: int) -> None:
        """Counts neighbouring tokens, the first of which is predicted from `read` tokens."""
        self.scored += tokens
        self.beyond += max(0, min(tokens, read + tokens - 1 - self.window))


@contextmanager
def metered(adapter: ModelAdapter[Any], window: int) -> Iterator[Exposure]:
    """Counts the tokens that the adapter scores and generates while the block lasts; it gives what it gave.

    Args:
        adapter: The adapter, whose methods are wrapped.
        window: Tokens that a hybrid's window holds.
    """
    found, length = Exposure(window), adapter.shape.context_length
    plain = {name: getattr(adapter, name) for name in ("loglikelihood", "rolling_loglikelihood", "generate", "logits")}

    @wraps(plain["loglikelihood"])
    def loglikelihood(requests: Sequence[tuple[Sequence[int], Sequence[int]]], *args: Any, **options: Any) -> Any:
        for context, continuation in requests:
            read = min(len(context) + len(continuation) - 1, length)
            found.count(read - len(continuation) + 1, len(continuation))
        return plain["loglikelihood"](requests, *args, **options)

    @wraps(plain["rolling_loglikelihood"])
    def rolling_loglikelihood(tokens: Sequence[int], *, stride: int | None = None, **options: Any) -> Any:
        for begin, end, scored_from in window_plan(len(tokens), length, stride or length):
            found.count(scored_from - begin + 1, end - scored_from)
        return plain["rolling_loglikelihood"](tokens, stride=stride, **options)

    @wraps(plain["generate"])
    def generate(input_ids: Tensor, attention_mask: Tensor | None = None, **options: Any) -> Any:
        made = plain["generate"](input_ids, attention_mask, **options)
        prompts = [input_ids.shape[1]] * len(input_ids) if attention_mask is None else attention_mask.sum(1).tolist()
        for read in prompts:
            found.count(int(read), made.shape[1])
        return made

    @wraps(plain["logits"])
    def logits(input_ids: Tensor, attention_mask: Tensor | None = None) -> Any:
        rows = [input_ids.shape[1]] * len(input_ids) if attention_mask is None else attention_mask.sum(1).tolist()
        for read in rows:
            found.count(1, int(read))
        found.assumed = True
        return plain["logits"](input_ids, attention_mask)

    wrapped = (loglikelihood, rolling_loglikelihood, generate, logits)
    for name, method in zip(plain, wrapped, strict=True):
        setattr(adapter, name, method)
    try:
        yield found
    finally:
        for name in plain:
            delattr(adapter, name)
