from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

from hedgebench.results.fidelity import fidelities, spikiest_heads
from hedgebench.results.record import Record

from .fidelity_rows import TOKENS, fidelity_record, sample_rows, samples_of

MakeRecord = Callable[..., Record]


def test_layers_are_means_over_heads_and_windows_where_the_model_was_distilled(make_record: MakeRecord) -> None:
    record = fidelity_record(make_record, "hedgehog", 3.0)
    ((found,),) = fidelities([record], samples_of({"hedgehog": sample_rows(3.0)})).values()
    assert (found.label, found.place) == ("hedgehog", ("wikitext2", 128))
    assert found.layers["kl"].tolist() == [4.0, 5.0]
    assert found.layers["entropy"].tolist() == [2.0, 3.0]
    assert found.layers["softmax_entropy"].tolist() == [1.0, 1.0]


def test_seeds_are_averaged_and_softmax_comes_first(make_record: MakeRecord) -> None:
    records = [fidelity_record(make_record, "elu", 1.0, seed=seed) for seed in (0, 1)]
    records.append(fidelity_record(make_record, "softmax", 0.0))
    rows = {0: sample_rows(1.0), 1: sample_rows(3.0)}
    ((softmax, elu),) = fidelities(records, lambda record: rows[record.seed]).values()
    assert (softmax.label, elu.label) == ("softmax", "elu")
    assert elu.layers["kl"].tolist() == [3.0, 4.0]


def test_heads_are_squares_with_gaps_where_a_query_sees_no_key(make_record: MakeRecord) -> None:
    record = fidelity_record(make_record, "elu", 1.0)
    ((found,),) = fidelities([record], samples_of({"elu": sample_rows(1.0, 0.5)})).values()
    assert [(head.layer, head.head) for head in found.heads] == [(0, 0), (0, 1), (1, 0), (1, 1)]
    for head in found.heads:
        assert head.weights.shape == (TOKENS, TOKENS)
        assert (np.isnan(head.products) == np.triu(np.ones((TOKENS, TOKENS), bool), 1)).all()
        np.testing.assert_allclose(np.nansum(head.weights, axis=1), 1)
        expected = np.exp(head.products) / np.nansum(np.exp(head.products), axis=1, keepdims=True)
        np.testing.assert_allclose(head.softmax, expected)


def test_the_head_shown_of_each_layer_is_the_one_where_softmax_is_spikiest(make_record: MakeRecord) -> None:
    record = fidelity_record(make_record, "elu", 1.0)
    (models,) = fidelities([record], samples_of({"elu": sample_rows(1.0)})).values()
    assert spikiest_heads(models) == [(0, 1), (1, 1)]


@pytest.mark.parametrize("status", ["error", "oom"])
def test_cells_without_a_result_and_other_tasks_are_not_asked_for_predictions(
    make_record: MakeRecord, status: str
) -> None:
    failed = fidelity_record(make_record, "elu", 1.0, status=status)
    assert fidelities([failed, make_record()], lambda _: pytest.fail("asked")) == {}


def test_predictions_that_are_gone_leave_nothing_to_show(make_record: MakeRecord) -> None:
    assert fidelities([fidelity_record(make_record, "elu", 1.0)], lambda _: ()) == {}


def test_a_model_without_a_single_measured_row_is_left_out(make_record: MakeRecord) -> None:
    rows = [{"corpus": "wikitext2", "seq_len": 128, "window": 0, "status": "unsupported", "reason": "too long"}]
    assert fidelities([fidelity_record(make_record, "elu", 1.0)], lambda _: rows) == {}
