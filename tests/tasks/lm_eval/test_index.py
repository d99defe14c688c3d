"""Names of lm-eval: tasks, groups and tags, read once and then looked up."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from hedgebench.results.names import UnknownNameError
from hedgebench.tasks.lm_eval import index as lm_eval_index
from hedgebench.tasks.lm_eval.index import IndexedName, entries, read_folder, tasks_of
from hedgebench.tasks.lm_eval.task import LmEvalFamily

KNOWN = {
    "one": IndexedName("one.yaml"),
    "two": IndexedName("two.yaml"),
    "both": IndexedName(members=("one", "two")),
    "more": IndexedName(members=("both", "one")),
    "changed": IndexedName(members=("one",), changes=True),
}


@pytest.fixture
def family(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> LmEvalFamily:
    """The family over a small index, as if an earlier run had made it."""
    monkeypatch.setattr("hedgebench.tasks.lm_eval.task.entries", lambda cache: KNOWN)
    return LmEvalFamily(cache=tmp_path)


def write(folder: Path, name: str, **values: object) -> None:
    (folder / f"{name}.yaml").write_text(json.dumps(values), encoding="utf-8")  # JSON is YAML


def test_a_folder_gives_its_tasks_groups_and_tags(tmp_path: Path) -> None:
    write(tmp_path, "one", task="one", tag=["small"])
    write(tmp_path, "two", include="one.yaml", task="two")
    write(tmp_path, "both", group="both", task=["one", "two"], metadata={"version": 1})
    write(tmp_path, "nested", group="nested", task=[{"group": "inner", "task": ["one"]}, {"task": "two"}])
    write(tmp_path, "changed", group="changed", task=[{"task": "one", "num_fewshot": 3}])
    write(tmp_path, "shots", group="shots", task=["one"], num_fewshot=5)
    found = read_folder(tmp_path)
    assert found == {
        "one": IndexedName(str(tmp_path / "one.yaml")),
        "two": IndexedName(str(tmp_path / "two.yaml")),
        "small": IndexedName(members=("one", "two")),
        "both": IndexedName(members=("one", "two")),
        "nested": IndexedName(members=("one", "two")),
        "changed": IndexedName(changes=True),
        "shots": IndexedName(members=("one",), changes=True),
    }


def test_the_index_is_made_once_and_then_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    made: list[Path] = []

    def read(folder: Path) -> dict[str, IndexedName]:
        made.append(folder)
        return KNOWN

    monkeypatch.setattr(lm_eval_index, "read_folder", read)
    assert entries(tmp_path) == KNOWN
    entries.cache_clear()
    assert entries(tmp_path) == KNOWN
    entries.cache_clear()
    assert len(made) == 1
    (file,) = (tmp_path / "lm_eval").iterdir()
    assert json.loads(file.read_text())["one"]["path"] == "one.yaml"
    assert capsys.readouterr().err.count("reading the names of lm-eval") == 1


def test_a_name_stands_for_itself_or_the_tasks_of_its_group_each_once(family: LmEvalFamily) -> None:
    assert family.expand("lm_eval/two") == ["lm_eval/two"]
    assert family.expand("lm_eval/more") == ["lm_eval/one", "lm_eval/two"]


def test_a_group_that_changes_its_tasks_is_refused(family: LmEvalFamily) -> None:
    with pytest.raises(UnknownNameError, match="group 'changed' changes the settings of its tasks"):
        family.expand("lm_eval/changed")
    with pytest.raises(UnknownNameError, match="a group of lm-eval names 'gone'"):
        tasks_of("broken", {"broken": IndexedName(members=("gone",))})


@pytest.mark.parametrize("name", ["lm_eval/*", "lm_eval/o?e"])
def test_globs_are_refused(name: str, family: LmEvalFamily) -> None:
    with pytest.raises(UnknownNameError, match="is a glob over the 5 names of lm-eval; name tasks, groups or tags"):
        family.expand(name)


def test_an_unknown_name_answers_with_the_nearest(family: LmEvalFamily) -> None:
    for ask in (family.expand, family.get):
        with pytest.raises(UnknownNameError, match="unknown task of lm-eval 'twoo'; did you mean two"):
            ask("lm_eval/twoo")


def test_a_file_that_is_no_task_is_named(tmp_path: Path) -> None:
    write(tmp_path, "group", group="g", task=["one"])
    with pytest.raises(UnknownNameError, match=r"group\.yaml is not the file of one lm-eval task"):
        LmEvalFamily().get(f"lm_eval/{tmp_path}/group.yaml")
