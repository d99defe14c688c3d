"""Models of transformers with swapped attention, for use outside of a run."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

from transformers import PreTrainedModel

from ...adapters.base import Capability, ModelShape
from ...adapters.precision import DTYPES, Precision
from ...adapters.pretrained.adapter import build_pretrained
from ...adapters.pretrained.converted import conversion_of
from ...adapters.pretrained.sites import image_part
from ...adapters.pretrained.weight_files import read_config, transformers_config
from ...results.names import unknown_name
from .. import registry
from ..config import RunConfig
from ..plan import make_sources, resolve_device
from .backbone_names import PREFIX, backbone_from_name
from .locate import locate, materialise

SWAP = "hedgebench_swap"
"""Attribute of a model that holds the `Swap` of its attention."""


def load_model(
    name: str | Path, *, device: str = "auto", dtype: str = "auto", trust_remote_code: bool = False
) -> PreTrainedModel:
    """A converted model as a model of transformers in evaluation mode, with its attention in place.

    `generate`, caches, `Trainer` and all else of transformers work with it. A model that was not converted comes with
    softmax attention on our kernels. A classifier whose checkpoint has no head for its classes gets a new one, with a
    warning.

    Args:
        name: Folder, or id on the Hugging Face hub or in the mirror of `HEDGEBENCH_MIRROR`.
        device: `auto`, `cpu` or `cuda`.
        dtype: Type of the weights: `float32` or `bfloat16`; `auto` for that of the files, or float32 if it is neither.
        trust_remote_code: Run code that comes with the checkpoint.

    Raises:
        CheckpointError: The checkpoint cannot be loaded.
        DataUnavailableError: The checkpoint is found nowhere.
        UnknownNameError: `dtype` is unknown, or `name` is neither a folder nor an id.
        UnsupportedError: The model's attention cannot be swapped.
    """
    sources = make_sources(RunConfig(models=(), tasks=()))
    backbone = backbone_from_name(f"{PREFIX}{name}", sources)
    folder = materialise(locate(backbone, sources, trust_remote_code=trust_remote_code), sources)
    config: Any = transformers_config(folder, trust_remote_code)
    if dtype not in ("auto", *DTYPES):
        raise unknown_name("dtype", dtype, ["auto", *DTYPES])
    stored = str(getattr(config, "dtype", None)).removeprefix("torch.")
    chosen = dtype if dtype != "auto" else stored if stored in DTYPES else "float32"
    converted = conversion_of(folder)
    classes = dict(sorted(config.id2label.items())) if Capability.CLASSIFIER in backbone.capabilities else {}
    shape = ModelShape(
        context_length=int(converted["context_length"]) if converted else 1,
        num_classes=len(classes) or None,
        image_size=getattr(image_part(config), "image_size", None),
        channels=getattr(image_part(config), "num_channels", 1),
        labels=tuple(classes.values()) if "id2label" in read_config(folder) else (),
    )
    adapter = build_pretrained(
        folder,
        backbone,
        {"weights": chosen, "gradient_checkpointing": False},
        shape,
        registry.mechanisms().get,
        seed=0,
        precision=Precision.of(resolve_device(device), "float32"),
        trust_remote_code=trust_remote_code,
    )
    if classes and not adapter.has_own_head:
        warnings.warn(f"{name}: {adapter.head_note}", stacklevel=2)
    setattr(adapter.model.inner, SWAP, adapter.model.swap)
    return adapter.model.inner
