"""Tests of tasks/synthetic/maze.py."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from hedgebench.adapters.base import IGNORED
from hedgebench.tasks.base import Sources, Task
from hedgebench.tasks.settings import as_settings
from hedgebench.tasks.synthetic.lattice import passages
from hedgebench.tasks.synthetic.maze import (
    MARKS,
    MAZE,
    MazeSettings,
    generate,
    generate_splits,
    random_walk_chance,
    to_examples,
)

TINY = MazeSettings(side=3, train_samples=30, validation_samples=10, test_samples=12, batch_size=5)
CELLS, VOCAB = 9, 9 + len(MARKS)
MARK = {name: CELLS + i for i, name in enumerate(MARKS)}


def listed_passages(tokens: list[int]) -> list[tuple[int, int]]:
    """The passages that a sequence names, checked against its grammar."""
    assert tokens[0] == MARK["<adjlist>"]
    end = tokens.index(MARK["</adjlist>"])
    found = []
    for i in range(1, end, 4):
        left, joint, right, stop = tokens[i : i + 4]
        assert (joint, stop) == (MARK["<-->"], MARK[";"])
        found.append((left, right))
    return found


def ends(tokens: list[int]) -> tuple[int, int]:
    """Origin and target that a sequence names."""
    start = tokens.index(MARK["</adjlist>"])
    opened, origin, closed, then, target, last, path = tokens[start + 1 : start + 8]
    assert [opened, closed] == [MARK["<origin>"], MARK["</origin>"]]
    assert [then, last, path] == [MARK["<target>"], MARK["</target>"], MARK["<path>"]]
    return origin, target


def solve(context: list[int]) -> NDArray[np.float64]:
    """The next token of the path, from the sequence alone: the walk that does not lead into a dead end."""
    scores = np.zeros(VOCAB)
    if MARK["<path>"] in context:
        origin, target = ends(context)
        walked = context[context.index(MARK["<path>"]) + 1 :]
        path = walk(listed_passages(context), [origin], target) or []
        scores[[*path, MARK["</path>"]][len(walked)] if len(walked) <= len(path) else 0] = 1.0
    return scores


def walk(joined: list[tuple[int, int]], path: list[int], target: int) -> list[int] | None:
    if path[-1] == target:
        return path
    near = [b if a == path[-1] else a for a, b in joined if path[-1] in (a, b)]
    found = (walk(joined, [*path, cell], target) for cell in near if cell not in path)
    return next(filter(None, found), None)


def test_it_is_a_task() -> None:
    assert isinstance(MAZE, Task)


def test_a_sequence_lists_every_passage_once_and_then_both_ends_and_the_path() -> None:
    mazes = generate(np.random.default_rng(0), 50, TINY)
    for tokens, length, joined in zip(mazes.tokens.tolist(), mazes.path_lengths, passages(mazes.parent), strict=True):
        listed = listed_passages(tokens)
        assert len(listed) == len({frozenset(pair) for pair in listed}) == CELLS - 1
        assert all(joined[pair] for pair in listed)
        path = tokens[TINY.prompt_length : TINY.prompt_length + length]
        assert tokens[TINY.prompt_length - 1] == MARK["<path>"]
        assert (path[0], path[-1]) == ends(tokens)
        assert path[0] != path[-1]
        assert len(set(path)) == len(path)
        assert all(joined[step] for step in pairwise(path))
        assert tokens[TINY.prompt_length + length] == MARK["</path>"]
        assert not any(tokens[TINY.prompt_length + length + 1 :])


def test_passages_stand_in_any_order_and_direction() -> None:
    mazes = generate(np.random.default_rng(0), 400, TINY)
    first = [tuple(tokens[1:4:2]) for tokens in mazes.tokens.tolist()]
    assert len(set(first)) == 24  # twelve places for a passage, two directions
    assert np.mean([a < b for a, b in first]) == pytest.approx(0.5, abs=0.08)


def test_a_model_that_solves_mazes_is_always_right(sources: Sources, window_model: Callable[..., Any]) -> None:
    data = MAZE.load(as_settings(TINY), sources)
    _, adapter = window_model(VOCAB, TINY.longest - 1, solve)
    rows = MAZE.predict(adapter, data, as_settings(TINY))
    metrics = {metric.name: metric for metric in MAZE.score(rows, as_settings(TINY))}
    assert metrics["accuracy"].value == metrics["token_accuracy"].value == 1.0
    assert metrics["accuracy"].n == 12
    assert 0 < (metrics["random_walk_accuracy"].value or 0) < 1


def test_one_wrong_token_makes_a_path_wrong() -> None:
    rows = [
        {"answers": [1, 2, 3], "predictions": [1, 2, 3], "chance": 0.5},
        {"answers": [1, 2], "predictions": [1, 0], "chance": 0.0},
    ]
    metrics = {metric.name: metric.value for metric in MAZE.score(rows, as_settings(TINY))}
    assert metrics == {"accuracy": 0.5, "token_accuracy": 0.8, "random_walk_accuracy": 0.25}


def test_the_chance_of_a_random_walk_is_one_over_its_choices() -> None:
    mazes = generate(np.random.default_rng(0), 30, TINY)
    joined = passages(mazes.parent)
    for row, chance in enumerate(random_walk_chance(mazes)):
        path = mazes.tokens[row, TINY.prompt_length :][: mazes.path_lengths[row]].tolist()
        choices = [int(joined[row, cell].sum()) - (i > 0) for i, cell in enumerate(path[:-1])]
        assert chance == pytest.approx(1 / np.prod(choices))


def test_loss_is_taken_on_the_path_and_its_end() -> None:
    mazes = generate_splits(TINY)["train"]
    examples = to_examples(mazes, TINY)
    taken = examples.targets != IGNORED
    assert (taken.sum(1) == mazes.path_lengths + 1).all()
    assert (examples.targets[taken] == mazes.tokens[:, 1:][taken]).all()
    assert (examples.inputs[np.arange(30), taken.argmax(1)] == MARK["<path>"]).all()
    assert examples.attention_mask is not None
    assert (examples.attention_mask.sum(1) == TINY.prompt_length + mazes.path_lengths).all()


def test_splits_share_no_maze_and_a_limit_keeps_the_first_rows(sources: Sources) -> None:
    found = generate_splits(TINY)
    mazes = [{joined.tobytes() for joined in passages(split.parent)} for split in found.values()]
    assert len(set.union(*mazes)) == sum(map(len, mazes))
    data = MAZE.load(as_settings(TINY), sources, limit=3)
    assert (data.test.tokens == found["test"].tokens[:3]).all()
    assert (data.shape.context_length, data.shape.vocab_size) == (TINY.longest - 1, VOCAB)


def test_the_fingerprint_follows_the_data(sources: Sources) -> None:
    found = [MAZE.identify(as_settings(replace(TINY, data_seed=seed)), sources).fingerprint for seed in (0, 0, 1)]
    assert found[0] == found[1] != found[2]


def test_impossible_settings_are_refused(sources: Sources) -> None:
    with pytest.raises(ValueError, match="side is 1; allowed: 2 or more"):
        MAZE.identify({"side": 1}, sources)
    with pytest.raises(ValueError, match="sequences that are in no other split"):
        MAZE.identify({**as_settings(TINY), "side": 2, "train_samples": 5}, sources)
