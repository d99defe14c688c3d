from __future__ import annotations

import io
from collections.abc import Callable

import pytest
from rich.console import Console

from hedgebench.results.record import Record
from hedgebench.results.terminal.details import print_leaderboard

MakeRecord = Callable[..., Record]


def printed(records: list[Record], width: int = 80, terminal: bool = False) -> str:
    file = io.StringIO()
    print_leaderboard(
        records, Console(file=file, width=width, force_terminal=terminal, color_system="standard" if terminal else None)
    )
    return file.getvalue()


@pytest.mark.parametrize("width", [40, 80, 200])
def test_no_line_is_wider_than_the_console_and_no_number_is_lost(showcase: list[Record], width: int) -> None:
    text = printed(showcase, width)
    assert max(map(len, text.splitlines())) <= width
    for number in ("0.530 ±0.030", "21.400 ±0.058", "1 of 8", "OOM"):
        assert number in text


def test_percentages_are_shown_where_there_is_room(showcase: list[Record]) -> None:
    assert "(93.9%)" in printed(showcase, 160)
    assert "(93.9%)" not in printed(showcase, 80)


def test_budgets_are_printed_below_the_main_metrics(make_trained: MakeRecord) -> None:
    text = printed([make_trained("softmax", 100, 3.0, 4096), make_trained("elu", 250, 6.0, 1024)])
    assert text.index("budget of training") < text.index("25,000") < text.index("not given equal budgets")


def test_names_are_not_read_as_markup(make_record: MakeRecord) -> None:
    assert "[red]x[/]" in printed([make_record("[red]x[/]")])


def test_no_color_is_honoured(showcase: list[Record], monkeypatch: pytest.MonkeyPatch) -> None:
    assert "\x1b[31m" in printed(showcase, terminal=True)
    monkeypatch.setenv("NO_COLOR", "1")
    assert "\x1b[31m" not in printed(showcase, terminal=True)


def test_no_records_are_said_to_be_none() -> None:
    assert printed([]) == "No results yet.\n"
