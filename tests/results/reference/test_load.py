from __future__ import annotations

import json
import math
from collections.abc import Callable
from typing import Any

import pytest

from hedgebench.adapters.spec import parse_spec
from hedgebench.harness.registry import mechanisms
from hedgebench.results.names import GROUPS, UnknownNameError
from hedgebench.results.reference.load import FOLDER, InvalidReferenceError, load_reference, parse_reference
from hedgebench.results.reference.printed import NOT_KNOWN

REFERENCE = load_reference()
GLUE = GROUPS["glue"]
PRINTED = [table for table in REFERENCE.tables if table.id.startswith("table-")]


def glue_sum(label: str) -> float:
    values = REFERENCE.table(8).row(label).values
    return sum(values[task] for task in GLUE)


def test_the_papers_tables_and_figures_are_all_there() -> None:
    assert [table.id for table in PRINTED] == [f"table-{n}" for n in range(1, 13)]
    assert [figure.number for figure in REFERENCE.figures] == list(range(1, 10))


def test_a_cell_has_its_unit_direction_mark_and_source() -> None:
    cell = REFERENCE.cell(11, "Hedgehog + LoRA", "rougeL")
    assert (cell.value, cell.column.unit, cell.column.task, cell.column.metric) == (39.1, "x100", "samsum", "rougeL")
    assert (cell.column.higher_is_better, cell.row.model, cell.mark) == (True, "hedgehog", "transcribed")
    assert REFERENCE.sources[cell.source] == "a published transcription of the paper's text (v1)"
    assert REFERENCE.cell(7, "Hedgehog", "wikitext103").column.higher_is_better is False
    assert REFERENCE.table("table-11").row("Softmax zero-shot").recipe == "zero-shot"


def test_a_number_is_shown_with_a_mark_unless_it_was_read() -> None:
    assert REFERENCE.cell(6, "Hedgehog", "lra/text").text == "64.60"
    assert REFERENCE.cell(6, "cosFormer", "average").text == "55.23 (unverified)"
    assert REFERENCE.cell(9, "Hedgehog", "percent_recovered").text == "99.0 (derived)"
    assert REFERENCE.cell(3, "Hedgehog", "glue/cola").text == NOT_KNOWN
    for table in REFERENCE.tables:
        for row in table.rows:
            for column in table.columns:
                cell = table.cell(row.label, column.name)
                assert ("unverified" in cell.text) == (cell.value is not None and cell.mark == "unverified")


def test_unverified_is_what_was_remembered_and_derived_what_was_computed() -> None:
    for table in REFERENCE.tables:
        cells = [table.cell(row.label, column) for row in table.rows for column in row.values]
        pairs = [(cell.mark, cell.source) for cell in cells]
        pairs += [(one.mark, one.source) for each in table.contradictions for one in each.stated]
        for mark, source in pairs:
            assert (mark == "unverified") == (source == "memory")
            assert (mark == "derived") == (source == "arithmetic")


def test_a_table_whose_place_is_unverified_says_so_in_its_note() -> None:
    assert [t.id for t in REFERENCE.tables if t.placement == "unverified" and "unverified" not in t.note] == []


def test_tables_3_to_5_and_12_and_the_figures_have_no_numbers() -> None:
    for n in (3, 4, 5, 12):
        assert all(not row.values for row in REFERENCE.table(n).rows)
    assert {figure.values for figure in REFERENCE.figures} == {NOT_KNOWN}
    assert len(REFERENCE.table(3).rows) == 3


def test_rows_that_are_measured_are_kept_apart_from_those_that_are_reported() -> None:
    table = REFERENCE.table(10)
    assert [row.model for row in table.measured] == ["softmax", "softmax", "t2r", "hedgehog"]
    assert [row.work.split(",")[0] for row in table.reported] == ["Fu et al. 2023", "Poli et al. 2023"]
    assert all(not other.measured for other in REFERENCE.tables if other not in PRINTED)


def test_measured_rows_name_models_that_exist() -> None:
    declared = mechanisms()
    specs = {row.model for table in REFERENCE.tables for row in table.measured}
    assert {parse_spec(str(spec), declared.get).canonical for spec in specs} == specs


