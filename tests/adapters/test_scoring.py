from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from hedgebench.adapters.base import Continuation
from hedgebench.adapters.model_adapter import ModelAdapter
from hedgebench.adapters.scoring import Scorer, window_plan
from hedgebench.adapters.scratch.transformer import Transformer

Build = Callable[..., ModelAdapter[Transformer]]

CPU = torch.device("cpu")
VOCAB = 7
TABLE = torch.randn(VOCAB, VOCAB, generator=torch.Generator().manual_seed(0), dtype=torch.float64)


def running(tokens: Tensor, mask: Tensor | None = None) -> Tensor:
    """A causal model whose logits depend on every token since the window began, and on how many those are."""
    seen = TABLE[tokens].cumsum(1)
    return (seen * torch.arange(1, tokens.shape[1] + 1)[:, None] ** -0.3).float()


@dataclass(frozen=True)
class History:
    """A decode state that is the tokens read so far."""

    rows: list[list[int]]
    bytes: int = 0

    def select(self, rows: Tensor, room: int) -> History:
        del room
        return History([self.rows[row] for row in rows.tolist()])


def scorer(logits: Callable[[Tensor, Tensor | None], Tensor], length: int, pads: bool = True) -> Scorer:
    """A scorer of a model whose function for tokens after a state computes the whole sequence."""

    def read(tokens: Tensor, real: Tensor, state: History | None, wanted: Tensor) -> tuple[Tensor, History]:
        assert pads or real[:, 0].all()
        before = [[] for _ in tokens] if state is None else state.rows
        rows = [old + own[kept].tolist() for old, own, kept in zip(before, tokens, real, strict=True)]
        assert max(map(len, rows)) <= length
        wholes = [logits(torch.tensor([row]), None)[0] for row in rows]
        own = [whole[len(old) :] for whole, old in zip(wholes, before, strict=True)]
        return torch.cat([each[chosen[kept]] for each, chosen, kept in zip(own, wanted, real, strict=True)]), History(
            rows
        )

    return Scorer(logits, read, length, CPU, pads)  # type: ignore[arg-type]


def one_by_one(context: list[int], token: int) -> tuple[float, bool]:
    logits = running(torch.tensor([context]))[0, -1].log_softmax(-1)
    return float(logits[token]), int(logits.argmax()) == token


@settings(max_examples=80, deadline=None)
@given(st.integers(0, 60), st.integers(1, 20), st.data())
def test_every_token_is_scored_once_with_at_least_its_due_context(n: int, length: int, data: st.DataObject) -> None:
    stride = data.draw(st.integers(1, length))
    scored: list[int] = []
    for begin, end, first in window_plan(n, length, stride):
        assert 0 <= begin <= first < end <= n
        assert end - begin <= length
        assert begin == 0 or first - begin >= length - stride
        scored += range(first, end)
    assert scored == list(range(n))


@settings(max_examples=40, deadline=None)
@given(st.lists(st.integers(0, VOCAB - 1), max_size=25), st.integers(1, 9), st.integers(1, 4), st.data())
def test_rolling_scores_equal_a_loop_over_tokens(
    tokens: list[int], length: int, batch_size: int, data: st.DataObject
) -> None:
    stride = data.draw(st.one_of(st.none(), st.integers(1, length)))
    got = scorer(running, length).rolling_loglikelihood(tokens, prefix_token=3, stride=stride, batch_size=batch_size)
    stream, step = [3, *tokens], stride or length
    for i, token in enumerate(tokens):
        end = min(len(tokens), length if i < length else length + step * math.ceil((i + 1 - length) / step))
        assert got[i] == pytest.approx(one_by_one(stream[max(0, end - length) : i + 1], token)[0], abs=1e-5)
    assert len(got) == len(tokens)


def test_a_uniform_models_tokens_each_cost_the_logarithm_of_the_vocabulary() -> None:
    uniform = scorer(lambda tokens, mask: torch.zeros(*tokens.shape, VOCAB), 4)
    scores = uniform.rolling_loglikelihood([1] * 10, prefix_token=0, stride=2, batch_size=3)
    np.testing.assert_allclose(scores, -math.log(VOCAB), rtol=1e-6)


@pytest.mark.parametrize("stride", [0, 5])
def test_a_stride_that_would_skip_or_stand_still_is_refused(stride: int) -> None:
    with pytest.raises(ValueError, match=f"stride is {stride}; allowed: 1 to the context length 4"):
        scorer(running, 4).rolling_loglikelihood([1], prefix_token=0, stride=stride, batch_size=1)


token_lists = st.lists(st.integers(0, VOCAB - 1), min_size=1, max_size=6)


