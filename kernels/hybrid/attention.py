"""LoLCATs' sliding-window hybrid (arXiv 2410.10254, §3.2): softmax over near keys, linear attention over far ones.

With z_ij = q_i·k_j·scale, a query sees its last N keys by w_ij = γ exp(z_ij - c_i) and all earlier ones by
l_ij = φ(q_i)·φ(k_j), under one normaliser:

    o_i = (Σ_{i-j<N} w_ij v_j + Σ_{i-j>=N} l_ij v_j) / (Σ_{i-j<N} w_ij + Σ_{i-j>=N} l_ij)

γ is learned, one number per head. The shift c_i does not cancel, as the linear part has none: it is part of the model.
For features that are exact exponentials it is 0, and both parts are on the scale of exp; they meet as logarithms, so
nothing overflows. For bounded features it is the largest z of the row's window, as in the authors' code: a bounded sum
has no place beside exponentials of any size. The authors' eps in the normaliser is not needed here.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from torch.nn import functional as F

from ..choice import KernelChoice
from ..chunk.attention import linear_attention_and_log
from ..fused.checks import check_devices, check_mask, check_shape
from ..linear.naive import linear_attention_weights_and_log
from ..maps.token_maps import hide_padding
from ..softmax.window import window_attention, window_attention_weights
from ..state import EMPTY_LOG, LinearState
from .call import HybridCall, mixed, window_share
from .op import fused_hybrid, why_not_hybrid
from .state import HybridState

KeyMap = Callable[[Tensor, Tensor], Tensor]
"""The features [b hk m f] of keys [b hk m d] at positions [b m]; a `FeatureMap` is one."""

HYBRID = KernelChoice("hybrid", "torch")
"""The choice of `hybrid_attention` where the kernels do not run."""


@dataclass(frozen=True)
class HybridResult:
    """Output of the hybrid, the state after the last key, and what ran.

    Attributes:
        output: [b h n dv].
        state: None unless `return_state` is true.
        kernel: what ran: "hybrid" by "torch" or "triton".
    """

    output: Float[Tensor, "b h n dv"]
    state: HybridState | None
    kernel: KernelChoice = HYBRID


def hybrid_attention(
    q: Float[Tensor, "b h n d"],
    k: Float[Tensor, "b hk m d"],
    v: Float[Tensor, "b hk m dv"],
    phi_q: Float[Tensor, "b h n f"],
    key_map: KeyMap,
    *,
    window: int,
    gate_log: Float[Tensor, " h"],
    positions: Int[Tensor, "b m"],
    key_padding_mask: Bool[Tensor, "b m"] | None = None,
    scale: float | None = None,
    log_space: bool = False,
    shift_window: bool = True,
    linear_branch: bool = True,
    initial_state: HybridState | None = None,
    return_state: bool = False,
) -> HybridResult:
    """Causal attention by the module's formula; time and memory are linear in tokens.

    Sums are float32 at least, outside autocast. Triton runs calls on CUDA without an earlier state, longer than the
    window; the rest are torch forms.

    Args:
        q: queries; they are the last n tokens of the keys' m.
        k: keys; query head i uses kv head i // (h / hk).
        v: values.
        phi_q: features of the queries, or their logarithms; φ(q)·φ(k) must not be negative.
        key_map: gives features of keys, or their logarithms; called once with the keys that leave the window, if any.
        window: N, keys seen by softmax, the query's own included; masked tokens take up room in it.
        gate_log: log γ of each query head.
        positions: of the keys' tokens, for `key_map`.
        key_padding_mask: true where a key is a real token.
        scale: factor on q·k; 1/√d unless given.
        log_space: `phi_q` and what `key_map` gives are logarithms.
        shift_window: c_i is the largest z of the window rather than 0.
        linear_branch: without it the window alone is left, and γ cancels; the same in all calls of a sequence.
        initial_state: state after the tokens before these.
        return_state: give the state after the last key.

    Raises:
        ValueError: tensors that do not fit each other, more queries than keys, a window below 1, or a foreign state.
    """
    _check_shapes(q, k, v, phi_q, gate_log, positions, key_padding_mask)
    factor: float = q.shape[-1] ** -0.5 if scale is None else scale
    new = HybridState(k, v, positions, key_padding_mask)
    seen = new if initial_state is None else _checked(initial_state, window).followed_by(new)
    with torch.autocast(q.device.type, enabled=False):
        if linear_branch and initial_state is None and q.shape[2] == k.shape[2] > window >= 1:
            obstacle = why_not_hybrid(q, v, phi_q.shape[-1], log_space=log_space)
            if not obstacle or (q.device.type == "cpu" and torch.compiler.is_compiling()):
                tensors = (q, k, v, *_far_features(phi_q, key_map, new, window, log_space), gate_log, key_padding_mask)
                call = HybridCall(*tensors, window, factor, log_space, shift_window)
                return _by_operator(call, new if return_state else None, fuses=not obstacle)
        near = window_attention(q, seen.keys, seen.values, window=window, key_padding_mask=seen.mask, scale=factor)
        output = near.rows
        if linear_branch and seen.tokens > window:
            far, log_sum, seen = _delayed(phi_q, key_map, seen, seen.tokens - window, log_space)
            output = mixed(near.rows, far, window_share(near, log_sum, gate_log, shift_window))
    return HybridResult(output.to(v.dtype), seen.last(window) if return_state else None)


def _far_features(
    phi_q: Tensor, key_map: KeyMap, new: HybridState, window: int, log_space: bool
) -> tuple[Tensor, Tensor]:
    """The features of the late queries and of the keys that leave the window, in one type."""
    gone = new.first(new.tokens - window)
    far_q, far_k = phi_q[:, :, window:], key_map(hide_padding(gone.keys, gone.mask), gone.positions)
    dtype = torch.promote_types(far_q.dtype, torch.float32 if log_space else far_k.dtype)
    return far_q.to(dtype), far_k.to(dtype)


def _by_operator(call: HybridCall, new: HybridState | None, *, fuses: bool) -> HybridResult:
    """Runs the operator: by the kernels, or under torch.compile on a CPU by the torch form inside it.

    Args:
        call: what to run.
        new: all tokens, if the state after them is wanted.
        fuses: the kernels run.
    """
    output, _, _, _, kv, keys, log_scale = fused_hybrid(*call.flatten())
    kernel = KernelChoice("hybrid", "triton") if fuses else HYBRID
    if new is None:
        return HybridResult(output, None, kernel)
    linear = LinearState(kv, keys, log_scale if call.log_space else None)
    return HybridResult(output, replace(new.last(call.window), linear=linear), kernel)


def hybrid_attention_weights(
    q: Float[Tensor, "b h n d"],
    k: Float[Tensor, "b hk n d"],
    phi_q: Float[Tensor, "b h n f"],
    phi_k: Float[Tensor, "b hk n f"],
    *,
    window: int,
    gate_log: Float[Tensor, " h"],
    key_padding_mask: Bool[Tensor, "b n"] | None = None,
    scale: float | None = None,
    log_space: bool = False,
    shift_window: bool = True,
    linear_branch: bool = True,
) -> Float[Tensor, "b h n n"]:
    """The weights under which `hybrid_attention` sums values, quadratic in memory; for analysis.

    Arguments and errors are those of `hybrid_attention`, with the features of all keys given.
    """
    near = window_attention_weights(q, k, window=window, key_padding_mask=key_padding_mask, scale=scale)
    far_tokens = max(0, q.shape[2] - window)
    if not linear_branch or not far_tokens:
        return near.rows
    mask = None if key_padding_mask is None else key_padding_mask[:, :far_tokens]
    weights, log_sum = linear_attention_weights_and_log(
        phi_q[:, :, -far_tokens:], phi_k[:, :, :far_tokens], causal=True, key_padding_mask=mask, log_space=log_space
    )
    rows = q.shape[2] - far_tokens
    share = window_share(near, F.pad(log_sum, (rows, 0), value=EMPTY_LOG), gate_log, shift_window)
    return mixed(near.rows, F.pad(weights, (0, rows, rows, 0)), share)


def _delayed(
    phi_q: Tensor, key_map: KeyMap, seen: HybridState, leaving: int, log_space: bool
) -> tuple[Float[Tensor, "b h n dv"], Float[Tensor, "b h n"], HybridState]:
    """Linear attention in which a query sees a key only once it has left the window, and the log of its normaliser.

    The first `leaving` tokens pair off with the last queries; queries before those see none.
    """
    gone = seen.first(leaving)
    early = max(0, phi_q.shape[2] - leaving)
    output, log_sum, linear = linear_attention_and_log(
        phi_q[:, :, early:],
        key_map(hide_padding(gone.keys, gone.mask), gone.positions),
        gone.values,
        causal=True,
        key_padding_mask=gone.mask,
        log_space=log_space,
        initial_state=gone.linear,
    )
    return F.pad(output, (0, 0, early, 0)), F.pad(log_sum, (early, 0), value=EMPTY_LOG), replace(seen, linear=linear)


def _check_shapes(
    q: Tensor, k: Tensor, v: Tensor, phi_q: Tensor, gate_log: Tensor, positions: Tensor, mask: Tensor | None
) -> None:
    batch, kv_heads, keys = k.shape[:3]
    check_shape("k", k, (q.shape[0], kv_heads, keys, q.shape[3]))
    check_shape("v", v, (batch, kv_heads, keys, v.shape[-1]))
    check_shape("phi_q", phi_q, (*q.shape[:3], phi_q.shape[-1]))
    check_shape("gate_log", gate_log, (q.shape[1],))
    check_shape("positions", positions, (batch, keys))
    check_mask(mask, batch, keys)
    check_devices(q, k, v, phi_q, gate_log, positions, mask)


def _checked(state: HybridState, window: int) -> HybridState:
    if state.tokens > window or (state.linear is not None and state.tokens < window):
        raise ValueError(f"initial_state holds {state.tokens} tokens, which does not fit window={window}")
    return state
