"""Answers of a model by our model of lm-eval and by lm-eval's own `hf`, and the time they take, as JSON.

A program of its own: under pytest every call of ours has its types checked, which costs a tenth of the time.
"""

from __future__ import annotations

import json
import os
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from hedgebench.tasks.base import Sources
from hedgebench.tasks.data.sources import cache_folder

SMOLLM2, RANDOM_GPT2 = "smollm2-135m", "random-gpt2"
MODELS = (SMOLLM2, RANDOM_GPT2)
TASKS = ("lambada_openai", "arc_easy", "piqa")
SHOTS = 5
FEW_SHOT = f"arc_easy_{SHOTS}_shot"
MULTIPLE_CHOICE = (*TASKS[1:], FEW_SHOT)
"""Tasks in which requests share contexts; the examples of the last one are from the tested split."""
ROLLING, GENERATION = "rolling", "generation"
ASKED = (*TASKS, FEW_SHOT, ROLLING, GENERATION)
BATCH = 8
_METHODS = {ROLLING: "loglikelihood_rolling", GENERATION: "generate_until"}
_GENERATION = {"until": ["\n\n"], "max_gen_toks": 32, "do_sample": False}


def main(mirror: Path, model: str, asked: str, limit: int, rounds: int, share_context: bool) -> None:
    """Prints the answers of both, and pairs of seconds, ours first.

    Args:
        mirror: Folder with the data, and with the weights where the package does not carry them.
        model: One of `MODELS`.
        asked: One of `ASKED`.
        limit: How many documents or texts.
        rounds: How often both are timed.
        share_context: Whether ours reads the context of several continuations once.
    """
    sources = Sources(mirror, cache_folder(), offline=True)
    with tempfile.TemporaryDirectory() as folder:
        models = make_models(model, sources, Path(folder), share_context)
        method = _METHODS.get(asked, "loglikelihood")
        requests = requests_of(asked, models[0], sources, limit)
        calls = [partial(getattr(each, method), requests) for each in models]
        ours, theirs = (call() for call in calls)
        pairs = [(seconds(calls[0]), seconds(calls[1])) for _ in range(rounds)]
    print(json.dumps({"ours": ours, "theirs": theirs, "pairs": pairs}))


def make_models(name: str, sources: Sources, folder: Path, share_context: bool) -> tuple[Any, Any]:
    """Ours and lm-eval's model of the same checkpoint, in float32; a random one is written to `folder`.

    Raises:
        DataUnavailableError: SmolLM2, whose tokenizer the random one has too, is nowhere.
    """
    import torch
    from lm_eval.models import huggingface

    from hedgebench.harness.commands.lm_eval_model import HedgebenchLM
    from hedgebench.harness.weights.backbone_names import backbone_from_name
    from hedgebench.harness.weights.locate import locate, materialise

    torch.set_num_threads(len(os.sched_getaffinity(0)))
    checkpoint = materialise(locate(backbone_from_name(SMOLLM2, sources), sources), sources)
    if name == RANDOM_GPT2:
        save_random_gpt2(checkpoint, folder)
        checkpoint = folder
    kind: Any = huggingface.HFLM
    common: Any = {"device": "cpu", "dtype": "float32", "batch_size": BATCH}
    ours: Any = HedgebenchLM(backbone=str(checkpoint), offline=True, share_context=share_context, **common)
    return ours, kind(pretrained=str(checkpoint), **common)


def save_random_gpt2(tokenizer_of: Path, folder: Path) -> None:
    """A GPT-2 of 4 layers, 512 positions and random weights, with the tokenizer of another checkpoint."""
    import torch
    from transformers import AutoTokenizer, GPT2Config, GPT2LMHeadModel

    tokenizer = AutoTokenizer.from_pretrained(tokenizer_of)
    ends = {"bos_token_id": tokenizer.eos_token_id, "eos_token_id": tokenizer.eos_token_id}
    torch.manual_seed(0)
    kind: Any = GPT2LMHeadModel
    kind(
        GPT2Config(vocab_size=len(tokenizer), n_positions=512, n_embd=256, n_layer=4, n_head=4, **ends)
    ).save_pretrained(folder)
    tokenizer.model_max_length = 512
    tokenizer.save_pretrained(folder)


def requests_of(asked: str, model: Any, sources: Sources, limit: int) -> list[Any]:
    """What lm-eval asks about the first documents of a task, or about texts of very different lengths."""
    if asked in (*TASKS, FEW_SHOT):
        task = task_of(asked, sources)
        task.build_all_requests(limit=limit, rank=0, world_size=1, tokenizer_name=model.tokenizer_name)
        return list(task.instances)
    from lm_eval.api import instance

    make: Any = instance.Instance
    extra = (_GENERATION,) if asked == GENERATION else ()
    texts = uneven([document["text"] for document in task_of(TASKS[0], sources).test_docs()], limit)
    return [make(request_type=_METHODS[asked], doc={}, arguments=(text, *extra), idx=i) for i, text in enumerate(texts)]


def task_of(name: str, sources: Sources) -> Any:
    """A task of lm-eval over the mirror's data."""
    from hedgebench.tasks.lm_eval.data import load_data, wanted
    from hedgebench.tasks.lm_eval.task import LM_EVAL, _make_task

    found: Any = LM_EVAL.get(f"lm_eval/{'arc_easy' if name == FEW_SHOT else name}")
    if name == FEW_SHOT:
        with tempfile.TemporaryDirectory() as folder:
            file = Path(folder, "few_shot.yaml")
            own = f"task: {FEW_SHOT}\nfewshot_split: test\nnum_fewshot: {SHOTS}\n"
            file.write_text(f"include: {found.config.path}\n{own}")
            found = LM_EVAL.get(f"lm_eval/{file}")
            found.config.loaded()
    shots = found.config.shots(None)
    return _make_task(found.config, shots, load_data(wanted(found.config, shots), sources), seed=1234)


def uneven(texts: Sequence[str], count: int) -> list[str]:
    """Texts from 2 words to some hundreds: each one to six texts together, cut to a share that changes."""
    made = []
    for i in range(count):
        words = " ".join(texts[(7 * i + k) % len(texts)] for k in range(1 + i % 6)).split(" ")
        made.append(" ".join(words[: max(2, len(words) * (1 + 3 * i % 8) // 8)]))
    return made


def seconds(call: Callable[[], object]) -> float:
    """Wall time of a call."""
    start = time.perf_counter()
    call()
    return time.perf_counter() - start


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2], sys.argv[3], int(sys.argv[4]), int(sys.argv[5]), sys.argv[6] == "share")