@settings(max_examples=40, deadline=None)
@given(
    st.lists(st.tuples(st.lists(st.integers(0, 6), min_size=1, max_size=15), token_lists), max_size=7),
    st.integers(1, 4),
    st.booleans(),
)
def test_continuations_score_as_a_loop_over_their_tokens_in_the_order_given(
    requests: list[tuple[list[int], list[int]]], batch_size: int, share: bool
) -> None:
    got = scorer(running, 8).loglikelihood(requests, batch_size, torch.float32, share_context=share)
    assert len(got) == len(requests)
    for (context, continuation), result in zip(requests, got, strict=True):
        window = (context + continuation)[-9:]
        start = len(window) - len(continuation)
        steps = [one_by_one(window[: start + i], token) for i, token in enumerate(continuation)]
        assert result.loglikelihood_nats == pytest.approx(sum(score for score, _ in steps), abs=1e-4)
        assert result.is_greedy == all(greedy for _, greedy in steps)


def test_the_most_likely_continuation_is_greedy_and_others_are_not() -> None:
    best = int(running(torch.tensor([[1, 2]]))[0, -1].argmax())
    requests = [([1, 2], [token]) for token in range(VOCAB)]
    got = scorer(running, 8).loglikelihood(requests, 3, torch.float32, share_context=True)
    assert [result.is_greedy for result in got] == [token == best for token in range(VOCAB)]
    assert sum(math.exp(result.loglikelihood_nats) for result in got) == pytest.approx(1.0, abs=1e-5)


def test_long_contexts_lose_their_left_end(build: Build) -> None:
    adapter = build()
    context = [i % 11 for i in range(40)]
    (long,), (short,) = (adapter.loglikelihood([(context[-n:], [1, 2])]) for n in (40, 15))
    assert long == short
    assert adapter.loglikelihood([(context[-14:], [1, 2])]) != [short]


def test_requests_of_many_lengths_score_alike_together_and_alone(build: Build) -> None:
    adapter = build("hedgehog")
    requests = [([1] * n, [2, n % 11]) for n in (3, 14, 1, 7, 2)]
    together = adapter.loglikelihood(requests, batch_size=2)
    alone = [adapter.loglikelihood([request])[0] for request in requests]
    expected = [pytest.approx(result.loglikelihood_nats, abs=1e-4) for result in alone]
    assert [result.loglikelihood_nats for result in together] == expected
    assert [result.is_greedy for result in together] == [result.is_greedy for result in alone]


def test_rolling_scores_of_a_model_are_those_of_its_logits(build: Build) -> None:
    adapter = build("elu")
    tokens = [i * i % 11 for i in range(16)]
    got = adapter.rolling_loglikelihood(tokens, prefix_token=0)
    logits = adapter.logits(torch.tensor([[0, *tokens[:-1]]]))[0].log_softmax(-1)
    np.testing.assert_allclose(got, logits[range(16), tokens].numpy(), atol=1e-5)
    assert len(adapter.rolling_loglikelihood([], prefix_token=0)) == 0


def test_no_requests_have_no_scores() -> None:
    nothing: list[Continuation] = []
    assert scorer(running, 8).loglikelihood([], 2, torch.float32, share_context=True) == nothing


@pytest.mark.parametrize("request_", [([], [1]), ([1], []), ([1], [1] * 9)])
def test_requests_that_cannot_be_scored_are_refused(request_: tuple[list[int], list[int]]) -> None:
    message = f"{len(request_[0])} context and {len(request_[1])} continuation tokens"
    with pytest.raises(ValueError, match=message):
        scorer(running, 8).loglikelihood([request_], 1, torch.float32, share_context=False)


def broken(tokens: Tensor, mask: Tensor | None = None) -> Tensor:
    """Logits that are not numbers after the token 5."""
    return running(tokens).masked_fill((tokens == 5).cumsum(1)[..., None] > 0, math.nan)


@pytest.mark.parametrize("share", [False, True])
def test_a_score_that_is_not_a_number_is_no_score(share: bool) -> None:
    """The largest of logits that are not numbers would be the first, and count as the answer."""
    requests = [([1, 2], [3]), ([1, 5], [3]), ([2, 5, 1], [0, 3])]
    scoring = scorer(broken, 8)
    with pytest.raises(FloatingPointError, match=r"2 of 3 requests .* not a number; the first is number 2"):
        scoring.loglikelihood(requests, 2, torch.float32, share_context=share)
    with pytest.raises(FloatingPointError, match=r"3 of 5 tokens .* not a number; the first is number 3"):
        scoring.rolling_loglikelihood([1, 5, 2, 3, 1], prefix_token=0, stride=None, batch_size=2)


def test_a_model_whose_logits_are_not_numbers_predicts_nothing(build: Build) -> None:
    adapter = build()
    adapter.model.norm.weight.data.fill_(math.nan)
    with pytest.raises(FloatingPointError, match=r"2 of 2 sequences .* not a number; the first is number 1"):
        adapter.logits(torch.ones(2, 3, dtype=torch.long))
