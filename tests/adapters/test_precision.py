from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import Tensor

from hedgebench.adapters.base import Examples
from hedgebench.adapters.model_adapter import ModelAdapter
from hedgebench.adapters.precision import Precision
from hedgebench.adapters.scratch.transformer import Transformer
from hedgebench.adapters.training.loop import train
from hedgebench.adapters.training.settings import TrainSettings

from .layer_names import OF_HEADS

Build = Callable[..., ModelAdapter[Transformer]]


def test_device_and_type_are_those_of_their_names(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    assert Precision.of("cpu", "bfloat16") == Precision(torch.device("cpu"), torch.bfloat16)
    assert Precision.of("cuda", "float32") == Precision(torch.device("cuda"), torch.float32)


def test_cuda_is_refused_where_there_is_none(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(ValueError, match="no CUDA device"):
        Precision.of("cuda", "float32")


@pytest.mark.parametrize(("dtype", "result"), [("float32", torch.float32), ("bfloat16", torch.bfloat16)])
def test_matrix_products_run_in_the_type_asked_for(dtype: str, result: torch.dtype) -> None:
    with Precision.of("cpu", dtype).autocast():
        assert (torch.ones(2, 2) @ torch.ones(2, 2)).dtype == result


@pytest.mark.parametrize(
    "spec", [*OF_HEADS, "gated_deltanet", "mamba2", "hedgehog:map=softmax", "hedgehog:map=exp_max"]
)
def test_bfloat16_comes_close_to_float32_through_prompt_decode_and_weights(
    build: Build, spec: str, tokens: Tensor
) -> None:
    half, full = build(spec, dtype="bfloat16", rope=True, short_conv=3), build(spec, rope=True, short_conv=3)
    torch.testing.assert_close(half.logits(tokens), full.logits(tokens), rtol=0, atol=0.05)
    logits, state = half.prefill(tokens[:, :5])
    for t in range(5, 9):
        logits, state = half.decode(tokens[:, t], state)
    torch.testing.assert_close(logits, full.logits(tokens)[:, 8], rtol=0, atol=0.05)
    for rough, exact in zip(half.attention_weights(tokens), full.attention_weights(tokens), strict=True):
        assert rough.dtype == torch.float32
        torch.testing.assert_close(rough, exact, rtol=0.1, atol=0.1)


@pytest.mark.parametrize("spec", [*OF_HEADS, "kda", "gla", "based"])
def test_training_in_bfloat16_keeps_weights_in_float32_and_finite(build: Build, spec: str, tokens: Tensor) -> None:
    adapter = build(spec, dtype="bfloat16")
    rows = tokens.numpy().astype(np.int32)
    run = TrainSettings(steps=2, batch_size=3, lr=0.01)
    train(adapter.model, Examples(rows, rows), None, run, seed=0, precision=adapter.precision)
    for parameter in adapter.model.parameters():
        assert parameter.dtype == torch.float32
        assert parameter.isfinite().all()


@pytest.mark.parametrize("spec", ["softmax", "elu", "hedgehog"])
def test_weights_under_autocast_sum_to_one_as_float32_does(build: Build, spec: str, tokens: Tensor) -> None:
    for weights in build(spec, dtype="bfloat16").attention_weights(tokens):
        torch.testing.assert_close(weights.sum(-1), torch.ones(3, 2, 9), rtol=0, atol=1e-5)


def test_the_kv_cache_is_half_as_large_in_bfloat16(build: Build) -> None:
    assert 2 * build(dtype="bfloat16").state_bytes(1, 8) == build().state_bytes(1, 8)
