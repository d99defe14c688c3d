"""What `bench list` shows, as a table and as JSON."""

from __future__ import annotations

import io
import json
from collections.abc import Callable

import pytest
from rich.console import Console

from hedgebench.adapters.backbone import BACKBONES
from hedgebench.harness import cli, registry
from hedgebench.harness.commands.listing import LISTINGS, listing, print_listing
from hedgebench.harness.recipes import RECIPES
from hedgebench.harness.suites import SUITES


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
    assert tuple(LISTINGS) == cli.LISTINGS


def test_options_show_their_choices_or_their_type() -> None:
    rows = {row["model"]: row for row in listing("models")[0]}
    assert rows["hedgehog"]["options"]["map"] == "exp|exp_max|softmax|softmax_joint"
    assert rows["performer"]["options"]["feature_dim"] == "int"


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
