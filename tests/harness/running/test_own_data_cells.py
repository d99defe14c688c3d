"""Cells on data of the user's, from the command line or a TOML file to the record and to scores computed again."""

from __future__ import annotations

import json
import pickle
import re
import shutil
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from hedgebench.harness.cell import PlannedCell
from hedgebench.harness.commands.reporting import rescore
from hedgebench.harness.config import make_config
from hedgebench.harness.plan import make_plan, make_sources
from hedgebench.harness.running.job import CellJob, CellOutcome
from hedgebench.harness.running.worker import run_job
from hedgebench.harness.scoring_code import scoring_fingerprint
from hedgebench.results.names import UsageError
from hedgebench.results.store import RunStore
from hedgebench.tasks.summarization import protocol

from ...adapters.tiny_models import save_tiny
from ..conftest import Finished

PAGE = Path(__file__).parents[3] / "docs" / "own-data.md"
Bench = Callable[..., Finished]
ARTICLES = ["cats sit on mats", "dogs ran far", "the sun is up"]
TEAM = """
[tickets]
task = "classification"
file = "tickets"
text = "subject+body"
label = "queue"
max_length = 16
train_rows = 20

[price]
task = "classification"
file = "tickets"
text = "body"
label = "price"
max_length = 16
"""
QUICK = {"train.steps": "2", "train.batch_size": "4", "backbone.layers": "1"}


def plan(*tasks: str, **values: Any) -> list[PlannedCell]:
    return make_plan(make_config({"models": ("softmax",), "tasks": tasks, "offline": True, **values}))


def measured(planned: PlannedCell, **values: Any) -> CellOutcome:
    """A cell as its process measures it, after the way to that process."""
    config = make_config({"models": ("softmax",), "tasks": ("stdlib",), "offline": True, **values})
    job = CellJob(planned, config, Path("out").resolve(), make_sources(config), threads=1)
    return run_job(pickle.loads(pickle.dumps(job)), lambda _: None)


def write(file: Path, rows: Sequence[dict[str, Any]]) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")


def write_notes(mirror: Path, *splits: str) -> None:
    """The data set `org/notes` of one row in each split."""
    folder = mirror / "datasets" / "org" / "notes" / "default"
    folder.mkdir(parents=True)
    for split in splits:
        pd.DataFrame({"note": ["a"], "gist": ["b"]}).to_parquet(folder / f"{split}-0.parquet")


@pytest.fixture
def team(tmp_path: Path) -> Path:
    """A folder with a file of tasks and their data."""
    folder = tmp_path / "team"
    for split, count in (("train", 30), ("test", 12)):
        rows = [
            {"subject": f"s{i}", "body": "so " * (i % 5), "queue": ("billing", "tech")[i % 2], "price": i / 4}
            for i in range(count)
        ]
        write(folder / "tickets" / f"{split}.jsonl", rows)
    (folder / "team.toml").write_text(TEAM, encoding="utf-8")
    return folder


def test_a_file_of_the_articles_of_wikitext2_has_its_numbers(tmp_path: Path) -> None:
    save_tiny("llama", tmp_path / "llama")
    mirror = tmp_path / "mirror"
    rows = [row for text in ARTICLES for row in ("", f" = {text.split()[0]} = \n", "", f" {text} \n")]
    folder = mirror / "datasets" / "Salesforce" / "wikitext" / "wikitext-2-v1"
    folder.mkdir(parents=True)
    pd.DataFrame({"text": rows}).to_parquet(folder / "test-00000-of-00001.parquet")
    write(Path("own.jsonl"), [{"text": f" = {text.split()[0]} = \n {text} \n"} for text in ARTICLES])
    values = {"backbone": f"hf:{tmp_path / 'llama'}", "mirror": str(mirror), "recipe": "zero-shot"}
    set_ = {"context_length": "32", "stride": "8", "train_bytes": "0"}
    theirs, own = (
        measured(cell, **values).record for cell in plan("wikitext2", "perplexity:file=own.jsonl", set=set_, **values)
    )
    assert own.status == "ok", own.error
    assert own.metrics == theirs.metrics
    assert own.main_metric == "perplexity"
    assert own.data is not None
    assert (own.data.id, own.data.source, own.data.splits) == ("own.jsonl", "file", {"test": 3})


