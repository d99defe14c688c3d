from __future__ import annotations

import math

import pytest

from hedgebench.results.stats.contrasts import UndefinedContrastError, difference, gap_closed, ordered, recovered

PERPLEXITIES = {"softmax": 18.6, "hedgehog": 20.8, "elu": 25.6}
SCORES = {"softmax": 0.8, "hedgehog": 0.7, "elu": 0.3}


def test_a_difference_is_positive_where_the_first_is_better() -> None:
    assert difference("hedgehog", "elu", higher_is_better=True).of(SCORES) == pytest.approx(0.4)
    assert difference("hedgehog", "elu", higher_is_better=False).of(PERPLEXITIES) == pytest.approx(4.8)


def test_the_score_in_percent_of_softmax_is_above_100_for_a_better_one() -> None:
    assert recovered("hedgehog", "softmax", higher_is_better=True).of(SCORES) == pytest.approx(87.5)
    assert recovered("hedgehog", "softmax", higher_is_better=False).of(PERPLEXITIES) == pytest.approx(1860 / 20.8)
    assert recovered("softmax", "softmax", higher_is_better=False).of(PERPLEXITIES) == 100


def test_the_papers_68_6_percent_of_the_gap_are_closed() -> None:
    closed = gap_closed("hedgehog", "elu", "softmax", higher_is_better=False)
    assert closed.of(PERPLEXITIES) == pytest.approx(68.57, abs=0.005)
    assert gap_closed("hedgehog", "elu", "softmax", higher_is_better=True).of(SCORES) == pytest.approx(80)


def test_an_order_is_every_pair_of_it() -> None:
    pairs = ordered(["softmax", "hedgehog", "elu"], higher_is_better=False)
    assert [pair.name for pair in pairs] == ["softmax over hedgehog", "softmax over elu", "hedgehog over elu"]
    assert all(pair.of(PERPLEXITIES) > 0 for pair in pairs)


@pytest.mark.parametrize("softmax", [0.0, -0.1, math.nan, math.inf])
def test_a_ratio_to_a_score_that_is_not_positive_is_refused(softmax: float) -> None:
    with pytest.raises(UndefinedContrastError, match="hedgehog in percent of softmax: the denominator is"):
        recovered("hedgehog", "softmax", higher_is_better=True).of({**SCORES, "softmax": softmax})


def test_there_is_no_share_of_a_gap_that_is_not_there() -> None:
    closed = gap_closed("hedgehog", "elu", "softmax", higher_is_better=False)
    with pytest.raises(UndefinedContrastError, match="the denominator is -1; it must be above 0"):
        closed.of({"softmax": 20, "hedgehog": 19, "elu": 19})
