"""Tests of tasks/synthetic/regular_languages.py and tasks/synthetic/automata.py."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from hedgebench.adapters.base import ModelShape
from hedgebench.tasks.base import Row, Sources, Task, TaskData
from hedgebench.tasks.settings import as_settings
from hedgebench.tasks.synthetic.automata import LanguagePrompts, LanguageSettings, generate, true_distribution
from hedgebench.tasks.synthetic.regular_languages import (
    REGULAR_LANGUAGES,
    generate_splits,
    ngram_distribution,
    to_examples,
)

TINY = LanguageSettings(
    symbols=5,
    least_alphabet=2,
    least_states=2,
    most_states=4,
    most_edges=3,
    most_length=4,
    length=20,
    train_samples=20,
    validation_samples=5,
    test_samples=12,
    batch_size=5,
)
SEPARATOR = 5


def edges_of(prompts: LanguagePrompts, row: int, state: int) -> dict[int, int]:
    """Where each symbol leads from a state."""
    count = int(prompts.edges[row, state])
    symbols, targets = prompts.symbol[row, state, :count].tolist(), prompts.target[row, state, :count].tolist()
    assert len(set(symbols)) == count
    return dict(zip(symbols, targets, strict=True))


def allowed(prompts: LanguagePrompts, row: int, context: list[int]) -> dict[int, int]:
    """The edges that may come next, found by following the string from its start."""
    state = 0
    for token in context[len(context) - context[::-1].index(SEPARATOR) :]:
        state = edges_of(prompts, row, state)[token]
    return edges_of(prompts, row, state)


def rows_of_oracles(prompts: LanguagePrompts, build: Callable[..., Any], separator: float) -> list[Row]:
    """What is predicted when each prompt's model is its own automaton.

    Args:
        prompts: The prompts.
        build: Builds a fake model.
        separator: Log-probability that each of them gives the separator, beside 0 for all that is allowed.
    """
    rows = []
    for row in range(len(prompts)):

        def log_probs(context: list[int], row: int = row) -> NDArray[np.float64]:
            scores = np.full(6, -1e9)
            scores[list(allowed(prompts, row, context))] = 0.0
            scores[SEPARATOR] = separator
            return scores

        _, adapter = build(6, 19, log_probs)
        data = TaskData(ModelShape(19, 6), test=prompts.take(slice(row, row + 1)))
        rows += REGULAR_LANGUAGES.predict(adapter, data, as_settings(TINY))
    return rows


def test_it_is_a_task() -> None:
    assert isinstance(REGULAR_LANGUAGES, Task)


@settings(max_examples=20, deadline=None)
@given(st.integers(1, 6), st.integers(1, 5), st.integers(1, 7), st.integers(0, 100))
def test_every_string_is_one_of_the_automaton(states: int, edges: int, longest: int, seed: int) -> None:
    chosen = replace(TINY, least_states=1, most_states=states, most_edges=edges, most_length=longest)
    prompts = generate(np.random.default_rng(seed), 8, chosen)
    for row, tokens in enumerate(prompts.tokens.tolist()):
        assert tokens[0] == SEPARATOR
        run = 0
        for i in range(1, len(tokens)):
            run = 0 if tokens[i] == SEPARATOR else run + 1
            assert run <= longest
            assert tokens[i] == SEPARATOR or tokens[i] in allowed(prompts, row, tokens[:i])
            assert not tokens[i - 1] == tokens[i] == SEPARATOR


def test_automata_stay_within_their_states_and_alphabets() -> None:
    prompts = generate(np.random.default_rng(0), 400, TINY)
    for row in range(400):
        states = int((prompts.edges[row] > 0).sum())
        assert 2 <= states <= 4
        edges = [edges_of(prompts, row, state) for state in range(states)]
        assert all(target < states for each in edges for target in each.values())
    assert set(np.unique(prompts.edges).tolist()) == {0, 1, 2, 3}
    assert set((prompts.edges > 0).sum(1).tolist()) == {2, 3, 4}


def test_the_truth_is_uniform_over_the_edges_of_the_state() -> None:
    prompts = generate(np.random.default_rng(3), 10, TINY)
    truth = true_distribution(prompts, TINY.symbols)
    for row, tokens in enumerate(prompts.tokens.tolist()):
        for i in range(len(tokens) - 1):
            edges = allowed(prompts, row, tokens[: i + 1])
            assert truth[row, i].tolist() == pytest.approx([1 / len(edges) if s in edges else 0.0 for s in range(5)])


def test_symbols_come_as_often_as_the_truth_says() -> None:
    prompts = generate(np.random.default_rng(0), 2_000, TINY)
    following = prompts.tokens[:, 1:]
    is_symbol = following != SEPARATOR
    chance = np.take_along_axis(true_distribution(prompts, 5), np.where(is_symbol, following, 0)[..., None], -1)[..., 0]
    expected = np.square(true_distribution(prompts, 5)).sum(-1)  # of the chance of what is drawn
    assert chance[is_symbol].mean() == pytest.approx(expected[is_symbol].mean(), rel=0.01)


def test_ngrams_are_those_of_a_count_over_the_prompt_so_far() -> None:
    prompts = generate(np.random.default_rng(5), 6, replace(TINY, length=40))
    found = ngram_distribution(prompts.tokens, SEPARATOR)
    for row, tokens in enumerate(prompts.tokens.tolist()):
        for i in range(len(tokens) - 1):
            counts: Counter[int] = Counter()
            for size in (2, 1, 0):
                here = string_end(tokens[: i + 1], size)
                if size <= len(here) or here[:1] == [SEPARATOR]:
                    counts = Counter(
                        tokens[j + 1]
                        for j in range(i)
                        if tokens[j + 1] != SEPARATOR and string_end(tokens[: j + 1], size) == here
                    )
                if counts:
                    break
            total = sum(counts.values())
            expected = [counts[s] / total if total else 1 / 5 for s in range(5)]
            np.testing.assert_allclose(found[row, i], expected, rtol=1e-6)


def string_end(tokens: list[int], size: int) -> list[int]:
    """The last tokens, cut before the last separator among them."""
    last = tokens[len(tokens) - min(size, len(tokens)) :]
    return last[len(last) - 1 - last[::-1].index(SEPARATOR) :] if SEPARATOR in last else last


def test_the_automaton_itself_is_always_legal_and_at_distance_zero(
    sources: Sources, window_model: Callable[..., Any]
) -> None:
    data = REGULAR_LANGUAGES.load(as_settings(TINY), sources)
    rows = rows_of_oracles(data.test, window_model, separator=-1e9)
    metrics = REGULAR_LANGUAGES.score(rows, as_settings(TINY))
    by_name = {m.name: m for m in metrics if not m.at}
    assert by_name["accuracy"].value == 1.0
    assert by_name["total_variation"].value == pytest.approx(0, abs=1e-6)
    assert by_name["accuracy"].n == 12
    assert 0.2 < (by_name["ngram_accuracy"].value or 0) < 1.0
    assert (by_name["ngram_total_variation"].value or 0) > 0.05
    assert sum(sum(row["model"]["symbols"]) for row in rows) == int((data.test.tokens[:, 1:] != SEPARATOR).sum())
    assert all(m.value == 1.0 for m in metrics if m.name == "accuracy_after")


def test_the_separator_does_not_count_as_an_answer(sources: Sources, window_model: Callable[..., Any]) -> None:
    data = REGULAR_LANGUAGES.load(as_settings(TINY), sources)
    rows = rows_of_oracles(data.test, window_model, separator=5.0)
    metrics = {m.name: m.value for m in REGULAR_LANGUAGES.score(rows, as_settings(TINY)) if not m.at}
    assert metrics["accuracy"] == 1.0
    assert metrics["total_variation"] == pytest.approx(0, abs=1e-6)


def test_a_uniform_model_has_the_distance_of_a_uniform_distribution(
    sources: Sources, window_model: Callable[..., Any]
) -> None:
    data = REGULAR_LANGUAGES.load(as_settings(TINY), sources)
    _, adapter = window_model(6, 19)
    rows = REGULAR_LANGUAGES.predict(adapter, data, as_settings(TINY))
    metrics = {m.name: m.value for m in REGULAR_LANGUAGES.score(rows, as_settings(TINY)) if not m.at}
    edges = (true_distribution(data.test, 5) > 0).sum(-1)[data.test.tokens[:, 1:] != SEPARATOR]
    assert metrics["total_variation"] == pytest.approx(float((1 - edges / 5).mean()), abs=1e-6)


def test_splits_share_no_automaton_and_a_limit_keeps_the_first_rows(sources: Sources) -> None:
    found = generate_splits(TINY)
    automata = [{(*map(bytes, row),) for row in zip(s.symbol, s.target, s.edges, strict=True)} for s in found.values()]
    assert len(set.union(*automata)) == sum(map(len, automata))
    data = REGULAR_LANGUAGES.load(as_settings(TINY), sources, limit=3)
    assert (data.test.tokens == found["test"].tokens[:3]).all()
    assert (data.shape.context_length, data.shape.vocab_size) == (19, 6)
    examples = to_examples(found["train"])
    assert (examples.targets[:, :-1] == examples.inputs[:, 1:]).all()


def test_the_fingerprint_follows_the_data(sources: Sources) -> None:
    found = [REGULAR_LANGUAGES.identify(as_settings(replace(TINY, data_seed=s)), sources) for s in (0, 0, 1)]
    assert found[0].fingerprint == found[1].fingerprint != found[2].fingerprint


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"least_alphabet": 6}, "least_alphabet is 6; allowed: 1 to 5"),
        ({"least_states": 5}, "least_states is 5; allowed: 1 to 4"),
        ({"most_edges": 0}, "most_edges is 0; allowed: 1 to 5"),
        ({"length": 2}, "length is 2; allowed: 3 or more"),
    ],
)
def test_impossible_settings_are_refused(wrong: dict[str, Any], message: str, sources: Sources) -> None:
    with pytest.raises(ValueError, match=message):
        REGULAR_LANGUAGES.identify({**as_settings(TINY), **wrong}, sources)
