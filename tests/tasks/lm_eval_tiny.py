"""Tiny checkpoints with a tokenizer that transformers reads, and tiny tasks of lm-eval with their data in a mirror."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd
import torch
from transformers import AutoModelForCausalLM, PreTrainedTokenizerFast

from hedgebench.adapters.backbone import Checkpoint, pretrained
from hedgebench.adapters.base import ModelShape
from hedgebench.adapters.model_adapter import ModelAdapter
from hedgebench.adapters.precision import Precision
from hedgebench.adapters.pretrained.adapter import build_pretrained
from hedgebench.adapters.pretrained.converted import save_converted
from hedgebench.adapters.pretrained.model import PretrainedModel
from hedgebench.adapters.spec import parse_spec
from hedgebench.harness.registry import mechanisms
from hedgebench.tasks.lm_eval.text import TextModel, text_model

from ..adapters.tiny_models import CONTEXT_LENGTH, END_OF_TEXT, save_tiny, tiny_tokenizer

TEMPLATE = (
    "{% for message in messages %}{% if message['role'] == 'system' %}{{ raise_exception('no system') }}{% endif %}"
    "<{{ message['role'] }}>{{ message['content'] }}{% endfor %}{% if add_generation_prompt %}<assistant>{% endif %}"
)
WORDS = ("the cat sat", "a dog ran far away", "one two three four", "no", "yes it is", "blue green red")


def save_checkpoint(model_type: str, folder: Path) -> Path:
    """A random model whose words are bytes, with a chat template that knows no system role."""
    save_tiny(model_type, folder)
    kind: Any = PreTrainedTokenizerFast
    tokenizer = kind(tokenizer_object=tiny_tokenizer(model_type), bos_token=END_OF_TEXT, eos_token=END_OF_TEXT)
    tokenizer.chat_template = TEMPLATE
    tokenizer.save_pretrained(folder)
    return folder


def adapter_of(
    folder: Path, spec: str = "softmax", model_type: str = "gpt2", dtype: str = "float32"
) -> ModelAdapter[PretrainedModel]:
    """The adapter of a checkpoint in pure `dtype`, with another attention inside unless it is softmax."""
    backbone = pretrained(f"hf:{folder}", model_type, Checkpoint("", "", folder=str(folder)))
    adapter = build_pretrained(
        folder,
        backbone,
        {"weights": dtype, "gradient_checkpointing": False},
        ModelShape(CONTEXT_LENGTH),
        mechanisms().get,
        seed=0,
        precision=Precision.of("cpu", dtype, is_pure=True),
    )
    if spec != "softmax":
        adapter.swap_in(parse_spec(spec, mechanisms().get), 0)
    return adapter


def text_model_of(
    folder: Path, spec: str = "softmax", model_type: str = "gpt2", batch_size: int = 3, share_context: bool = True
) -> TextModel:
    """What lm-eval asks, of a checkpoint."""
    adapter = adapter_of(folder, spec, model_type)
    return text_model(adapter, folder, batch_size=batch_size, seed=1234, share_context=share_context)


def convert_to(folder: Path, spec: str, target: Path, model_type: str = "gpt2") -> Path:
    """A converted folder, its maps moved away from where they begin."""
    adapter = adapter_of(folder, spec, model_type)
    torch.manual_seed(0)
    for part in adapter.model.modules():
        for name, parameter in part.named_parameters(recurse=False):
            if "core" in name or type(part).__module__.startswith("hedgebench.kernels"):
                parameter.data.add_(0.1 * torch.randn_like(parameter))
    save_converted(adapter.model, target, base=folder, context_length=CONTEXT_LENGTH, provenance={})
    return target


def peer(folder: Path, batch_size: int = 3, dtype: str = "float32") -> Any:
    """lm-eval's own model of transformers over the same checkpoint."""
    from lm_eval.models import huggingface
    from transformers import AutoTokenizer

    model = AutoModelForCausalLM.from_pretrained(folder, dtype=getattr(torch, dtype))
    kind: Any = huggingface.HFLM
    return kind(pretrained=model, tokenizer=AutoTokenizer.from_pretrained(folder), batch_size=batch_size)


def requests(kind: str, *arguments: tuple[Any, ...]) -> list[Any]:
    """What lm-eval asks, of a document for each."""
    from lm_eval.api import instance

    make: Any = instance.Instance
    return [
        make(request_type=kind, doc={}, arguments=args, idx=0, metadata=("tiny", document, 1))
        for document, args in enumerate(arguments)
    ]


def merge_letters(folder: Path) -> Path:
    """Gives the checkpoint's tokenizer one token of two letters, `xy`, in the place of a byte that no text has."""
    file = folder / "tokenizer.json"
    content = json.loads(file.read_text(encoding="utf-8"))
    vocab = content["model"]["vocab"]
    content["model"] |= {"vocab": {**vocab, "xy": vocab.pop("Ā")}, "merges": [["x", "y"]]}
    content["model"]["vocab"].pop("Ā", None)
    file.write_text(json.dumps(content), encoding="utf-8")
    return folder


def write_data(mirror: Path, repo: str, config: str, split: str, rows: Mapping[str, Sequence[Any]]) -> None:
    """One parquet file in a mirror."""
    folder = mirror / "datasets" / repo / config
    folder.mkdir(parents=True, exist_ok=True)
    pd.DataFrame(rows).to_parquet(folder / f"{split}-00000-of-00001.parquet")


def write_task(folder: Path, name: str, **values: Any) -> Path:
    """The YAML file of a task over the data `tiny/words`, a choice among four unless told otherwise."""
    defaults = {
        "task": name,
        "dataset_path": "tiny/words",
        "dataset_name": "plain",
        "output_type": "multiple_choice",
        "training_split": "train",
        "test_split": "test",
        "doc_to_text": "Which follows {{text}}?",
        "doc_to_target": "label",
        "doc_to_choice": "choices",
        "metric_list": [
            {"metric": "acc", "aggregation": "mean", "higher_is_better": True},
            {"metric": "acc_norm", "aggregation": "mean", "higher_is_better": True},
        ],
        "metadata": {"version": 3.0},
    }
    folder.mkdir(parents=True, exist_ok=True)
    file = folder / f"{name}.yaml"
    file.write_text(json.dumps({**defaults, **values}), encoding="utf-8")  # JSON is YAML
    return file


def write_words(mirror: Path, splits: Sequence[str] = ("test",)) -> None:
    """The data of `write_task`."""
    rows: dict[str, list[Any]] = {
        "text": [f"{WORDS[i % 6]} {i}" for i in range(12)],
        "label": [i % 4 for i in range(12)],
        "choices": [[WORDS[(i + k) % 6] for k in range(4)] for i in range(12)],
    }
    for split in splits:
        write_data(mirror, "tiny/words", "plain", split, rows)
