"""The torch forms behind the fused operators: what the kernels are held to, and what runs without a GPU."""

from itertools import pairwise

import torch
from torch import Tensor

from ..chunk.attention import linear_attention_chunk, linear_attention_recurrent
from ..maps.hedgehog_tokens import HedgehogTokens
from ..maps.token_maps import TokenMap
from ..state import LinearState
from ..triton.block_tables import check_ends
from .tensors import Options, Tensors


def torch_attention(tensors: Tensors, options: Options) -> tuple[Tensor, LinearState]:
    """Gives outputs and the state after the last key, by the form "chunk"."""
    if tensors.cu_seqlens is None:
        return _torch_batch(tensors, options)
    ends = [int(end) for end in tensors.cu_seqlens.tolist()]
    check_ends(ends, tensors.q.shape[2])
    parts = [
        _torch_batch(_sequence(tensors, index, start, end), options)
        for index, (start, end) in enumerate(pairwise(ends))
    ]
    states = [state for _, state in parts]
    scales = [state.log_scale for state in states if state.log_scale is not None]
    scale = torch.cat(scales) if scales else None
    state = LinearState(torch.cat([s.kv for s in states]), torch.cat([s.k for s in states]), scale)
    return torch.cat([output for output, _ in parts], dim=2), state


def torch_decode(tensors: Tensors, options: Options) -> tuple[Tensor, LinearState]:
    """Gives outputs and the state after the last key, by the form "recurrent"."""
    maps = _maps(tensors, options)
    every = slice(0, tensors.q.shape[2])
    q, k = (tensors.q, tensors.k) if maps is None else (maps[0](tensors.q, every), maps[1](tensors.k, every))
    return linear_attention_recurrent(
        q, k, tensors.v, causal=True, normalize=options.normalize, eps=options.eps, log_space=options.log_space,
        initial_state=tensors.initial,
    )  # fmt: skip


def _torch_batch(tensors: Tensors, options: Options) -> tuple[Tensor, LinearState]:
    return linear_attention_chunk(
        tensors.q, tensors.k, tensors.v, causal=options.causal, key_padding_mask=tensors.mask,
        normalize=options.normalize, eps=options.eps, log_space=options.log_space, initial_state=tensors.initial,
        maps=_maps(tensors, options),
    )  # fmt: skip


def _maps(tensors: Tensors, options: Options) -> tuple[TokenMap, TokenMap] | None:
    if tensors.q_weight is None or tensors.k_weight is None:
        return None
    variant = (options.feature_map, options.negate)
    query_map = HedgehogTokens(tensors.q_weight, tensors.q_bias, *variant)
    return query_map, HedgehogTokens(tensors.k_weight, tensors.k_bias, *variant)


def _sequence(tensors: Tensors, index: int, start: int, end: int) -> Tensors:
    q, k, v = (x[:, :, start:end] for x in (tensors.q, tensors.k, tensors.v))
    initial = [None if x is None else x[index : index + 1] for x in tensors[7:10]]
    mask = None if tensors.mask is None else tensors.mask[:, start:end]
    return Tensors._make((q, k, v, *tensors[3:7], *initial, mask, None))
