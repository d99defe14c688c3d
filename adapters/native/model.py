"""A pretrained model as transformers runs it, behind the interface of the models whose attention we replace."""

from __future__ import annotations

import inspect
from functools import cached_property
from typing import Any, ClassVar

import torch
from jaxtyping import Bool, Float
from torch import Tensor
from transformers import DynamicCache, PreTrainedModel

from ...kernels.choice import KernelChoice
from ..attention.core import token_positions
from ..attention_model import AttentionModel, Mask, Outputs, Tokens
from ..base import UnsupportedError
from ..mechanisms.native import NATIVE
from ..pretrained.model import segment_ids
from ..pretrained.sites import call_arguments, evaluating, example_inputs, last_position
from ..spec import ModelSpec
from .state import NativeState, Part, held_by_layers

CACHES = ("cache", "past_key_values", "cache_params", "state")
"""Names under which models of transformers take and return what they keep between tokens."""

_TOLERANCE = 0.02
"""Largest change of logits by padding or by other rows of a batch, as a share of the largest logit."""


class NativeModel(AttentionModel):
    """A model of transformers with nothing replaced: a causal language model, or a classifier.

    Rows of a padded batch are read one by one if the model does not take padding on the left, as recurrent models may
    read it like tokens.

    Args:
        inner: The model, with its head.
        is_decoder: Whether it is a causal language model.
        separator: Id of the token that ends a segment, for encoders that tell two segments apart; None for others.
    """

    shares_context: ClassVar[bool] = False

    def __init__(self, inner: PreTrainedModel, is_decoder: bool, separator: int | None = None) -> None:
        super().__init__("the model is measured as it is, and was not converted")
        self.inner = inner
        self.is_decoder = is_decoder
        self.separator = separator
        self._phases: dict[str, None] = {}
        self._is_given_cache = False

    @property
    def spec(self) -> ModelSpec:
        """The mechanism `native`."""
        return ModelSpec(NATIVE, {})

    def replace_attention(self, spec: ModelSpec, *, context_length: int, seed: int) -> None:
        """Refuses.

        Raises:
            UnsupportedError: Always.
        """
        del context_length, seed
        raise UnsupportedError(f"a native model is measured as it is, so it cannot be {spec.canonical}")

    def forward(self, inputs: Tensor, mask: Mask = None) -> Outputs:
        """Next-token logits of a decoder, class logits of an encoder; padding is on either side."""
        self._phases["train" if torch.is_grad_enabled() else "forward"] = None
        if mask is None or not self.is_decoder or self._reads_whole(mask):
            whole: Tensor = self.inner(**self._arguments(inputs, mask)).logits
            return whole
        rows = [
            self.inner(**self._arguments(row[real][None], None)).logits[0]
            for row, real in zip(inputs, mask, strict=True)
        ]
        logits: Tensor = rows[0].new_zeros(*inputs.shape, rows[0].shape[-1])
        logits[mask] = torch.cat(rows)
        return logits

    def hidden(self, inputs: Tensor, mask: Mask = None) -> Float[Tensor, "b m w"]:
        """Outputs of the last layer; the head does not run."""
        out: Tensor = self.inner.base_model(**self._arguments(inputs, mask)).last_hidden_state
        return out

    def extend(self, tokens: Tokens, mask: Mask, state: NativeState | None) -> tuple[Float[Tensor, "b v"], NativeState]:
        """Logits after the last of `tokens`, which follow those in `state`; padding is on the left."""
        self._phases["prefill" if state is None else "decode"] = None
        if state is None:
            whole = (len(tokens) == 1 or self._decodes_batches) and (mask is None or self._reads_whole(mask))
            if not whole and len(tokens) > 1 and held_by_layers(self.inner):
                raise UnsupportedError(
                    f"layers of {self.inner.config.model_type} hold their state themselves and read padding like "
                    "tokens; decode rows without padding (batch_size=1)"
                )
            batches = [tokens] if whole else _rows_alone(tokens, mask)
            masks: list[Mask] = [mask] if whole else [None] * len(tokens)
            parts = [Part(None, None, rows.new_zeros(len(rows))) for rows in batches]
        else:
            parts = state.parts
            batches, masks = [tokens] if len(parts) == 1 else list(torch.split(tokens, 1)), [mask] * len(parts)
        logits = [self._extend(rows, real, part) for rows, real, part in zip(batches, masks, parts, strict=True)]
        return torch.cat(logits), NativeState(parts, held_by_layers(self.inner))

    def predictions(
        self, tokens: Tokens, real: Bool[Tensor, "b n"], state: NativeState | None, wanted: Bool[Tensor, "b n"]
    ) -> tuple[Float[Tensor, "wanted v"], NativeState]:
        """Logits after the wanted tokens of whole rows.

        Raises:
            UnsupportedError: Tokens that follow a state.
        """
        if state is not None:
            raise UnsupportedError("a native model reads whole rows: what rows have in common is not read apart")
        return self.forward(tokens, real)[wanted], NativeState([], [])

    @property
    def last_position(self) -> int | None:
        """Number of learned positions; None for positions without an end."""
        return self._last_position

    @cached_property
    def _last_position(self) -> int | None:
        return last_position(self.inner)

    @property
    def kernels(self) -> list[tuple[str, KernelChoice]]:
        """The phases that ran, with the model's type and the attention that transformers chose."""
        config: Any = self.inner.config
        implementation = str(getattr(config, "_attn_implementation", None) or "none")
        return [(phase, KernelChoice(f"native {config.model_type}", implementation)) for phase in self._phases]

    @property
    def _records(self) -> list[dict[Any, None]]:
        return [self._phases]

    def _reads_whole(self, mask: Bool[Tensor, "b n"]) -> bool:
        """Whether the model gives real tokens the same logits with this mask as without padding."""
        return bool(mask.all()) or self._takes_padding

    @cached_property
    def _takes_padding(self) -> bool:
        """Whether padding on the left leaves the logits of real tokens as they are, tried on random tokens."""
        padded, mask = example_inputs(self.inner, rows=1, tokens=9, padding=3)
        assert mask is not None
        with torch.no_grad(), evaluating(self.inner):
            alone = self.inner(**self._arguments(padded[:, 3:], None)).logits
            found = self.inner(**self._arguments(padded, mask)).logits[:, 3:]
        return _are_close(found, alone)

    @cached_property
    def _decodes_batches(self) -> bool:
        """Whether rows of a batch are decoded as each is alone, tried on random tokens; RWKV's are not."""
        tokens, _ = example_inputs(self.inner, rows=2, tokens=5)
        try:
            together = self._decoded(tokens)
        except RuntimeError:
            return False
        alone = torch.cat([self._decoded(row[None]) for row in tokens])
        return together.shape == alone.shape and _are_close(together, alone)

    @torch.no_grad()
    def _decoded(self, tokens: Tokens) -> Float[Tensor, "b v"]:
        """Logits after the last token, which is decoded."""
        part = Part(None, None, tokens.new_zeros(len(tokens)))
        self._extend(tokens[:, :-1], None, part)
        return self._extend(tokens[:, -1:], None, part)

    def _extend(self, tokens: Tokens, mask: Mask, part: Part) -> Float[Tensor, "b v"]:
        """Logits after the last of the tokens of some rows; changes their part."""
        positions = token_positions(tokens, mask) + part.seen[:, None]
        part.seen = part.seen + (tokens.shape[1] if mask is None else mask.long().sum(1))
        if mask is not None and part.cache is None:
            part.mask = mask
        elif part.mask is not None:
            part.mask = torch.cat([part.mask, part.mask.new_ones(*tokens.shape)], 1)
        arguments = {"input_ids": tokens, "use_cache": True}
        if "logits_to_keep" in self._named:  # as generation does: logits of a long prompt would be most of its memory
            arguments["logits_to_keep"] = 1
        if part.mask is not None and (part.cache is None or _has_keys(part.cache)):
            arguments["attention_mask"] = part.mask.long()
        if "position_ids" in self._named:
            arguments["position_ids"] = positions
        name = next((name for name in CACHES if name in self._named), CACHES[0])
        if part.cache is None and self._is_given_cache:
            part.cache = DynamicCache(config=self.inner.config)
        if part.cache is not None:
            arguments[name] = part.cache
        out = self.inner(**arguments)
        found = next((out[key] for key in CACHES if out.get(key) is not None), part.cache)
        if found is None:  # RecurrentGemma's class returns none, but fills one that it gets
            self._is_given_cache = True
            found = arguments[name] = DynamicCache(config=self.inner.config)
            out = self.inner(**arguments)
        part.cache = found
        last: Tensor = out.logits[:, -1]
        return last

    @cached_property
    def _named(self) -> frozenset[str]:
        return frozenset(inspect.signature(type(self.inner).forward).parameters)

    def _arguments(self, inputs: Tensor, mask: Mask) -> dict[str, Any]:
        if not self.is_decoder:
            arguments = call_arguments(self.inner, inputs, mask)
            if self.separator is not None:
                arguments["token_type_ids"] = segment_ids(inputs, mask, self.separator)
            return arguments
        arguments = {"input_ids": inputs, "use_cache": False}
        if mask is not None:
            arguments["attention_mask"] = mask.long()
        if "position_ids" in self._named:
            arguments["position_ids"] = token_positions(inputs, mask)
        return arguments


def _are_close(found: Tensor, wanted: Tensor) -> bool:
    return float((found - wanted).abs().max() / wanted.abs().max()) <= _TOLERANCE


def _rows_alone(tokens: Tokens, mask: Mask) -> list[Tensor]:
    """Each row as a batch, without its padding."""
    if mask is None:
        return list(torch.split(tokens, 1))
    return [row[real][None] for row, real in zip(tokens, mask, strict=True)]


def _has_keys(cache: Any) -> bool:
    """Whether a cache holds keys of the tokens seen, which a mask of all tokens is for."""
    layers = getattr(cache, "layers", None)
    return layers is None or any(hasattr(layer, "keys") for layer in layers)
