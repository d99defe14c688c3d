"""Refuses calls whose tensors do not fit each other: kernels read by pointer, and would read past what was given."""

import torch
from torch import Tensor

from ..state import LinearState

QKV = tuple[Tensor, Tensor, Tensor]
Maps = tuple[Tensor | None, Tensor | None, Tensor | None, Tensor | None]


def check_call(
    qkv: QKV,
    maps: Maps,
    state: LinearState | None,
    mask: Tensor | None,
    cu_seqlens: Tensor | None,
    *,
    negate: bool,
    log_space: bool,
) -> None:
    """Checks what a call of linear attention with its map inside is given, the grouping of heads excepted.

    Args:
        qkv: [b h n d], [b hk m d] and [b hk m dv].
        maps: W of queries [h d w] and keys [hk d w], b of queries [h w] and keys [hk w]; all None for features.
        state: sums before the first token, of each sequence.
        mask: [b m].
        cu_seqlens: [sequences + 1].
        negate: the map has both halves.
        log_space: features are exp of what the map gives.

    Raises:
        ValueError: naming the tensor, what it is and what is allowed.
    """
    q, k, v = qkv
    heads, kv_heads, dim, batch, keys = q.shape[1], k.shape[1], q.shape[3], q.shape[0], k.shape[2]
    check_shape("k", k, (batch, kv_heads, keys, dim))
    check_shape("v", v, (batch, kv_heads, keys, v.shape[-1]))
    width = _check_maps(maps, heads, kv_heads, dim)
    check_mask(mask, batch, keys)
    sequences = batch
    if cu_seqlens is not None:
        if batch != 1:
            raise ValueError(f"cu_seqlens packs sequences into a batch of 1, got a batch of {batch}")
        if cu_seqlens.ndim != 1 or cu_seqlens.is_floating_point():
            raise ValueError(f"cu_seqlens must be integers [sequences + 1], got {_said(cu_seqlens)}")
        sequences = cu_seqlens.shape[0] - 1
    if state is not None:
        features = width * (2 if negate else 1)
        _check_state(state, (sequences, kv_heads, features, v.shape[-1]), log_space)
    state_parts = () if state is None else (state.kv, state.k, state.log_scale)
    check_devices(q, k, v, *maps, mask, *state_parts)


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
    for other in others:
        if other is not None and other.device != first.device:
            raise ValueError(f"tensors of a call must lie on one device, got {first.device} and {other.device}")


def check_changed_in_place(state: LinearState) -> None:
    """Checks a state whose own memory a step is to change.

    Raises:
        ValueError: tensors that are not contiguous, or of a type that sums are not held in.
    """
    for name, x in (("kv", state.kv), ("k", state.k), ("log_scale", state.log_scale)):
        if x is not None and (x.dtype not in (torch.float32, torch.float64) or not x.is_contiguous()):
            raise ValueError(
                f"a state that is changed in place must be contiguous and float32 (float64 beside float64 inputs), got "
                f"state.{name} of {_said(x)} and strides {x.stride()}; pass a contiguous float32 copy"
            )


def _check_maps(maps: Maps, heads: int, kv_heads: int, dim: int) -> int:
    """Gives w, or d without a map."""
    q_weight, k_weight, q_bias, k_bias = maps
    if (q_bias is None) != (k_bias is None):
        raise ValueError("q_bias and k_bias belong to one map: give both or neither")
    if q_weight is None or k_weight is None:
        return dim
    for name, weight, count in (("q_weight", q_weight, heads), ("k_weight", k_weight, kv_heads)):
        if weight.ndim != 3 or weight.shape[:2] != (count, dim):
            raise ValueError(f"{name} must be [{count}, {dim}, columns], got {list(weight.shape)}")
    width = q_weight.shape[2]
    if k_weight.shape[2] != width:
        raise ValueError(f"q_weight and k_weight must have as many columns, got {width} and {k_weight.shape[2]}")
    for name, bias, count in (("q_bias", q_bias, heads), ("k_bias", k_bias, kv_heads)):
        if bias is not None:
            check_shape(name, bias, (count, width))
    return width


def _check_state(state: LinearState, kv: tuple[int, ...], log_space: bool) -> None:
    if (state.log_scale is not None) != log_space:
        kind = "has no" if state.log_scale is None else "has a"
        space = "log features need one" if log_space else "plain features have none"
        raise ValueError(f"the state {kind} log_scale, and {space}: it is of a map in the other space")
    check_shape("state.kv", state.kv, kv)
    check_shape("state.k", state.k, kv[:3])
    if state.log_scale is not None:
        check_shape("state.log_scale", state.log_scale, kv[:3])


def _said(tensor: Tensor) -> str:
    return f"{str(tensor.dtype).removeprefix('torch.')} {list(tensor.shape)}"
