"""The hidden neurons of a model's MLPs, found by the names of the projections that read them."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from functools import partial
from typing import Any

from torch import Tensor, nn

from .attention_model import AttentionModel
from .base import UnsupportedError

_LAST_PROJECTION = re.compile(r"(^|\.)mlp\.(down_proj|c_proj|fc2|2)$|(^|\.)layers?\.\d+\.output\.dense$")
"""Names of the last projection: of Llama and its kin, GPT-2, ViT, models trained from scratch, and BERT."""


@contextmanager
def watching_mlps(model: AttentionModel, visit: Callable[[int, Tensor], None]) -> Iterator[None]:
    """Calls `visit` with each layer's index and the inputs of its MLP's last projection, while the block lasts.

    Raises:
        UnsupportedError: Not every layer has such a projection.
    """
    found = [part for name, part in model.named_modules() if _LAST_PROJECTION.search(name)]
    if len(found) != len(model.cores):
        raise UnsupportedError(f"{len(found)} MLPs were found in a model of {len(model.cores)} layers")
    with ExitStack() as hooks:
        for layer, projection in enumerate(found):
            hooks.callback(projection.register_forward_pre_hook(partial(_visited, visit, layer)).remove)
        yield


def _visited(visit: Callable[[int, Tensor], None], layer: int, _: nn.Module, inputs: tuple[Any, ...]) -> None:
    visit(layer, inputs[0].float())