def test_tasks_of_a_file_are_measured_under_their_names_and_scored_again(team: Path, tmp_path: Path) -> None:
    cells = plan(f"{team / 'team.toml'}", set=QUICK)
    assert [cell.cell.task for cell in cells] == ["classification:tickets", "classification:price"]
    store = RunStore(tmp_path / "run")
    store.create()
    for cell, main in zip(cells, ("accuracy", "pearson"), strict=True):
        outcome = measured(cell)
        record = outcome.record
        assert record.status == "ok", record.error
        assert (record.main_metric, record.recipe) == (main, "scratch")
        assert record.settings["task.file"] == "tickets"
        store.write_samples(record.cell_id, outcome.rows)
        again = rescore(replace(record, metrics=()), store)
        scored = {metric.name for metric in again.metrics}
        assert again.metrics == tuple(metric for metric in record.metrics if metric.name in scored)
        assert main in scored


def test_a_cell_s_key_has_the_content_of_the_file_and_of_the_data_but_not_their_place(
    team: Path, tmp_path: Path
) -> None:
    def key(folder: Path) -> str:
        (cell,) = plan(f"{folder / 'team.toml'}:tickets", set=QUICK)
        return cell.cell.key

    moved = shutil.copytree(team, tmp_path / "elsewhere")
    first = key(team)
    assert key(moved) == first
    (moved / "team.toml").write_text(TEAM.replace("train_rows = 20", "train_rows = 21"), encoding="utf-8")
    assert key(moved) != first
    (moved / "team.toml").write_text(TEAM, encoding="utf-8")
    write(moved / "tickets" / "test.jsonl", [{"subject": "s", "body": "b", "queue": "tech", "price": 1.5}])
    assert key(moved) != first


def test_one_task_of_a_file_takes_further_settings(team: Path) -> None:
    (cell,) = plan(f"{team / 'team.toml'}:tickets:max_length=12", set=QUICK)
    assert cell.cell.task == "classification:tickets:max_length=12"
    assert cell.cell.settings["task"]["max_length"] == 12


def test_data_that_change_after_the_plan_are_an_error(team: Path) -> None:
    cell, _ = plan(f"{team / 'team.toml'}", set=QUICK)
    write(team / "tickets" / "test.jsonl", [{"subject": "s", "body": "b", "queue": "tech", "price": 1.5}])
    record = measured(cell).record
    assert record.status == "error"
    assert record.error is not None
    assert "tickets changed while the run went on" in record.error.message


@pytest.mark.parametrize(
    ("content", "asked", "message"),
    [
        (TEAM, "team.toml:ticket", "unknown task in .*team.toml 'ticket'; did you mean tickets"),
        (TEAM, "tem.toml", "unknown file of tasks in .*'tem.toml'; did you mean team.toml"),
        (TEAM.replace("max_length", "max_lenth"), "team.toml", "task classification:tickets 'max_lenth'; did you mean"),
        (TEAM.replace("classification", "clasification"), "team.toml", "unknown task 'clasification'; did you mean"),
        (TEAM.replace('"queue"', '"quue"'), "team.toml", "given as label, 'quue'; did you mean queue"),
        (TEAM.replace('"tickets"', '"tickts"'), "team.toml", "given as file, 'tickts'; did you mean tickets"),
        ("[a]\nfile = 'x'\n", "team.toml", "'a' in .*declares no task; a task is a table"),
        ("a = 1\n", "team.toml", "'a' in .*declares no task"),
        ("", "team.toml", "declares no task"),
        ("[a", "team.toml", "cannot read tasks from"),
        ("[a]\ntask = 'stdlib'\n[a.train]\nsteps = 1\n", "team.toml", "a.train in .* is a table; allowed: settings"),
    ],
)
def test_what_a_file_of_tasks_gets_wrong_is_told_before_anything_runs(
    team: Path, content: str, asked: str, message: str
) -> None:
    (team / "team.toml").write_text(content, encoding="utf-8")
    with pytest.raises(UsageError, match=message):
        plan(str(team / asked))


