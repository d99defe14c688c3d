"""A classifier agrees with transformers on every pair of texts, whatever files its tokenizer consists of."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from ...adapters.tiny_models import WORD_PIECES, save_tiny, tiny_config
from .test_text_cells import measured, metric, planned

WORDS = ("the", "Cat", "sat", "on", "a", "MAT", "Dog", "ran", "zing")
PAIRS = [
    (" ".join(WORDS[(i * k + k) % 9] for k in range(1, 3 + i % 5)), " ".join(WORDS[(i + 2 * k) % 9] for k in range(4)))
    for i in range(64)
]
SPECIAL = {f"{name}_token": f"[{name.upper()}]" for name in ("pad", "unk", "cls", "sep", "mask")}


def save_classifier(folder: Path, config: Mapping[str, Any], drop: str) -> list[int]:
    """A tiny BERT that takes about half of `PAIRS` for each of two classes, and what transformers says it answers.

    Args:
        folder: Folder to write.
        config: Entries of tokenizer_config.json.
        drop: `post_processor` to take that out of tokenizer.json; `tokenizer.json` to have vocab.txt in its place.
    """
    import torch
    from transformers import AutoModelForSequenceClassification, AutoTokenizer

    save_tiny("bert", folder)
    file = folder / "tokenizer.json"
    if drop == "post_processor":
        file.write_text(json.dumps({**json.loads(file.read_text()), drop: None}))
    elif drop:
        file.unlink()
        (folder / "vocab.txt").write_text("\n".join(WORD_PIECES) + "\n")
    (folder / "tokenizer_config.json").write_text(json.dumps({"tokenizer_class": "BertTokenizer", **SPECIAL, **config}))
    settings: Any = tiny_config("bert")
    settings.id2label = {0: "not_equivalent", 1: "equivalent"}
    torch.manual_seed(0)
    auto: Any = AutoModelForSequenceClassification
    model = auto.from_config(settings).eval()
    for name, parameter in model.named_parameters():  # as drawn, all texts are nearly alike
        if name.endswith("weight") and "LayerNorm" not in name:
            parameter.data.mul_(8)
    tokenizer: Any = AutoTokenizer.from_pretrained(folder)
    with torch.no_grad():
        logits = torch.cat([model(**tokenizer(*pair, return_tensors="pt")).logits for pair in PAIRS])
    leaning = logits[:, 1] - logits[:, 0]
    order = leaning.sort().values
    middle = order[24:41]
    widest = int(middle.diff().argmax())
    model.classifier.bias.data += torch.tensor([float(middle[widest : widest + 2].mean()), 0.0])
    model.save_pretrained(folder)
    return (leaning > middle[widest : widest + 2].mean()).long().tolist()


@pytest.mark.parametrize(
    ("config", "drop"),
    [({"do_lower_case": False}, ""), ({"do_lower_case": True}, "post_processor"), ({}, "tokenizer.json")],
    ids=["cased", "without a post-processor", "vocab.txt alone"],
)
def test_a_classifier_answers_as_in_transformers(config: Mapping[str, Any], drop: str, tmp_path: Path) -> None:
    labels = save_classifier(tmp_path / "bert", config, drop)
    assert 20 <= sum(labels) <= 44
    folder = tmp_path / "mirror" / "datasets" / "nyu-mll" / "glue" / "mrpc"
    folder.mkdir(parents=True)
    first, second = zip(*PAIRS, strict=True)
    rows = pd.DataFrame({"sentence1": first, "sentence2": second, "label": labels, "idx": range(len(labels))})
    rows.to_parquet(folder / "validation-00000-of-00001.parquet")
    settings = {"train_rows": "0", "max_length": "64"}
    job = planned(tmp_path, tasks=("glue/mrpc",), backbone=f"hf:{tmp_path / 'bert'}", set=settings)
    record = measured(job)
    assert metric(record, "accuracy") == 1.0
    assert record.data is not None
    assert record.data.details["prefix_token"] == "[CLS]"
