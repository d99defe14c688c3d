"""Launches the Triton kernels of the forward pass and of decoding, for linear attention with Hedgehog's map inside."""

from dataclasses import dataclass

import torch
from torch import Tensor

from ..state import LinearState
from ..triton.launch import by_head, launch, sums_of
from ..triton.operator import empty_by_token
from ..triton.tiles import padded, with_tiles
from .call import Call
from .forward_kernels import decode_tokens, sum_keys, walk

DECODED_WHOLE = 128 * 128
"""Numbers of one half of a state that the decode kernel holds at once."""

DECODE_VALUES = 32
"""Columns of a larger state that it holds at once."""


@dataclass(frozen=True)
class Forward:
    """Results of a forward pass.

    Attributes:
        output: [b h n dv].
        norms: [b h n], the denominator of each row, or its logarithm in log space, for the backward pass (see
            `forward_kernels.walk`). After `decode`, which has no backward pass, it is of no use.
        final: the state after the last key.
        segments: the sums over the keys of each segment, in `Call.kept_slots`.
    """

    output: Tensor
    norms: Tensor
    final: LinearState
    segments: LinearState


def empty_sums(call: Call, count: int, *, peaks: bool = True) -> LinearState:
    """Uninitialised sums of so many sequences or segments, in separate tensors."""
    keys = torch.empty(count, call.k.shape[1], call.features, dtype=torch.float32, device=call.q.device)
    scale = torch.empty_like(keys) if call.log_space and peaks else None
    return LinearState(torch.empty(*keys.shape, call.values, dtype=torch.float32, device=keys.device), keys, scale)


def forward(call: Call) -> Forward:
    """Runs the forward pass of a `readable` call in the form "fused_chunk" or "chunk"."""
    batch, heads, tokens, _ = call.q.shape
    norms = torch.empty(batch, heads, tokens, dtype=torch.float32, device=call.q.device)
    output = empty_by_token(norms if call.wide else call.v, batch, heads, tokens, call.values)
    if call.wide:  # the kernel adds numerators and denominators to these
        output.zero_()
        norms.fill_(call.eps)
    final, segments = empty_sums(call, call.sequences), segment_states(call)
    tiles, constants = call.tiled
    launch(
        walk, (call.slots, heads, 1 if call.wide else tiles), shared=call.shared, segments=sums_of(segments),
        final=sums_of(final), output=by_head(output), norms=norms, eps=0.0 if call.wide else call.eps,
        C=constants, num_warps=call.sizes.warps, num_stages=call.sizes.stages,
    )  # fmt: skip
    if call.wide:
        divided = empty_by_token(call.v, batch, heads, tokens, call.values)
        output = torch.div(output, norms[..., None], out=divided)
    return Forward(output, norms, final, segments)


def segment_states(call: Call) -> LinearState:
    """The sums over the keys of each segment, in `Call.kept_slots`."""
    slots = call.kept_slots
    segments = empty_sums(call, slots)
    if slots:
        tiles, constants = call.tiled
        launch(
            sum_keys, (slots, call.k.shape[1], tiles), shared=call.shared, segments=sums_of(segments),
            C=constants, num_warps=call.sizes.warps, num_stages=call.sizes.stages,
        )  # fmt: skip
    return segments


def decode(call: Call, *, in_place: bool = False) -> Forward:
    """Decodes a few tokens of a causal call with an initial state, one sequence for each batch entry, without a mask.

    Args:
        call: a `readable` call.
        in_place: the new state overwrites the initial one, which must be contiguous and float32.

    Raises:
        ValueError: a call without an initial state.
    """
    if call.initial is None:
        raise ValueError("decoding needs an initial state")
    batch, heads, tokens, _ = call.q.shape
    output = empty_by_token(call.v, batch, heads, tokens, call.values)
    final = call.initial if in_place else empty_sums(call, batch)
    tile = padded(call.values) if call.width * call.values <= DECODED_WHOLE else DECODE_VALUES
    constants = with_tiles(call.constants, values=tile, columns=padded(call.width) if call.wide else None)
    launch(
        decode_tokens, (batch, call.k.shape[1]), shared=call.shared, final=sums_of(final), output=by_head(output),
        C=constants, num_warps=8 if tile > 64 else 4, num_stages=3,
    )  # fmt: skip
    return Forward(output, final.k, final, final)
