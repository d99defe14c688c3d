"""Linear attention token by token, as a recurrent network: the form for decoding."""

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from ..state import LinearState
from .spaces import SPACES
from .sums import EPS, Rows, carry_from_state, keys_and_values, output_from_rows, query_groups, state_from_carry


def recurrent_step(
    phi_q: Float[Tensor, "b h f"],
    phi_k: Float[Tensor, "b hk f"],
    v: Float[Tensor, "b hk dv"],
    state: LinearState | None,
    *,
    normalize: bool = True,
    eps: float = EPS,
    log_space: bool = False,
) -> tuple[Float[Tensor, "b h dv"], LinearState]:
    """Decodes one token: adds its key to the state and reads the state with its query.

    Args:
        phi_q: features of the query, or their logarithms.
        phi_k: features of the key, or their logarithms.
        v: value.
        state: state after the tokens before it; None at the first.
        normalize: divide by the sum of scores.
        eps: added to that sum, outside log space.
        log_space: `phi_q` and `phi_k` are logarithms.

    Raises:
        ValueError: heads that do not divide, or a state that does not fit `log_space`.
    """
    output, state = linear_attention_recurrent(
        phi_q[:, :, None],
        phi_k[:, :, None],
        v[:, :, None],
        causal=True,
        normalize=normalize,
        eps=eps,
        log_space=log_space,
        initial_state=state,
    )
    return output.squeeze(2), state


def linear_attention_recurrent(
    phi_q: Float[Tensor, "b h n f"],
    phi_k: Float[Tensor, "b hk m f"],
    v: Float[Tensor, "b hk m dv"],
    *,
    causal: bool,
    key_padding_mask: Bool[Tensor, "b m"] | None = None,
    normalize: bool = True,
    eps: float = EPS,
    log_space: bool = False,
    initial_state: LinearState | None = None,
) -> tuple[Float[Tensor, "b h n dv"], LinearState]:
    """Gives the outputs and the state after the last key, one token at a time; arguments as `linear_attention_chunk`.

    Raises:
        ValueError: heads that do not divide, more queries than keys in a causal call, or a state that does not fit
            `log_space`.
    """
    rows, state = recurrent_rows(
        phi_q,
        phi_k,
        v,
        causal=causal,
        key_padding_mask=key_padding_mask,
        log_space=log_space,
        initial_state=initial_state,
    )
    outputs = [output_from_rows(row, normalize=normalize, eps=eps, log_space=log_space) for row in rows]
    if not outputs:
        return v.new_empty(*phi_q.shape[:-1], v.shape[-1]), state
    return torch.cat(outputs, dim=-2).flatten(1, 2).to(v.dtype), state


def recurrent_rows(
    phi_q: Float[Tensor, "b h n f"],
    phi_k: Float[Tensor, "b hk m f"],
    v: Float[Tensor, "b hk m dv"],
    *,
    causal: bool,
    key_padding_mask: Bool[Tensor, "b m"] | None = None,
    log_space: bool = False,
    initial_state: LinearState | None = None,
) -> tuple[list[Rows], LinearState]:
    """Gives the sums that each query sees, [b hk g 1 dv+1], and the state after the last key.

    Arguments and errors as of `linear_attention_recurrent`.
    """
    groups = query_groups(phi_q, phi_k, causal)
    space = SPACES[log_space]
    keys, values = keys_and_values(phi_k, v, key_padding_mask, log_space)
    carry = carry_from_state(initial_state, phi_k, v, log_space)
    queries = torch.unflatten(phi_q.to(keys.dtype), 1, (-1, groups))
    first_query = keys.shape[-2] - queries.shape[-2] if causal else keys.shape[-2]
    rows = []
    for token, (key, value) in enumerate(zip(torch.split(keys, 1, -2), torch.split(values, 1, -2), strict=True)):
        carry = space.absorb(key, value, carry)
        if token >= first_query:
            rows.append(space.apply(queries[..., token - first_query, :], carry))
    if not causal:
        rows = [space.apply(query, carry) for query in queries.unbind(-2)]
    by_token = [Rows(row.sums[..., None, :], row.log_scale[..., None]) for row in rows]
    return by_token, state_from_carry(carry, log_space)
