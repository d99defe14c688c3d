"""Connects attention layers of transformers to attention cores, through the library's attention and mask interfaces."""

from __future__ import annotations

import inspect
import math
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache, partial
from types import ModuleType
from typing import Any, cast

import torch
from jaxtyping import Bool
from torch import Tensor, nn
from transformers import AttentionInterface, AttentionMaskInterface

from ..attention.core import AttentionCore, Heads, KeyHeads, QueryHeads, token_positions
from ..base import UnsupportedError
from .state_cache import StateCache, StateLayer, state_layers

IMPLEMENTATION = "hedgebench"
"""Name of our function in the attention interface of transformers."""

BRIDGE = "attention_bridge"
"""Attribute of an attention layer that holds its `Bridge`."""

CACHE_ARGUMENTS = ("cache", "past_key_values", "layer_past")
"""Possible names of a forward method's cache argument, the newest first; the last are GPT-NeoX's layers'."""


@contextmanager
def layers_in_torch() -> Iterator[None]:
    """On a machine without a GPU, models that transformers imports in the block run in torch.

    Where flash-linear-attention is installed, transformers takes its kernels, which need a GPU, for recurrent layers.
    """
    if torch.cuda.is_available():
        yield
        return
    modules = cast(dict[str, ModuleType | None], sys.modules)
    before = modules.get("fla")
    modules["fla"] = None  # an import then says that there is no such module
    try:
        yield
    finally:
        del modules["fla"]
        if before is not None:
            modules["fla"] = before


class Bridge:
    """Passes heads from an attention layer of transformers to its core.

    Args:
        layer: Index of the layer.
        core: The attention that replaces softmax.
        causal: Whether the layer belongs to a decoder.
        window: Most tokens of a sequence, as the core sees all that the layer's own sliding window would leave out;
            None without a window, and for a core that has the same.
    """

    def __init__(self, layer: int, core: AttentionCore, causal: bool, window: int | None = None) -> None:
        self.layer = layer
        self.core = core
        self.causal = causal
        self.window = window
        self.estimates_softmax = getattr(getattr(core, "query_map", None), "estimates_softmax", False)
        self.slot: StateLayer | None = None

    def __call__(
        self, q: QueryHeads, k: KeyHeads, v: KeyHeads, mask: Bool[Tensor, "b m"] | None, scale: float | None
    ) -> QueryHeads:
        """The attention output of one layer; with a cache, for tokens that follow the cached ones.

        Args:
            q: Queries.
            k: Keys of the same tokens.
            v: Values of the same tokens.
            mask: True at real tokens; with a cache also those of earlier tokens, on the left.
            scale: Factor on q·k in softmax; 1/√d if None.

        Raises:
            UnsupportedError: More tokens than the layer's own sliding window holds.
        """
        length = q.shape[2] if self.slot is None else self.slot.length
        if self.window is not None and length > self.window:
            raise UnsupportedError(
                f"{length} tokens exceed the model's own sliding window of {self.window}; keep=sliding leaves such "
                "layers as they are, and native runs the model with its own softmax attention"
            )
        usual = q.shape[-1] ** -0.5
        if self.estimates_softmax and scale is not None and not math.isclose(scale, usual):
            q, scale = q * (scale / usual), None
        if self.slot is not None and (packing := self.slot.packing) is not None:
            unpack = packing.unpack
            heads = Heads(unpack(q), unpack(k), unpack(v), packing.positions, packing.mask, scale)
            attended, self.slot.state = self.core.extend(heads, self.slot.state)
            return packing.pack(attended)
        tokens = q.shape[2]
        mask = None if mask is None else mask[:, -tokens:]
        positions = token_positions(q[:, 0], mask) if self.slot is None else self.slot.positions
        assert positions is not None
        heads = Heads(q, k, v, positions, mask, scale)
        out: Tensor
        if self.slot is None:
            out = self.core(heads, causal=self.causal)
        else:
            out, self.slot.state = self.core.extend(heads, self.slot.state)
        return out


def register() -> None:
    """Registers our functions in transformers."""
    AttentionInterface.register(IMPLEMENTATION, _attend)
    AttentionMaskInterface.register(IMPLEMENTATION, _key_padding_mask)


def connect(layer: nn.Module, bridge: Bridge) -> list[Any]:
    """Lets an attention layer attend through `bridge`; returns the hooks, which the caller has to remove."""
    setattr(layer, BRIDGE, bridge)
    if type(layer).__name__.startswith("Bert") and not hasattr(layer, "scaling"):  # it does not ask the interface
        layer.forward = partial(_bert_forward, layer)
    return [layer.register_forward_pre_hook(_take_cache, with_kwargs=True)]


