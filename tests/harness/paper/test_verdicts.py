"""Tests of harness/paper/verdicts.py."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import pytest

from hedgebench.harness.paper.claims import CLAIMS
from hedgebench.harness.paper.declarations import Study
from hedgebench.harness.paper.studies import ABLATIONS, PRIOR, STUDIES
from hedgebench.harness.paper.verdicts import Verdict, claim_lines, judge_claims
from hedgebench.results.paper.claims import claims_table
from hedgebench.results.record import SCHEMA_VERSION, Metric, Record
from hedgebench.results.reference.load import load_reference
from hedgebench.results.tables.aggregate import leaderboard_rows
from hedgebench.results.tables.row import Row

Values = Mapping[str, Sequence[float]]
"""A metric by model, one value for each seed."""


def rows(task: str, values: Values, metric: str, unit: str, higher: bool) -> list[Row]:
    records = [
        Record(
            SCHEMA_VERSION, "run", f"{task}-{model}-{seed}", model, "gpt", task, "scratch", "small", seed, "ok", metric,
            (Metric(metric, value, unit, higher, 0.01, 100),), {}, {}, (), None, {},
        )
        for model, seeds in values.items()
        for seed, value in enumerate(seeds)
    ]  # fmt: skip
    return leaderboard_rows(records)


def verdicts(measured: Mapping[tuple[str, str], list[Row]], scale: str = "small") -> dict[str, Verdict]:
    """The verdicts on what was measured, by study and column."""

    def rows_of(study: Study, column: str) -> Sequence[Row]:
        return measured.get((study.name, column), ())

    return {verdict.claim.id: verdict for verdict in judge_claims(rows_of, scale)}


def spread(value: float, by: float = 0.001) -> list[float]:
    return [value - by, value, value + by, value + 2 * by, value - 2 * by]


def language(**changes: float) -> dict[tuple[str, str], list[Row]]:
    """Perplexities as the paper's table 7 has them, unless changed."""
    values = {"softmax": 18.6, "hedgehog": 20.0, "elu": 25.6, "performer": 26.8, "cosformer": 23.1} | changes
    seeds = {model: spread(value) for model, value in values.items()}
    return {("language", "wikitext103"): rows("wikitext2", seeds, "perplexity", "1", False)}


def test_the_gap_closed_is_the_paper_s_arithmetic_and_decides() -> None:
    found = verdicts(language())["language-gap"]
    assert found.judged is not None
    assert found.judged.effect.value == pytest.approx(100 * (25.6 - 20.0) / (25.6 - 18.6), abs=1e-6)
    assert (found.word, found.unit, found.factor) == ("holds", "%", 1.0)
    assert verdicts(language(hedgehog=22.0))["language-gap"].word == "does not hold"


def test_a_claim_of_several_models_fails_with_the_one_that_is_better() -> None:
    assert verdicts(language())["language-prior"].word == "holds"
    found = verdicts(language(cosformer=19.0))["language-prior"]
    assert found.word == "does not hold"
    assert found.judged is not None
    assert found.judged.effect.contrast == "hedgehog over cosformer"


def test_one_seed_decides_nothing() -> None:
    values = {"softmax": [18.6], "hedgehog": [20.0], "elu": [25.6], "performer": [26.8], "cosformer": [23.1]}
    measured = {("language", "wikitext103"): rows("wikitext2", values, "perplexity", "1", False)}
    assert verdicts(measured)["language-gap"].word == "undecided"


def test_what_was_not_measured_is_not_judged_and_says_why() -> None:
    found = verdicts(language())
    assert found["recall-solved"].word == "not judged"
    assert found["recall-solved"].note == "not measured yet"
    assert found["lora"].note == "samsum is an illustration"
    assert verdicts({}, "paper")["lora"].note == "not measured yet"
    partial = rows("wikitext2", {"softmax": spread(18.6), "hedgehog": spread(20.0)}, "perplexity", "1", False)
    assert verdicts({("language", "wikitext103"): partial})["language-gap"].note == "elu has 0 results on wikitext103"


def test_a_model_of_another_study_is_compared_by_name() -> None:
    models = ("softmax", "hedgehog", "t2r", *ABLATIONS)
    converted = rows("wikitext2", {model: spread(19.0) for model in models}, "perplexity", "1", False)
    found = verdicts({**language(), ("language-conversion", "wikitext103"): converted})["conversion-over-scratch"]
    assert found.judged is not None
    assert found.judged.effect.value == pytest.approx(1.0)
    assert found.word == "holds"


