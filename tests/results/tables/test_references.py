from __future__ import annotations

import json
from typing import Any

import pytest

from hedgebench.results.names import UnknownNameError

from ..references import FOLDER, InvalidReferenceError, load_reference, parse_reference

GLUE = ("cola", "sst2", "mrpc", "stsb", "qqp", "mnli", "qnli", "rte")


def glue_sum(label: str) -> float:
    values = load_reference().table("table-8").row(label).values
    return sum(values[f"glue/{task}"] for task in GLUE)


def test_percent_recovered_of_the_glue_table_is_its_ratio_of_sums() -> None:
    assert glue_sum("BERT-FT") == pytest.approx(666.2)
    assert glue_sum("Hedgehog") == pytest.approx(661.8)
    recovered = 100 * glue_sum("Hedgehog") / glue_sum("BERT-FT")
    assert recovered == pytest.approx(99.34, abs=0.005)
    assert round(recovered, 1) == load_reference().table("table-8").row("Hedgehog").values["percent_recovered"]


def test_t2r_on_glue_gives_the_abstracts_8_7_points() -> None:
    row = load_reference().table("table-8").row("T2R")
    mean = row.values["percent_recovered"] / 100 * glue_sum("BERT-FT") / 8
    assert mean == pytest.approx(row.values["mean"], abs=0.05)
    assert glue_sum("Hedgehog") / 8 - mean == pytest.approx(8.7, abs=0.02)


def test_averages_of_the_lra_table_are_the_means_of_their_rows() -> None:
    checked = 0
    for row in load_reference().table("table-6").rows:
        tasks = [value for column, value in row.values.items() if column.startswith("lra/")]
        assert len(tasks) == 5
        if "average" in row.values and row.mark != "unverified":
            assert sum(tasks) / 5 == pytest.approx(row.values["average"], abs=0.0101), row.label
            checked += 1
    assert checked > 10


def test_hedgehogs_gap_on_wikitext103_agrees_with_the_printed_claims() -> None:
    table = load_reference().table("table-7")
    prior, ours, softmax = (
        table.row(x).values["wikitext103"] for x in ("Linear attention 1+ELU", "Hedgehog", "Transformer")
    )
    assert (prior - ours) / (prior - softmax) == pytest.approx(0.686, abs=0.0005)
    assert table.row("Performer").values["wikitext103"] - ours == pytest.approx(6.0)


def test_the_abstracts_rouge_gain_is_against_zero_shot_softmax() -> None:
    table = load_reference().table("table-11")
    hedgehog, zero_shot, t2r = (
        table.row(x).values["rouge1"] for x in ("Hedgehog + LoRA", "Softmax zero-shot", "T2R + LoRA")
    )
    assert hedgehog - zero_shot == pytest.approx(28.1)
    assert t2r - zero_shot == pytest.approx(-16.5)


def test_vit_recovers_99_percent_by_derivation_not_in_print() -> None:
    table = load_reference().table("table-9")
    row = table.row("Hedgehog")
    assert 100 * row.values["imagenet1k"] / table.row("ViT-B/16").values["imagenet1k"] == pytest.approx(99.0, abs=0.05)
    assert (row.mark_of("imagenet1k"), row.mark_of("percent_recovered")) == ("transcribed", "derived")


def test_cells_that_are_known_to_be_wrong_are_not_there() -> None:
    assert set(load_reference().table("table-8").row("T2R").values) == {"percent_recovered", "mean"}


def test_every_table_and_label_is_unique() -> None:
    tables = load_reference().tables
    assert [table.id for table in tables] == [f"table-{n}" for n in (1, 2, 6, 7, 8, 9, 10, 11)]
    for table in tables:
        labels = [row.label for row in table.rows]
        assert len(set(labels)) == len(labels)


def test_unknown_names_are_answered_with_the_known_ones() -> None:
    with pytest.raises(UnknownNameError, match=r"unknown reference 'hedgehogs'; did you mean hedgehog\?"):
        load_reference("hedgehogs")
    with pytest.raises(UnknownNameError, match=r"unknown table 'table-99'.*table-8"):
        load_reference().table("table-99")
    with pytest.raises(UnknownNameError, match=r"unknown row of table-1 'X' \(allowed: 1\+ELU, BERT-FT"):
        load_reference().table("table-1").row("X")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"mark": "certain"}, r"rows\[0\].mark is 'certain'; expected Literal\['paper', 'transcribed'"),
        ({"values": {"a": "58.8"}}, r"rows\[0\].values.a is '58.8'; expected float"),
        ({"values": {"a": True}}, "values.a is True; expected float"),
        ({"values": {"a": "nan"}}, "BERT-FT, a is nan; expected a finite number"),
        ({"marks": {"nowhere": "paper"}}, "marks nowhere but has no such value"),
    ],
)
def test_a_reference_that_breaks_the_rules_is_refused(change: dict[str, Any], message: str) -> None:
    data = json.loads((FOLDER / "hedgehog.json").read_text(encoding="utf-8"))
    data["tables"][0]["rows"][0] |= change
    with pytest.raises(InvalidReferenceError, match=message):
        parse_reference(data)


def test_a_missing_field_is_named() -> None:
    with pytest.raises(InvalidReferenceError, match="reference lacks tables"):
        parse_reference({"paper": "p", "title": "t"})
