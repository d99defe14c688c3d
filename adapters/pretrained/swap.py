"""Swaps the attention in a pretrained Transformer, and undoes it.

The projections of the model do not change. transformers passes projected heads to the function that its attention
interface has under the model's `_attn_implementation`. Our function passes them to an `AttentionCore`, a submodule of
the attention layer, so that its feature maps train, move and are saved with the model. Keys and values are those after
rotary embedding and before they are repeated for grouped queries. BERT in transformers 4.57 does not use the interface,
so the `forward` of its layers is replaced instead.

Dropout on attention weights is not applied with any mechanism, as linear attention never computes the weights.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from torch import nn
from transformers import PreTrainedModel

from ..attention.core import build_attention
from ..attention.shape import shape_of_config
from ..base import UnsupportedError
from ..spec import ModelSpec
from .interface import (
    IMPLEMENTATION,
    Bridge,
    check_mask,
    connect,
    disconnect,
    provide_cache,
    register,
)

CORE = "attention_core"
"""Name of the core as a submodule of its attention layer; in checkpoints it marks the tensors of feature maps."""

_ATTENTION_CLASSES: Mapping[str, tuple[str, ...]] = {
    "bert": ("BertSelfAttention", "BertSdpaSelfAttention"),
    "gpt2": ("GPT2Attention",),
    "llama": ("LlamaAttention",),
    "mistral": ("MistralAttention",),
    "qwen2": ("Qwen2Attention",),
    "vit": ("ViTSelfAttention", "ViTAttention"),
}
"""Classes of the layers that project heads, by model type; the first class that the model has is used."""

_ENCODERS = frozenset({"bert", "vit"})


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
    """Puts the attention of `spec` into every layer of `model`, in place.

    Args:
        model: A model of a type in `backbone.MODEL_TYPES`, whose attention is not swapped yet.
        spec: The mechanism and its options.
        context_length: Longest sequence in tokens, for maps that depend on it.
        seed: Seed of maps that draw random numbers.

    Raises:
        UnsupportedError: The model type is not supported, the mechanism exists only in decoders and the model is an
            encoder, or attention cores do not support an option in the model's configuration.
        ValueError: The attention has been swapped already, or the options do not fit the layer.
    """
    config: Any = model.config
    _check(model, spec)
    shape = shape_of_config(config.to_dict(), config.model_type, context_length, seed)
    register()
    swap = Swap(model, spec, [], config._attn_implementation, [])
    for i, layer in enumerate(attention_layers(model)):
        core = build_attention(spec.mechanism, spec.options, replace(shape, layer=i))
        core.to(next(layer.parameters()).device).train(model.training)
        layer.add_module(CORE, core)
        swap.bridges.append(Bridge(i, core, causal=not is_encoder(model)))
        swap.hooks += connect(layer, swap.bridges[-1])
    before = [check_mask] if is_encoder(model) else [check_mask, provide_cache]
    swap.hooks += [model.base_model.register_forward_pre_hook(hook, with_kwargs=True) for hook in before]
    config._attn_implementation = IMPLEMENTATION
    return swap


def is_encoder(model: PreTrainedModel) -> bool:
    """Whether the model's attention is bidirectional."""
    return model.config.model_type in _ENCODERS


def attention_layers(model: PreTrainedModel) -> list[nn.Module]:
    """The layers of `model` with the projections of queries, keys and values, first to last.

    Raises:
        UnsupportedError: None was found.
    """
    for name in _ATTENTION_CLASSES[model.config.model_type]:
        if layers := [part for part in model.modules() if type(part).__name__ == name]:
            return layers
    raise UnsupportedError(
        f"no attention layer was found in {type(model).__name__}; "
        f"looked for {', '.join(_ATTENTION_CLASSES[model.config.model_type])}"
    )


def _check(model: PreTrainedModel, spec: ModelSpec) -> None:
    config: Any = model.config
    if config.model_type not in _ATTENTION_CLASSES:
        allowed = ", ".join(_ATTENTION_CLASSES)
        raise UnsupportedError(f"attention of model type {config.model_type!r} cannot be swapped; can be: {allowed}")
    if config._attn_implementation == IMPLEMENTATION:
        raise ValueError("the attention of this model is swapped already; undo that first")
    if spec.is_causal_only and is_encoder(model):
        raise UnsupportedError(f"model {spec.canonical} exists only in decoders; {config.model_type} is an encoder")
    for option in ("is_decoder", "add_cross_attention", "reorder_and_upcast_attn"):
        if getattr(config, option, False):
            raise UnsupportedError(f"{config.model_type} with {option}=true cannot be swapped; allowed: false")
    if getattr(config, "position_embedding_type", "absolute") not in ("absolute", None):
        raise UnsupportedError(
            f"position_embedding_type is {config.position_embedding_type!r}; allowed: absolute, as linear attention "
            "has no place for a bias on q·k"
        )
    rescaled = not getattr(config, "scale_attn_weights", True)
    rescaled |= bool(getattr(config, "scale_attn_by_inverse_layer_idx", False))
    if rescaled and not all(hasattr(layer, "scaling") for layer in attention_layers(model)):
        raise UnsupportedError("this release of transformers does not pass GPT-2's scale of q·k on; upgrade it")
