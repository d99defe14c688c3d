"""Forms of gated and delta-rule attention against each other and against flash-linear-attention's references."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from hedgebench.kernels.choice import KernelChoice
from hedgebench.kernels.gated.attention import gated_attention
from hedgebench.kernels.gated.chunk import MAX_CHUNK
from hedgebench.kernels.gated.forms import gated_weights
from hedgebench.kernels.gated.rule import GatedRule
from hedgebench.results.names import UnknownNameError

from ...peer import peer_module

BATCH, HEADS, KEY_HEADS, DIM, VALUES = 2, 4, 2, 8, 6
ODD = MAX_CHUNK // 2 + 5
"""More than a chunk of heads of 8."""
RULES = {
    "scalar decay": (1, False, 0.3),
    "decay by channel": (DIM, False, 0.3),
    "delta rule": (1, True, 0.0),
    "delta rule, scalar decay": (1, True, 0.3),
    "delta rule, decay by channel": (DIM, True, 0.3),
}
"""Channels of the decay, whether the delta rule writes, and how strong the decay is."""
EACH = pytest.mark.parametrize("name", RULES)


def rule_of(
    name: str, tokens: int, *, heads: int = HEADS, key_heads: int = KEY_HEADS, width: int = DIM, strength: float = 1.0
) -> GatedRule:
    """A rule with keys of length 1 in float64."""
    channels, has_delta, decay = RULES[name]
    channels = width if channels == DIM else channels
    draw = torch.Generator().manual_seed(len(name) + tokens)

    def normal(*sizes: int) -> Tensor:
        return torch.randn(BATCH, *sizes, dtype=torch.float64, generator=draw)

    return GatedRule(
        q=normal(heads, tokens, width),
        k=F.normalize(normal(key_heads, tokens, width), dim=-1),
        v=normal(key_heads, tokens, VALUES),
        log_decay=-strength * decay * normal(key_heads, tokens, channels).square(),
        beta=normal(key_heads, tokens).sigmoid() if has_delta else None,
        scale=width**-0.5,
    )


def in_float32(rule: GatedRule) -> GatedRule:
    beta = None if rule.beta is None else rule.beta.float()
    return GatedRule(rule.q.float(), rule.k.float(), rule.v.float(), rule.log_decay.float(), beta, rule.scale)


def gradients(run: Callable[[GatedRule], Tensor], rule: GatedRule) -> list[Tensor]:
    """Gradients of q, k, v, log_decay and beta."""
    leaves = [x.clone().requires_grad_() for x in (rule.q, rule.k, rule.v, rule.log_decay, rule.beta) if x is not None]
    named = dict(zip(("q", "k", "v", "log_decay", "beta"), leaves, strict=False))
    output = run(replace(rule, **named))  # type: ignore[arg-type]
    towards = torch.randn(output.shape, dtype=torch.float64, generator=torch.Generator().manual_seed(3))
    found = torch.autograd.grad(output, leaves, towards.to(output.dtype), allow_unused=True)
    return [x for x in found if x is not None]


def output_of(rule: GatedRule, form: str) -> Tensor:
    return gated_attention(rule, return_state=False, form=form).output


@EACH
@pytest.mark.parametrize("tokens", [1, 2, 7, ODD])
def test_recurrent_and_chunk_match_naive_in_outputs_and_gradients(name: str, tokens: int) -> None:
    rule = rule_of(name, tokens)
    expected = gated_attention(rule, form="naive").output
    wanted = gradients(partial(output_of, form="naive"), rule)
    for form in ("recurrent", "chunk"):
        torch.testing.assert_close(gated_attention(rule, form=form).output, expected, rtol=1e-10, atol=1e-10)
        found = gradients(partial(output_of, form=form), rule)
        for mine, other in zip(found, wanted, strict=True):
            torch.testing.assert_close(mine, other, rtol=1e-8, atol=1e-8)


@EACH
def test_wide_heads_have_longer_chunks(name: str) -> None:
    rule = rule_of(name, MAX_CHUNK + 3, heads=1, key_heads=1, width=MAX_CHUNK)
    expected, found = (gated_attention(rule, form=form) for form in ("recurrent", "chunk"))
    torch.testing.assert_close(found.output, expected.output, rtol=1e-10, atol=1e-10)
    torch.testing.assert_close(found.state, expected.state, rtol=1e-10, atol=1e-10)


@EACH
def test_going_on_from_a_state_equals_the_whole(name: str) -> None:
    rule = rule_of(name, ODD)
    whole = gated_attention(rule, form="chunk")
    for form in ("recurrent", "chunk"):
        outputs, state = [], None
        for part in (slice(0, 3), slice(3, ODD - 1), slice(ODD - 1, ODD)):
            q, k, v, decay = (x[:, :, part] for x in (rule.q, rule.k, rule.v, rule.log_decay))
            beta = None if rule.beta is None else rule.beta[:, :, part]
            ran = gated_attention(GatedRule(q, k, v, decay, beta, rule.scale), initial_state=state, form=form)
            outputs.append(ran.output)
            state = ran.state
        torch.testing.assert_close(torch.cat(outputs, 2), whole.output, rtol=1e-10, atol=1e-10)
        torch.testing.assert_close(state, whole.state, rtol=1e-10, atol=1e-10)


@EACH
@pytest.mark.parametrize("form", ["naive", "recurrent", "chunk"])
def test_padded_tokens_change_nothing(name: str, form: str) -> None:
    rule, mask = rule_of(name, 9), torch.ones(BATCH, 9, dtype=torch.bool)
    mask[:, :4] = False
    padded = gated_attention(rule, key_padding_mask=mask, form=form)
    q, k, v, decay = (x[:, :, 4:] for x in (rule.q, rule.k, rule.v, rule.log_decay))
    beta = None if rule.beta is None else rule.beta[:, :, 4:]
    bare = gated_attention(GatedRule(q, k, v, decay, beta, rule.scale), form=form)
    torch.testing.assert_close(padded.output[:, :, 4:], bare.output)
    assert (padded.state is None) == (form == "naive")
    torch.testing.assert_close(padded.state, bare.state)


@EACH
def test_a_decay_to_nothing_stays_exact_in_float32(name: str) -> None:
    """Sums of logarithms reach -10000 in a chunk, where exp(-sum) would overflow."""
    rule = rule_of(name, ODD, strength=1000.0)
    single = in_float32(rule)
    expected = gated_attention(rule, form="recurrent").output.float()
    torch.testing.assert_close(gated_attention(single).output, expected, rtol=1e-4, atol=1e-5)
    assert all(x.isfinite().all() for x in gradients(lambda r: gated_attention(r).output, single))


def test_without_decay_it_is_linear_attention_without_a_normaliser() -> None:
    rule = replace(rule_of("scalar decay", 9), log_decay=torch.zeros(BATCH, KEY_HEADS, 9, 1, dtype=torch.float64))
    k, v = (x.repeat_interleave(HEADS // KEY_HEADS, 1) for x in (rule.k, rule.v))
    expected = (rule.q @ k.mT * rule.scale).tril() @ v
    torch.testing.assert_close(gated_attention(rule).output, expected)
    torch.testing.assert_close(gated_weights(rule.exact()), (rule.q @ k.mT * rule.scale).tril())


def test_the_delta_rule_replaces_the_value_of_a_key_it_has_seen() -> None:
    """With beta = 1 a key of length 1 reads back the value that was written last."""
    k = torch.tensor([[1.0, 0.0], [0.0, 1.0], [1.0, 0.0]]).double()[None, None]
    v = torch.tensor([[1.0, 2.0], [3.0, 4.0], [5.0, 6.0]]).double()[None, None]
    decay, beta = torch.zeros(1, 1, 3, 1).double(), torch.ones(1, 1, 3).double()
    for form in ("naive", "recurrent", "chunk"):
        torch.testing.assert_close(gated_attention(GatedRule(k, k, v, decay, beta), form=form).output, v)
        summed = gated_attention(GatedRule(k, k, v, decay), form=form).output
        torch.testing.assert_close(summed[0, 0, 2], v[0, 0, 0] + v[0, 0, 2])


def test_the_form_that_ran_is_told_and_wrong_ones_are_refused() -> None:
    rule = rule_of("scalar decay", 5)
    ran = gated_attention(rule)
    assert ran.kernel == KernelChoice("chunk", "torch")
    assert gated_attention(rule, return_state=False).state is None
    one = GatedRule(rule.q[:, :, :1], rule.k[:, :, :1], rule.v[:, :, :1], rule.log_decay[:, :, :1])
    assert gated_attention(one, initial_state=ran.state).kernel == KernelChoice("recurrent", "torch")
    with pytest.raises(ValueError, match="allowed forms: recurrent, chunk"):
        gated_attention(one, initial_state=ran.state, form="naive")
    with pytest.raises(UnknownNameError, match="did you mean chunk"):
        gated_attention(rule, form="chunck")


def test_under_autocast_it_computes_in_float32() -> None:
    rule = rule_of("delta rule, decay by channel", 9)
    single = in_float32(rule)
    expected = gated_attention(single).output
    with torch.autocast("cpu", torch.bfloat16):
        torch.testing.assert_close(gated_attention(single).output, expected, rtol=0, atol=0)


@pytest.fixture(scope="module")
def peer() -> Callable[[str, str], Any]:
    """A function of the peer's references."""

    def function(room: str, name: str) -> Any:
        return getattr(peer_module(f"ops.{room}.naive"), name)

    return function


