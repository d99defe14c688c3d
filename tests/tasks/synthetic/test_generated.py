"""Tests of tasks/synthetic/generated.py and tasks/synthetic/answers.py."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from hedgebench.adapters.base import Capability, Examples, ModelShape
from hedgebench.tasks.base import INPUT, Sources, Task
from hedgebench.tasks.settings import as_settings
from hedgebench.tasks.synthetic.answers import (
    doubling,
    interleaved_vectors,
    mean_over_settings,
    predicted_tokens,
    share,
)
from hedgebench.tasks.synthetic.generated import (
    GeneratedRows,
    GeneratedSettings,
    GeneratedTask,
    content_hash,
    draw_alike,
    draw_splits,
    gpt,
    scale,
)


@dataclass(frozen=True)
class Numbers(GeneratedRows):
    value: NDArray[np.int64]
    twice: NDArray[np.int64]


def drawing(below: int) -> Any:
    def draw(rng: np.random.Generator, rows: int) -> Numbers:
        value = rng.integers(below, size=rows)
        return Numbers(value, 2 * value)

    return draw


def splits(below: int, train: int = 5, seed: int = 0) -> dict[str, Numbers]:
    sizes = {"train": train, "validation": 5, "test": 5}
    return draw_splits({k: [(drawing(below), n)] for k, n in sizes.items()}, seed, lambda split: split.value)


def test_no_two_splits_share_anything_even_where_there_is_little_to_draw_from() -> None:
    found = splits(below=20, train=50)
    values = [set(split.value.tolist()) for split in found.values()]
    assert len(set.union(*values)) == sum(map(len, values))
    assert all((split.twice == 2 * split.value).all() for split in found.values())
    assert {name: len(split.value) for name, split in found.items()} == {"train": 50, "validation": 5, "test": 5}


def test_more_training_rows_leave_the_other_splits_alone_and_another_seed_does_not() -> None:
    few, many, other = splits(1000), splits(1000, train=300), splits(1000, seed=1)
    assert all((few[name].value == many[name].value).all() for name in ("test", "validation"))
    assert (few["test"].value != other["test"].value).any()


def test_too_few_different_sequences_are_refused_in_words() -> None:
    with pytest.raises(ValueError, match="lacks 5 of 5 sequences that are in no other split"):
        splits(below=1)


def test_parts_of_the_training_split_follow_each_other_and_those_of_the_test_split_take_turns() -> None:
    def counting(first: int) -> Any:
        return lambda rng, rows: Numbers(first + np.arange(rows), np.zeros(rows, np.int64))

    parts: dict[str, Any] = {
        "test": [(counting(0), 3), (counting(10), 1), (counting(20), 3)],
        "validation": [(counting(30), 1)],
        "train": [(counting(40), 3), (counting(50), 3)],
    }
    found = draw_splits(parts, 0, lambda split: split.value)
    assert found["train"].value.tolist() == [40, 41, 42, 50, 51, 52]
    assert found["test"].value.tolist() == [0, 10, 20, 1, 21, 2, 22]
    assert found["test"].take(slice(2)).value.tolist() == [0, 10]


def test_the_identity_follows_every_array_of_every_split() -> None:
    def fingerprint(value: int, twice: int) -> str:
        return content_hash({"test": Numbers(np.array([value]), np.array([twice]))})

    assert fingerprint(1, 2) == fingerprint(1, 2)
    assert len({fingerprint(1, 2), fingerprint(2, 2), fingerprint(1, 1)}) == 3


@given(st.lists(st.booleans(), min_size=2, max_size=50))
def test_a_share_of_single_answers_has_the_error_of_an_accuracy(right: list[bool]) -> None:
    from hedgebench.results.stats.statistics import accuracy_stderr

    metric = share("accuracy", right, [1] * len(right), True)
    assert metric.value == pytest.approx(sum(right) / len(right))
    assert metric.stderr == pytest.approx(accuracy_stderr(sum(right), len(right)), abs=1e-12)


@given(st.integers(2, 6), st.lists(st.booleans(), min_size=2, max_size=20))
def test_answers_that_are_alike_within_a_sequence_count_as_one(copies: int, right: list[bool]) -> None:
    single = share("accuracy", right, [1] * len(right), True)
    copied = share("accuracy", [copies * r for r in right], [copies] * len(right), True)
    assert copied.stderr == pytest.approx(single.stderr, abs=1e-12)
    assert copied.n == single.n == len(right)


def test_the_error_of_a_share_is_that_of_a_bootstrap_over_sequences() -> None:
    from hedgebench.results.stats.statistics import ratio_bootstrap

    rng = np.random.default_rng(0)
    of = rng.integers(1, 20, size=300)
    right = rng.binomial(of, rng.random(300))
    metric = share("accuracy", right.tolist(), of.tolist(), True)
    assert metric.stderr == pytest.approx(ratio_bootstrap(right, of, "ratio"), rel=0.05)


def test_sequences_without_answers_are_left_out_and_one_alone_has_no_error() -> None:
    metric = share("accuracy", [1, 0, 0], [2, 0, 0], None, {"k": 3})
    assert (metric.value, metric.stderr, metric.n, metric.at) == (0.5, None, 1, {"k": 3})


def test_settings_weigh_the_same_whatever_their_size() -> None:
    metrics = [share("a", [1] * 8 + [0] * 8, [1] * 16, True), share("a", [1, 1], [1, 1], True)]
    mean = mean_over_settings("accuracy", metrics)
    assert mean.value == 0.75
    assert mean.stderr == pytest.approx(math.sqrt(0.25 / 15) / 2)
    assert (mean.n, mean.higher_is_better) == (18, True)
    assert mean_over_settings("accuracy", [share("a", [1], [1], True)]).stderr is None


def test_an_answer_stands_after_its_input_and_the_last_one_nowhere() -> None:
    vectors = interleaved_vectors(np.arange(12).reshape(1, 3, 4), np.array([[-1, -2, -3]]))
    assert vectors[0].tolist() == [[0, 1, 2, 3], [-1, 0, 0, 0], [4, 5, 6, 7], [-2, 0, 0, 0], [8, 9, 10, 11]]


def test_curves_are_shown_at_doubling_places_and_the_last() -> None:
    assert [doubling(last) for last in (0, 1, 4, 7)] == [[0], [0, 1], [0, 1, 2, 4], [0, 1, 2, 4, 7]]


@dataclass(frozen=True)
class EchoSettings(GeneratedSettings):
    length: int = 6
    train_samples: int = 20
    validation_samples: int = 5
    test_samples: int = 7
    batch_size: int = 3


@dataclass(frozen=True)
class Echoes(GeneratedRows):
    tokens: NDArray[np.int32]


def draw_echoes(rng: np.random.Generator, rows: int, settings: EchoSettings) -> Echoes:
    return Echoes(rng.integers(9, size=(rows, settings.length), dtype=np.int32))


ECHO = GeneratedTask(
    name="echo",
    summary="repeat each token (accuracy)",
    citation="nobody",
    scales={"smoke": scale(EchoSettings(), {"steps": 10, "lr": 1e-3}, gpt(layers=1, heads=2, width=16, rope=True))},
    settings=EchoSettings,
    shape=lambda chosen: ModelShape(chosen.length, vocab_size=9),
    generate_splits=lambda chosen: draw_alike(draw_echoes, chosen, lambda split: split.tokens),
    to_examples=lambda split, _: Examples(split.tokens, split.tokens),
    answer=lambda adapter, split, chosen: {
        "right": (predicted_tokens(adapter, split.tokens, chosen.batch_size) == split.tokens).sum(1),
        INPUT: split.tokens,
    },
    measure=lambda rows, chosen: [share("accuracy", [row["right"] for row in rows], [chosen.length] * len(rows), True)],
    details=("length",),
)


def test_a_task_is_settings_a_generator_examples_answers_and_metrics(
    sources: Sources, window_model: Callable[..., Any]
) -> None:
    assert isinstance(ECHO, Task)
    assert ECHO.info.needs == {Capability.LANGUAGE_MODEL}
    assert ECHO.info.scales["smoke"].backbone == {
        "layers": 1, "heads": 2, "kv_heads": 2, "width": 16, "mlp_width": 64, "rope": True
    }  # fmt: skip
    settings = {**as_settings(EchoSettings()), "data_seed": 3}
    identity = ECHO.identify(settings, sources)
    assert (identity.id, identity.source, dict(identity.details)) == (
        "echo",
        "generated",
        {"data_seed": 3, "length": 6},
    )
    assert identity.splits == {"train": 20, "validation": 5, "test": 7}
    data = ECHO.load(settings, sources, limit=4)
    assert data.train is not None
    assert (len(data.train), len(data.test)) == (20, 4)
    _, adapter = window_model(9, 6, lambda context: np.eye(9)[context[-1]])
    rows = ECHO.predict(adapter, data, settings)
    assert rows[1] == {"sample": 1, "right": 6, INPUT: data.test.tokens[1].tolist()}
    (metric,) = ECHO.score(rows, settings)
    assert (metric.value, metric.n) == (1.0, 4)
