"""Tasks on long windows of a corpus: hidden facts, perplexity by position, and recall of what the text has said."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest

from hedgebench.adapters.base import Adapter, Continuation, Settings
from hedgebench.tasks.base import Sources
from hedgebench.tasks.language.by_position import BY_POSITION, doubling_ends
from hedgebench.tasks.language.hidden_facts import NEEDLE, PASSKEY
from hedgebench.tasks.language.text_recall import TEXT_RECALL, recall_distances
from hedgebench.tasks.language.wikitext import REPO

SHARED: Settings = {"tokenizer": "byte", "context_length": 16, "train_bytes": None, "test_bytes": None}
HIDDEN: Settings = {
    **SHARED,
    "lengths": (150, 250),
    "depths": 3,
    "samples": 2,
    "facts": 1,
    "batch_size": 4,
    "data_seed": 0,
}
WINDOWS: Settings = {**SHARED, "test_length": 64, "batch_size": 1}


@pytest.fixture
def corpus(sources: Sources, write_split: Callable[..., Path]) -> Sources:
    """Four articles of words that are drawn at random, in each split."""
    rng = np.random.default_rng(0)
    for split in ("train", "validation", "test"):
        texts = [" ".join("".join(rng.choice(list("abcdefgh"), 4)) for _ in range(100)) for _ in range(4)]
        rows = [row for text in texts for row in ("", " = A = \n", "", f" {text} \n")]
        write_split(REPO, "wikitext-2-v1", split, rows)
    return sources


class Reader:
    """Finds the last sentence of the prompt's form in what it can see, and answers with its word."""

    def __init__(self, sees: int) -> None:
        self.sees = sees

    def loglikelihood(
        self, requests: Sequence[tuple[Sequence[int], Sequence[int]]], batch_size: int, *, share_context: bool
    ) -> list[Continuation]:
        del batch_size, share_context
        return [self._score(bytes(i for i in prompt if i < 256).decode(), bytes(answer).decode())
                for prompt, answer in requests]  # fmt: skip

    def _score(self, prompt: str, answer: str) -> Continuation:
        question = prompt.rpartition("\n")[2]
        found = prompt[: -len(question)][-self.sees :].rpartition(question)[2].strip().partition(".")[0]
        is_right = bool(found) and found == answer.strip()
        return Continuation(-0.5 if is_right else -9.0, is_right)


@pytest.mark.parametrize("task", [PASSKEY, NEEDLE])
def test_facts_are_told_by_a_model_that_sees_them(task: Any, corpus: Sources) -> None:
    settings = {**HIDDEN, "facts": 1 if task is PASSKEY else 3}
    data = task.load(settings, corpus)
    assert [len(each.prompt) for each in data.test] == [150] * 3 + [250] * 3 + [150] * 3 + [250] * 3
    assert [each.depth for each in data.test[:3]] == [0.0, 0.5, 1.0]
    assert data.shape.context_length >= 250
    rows = task.predict(cast(Adapter, Reader(sees=1000)), data, settings)
    metrics = {(m.name, *m.at.values()): m for m in task.score(rows, settings)}
    assert metrics["accuracy",].value == metrics["length_accuracy", 250].value == 1.0
    assert metrics["depth_accuracy", 0.5].n == 4
    assert metrics["answer_nats", 150].value == 0.5
    if task is NEEDLE:
        assert metrics["choice_accuracy",].value == metrics["length_choice_accuracy", 150].value == 1.0
        assert metrics["chance",].value == pytest.approx(1 / 3)
    else:
        assert not [name for name, *_ in metrics if name == "chance" or name.endswith("choice_accuracy")]


def test_a_model_with_a_window_tells_only_what_stands_near_the_end(corpus: Sources) -> None:
    data = PASSKEY.load(HIDDEN, corpus)
    rows = PASSKEY.predict(cast(Adapter, Reader(sees=100)), data, HIDDEN)
    metrics = {(m.name, *m.at.values()): m.value for m in PASSKEY.score(rows, HIDDEN)}
    assert metrics["depth_accuracy", 0.0] == 0.0
    assert metrics["depth_accuracy", 1.0] == 1.0
    for each, row in zip(data.test, rows, strict=True):
        text = bytes(i for i in each.prompt.tolist() if i < 256).decode()
        told = f"The pass key is {each.texts[0]}. Remember it: {each.texts[0]} is the pass key.\n"
        assert row["distance"] == len(text) - text.index(told) - len(told)
        assert row["correct"] == (row["distance"] < 60)


def test_a_prompt_without_room_for_its_fact_is_refused(corpus: Sources) -> None:
    with pytest.raises(ValueError, match=r"a prompt of 40 tokens needs .* set lengths from") as short:
        PASSKEY.load({**HIDDEN, "lengths": (40,)}, corpus)
    least, most = map(int, str(short.value).rpartition("set lengths from ")[2].split(" to "))
    for length in (least, most):
        assert [len(each.prompt) for each in PASSKEY.load({**HIDDEN, "lengths": (length,)}, corpus, limit=1).test] == [
            length
        ]
    for length in (least - 1, most + 1):
        with pytest.raises(ValueError, match=f"set lengths from {least} to {most}"):
            PASSKEY.load({**HIDDEN, "lengths": (length,)}, corpus, limit=1)