def tokens_first(*tensors: Tensor | None) -> list[Tensor]:
    """[b h n ..] as the [b n h ..] of the peer."""
    return [x.transpose(1, 2) for x in tensors if x is not None]


def theirs(peer: Callable[[str, str], Any], name: str, rule: GatedRule, state: Tensor | None) -> tuple[Tensor, Tensor]:
    """The peer's recurrent reference of a rule, in float32: the output and the state."""
    options = {"initial_state": state, "output_final_state": True}
    q, k, v = tokens_first(rule.q, rule.k, rule.v)
    decay = rule.log_decay.transpose(1, 2)
    match name:
        case "scalar decay":
            run = peer("simple_gla", "naive_recurrent_simple_gla")
            out, final = run(q, k, v, decay.squeeze(-1), **options)
        case "decay by channel":
            out, final = peer("gla", "naive_recurrent_gla")(q, k, v, decay, **options)
        case "delta rule":
            out, final = peer("delta_rule", "delta_rule_recurrence")(rule.q, rule.k, rule.v, rule.beta, **options)
            return out, final
        case "delta rule, scalar decay":
            run = peer("gated_delta_rule", "naive_recurrent_gated_delta_rule")
            out, final = run(q, k, v, *tokens_first(rule.beta), decay.squeeze(-1), **options)
        case _:
            out, final = peer("kda", "naive_recurrent_kda")(q, k, v, decay, *tokens_first(rule.beta), **options)
    return out.transpose(1, 2), final


