"""Decoding by linear attention with Hedgehog's map inside, as operators that torch knows; see `fused_op`."""

from typing import Any

import torch
from torch import Tensor

from .fused_call import fused_call, placed
from .fused_tensors import Options, Tensors
from .fused_torch import torch_decode
from .state import LinearState


@torch.library.custom_op("hedgebench::linear_attention_decode", mutates_args=(), device_types="cuda")
def fused_decode(
    q: Tensor, k: Tensor, v: Tensor, q_weight: Tensor | None, k_weight: Tensor | None, q_bias: Tensor | None,
    k_bias: Tensor | None, kv: Tensor, keys: Tensor, scale: Tensor | None, feature_map: str, negate: bool,
    log_space: bool, normalize: bool, eps: float,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:  # fmt: skip
    """Gives the outputs of a few tokens, and the state after them as a new one."""
    from .triton_launch import decode

    tensors = _given(q, k, v, q_weight, k_weight, q_bias, k_bias, kv, keys, scale)
    call = fused_call(tensors, Options(feature_map, negate, log_space, True, normalize, eps, ""))
    ran = decode(call, LinearState(kv, keys, scale), torch.empty_like(kv))
    grown = keys.new_empty(0) if ran.final.log_scale is None else ran.final.log_scale
    return ran.output, ran.final.kv, ran.final.k, grown


@torch.library.custom_op("hedgebench::linear_attention_decode_", mutates_args=("kv", "keys", "scale"),
                         device_types="cuda")  # fmt: skip
def fused_decode_(
    q: Tensor, k: Tensor, v: Tensor, q_weight: Tensor | None, k_weight: Tensor | None, q_bias: Tensor | None,
    k_bias: Tensor | None, kv: Tensor, keys: Tensor, scale: Tensor | None, feature_map: str, negate: bool,
    log_space: bool, normalize: bool, eps: float,
) -> Tensor:  # fmt: skip
    """Gives the outputs of a few tokens, and changes the state in place."""
    from .triton_launch import decode

    tensors = _given(q, k, v, q_weight, k_weight, q_bias, k_bias, kv, keys, scale)
    call = fused_call(tensors, Options(feature_map, negate, log_space, True, normalize, eps, ""))
    ran = decode(call, LinearState(kv, keys, scale), kv)
    keys.copy_(ran.final.k)
    if scale is not None and ran.final.log_scale is not None:
        scale.copy_(ran.final.log_scale)
    return ran.output


@fused_decode.register_kernel("cpu")
def _decode_on_cpu(*args: Any) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    output, state = _torch_decode(*args)
    grown = state.k.new_empty(0) if state.log_scale is None else state.log_scale
    return placed(output), state.kv.clone(), state.k.clone(), grown.clone()


@fused_decode_.register_kernel("cpu")
def decode_in_place_by_torch(*args: Any) -> Tensor:
    """Does on any device, by torch's operators, what `fused_decode_` does."""
    output, state = _torch_decode(*args)
    for old, new in zip(args[7:10], (state.kv, state.k, state.log_scale), strict=True):
        if old is not None:
            old.copy_(new)
    return placed(output)


def _torch_decode(*args: Any) -> tuple[Tensor, LinearState]:
    feature_map, negate, log_space, normalize, eps = args[10:]
    return torch_decode(_given(*args[:10]), Options(feature_map, negate, log_space, True, normalize, eps, ""))


def _given(*tensors: Any) -> Tensors:
    return Tensors._make((*tensors, None, None))


def _decoded_like(tensors: Tensors) -> Tensor:
    batch, heads, tokens, _ = tensors.q.shape
    return tensors.v.new_empty(batch, tokens, heads, tensors.v.shape[-1]).transpose(1, 2)


@fused_decode.register_fake
def _decode_shapes(*args: Any) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    kv, keys, scale = args[7:10]
    grown = keys.new_empty(0) if scale is None else torch.empty_like(scale)
    return _decoded_like(_given(*args[:10])), torch.empty_like(kv), torch.empty_like(keys), grown


@fused_decode_.register_fake
def _decode_in_place_shapes(*args: Any) -> Tensor:
    return _decoded_like(_given(*args[:10]))
