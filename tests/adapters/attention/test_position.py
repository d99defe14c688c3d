from __future__ import annotations

import pytest
import torch
from transformers import LlamaConfig
from transformers.models.llama.modeling_llama import LlamaRotaryEmbedding, apply_rotary_pos_emb

from hedgebench.adapters.attention.position import Rotary, ShortConvolution


def draw(*shape: int) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(0))


def test_rope_equals_llamas() -> None:
    q, k = draw(2, 2, 3, 7, 8)
    positions = torch.stack([torch.arange(7), torch.arange(5, 12)])
    config = LlamaConfig(hidden_size=24, num_attention_heads=3, head_dim=8, max_position_embeddings=16)
    cosine, sine = LlamaRotaryEmbedding(config)(q, positions)
    expected_q, expected_k = apply_rotary_pos_emb(q, k, cosine, sine)
    rotary = Rotary(8)
    torch.testing.assert_close(rotary(q, positions), expected_q, rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(rotary(k, positions), expected_k, rtol=1e-5, atol=1e-6)


def test_rope_leaves_the_first_token_and_every_norm_alone() -> None:
    x = draw(1, 1, 4, 6)
    turned = Rotary(6)(x, torch.arange(4)[None])
    assert torch.equal(turned[:, :, 0], x[:, :, 0])
    torch.testing.assert_close(turned.norm(dim=-1), x.norm(dim=-1))


def test_scores_under_rope_depend_on_the_distance_alone() -> None:
    q, k = draw(2, 1, 1, 5, 8)
    rotary, near = Rotary(8), torch.arange(5)[None]
    scores = [rotary(q, near + shift) @ rotary(k, near + shift).mT for shift in (0, 100)]
    torch.testing.assert_close(scores[0], scores[1], rtol=1e-4, atol=1e-4)


def test_rope_keeps_the_type_and_has_nothing_to_save() -> None:
    rotary = Rotary(8)
    assert rotary(draw(1, 1, 2, 8).bfloat16(), torch.arange(2)[None]).dtype == torch.bfloat16
    assert not rotary.state_dict()


def test_rope_refuses_an_odd_head_dim() -> None:
    with pytest.raises(ValueError, match="got 7"):
        Rotary(7)


@pytest.mark.parametrize("kernel_size", [1, 2, 4])
def test_a_short_convolution_starts_as_the_identity(kernel_size: int) -> None:
    x = draw(2, 5, 3)
    out, tail = ShortConvolution(3, kernel_size)(x)
    assert torch.equal(out, x)
    assert tail.shape == (2, kernel_size - 1, 3)


def test_a_short_convolution_sums_the_last_few_tokens_of_its_channel() -> None:
    layer = ShortConvolution(2, 3)
    torch.nn.init.ones_(layer.weight)
    x = torch.tensor([[[1.0, 10.0], [2.0, 20.0], [3.0, 30.0], [4.0, 40.0]]])
    out, tail = layer(x)
    assert torch.equal(out[0, :, 0], torch.tensor([1.0, 3.0, 6.0, 9.0]))
    assert torch.equal(out[0, :, 1], torch.tensor([10.0, 30.0, 60.0, 90.0]))
    assert torch.equal(tail, x[:, 2:])


@pytest.mark.parametrize("pieces", [[1] * 7, [1, 5, 1], [3, 4]])
def test_a_short_convolution_continues_from_its_tail(pieces: list[int]) -> None:
    layer = ShortConvolution(3, 4)
    torch.nn.init.normal_(layer.weight)
    x = draw(2, 7, 3)
    outs, tail = [], None
    for part in torch.split(x, pieces, dim=1):
        out, tail = layer(part, tail)
        outs.append(out)
    torch.testing.assert_close(torch.cat(outs, dim=1), layer(x)[0])


def test_a_short_convolution_gives_contiguous_tokens_as_fused_kernels_need_them() -> None:
    assert ShortConvolution(3, 4)(draw(2, 5, 3))[0].is_contiguous()


def test_the_tail_of_a_short_convolution_keeps_no_other_token_in_memory() -> None:
    _, tail = ShortConvolution(3, 4)(draw(2, 500, 3))
    assert tail.untyped_storage().nbytes() == tail.nbytes
