"""Generation from a prefill and a decode function: greedy or sampled, batched, with padding on the left."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

import torch
from jaxtyping import Float, Int
from torch import Tensor

State = TypeVar("State")


def generate(
    first_logits: Float[Tensor, "b v"],
    state: State,
    decode: Callable[[Int[Tensor, " b"], State], tuple[Float[Tensor, "b v"], State]],
    *,
    max_new_tokens: int,
    temperature: float,
    seed: int,
    stop_token: int | None,
) -> Int[Tensor, "b t"]:
    """New tokens, at most `max_new_tokens` per row; rows that have stopped repeat `stop_token`.

    Args:
        first_logits: Logits after the prompt.
        state: Decode state after the prompt.
        decode: Gives the logits after one more token per row, and the new state.
        max_new_tokens: Most tokens to make.
        temperature: 0 for the most likely token, else the softmax temperature of sampling.
        seed: Seed of sampling.
        stop_token: Token that ends a row; None to make `max_new_tokens` always.

    Raises:
        FloatingPointError: The model gives a logit that is not a number.
        ValueError: A negative temperature, or less than one token asked for.
    """
    if temperature < 0 or max_new_tokens < 1:
        raise ValueError(
            f"temperature is {temperature} and max_new_tokens {max_new_tokens}; allowed: at least 0 and at least 1"
        )
    generator = torch.Generator(first_logits.device).manual_seed(seed)
    made: list[Tensor] = []
    logits = first_logits
    ended = torch.zeros(len(logits), dtype=torch.bool, device=logits.device)
    while True:
        if broken := int(logits.isnan().any(-1).sum()):
            raise FloatingPointError(
                f"the model gives {broken} of {len(logits)} rows a logit that is not a number, "
                f"{len(made)} tokens after the prompt"
            )
        token = _choose(logits, temperature, generator)
        if stop_token is not None:
            token = token.masked_fill(ended, stop_token)
            ended |= token == stop_token
        made.append(token)
        if len(made) == max_new_tokens or bool(ended.all()):
            return torch.stack(made, dim=1)
        logits, state = decode(token, state)


def _choose(logits: Float[Tensor, "b v"], temperature: float, generator: torch.Generator) -> Int[Tensor, " b"]:
    if temperature == 0:
        return logits.argmax(-1)
    probabilities = (logits.float() / temperature).softmax(-1)
    return torch.multinomial(probabilities, 1, generator=generator)[:, 0]
