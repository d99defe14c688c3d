"""Tests of results/paper/claims.py."""

from __future__ import annotations

import io
import math
from dataclasses import replace
from typing import Any

import pytest
from rich.console import Console

from hedgebench.results.paper.claims import (
    ClaimLine,
    ClaimNumbers,
    Reported,
    claims_json,
    claims_table,
    print_claims,
)

NUMBERS = ClaimNumbers("a over b", 80.31, 0.61, 78.9, 81.7, 0.001, 68.6, "%", 5, 4358)
HOLDS = ClaimLine("gap", "table-7", "A closes the gap", "holds", (Reported(68.6, 68.6, "%", "paper"),), NUMBERS)
GONE = ClaimLine("lora", "table-11", "A keeps what B breaks", "not judged", note="samsum is an illustration")


@pytest.mark.parametrize(
    ("number", "text"),
    [
        (Reported(99, 99, "%", "paper", "at least"), "at least 99% (P)"),
        (Reported(4.8, 6.0, "", "derived"), "4.8 to 6 (D)"),
        (Reported(-3.7, -3.7, "points", "unverified"), "-3.7 points (U)"),
    ],
)
def test_a_reported_number_stands_with_its_relation_unit_and_mark(number: Reported, text: str) -> None:
    assert number.text == text


def test_numbers_have_the_digits_of_their_error() -> None:
    assert (NUMBERS.text, NUMBERS.interval, NUMBERS.above) == ("80.31 ± 0.61 %", "78.90 to 81.70", "68.6 %")


def test_an_interval_without_ends_says_why() -> None:
    unbounded = replace(NUMBERS, low=-math.inf, high=math.inf)
    assert unbounded.interval == "no bound"
    assert replace(unbounded, seeds=1).interval == "one seed, no interval"


def printed(width: int, *lines: ClaimLine) -> str:
    out = io.StringIO()
    print_claims(lines, Console(file=out, width=width))
    return out.getvalue()


def test_the_terminal_shows_every_part_within_80_columns() -> None:
    text = printed(80, HOLDS, GONE)
    assert max(map(len, text.splitlines())) <= 80
    flat = " ".join(text.split())
    for part in (
        *("holds A closes the gap", "table 7", "reported 68.6% (P)", "must exceed 68.6", "seeds: 5, 4,358 documents"),
        *("measured 80.31 ± 0.61 % (78.90 to 81.70)", "of a over b", "reported not known"),
        *("not judged: samsum is an illustration", "2 claims: holds 1, not judged 1."),
    ):
        assert part in flat


def test_the_table_has_the_same_numbers_and_reasons() -> None:
    (_, held), (_, gone) = claims_table("Claims", [HOLDS, GONE]).rows
    assert [entry.text for entry in held] == [
        "holds",
        "68.6% (P)",
        "80.31 ± 0.61 %",
        "68.6 %",
        "5",
        "4,358",
        "a over b",
    ]
    assert (gone[0].text, gone[0].note, gone[1].text) == ("not judged", "samsum is an illustration", "not known")


@pytest.mark.parametrize(
    ("verdict", "failed", "pale"),
    [("holds", False, False), ("does not hold", True, False), ("undecided", False, True)],
)
def test_a_claim_that_does_not_hold_stands_out_and_one_that_is_undecided_stands_back(
    verdict: Any, failed: bool, pale: bool
) -> None:
    ((_, (entry, *_)),) = claims_table("Claims", [replace(HOLDS, verdict=verdict)]).rows
    assert (entry.failed, entry.pale) == (failed, pale)


def test_json_has_plain_numbers() -> None:
    first, second = claims_json([HOLDS, GONE])
    assert first["measured"]["value"] == 80.31
    assert first["reported"] == ({"low": 68.6, "high": 68.6, "unit": "%", "mark": "paper", "relation": ""},)
    assert (second["measured"], second["reported"]) == (None, ())
