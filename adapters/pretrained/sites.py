"""Finds the attention layers of a model by what they do: they ask transformers' attention interface for attention.

No type of model and no name of a class is known here. The model runs once, on a few random tokens, with a function
behind the interface that notes who calls it, with heads of which sizes, and what the call asks for beside softmax
attention. What attention cores cannot give is the reason for a refusal.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from typing import Any
from weakref import WeakKeyDictionary

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn
from transformers import AttentionInterface, AttentionMaskInterface, PreTrainedModel

from ..attention.core import token_positions
from ..base import UnsupportedError
from .weight_files import release

PROBE = "hedgebench_probe"
"""Name of the function that notes calls, in the attention interface of transformers."""

_ASKED_FOR: Mapping[str, str] = {
    "softcap": "soft-capped scores, which no feature map can give",
    "s_aux": "attention sinks, which take part in softmax's normaliser",
    "position_bias": "a bias on q·k that depends on relative positions, for which linear attention has no place",
}
"""What a call of the interface asks for beside softmax attention, by the name of its argument."""

_TAKEN: Mapping[str, str] = {
    "alibi": "ALiBi, a bias on q·k that grows with distance, for which linear attention has no place",
    "rel_embeddings": "disentangled attention, whose scores have terms of relative positions",
    "position_bias": _ASKED_FOR["position_bias"],
}
"""What layers compute that do not ask the interface, by the name of an argument of their forward method."""

_POSITION_TABLES = ("position_embeddings", "wpe", "embed_positions")
"""Names of learned position embeddings."""


@dataclass(frozen=True)
class AttentionSite:
    """An attention layer of a model.

    Attributes:
        name: Path of the module in the model.
        heads: Query heads.
        kv_heads: Key and value heads.
        head_dim: Width of a head.
        causal: Whether a token sees only the tokens up to itself.
        window: Keys that a token sees in a causal layer with a sliding window, its own included; for a layer that is
            not causal the largest distance. None without a window.
        tokens: Positions that the layer had in the probe; for a model of images those of every image.
    """

    name: str
    heads: int
    kv_heads: int
    head_dim: int
    causal: bool
    window: int | None
    tokens: int


_first_positions: WeakKeyDictionary[PreTrainedModel, int] = WeakKeyDictionary()
"""The position of the first token of each model, which is looked for once."""

_listeners: list[Callable[..., tuple[Tensor, None]]] = []
"""What is called with every call of the interface during a probe; transformers itself is to hold no model."""

_found: dict[tuple[type, str], tuple[AttentionSite, ...]] = {}
"""The sites of each model that this process has probed, by its class and its configuration."""


def attention_sites(model: PreTrainedModel) -> tuple[AttentionSite, ...]:
    """The attention layers of a model with its own attention, in the order in which they run.

    Raises:
        UnsupportedError: Attention cores cannot take the place of a layer; the message says which layer and why.
    """
    key = fingerprint(model)
    if key not in _found:
        _found[key] = _probe(model)
    return _found[key]


def fingerprint(model: PreTrainedModel) -> tuple[type, str]:
    """What decides how a model calls its attention: its class and its configuration."""
    config: Any = model.config
    return type(model), config.to_json_string(use_diff=False)


@dataclass
class _Seeing:
    """What a mask lets a token see: the tokens before it alone, and a window."""

    causal: bool
    window: int | None
    problem: str = ""


def _probe(model: PreTrainedModel) -> tuple[AttentionSite, ...]:
    config: Any = model.config
    if config.is_encoder_decoder:
        raise UnsupportedError(
            f"{_kind(model)} cannot be swapped: it has an encoder and a decoder, with cross-attention"
        )
    names = {part: name for name, part in model.named_modules()}
    sites: list[AttentionSite] = []

    def attend(
        module: Any, query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None, *_: Any, **asked: Any
    ) -> tuple[Tensor, None]:
        name = names[module]
        if problem := _problem(query, key, value, mask, asked, config):
            raise UnsupportedError(f"{_kind(model)} cannot be swapped: its layer {name} asks for {problem}")
        if any(site.name == name for site in sites):
            raise UnsupportedError(f"{_kind(model)} cannot be swapped: several layers share {name} and its weights")
        seeing = _seeing(module, mask, asked)
        if seeing.problem:
            raise UnsupportedError(f"{_kind(model)} cannot be swapped: its layer {name} has {seeing.problem}")
        heads, kv_heads, (tokens, head_dim) = query.shape[1], key.shape[1], query.shape[2:]
        sites.append(AttentionSite(name, heads, kv_heads, head_dim, seeing.causal, seeing.window, tokens))
        return query.new_zeros(len(query), tokens, heads, head_dim), None

    AttentionInterface.register(PROBE, _tell)
    AttentionMaskInterface.register(PROBE, _mask_that_tells)
    previous, config._attn_implementation = config._attn_implementation, PROBE
    _listeners.append(attend)
    inputs, mask = example_inputs(model, rows=1, tokens=4)
    try:
        with torch.no_grad(), evaluating(model):
            model(**call_arguments(model, inputs, mask))
    except (UnsupportedError, torch.OutOfMemoryError):
        raise
    except Exception as error:  # whatever a model raises that is not made for the interface is why it is refused
        raise UnsupportedError(f"{_kind(model)} cannot be swapped: {type(error).__name__}: {error}") from error
    finally:
        config._attn_implementation = previous
        _listeners.remove(attend)
    sites = sites or _sites_of_bert(model)
    if not sites:
        raise UnsupportedError(f"{_kind(model)} cannot be swapped: {_why_silent(model)}")
    if len({site.causal for site in sites}) > 1:
        raise UnsupportedError(f"{_kind(model)} cannot be swapped: some of its layers are causal and some are not")
    return tuple(sites)


def _tell(*args: Any, **asked: Any) -> tuple[Tensor, None]:
    """The function behind the attention interface: it passes a call on to the probe that goes on."""
    return _listeners[-1](*args, **asked)


def _problem(
    query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None, asked: Mapping[str, Any], config: Any
) -> str:
    """What a call asks for that attention cores do not give; empty if they give all of it."""
    if found := next((reason for name, reason in _ASKED_FOR.items() if asked.get(name) is not None), ""):
        return found
    if key.shape[2] != query.shape[2]:
        return f"cross-attention, of {query.shape[2]} queries over {key.shape[2]} keys"
    if value.shape[-1] != query.shape[-1]:
        return f"values of width {value.shape[-1]} beside queries of width {query.shape[-1]}"
    if getattr(config, "attention_chunk_size", None):
        return "chunked attention, whose tokens see only their own chunk"
    if mask is not None and mask.ndim != 2:
        return f"a mask of shape {list(mask.shape)} that the model makes itself, which may hold a bias on q·k"
    return ""


def _mask_that_tells(
    *_: Any,
    kv_length: int,
    mask_function: Callable[..., Any] | None = None,
    local_size: int | None = None,
    device: Any = None,
    **__: Any,
) -> Tensor:
    """A mask of real tokens; `seeing` of the tensor says what the model's own mask would let a token see."""
    mask: Any = torch.ones(1, kv_length, dtype=torch.bool, device=device)
    causal = mask_function is None or not _sees(mask_function, 0, 1)
    seeing = _Seeing(causal, local_size)
    if mask_function is not None and local_size is not None:
        farthest = local_size - 1 if causal else local_size
        if not _sees(mask_function, farthest, 0) or _sees(mask_function, farthest + 1, 0):
            seeing.problem = "a local pattern other than a sliding window"
    mask.seeing = seeing
    return mask  # type: ignore[no-any-return]