def test_tasks_that_are_missing_are_counted() -> None:
    scores = {"softmax": spread(0.5), "hedgehog": spread(0.55)}
    found = verdicts({("lra", "lra/listops"): rows("lra/listops", scores, "accuracy", "1", True)})["lra-recovers"]
    assert (found.word, found.note) == ("holds", "1 of 5 tasks")


def tracked(models: Sequence[str], entropies: Sequence[float], seeds: int = 5) -> Verdict:
    """The verdict on the claim `spiky`, of models with ever lower scores."""
    quality = {model: spread(0.9 - 0.1 * i)[:seeds] for i, model in enumerate(models)}
    entropy = {model: spread(value)[:seeds] for model, value in zip(models, entropies, strict=True)}
    column = STUDIES["fidelity-cola"].columns[0]
    measured = {
        ("cola", "glue/cola"): rows("glue/cola", quality, "matthews", "1", True),
        ("fidelity-cola", column): rows(column, entropy, "attention_entropy", "nats", False),
    }
    return verdicts(measured)["spiky"]


def test_a_rank_correlation_over_models_is_judged_by_its_z() -> None:
    models = (*PRIOR, "t2r_hh", "hedgehog")
    found = tracked(models, range(1, 9))
    assert found.word == "holds"
    assert found.judged is not None
    assert "correlation 1.00" in found.judged.effect.contrast
    assert tracked(models, [2.0 + (-1) ** i * 0.1 * i for i in range(8)]).word == "undecided"


def test_softmax_is_no_conversion_that_a_rank_correlation_counts() -> None:
    found = tracked(("softmax", "softmax:continued=true", *PRIOR), (0.1, 0.2, 6, 5, 4, 3, 2, 1))
    assert found.judged is not None
    assert found.judged.effect.contrast.endswith("correlation -1.00 with -attention_entropy, 6 models")
    assert tracked(("softmax", *PRIOR[:4]), range(1, 6)).note == "4 models have both numbers, 5 are needed"


def test_one_seed_of_every_model_decides_no_rank_correlation() -> None:
    models = (*PRIOR, "t2r_hh", "hedgehog")
    assert tracked(models, range(1, 9), seeds=2).word == "holds"
    assert tracked(models, range(1, 9), seeds=1).word == "undecided"


def test_a_task_whose_students_did_not_run_is_left_out_and_one_alone_gives_its_reason() -> None:
    learned = rows("lra/listops", {"softmax": spread(0.5), "hedgehog": spread(0.55)}, "accuracy", "1", True)
    blind = rows("lra/text", {"softmax": spread(0.5)}, "accuracy", "1", True)
    measured = {("lra", "lra/listops"): learned, ("lra", "lra/text"): blind}

    def judged(gaps: Mapping[str, str]) -> Verdict:
        def rows_of(study: Study, column: str) -> Sequence[Row]:
            return measured.get((study.name, column), ())

        found = judge_claims(rows_of, "small", lambda _, column: gaps.get(column, ""))
        return {verdict.claim.id: verdict for verdict in found}["lra-recovers"]

    assert judged({}).note == "hedgehog has 0 results on lra/text"
    assert (judged({"lra/text": "no student ran"}).word, judged({"lra/text": "no"}).note) == ("holds", "1 of 5 tasks")
    assert judged({"lra/text": "no student ran", "lra/listops": "no student ran"}).note == "no student ran"


def test_the_table_has_a_line_for_every_claim_with_points_for_fractions() -> None:
    scores = {"hedgehog": spread(0.99), "elu": spread(0.2), "performer": spread(0.3), "cosformer": spread(0.3)}
    measured = {("recall", "associative_recall"): rows("associative_recall", scores, "accuracy", "1", True)}
    lines = claim_lines(list(verdicts(measured).values()), load_reference())
    assert [line.id for line in lines] == list(CLAIMS)
    entries = dict(claims_table("Claims", lines).rows)[CLAIMS["recall-prior-fail"].text]
    assert [entry.text for entry in entries[:2]] == ["holds", "not known"]
    assert entries[2].text in ("79 points", "69 points")
    assert entries[3].text == "50 points"
    numbers = next(line.measured for line in lines if line.id == "recall-prior-fail")
    assert numbers is not None
    assert numbers.low <= numbers.value <= numbers.high
    assert numbers.threshold == pytest.approx(50)
