"""Proves that a model of transformers computes the same with its attention on our side of the interface.

A softmax core takes the place of every layer's attention. On random input the logits, their gradients at the
embeddings, and for a decoder the logits of decoded tokens must then be those of the untouched model. One row of tokens
is padded. What a core does instead of softmax can be trusted in a model that passes: it gets the same queries, keys,
values, masks and states.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedModel

from ..base import UnsupportedError
from .interface import cache_argument
from .sites import AttentionSite, call_arguments, evaluating, example_inputs, fingerprint, last_position, real_outputs

TOLERANCES = {torch.float64: 1e-5, torch.float32: 1e-4}
"""Largest difference allowed, as a share of the largest number, by the type of the weights."""
COARSE = 0.05
"""The same for types of 16 bits."""
TOKENS = 10
"""Tokens of a row; more if a window is short enough to be tried."""
LONGEST = 48
"""Most tokens of a row, whatever the window."""
PADDING = 3
"""Padded tokens of the second row, on the left in a decoder."""
DECODED = 2
"""Tokens of a row that are decoded one by one."""


@dataclass(frozen=True)
class Proof:
    """Largest differences between a model and itself with softmax cores, as shares of the largest number.

    Attributes:
        logits: Of the logits of a whole sequence, at real tokens.
        gradients: Of the gradient of a random sum of those logits at the embeddings.
        decoding: Of the logits of tokens that are decoded one by one; None for an encoder.
    """

    logits: float
    gradients: float
    decoding: float | None

    @property
    def worst(self) -> float:
        """The largest of all."""
        return max(self.logits, self.gradients, self.decoding or 0.0)


_proven: dict[tuple[Any, ...], Proof] = {}
"""Proofs of this process, by what they depend on beside the values of weights."""


def prove(
    model: PreTrainedModel, sites: tuple[AttentionSite, ...], put_softmax: Callable[[], Callable[[], None]]
) -> Proof:
    """The proof for a model, from an earlier call with the same class, configuration, type of weights and device.

    Args:
        model: The model with its own attention.
        sites: Its attention layers.
        put_softmax: Puts softmax cores into the model, and returns what takes them out.

    Raises:
        UnsupportedError: The model computes something else with softmax cores.
    """
    key = (*fingerprint(model), model.dtype, model.device.type)
    if key in _proven:
        return _proven[key]
    kind = f"attention of model type {model.config.model_type!r}"
    with evaluating(model):
        wanted = _observed(model, sites)
        undo = put_softmax()
        try:
            found = _observed(model, sites)
        except torch.OutOfMemoryError:
            raise
        except Exception as error:  # whatever a model raises that cannot run with cores is why it is refused
            raise UnsupportedError(f"{kind} cannot be swapped: {type(error).__name__}: {error}") from error
        finally:
            undo()
    differences = [_difference(*pair) for pair in zip(found, wanted, strict=True)]
    proof = Proof(differences[0], differences[1], max(differences[2:], default=None))
    allowed = TOLERANCES.get(model.dtype, COARSE)
    if not all(difference <= allowed for difference in differences):  # so that NaN is refused
        raise UnsupportedError(
            f"{kind} cannot be swapped: with a softmax core the model "
            f"should compute the same, and its logits differ by {proof.logits:.2g}, their gradients by "
            f"{proof.gradients:.2g} and decoded logits by {proof.decoding or 0:.2g} of the largest number; its "
            "attention does something that the interface does not tell"
        )
    _proven[key] = proof
    return proof


def _observed(model: PreTrainedModel, sites: tuple[AttentionSite, ...]) -> list[Tensor]:
    """Logits, gradients at the embeddings, and the logits of decoded tokens of a decoder."""
    is_decoder = sites[0].causal
    windows = [site.window for site in sites if site.window is not None and site.window + 4 <= LONGEST]
    tokens = min(max([TOKENS, *(window + 4 for window in windows)]), last_position(model) or LONGEST)
    inputs, mask = example_inputs(model, rows=2 if model.main_input_name == "input_ids" else 1, tokens=tokens)
    if mask is not None:
        inputs, mask = example_inputs(model, 2, tokens, min(PADDING, tokens // 3))
        if not is_decoder and mask is not None:
            inputs, mask = inputs.flip(1), mask.flip(1)
    call: Callable[..., dict[str, Any]] = partial(call_arguments, model, use_cache=False if is_decoder else None)
    observed = _with_gradient(model, call(inputs, mask), mask)
    if is_decoder and mask is not None:
        observed += _decoded(model, inputs, mask)
    return observed


def _with_gradient(model: PreTrainedModel, arguments: dict[str, Any], mask: Tensor | None) -> list[Tensor]:
    """Outputs at real tokens, and the gradient at the embeddings of their sum with random factors."""
    leaves: list[Tensor] = []

    def cut(_: Any, __: Any, embedded: Tensor) -> Tensor:
        leaves.append(embedded.detach().requires_grad_())
        return leaves[-1]

    try:
        hook = model.get_input_embeddings().register_forward_hook(cut)
    except NotImplementedError as error:
        raise UnsupportedError(f"{type(model).__name__} does not tell transformers which part embeds inputs") from error
    try:
        with torch.enable_grad():
            out = real_outputs(model(**arguments), mask)
            factors = torch.randn(out.shape, generator=torch.Generator().manual_seed(1)).to(out)
            (gradient,) = torch.autograd.grad((out * factors).sum(), leaves[0])
    finally:
        hook.remove()
    return [out.detach(), gradient]


@torch.no_grad()
def _decoded(model: PreTrainedModel, inputs: Tensor, mask: Tensor) -> list[Tensor]:
    """Logits after prompts, and after each of the last tokens."""
    name = cache_argument(type(model).forward)
    positions = (mask.long().cumsum(1) - 1).clamp(min=0)
    given: Any = None
    seen, logits = 0, []
    for end in range(inputs.shape[1] - DECODED, inputs.shape[1] + 1):
        out = model(
            input_ids=inputs[:, seen:end],
            attention_mask=mask[:, :end],
            position_ids=positions[:, seen:end],
            use_cache=True,
            **({} if given is None else {name: given}),
        )
        given = next(out[key] for key in ("cache", "past_key_values") if out.get(key) is not None)
        logits.append(out[0][:, -1])
        seen = end
    return logits


def _difference(found: Tensor, wanted: Tensor) -> float:
    """The largest difference, as a share of the largest number unless all are 0."""
    return float((found - wanted).abs().max()) / (float(wanted.abs().max()) or 1.0)
