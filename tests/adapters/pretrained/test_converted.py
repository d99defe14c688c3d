"""Converted models on disk: they come back as they were, and damaged ones are refused."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from hedgebench.adapters.backbone import CheckpointError
from hedgebench.adapters.base import UnsupportedError
from hedgebench.adapters.pretrained.converted import conversion_of, save_converted
from hedgebench.adapters.pretrained.swap import CORE

from ..swapped import built, inputs_of
from ..tiny_models import DECODERS, MODEL_TYPES, save_tiny

CASES = [(model_type, text) for model_type in MODEL_TYPES for text in ("hedgehog", "t2r")]
CASES += [(model_type, "hedgehog:window=4") for model_type in DECODERS]
CASES += [("llama", "hedgehog:keep=0"), ("bert", "hedgehog:layers=0")]


def converted(model_type: str, text: str, tmp_path: Path) -> tuple[Path, torch.Tensor]:
    """A saved model whose maps are not at their start, and its logits."""
    adapter = built(model_type, tmp_path / "base", text)
    generator = torch.Generator().manual_seed(5)
    with torch.no_grad():
        for core in adapter.model.cores:
            for weight in core.parameters():
                weight.add_(0.1 * torch.randn(weight.shape, generator=generator))
        logits = adapter.model(*inputs_of(model_type))
    folder = tmp_path / "converted"
    save_converted(adapter.model, folder, base=tmp_path / "base", context_length=16, provenance={"made": "by a test"})
    return folder, logits


@pytest.mark.parametrize(("model_type", "text"), CASES)
def test_a_converted_model_comes_back_bit_for_bit(model_type: str, text: str, tmp_path: Path) -> None:
    folder, logits = converted(model_type, text, tmp_path)
    again = built(model_type, folder, text)
    with torch.no_grad():
        assert torch.equal(again.model(*inputs_of(model_type)), logits)
    assert again.model.spec.canonical == text
    assert json.loads((folder / "provenance.json").read_text())["made"] == "by a test"


@pytest.mark.parametrize(("text", "has_teacher"), [("hedgehog", False), ("softmax", True)])
def test_a_converted_model_has_lost_its_teacher_unless_it_has_softmax(
    text: str, has_teacher: bool, tmp_path: Path
) -> None:
    folder, _ = converted("llama", text, tmp_path)
    again = built("llama", folder, text)
    teachers = []
    again.compare_attention(inputs_of("llama")[0], lambda _, maps: teachers.append(maps.teacher))
    assert [teacher is not None for teacher in teachers] == [has_teacher] * 2
    assert ("is a converted model" in again.model.no_teacher) != has_teacher


def test_its_config_says_what_it_is_and_names_no_attention_of_ours(tmp_path: Path) -> None:
    folder, _ = converted("llama", "hedgehog", tmp_path)
    assert conversion_of(folder) == {"model": "hedgehog", "context_length": 16}
    assert conversion_of(tmp_path / "base") is None
    text = (folder / "config.json").read_text()
    assert "_attn_implementation" not in text
    assert (folder / "tokenizer.json").read_bytes() == (tmp_path / "base" / "tokenizer.json").read_bytes()
    assert {file.suffix for file in folder.iterdir()} <= {".json", ".safetensors"}


def test_the_model_in_memory_stays_swapped_after_saving(tmp_path: Path) -> None:
    adapter = built("llama", tmp_path / "base", "hedgehog")
    save_converted(adapter.model, tmp_path / "out", base=tmp_path / "base", context_length=16, provenance={})
    assert adapter.model.inner.config._attn_implementation == "hedgebench"
    assert not hasattr(adapter.model.inner.config, "hedgebench")


_TRANSFORMERS_ALONE = """
import sys
from transformers import AutoModelForCausalLM, LlamaForCausalLM
for kind in (AutoModelForCausalLM, LlamaForCausalLM):
    try:
        kind.from_pretrained(sys.argv[1])
    except (ValueError, OSError) as error:
        print(type(error).__name__)
"""


def test_transformers_alone_refuses_it_instead_of_running_softmax(tmp_path: Path) -> None:
    """In a process of its own, where nothing has registered the type."""
    folder, _ = converted("llama", "hedgehog", tmp_path)
    ran = subprocess.run(
        [sys.executable, "-c", _TRANSFORMERS_ALONE, str(folder)], capture_output=True, text=True, check=True
    )
    assert ran.stdout.split() == ["ValueError", "OSError"]


@pytest.mark.parametrize("model_type", MODEL_TYPES)
def test_a_folder_of_the_earlier_form_comes_back_too(model_type: str, tmp_path: Path) -> None:
    """Base type, base names of weights, and one entry more."""
    folder, logits = converted(model_type, "hedgehog", tmp_path)
    config = json.loads((folder / "config.json").read_text())
    earlier = {**config["base"], "hedgebench": config["hedgebench"]}
    (folder / "config.json").write_text(json.dumps(earlier))
    (folder / "model.hedgebench.safetensors").rename(folder / "model.safetensors")
    with torch.no_grad():
        assert torch.equal(built(model_type, folder, "hedgehog").model(*inputs_of(model_type)), logits)


def test_all_files_of_the_tokenizer_come_along(tmp_path: Path) -> None:
    base = save_tiny("llama", tmp_path / "base")
    for name in ("chat_template.jinja", "added_tokens.json", "vocab.json", "tokenizer.model"):
        (base / name).write_text(name)
    adapter = built("llama", base, "hedgehog")
    save_converted(adapter.model, tmp_path / "out", base=base, context_length=16, provenance={})
    assert all((tmp_path / "out" / name).read_text() == name for name in ("chat_template.jinja", "tokenizer.model"))
    assert (tmp_path / "out" / "added_tokens.json").is_file()
    assert (tmp_path / "out" / "vocab.json").is_file()


def test_a_checkpoint_of_one_mechanism_is_not_taken_for_another(tmp_path: Path) -> None:
    folder, _ = converted("llama", "hedgehog", tmp_path)
    with pytest.raises(UnsupportedError, match="converted to hedgehog, so it cannot be elu"):
        built("llama", folder, "elu")


def test_a_folder_that_holds_something_is_not_written_to(tmp_path: Path) -> None:
    adapter = built("llama", tmp_path / "base", "hedgehog")
    with pytest.raises(CheckpointError, match="is not empty"):
        save_converted(adapter.model, tmp_path / "base", base=tmp_path / "base", context_length=16, provenance={})


@pytest.mark.parametrize("damage", ["missing", "extra", "shape"])
def test_weights_of_attention_that_do_not_fit_are_refused(damage: str, tmp_path: Path) -> None:
    folder, _ = converted("llama", "hedgehog", tmp_path)
    file = folder / "model.hedgebench.safetensors"
    weights = load_file(file)
    name = next(name for name in weights if f".{CORE}." in name)
    if damage == "missing":
        del weights[name]
    elif damage == "extra":
        weights[name.replace("weight", "bias")] = torch.zeros(3)
    else:
        weights[name] = weights[name][:1].clone()
    save_file(weights, file, {"format": "pt"})
    with pytest.raises(CheckpointError, match=r"do not fit its config|has shape"):
        built("llama", folder, "hedgehog")


def test_an_entry_that_says_too_little_is_refused(tmp_path: Path) -> None:
    folder = save_tiny("llama", tmp_path / "base")
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "hedgebench": {"model": "elu"}}))
    with pytest.raises(CheckpointError, match="needs model and context_length"):
        conversion_of(folder)
