"""Log-likelihoods of texts from a function that computes next-token logits."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby, islice

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from numpy.typing import NDArray
from torch import Tensor

from .base import Continuation
from .shared_context import Read, Row, SharedReader, in_batches

Logits = Callable[[Int[Tensor, "b n"], Tensor | None], Float[Tensor, "b n v"]]
"""Computes next-token logits from token ids and an attention mask."""


@dataclass(frozen=True)
class Scorer:
    """Computes log-likelihoods with a language model.

    Attributes:
        logits: The model's function for next-token logits.
        read: The model's function for the logits of tokens that follow those in a state.
        context_length: Longest input in tokens.
        device: Device of the inputs.
        pads: Whether the model takes padding.
    """

    logits: Logits
    read: Read
    context_length: int
    device: torch.device
    pads: bool = True

    def loglikelihood(
        self,
        requests: Sequence[tuple[Sequence[int], Sequence[int]]],
        batch_size: int,
        dtype: torch.dtype,
        *,
        share_context: bool,
    ) -> list[Continuation]:
        """Scores of continuations, in the order given; contexts are cut on the left to fit.

        Rows of a batch are padded on the right, where a causal model does not look. The longest requests run first, and
        requests of one length in the order of their tokens, as in lm-eval's own models. So batches, and with them
        rounding, are those of lm-eval and do not depend on the order of the requests. Requests that differ only in
        their last token, such as one-token answers to one question, share a row.

        Args:
            requests: Token ids of (context, continuation) pairs.
            batch_size: Rows in a batch.
            dtype: Type of log-probabilities. As in lm-eval's models, float32 is summed in float64, and other types in
                their own type.
            share_context: Read what contexts have in common once. Batches are then others than those of lm-eval.

        Raises:
            FloatingPointError: A log-probability is NaN.
            ValueError: An empty context or continuation, or a continuation longer than the context length.
        """
        for context, continuation in requests:
            if not context or not continuation or len(continuation) > self.context_length:
                raise ValueError(
                    f"a request has {len(context)} context and {len(continuation)} continuation tokens; "
                    f"allowed: at least 1 of each, and a continuation of at most {self.context_length}"
                )
        tokens = [[*context, *continuation][-(self.context_length + 1) :] for context, continuation in requests]
        sharing: dict[Row, list[int]] = {}
        for index, whole in enumerate(tokens):
            sharing.setdefault(tuple(whole[:-1]), []).append(index)
        scored = {row: max(len(requests[index][1]) for index in indices) for row, indices in sharing.items()}
        if share_context:
            predictions = SharedReader(self.read, self.device, self.pads).predictions(scored, batch_size)
        else:
            leading = {row: max(same, key=lambda index: len(requests[index][1])) for row, same in sharing.items()}
            order = sorted(sharing, key=lambda row: (-len(row), tokens[leading[row]]))
            predictions = self._whole_rows(order, batch_size)
        scores: dict[int, Continuation] = {}
        for row, predicted in predictions:
            for index in sharing[row]:
                scores[index] = _continuation(predicted.to(dtype), requests[index][1])
        in_order = [scores[i] for i in range(len(requests))]
        _refuse_nan(np.array([score.loglikelihood_nats for score in in_order]), "requests")
        return in_order

    def _whole_rows(self, rows: Sequence[Row], batch_size: int) -> Iterator[tuple[Row, Float[Tensor, "n v"]]]:
        """Each row with its logits, in batches of consecutive rows."""
        for batch in in_batches(rows, batch_size):
            inputs = torch.zeros(len(batch), len(batch[0]), dtype=torch.long, device=self.device)
            for place, row in enumerate(batch):
                inputs[place, : len(row)] = torch.as_tensor(row, device=self.device)
            for predicted, row in zip(self.logits(inputs, None), batch, strict=True):
                yield row, predicted[: len(row)]

    def rolling_loglikelihood(
        self, tokens: Sequence[int], *, prefix_token: int, stride: int | None, batch_size: int
    ) -> NDArray[np.float64]:
        """Log-probability in nats of every token, each scored once, in windows that advance by `stride`.

        Args:
            tokens: Token ids.
            prefix_token: Token before the first one; it is not scored.
            stride: Tokens between windows; None for the context length, so that windows do not overlap.
            batch_size: Windows in a batch.

        Raises:
            FloatingPointError: A log-probability is NaN.
            ValueError: A stride outside 1 to the context length.
        """
        stride = self.context_length if stride is None else stride
        if not 1 <= stride <= self.context_length:
            raise ValueError(f"stride is {stride}; allowed: 1 to the context length {self.context_length}")
        stream = np.concatenate([[prefix_token], np.asarray(tokens, dtype=np.int64)])
        scores = np.empty(len(tokens))
        for windows in _batched(window_plan(len(tokens), self.context_length, stride), batch_size):
            width = windows[0][1] - windows[0][0]
            starts = np.array([begin for begin, _, _ in windows])
            inputs = torch.as_tensor(stream[starts[:, None] + np.arange(width)], device=self.device)
            targets = torch.as_tensor(stream[starts[:, None] + np.arange(1, width + 1)], device=self.device)
            predicted = _chosen_logprobs(self.logits(inputs, None), targets).cpu().numpy()
            for row, (begin, end, scored_from) in enumerate(windows):
                scores[scored_from:end] = predicted[row, scored_from - begin :]
        _refuse_nan(scores, "tokens")
        return scores


def _continuation(predicted: Float[Tensor, "n v"], tokens: Sequence[int]) -> Continuation:
    """The score of `tokens`, whose logits are the last rows of `predicted`."""
    rows = predicted[len(predicted) - len(tokens) :].log_softmax(-1)
    targets = torch.as_tensor(list(tokens), device=rows.device)
    chosen = rows.gather(1, targets[:, None])
    summed = (chosen.double() if chosen.dtype == torch.float32 else chosen).sum()
    return Continuation(float(summed), bool((rows.argmax(-1) == targets).all()))


def window_plan(tokens: int, context_length: int, stride: int) -> Iterator[tuple[int, int, int]]:
    """Windows (begin, end, first scored) over `tokens` targets.

    The inputs of a window are the tokens before its targets begin to end - 1; targets before `first scored` were scored
    by an earlier window.
    """
    scored = 0
    while scored < tokens:
        end = min(tokens, context_length if scored == 0 else scored + stride)
        yield max(0, end - context_length), end, scored
        scored = end


def _refuse_nan(scores: NDArray[np.float64], what: str) -> None:
    """Refuses scores that are NaN, which comparisons of scores would take for a largest or smallest one.

    Raises:
        FloatingPointError: A score is NaN.
    """
    broken = np.flatnonzero(np.isnan(scores))
    if len(broken):
        raise FloatingPointError(
            f"the model gives {len(broken)} of {len(scores)} {what} a log-probability that is not a number; "
            f"the first is number {broken[0] + 1}"
        )


def _chosen_logprobs(logits: Float[Tensor, "b n v"], targets: Int[Tensor, "b n"]) -> Float[Tensor, "b n"]:
    """Log-probabilities of the targets, row by row: the log-softmax of a batch takes as much memory as its logits."""
    rows = zip(logits, targets, strict=True)
    return -torch.stack([F.cross_entropy(row, chosen, reduction="none") for row, chosen in rows])


def _batched(windows: Iterable[tuple[int, int, int]], size: int) -> Iterator[tuple[tuple[int, int, int], ...]]:
    """Batches of consecutive windows of one width."""
    for _, alike in groupby(windows, lambda window: window[1] - window[0]):
        while batch := tuple(islice(alike, size)):
            yield batch
