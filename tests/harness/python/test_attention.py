"""The attention module: the same numbers as the functions under it, in every way of calling it."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

import hedgebench

HEADS, HEAD_DIM, TOKENS = 4, 8, 12


def heads(count: int = HEADS, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(2, count, TOKENS, HEAD_DIM, generator=generator)


@torch.no_grad()
@pytest.mark.parametrize("spec", ["softmax", "elu", "hedgehog:map=softmax", "hedgehog:window=4", "cosformer"])
def test_outputs_are_weights_times_values_and_decoding_gives_the_same(spec: str) -> None:
    attention = hedgebench.Attention(spec, heads=HEADS, head_dim=HEAD_DIM, kv_heads=2)
    q, k, v = heads(), heads(2, 1), heads(2, 2)
    out = attention(q, k, v)
    values = v.repeat_interleave(2, dim=1)
    torch.testing.assert_close(out, attention.weights(q, k) @ values, atol=1e-5, rtol=1e-4)
    parts, state = [], None
    for start, stop in ((0, 7), (7, 8), (8, TOKENS)):
        part, state = attention.extend(q[:, :, start:stop], k[:, :, start:stop], v[:, :, start:stop], state)
        parts.append(part)
    torch.testing.assert_close(torch.cat(parts, dim=2), out, atol=1e-5, rtol=1e-4)
    assert state is not None
    assert state.tokens == TOKENS
    assert state.bytes > 0
    assert {kernel.phase for kernel in attention.kernels_used} == {"forward", "prefill", "decode"}


def test_softmax_is_torchs_own() -> None:
    q, k, v = heads(), heads(seed=1), heads(seed=2)
    for causal in (True, False):
        own = hedgebench.Attention("softmax", HEADS, HEAD_DIM)(q, k, v, causal=causal)
        torch.testing.assert_close(own, torch.nn.functional.scaled_dot_product_attention(q, k, v, is_causal=causal))


def test_maps_are_parameters_that_learn() -> None:
    attention = hedgebench.Attention("hedgehog", HEADS, HEAD_DIM)
    attention(heads(), heads(seed=1), heads(seed=2)).sum().backward()
    assert all(weight.grad is not None for weight in attention.parameters())
    assert "hedgehog" in repr(attention)


def test_padding_is_not_seen() -> None:
    attention = hedgebench.Attention("elu", HEADS, HEAD_DIM)
    q, k, v = heads(), heads(seed=1), heads(seed=2)
    mask = torch.ones(2, TOKENS, dtype=torch.bool)
    mask[:, 9:] = False
    masked = attention(q, k, v, causal=False, key_padding_mask=mask)[:, :, :9]
    torch.testing.assert_close(masked, attention(q[:, :, :9], k[:, :, :9], v[:, :, :9], causal=False))


def test_maps_beside_softmax_measure_as_known() -> None:
    q, k = heads(), heads(seed=1)
    own = hedgebench.compare_maps(hedgebench.Attention("softmax", HEADS, HEAD_DIM).maps(q, k))
    assert own["kl"].abs().max() == 0
    assert own["monotonicity"].min() == pytest.approx(1)
    other = hedgebench.compare_maps(hedgebench.Attention("elu", HEADS, HEAD_DIM).maps(q, k))
    assert other["kl"].min() > 0


def test_what_cannot_be_is_refused() -> None:
    with pytest.raises(hedgebench.UsageError, match="did you mean hedgehog"):
        hedgebench.Attention("hedghog", HEADS, HEAD_DIM)
    with pytest.raises(hedgebench.UsageError, match="allowed"):
        hedgebench.Attention("hedgehog:map=sofmax", HEADS, HEAD_DIM)
    with pytest.raises(ValueError, match="exists only in decoders"):
        hedgebench.Attention("hedgehog:window=4", HEADS, HEAD_DIM)(heads(), heads(), heads(), causal=False)