def disconnect(layer: nn.Module) -> None:
    """Undoes `connect`, except for its hooks."""
    delattr(layer, BRIDGE)
    layer.__dict__.pop("forward", None)


def _attend(
    module: Any,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    scaling: float | None = None,
    **_: Any,
) -> tuple[Tensor, None]:
    """The function behind the attention interface: heads `[b h n d]` in, output `[b n h d]` out, and no weights."""
    out = getattr(module, BRIDGE)(query, key, value, attention_mask, scaling)
    return out.transpose(1, 2), None


def _key_padding_mask(
    *_: Any, kv_length: int, attention_mask: Tensor | None = None, use_vmap: bool = False, **__: Any
) -> Tensor | None:
    """The function behind the mask interface: `[b m]`, true at real tokens, or None without padding.

    Raises:
        UnsupportedError: The model adds a pattern of its own to the mask.
    """
    if use_vmap:
        raise UnsupportedError("the model adds a pattern of its own to the attention mask, which no core can follow")
    if attention_mask is None:
        return None
    mask = attention_mask[:, -kv_length:].bool()
    return None if bool(mask.all()) else mask


def check_mask(model: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
    """Hook before the model runs: refuses masks other than padding masks.

    Raises:
        UnsupportedError: A mask that is not [rows, tokens], which attention cores cannot follow.
    """
    del model, args
    given = kwargs.get("attention_mask")
    for mask in given.values() if isinstance(given, dict) else [given]:  # generation makes one for each kind of layer
        if mask is not None and mask.ndim != 2:
            raise UnsupportedError(
                f"attention_mask has the shape {list(mask.shape)}; swapped attention takes [rows, tokens], true at "
                "real tokens"
            )


@cache
def cache_argument(forward: Callable[..., Any]) -> str:
    """The name of the cache argument of a forward method: `cache` since transformers 5.24, `past_key_values` before."""
    named = inspect.signature(forward).parameters
    return next((name for name in CACHE_ARGUMENTS if name in named), "past_key_values")


def _take_cache(module: nn.Module, args: Any, kwargs: dict[str, Any]) -> None:
    """Hook before an attention layer runs: gives the layer's part of the cache to its bridge."""
    del args
    cache, bridge = kwargs.get(cache_argument(type(module).forward)), getattr(module, BRIDGE)
    bridge.slot = None if cache is None else cache.layers[bridge.layer]


def provide_cache(model: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[Any, dict[str, Any]]:
    """Hook before a decoder runs: makes the cache hold states, and sets the positions of the call in them.

    Raises:
        UnsupportedError: `position_ids` jump, so a row holds several sequences.
        ValueError: Another attention has filled the cache.
    """
    config: Any = model.config
    mask, positions = kwargs.get("attention_mask"), kwargs.get("position_ids")
    name = cache_argument(type(model).forward)
    kwargs = {name if key in CACHE_ARGUMENTS else key: value for key, value in kwargs.items()}
    cache = kwargs.get(name)
    packing = cache.packing if isinstance(cache, StateCache) else None
    if packing is None and mask is None and positions is not None and bool((positions.diff(dim=-1) != 1).any()):
        raise UnsupportedError(
            "packed sequences (position_ids that jump) cannot be used with swapped attention; pad instead"
        )
    wanted = kwargs.get("use_cache")
    if cache is None and (wanted is False or (wanted is None and not getattr(config, "use_cache", False))):
        return args, kwargs
    if cache is None:
        if model.training:  # it does not decode, so a state would only cost time
            return args, {**kwargs, "use_cache": False}
        cache = StateCache(config.num_hidden_layers)
    slots = state_layers(cache, config.num_hidden_layers)
    inputs = next(x for x in (*args, kwargs.get("input_ids"), kwargs.get("inputs_embeds")) if x is not None)
    if positions is None and mask is not None:
        positions = token_positions(inputs, mask.bool())
    elif positions is None:
        positions = token_positions(inputs, None) + cache.get_seq_length()
    for slot in slots:
        slot.positions, slot.packing = positions.expand(len(inputs), -1), packing
    return args, {**kwargs, name: cache}


def _bert_forward(
    layer: Any, hidden_states: Tensor, attention_mask: Tensor | None = None, *_: Any, **__: Any
) -> tuple[Tensor, None]:
    """Self-attention of BERT in transformers 4.57, whose mask is 0 at real tokens and very negative elsewhere."""
    mask = None if attention_mask is None else attention_mask[:, 0, 0] == 0
    q, k, v = (
        projection(hidden_states).unflatten(-1, (-1, layer.attention_head_size)).transpose(1, 2)
        for projection in (layer.query, layer.key, layer.value)
    )
    out: Tensor = getattr(layer, BRIDGE)(q, k, v, mask, layer.attention_head_size**-0.5)
    return out.transpose(1, 2).flatten(2), None
