"""Tests of harness/paper/reported.py: the paper's numbers for the claims are those of the reference file."""

from __future__ import annotations

import json

import pytest

from hedgebench.harness.paper.claims import CLAIMS
from hedgebench.harness.paper.reported import PRINTED_IN, reported
from hedgebench.harness.paper.studies import STUDIES
from hedgebench.results.paper.claims import Reported
from hedgebench.results.reference.load import FOLDER, load_reference, parse_reference

REFERENCE = load_reference()


def text(id: str) -> str:
    return "; ".join(number.text for number in reported(CLAIMS[id], REFERENCE))


@pytest.mark.parametrize(
    ("id", "expected"),
    [
        ("prior-order", "0.4 to 25.3 points (D)"),
        ("cola-over-prior", "9.2 to 34.5 points (D)"),
        ("cola-taylor", "0.8 points (D)"),
        ("lra-recovers", "at least 99% (P); 109.7% (D)"),
        ("language-prior", "up to 6 (P); 4.8 to 6 (D)"),
        ("conversion-over-scratch", "4.1 (D)"),
        ("lora", "44.6 points (D)"),
    ],
)
def test_a_contrast_of_the_paper_s_cells_is_derived(id: str, expected: str) -> None:
    assert text(id) == expected


def test_what_the_paper_states_is_not_said_twice() -> None:
    assert text("language-gap") == "68.6% (P)"


def test_a_number_that_rests_on_an_unverified_one_is_unverified() -> None:
    assert text("lra-best") == "4.43 to 9.11 points (U)"
    assert text("glue-order") == "up to 8.7 points (P); 3.8 to 8.7 points (U)"


@pytest.mark.parametrize("id", ["recall-prior-fail", "recall-exp", "spiky", "fidelity", "distillation", "longer"])
def test_a_claim_whose_models_have_no_number_in_print_has_none(id: str) -> None:
    assert reported(CLAIMS[id], REFERENCE) == ()


def test_numbers_and_marks_follow_the_reference_file() -> None:
    data = json.loads((FOLDER / "hedgehog.json").read_text(encoding="utf-8"))
    next(claim for claim in data["claims"] if claim["id"] == "wikitext103-gap").update(value=50.0, mark="transcribed")
    table = next(table for table in data["tables"] if table["id"] == "table-11")
    next(row for row in table["rows"] if row["label"] == "T2R + LoRA").update(mark="unverified", source="memory")
    changed = parse_reference(json.dumps(data))
    assert reported(CLAIMS["language-gap"], changed)[0] == Reported(50.0, 50.0, "%", "transcribed")
    assert [number.text for number in reported(CLAIMS["lora"], changed)] == ["44.6 points (U)"]


def test_thresholds_are_what_the_paper_states_as_a_number_or_a_bound() -> None:
    for claim in CLAIMS.values():
        if claim.printed and (stated := REFERENCE.claim(claim.printed)).relation != "up to":
            assert claim.threshold == stated.value


def test_studies_and_tables_with_numbers_exist() -> None:
    assert set(PRINTED_IN) <= set(STUDIES)
    for ids in PRINTED_IN.values():
        assert all(REFERENCE.table(id).id == id for id in ids)
