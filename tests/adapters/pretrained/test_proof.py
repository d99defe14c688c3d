"""Attention layers of any model are found, and the model is proven, or refused with the reason."""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from transformers.utils import logging

import hedgebench
from hedgebench.adapters.backbone import MODEL_TYPES
from hedgebench.adapters.base import UnsupportedError
from hedgebench.adapters.pretrained import interface, proof
from hedgebench.adapters.pretrained.sites import attention_sites, example_inputs
from hedgebench.adapters.pretrained.swap import swap_attention

from ..any_models import ALL_PROVEN, ALL_REFUSED, DECODERS, IMAGE_ENCODERS, PROVEN, REFUSED, any_model
from ..swapped import spec

PAGE = Path(hedgebench.__file__).parent / "docs" / "models.md"
WRITE = "HEDGEBENCH_WRITE_MODELS"
"""Variable with which the test of a type writes its row of the page anew."""
SLIDING = {"cohere2": (6, None), "gemma3_text": (6, None), "ministral": (6, 6), "modernbert": (None, 4)}


@pytest.fixture(autouse=True)
def _quiet() -> None:
    logging.set_verbosity_error()  # type: ignore[no-untyped-call]


def row_of(model_type: str, found: proof.Proof) -> str:
    numbers = [found.logits, found.gradients, *([] if found.decoding is None else [found.decoding])]
    cells = [f"{number:.0e}" if number else "0" for number in numbers]
    return f"| `{model_type}` | " + " | ".join([*cells, "–"][:3]) + " |"


@pytest.mark.parametrize("model_type", PROVEN)
def test_a_model_of_each_type_is_proven_and_takes_another_attention(model_type: str) -> None:
    model = any_model(model_type)
    swap_attention(model, spec("softmax"), context_length=64).undo()
    found = proof.prove(model, attention_sites(model), lambda: pytest.fail("it was proven before"))
    assert 0 <= found.worst < 1e-5
    assert (found.decoding is None) == (model_type not in DECODERS)
    sites = attention_sites(model)
    assert [site.window for site in sites] == [*SLIDING.get(model_type, (None, None))]
    assert {site.causal for site in sites} == {model_type in DECODERS}
    inputs = example_inputs(model, 1, 5)[0]
    with torch.no_grad():
        before = model(inputs)[0]
        swap_attention(model, spec("hedgehog"), context_length=64)
        assert not torch.allclose(model(inputs)[0], before)
    if os.environ.get(WRITE):
        lines = PAGE.read_text(encoding="utf-8").splitlines()
        place = next(i for i, line in enumerate(lines) if line.startswith(f"| `{model_type}` |"))
        lines[place] = row_of(model_type, found)
        PAGE.write_text("\n".join(lines) + "\n", encoding="utf-8")


@pytest.mark.parametrize("model_type", REFUSED)
def test_a_type_whose_attention_is_another_is_refused_with_the_reason(model_type: str) -> None:
    with pytest.raises(UnsupportedError, match=re.escape(REFUSED[model_type][1]) or None):
        swap_attention(any_model(model_type), spec("softmax"), context_length=64)


def test_the_types_that_are_declared_are_those_that_are_proven_here_and_listed() -> None:
    assert set(MODEL_TYPES) == set(ALL_PROVEN)
    listed = re.findall(r"^\| `([\w-]+)` \|", PAGE.read_text(encoding="utf-8"), re.MULTILINE)
    assert listed == [*ALL_PROVEN, *ALL_REFUSED]