def test_prompts_do_not_depend_on_the_limit(corpus: Sources) -> None:
    whole, part = PASSKEY.load(HIDDEN, corpus).test, PASSKEY.load(HIDDEN, corpus, limit=4).test
    assert [each.texts for each in part] == [each.texts for each in whole[:4]]


def test_perplexity_is_told_at_each_position(corpus: Sources, window_model: Callable[..., Any]) -> None:
    """A model that is certain of nothing beyond the trained length of 16 tokens, and of half the bytes within it."""

    def log_probs(context: list[int]) -> Any:
        nats = math.log(2) if len(context) <= 16 else math.log(8)
        return np.full(257, -nats)

    data = BY_POSITION.load(WINDOWS, corpus)
    model, adapter = window_model(257, 64, log_probs)
    rows = BY_POSITION.predict(adapter, data, WINDOWS)
    metrics = {(m.name, *m.at.values()): m.value for m in BY_POSITION.score(rows, WINDOWS)}
    assert metrics["perplexity",] == pytest.approx(2)
    assert metrics["perplexity_beyond",] == pytest.approx(8)
    curve = {at[0]: value for (name, *at), value in metrics.items() if name == "position_perplexity"}
    assert curve == pytest.approx({16: 2.0, 32: 8.0, 64: 8.0})
    assert {len(window) for window in model.scored} == {64}
    assert data.train is not None
    assert data.train.inputs.shape[1] == 16


@pytest.mark.parametrize(("length", "ends"), [(16, [16]), (40, [16, 32, 40]), (64, [16, 32, 64])])
def test_the_points_of_a_curve_double(length: int, ends: list[int]) -> None:
    assert doubling_ends(length) == ends


def test_a_recalled_token_completes_a_pair_that_stood_before() -> None:
    tokens = np.array([1, 2, 3, 1, 2, 4, 1, 2, 3], np.int32)
    none = np.empty(0, np.int64)
    assert recall_distances(tokens, none).tolist() == [0, 0, 0, 0, 3, 0, 0, 3, 6]
    frequent = np.array([(1 << 32) | 2], np.int64)
    assert recall_distances(tokens, frequent).tolist() == [0, 0, 0, 0, 0, 0, 0, 0, 6]


def test_a_model_that_copies_is_told_from_one_that_cannot(corpus: Sources, window_model: Callable[..., Any]) -> None:
    def copy(context: list[int]) -> Any:
        """All of the probability but a little for what followed the last byte when it came before."""
        earlier = [i for i, byte in enumerate(context[:-1]) if byte == context[-1]]
        scores = np.full(257, math.log(0.1 / 257))
        if earlier:
            scores[context[earlier[-1] + 1]] = math.log(0.9)
        return scores

    settings = {**WINDOWS, "most_per_million": 1e6}
    data = TEXT_RECALL.load(settings, corpus, limit=3)
    found = {}
    for name, log_probs in {"copies": copy, "uniform": None}.items():
        _, adapter = window_model(257, 64, log_probs)
        rows = TEXT_RECALL.predict(adapter, data, settings)
        found[name] = {(m.name, *m.at.values()): m.value for m in TEXT_RECALL.score(rows, settings)}
    assert found["uniform"]["recall_perplexity",] == pytest.approx(257)
    assert found["uniform"]["distance_perplexity", 8] == pytest.approx(257)
    assert (found["copies"]["recall_perplexity",] or 0) < 0.5 * (found["copies"]["other_perplexity",] or 0)
    assert 0 < (found["copies"]["recalled_share",] or 0) < 1


def test_a_window_that_recalls_nothing_has_no_part_in_the_perplexity(
    corpus: Sources, window_model: Callable[..., Any]
) -> None:
    settings = {**WINDOWS, "most_per_million": 1e6}
    _, adapter = window_model(257, 64, None)
    rows = TEXT_RECALL.predict(adapter, TEXT_RECALL.load(settings, corpus, limit=3), settings)
    none = [0] * len(rows[0]["ends"])
    empty = {"tokens": 0, "nll_nats": 0.0, "tokens_by_distance": none, "nll_nats_by_distance": none}
    recall, *_ = TEXT_RECALL.score([*rows, {**rows[0], **empty}], settings)
    assert (recall.name, recall.n) == ("recall_perplexity", len(rows))
    assert recall.value == pytest.approx(257)


def test_windows_longer_than_the_text_are_refused(corpus: Sources) -> None:
    with pytest.raises(ValueError, match="test_length is 100000; allowed: at most"):
        BY_POSITION.load({**WINDOWS, "test_length": 100_000}, corpus)