def test_percent_recovered_of_the_glue_table_is_its_ratio_of_sums() -> None:
    assert glue_sum("BERT-FT") == pytest.approx(666.2)
    assert glue_sum("Hedgehog") == pytest.approx(661.8)
    recovered = 100 * glue_sum("Hedgehog") / glue_sum("BERT-FT")
    assert recovered == pytest.approx(99.34, abs=0.005)
    assert round(recovered, 1) == REFERENCE.table(8).row("Hedgehog").values["percent_recovered"]


def test_derived_cells_follow_from_the_others() -> None:
    for label in ("BERT-FT", "Hedgehog"):
        assert glue_sum(label) / 8 == pytest.approx(REFERENCE.table(8).row(label).values["mean"], abs=0.0501)
    t2r = REFERENCE.table(8).row("T2R").values
    assert t2r["percent_recovered"] / 100 * glue_sum("BERT-FT") / 8 == pytest.approx(t2r["mean"], abs=0.05)
    softmax = REFERENCE.table(9).row("ViT-B/16").values["imagenet1k"]
    for row in REFERENCE.table(9).rows:
        percent = 100 * row.values["imagenet1k"] / softmax
        assert percent == pytest.approx(row.values["percent_recovered"], abs=0.05)
        assert REFERENCE.cell(9, row.label, "percent_recovered").mark == "derived"


@pytest.mark.parametrize("id", ["table-6", "lra-later"])
def test_averages_of_long_range_arena_are_the_means_of_their_rows(id: str) -> None:
    checked = 0
    for row in REFERENCE.table(id).rows:
        tasks = [row.values[task] for task in GROUPS["lra"] if task in row.values]
        if tasks and "average" in row.values and row.mark != "unverified":
            assert sum(tasks) / 5 == pytest.approx(row.values["average"], abs=0.0101), row.label
            checked += 1
    assert checked == {"table-6": 12, "lra-later": 2}[id]


def test_averages_of_long_range_arena_are_the_same_in_a_later_paper() -> None:
    later = REFERENCE.table("lra-later")
    rows = [row for row in later.rows if row.label in {row.label for row in REFERENCE.table(6).rows}]
    same = {
        row.label: REFERENCE.cell(6, row.label, "average").value == row.values["average"]
        for row in rows
        if REFERENCE.cell(6, row.label, "average").is_sure
    }
    assert len(same) == 8
    assert all(same.values())


def test_contradictions_are_recorded_and_settled_for_no_side() -> None:
    found = {(table.id, each.row, each.column): each for table in REFERENCE.tables for each in table.contradictions}
    sinkhorn = found["table-6", "Sinkhorn", "average"]
    assert [one.value for one in sinkhorn.stated] == [51.39, 51.29, 51.48]
    assert REFERENCE.cell(6, "Sinkhorn", "average").value is None
    row = REFERENCE.table(6).row("Sinkhorn").values
    assert sum(row.values()) / 5 == pytest.approx(51.48, abs=0.005)
    reformer = found["table-7", "Reformer", "wikitext103"]
    assert [(one.value, one.mark) for one in reformer.stated] == [(25.6, "paper"), (26.0, "unverified")]
    luna = REFERENCE.table("luna").row("LUNA").values
    recovered = 100 * sum(luna[task] for task in GLUE) / glue_sum("BERT-FT")
    assert recovered == pytest.approx(found["luna", "LUNA", "percent_recovered"].stated[1].value, abs=0.005)


def test_cells_that_are_known_to_be_wrong_are_not_there() -> None:
    assert set(REFERENCE.table(8).row("T2R").values) == {"percent_recovered", "mean"}


@pytest.mark.parametrize("id", [claim.id for claim in REFERENCE.claims])
def test_claims_follow_from_the_cells(id: str) -> None:
    claim = REFERENCE.claim(id)
    found = REFERENCE.recomputed(claim)
    if claim.id == "recovers-recall":
        assert found is None
    else:
        assert found is not None
        assert found >= claim.value if claim.relation == "at least" else round(found, 1) == claim.value


def test_a_claim_is_not_recomputed_from_an_unverified_cell() -> None:
    data = content()
    data["claims"][2]["rows"] = ["T2R-HH", "BERT-FT"]
    changed = parse_reference(json.dumps(data))
    assert changed.recomputed(changed.claims[2]) is None


