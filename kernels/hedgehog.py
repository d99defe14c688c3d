"""Linear attention with Hedgehog's map, from queries, keys and values to outputs: fused on a GPU, in torch elsewhere.

    o_i = Σ_j φ(q_i)·φ(k_j) v_j / Σ_j φ(q_i)·φ(k_j),   φ(x) = Φ(Wx + b), W per head

On CUDA, feature map, attention and normaliser run in one or a few Triton kernels, and so do the gradients of W and b:
features never reach memory. On a CPU the same call runs the forms in plain torch. The result says what ran.
"""

from dataclasses import replace

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from .choice import KernelChoice, LinearAttentionResult
from .fused.call import Call
from .fused.checks import check_call
from .fused.choose import DECODED_BY_TRITON, compiled_on_cpu, fused_attention, why_not_fused
from .fused.op import decode_in_place, decode_in_place_by_torch
from .linear.sums import EPS
from .state import LinearState
from .triton.backend import chooses_triton


def chunk_hedgehog_attn(
    q: Float[Tensor, "b h n d"],
    k: Float[Tensor, "b hk n d"],
    v: Float[Tensor, "b hk n dv"],
    q_weight: Float[Tensor, "h d w"],
    k_weight: Float[Tensor, "hk d w"],
    q_bias: Float[Tensor, "h w"] | None = None,
    k_bias: Float[Tensor, "hk w"] | None = None,
    *,
    feature_map: str = "exp",
    negate: bool = True,
    causal: bool = True,
    normalize: bool = True,
    eps: float = EPS,
    key_padding_mask: Bool[Tensor, "b n"] | None = None,
    cu_seqlens: Int[Tensor, " ends"] | None = None,
    initial_state: LinearState | None = None,
    output_final_state: bool = False,
    form: str = "auto",
    backend: str = "auto",
) -> LinearAttentionResult:
    """Attention over n tokens, differentiable in q, k, v, W, b and the sums of the initial state.

    Under autocast, q, k and v are cast to its type; W and b are read as they are. Sums are float32 (float64 for float64
    inputs, in torch). The kernels multiply bfloat16 in bfloat16, float16 in TF32 and float32 in float32.

    Args:
        q: queries.
        k: keys; query head i uses kv head i // (h / hk).
        v: values.
        q_weight: W of the queries.
        k_weight: W of the keys.
        q_bias: b of the queries; give both biases or neither.
        k_bias: b of the keys.
        feature_map: Φ, "exp", "exp_max", "softmax" or "softmax_joint"; see `HedgehogMap`.
        negate: also use -(Wx + b).
        causal: a query sees the keys up to its own.
        normalize: divide by the row sum.
        eps: added to the row sum, for maps other than "exp".
        key_padding_mask: true where a key is a real token.
        cu_seqlens: 0, then the end of each of the sequences packed into a batch of one; no token sees another sequence.
            It is read on the host, so a tensor on the CPU saves a synchronisation.
        initial_state: state after the tokens before these, one for each sequence.
        output_final_state: return the state after the last key.
        form: "auto", "fused_chunk" (each sequence in one segment) or "chunk" (in several, whose sums are computed
            first). The torch backend runs "chunk", whatever is asked.
        backend: "auto" (Triton on CUDA, torch elsewhere), "triton" or "torch".

    Raises:
        ValueError: an unknown name, sizes that do not fit each other, a mask that is not bool, one bias without the
            other, `cu_seqlens` with a batch above one or whose ends do not rise from 0 to n, the state of a map in the
            other space (log or not), tensors on more than one device, the form "fused_chunk" for a call that it does
            not support, or `backend="triton"` where the kernels cannot run.
    """
    call = Call.of(
        q, k, v, initial_state, q_weight=q_weight, k_weight=k_weight, q_bias=q_bias, k_bias=k_bias,
        feature_map=feature_map, negate=negate, log_space=feature_map == "exp", causal=causal, normalize=normalize,
        eps=eps, mask=key_padding_mask, cu_seqlens=cu_seqlens, form=form,
    )  # fmt: skip
    return fused_attention(check_call(call), return_state=output_final_state, backend=backend)


def chunk_linear_attn(
    phi_q: Float[Tensor, "b h n f"],
    phi_k: Float[Tensor, "b hk n f"],
    v: Float[Tensor, "b hk n dv"],
    *,
    log_space: bool = False,
    causal: bool = True,
    normalize: bool = True,
    eps: float = EPS,
    key_padding_mask: Bool[Tensor, "b n"] | None = None,
    cu_seqlens: Int[Tensor, " ends"] | None = None,
    initial_state: LinearState | None = None,
    output_final_state: bool = False,
    form: str = "auto",
    backend: str = "auto",
) -> LinearAttentionResult:
    """Attention over given features, of any map whose scores are never negative.

    Arguments and errors are those of `chunk_hedgehog_attn`. With `log_space`, `phi_q` and `phi_k` are logarithms, and
    everything is computed in float32 at least. The kernels take any number of plain features, and up to 256 log
    features.
    """
    call = Call.of(
        phi_q, phi_k, v, initial_state, log_space=log_space, causal=causal, normalize=normalize, eps=eps,
        mask=key_padding_mask, cu_seqlens=cu_seqlens, form=form,
    )  # fmt: skip
    result = fused_attention(check_call(call), return_state=output_final_state, backend=backend)
    return replace(result, output=result.output.to(v.dtype)) if log_space else result


def fused_recurrent_hedgehog_attn(
    q: Float[Tensor, "b h n d"],
    k: Float[Tensor, "b hk n d"],
    v: Float[Tensor, "b hk n dv"],
    q_weight: Float[Tensor, "h d w"],
    k_weight: Float[Tensor, "hk d w"],
    q_bias: Float[Tensor, "h w"] | None = None,
    k_bias: Float[Tensor, "hk w"] | None = None,
    *,
    state: LinearState,
    feature_map: str = "exp",
    negate: bool = True,
    normalize: bool = True,
    eps: float = EPS,
    backend: str = "auto",
) -> LinearAttentionResult:
    """Decodes a few tokens after those in `state`, which is changed in place; there are no gradients.

    Arguments and errors are those of `chunk_hedgehog_attn`. The form is "fused_recurrent" in Triton, "recurrent" in
    torch. The state must be contiguous and float32 (float64 for float64 inputs), as `state.empty_state` and the chunk
    forms give it. The result holds the same state.
    """
    call = check_call(
        Call.of(
            q, k, v, state, q_weight=q_weight, k_weight=k_weight, q_bias=q_bias, k_bias=k_bias,
            feature_map=feature_map, negate=negate, log_space=feature_map == "exp", normalize=normalize, eps=eps,
        )
    )  # fmt: skip
    fuses = chooses_triton(backend, lambda: why_not_fused(call, decoding=True))
    with torch.no_grad():
        decodes = fuses or compiled_on_cpu(call)
        output = decode_in_place(call) if decodes else decode_in_place_by_torch(*call.flatten())
    return LinearAttentionResult(output, state, DECODED_BY_TRITON if fuses else KernelChoice("recurrent", "torch"))
