"""Softmax attention: a reference in plain torch, its weights, and torch's kernels with a pinned backend."""

from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Bool, Float
from torch import Tensor
from torch.nn import functional as F
from torch.nn.attention import SDPBackend, sdpa_kernel

from ...results.names import unknown_name
from ..choice import KernelChoice
from ..state import accumulator_dtype

SDPA_BACKENDS: dict[str, SDPBackend] = {
    "sdpa_math": SDPBackend.MATH,
    "sdpa_flash": SDPBackend.FLASH_ATTENTION,
    "sdpa_efficient": SDPBackend.EFFICIENT_ATTENTION,
    "sdpa_cudnn": SDPBackend.CUDNN_ATTENTION,
}
"""Backends of torch's scaled_dot_product_attention by the names used here."""


@dataclass(frozen=True)
class SoftmaxAttentionResult:
    """Output of softmax attention [b h n dv], and the kernel that ran."""

    output: Float[Tensor, "b h n dv"]
    kernel: KernelChoice


def visible_keys(
    q: Float[Tensor, "b h n d"],
    k: Float[Tensor, "b hk m d"],
    *,
    causal: bool,
    key_padding_mask: Bool[Tensor, "b m"] | None = None,
    window: int | None = None,
) -> Bool[Tensor, "#b 1 n m"]:
    """A mask, true where a query sees a key; it broadcasts over heads, and without a padding mask over the batch.

    Args:
        q: queries at the last n of the keys' m tokens: query i is token i + m - n.
        k: keys.
        causal: a query sees the keys up to its own token.
        key_padding_mask: true where a key is a real token.
        window: number of keys that a query sees at most, the last ones up to its own; None for all.

    Raises:
        ValueError: a window below 1 token, or a window in a call that is not causal.
    """
    if window is not None and (window < 1 or not causal):
        raise ValueError(f"a window needs causal attention and at least 1 token, got window={window}, causal={causal}")
    queries, keys = q.shape[2], k.shape[2]
    token = torch.arange(queries, device=q.device)[:, None] + (keys - queries)
    distance = token - torch.arange(keys, device=q.device)
    seen = distance >= 0 if causal else torch.ones_like(distance, dtype=torch.bool)
    if window is not None:
        seen = seen & (distance < window)
    seen = seen[None, None]
    return seen if key_padding_mask is None else seen & key_padding_mask[:, None, None]


def softmax_attention_weights(
    q: Float[Tensor, "b h n d"],
    k: Float[Tensor, "b hk m d"],
    *,
    causal: bool,
    key_padding_mask: Bool[Tensor, "b m"] | None = None,
    scale: float | None = None,
    window: int | None = None,
) -> Float[Tensor, "b h n m"]:
    """The weights softmax(q·k·scale) over the keys a query sees, in float32 at least; a row without keys is zero.

    Args:
        q: queries at the last n of the keys' m tokens, so query i sees keys j <= i + m - n if causal.
        k: keys; query head i uses kv head i // (h / hk).
        causal: a query sees the keys up to its own token.
        key_padding_mask: true where a key is a real token.
        scale: factor on q·k; 1/√d unless given.
        window: number of keys that a query sees at most, the last ones up to its own; None for all.

    Raises:
        ValueError: kv heads that do not divide the query heads, a window below 1 token, or a window that is not causal.
    """
    scores = _scores(q, k, scale)
    seen = visible_keys(q, k, causal=causal, key_padding_mask=key_padding_mask, window=window)
    return scores.masked_fill(~seen, torch.finfo(scores.dtype).min).softmax(-1).masked_fill(~seen, 0.0)


def attention_scores(
    q: Float[Tensor, "b h n d"],
    k: Float[Tensor, "b hk m d"],
    *,
    causal: bool,
    key_padding_mask: Bool[Tensor, "b m"] | None = None,
    scale: float | None = None,
) -> Float[Tensor, "b h n m"]:
    """The scores q·k·scale that softmax takes, in float32 at least; minus infinity at keys a query does not see.

    Arguments and errors are those of `softmax_attention_weights`, without a window.
    """
    seen = visible_keys(q, k, causal=causal, key_padding_mask=key_padding_mask)
    return _scores(q, k, scale).masked_fill(~seen, -torch.inf)


