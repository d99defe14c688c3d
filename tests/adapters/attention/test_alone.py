"""Tests of adapters/attention_alone.py."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import pytest
import torch

from hedgebench.adapters.attention.alone import AttentionAlone, build_alone
from hedgebench.adapters.mechanisms.declaration import AttentionShape
from hedgebench.adapters.precision import Precision
from hedgebench.adapters.spec import parse_spec
from hedgebench.harness import registry
from hedgebench.kernels.choice import KernelChoice
from hedgebench.kernels.costs import feature_map_cost, linear_attention_cost, softmax_attention_cost
from hedgebench.kernels.fused_costs import Walk, fused_decode_cost

SHAPE = AttentionShape(heads=4, kv_heads=2, head_dim=8, context_length=64)
FLOAT = 4
MODELS = ("softmax", "softmax:backend=naive", "elu", "hedgehog", "hedgehog:window=4", "cosformer", "performer",
          "taylor:feature_dim=4", "none")  # fmt: skip


def alone(model: str, shape: AttentionShape = SHAPE) -> AttentionAlone:
    return build_alone(parse_spec(model, registry.mechanisms().get), shape, Precision.of("cpu", "float32"))


@pytest.mark.parametrize("model", MODELS)
def test_decoding_token_by_token_ends_in_the_state_of_the_whole(model: str) -> None:
    layer = alone(model)
    inputs = layer.inputs(2, 12)
    assert inputs.heads.q.shape == (2, 4, 12, 8)
    assert inputs.heads.k.shape == (2, 2, 12, 8)
    state = layer.prefill(inputs, 9)
    for position in range(9, 12):
        state = layer.decode(inputs, position, state)
    one = layer.inputs(2, 13).part(12, 13)
    with torch.no_grad():
        whole, _ = layer.core.extend(one, layer.prefill(inputs, 12))
        stepwise, _ = layer.core.extend(one, state)
    torch.testing.assert_close(whole, stepwise, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("model", MODELS)
def test_a_training_step_runs_backward_and_leaves_no_gradient(model: str) -> None:
    layer = alone(model)
    layer.train(layer.inputs(1, 12))
    assert all(parameter.grad is None for parameter in layer.core.parameters())
    assert {kernel.phase for kernel in layer.kernels_used()} == {"layer_train"}


def test_inputs_are_the_same_for_every_mechanism() -> None:
    softmax, hedgehog = (alone(model).inputs(1, 8).heads for model in ("softmax", "hedgehog"))
    torch.testing.assert_close(softmax.q, hedgehog.q, rtol=0, atol=0)
    torch.testing.assert_close(softmax.v, hedgehog.v, rtol=0, atol=0)


def test_a_cache_grows_with_length_and_a_recurrent_state_does_not() -> None:
    assert alone("softmax").state_bytes(3, 16) == 3 * 2 * 2 * 16 * 8 * FLOAT
    assert alone("elu").state_bytes(3, 16) == alone("elu").state_bytes(3, 32) == 3 * 2 * 8 * (8 + 1) * FLOAT


def test_the_cost_of_softmax_is_that_of_its_formula() -> None:
    layer = alone("softmax")
    layer.prefill(layer.inputs(2, 16), 16)
    assert layer.cost("prefill", 2, 16) == softmax_attention_cost(b=2, h=4, hk=2, n=16, d=8, dv=8)


def test_the_cost_of_linear_attention_is_that_of_the_form_that_ran_and_of_both_maps() -> None:
    layer = alone("hedgehog")
    layer.prefill(layer.inputs(2, 16), 16)
    (ran,) = layer.kernels_used()
    found = layer.cost("prefill", 2, 16)
    sums = linear_attention_cost(ran.form, b=2, h=4, hk=2, n=16, f=16, dv=8, log_space=True)
    maps = [feature_map_cost(b=2, heads=heads, n=16, d=8, width=8, f=16) for heads in (4, 2)]
    features = 2 * 2 * 16 * (4 + 2) * 16 * FLOAT  # written and read, were they applied to all tokens first
    assert found is not None
    assert ran.form == "chunk"
    assert found.flops == sums.flops + sum(cost.flops for cost in maps)
    assert found.bytes == sums.bytes + sum(cost.bytes for cost in maps) - features


def test_features_of_other_forms_go_through_memory() -> None:
    layer = alone("elu")
    layer.prefill(layer.inputs(1, 1), 1)
    (ran,) = layer.kernels_used()
    found = layer.cost("prefill", 1, 1)
    sums = linear_attention_cost(ran.form, b=1, h=4, hk=2, n=1, f=8, dv=8)
    maps = [feature_map_cost(b=1, heads=heads, n=1, d=8, width=0, f=8) for heads in (4, 2)]
    assert ran.form == "recurrent"
    assert found is not None
    assert found.bytes == sums.bytes + sum(cost.bytes for cost in maps)


@pytest.mark.parametrize("backend", ["naive", "sdpa_math"])
def test_softmax_that_is_not_fused_computes_all_scores_and_moves_them(backend: str) -> None:
    layer = alone(f"softmax:backend={backend}")
    layer.prefill(layer.inputs(2, 16), 16)
    fused, found = softmax_attention_cost(b=2, h=4, hk=2, n=16, d=8, dv=8), layer.cost("prefill", 2, 16)
    assert found is not None
    assert (found.flops, found.bytes) == (2 * fused.flops, fused.bytes + 4 * 2 * 4 * 16 * 16 * FLOAT)


@pytest.mark.parametrize("form", ["fused_chunk", "chunk"])
def test_our_kernels_have_the_counts_of_their_form(form: str) -> None:
    layer = alone("hedgehog", dataclasses.replace(SHAPE, kv_heads=4))
    layer.core.record("prefill", KernelChoice(form, "triton"))
    layer.core.record("decode", KernelChoice("fused_recurrent", "triton"))
    assert layer.cost("prefill", 2, 16) == Walk(form, 2, 4, 16, 8, "float32").forward
    assert layer.cost("decode", 2, 16) == fused_decode_cost(heads=2 * 4, d=8)


@pytest.mark.parametrize(("model", "kv_heads"), [("hedgehog", 2), ("hedgehog:negate=false", 4), ("elu", 4),
                                                 ("hedgehog:feature_dim=4", 4)])  # fmt: skip
def test_our_kernels_have_no_counts_where_the_algorithm_is_another(model: str, kv_heads: int) -> None:
    layer = alone(model, dataclasses.replace(SHAPE, kv_heads=kv_heads))
    layer.core.record("prefill", KernelChoice("chunk", "triton"))
    assert layer.cost("prefill", 2, 16) is None


def test_what_has_no_formula_has_no_cost() -> None:
    for model in ("none", "hedgehog:window=4"):
        layer = alone(model)
        layer.prefill(layer.inputs(1, 16), 16)
        assert layer.cost("prefill", 1, 16) is None
    assert alone("softmax").cost("prefill", 1, 16) is None  # nothing ran yet


def test_parameters_are_those_of_the_maps() -> None:
    assert alone("hedgehog").parameter_count().total == (4 + 2) * 8 * 8
    assert alone("softmax").parameter_count().total == 0


def test_a_compiled_layer_is_run_by_the_compiler(monkeypatch: pytest.MonkeyPatch) -> None:
    ran: list[str] = []

    def compile(call: Callable[..., Any], dynamic: bool) -> Callable[..., Any]:
        def compiled(*args: Any, **options: Any) -> Any:
            ran.append(call.__name__)
            return call(*args, **options)

        return compiled

    monkeypatch.setattr(torch, "compile", compile)
    layer = alone("elu")
    inputs = layer.inputs(1, 8)
    layer.prefill(inputs, 8)
    assert ran == []
    layer.compile()
    layer.prefill(inputs, 8)
    layer.train(inputs)
    assert ran == ["extend", "forward"]
