"""The layer of `native`, which does not exist: the mechanism is a whole model."""

from __future__ import annotations

from ..base import UnsupportedError
from .core import AttentionCore


class NativeAttention(AttentionCore):
    """What is refused where a layer of `native` is asked for.

    Raises:
        UnsupportedError: Always.
    """

    def __init__(self) -> None:
        raise UnsupportedError(
            "native measures a whole pretrained model of transformers as it is, so there is no layer to build; choose "
            "a pretrained backbone, such as hf:ID_OR_FOLDER, and a task that measures a model"
        )