def _sees(mask_function: Callable[..., Any], query: int, key: int) -> bool:
    first = torch.tensor(0)
    return bool(mask_function(first, first, torch.tensor(query), torch.tensor(key)))


def _seeing(module: Any, mask: Any, asked: Mapping[str, Any]) -> _Seeing:
    """What a layer lets a token see: by its mask, or without one by what sdpa would read."""
    if (seeing := getattr(mask, "seeing", None)) is not None:
        found: _Seeing = seeing
        return found
    causal = asked.get("is_causal")
    return _Seeing(bool(getattr(module, "is_causal", True) if causal is None else causal), asked.get("sliding_window"))


def _kind(model: PreTrainedModel) -> str:
    return f"attention of model type {model.config.model_type!r}"


def _sites_of_bert(model: PreTrainedModel) -> list[AttentionSite]:
    """The layers of BERT in transformers 4.57, which compute attention without the interface; empty for all others."""
    parts: list[tuple[str, Any]] = [
        (name, part)
        for name, part in model.named_modules()
        if type(part).__name__ in ("BertSelfAttention", "BertSdpaSelfAttention") and not hasattr(part, "scaling")
    ]
    heads = [(name, part.num_attention_heads, part.attention_head_size) for name, part in parts]
    return [AttentionSite(name, count, count, width, False, None, 0) for name, count, width in heads]


def _why_silent(model: PreTrainedModel) -> str:
    """Why no layer of a model asked the interface."""
    for part in model.modules():
        named = inspect.signature(type(part).forward).parameters
        if "ttention" in type(part).__name__ and (
            reason := next((_TAKEN[name] for name in _TAKEN if name in named), "")
        ):
            return f"{type(part).__name__} computes {reason}"
    newer = "; in release 5 of transformers more types ask it" if release() < 5 else ""
    return f"none of its layers asks transformers' attention interface for attention{newer}"


