"""Scores of SmolLM2 by our model of lm-eval and by lm-eval's own `hf`, and the time they take, as JSON.

A program of its own: under pytest every call of ours has its types checked, which costs a tenth of the time.
"""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

from hedgebench.tasks.base import Sources

BACKBONE, BATCH = "smollm2-135m", 8


def main(mirror: Path, name: str, limit: int, rounds: int) -> None:
    """Prints scores and pairs of seconds, ours first."""
    models = make_models(mirror)
    requests = requests_of(name, models[0], mirror, limit)
    calls = [partial(model.loglikelihood, requests) for model in models]
    ours, theirs = (call() for call in calls)
    pairs = [(seconds(calls[0]), seconds(calls[1])) for _ in range(rounds)]
    print(json.dumps({"ours": ours, "theirs": theirs, "pairs": pairs}))


def make_models(mirror: Path) -> tuple[Any, Any]:
    """Ours and lm-eval's model of the same checkpoint, in float32.

    Raises:
        DataUnavailableError: The checkpoint is nowhere.
    """
    import torch
    from lm_eval.models import huggingface

    from hedgebench.harness.backbone_names import backbone_from_name
    from hedgebench.harness.lm_eval_model import HedgebenchLM
    from hedgebench.harness.weights import locate, materialise
    from hedgebench.tasks.sources import cache_folder

    torch.set_num_threads(len(os.sched_getaffinity(0)))
    sources = Sources(mirror, cache_folder(), offline=True)
    folder = materialise(locate(backbone_from_name(BACKBONE, sources), sources), sources)
    kind: Any = huggingface.HFLM
    theirs = kind(pretrained=str(folder), device="cpu", dtype="float32", batch_size=BATCH)
    ours: Any = HedgebenchLM(backbone=BACKBONE, mirror=str(mirror), dtype="float32", batch_size=BATCH, offline=True)
    return ours, theirs


def requests_of(name: str, model: Any, mirror: Path, limit: int) -> list[Any]:
    """What lm-eval asks about the first documents."""
    from hedgebench.tasks.lm_eval_data import load_data, wanted
    from hedgebench.tasks.lm_eval_task import LM_EVAL, _make_task

    found: Any = LM_EVAL.get(f"lm_eval/{name}")
    shots = found.config.shots(None)
    data = load_data(wanted(found.config, shots), Sources(mirror, mirror / "none", offline=True))
    task: Any = _make_task(found.config, shots, data, seed=1234)
    task.build_all_requests(limit=limit, rank=0, world_size=1, tokenizer_name=model.tokenizer_name)
    return list(task.instances)


def seconds(call: Callable[[], object]) -> float:
    """Wall time of a call."""
    start = time.perf_counter()
    call()
    return time.perf_counter() - start


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2], int(sys.argv[3]), int(sys.argv[4]))
