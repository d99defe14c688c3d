"""Every path of every kind of model agrees, and a path that is broken on purpose is found and named."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from torch.utils.hooks import RemovableHandle

from hedgebench.adapters.attention.hybrid import HybridAttention
from hedgebench.adapters.attention.linear import LinearAttention
from hedgebench.adapters.attention.softmax import SoftmaxAttention
from hedgebench.adapters.audit.equivalence import Equivalence, EquivalenceError, compare_paths
from hedgebench.adapters.base import ModelShape
from hedgebench.adapters.model_adapter import ModelAdapter
from hedgebench.adapters.scratch.transformer import Transformer

from ..swapped import built

Build = Callable[..., ModelAdapter[Transformer]]

LONG = ModelShape(context_length=64, vocab_size=11)
DECODER_PATHS = {
    *("batch of one", "chunked", "prefill", "token by token", "right-padded"),
    *("left-padded", "left-padded, token by token"),
}


@pytest.mark.parametrize(
    ("spec", "dtype"),
    [
        *((spec, "float32") for spec in ("softmax", "window:window=9", "hedgehog", "hedgehog:window=9", "none")),
        *((spec, "float32") for spec in ("gla:gates=keys:window=9", "gated_deltanet")),
        ("softmax", "bfloat16"),
        ("hedgehog:window=9", "bfloat16"),
    ],
)
def test_all_paths_of_a_decoder_agree_and_its_state_has_the_size_of_its_formula(
    build: Build, spec: str, dtype: str
) -> None:
    found = compare_paths(build(spec, shape=LONG, dtype=dtype))
    found.require()
    assert found.differences.keys() == DECODER_PATHS
    assert (found.tokens, found.tolerance) == (16, {"float32": 1e-3, "bfloat16": 5e-2}[dtype])
    assert found.state_bytes == found.expected_bytes
    assert bool(found.state_bytes) == (spec != "none")


@pytest.mark.parametrize(
    ("model_type", "text", "paths"),
    [
        ("llama", "hedgehog:window=4", DECODER_PATHS),
        ("gpt2", "softmax", DECODER_PATHS),
        ("bert", "hedgehog", {"batch of one", "right-padded"}),
        ("vit", "hedgehog", {"batch of one"}),
    ],
)
def test_all_paths_of_a_swapped_checkpoint_agree(model_type: str, text: str, paths: set[str], tmp_path: Path) -> None:
    found = compare_paths(built(model_type, tmp_path, text))
    found.require()
    assert found.differences.keys() == paths
    assert found.state_bytes == found.expected_bytes


@pytest.mark.parametrize(
    ("backbone", "shape", "paths"),
    [
        ("encoder", ModelShape(16, 11, num_classes=3), {"batch of one", "right-padded"}),
        ("encoder", ModelShape(16, 11, num_classes=2, towers=2), {"batch of one", "right-padded"}),
        ("vit", ModelShape(1, num_classes=3, image_size=8, channels=2), {"batch of one"}),
        ("gpt", ModelShape(16, input_dim=5), {"batch of one", "prefill", "token by token"}),
    ],
)
def test_other_models_are_compared_on_the_paths_that_they_have(
    build: Build, backbone: str, shape: ModelShape, paths: set[str]
) -> None:
    found = compare_paths(build("hedgehog", backbone, shape=shape))
    found.require()
    assert found.differences.keys() == paths


def test_a_comparison_leaves_random_numbers_and_the_record_of_kernels_alone(build: Build) -> None:
    adapter = build("hedgehog", shape=LONG)
    torch.manual_seed(3)
    before = torch.get_rng_state()
    compare_paths(adapter)
    assert torch.equal(torch.get_rng_state(), before)
    assert adapter.kernels_used() == ()


def _forgets_the_state(core: Any, heads: Any, state: Any, **options: Any) -> Any:
    """Decoding from an empty state: each token sees itself alone."""
    decodes = heads.q.shape[2] == 1 and state is not None
    return type(core).attend(core, heads, None if decodes else state, **options)


def _reads_padding(core: Any, heads: Any, state: Any, **options: Any) -> Any:
    return type(core).attend(core, replace(heads, key_padding_mask=None), state, **options)


def _sees_the_next_token(core: Any, heads: Any, state: Any, **options: Any) -> Any:
    """Values that are scaled by the largest of the whole sequence, later tokens too."""
    scaled = replace(heads, v=heads.v / heads.v.abs().amax(2, keepdim=True))
    return type(core).attend(core, scaled, state, **options)


def _decodes_nan(core: Any, heads: Any, state: Any, **options: Any) -> Any:
    out, new_state, kernel = type(core).attend(core, heads, state, **options)
    return out * (torch.nan if heads.q.shape[2] == 1 and state is not None else 1), new_state, kernel


def _keeps_double(core: Any, heads: Any, state: Any, **options: Any) -> Any:
    out, new_state, kernel = type(core).attend(core, heads, state, **options)
    return out, new_state and replace(new_state, kv=new_state.kv.double()), kernel


@pytest.mark.parametrize(
    ("spec", "fault", "told"),
    [
        ("hedgehog", _forgets_the_state, "'token by token'"),
        ("hedgehog:window=9", _forgets_the_state, "'left-padded, token by token'"),
        ("elu", _reads_padding, "'left-padded'"),
        ("softmax", _sees_the_next_token, "'right-padded'"),
        ("hedgehog", _decodes_nan, "'token by token' differs from the whole sequence by inf"),
        ("hedgehog", _keeps_double, "bytes after 16 tokens"),
    ],
)
def test_a_broken_path_is_named(build: Build, spec: str, fault: Callable[..., Any], told: str) -> None:
    adapter = build(spec, shape=LONG)
    for core in adapter.model.cores:
        assert isinstance(core, LinearAttention | HybridAttention | SoftmaxAttention)
        core.attend = fault.__get__(core)  # type: ignore[method-assign]
    found = compare_paths(adapter)
    with pytest.raises(EquivalenceError, match="not scored") as raised:
        found.require()
    assert told in str(raised.value)


def test_a_model_that_rounding_moves_is_held_to_what_rounding_does(
    build: Build, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With a tolerance of zero every model is over it, and only rounding remains to explain the differences."""
    adapter = build("hedgehog", shape=LONG)
    monkeypatch.setattr("hedgebench.adapters.audit.equivalence.TOLERANCES", {torch.float32: 0.0})
    rounded: list[nn.Module] = []

    def noted(part: nn.Module, hook: Any) -> RemovableHandle:
        rounded.append(part)
        return hook_into(part, hook)

    hook_into = nn.Module.register_forward_hook
    monkeypatch.setattr(nn.Module, "register_forward_hook", noted)
    found = compare_paths(adapter)
    found.require()
    assert {id(part) for part in rounded} == {
        id(part) for part in adapter.model.modules() if any("." not in name for name, _ in part.named_parameters())
    }
    assert 0 < found.tolerance < 1e-4
    assert "rounding of every layer moves the outputs" in found.notes[0]


def test_outputs_that_are_no_numbers_fail_whatever_rounding_does() -> None:
    with pytest.raises(EquivalenceError, match="'token by token'"):
        Equivalence({"token by token": math.inf}, tolerance=math.inf, tokens=16).require()


def test_a_window_that_holds_all_compared_tokens_is_noted(build: Build) -> None:
    found = compare_paths(build("window:window=20"))  # a context of 16 tokens
    assert found.notes == ("paths were compared over 16 tokens, which the window of 20 tokens holds",)