@EACH
@pytest.mark.parametrize("goes_on", [False, True])
def test_outputs_and_states_equal_the_peers(peer: Callable[[str, str], Any], name: str, goes_on: bool) -> None:
    rule = rule_of(name, ODD, heads=3, key_heads=3)
    state = torch.randn(BATCH, 3, DIM, VALUES, generator=torch.Generator().manual_seed(4)) if goes_on else None
    expected, final = theirs(peer, name, rule, state)
    for form in ("recurrent", "chunk"):
        ours = gated_attention(rule, initial_state=None if state is None else state.double(), form=form)
        torch.testing.assert_close(ours.output.float(), expected.float(), rtol=2e-5, atol=2e-5)
        assert ours.state is not None
        torch.testing.assert_close(ours.state.float(), final, rtol=2e-5, atol=2e-5)


@EACH
def test_gradients_equal_the_peers(peer: Callable[[str, str], Any], name: str) -> None:
    rule = rule_of(name, 21, heads=3, key_heads=3)
    expected = gradients(lambda r: theirs(peer, name, r, None)[0], rule)
    found = gradients(lambda r: gated_attention(r).output, rule)
    if name == "delta rule":  # the peer's has no decay
        del found[3]
    for mine, other in zip(found, expected, strict=True):
        torch.testing.assert_close(mine, other, rtol=1e-4, atol=2e-5)


def test_retention_equals_the_peers(peer: Callable[[str, str], Any]) -> None:
    rule = rule_of("scalar decay", ODD, heads=3, key_heads=3)
    decay = (1 - 2.0 ** (-5 - torch.arange(3.0).double())).log()[None, :, None, None].expand(BATCH, -1, ODD, -1)
    expected = peer("retention", "naive_retention")(rule.q, rule.k, rule.v)
    ours = gated_attention(replace(rule, log_decay=decay)).output
    torch.testing.assert_close(ours.float(), expected.float(), rtol=2e-5, atol=2e-5)
