from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from hedgebench.results.record import Metric, Record
from hedgebench.results.stats.evidence import Evidence, kept_scores, paired_seeds

from ..simulated import make_record

ROWS: Mapping[str, Sequence[Mapping[str, Any]]] = {
    "both": [{"row": 0, "correct": True}, {"row": 1, "correct": False}],
    "other": [{"row": 7, "correct": True}, {"row": 8, "correct": False}],
    "none": [],
}


def evidence(model: str, values: Mapping[int, float | None], rows: str = "both") -> Evidence:
    metrics = {seed: Metric("accuracy", value, "1", True, None, 2) for seed, value in values.items()}
    records = [make_record(model, "recall", seed, (metric,)) for seed, metric in metrics.items()]

    def samples(record: Record) -> Sequence[Mapping[str, Any]]:
        return ROWS[rows]

    return Evidence(tuple(records), tuple(metrics.values()), kept_scores(samples))


def test_models_are_paired_by_the_seeds_that_all_of_them_have() -> None:
    models = {
        "elu": evidence("elu", {2: 0.5, 0: 0.1, 3: None, 4: 0.9}, "none"),
        "softmax": evidence("softmax", {0: 0.2, 1: 0.3, 2: 0.4, 3: 0.6}, "none"),
    }
    assert paired_seeds(models) == {"elu": (0.1, 0.5), "softmax": (0.2, 0.4)}
    assert paired_seeds({"elu": models["elu"], "relu": evidence("relu", {7: 1.0})}) == {"elu": (), "relu": ()}
    assert paired_seeds({}) == {}


def test_scores_by_document_are_given_if_all_models_have_them_over_the_same_documents() -> None:
    elu, softmax = evidence("elu", {0: 0.5, 1: 0.5}), evidence("softmax", {0: 0.5, 1: 0.5, 2: 0.5})
    paired = paired_seeds({"elu": elu, "softmax": softmax})
    assert paired == {"elu": elu.scores, "softmax": softmax.scores[:2]}
    assert len(elu.scores) == 2
    for rows in ("other", "none"):
        without = paired_seeds({"elu": elu, "softmax": evidence("softmax", {0: 0.5, 1: 0.5}, rows)})
        assert without == {"elu": (0.5, 0.5), "softmax": (0.5, 0.5)}


def test_one_seed_without_predictions_leaves_values_alone() -> None:
    elu = evidence("elu", {0: 0.5, 1: 0.7})
    assert elu.scores == ()
    assert paired_seeds({"elu": elu}) == {"elu": (0.5, 0.7)}
    assert paired_seeds({"elu": elu, "relu": evidence("relu", {0: 0.5})})["elu"] == elu.of_seeds([0]).scores
