"""Linear attention with the logarithm of its normaliser, so that other attention can share that normaliser."""

from typing import Any

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from ..state import LinearState
from .chunk_steps import by_chunk
from .recurrent import recurrent_rows
from .sums import normalized_from_rows


def linear_attention_and_log(
    phi_q: Float[Tensor, "b h n f"],
    phi_k: Float[Tensor, "b hk m f"],
    v: Float[Tensor, "b hk m dv"],
    *,
    causal: bool,
    key_padding_mask: Bool[Tensor, "b m"] | None = None,
    log_space: bool = False,
    initial_state: LinearState | None = None,
) -> tuple[Float[Tensor, "b h n dv"], Float[Tensor, "b h n"], LinearState]:
    """Gives Σ_j φ(q_i)·φ(k_j) v_j / Σ_j φ(q_i)·φ(k_j), the logarithm of that divisor, and the state after the last key.

    Output and logarithm are float32 at least, whatever the inputs. No eps is added: a row that sees no key, or only
    features of zero, gives zero and `EMPTY_LOG`. One token at a time runs as `linear_attention_recurrent` does, which
    never waits for the device; anything longer as `linear_attention_chunk`.

    Args:
        phi_q: features of the queries, or their logarithms; φ(q)·φ(k) must not be negative.
        phi_k: features of the keys, or their logarithms; query head i uses kv head i // (h / hk).
        v: values.
        causal: a query sees the keys up to its own; with m > n the queries are the last n tokens.
        key_padding_mask: true where a key is a real token.
        log_space: `phi_q` and `phi_k` are logarithms.
        initial_state: state after the tokens before these.

    Raises:
        ValueError: heads that do not divide, more queries than keys in a causal call, or a state that does not fit
            `log_space`.
    """
    options: dict[str, Any] = {"causal": causal, "key_padding_mask": key_padding_mask, "log_space": log_space}
    if causal and phi_q.shape[2] == phi_k.shape[2] == 1:
        rows, state = recurrent_rows(phi_q, phi_k, v, initial_state=initial_state, **options)
        parts = [normalized_from_rows(row) for row in rows]
    else:
        parts, state = by_chunk(phi_q, phi_k, v, normalized_from_rows, initial_state=initial_state, **options)
    outputs, logs = zip(*parts, strict=True)
    return torch.cat(outputs, dim=-2).flatten(1, 2), torch.cat(logs, dim=-1).flatten(1, 2), state
