"""Checks that the tensors of a call fit each other: kernels read by pointer, and could read past a tensor's end."""

import torch
from torch import Tensor

from ...results.names import unknown_name
from ..linear.sums import query_groups
from ..maps.learned import HEDGEHOG_MAPS
from ..state import LinearState
from .call import Call, settled


def check_call(call: Call) -> Call:
    """Checks the tensors of a call of linear attention with its map inside, and returns the call.

    Raises:
        ValueError: a tensor of a wrong shape, type or device, an unknown map, or kv heads that do not divide the query
            heads.
    """
    _check(call)
    return call


@settled
def _check(call: Call) -> None:
    if call.q_weight is not None and call.feature_map not in HEDGEHOG_MAPS:
        raise unknown_name("feature map", call.feature_map, HEDGEHOG_MAPS)
    batch, kv_heads, keys = call.q.shape[0], call.k.shape[1], call.k.shape[2]
    check_shape("k", call.k, (batch, kv_heads, keys, call.dim))
    check_shape("v", call.v, (batch, kv_heads, keys, call.values))
    query_groups(call.q, call.k, causal=False)
    _check_maps(call)
    check_mask(call.mask, batch, keys)
    _check_ends(call)
    _check_state(call)
    maps, state = (call.q_weight, call.k_weight, call.q_bias, call.k_bias), call.initial
    check_devices(call.q, call.k, call.v, *maps, call.mask, *((state.kv, state.k, state.log_scale) if state else ()))


def check_shape(name: str, tensor: Tensor, expected: tuple[int, ...]) -> None:
    """Checks one tensor's shape.

    Raises:
        ValueError: another shape.
    """
    if tensor.shape != expected:
        raise ValueError(f"{name} must be {list(expected)} to fit the rest of the call, got {list(tensor.shape)}")


def check_mask(mask: Tensor | None, batch: int, keys: int) -> None:
    """Checks a padding mask, which is bool [batch keys] or None.

    Raises:
        ValueError: another type or shape.
    """
    if mask is not None and (mask.dtype != torch.bool or tuple(mask.shape) != (batch, keys)):
        raise ValueError(f"key_padding_mask must be bool [{batch}, {keys}], true at real tokens, got {_said(mask)}")


def check_devices(first: Tensor, *others: Tensor | None) -> None:
    """Checks that tensors lie on one device.

    Raises:
        ValueError: more than one device.
    """
    device = first.device
    for other in others:
        if other is not None and other.device != device:
            raise ValueError(f"tensors of a call must lie on one device, got {first.device} and {other.device}")


def check_changed_in_place(state: LinearState | None) -> None:
    """Checks a state whose own memory a step is to change.

    Raises:
        ValueError: no state, or tensors that are not contiguous or neither float32 nor float64.
    """
    if state is None:
        raise ValueError("a step that changes a state in place needs a state, got None")
    for name, x in (("kv", state.kv), ("k", state.k), ("log_scale", state.log_scale)):
        if x is not None and (x.dtype not in (torch.float32, torch.float64) or not x.is_contiguous()):
            raise ValueError(
                f"a state that is changed in place must be contiguous and float32 (float64 beside float64 inputs), got "
                f"state.{name} of {_said(x)} and strides {x.stride()}; pass a contiguous float32 copy"
            )


def _check_maps(call: Call) -> None:
    if (call.q_bias is None) != (call.k_bias is None):
        raise ValueError("q_bias and k_bias belong to one map: give both or neither")
    heads, kv_heads, dim, width = call.q.shape[1], call.k.shape[1], call.dim, call.width
    if call.q_weight is not None and call.k_weight is not None:
        check_shape("q_weight", call.q_weight, (heads, dim, width))
        check_shape("k_weight", call.k_weight, (kv_heads, dim, width))
    if call.q_bias is not None and call.k_bias is not None:
        check_shape("q_bias", call.q_bias, (heads, width))
        check_shape("k_bias", call.k_bias, (kv_heads, width))


def _check_ends(call: Call) -> None:
    ends, batch = call.cu_seqlens, call.q.shape[0]
    if ends is None:
        return
    if batch != 1:
        raise ValueError(f"cu_seqlens packs sequences into a batch of 1, got a batch of {batch}")
    if ends.ndim != 1 or ends.is_floating_point():
        raise ValueError(f"cu_seqlens must be integers [sequences + 1], got {_said(ends)}")


def _check_state(call: Call) -> None:
    kv, sums, scale = call.initial_kv, call.initial_k, call.initial_scale
    if kv is None or sums is None:
        return
    if (scale is not None) != call.log_space:
        kind = "has no" if scale is None else "has a"
        space = "log features need one" if call.log_space else "plain features have none"
        raise ValueError(f"the state {kind} log_scale, and {space}: it belongs to a map in the other space")
    keys = (call.sequences, call.k.shape[1], call.features)
    check_shape("state.kv", kv, (*keys, call.values))
    check_shape("state.k", sums, keys)
    if scale is not None:
        check_shape("state.log_scale", scale, keys)


def _said(tensor: Tensor) -> str:
    return f"{str(tensor.dtype).removeprefix('torch.')} {list(tensor.shape)}"
