"""Builds adapters of pretrained models, whose attention is swapped."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from transformers import PreTrainedModel

from ..backbone import Backbone
from ..base import ModelShape, Settings, UnsupportedError
from ..mechanisms.softmax import SOFTMAX
from ..model_adapter import ModelAdapter
from ..precision import DTYPES, Precision
from ..spec import Mechanisms, parse_spec
from .converted import conversion_of, put_core_weights
from .label_words import LabelWordModel
from .load import load_pretrained
from .model import PretrainedModel
from .sites import image_part, image_positions
from .swap import Swap, swap_attention
from .tokenizer import has_tokenizer, load_tokenizer

_NO_TEACHER = "the checkpoint is a converted model, and does not hold the softmax model that it was converted from"


def build_pretrained(
    folder: Path,
    backbone: Backbone,
    settings: Settings,
    shape: ModelShape,
    mechanisms: Mechanisms,
    *,
    seed: int,
    precision: Precision,
    in_host_memory: bool = False,
    trust_remote_code: bool = False,
) -> ModelAdapter[PretrainedModel]:
    """A pretrained model with softmax attention on our kernels, or a converted model with its own attention.

    Args:
        folder: Folder with config.json, safetensors and tokenizer files.
        backbone: The declaration of the model in `folder`.
        settings: The backbone's settings.
        shape: The inputs and outputs that the task needs. A classifier gets a new head if the checkpoint's head does
            not fit.
        mechanisms: Mechanisms by name, to find the mechanism of a converted checkpoint.
        seed: Seed of a new head, and of maps that draw random numbers.
        precision: Device and autocast type.
        in_host_memory: Keep the weights in host memory, as distillation in blocks of layers needs.
        trust_remote_code: Run code from the checkpoint.

    Raises:
        CheckpointError: The checkpoint cannot be loaded.
        UnsupportedError: The model cannot do what the shape needs.
        ValueError: A converted checkpoint names a mechanism or an option that is unknown.
    """
    backbone.check(shape)
    inner, head_note, has_own_head = load_pretrained(
        folder,
        num_classes=shape.num_classes,
        labels=() if shape.label_words else shape.labels,
        masked_words=bool(shape.label_words),
        weights_dtype=DTYPES[str(settings["weights"])],
        device=torch.device("cpu") if in_host_memory else precision.device,
        seed=seed,
        trust_remote_code=trust_remote_code,
    )
    if settings["gradient_checkpointing"]:
        checkpoint_activations(inner)
    shape = with_positions(shape, inner)
    converted = conversion_of(folder)
    spec = parse_spec(converted["model"] if converted else SOFTMAX.name, mechanisms)
    length = int(converted["context_length"]) if converted else shape.context_length
    swap = swap_attention(inner, spec, context_length=length, seed=seed)
    if converted:
        put_core_weights(swap, folder)
    missing = "" if spec.mechanism.name == SOFTMAX.name else _NO_TEACHER
    model = _model(inner, swap, separator_of(folder, inner.config), missing, shape)
    check_inputs(inner, model.last_position, backbone, shape)
    return ModelAdapter(
        model.eval(), backbone.capabilities, shape, precision, head_note=head_note, has_own_head=has_own_head
    )


def _model(
    inner: PreTrainedModel, swap: Swap, separator: int | None, no_teacher: str, shape: ModelShape
) -> PretrainedModel:
    if not shape.label_words:
        return PretrainedModel(inner, swap, separator, no_teacher)
    assert shape.mask_token is not None
    return LabelWordModel(inner, swap, separator, no_teacher, words=shape.label_words, mask_token=shape.mask_token)


def checkpoint_activations(model: Any) -> None:
    """Makes a model of transformers recompute activations in the backward pass instead of keeping them."""
    enable = getattr(model, "activation_checkpointing_enable", None) or model.gradient_checkpointing_enable
    enable({"use_reentrant": False})


def with_positions(shape: ModelShape, inner: PreTrainedModel) -> ModelShape:
    """The shape; of a model of images, with the positions of its patches and of tokens such as a class token."""
    if image_part(inner.config) is None:
        return shape
    return replace(shape, context_length=image_positions(inner))


def check_inputs(inner: PreTrainedModel, last_position: int | None, backbone: Backbone, shape: ModelShape) -> None:
    """Refuses inputs that the model cannot read.

    Args:
        inner: The model.
        last_position: Number of its learned positions; None for positions without an end.
        backbone: Its declaration.
        shape: The task's inputs.

    Raises:
        UnsupportedError: The inputs are of another kind, size or length, or have more token ids.
    """
    images = image_part(inner.config)
    if (images is not None) != (shape.image_size is not None):
        raise UnsupportedError(f"backbone {backbone.name} takes only {'tokens' if images is None else 'images'}")
    if images is not None and (shape.image_size, shape.channels) != (images.image_size, images.num_channels):
        raise UnsupportedError(
            f"backbone {backbone.name} takes images of {images.image_size} pixels and {images.num_channels} channels; "
            f"the task's have {shape.image_size} and {shape.channels}"
        )
    if last_position is not None and shape.context_length > last_position:
        raise UnsupportedError(
            f"backbone {backbone.name} has {last_position} positions; the task's context length is "
            f"{shape.context_length} (set context_length or max_length to at most {last_position})"
        )
    config: Any = inner.config
    if shape.vocab_size is not None and shape.vocab_size > config.vocab_size:
        raise UnsupportedError(
            f"backbone {backbone.name} has {config.vocab_size} token ids; the task's tokenizer has {shape.vocab_size} "
            "(set tokenizer=backbone; if it is set, tokenizer files name special tokens that the model does not have)"
        )


def separator_of(folder: Path, config: Any) -> int | None:
    """Id of the token that ends a segment, if the model tells two segments apart."""
    if getattr(config, "type_vocab_size", 0) < 2 or not has_tokenizer(folder):
        return None
    found: int | None = load_tokenizer(folder).sep_token_id
    return found
