"""Batched generation from a prompt's logits and a decode function, greedy or sampled."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar, Unpack

import torch
from jaxtyping import Float, Int
from torch import Tensor

from .base import Sampling

State = TypeVar("State")


def generate(
    first_logits: Float[Tensor, "b v"],
    state: State,
    decode: Callable[[Int[Tensor, " b"], State], tuple[Float[Tensor, "b v"], State]],
    max_new_tokens: int,
    **sampling: Unpack[Sampling],
) -> Int[Tensor, "b t"]:
    """New tokens, at most `max_new_tokens` per row.

    Args:
        first_logits: Logits after the prompt.
        state: Decode state after the prompt.
        decode: Computes the logits after one more token per row, and the new state.
        max_new_tokens: Largest number of new tokens.
        **sampling: How tokens are chosen, and when generation ends.

    Raises:
        FloatingPointError: A logit is NaN.
        ValueError: A negative temperature, a `top_k` below 1, a `top_p` that is not above 0 and at most 1, or
            `max_new_tokens` below 1.
    """
    temperature, top_k, top_p = sampling.get("temperature", 0.0), sampling.get("top_k"), sampling.get("top_p")
    stop_token, has_ended = sampling.get("stop_token"), sampling.get("has_ended")
    if temperature < 0 or max_new_tokens < 1:
        raise ValueError(
            f"temperature is {temperature} and max_new_tokens {max_new_tokens}; allowed: at least 0 and at least 1"
        )
    if (top_k is not None and top_k < 1) or (top_p is not None and not 0 < top_p <= 1):
        raise ValueError(f"top_k is {top_k} and top_p {top_p}; allowed: at least 1, and above 0 and at most 1")
    generator = torch.Generator(first_logits.device).manual_seed(sampling.get("seed", 0))
    made: list[Tensor] = []
    logits = first_logits
    ended = torch.zeros(len(logits), dtype=torch.bool, device=logits.device)
    while True:
        if broken := int(logits.isnan().any(-1).sum()):
            raise FloatingPointError(
                f"the model gives {broken} of {len(logits)} rows a logit that is not a number, "
                f"{len(made)} tokens after the prompt"
            )
        token = _choose(logits, temperature, generator, top_k, top_p)
        if stop_token is not None:
            token = token.masked_fill(ended, stop_token)
            ended |= token == stop_token
        made.append(token)
        over = len(made) == max_new_tokens or bool(ended.all())
        if over or (has_ended is not None and has_ended(torch.stack(made, dim=1))):
            return torch.stack(made, dim=1)
        logits, state = decode(token, state)


def _choose(
    logits: Float[Tensor, "b v"], temperature: float, generator: torch.Generator, top_k: int | None, top_p: float | None
) -> Int[Tensor, " b"]:
    if temperature == 0:
        return logits.argmax(-1)
    probabilities = (logits.float() / temperature).softmax(-1)
    if top_k is not None or top_p is not None:
        probabilities = _likeliest(probabilities, top_k, top_p)
    return torch.multinomial(probabilities, 1, generator=generator)[:, 0]


def _likeliest(probabilities: Float[Tensor, "b v"], top_k: int | None, top_p: float | None) -> Float[Tensor, "b v"]:
    """The probabilities, 0 outside the `top_k` likeliest tokens and, among these, outside the nucleus of `top_p`.

    Source: Holtzman et al. 2020, arXiv:1904.09751. The result is not normalised.
    """
    values, places = probabilities.sort(dim=-1, descending=True)
    if top_k is not None:
        values[:, top_k:] = 0
    if top_p is not None:
        values = values / values.sum(-1, keepdim=True)
        values[values.cumsum(-1) - values >= top_p] = 0  # the token that crosses `top_p` stays, so at least one stays
    return torch.zeros_like(probabilities).scatter(-1, places, values)
