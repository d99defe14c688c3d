"""What the harness itself costs beside lm-eval's: start, first result, scoring. Minutes on a quiet machine.

Run with `pytest -m slow -s tests/harness/test_against_lm_eval.py`; each test prints what it measured, pair by pair.
"""

from __future__ import annotations

import importlib
import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1800)]

CONTEXT_LENGTH, BATCH = 256, 8
DOCUMENTS, DOCUMENT_TOKENS = 2, 8 * CONTEXT_LENGTH
PAIRS = 5
BENCH = (sys.executable, "-m", "hedgebench")
LM_EVAL = (sys.executable, "-m", "lm_eval")
TASK = """\
task: local_text
dataset_path: json
dataset_kwargs: {{data_files: {{test: {file}}}}}
output_type: loglikelihood_rolling
test_split: test
doc_to_text: ""
doc_to_target: "{{{{text}}}}"
metric_list: [{{metric: byte_perplexity}}]
"""


def seconds(command: tuple[str, ...]) -> float:
    """Wall time of a command that ends well."""
    start = time.perf_counter()
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    return time.perf_counter() - start


def ratios(name: str, ours: Callable[[], float], theirs: Callable[[], float]) -> list[float]:
    """Ours over theirs of each pair, measured in turn, so that what else runs slows both."""
    pairs = [(ours(), theirs()) for _ in range(PAIRS)]
    found = [a / b for a, b in pairs]
    shown = ", ".join(f"{a:.3g}/{b:.3g}" for a, b in pairs)
    spread = f"{min(found):.3f} to {max(found):.3f}"
    print(f"\n{name}: median ratio {statistics.median(found):.3f}, {spread} (n={PAIRS}: {shown})")
    return found


