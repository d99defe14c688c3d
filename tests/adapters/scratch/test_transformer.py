from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import partial

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import GPT2Config, GPT2LMHeadModel

from hedgebench.adapters.attention.core import AttentionCore, token_positions
from hedgebench.adapters.base import UnsupportedError
from hedgebench.adapters.model_adapter import ModelAdapter
from hedgebench.adapters.scratch.transformer import Block, SelfAttention, Transformer
from hedgebench.adapters.scratch.transformer_config import TransformerConfig, patches_and_class_token
from hedgebench.adapters.spec import parse_spec
from hedgebench.harness.registry import mechanisms

from ..layer_names import DECODERS

Build = Callable[..., ModelAdapter[Transformer]]

CONFIG = TransformerConfig(
    layers=2, heads=2, kv_heads=2, width=16, mlp_width=64, context_length=12, causal=True, vocab_size=11
)
SOFTMAX = parse_spec("softmax", mechanisms().get)
close = partial(torch.testing.assert_close, rtol=1e-4, atol=1e-4)
BOTH_WAYS = [name for name in DECODERS if not mechanisms().items[name].causal_only]
PLACES = pytest.mark.parametrize(
    "size",
    [{}, {"rope": True}, {"short_conv": 3}, {"kv_heads": 1}],
    ids=["learned", "rope", "short_conv", "grouped"],
)


@pytest.fixture
def gpt2() -> GPT2LMHeadModel:
    torch.manual_seed(0)
    config = GPT2Config(
        vocab_size=11, n_positions=12, n_embd=16, n_layer=2, n_head=2, bos_token_id=0, eos_token_id=0, use_cache=False
    )
    model = GPT2LMHeadModel(config)
    model.train(False)
    for parameter in model.parameters():
        nn.init.normal_(parameter, std=0.3)
    return model


def copied(source: GPT2LMHeadModel) -> Transformer:
    """Our Transformer with the weights of a GPT-2."""
    ours, theirs = Transformer(CONFIG, SOFTMAX), source.state_dict()
    names = {"embedding": "wte", "positions": "wpe", "norm": "ln_f"}
    weights = {
        f"{a}.{k}": theirs[f"transformer.{b}.{k}"]
        for a, b in names.items()
        for k in ("weight", "bias")
        if f"transformer.{b}.{k}" in theirs
    }
    for layer in range(2):
        here, there = f"blocks.{layer}.", f"transformer.h.{layer}."
        for kind in ("weight", "bias"):
            weights[f"{here}attention_norm.{kind}"] = theirs[f"{there}ln_1.{kind}"]
            weights[f"{here}mlp_norm.{kind}"] = theirs[f"{there}ln_2.{kind}"]
            heads = theirs[f"{there}attn.c_attn.{kind}"].mT if kind == "weight" else theirs[f"{there}attn.c_attn.bias"]
            for name, part in zip(("query", "key", "value"), heads.chunk(3), strict=True):
                weights[f"{here}attention.{name}.{kind}"] = part
            for name, part in (("attention.output", "attn.c_proj"), ("mlp.0", "mlp.c_fc"), ("mlp.2", "mlp.c_proj")):
                weight = theirs[f"{there}{part}.{kind}"]
                weights[f"{here}{name}.{kind}"] = weight.mT if kind == "weight" else weight
    ours.load_state_dict(weights)
    return ours.eval()


@torch.no_grad()
def test_logits_and_loss_equal_those_of_transformers_gpt2(gpt2: GPT2LMHeadModel, tokens: Tensor) -> None:
    expected = gpt2(tokens, labels=tokens)
    logits = copied(gpt2)(tokens)
    torch.testing.assert_close(logits, expected.logits, rtol=1e-5, atol=1e-5)
    loss = F.cross_entropy(logits[:, :-1].flatten(0, 1), tokens[:, 1:].flatten())
    torch.testing.assert_close(loss, expected.loss, rtol=1e-5, atol=1e-5)


@torch.no_grad()
def test_left_padded_logits_equal_those_of_transformers_gpt2(gpt2: GPT2LMHeadModel, tokens: Tensor) -> None:
    mask = torch.ones_like(tokens, dtype=torch.bool)
    mask[1, :4] = False
    positions = (mask.long().cumsum(1) - 1).clamp(min=0)
    expected = gpt2(tokens, attention_mask=mask.long(), position_ids=positions).logits
    torch.testing.assert_close(copied(gpt2)(tokens, mask)[mask], expected[mask], rtol=1e-5, atol=1e-5)


