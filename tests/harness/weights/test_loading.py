"""Models loaded from Python: the same to the bit as before they were saved."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification

import hedgebench
from hedgebench.adapters.backbone import CheckpointError
from hedgebench.adapters.pretrained.converted import save_converted
from hedgebench.adapters.pretrained.swap import CORE
from hedgebench.results.names import UnknownNameError

from ...adapters.swapped import built, inputs_of
from ...adapters.tiny_models import DECODERS, MODEL_TYPES, save_tiny


def converted(model_type: str, tmp_path: Path) -> tuple[Path, Any]:
    """A saved model whose maps are not at their start, and the model of transformers that was saved."""
    adapter = built(model_type, tmp_path / "base", "hedgehog")
    generator = torch.Generator().manual_seed(5)
    for core in adapter.model.cores:
        for weight in core.parameters():
            weight.data.add_(0.1 * torch.randn(weight.shape, generator=generator))
    save_converted(adapter.model, tmp_path / "out", base=tmp_path / "base", context_length=16, provenance={})
    return tmp_path / "out", adapter.model.inner


@torch.no_grad()
@pytest.mark.parametrize("model_type", MODEL_TYPES)
def test_a_converted_model_is_the_same_to_the_bit(model_type: str, tmp_path: Path) -> None:
    folder, saved = converted(model_type, tmp_path)
    model = hedgebench.load_model(folder)
    inputs, _ = inputs_of(model_type)
    assert torch.equal(model(inputs).logits, saved(inputs).logits)
    assert any(CORE in name for name, _ in model.named_parameters())


@torch.no_grad()
@pytest.mark.parametrize("model_type", DECODERS)
def test_transformers_own_class_loads_and_generates(model_type: str, tmp_path: Path) -> None:
    folder, saved = converted(model_type, tmp_path)
    model: Any = AutoModelForCausalLM.from_pretrained(folder)
    ids, _ = inputs_of(model_type)
    options: dict[str, Any] = {"max_new_tokens": 5, "do_sample": False, "pad_token_id": 0, "eos_token_id": None}
    assert torch.equal(model.generate(ids, **options), saved.generate(ids, **options))
    assert torch.equal(model(ids).logits, saved(ids).logits)


def test_a_classifier_loads_as_one(tmp_path: Path) -> None:
    folder, saved = converted("bert", tmp_path)
    model = AutoModelForSequenceClassification.from_pretrained(folder)
    assert type(model) is type(saved)
    assert model.config.num_labels == saved.config.num_labels


def test_weights_have_the_type_asked_for(tmp_path: Path) -> None:
    folder = save_tiny("llama", tmp_path)
    assert hedgebench.load_model(folder).dtype == torch.float32
    assert hedgebench.load_model(folder, dtype="bfloat16").dtype == torch.bfloat16
    with pytest.raises(UnknownNameError, match="did you mean bfloat16"):
        hedgebench.load_model(folder, dtype="bfloat61")


def test_arguments_without_a_counterpart_are_refused(tmp_path: Path) -> None:
    folder, _ = converted("llama", tmp_path)
    with pytest.raises(TypeError, match="not loaded with load_in_8bit"):
        AutoModelForCausalLM.from_pretrained(folder, load_in_8bit=True)


def test_a_config_without_its_base_is_refused(tmp_path: Path) -> None:
    folder, _ = converted("llama", tmp_path)
    (folder / "config.json").write_text(json.dumps({"model_type": "hedgebench"}))
    with pytest.raises(CheckpointError, match="lacks base"):
        hedgebench.load_model(folder)


def test_a_checkpoint_in_half_precision_comes_in_float32(tmp_path: Path) -> None:
    folder = save_tiny("llama", tmp_path)
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "dtype": "float16"}))
    assert hedgebench.load_model(folder).dtype == torch.float32


def test_a_new_head_is_warned_of(tmp_path: Path) -> None:
    folder = save_tiny("bert", tmp_path)
    with pytest.warns(UserWarning, match="a new head for 2 classes was drawn"):
        hedgebench.load_model(folder)


@torch.no_grad()
def test_swap_puts_another_attention_into_a_model_and_replaces_that_of_a_loaded_one(tmp_path: Path) -> None:
    folder = save_tiny("llama", tmp_path)
    plain: Any = AutoModelForCausalLM.from_pretrained(folder)
    ids, _ = inputs_of("llama")
    softmax = plain(ids).logits
    assert hedgebench.swap(plain, "elu") is plain
    elu = plain(ids).logits
    assert not torch.allclose(elu, softmax, atol=1e-4)
    loaded = hedgebench.load_model(folder)
    torch.testing.assert_close(loaded(ids).logits, softmax)
    torch.testing.assert_close(hedgebench.swap(loaded, "elu")(ids).logits, elu)
    torch.testing.assert_close(hedgebench.swap(plain, "softmax")(ids).logits, softmax)
    with pytest.raises(UnknownNameError, match="did you mean hedgehog"):
        hedgebench.swap(plain, "hedghog")