@contextmanager
def evaluating(model: nn.Module) -> Iterator[None]:
    """No part of the model is in training mode while the block lasts, so that nothing random happens."""
    training = [part for part in model.modules() if part.training]
    model.eval()
    try:
        yield
    finally:
        for part in training:
            part.training = True


def example_inputs(model: PreTrainedModel, rows: int, tokens: int, padding: int = 0) -> tuple[Tensor, Tensor | None]:
    """Random inputs of a model, the same at every call, and their mask; images have no mask.

    Args:
        model: The model.
        rows: Number of rows.
        tokens: Tokens of a row; images have the model's size.
        padding: Tokens of the last row that are padding, on the left.
    """
    config: Any = model.config
    generator = torch.Generator().manual_seed(0)
    if model.main_input_name == "pixel_values":
        size: Any = image_part(config)
        pixels = torch.randn(rows, size.num_channels, size.image_size, size.image_size, generator=generator)
        return pixels.to(model.device, model.dtype), None
    if model.main_input_name != "input_ids":
        raise UnsupportedError(f"{_kind(model)} cannot be swapped: it reads {model.main_input_name}")
    embedding: Any = model.get_input_embeddings()
    vocab_size = int(embedding.weight.shape[0])
    pad = getattr(config, "pad_token_id", None)
    ids = torch.randint(0, vocab_size, (rows, tokens), generator=generator)
    if pad is not None and 0 <= pad < vocab_size:  # such models take this id for padding wherever it stands
        ids[ids == pad] = (pad + 1) % vocab_size
    mask = torch.ones(rows, tokens, dtype=torch.bool)
    if padding:
        mask[-1, :padding], ids[-1, :padding] = False, pad or 0
    return ids.to(model.device), mask.to(model.device)


def image_part(config: Any) -> Any:
    """The part of a model's configuration with the size of its images; None for a model of tokens."""
    part = getattr(config, "vision_config", config)
    return part if hasattr(part, "image_size") else None


def image_positions(model: PreTrainedModel) -> int:
    """Positions of an image in a model's layers: its patches, and tokens of the model's own."""
    with torch.no_grad():
        inputs, _ = example_inputs(model, rows=1, tokens=0)
        return int(model.base_model(inputs).last_hidden_state.shape[1])


def call_arguments(
    model: PreTrainedModel, inputs: Tensor, mask: Bool[Tensor, "b n"] | None, *, use_cache: bool | None = None
) -> dict[str, Any]:
    """The arguments of a model's forward method for tokens or images.

    Args:
        model: The model.
        inputs: Token ids `[b, n]`, or images.
        mask: True at real tokens.
        use_cache: Whether a decoder is to keep a cache; None for a model that has no such argument.
    """
    if inputs.is_floating_point():
        return {"pixel_values": inputs}
    positions: Int[Tensor, "b n"] = token_positions(inputs, mask) + _first_position(model)
    arguments: dict[str, Any] = {"input_ids": inputs, "attention_mask": mask, "position_ids": positions}
    kind: Any = type(model)
    if not _takes_positions(kind):
        del arguments["position_ids"]
    return arguments if use_cache is None else {**arguments, "use_cache": use_cache}


def last_position(model: PreTrainedModel) -> int | None:
    """Number of positions that a model has learned embeddings for; None if its positions have no end."""
    table = _position_table(model)
    return None if table is None else table.num_embeddings - int(getattr(table, "offset", _first_position(model)))


def _position_table(model: PreTrainedModel) -> nn.Embedding | None:
    if model.main_input_name != "input_ids":
        return None
    tables = (part for name, part in model.named_modules() if name.rpartition(".")[2] in _POSITION_TABLES)
    return next((table for table in tables if isinstance(table, nn.Embedding)), None)


def _first_position(model: PreTrainedModel) -> int:
    """The position of the first token: 0, or in RoBERTa's family the one after that of padding."""
    if model not in _first_positions:
        table = _position_table(model)
        is_plain = table is None or table.padding_idx is None or hasattr(table, "offset")
        _first_positions[model] = 0 if is_plain or table is None else int(table.padding_idx or 0) + 1
    return _first_positions[model]


@cache
def _takes_positions(kind: type[PreTrainedModel]) -> bool:
    named = inspect.signature(kind.forward).parameters
    return "position_ids" in named or any(each.kind is each.VAR_KEYWORD for each in named.values())


def real_outputs(out: Any, mask: Bool[Tensor, "b n"] | None) -> Float[Tensor, ...]:
    """The first output of a model, logits or hidden states, at real tokens."""
    first: Tensor = out[0]
    return first if mask is None or first.ndim < 3 else first[mask]