def test_unknown_names_are_answered_with_the_known_ones() -> None:
    with pytest.raises(UnknownNameError, match=r"unknown reference 'hedgehogs'; did you mean hedgehog\?"):
        load_reference("hedgehogs")
    with pytest.raises(UnknownNameError, match=r"unknown table 'table-99'.*table-8"):
        REFERENCE.table(99)
    with pytest.raises(UnknownNameError, match=r"unknown row of table-1 'X' \(allowed: 1\+ELU, BERT-FT"):
        REFERENCE.cell(1, "X", "glue/cola")
    with pytest.raises(UnknownNameError, match=r"unknown column of table-1 'cola'; did you mean glue/cola\?"):
        REFERENCE.cell(1, "BERT-FT", "cola")
    with pytest.raises(UnknownNameError, match="unknown figure '99'"):
        REFERENCE.figure(99)
    with pytest.raises(UnknownNameError, match="unknown claim 'samsum'; did you mean samsum-"):
        REFERENCE.claim("samsum")


def content() -> Any:
    return json.loads((FOLDER / "hedgehog.json").read_text(encoding="utf-8"))


def row(**change: object) -> Callable[[Any], None]:
    return lambda data: data["tables"][0]["rows"][0].update(change)


def claim(**change: object) -> Callable[[Any], None]:
    return lambda data: data["claims"][0].update(change)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (row(mark="certain"), r"rows\[0\].mark is 'certain'; expected Literal\['paper', 'transcribed'"),
        (row(values={"glue/cola": "58.8"}), r"rows\[0\].values.glue/cola is '58.8'; expected float"),
        (row(values={"glue/cola": True}), "values.glue/cola is True; expected float"),
        (row(values={"glue/cola": math.nan}), "BERT-FT, glue/cola is nan; expected a finite number"),
        (row(values={"cola": 58.8}), "unknown column of BERT-FT in table-1 'cola'; did you mean glue/cola"),
        (row(values={}, marks={"glue/cola": "paper"}), "unknown value of BERT-FT in table-1 with a mark or source"),
        (row(source="hearsay"), "unknown source in table-1 'hearsay'"),
        (row(label="ReLU"), "row of table-1 'ReLU' is there 2 times"),
        (row(work="BERT"), "BERT-FT in table-1 has model 'softmax' and work 'BERT'; give one of the two"),
        (lambda data: data["tables"][0]["columns"][0].pop("unit"), r"columns\[0\] lacks unit"),
        (lambda data: data["tables"][0]["columns"][0].update(unit=""), "column glue/cola of table-1 has no unit"),
        (lambda data: data["tables"][1]["columns"][0].update(name="glue/cola"), "column of table-2 'glue/cola' is"),
        (lambda data: data["tables"][1].update(id="table-1"), "table 'table-1' is there 2 times"),
        (lambda data: data["figures"][0].update(number=2), "figure '2' is there 2 times"),
        (lambda data: data["figures"][0].update(values="0.5"), "values is '0.5'; expected Literal"),
        (lambda data: data["tables"][5]["contradictions"][0].update(row="X"), "unknown row of a contradiction"),
        (claim(id="recovers-lra"), "claim 'recovers-lra' is there 2 times"),
        (claim(table="table-33"), "unknown table of recovers-recall 'table-33'"),
        (claim(rows=["Hedgehog", "Soft"]), "unknown row of recovers-recall 'Soft'; did you mean Softmax"),
        (claim(columns=[]), "has 2 rows and 0 columns; recovered takes 2 rows and at least one column"),
        (claim(statistic="gap_closed"), "has 2 rows and 1 columns; gap_closed takes 3 rows"),
        (lambda data: data.pop("tables"), "reference lacks tables"),
    ],
)
def test_a_reference_that_breaks_the_rules_is_refused(change: Callable[[Any], Any], message: str) -> None:
    data = content()
    change(data)
    with pytest.raises(InvalidReferenceError, match=message):
        parse_reference(json.dumps(data))


def test_a_file_that_is_no_json_is_refused() -> None:
    with pytest.raises(InvalidReferenceError, match="it is not JSON"):
        parse_reference("{")
