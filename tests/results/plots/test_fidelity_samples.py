from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

from hedgebench.results.plots.fidelity_samples import fidelities, spikiest_heads
from hedgebench.results.record import Record

from ..fidelity_rows import TOKENS, fidelity_record, measure_rows, sample_rows, samples_of, with_teacher

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


def lost_rows(corpus: str, seq_len: int) -> list[dict[str, object]]:
    """The row of a place where a model could not be measured."""
    return [{"corpus": corpus, "seq_len": seq_len, "window": 0, "status": "unsupported", "reason": "too long"}]


def test_layers_of_all_models_are_of_the_place_where_most_were_measured(make_record: MakeRecord) -> None:
    models = ("softmax", "elu", "hedgehog")
    both = [*measure_rows(1.0), *measure_rows(5.0, "wikitext2", 64)]
    rows = {
        "softmax": both,
        "elu": [*lost_rows("wikitext2", 128), *measure_rows(6.0, "wikitext2", 64)],
        "hedgehog": both,
    }
    records = [fidelity_record(make_record, model, 1.0) for model in models]
    ((*found,),) = fidelities(records, samples_of(rows)).values()
    assert {(fidelity.label, fidelity.place, *fidelity.layers["kl"]) for fidelity in found} == {
        *(("softmax", ("wikitext2", 64), 6.0, 7.0), ("elu", ("wikitext2", 64), 7.0, 8.0)),
        ("hedgehog", ("wikitext2", 64), 6.0, 7.0),
    }


def test_a_model_that_was_not_measured_there_has_no_layers(make_record: MakeRecord) -> None:
    rows = {"softmax": measure_rows(1.0), "elu": [*lost_rows("wikitext2", 128), *measure_rows(6.0, "stdlib", 64)]}
    records = [fidelity_record(make_record, model, 1.0) for model in rows]
    ((softmax, elu),) = fidelities(records, samples_of(rows)).values()
    assert softmax.place == elu.place == ("wikitext2", 128)
    assert elu.layers == {}


def test_a_record_whose_first_place_has_no_value_is_shown_where_it_has_some(make_record: MakeRecord) -> None:
    record = fidelity_record(make_record, "elu", 1.0)
    assert not any(metric.name == "attention_entropy_ratio" for metric in record.metrics)
    rows = [*lost_rows("wikitext2", 128), *measure_rows(1.0, "stdlib", 64)]
    ((found,),) = fidelities([record], samples_of({"elu": rows})).values()
    assert found.place == ("stdlib", 64)


def test_converted_models_have_layers_of_their_teacher(make_record: MakeRecord) -> None:
    record = fidelity_record(make_record, "elu", 1.0)
    ((found,),) = fidelities([record], samples_of({"elu": with_teacher(sample_rows(1.0), 7.0)})).values()
    assert found.layers["kl_from_teacher"].tolist() == [7.0, 8.0]
    assert found.layers["teacher_entropy"].tolist() == [0.5, 1.5]
