from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from hedgebench.adapters.base import ModelShape
from hedgebench.adapters.model_adapter import ModelAdapter
from hedgebench.adapters.precision import Precision
from hedgebench.adapters.pretrained.model import PretrainedModel
from hedgebench.adapters.scratch.transformer import Transformer
from hedgebench.adapters.shared_context import SHORTEST, beginnings

from .layer_names import OF_HEADS
from .swapped import swapped
from .test_scoring import VOCAB, running, scorer
from .tiny_models import DECODERS

Build = Callable[..., ModelAdapter[Transformer]]
Requests = list[tuple[list[int], list[int]]]

LENGTH = 48


def questions(seed: int = 0, vocab: int = 11) -> Requests:
    """Contexts of many lengths, each with answers of one to five tokens, and some requests that share nothing."""
    generator = torch.Generator().manual_seed(seed)

    def some(count: int) -> list[int]:
        return torch.randint(0, vocab, (count,), generator=generator).tolist()

    asked = []
    for length in (20, 9, 31, 20, 46):
        context = some(length)
        asked += [(context, some(answer)) for answer in (1, 3, 5, 1, 2)]
    return [*asked, (some(4), some(2)), (some(30), some(1)), *asked[:2]]


@pytest.mark.parametrize("spec", [*OF_HEADS, "hedgehog:window=4", "window:window=3"])
def test_every_mechanism_scores_as_without_sharing(build: Build, spec: str) -> None:
    adapter = build(spec, shape=ModelShape(context_length=LENGTH, vocab_size=11), rope=True, short_conv=3)
    assert_alike(adapter, questions(), batch_sizes=(3, 64))


@pytest.mark.parametrize("spec", ["softmax", "hedgehog", "hedgehog:window=4", "cosformer"])
@pytest.mark.parametrize("model_type", DECODERS)
def test_every_type_of_decoder_scores_as_without_sharing(model_type: str, spec: str) -> None:
    """The context length is the number of learned positions, which padding must not run over."""
    adapter: ModelAdapter[PretrainedModel] = adapter_of(model_type, spec)
    longest = adapter.shape.context_length
    edge = [([i % 200 for i in range(longest + shift)], [5] * n) for shift in (-9, -1, 3) for n in (1, 2, 9)]
    assert_alike(adapter, [*questions(vocab=200), *edge], batch_sizes=(1, 64))


def test_scores_are_those_of_float64_as_closely_as_without_sharing(build: Build) -> None:
    adapter = build("hedgehog", shape=ModelShape(context_length=LENGTH, vocab_size=11))
    asked = questions()
    single = [
        torch.tensor([score.loglikelihood_nats for score in adapter.loglikelihood(asked, 4, share_context=share)])
        for share in (False, True)
    ]
    adapter.model.double()
    exact = torch.tensor([score.loglikelihood_nats for score in adapter.loglikelihood(asked, 4)])
    apart, shared = (float((scores - exact).abs().max()) for scores in single)
    assert shared <= 4 * apart + 1e-6


def adapter_of(model_type: str, spec: str) -> ModelAdapter[PretrainedModel]:
    from hedgebench.adapters.backbone import DECODER

    model = swapped(model_type, spec)
    shape = ModelShape(context_length=64)
    return ModelAdapter(model, DECODER, shape, Precision.of("cpu", "float32"))


def assert_alike(
    adapter: ModelAdapter[Transformer] | ModelAdapter[PretrainedModel], asked: Requests, batch_sizes: tuple[int, ...]
) -> None:
    for batch_size in batch_sizes:
        apart = adapter.loglikelihood(asked, batch_size)
        shared = adapter.loglikelihood(asked, batch_size, share_context=True)
        expected = [pytest.approx(score.loglikelihood_nats, rel=1e-5) for score in apart]
        assert [score.loglikelihood_nats for score in shared] == expected
        assert [score.is_greedy for score in shared] == [score.is_greedy for score in apart]


tokens = st.lists(st.integers(0, 1), min_size=1, max_size=24)


@settings(max_examples=60, deadline=None)
@given(
    st.lists(st.tuples(tokens, st.lists(st.integers(0, 6), min_size=1, max_size=6)), max_size=8),
    st.integers(1, 3),
    st.booleans(),
)
def test_any_requests_score_as_without_sharing(asked: Requests, batch_size: int, pads: bool) -> None:
    asked += [(context, [2, *answer[:3]]) for context, answer in asked]
    scoring = scorer(running, 20, pads)
    apart, shared = (
        scoring.loglikelihood(asked, batch_size, torch.float32, share_context=share) for share in (False, True)
    )
    assert [s.loglikelihood_nats for s in shared] == [pytest.approx(a.loglikelihood_nats, abs=1e-4) for a in apart]
    assert [s.is_greedy for s in shared] == [a.is_greedy for a in apart]


def test_answers_to_one_question_read_it_once() -> None:
    question = tuple(range(SHORTEST))
    rows = {(*question, *answer): len(answer) + 1 for answer in ((1, 2), (1, 3), (4,), ())}
    (found,) = beginnings(rows)
    assert (found.length, set(found.rows)) == (SHORTEST, set(rows))


def test_rows_that_share_less_than_a_pass_costs_are_alone() -> None:
    question = tuple(range(SHORTEST - 1))
    assert [len(group.rows) for group in beginnings({(*question, 1, 2): 1, (*question, 3, 4): 1})] == [1, 1]


def test_questions_with_the_same_examples_read_those_once_and_questions_without_stay_apart() -> None:
    examples = tuple(range(100))
    together = beginnings({(*examples, *[7, i] * 5): 1 for i in range(5)})
    assert [(group.length, len(group.rows)) for group in together] == [(101, 5)]
    beginning = (*range(SHORTEST), *range(50, 90))
    other = (*range(SHORTEST), *range(10, 50))
    apart = beginnings({(*start, answer): 2 for start in (beginning, other) for answer in range(4)})
    assert [(group.length, len(group.rows)) for group in apart] == [(48, 4), (48, 4)]


def test_a_beginning_ends_where_scores_are_wanted() -> None:
    whole = tuple(range(30))
    (found,) = beginnings({(*whole, 1): 20, (*whole, 2): 3})
    assert found.length == 12


def test_a_shared_context_costs_its_tokens_once(build: Build, monkeypatch: pytest.MonkeyPatch) -> None:
    adapter = build(shape=ModelShape(context_length=LENGTH, vocab_size=VOCAB))
    read: list[int] = []
    predict = adapter.model.predictions

    def counted(tokens: torch.Tensor, *others: Any) -> Any:
        read.append(tokens.numel())
        return predict(tokens, *others)

    monkeypatch.setattr(adapter.model, "predictions", counted)
    context = [1, 2, 3] * 10
    adapter.loglikelihood([(context, [4, answer, 5]) for answer in range(4)], share_context=True)
    assert read == [30, 4 * 2]