def refused(model: Any, monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.setattr(proof, "_proven", {})
    with pytest.raises(UnsupportedError) as caught:
        swap_attention(model, spec("softmax"), context_length=64)
    return str(caught.value)


@pytest.mark.parametrize(("model_type", "lost"), [("granite", "scale"), ("bert", "mask"), ("llama", "mask")])
def test_a_proof_fails_if_what_the_interface_tells_is_lost(
    model_type: str, lost: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    plain = interface.Bridge.__call__

    def deaf(self: Any, q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None, scale: float | None) -> Tensor:
        return plain(self, q, k, v, None if lost == "mask" else mask, None if lost == "scale" else scale)

    monkeypatch.setattr(interface.Bridge, "__call__", deaf)
    assert "its logits differ by" in refused(any_model(model_type), monkeypatch)


def test_a_proof_fails_if_the_layers_do_more_than_the_interface_tells(monkeypatch: pytest.MonkeyPatch) -> None:
    """A layer that adds a bias to the mask, whatever it is: the core does not get it."""
    model = any_model("llama")
    layer: Any = model.get_submodule("model.layers.0.self_attn")
    plain = layer.forward

    def biased(*args: Any, **given: Any) -> Any:
        mask = given["attention_mask"]
        if mask is not None and mask.ndim == 4 and mask.shape[2] > 2:
            given["attention_mask"] = mask.clone().index_fill_(3, torch.tensor([2]), False)
        return plain(*args, **given)

    layer.forward = biased
    assert "its logits differ by" in refused(model, monkeypatch)


def test_a_refused_model_is_left_as_it_was(monkeypatch: pytest.MonkeyPatch) -> None:
    model = any_model("granite").train()
    implementation = model.config._attn_implementation
    monkeypatch.setattr(proof, "TOLERANCES", {torch.float32: -1.0})
    torch.manual_seed(7)
    wanted = torch.rand(2)
    torch.manual_seed(7)
    refused(model, monkeypatch)
    assert torch.equal(torch.rand(2), wanted)
    assert model.config._attn_implementation == implementation
    assert all(part.training for part in model.modules())
    assert not any(part._forward_pre_hooks or hasattr(part, interface.BRIDGE) for part in model.modules())
    assert all(weight.grad is None for weight in model.parameters())


@torch.no_grad()
@pytest.mark.parametrize("model_type", [name for name in ("gemma3_text", "modernbert") if name in PROVEN])
def test_sliding_layers_that_are_kept_take_sequences_past_their_window(model_type: str) -> None:
    model = any_model(model_type)
    ids, mask = example_inputs(model, 1, 12)
    swap = swap_attention(model, spec("elu"), context_length=64)
    with pytest.raises(UnsupportedError, match="12 tokens exceed the model's own sliding window"):
        model(input_ids=ids, attention_mask=mask)
    swap.undo()
    swap = swap_attention(model, spec("elu:keep=sliding"), context_length=64)
    assert [bridge.core.is_kept for bridge in swap.bridges] == [window is not None for window in SLIDING[model_type]]
    assert model(input_ids=ids, attention_mask=mask)[0].isfinite().all()


@torch.no_grad()
def test_a_hybrid_is_softmax_in_the_layers_that_it_keeps() -> None:
    model = any_model("llama", num_hidden_layers=4)
    ids, mask = example_inputs(model, 2, 8)
    before = model(input_ids=ids, attention_mask=mask).logits
    by_choice: dict[str, Tensor] = {}
    for text in ("none", "none:keep=0+2", "none:layers=1+3", "none:keep=every2", "none:layers=3"):
        swap = swap_attention(model, spec(text), context_length=64)
        by_choice[text] = model(input_ids=ids, attention_mask=mask).logits
        swap.undo()
    torch.testing.assert_close(by_choice["none:keep=0+2"], by_choice["none:layers=1+3"], rtol=0, atol=0)
    distances = {text: float((logits - before).abs().mean()) for text, logits in by_choice.items()}
    assert distances["none"] > distances["none:keep=0+2"] > distances["none:layers=3"] > 0
    assert distances["none:keep=every2"] != distances["none:keep=0+2"]


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("none:keep=2", "no layer 2; it has layers 0 to 1, none with a sliding window"),
        ("none:keep=sliding", "no layer sliding"),
        ("none:keep=0+1", "keeps every layer of a model with 2"),
        ("none:layers=0+1", "keeps no layer of a model with 2"),
    ],
)
def test_a_choice_that_the_model_does_not_have_is_refused(text: str, told: str) -> None:
    with pytest.raises(ValueError, match=re.escape(told)):
        swap_attention(any_model("llama"), spec(text), context_length=64)


def test_images_have_the_positions_that_the_layers_see() -> None:
    tokens = {"beit": 5, "deit": 6, "dinov2": 5, "siglip": 4, "vit": 5}
    assert set(tokens) == set(IMAGE_ENCODERS)
    for kind in PROVEN.keys() & IMAGE_ENCODERS.keys():
        assert attention_sites(any_model(kind))[0].tokens == tokens[kind]
