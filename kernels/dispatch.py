"""Picks the form of linear attention that suits a call, runs it, and says what ran."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from ..results.names import unknown_name
from .choice import KernelChoice, LinearAttentionResult
from .chunk.attention import linear_attention_chunk, linear_attention_recurrent
from .chunk.call import CHUNK_SIZE
from .fused.call import Call
from .fused.choose import fused_if_possible
from .linear.naive import linear_attention_naive
from .linear.sums import EPS
from .maps.token_maps import TokenMap, hide_padding
from .state import LinearState

NAIVE_TOKENS = 128
"""Up to so many keys the naive form is faster on plain features: 3.6 ms against 5.2 ms in chunks at 128 tokens, 9.4 ms
against 7.5 ms at 256 (B=4, H=8, f=128, dv=64, float32, forward, CPU time of one thread, best of 19, torch 2.13)."""


def linear_attention(
    phi_q: Float[Tensor, "b h n f"],
    phi_k: Float[Tensor, "b hk m f"],
    v: Float[Tensor, "b hk m dv"],
    *,
    causal: bool,
    key_padding_mask: Bool[Tensor, "b m"] | None = None,
    normalize: bool = True,
    eps: float = EPS,
    log_space: bool = False,
    chunk_size: int = CHUNK_SIZE,
    initial_state: LinearState | None = None,
    return_state: bool = False,
    form: str = "auto",
    backend: str = "auto",
    maps: tuple[TokenMap, TokenMap] | None = None,
) -> LinearAttentionResult:
    """Runs linear attention in the given form, or in the fastest for these shapes; sums are float32 at least.

    Args:
        phi_q: features of the queries, or their logarithms.
        phi_k: features of the keys, or their logarithms; query head i uses kv head i // (h / hk).
        v: values.
        causal: a query sees the keys up to its own; with m > n the queries are the last n tokens.
        key_padding_mask: true where a key is a real token.
        normalize: divide by the row sum.
        eps: added to the row sum, outside log space.
        log_space: `phi_q` and `phi_k` are logarithms.
        chunk_size: tokens handled at once by the form "chunk".
        initial_state: state after the tokens before these.
        return_state: the caller needs the state, which the naive form does not have.
        form: "auto", or a form of the torch backend: "naive", "recurrent" or "chunk".
        backend: "torch", or "auto": Triton on CUDA if the form is "auto" and the kernels take the call.
        maps: maps of queries and of keys, if `phi_q` and `phi_k` are not features but the maps' inputs. On a CPU the
            form "chunk" maps one chunk at a time, except where autograd must follow a map; otherwise all tokens are
            mapped first.

    Raises:
        ValueError: an unknown form or backend, the naive form with a state, or an error of the form itself.
    """
    stateful = return_state or initial_state is not None
    torch_form = _fastest_form(phi_q, phi_k, causal, log_space, stateful) if form == "auto" else form
    _check_choice(backend, torch_form, stateful)
    if maps is not None:
        phi_k = hide_padding(phi_k, key_padding_mask)
    if maps is not None and not keeps_features_in_cache(torch_form, phi_q.device):
        phi_q, phi_k = (of(x, slice(0, x.shape[2])) for of, x in zip(maps, (phi_q, phi_k), strict=True))
        maps = None
    if backend == form == "auto":
        call = Call.of(phi_q, phi_k, v, initial_state, mask=key_padding_mask, log_space=log_space, causal=causal,
                       normalize=normalize, eps=eps)  # fmt: skip
        if (result := fused_if_possible(call, return_state=return_state)) is not None:
            return replace(result, output=result.output.to(v.dtype)) if log_space else result
    options: dict[str, Any] = {"causal": causal, "key_padding_mask": key_padding_mask}
    options |= {"normalize": normalize, "eps": eps, "log_space": log_space}
    options |= {"initial_state": initial_state} if torch_form != "naive" else {}
    options |= {"chunk_size": chunk_size, "maps": maps} if torch_form == "chunk" else {}
    with torch.autocast(phi_q.device.type, enabled=False):
        output, state = _LINEAR_FORMS[torch_form](phi_q, phi_k, v, **options)
    return LinearAttentionResult(output, state, KernelChoice(torch_form, "torch"))


def keeps_features_in_cache(form: str, device: torch.device) -> bool:
    """Tells whether a form applies maps to one chunk at a time, as "chunk" does on a CPU if it is not compiled.

    Under autocast it does not: the forms turn autocast off, and a map must run under it.
    """
    uncompiled = device.type == "cpu" and not torch.compiler.is_compiling()
    return form == "chunk" and uncompiled and not torch.is_autocast_enabled("cpu")


def _check_choice(backend: str, form: str, stateful: bool) -> None:
    if backend not in LINEAR_BACKENDS:
        raise unknown_name("backend", backend, LINEAR_BACKENDS)
    if form not in _LINEAR_FORMS:
        raise unknown_name("form", form, ["auto", *_LINEAR_FORMS])
    if form == "naive" and stateful:
        raise ValueError("the form 'naive' neither takes nor gives a state; choose 'chunk', 'recurrent' or 'auto'")


def _fastest_form(phi_q: Tensor, phi_k: Tensor, causal: bool, log_space: bool, stateful: bool) -> str:
    if causal and phi_q.shape[2] == phi_k.shape[2] == 1:
        return "recurrent"
    short = phi_k.shape[2] <= NAIVE_TOKENS
    return "naive" if short and causal and not log_space and not stateful else "chunk"


def _naive(*tensors: Tensor, **options: Any) -> tuple[Tensor, None]:
    return linear_attention_naive(*tensors, **options), None


LINEAR_BACKENDS = ("auto", "torch")

_LINEAR_FORMS: dict[str, Callable[..., tuple[Tensor, LinearState | None]]] = {
    "naive": _naive,
    "recurrent": linear_attention_recurrent,
    "chunk": linear_attention_chunk,
}
