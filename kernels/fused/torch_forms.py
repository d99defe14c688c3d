"""The plain torch forms of the fused operators: they run without a GPU, and tests compare the kernels with them."""

from dataclasses import replace
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor

from ..chunk.attention import linear_attention_chunk, linear_attention_recurrent
from ..maps.hedgehog_tokens import HedgehogTokens
from ..maps.token_maps import TokenMap, zero_padding
from ..state import LinearState
from .call import Call, ends_of


def torch_attention(call: Call) -> tuple[Tensor, LinearState]:
    """Outputs and the state after the last key, in the form "chunk".

    Raises:
        ValueError: `cu_seqlens` whose ends do not rise from 0 to the number of tokens.
    """
    if call.cu_seqlens is None:
        return _torch_batch(call)
    ends = ends_of(call.cu_seqlens, call.tokens)
    parts = [_torch_batch(_sequence(call, index, slice(*span))) for index, span in enumerate(pairwise(ends))]
    states = [state for _, state in parts]
    scales = [state.log_scale for state in states if state.log_scale is not None]
    scale = torch.cat(scales) if scales else None
    state = LinearState(torch.cat([s.kv for s in states]), torch.cat([s.k for s in states]), scale)
    return torch.cat([output for output, _ in parts], dim=2), state


def torch_decode(call: Call) -> tuple[Tensor, LinearState]:
    """Outputs and the state after the last key, in the form "recurrent"."""
    q, k, every = call.q, call.k, slice(0, call.tokens)
    if (maps := _maps(call)) is not None:
        query_map, key_map = maps
        q, k = query_map(q, every), key_map(k, every)
    return linear_attention_recurrent(q, k, call.v, causal=True, **_options(call))


def _torch_batch(call: Call) -> tuple[Tensor, LinearState]:
    k = zero_padding(call.k, call.mask)
    return linear_attention_chunk(
        call.q, k, call.v, causal=call.causal, key_padding_mask=call.mask, maps=_maps(call), **_options(call)
    )


def _options(call: Call) -> dict[str, Any]:
    options = {name: getattr(call, name) for name in ("normalize", "eps", "log_space")}
    return {**options, "initial_state": call.initial}


def _maps(call: Call) -> tuple[TokenMap, TokenMap] | None:
    if call.q_weight is None or call.k_weight is None:
        return None
    variant = (call.feature_map, call.negate)
    query_map = HedgehogTokens(call.q_weight, call.q_bias, *variant)
    return query_map, HedgehogTokens(call.k_weight, call.k_bias, *variant)


def _sequence(call: Call, index: int, tokens: slice) -> Call:
    """The call of one packed sequence."""
    own: dict[str, Any] = {name: getattr(call, name)[:, :, tokens] for name in ("q", "k", "v")}
    for name in ("initial_kv", "initial_k", "initial_scale"):
        state = getattr(call, name)
        own[name] = None if state is None else state[index : index + 1]
    return replace(call, **own, mask=None if call.mask is None else call.mask[:, tokens], cu_seqlens=None)
