"""What `bench list` shows, as a table and as JSON."""

from __future__ import annotations

import io
import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from hedgebench.adapters.backbone import BACKBONES
from hedgebench.harness import arguments, registry
from hedgebench.harness.commands.listing import LISTINGS, listing, print_lines, print_listing
from hedgebench.harness.recipes import RECIPES
from hedgebench.harness.suites import SUITES
from hedgebench.results.names import UnknownNameError, UsageError


@pytest.mark.parametrize("what", LISTINGS)
def test_a_listing_has_a_row_for_each_thing_and_is_json(what: str) -> None:
    rows, problems = listing(what)
    known = {
        "models": registry.mechanisms().items,
        "tasks": [*registry.tasks().items, *(f"{prefix}NAME" for prefix in registry.tasks().families)],
        "backbones": BACKBONES,
        "recipes": RECIPES,
        "suites": SUITES,
    }
    assert [row[what.removesuffix("s")] for row in rows] == list(known[what])
    assert all(list(row) == list(rows[0]) for row in rows)
    assert problems == []
    assert json.loads(json.dumps(rows)) == rows


def test_every_row_of_tasks_says_what_data_it_needs() -> None:
    rows = {row["task"]: row["data"] for row in listing("tasks")[0]}
    assert rows["lm_eval/NAME"] == ["the repository or files that each task names"]
    assert all(rows.values())


def test_the_command_line_offers_every_listing() -> None:
    assert tuple(LISTINGS) == arguments.LISTINGS


def test_options_show_their_choices_or_their_type() -> None:
    rows = {row["model"]: row for row in listing("models")[0]}
    assert rows["hedgehog"]["options"]["map"] == "exp|exp_max|softmax|softmax_joint"
    assert rows["performer"]["options"]["feature_dim"] == "int"


def test_a_pattern_is_a_name_a_glob_or_a_group() -> None:
    def names(pattern: str) -> list[str]:
        return [row["task"] for row in listing("tasks", pattern)[0]]

    assert names("glue/*") == [
        f"glue/{n}" for n in ("cola", "mnli", "mrpc", "qnli", "qqp", "rte", "sst2", "stsb", "wnli")
    ]
    assert set(names("glue")) == set(names("glue/*")) - {"glue/wnli"}
    assert names("wikitext2") == ["wikitext2"]
    with pytest.raises(UnknownNameError, match=r"unknown task 'wikitext'; did you mean wikitext2"):
        names("wikitext")
    assert [row["model"] for row in listing("models", "t2r*")[0]] == ["t2r", "t2r_hh"]


def test_tasks_stand_under_their_rooms_one_line_each_within_80_columns() -> None:
    text = io.StringIO()
    print_lines(listing("tasks")[0], Console(file=text, width=80))
    lines = text.getvalue().splitlines()
    rooms = [line for line in lines if not line.startswith(" ")]
    assert rooms[:2] == ["classification", "efficiency"]
    assert "lra (Long Range Arena)" in rooms
    assert len(lines) - len(rooms) == len(listing("tasks")[0])
    assert max(map(len, lines)) <= 80
    assert any(
        re.fullmatch(r"  glue/cola +Is the sentence grammatical\? \(Matthews correlation\)", line) for line in lines
    )
    assert not re.search(r"[0-9a-f]{8}", text.getvalue())


def test_a_task_that_others_import_stands_in_the_room_that_declares_it() -> None:
    rooms = {row["task"]: row["room"] for row in listing("tasks")[0]}
    assert (rooms["digits"], rooms["glue/cola"], rooms["stdlib"]) == ("images", "classification", "language")


def test_the_command_prints_lines_a_page_a_table_or_json(bench: Callable[..., Any]) -> None:
    assert bench("list", "tasks", "lra").out.startswith("lra (Long Range Arena)\n")
    assert bench("list", "tasks", "stdlib").out.startswith("stdlib\n  Perplexity on the source")
    assert "PSF-2.0" in bench("list", "tasks", "stdlib", "--long").out
    assert json.loads(bench("list", "tasks", "lra", "--json").out)[0]["task"] == "lra/image"
    refused = bench("list", "models", "hedghog")
    assert (refused.code, "did you mean hedgehog" in refused.err) == (2, True)


def test_a_plugins_task_is_among_plugins(add_plugin: Callable[[str, str, str, str], None]) -> None:
    code = "from dataclasses import replace\nfrom hedgebench.tasks.language.stdlib import STDLIB\n"
    code += "TASK = replace(STDLIB, info=replace(STDLIB.info, name='mine'))\n"
    add_plugin("mine", "hedgebench.tasks", "mine:TASK", code)
    assert listing("tasks", "mine")[0][0]["room"] == "plugins"


def test_tasks_that_files_declare_are_listed_where_they_lie(bench: Callable[..., Any], tmp_path: Path) -> None:
    tickets = '[tickets]\ntask = "classification"\nfile = "tickets"\ntext = "a+b"\nmetric = "f1"\n'
    (tmp_path / "my_team.toml").write_text(tickets + '[manual]\ntask = "perplexity"\nfile = "manual.txt"\n')
    (tmp_path / "pyproject.toml").write_text('[project]\nname = "other"\n')
    (tmp_path / "broken.toml").write_text('[x]\ntask = "perplexiti"\n')
    everything = bench("list", "tasks")
    lines = everything.out.splitlines()
    place = lines.index("my_team.toml")
    assert lines[place + 1 : place + 3] == [
        "  my_team.toml:tickets  classification: file=tickets, text=a+b, metric=f1",
        "  my_team.toml:manual   perplexity: file=manual.txt",
    ]
    assert "pyproject.toml" not in everything.out
    assert "warning: broken.toml is not usable: unknown task 'perplexiti'; did you mean perplexity" in everything.err
    assert bench("list", "tasks", "my_team.toml").out.splitlines() == lines[place : place + 3]
    page = bench("list", "tasks", "my_team.toml:tickets").out
    for part in (
        "tickets\n",
        "  main metric: f1\n",
        "  declared as: classification: file=tickets, text=",
        "bench run ",
    ):
        assert part in page
    assert bench("list", "tasks", "broken.toml").code == 2
    assert "did you mean manual" in bench("list", "tasks", "my_team.toml:manul").err


def test_a_table_writes_lists_and_mappings_out() -> None:
    text = io.StringIO()
    rows = [{"name": "a", "list": ["x", "y"], "map": {"k": 1}}, {"name": "[b]", "list": [], "map": {}}]
    print_listing(rows, Console(file=text, width=80))
    assert "x, y" in text.getvalue()
    assert "k=1" in text.getvalue()
    assert "[b]" in text.getvalue()


def test_an_empty_listing_says_so() -> None:
    text = io.StringIO()
    print_listing([], Console(file=text, width=80))
    assert "nothing" in text.getvalue()


def test_a_broken_plugin_is_told_with_its_reason(add_plugin: Callable[[str, str, str, str], None]) -> None:
    add_plugin("broken", "hedgebench.tasks", "broken:TASK", "import nothing_of_the_kind")
    rows, problems = listing("tasks")
    assert "stdlib" in {row["task"] for row in rows}
    assert problems == [
        "plugin 'broken' is not usable: ModuleNotFoundError: No module named 'nothing_of_the_kind'",
    ]
    with pytest.raises(UsageError, match="plugin 'broken' is not usable: ModuleNotFoundError"):
        listing("tasks", "broken")