@pytest.fixture(scope="module")
def texts() -> list[str]:
    """Documents whose tokens, one per byte, fill whole batches of whole windows, as both programs make them.

    At a last, partial window the two give the model other contexts.
    """
    import sysconfig

    source = Path(sysconfig.get_paths()["stdlib"], "argparse.py").read_text(encoding="utf-8")
    ascii_text = source.encode("ascii", "ignore").decode()
    return [ascii_text[i * DOCUMENT_TOKENS :][:DOCUMENT_TOKENS] for i in range(DOCUMENTS)]


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A random GPT-2 of 10 million parameters that reads bytes, as both programs load it."""
    import torch
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers
    from transformers import GPT2Config, GPT2LMHeadModel, PreTrainedTokenizerFast

    folder = tmp_path_factory.mktemp("checkpoint")
    torch.manual_seed(0)
    config = GPT2Config(n_embd=384, n_layer=4, n_head=6, n_positions=CONTEXT_LENGTH, vocab_size=8192,
                        bos_token_id=256, eos_token_id=256)  # fmt: skip
    GPT2LMHeadModel(config).save_pretrained(folder)
    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    tokenizer = Tokenizer(models.BPE({letter: index for index, letter in enumerate(letters)}, []))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens(["<|endoftext|>"])
    special = {"bos_token": "<|endoftext|>", "eos_token": "<|endoftext|>"}
    wrapper: Any = PreTrainedTokenizerFast
    wrapper(tokenizer_object=tokenizer, **special).save_pretrained(folder)
    return folder


@pytest.mark.parametrize(
    ("ours", "theirs"), [(("--help",), ("--help",)), (("list", "tasks"), ("ls", "tasks"))], ids=["help", "list"]
)
def test_the_command_line_answers_in_less_than_half_the_time(ours: tuple[str, ...], theirs: tuple[str, ...]) -> None:
    found = ratios(" ".join(ours), lambda: seconds((*BENCH, *ours)), lambda: seconds((*LM_EVAL, *theirs)))
    assert statistics.median(found) < 0.5


def test_the_first_result_is_there_in_less_than_half_the_time(
    checkpoint: Path, texts: list[str], tmp_path: Path
) -> None:
    import pandas

    mirror = tmp_path / "mirror"
    folder = mirror / "datasets/Salesforce/wikitext/wikitext-2-v1"
    folder.mkdir(parents=True)
    for split in ("train", "validation", "test"):
        pandas.DataFrame({"text": texts}).to_parquet(folder / f"{split}-00000-of-00001.parquet")
    lines = tmp_path / "test.jsonl"
    lines.write_text("".join(json.dumps({"text": text}) + "\n" for text in texts), encoding="utf-8")
    (tmp_path / "local_text.yaml").write_text(TASK.format(file=lines), encoding="utf-8")
    out = iter(range(10**6))

    def ours() -> float:
        command = (*BENCH, "run", "--models", "softmax", "--tasks", "wikitext2", "--backbone", f"hf:{checkpoint}")
        flags = ("--recipe", "zero-shot", "--mirror", mirror, "--output", tmp_path / f"ours{next(out)}")
        sizes = ("--set", f"context_length={CONTEXT_LENGTH}", "--set", "test_bytes=none")
        return seconds_to_first_cell((*command, *map(str, flags), *sizes))

    def theirs() -> float:
        command = (*LM_EVAL, "run", "--model", "hf", "--model_args", f"pretrained={checkpoint}", "--device", "cpu")
        flags = ("--tasks", "local_text", "--include_path", str(tmp_path), "--batch_size", str(BATCH))
        return seconds((*command, *flags))

    assert statistics.median(ratios("bench run to its first cell", ours, theirs)) < 0.5


def seconds_to_first_cell(command: tuple[str, ...]) -> float:
    start = time.perf_counter()
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True) as process:
        assert process.stdout is not None
        printed, taken = [], 0.0
        for line in process.stdout:
            printed.append(line)
            if line.startswith("[1/1]"):
                taken = time.perf_counter() - start
                break
        rest = process.stdout.read()
    assert process.returncode == 0, "".join(printed) + rest
    return taken


def test_scoring_is_as_fast_takes_less_memory_and_gives_the_same(checkpoint: Path, texts: list[str]) -> None:
    import torch

    from hedgebench.tasks.measuring.allocation import peak_memory

    torch.set_num_threads(len(os.sched_getaffinity(0)))
    ours, theirs = our_scores(checkpoint, texts), their_scores(checkpoint, texts)
    assert ours() == pytest.approx(theirs(), rel=1e-4)

    def tokens_per_s(call: Callable[[], object]) -> Callable[[], float]:
        def timed() -> float:
            start = time.perf_counter()
            call()
            return DOCUMENTS * DOCUMENT_TOKENS / (time.perf_counter() - start)

        return timed

    speed = ratios("tokens per second of scoring", tokens_per_s(ours), tokens_per_s(theirs))
    peaks = [peak_memory(call, torch.device("cpu")).allocated_bytes for call in (ours, theirs)]
    print(f"peak bytes of tensors while scoring: {peaks[0]:,} against {peaks[1]:,}")
    assert peaks[0] < peaks[1]
    assert statistics.median(speed) >= 1.0


def our_scores(checkpoint: Path, texts: list[str]) -> Callable[[], list[float]]:
    from tokenizers import Tokenizer

    from hedgebench.adapters.backbone import DECODER, Backbone, Checkpoint
    from hedgebench.adapters.base import ModelShape
    from hedgebench.adapters.precision import Precision
    from hedgebench.adapters.pretrained.adapter import build_pretrained
    from hedgebench.harness import registry

    backbone = Backbone("local", "", DECODER, checkpoint=Checkpoint("", "", folder=str(checkpoint)))
    adapter = build_pretrained(
        checkpoint,
        backbone,
        {"weights": "float32", "gradient_checkpointing": False},
        ModelShape(CONTEXT_LENGTH, 257),
        registry.mechanisms().get,
        seed=0,
        precision=Precision.of("cpu", "float32"),
    )
    tokenizer: Any = Tokenizer.from_file(str(checkpoint / "tokenizer.json"))

    def score() -> list[float]:
        documents = [tokenizer.encode(text).ids for text in texts]
        return [
            float(adapter.rolling_loglikelihood(ids, prefix_token=256, batch_size=BATCH).sum()) for ids in documents
        ]

    return score


def their_scores(checkpoint: Path, texts: list[str]) -> Callable[[], list[float]]:
    instance: Any = importlib.import_module("lm_eval.api.instance").Instance
    hflm: Any = importlib.import_module("lm_eval.models.huggingface").HFLM
    model = hflm(pretrained=str(checkpoint), device="cpu", batch_size=BATCH, dtype="float32")
    requests = [instance("loglikelihood_rolling", {}, (text,), i) for i, text in enumerate(texts)]
    return lambda: [float(score) for score in model.loglikelihood_rolling(requests, disable_tqdm=True)]