def test_a_training_recipe_needs_a_training_split(team: Path, tmp_path: Path) -> None:
    save_tiny("llama", tmp_path / "llama")
    task = f"perplexity:file={team / 'tickets' / 'test.jsonl'}:column=subject"
    (cell,) = plan(task, backbone=f"hf:{tmp_path / 'llama'}")
    assert cell.cell.recipe == "zero-shot"
    with pytest.raises(UsageError, match=r"'pretrained-conversion'.*allowed: zero-shot"):
        plan(task, backbone=f"hf:{tmp_path / 'llama'}", recipe="pretrained-conversion")
    write_notes(tmp_path / "mirror", "test")
    values = {"backbone": f"hf:{tmp_path / 'llama'}", "mirror": str(tmp_path / "mirror")}
    message = "recipe pretrained-conversion trains, and org/notes/default has no training split that is read; allowed: "
    with pytest.raises(UsageError, match=message):
        plan("perplexity:column=note:dataset=org/notes", recipe="pretrained-conversion", **values)


def test_a_task_on_a_data_set_of_the_hub_keeps_its_key(tmp_path: Path) -> None:
    write_notes(tmp_path / "mirror", "train", "validation", "test")
    names = "summarization:dataset=org/notes:source=note:target=gist"
    (cell,) = plan(names, mirror=str(tmp_path / "mirror"), backbone="gpt", set={"tokenizer": "byte"})
    assert cell.task is protocol.SUMMARIZATION
    assert cell.cell.scoring == scoring_fingerprint(protocol.SUMMARIZATION)
    assert cell.cell.settings["task"].keys() == protocol.SUMMARIZATION.info.scales["smoke"].settings.keys()


def test_the_file_of_tasks_in_the_documentation_is_planned_as_it_says(team: Path, tmp_path: Path) -> None:
    (declared,) = re.findall(r"```toml\n(.*?)```", PAGE.read_text(encoding="utf-8"), re.DOTALL)
    (team / "team.toml").write_text(declared.replace('label = "hours"', 'label = "price"'), encoding="utf-8")
    (team / "manual.txt").write_text("# one\ntext\n# two\ntext\n", encoding="utf-8")
    write(team / "letters.jsonl", [{"letter": "a", "gist": "b", "title": "c"}])
    save_tiny("llama", tmp_path / "llama")
    backbones = {
        "tickets": None,
        "effort": None,
        "manual": f"hf:{tmp_path / 'llama'}",
        "letters": f"hf:{tmp_path / 'llama'}",
    }
    found = {}
    for name, backbone in backbones.items():
        (cell,) = plan(
            f"{team / 'team.toml'}:{name}",
            backbone=backbone,
            **({"set": {"context_length": "128"}} if backbone else {}),
        )
        found[cell.cell.task] = cell.task.info.main_metric
    assert found == {
        "classification:tickets": "f1",
        "classification:effort": "pearson",
        "perplexity:manual": "perplexity",
        "summarization:letters": "rouge1",
    }


@pytest.mark.parametrize(
    "task",
    ["perplexity:file=none.txt", "classification:dataset=org/none", "summarization:dataset=org/none:source=a:target=b"],
)
def test_the_command_ends_with_2_and_leaves_no_run(bench: Bench, task: str) -> None:
    Path("mirror", "datasets", "org", "notes").mkdir(parents=True)
    done = bench("run", "--models", "softmax", "--tasks", f"stdlib,{task}", "--backbone", "gpt", "--mirror", "mirror")
    assert done.code == 2
    assert "none" in done.err
    assert "did you mean org/notes" in done.err or "file=" in task
    assert not Path("results").exists()