@PLACES
@pytest.mark.parametrize("spec", DECODERS)
def test_a_prompt_and_then_single_tokens_give_the_logits_of_a_full_pass(
    build: Build, spec: str, size: dict[str, int], tokens: Tensor
) -> None:
    rotates_twice = spec == "retention" and size.get("rope", 0) > 0
    adapter = build("retention:rope=false" if rotates_twice else spec, **size)
    mask = torch.ones_like(tokens, dtype=torch.bool)
    mask[0, :3], mask[1, :1] = False, False
    full = adapter.logits(tokens, mask)
    for row, start in ((0, 3), (1, 1), (2, 0)):
        close(full[row, start:], adapter.logits(tokens[row : row + 1, start:])[0])
    logits, state = adapter.prefill(tokens[:, :5], mask[:, :5])
    close(logits, full[:, 4])
    for t in range(5, 9):
        logits, state = adapter.decode(tokens[:, t], state)
        close(logits, full[:, t])


@pytest.mark.parametrize("spec", DECODERS)
def test_later_tokens_and_padding_on_the_right_change_nothing_before(build: Build, spec: str, tokens: Tensor) -> None:
    adapter = build(spec, short_conv=3)
    full = adapter.logits(tokens)
    changed = tokens.clone()
    changed[:, 6:] = (changed[:, 6:] + 1) % 11
    mask = torch.ones_like(tokens, dtype=torch.bool)
    mask[:, 6:] = False
    torch.testing.assert_close(adapter.logits(changed)[:, :6], full[:, :6], rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(adapter.logits(changed, mask)[:, :6], full[:, :6], rtol=1e-5, atol=1e-5)
    assert (adapter.logits(changed)[:, 6:] - full[:, 6:]).abs().amax() > 1e-2


@pytest.mark.parametrize("rope", [False, True], ids=["learned", "rope"])
@pytest.mark.parametrize("spec", BOTH_WAYS)
def test_an_encoder_does_not_see_padding_on_either_side(build: Build, spec: str, rope: bool, tokens: Tensor) -> None:
    adapter = build(spec, "encoder", rope=rope)
    alone = adapter.class_logits(tokens[:, :6])
    assert alone.shape == (3, 3)
    real, junk = torch.ones(3, 6, dtype=torch.bool), torch.zeros(3, 3, dtype=torch.bool)
    right = adapter.class_logits(tokens, torch.cat([real, junk], dim=1))
    left = adapter.class_logits(torch.cat([tokens[:, 6:], tokens[:, :6]], dim=1), torch.cat([junk, real], dim=1))
    torch.testing.assert_close(right, alone, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(left, alone, rtol=1e-4, atol=1e-5)


def test_a_row_of_padding_alone_is_still_finite(build: Build, tokens: Tensor) -> None:
    mask = torch.ones_like(tokens, dtype=torch.bool)
    mask[1] = False
    for spec in ("softmax", "hedgehog", "elu"):
        assert build(spec, "encoder").class_logits(tokens, mask).isfinite().all()


def test_an_encoder_sees_later_tokens(build: Build, tokens: Tensor) -> None:
    model = build("hedgehog", "encoder").model
    changed = tokens.clone()
    changed[:, -1] = (changed[:, -1] + 1) % 11
    assert (model.hidden(changed)[:, 0] - model.hidden(tokens)[:, 0]).abs().max() > 1e-4


@pytest.mark.parametrize("spec", BOTH_WAYS)
def test_a_vit_reads_its_class_token_over_patches(build: Build, spec: str) -> None:
    adapter = build(spec, "vit")
    images = torch.randn(3, 2, 8, 8, generator=torch.Generator().manual_seed(0))
    assert adapter.class_logits(images).shape == (3, 3)
    assert adapter.model.hidden(images).shape == (3, 5, 16)
    assert [w.shape for w in adapter.attention_weights(images)] == [(3, 2, 5, 5)] * 2
    assert torch.equal(adapter.model.read_out(adapter.model.hidden(images)), adapter.class_logits(images))


def test_patches_are_those_of_a_loop_over_the_image(build: Build) -> None:
    model = build("none", "vit").model
    image = torch.randn(1, 2, 8, 8, generator=torch.Generator().manual_seed(0))
    assert isinstance(model.embedding, nn.Conv2d)
    kernel = model.embedding.weight.flatten(1)
    expected = [kernel @ image[0, :, y : y + 4, x : x + 4].flatten() for y in (0, 4) for x in (0, 4)]
    embedded = model.embedding(image).flatten(2)[0].T
    torch.testing.assert_close(embedded, torch.stack(expected), rtol=1e-5, atol=1e-5)


@torch.no_grad()
def test_attention_weights_of_a_model_are_those_its_blocks_use(build: Build, tokens: Tensor) -> None:
    adapter = build("softmax", rope=True)
    first = adapter.model.blocks[0]
    assert isinstance(first, Block)
    assert isinstance(first.attention, SelfAttention)
    assert isinstance(first.attention.core, AttentionCore)
    x, positions = adapter.model.embedding(tokens), token_positions(tokens, None)
    heads, _ = first.attention.project(first.attention_norm(x), positions, None, None)
    assert torch.equal(adapter.attention_weights(tokens)[0], first.attention.core.weights(heads, causal=True))


def test_positions_count_real_tokens_and_go_on_after_those_in_the_mask_alone() -> None:
    x = torch.empty(2, 4, 1)
    mask = torch.tensor([[False, False, True, True], [True, True, True, False]])
    assert token_positions(x, None).tolist() == [[0, 1, 2, 3]] * 2
    assert token_positions(x, mask).tolist() == [[0, 0, 0, 1], [0, 1, 2, 2]]
    assert token_positions(x[:, :1], mask).tolist() == [[1], [2]]


def test_the_head_of_a_language_model_is_its_embedding() -> None:
    model = Transformer(CONFIG, SOFTMAX)
    assert model.head is None
    assert isinstance(model.embedding, nn.Embedding)
    hidden = torch.randn(1, 2, 16)
    assert torch.equal(model.read_out(hidden), hidden @ model.embedding.weight.T)


def test_initial_weights_have_gpt2s_spread_scaled_to_the_width() -> None:
    torch.manual_seed(0)
    wide = replace(CONFIG, width=768, heads=12, kv_heads=12, mlp_width=768, layers=1, vocab_size=1000)
    model = Transformer(wide, SOFTMAX)
    spreads = {name: float(p.detach().std()) for name, p in model.named_parameters() if p.ndim == 2}
    assert spreads["embedding.weight"] == pytest.approx(0.02, rel=0.02)
    assert spreads["blocks.0.attention.query.weight"] == pytest.approx(0.02, rel=0.02)
    assert spreads["blocks.0.attention.output.weight"] == pytest.approx(0.02 / 2**0.5, rel=0.02)
    assert spreads["blocks.0.mlp.2.weight"] == pytest.approx(0.02 / 2**0.5, rel=0.02)
    narrow = Transformer(replace(wide, width=192), SOFTMAX)
    assert float(narrow.blocks[0].attention.query.weight.detach().std()) == pytest.approx(0.04, rel=0.02)  # type: ignore[union-attr,operator]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"heads": 3}, "width 16 is not a multiple of heads 3"),
        ({"kv_heads": 3}, "heads 2 is not a multiple of kv_heads 3"),
        ({"image_size": 10, "patch_size": 4}, "image_size 10 is not a multiple of patch_size 4"),
        ({"short_conv": 3, "causal": False}, "short_conv is causal"),
    ],
)
def test_sizes_that_do_not_fit_are_refused(change: dict[str, int], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        replace(CONFIG, **change)  # type: ignore[arg-type]


def test_an_image_needs_a_context_of_its_patches_and_the_class_token() -> None:
    assert patches_and_class_token(replace(CONFIG, image_size=224, patch_size=16)).context_length == 197
    assert patches_and_class_token(CONFIG) is CONFIG


def test_a_hybrid_keeps_softmax_in_the_layers_that_its_spec_names() -> None:
    whole = Transformer(CONFIG, parse_spec("none", mechanisms().get))
    hybrid = Transformer(CONFIG, parse_spec("none:keep=1", mechanisms().get))
    assert [core.is_kept for core in whole.cores] == [False, False]
    assert [core.is_kept for core in hybrid.cores] == [False, True]
    assert [type(core).__name__ for core in hybrid.cores] == ["NoAttention", "SoftmaxAttention"]
    with pytest.raises(ValueError, match="the model has no layer 2"):
        Transformer(CONFIG, parse_spec("none:keep=2", mechanisms().get))


def test_nothing_is_rotated_twice(build: Build) -> None:
    with pytest.raises(UnsupportedError, match=r"model retention rotates .*: retention:rope=false"):
        build("retention", rope=True)
    build("retention:rope=false", rope=True)
