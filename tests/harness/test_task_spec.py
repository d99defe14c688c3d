"""A task's name with settings of its own: read, written in one form, and stronger than `--set`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from hedgebench.adapters.spec import SpecError
from hedgebench.harness.cell import PlannedCell
from hedgebench.harness.config import RunConfig
from hedgebench.harness.plan import make_plan
from hedgebench.harness.task_spec import TaskSpec, parse_task_spec, task_of
from hedgebench.results.names import UnknownNameError, UsageError


def planned(*tasks: str, **values: Any) -> list[PlannedCell]:
    return make_plan(RunConfig(models=("softmax",), tasks=tasks, **values))


def test_a_spec_is_read_and_written_with_its_settings_sorted() -> None:
    spec = parse_task_spec("summarization:source=a=b:dataset=org/name")
    assert spec == TaskSpec("summarization", {"source": "a=b", "dataset": "org/name"})
    assert spec.canonical("summarization") == "summarization:dataset=org/name:source=a=b"
    assert parse_task_spec("glue/*") == TaskSpec("glue/*", {})


@pytest.mark.parametrize("text", ["stdlib:", "stdlib:stride", "stdlib:=3", "stdlib:stride=", ":stride=3"])
def test_what_is_not_of_the_form_is_refused(text: str) -> None:
    with pytest.raises(SpecError, match=r"is not of the form .*KEY=VALUE"):
        parse_task_spec(text)


def test_a_yaml_file_that_does_not_exist_is_told_where_it_was_looked_for(tmp_path: Path) -> None:
    with pytest.raises(SpecError, match=r"task 'lm_eval/none.yaml': there is no file 'none.yaml' in '/"):
        parse_task_spec("lm_eval/none.yaml")
    file = tmp_path / "own.yml"
    file.write_text("task: own\n", encoding="utf-8")
    assert parse_task_spec(f"lm_eval/{file}").name == f"lm_eval/{file}"
    with pytest.raises(SpecError, match=r"is a file of lm-eval's form; name it lm_eval/"):
        parse_task_spec(str(file))


def test_a_setting_given_twice_is_refused() -> None:
    with pytest.raises(SpecError, match="sets stride twice"):
        parse_task_spec("stdlib:stride=1:stride=2")


def test_the_task_of_a_name_has_its_settings_left_aside() -> None:
    assert task_of("stdlib:stride=8", {}) is task_of("stdlib", {})
    with pytest.raises(UnknownNameError, match="did you mean stdlib"):
        task_of("stdlb:stride=8", {})


def test_one_run_can_hold_a_task_in_several_ways() -> None:
    cells = [p.cell for p in planned("stdlib", "stdlib:stride=64:batch_size=4", "stdlib:batch_size=4:stride=64")]
    assert [cell.task for cell in cells] == ["stdlib", "stdlib:batch_size=4:stride=64"]
    assert cells[0].settings["task"]["stride"] is None
    assert (cells[1].settings["task"]["stride"], cells[1].settings["task"]["batch_size"]) == (64, 4)
    assert cells[0].peer_key != cells[1].peer_key


def test_the_settings_of_a_name_win_over_those_of_the_run() -> None:
    overrides = {"stride": "16", "context_length": "32"}
    plain, named = (p.cell.settings["task"] for p in planned("stdlib", "stdlib:stride=8", overrides=overrides))
    assert (plain["stride"], plain["context_length"]) == (16, 32)
    assert (named["stride"], named["context_length"]) == (8, 32)
    (cell,) = (p.cell for p in planned("stdlib:batch_size=4", batch_size="2"))
    assert cell.settings["task"]["batch_size"] == 4


def test_an_unknown_setting_or_value_is_told_with_the_nearest() -> None:
    with pytest.raises(UsageError, match="unknown setting of task stdlib 'strid'; did you mean stride"):
        planned("stdlib:strid=8")
    with pytest.raises(UsageError, match="setting stdlib:batch_size is 'many'; allowed: int"):
        planned("stdlib:batch_size=many")
