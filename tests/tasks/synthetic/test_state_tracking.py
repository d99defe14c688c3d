from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from hedgebench.tasks.base import Sources
from hedgebench.tasks.settings import as_settings
from hedgebench.tasks.synthetic.state_tracking import (
    STATE_TRACKING,
    StateTrackingSettings,
    generate_splits,
    permutations,
    product_table,
)

TINY = StateTrackingSettings(length=6, test_length=10, train_samples=20, validation_samples=5, test_samples=7)


@pytest.mark.parametrize(("group", "order"), [("S3", 6), ("S5", 120)])
def test_the_table_is_that_of_a_group(group: str, order: int) -> None:
    table = product_table(group)
    elements = np.arange(order)
    assert (table[0] == elements).all()
    assert (table[:, 0] == elements).all()  # the identity
    assert all((np.sort(line) == elements).all() for line in (*table, *table.T))
    assert (table != table.T).any()
    some = np.random.default_rng(0).integers(order, size=(3, 200))
    assert (table[table[some[0], some[1]], some[2]] == table[some[0], table[some[1], some[2]]]).all()


def test_a_product_is_one_permutation_after_the_other() -> None:
    elements = permutations("S3")
    swap, turn = elements.index((1, 0, 2)), elements.index((1, 2, 0))
    # The first thing goes to place 1 by the swap, and from there to place 2 by the turn.
    assert elements[product_table("S3")[swap, turn]] == (2, 1, 0)


@pytest.mark.parametrize("group", ["S3", "S5"])
def test_states_are_the_products_so_far_and_splits_share_no_beginning(group: str) -> None:
    splits, table = generate_splits(replace(TINY, group=group)), product_table(group)
    for name, split in splits.items():
        assert split.elements.shape[1] == (10 if name == "test" else 6)
        states = split.elements[:, 0]
        for place in range(1, split.elements.shape[1]):
            states = table[states, split.elements[:, place]]
            assert (states == split.states[:, place]).all()
    beginnings = [{tuple(row) for row in split.elements[:, :6].tolist()} for split in splits.values()]
    assert len(set.union(*beginnings)) == sum(map(len, beginnings))


def test_a_model_that_tracks_the_state_until_it_loses_it_is_told_where(
    sources: Sources, window_model: Callable[..., Any]
) -> None:
    """It is right for eight elements, and answers with the identity from then on."""
    table = product_table("S3")

    def track(context: list[int]) -> Any:
        state = context[0]
        for element in context[1:]:
            state = table[state, element]
        scores = np.zeros(6)
        scores[state if len(context) <= 8 else 0] = 1.0
        return scores

    data = STATE_TRACKING.load(as_settings(TINY), sources)
    _, adapter = window_model(6, 10, track)
    rows = STATE_TRACKING.predict(adapter, data, as_settings(TINY))
    metrics = {(m.name, m.at.get("seq_len")): m.value for m in STATE_TRACKING.score(rows, as_settings(TINY))}
    assert metrics["accuracy", None] == metrics["sequence_accuracy", None] == metrics["position_accuracy", 8] == 1.0
    lost = float((data.test.states[:, 8:] == 0).mean())
    assert metrics["accuracy_beyond", None] == pytest.approx((1 + lost) / 2)
    assert metrics["position_accuracy", 10] == float((data.test.states[:, 9] == 0).mean())
    assert metrics["chance", None] == pytest.approx(1 / 6)
    assert [at for name, at in metrics if name == "position_accuracy"] == [1, 2, 4, 6, 8, 10]


def test_settings_that_cannot_be_are_refused(sources: Sources) -> None:
    with pytest.raises(ValueError, match="unknown group 'S4'"):
        STATE_TRACKING.identify({"group": "S4"}, sources)
    with pytest.raises(ValueError, match="test_length is 3; allowed: 6 or more"):
        STATE_TRACKING.identify({**as_settings(TINY), "test_length": 3}, sources)