def softmax_attention(
    q: Float[Tensor, "b h n d"],
    k: Float[Tensor, "b hk m d"],
    v: Float[Tensor, "b hk m dv"],
    *,
    causal: bool,
    key_padding_mask: Bool[Tensor, "b m"] | None = None,
    scale: float | None = None,
    window: int | None = None,
    backend: str = "auto",
) -> SoftmaxAttentionResult:
    """Runs softmax attention in plain torch, or by torch's scaled_dot_product_attention on a pinned backend.

    The backend "auto" asks torch which backend it would choose for these arguments, and pins that one. The output of a
    query that sees no key is zero.

    Args:
        q: queries at the last n of the keys' m tokens.
        k: keys; query head i uses kv head i // (h / hk).
        v: values.
        causal: a query sees the keys up to its own token.
        key_padding_mask: true where a key is a real token.
        scale: factor on q·k; 1/√d unless given.
        window: number of keys that a query sees at most, the last ones up to its own; None for all.
        backend: "auto", "naive", or a key of `SDPA_BACKENDS`.

    Raises:
        ValueError: kv heads that do not divide the query heads, a window below 1 token, a window that is not causal, or
            an unknown backend.
        RuntimeError: torch cannot run this backend with these arguments on this device.
    """
    if backend not in (known := ("auto", "naive", *SDPA_BACKENDS)):
        raise unknown_name("backend", backend, known)
    groups = kv_groups(q, k)
    seeing: dict[str, Any] = {"causal": causal, "key_padding_mask": key_padding_mask, "window": window}
    if backend == "naive":
        weights = softmax_attention_weights(q, k, scale=scale, **seeing)
        values = v.to(accumulator_dtype(weights, v)).repeat_interleave(groups, dim=1)
        output = (weights.to(values.dtype) @ values).to(v.dtype)
        return SoftmaxAttentionResult(output, KernelChoice("softmax", backend))
    square = q.shape[2] == k.shape[2]
    options: dict[str, Any] = {"scale": scale, "enable_gqa": groups > 1}
    blind = None
    if key_padding_mask is not None or window is not None or (causal and not square and q.shape[2] > 1):
        seen = visible_keys(q, k, **seeing)
        # A fused kernel may give NaN for a row without keys, so such a row sees all of them and is zeroed afterwards.
        blind = ~seen.any(-1, keepdim=True)
        options["attn_mask"] = (seen | blind).expand(q.shape[0], 1, -1, -1)
    else:
        options["is_causal"] = causal and square
    name = sdpa_backend(q, k, v, **options) if backend == "auto" else backend
    with sdpa_kernel(SDPA_BACKENDS[name]):
        output = F.scaled_dot_product_attention(q, k, v, **options)
    return SoftmaxAttentionResult(
        output if blind is None else output.masked_fill(blind, 0.0), KernelChoice("softmax", name)
    )


def sdpa_backend(
    q: Float[Tensor, "b h n d"], k: Float[Tensor, "b hk m d"], v: Float[Tensor, "b hk m dv"], **options: Any
) -> str:
    """The name of the backend that torch chooses for scaled_dot_product_attention with these arguments.

    Args:
        q: queries.
        k: keys.
        v: values.
        **options: keyword arguments of scaled_dot_product_attention.

    Raises:
        RuntimeError: torch chooses a backend that is not in `SDPA_BACKENDS`.
    """
    chosen = SDPBackend(int(torch.ops.aten._fused_sdp_choice(q, k, v, **options)))
    for name, known in SDPA_BACKENDS.items():
        if known == chosen:
            return name
    raise RuntimeError(f"torch chose the SDPA backend {chosen}; known: {', '.join(SDPA_BACKENDS)}")


def _scores(q: Tensor, k: Tensor, scale: float | None) -> Tensor:
    groups, dtype = kv_groups(q, k), accumulator_dtype(q, k)
    keys = k.to(dtype).repeat_interleave(groups, dim=1)
    return q.to(dtype) * (q.shape[-1] ** -0.5 if scale is None else scale) @ keys.mT


def kv_groups(q: Float[Tensor, "b h n d"], k: Float[Tensor, "b hk m d"]) -> int:
    """Counts the query heads per kv head.

    Raises:
        ValueError: The kv heads do not divide the query heads.
    """
    if q.shape[1] % k.shape[1]:
        raise ValueError(f"{k.shape[1]} kv heads do not divide {q.shape[1]} query heads")
    return q.shape[1] // k.shape[1]
