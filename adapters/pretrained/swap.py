"""Swaps the attention in a pretrained Transformer, and undoes it.

The projections of the model do not change. transformers passes projected heads to the function that its attention
interface has under the model's `_attn_implementation`. Our function passes them to an `AttentionCore`, a submodule of
the attention layer, so that its feature maps train, move and are saved with the model. Keys and values are those after
rotary embedding and before they are repeated for grouped queries. The layers are found by what they do (`sites`), and
each model is proven to compute the same with softmax cores before it gets others (`proof`).

Dropout on attention weights is not applied with any mechanism, as linear attention never computes the weights.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from torch import nn
from transformers import PreTrainedModel

from ..attention.core import AttentionCore, build_attention
from ..attention.local import LocalSoftmaxAttention
from ..attention.softmax import kept_softmax
from ..base import UnsupportedError
from ..mechanisms.declaration import AttentionShape
from ..spec import ModelSpec
from .interface import BRIDGE, IMPLEMENTATION, Bridge, check_mask, connect, disconnect, provide_cache, register
from .proof import prove
from .sites import AttentionSite, attention_sites

CORE = "attention_core"
"""Name of the core as a submodule of its attention layer; in checkpoints it marks the tensors of feature maps."""


@dataclass
class Swap:
    """A model and the replacement of its attention.

    Attributes:
        model: The model.
        spec: Its present mechanism.
        bridges: The bridge of each layer, in order.
        previous: Name of the attention implementation before the swap.
        hooks: Hooks that undoing removes.
    """

    model: PreTrainedModel
    spec: ModelSpec
    bridges: list[Bridge]
    previous: str
    hooks: list[Any]

    def __setstate__(self, state: dict[str, Any]) -> None:
        register()  # a copy may be read in a process that has swapped nothing
        vars(self).update(state)

    def undo(self) -> None:
        """Restores the model's softmax attention; projections keep their present values."""
        for hook in self.hooks:
            hook.remove()
        for layer in attention_layers(self.model):
            delattr(layer, CORE)
            disconnect(layer)
        self.model.config._attn_implementation = self.previous
        self.bridges.clear()


def swap_attention(model: PreTrainedModel, spec: ModelSpec, *, context_length: int, seed: int = 0) -> Swap:
    """Puts the attention of `spec` into the layers of `model`, in place, after the proof that the model can have it.

    Args:
        model: A model whose layers ask transformers' attention interface, and which is not swapped yet. One on the
            device `meta` is not proven, as it has no values.
        spec: The mechanism and its options.
        context_length: Longest sequence in tokens, for maps that depend on it.
        seed: Seed of maps that draw random numbers.

    Raises:
        SpecError: The model has none of the layers that the spec names.
        UnsupportedError: Attention cores cannot take the place of the model's attention, or the mechanism exists only
            in decoders and the model is an encoder.
        ValueError: The attention has been swapped already, or the options do not fit the layer.
    """
    _check(model)
    sites = attention_sites(model)
    if spec.is_causal_only and not sites[0].causal:
        raise UnsupportedError(
            f"model {spec.canonical} exists only in decoders; {model.config.model_type} is an encoder"
        )
    if model.device.type != "meta":
        prove(model, sites, lambda: _put(model, spec, sites, [_own_softmax(site) for site in sites]).undo)
    kept = spec.kept_layers([site.window is not None for site in sites])
    cores = [
        _own_softmax(site) if i in kept else _core_of(spec, site, i, context_length, seed)
        for i, site in enumerate(sites)
    ]
    return _put(model, spec, sites, cores)


def _core_of(spec: ModelSpec, site: AttentionSite, layer: int, context_length: int, seed: int) -> AttentionCore:
    shape = AttentionShape(site.heads, site.kv_heads, site.head_dim, context_length, layer, seed)
    return build_attention(spec.mechanism, spec.options, shape)


def _own_softmax(site: AttentionSite) -> AttentionCore:
    """The softmax attention that a layer has of its own, with its window."""
    if site.causal or site.window is None:
        return kept_softmax(site.window)
    core = LocalSoftmaxAttention(site.window)
    core.is_kept = True
    return core


def _put(
    model: PreTrainedModel, spec: ModelSpec, sites: Sequence[AttentionSite], cores: Sequence[AttentionCore]
) -> Swap:
    """Puts a core into each layer."""
    config: Any = model.config
    register()
    swap = Swap(model, spec, [], config._attn_implementation, [])
    for i, (site, core) in enumerate(zip(sites, cores, strict=True)):
        layer = model.get_submodule(site.name)
        core.to(next(layer.parameters()).device).train(model.training)
        layer.add_module(CORE, core)
        longest = None if core.is_kept or site.window is None else site.window + (not site.causal)
        swap.bridges.append(Bridge(i, core, site.causal, longest))
        swap.hooks += connect(layer, swap.bridges[-1])
    run = _decoder_of(model) if sites[0].causal else model.base_model
    before = [check_mask, provide_cache] if sites[0].causal else [check_mask]
    swap.hooks += [run.register_forward_pre_hook(hook, with_kwargs=True) for hook in before]
    config._attn_implementation = IMPLEMENTATION
    return swap


def _decoder_of(model: PreTrainedModel) -> PreTrainedModel:
    """The innermost model of transformers that runs all layers; OPT's head calls it past the base model."""
    layers = set(attention_layers(model))
    parts = (part for part in model.modules() if isinstance(part, PreTrainedModel))
    return [part for part in parts if layers <= set(part.modules())][-1]


def attention_layers(model: PreTrainedModel) -> list[nn.Module]:
    """The layers of `model` that project queries, keys and values, first to last, swapped or not.

    Raises:
        UnsupportedError: A layer cannot be swapped, or there is none.
    """
    swapped = [part for part in model.modules() if hasattr(part, BRIDGE)]
    return swapped or [model.get_submodule(site.name) for site in attention_sites(model)]


def _check(model: PreTrainedModel) -> None:
    config: Any = model.config
    if config._attn_implementation == IMPLEMENTATION:
        raise ValueError("the attention of this model is swapped already; undo that first")
    for option in ("is_decoder", "add_cross_attention", "reorder_and_upcast_attn"):
        if getattr(config, option, False):
            raise UnsupportedError(f"{config.model_type} with {option}=true cannot be swapped; allowed: false")
    if getattr(config, "position_embedding_type", "absolute") not in ("absolute", None):
        raise UnsupportedError(
            f"position_embedding_type is {config.position_embedding_type!r}; allowed: absolute, as linear attention "
            "has no place for a bias on q·k"
        )
