"""Decoding by linear attention with Hedgehog's map inside, as operators that torch knows; see `fused_op`."""

from typing import Any

import torch
from torch import Tensor

from ..state import LinearState
from .checks import check_changed_in_place
from .operands import fused_call, own_state, placed
from .tensors import Options, Tensors
from .torch_forms import torch_decode


@torch.library.custom_op("hedgebench::linear_attention_decode", mutates_args=(), device_types="cuda")
def fused_decode(
    q: Tensor, k: Tensor, v: Tensor, q_weight: Tensor | None, k_weight: Tensor | None, q_bias: Tensor | None,
    k_bias: Tensor | None, kv: Tensor, keys: Tensor, scale: Tensor | None, feature_map: str, negate: bool,
    log_space: bool, normalize: bool, eps: float,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:  # fmt: skip
    """Gives the outputs of a few tokens, and the state after them as a new one, its scale empty outside log space."""
    from .launch import decode

    tensors = _given(q, k, v, q_weight, k_weight, q_bias, k_bias, kv, keys, scale)
    call = fused_call(tensors, Options(feature_map, negate, log_space, True, normalize, eps, ""))
    state = LinearState(_read(kv), _read(keys), None if scale is None else _read(scale))
    ran = decode(call, state, torch.empty_like(state.kv))
    grown = state.k.new_empty(0) if ran.final.log_scale is None else ran.final.log_scale
    return ran.output, ran.final.kv, ran.final.k, grown


@torch.library.custom_op("hedgebench::linear_attention_decode_", mutates_args=("kv", "keys", "scale"),
                         device_types="cuda")  # fmt: skip
def fused_decode_(
    q: Tensor, k: Tensor, v: Tensor, q_weight: Tensor | None, k_weight: Tensor | None, q_bias: Tensor | None,
    k_bias: Tensor | None, kv: Tensor, keys: Tensor, scale: Tensor | None, feature_map: str, negate: bool,
    log_space: bool, normalize: bool, eps: float,
) -> Tensor:  # fmt: skip
    """Gives the outputs of a few tokens, and changes the state in place.

    Raises:
        ValueError: a state that is not contiguous or not of a type that sums are held in.
    """
    from .launch import decode

    check_changed_in_place(LinearState(kv, keys, scale))
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
    return placed(output), *own_state(state, _given(*args[:10]).sums_dtype)


@fused_decode_.register_kernel("cpu")
def decode_in_place_by_torch(*args: Any) -> Tensor:
    """Does on any device, by torch's operators, what `fused_decode_` does; errors as of it."""
    check_changed_in_place(LinearState(*args[7:10]))
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


def _read(tensor: Tensor) -> Tensor:
    """Gives a state's tensor as the kernel reads it."""
    return tensor.to(torch.float32).contiguous()


def _decoded_like(tensors: Tensors) -> Tensor:
    batch, heads, tokens, _ = tensors.q.shape
    return tensors.v.new_empty(batch, tokens, heads, tensors.v.shape[-1]).transpose(1, 2)


@fused_decode.register_fake
def _decode_shapes(*args: Any) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    tensors = _given(*args[:10])
    kv, keys = (x.new_empty(x.shape, dtype=tensors.sums_dtype) for x in args[7:9])
    return _decoded_like(tensors), kv, keys, keys.new_empty(0) if args[9] is None else torch.empty_like(keys)


@fused_decode_.register_fake
def _decode_in_place_shapes(*args: Any) -> Tensor:
    return _decoded_like(_given(*args[:10]))
