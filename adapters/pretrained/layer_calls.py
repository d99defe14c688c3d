"""Runs some layers of a pretrained Transformer without the others.

The other arguments of a layer than hidden states (masks, positions, rotary embeddings) are those that the model passes
to its first layer, so nothing here depends on an architecture. Models that pass others to later layers are refused.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from contextlib import ExitStack, suppress
from dataclasses import dataclass, replace
from typing import Any

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn
from transformers import PreTrainedModel

from ..attention.core import map_tensors
from ..base import UnsupportedError
from .load import available_bytes
from .model import PretrainedModel
from .sites import example_inputs
from .swap import attention_layers


@dataclass(frozen=True)
class LayerCall:
    """The arguments of a layer; all but the hidden states are the same for every layer.

    Attributes:
        hidden: Hidden states, the layer's first argument.
        args: Its other arguments.
        kwargs: Its named arguments.
    """

    hidden: Float[Tensor, "b m w"]
    args: tuple[Any, ...]
    kwargs: dict[str, Any]

    def on(self, device: torch.device) -> LayerCall:
        """The same call with all its tensors on `device`."""
        moved: LayerCall = map_tensors(self, lambda tensor: tensor.to(device))
        return moved


class LayerBlock(nn.Module):
    """Consecutive layers of a model, as a model of their own.

    It stays in evaluation mode, without dropout: its layers are frozen, and the inputs of later blocks are computed
    once.

    Args:
        layers: The layers, which the model shares.
    """

    def __init__(self, layers: Iterable[nn.Module]) -> None:
        super().__init__()
        self.layers = nn.ModuleList(layers)
        self.eval()

    def train(self, mode: bool = True) -> LayerBlock:
        """Stays in evaluation mode."""
        del mode
        super().train(False)
        return self

    def forward(self, call: LayerCall) -> Float[Tensor, "b m w"]:
        """Hidden states after the last of the layers."""
        for layer in self.layers:
            out = layer(call.hidden, *call.args, **call.kwargs)
            call = replace(call, hidden=out[0] if isinstance(out, tuple) else out)
        return call.hidden


class _FirstLayerReachedError(Exception):
    """Ends a forward pass when its first layer is called."""


def layers_of(model: PreTrainedModel) -> list[nn.Module]:
    """The layers of a model, first to last: the list of modules that hold one attention layer each.

    Raises:
        UnsupportedError: The model has no such list.
    """
    attention = attention_layers(model)
    for part in model.modules():
        if not isinstance(part, nn.ModuleList) or len(part) != len(attention):
            continue
        if all(any(inner is own for inner in layer.modules()) for layer, own in zip(part, attention, strict=True)):
            return list(part)
    raise UnsupportedError(
        f"{type(model).__name__} does not keep its {len(attention)} layers in one list, so they cannot be distilled "
        "some at a time; set distill.block_layers=0"
    )


@torch.no_grad()
def require_equal_calls(model: PretrainedModel, layers: Sequence[nn.Module]) -> None:
    """Runs the model on two tokens, or on an image, and compares the arguments of its layers.

    Raises:
        UnsupportedError: A layer gets other tensors beside hidden states than the first, as in models whose layers with
            a sliding window have rotary embeddings of their own.
    """
    beside: list[list[Tensor]] = []

    def note(_: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        beside.append([])

        def collect(tensor: Tensor) -> Tensor:
            beside[-1].append(tensor)
            return tensor

        map_tensors((args[1:], kwargs), collect)

    with ExitStack() as hooks:
        for layer in layers:
            hooks.callback(layer.register_forward_pre_hook(note, with_kwargs=True).remove)
        with model.teaching(lambda *_: None):
            model.hidden(*example_inputs(model.inner, rows=1, tokens=2))
    for index, found in enumerate(beside):
        if len(found) != len(beside[0]) or not all(map(torch.equal, found, beside[0])):
            raise UnsupportedError(
                f"{type(model.inner).__name__} calls its layer {index} with other arguments than layer 0, so its "
                "layers cannot be distilled some at a time; set distill.block_layers=0"
            )


@torch.no_grad()
def first_call(model: PretrainedModel, first: nn.Module, inputs: Tensor, mask: Bool[Tensor, "b n"] | None) -> LayerCall:
    """The arguments that `model` passes to its `first` layer; no layer runs, only the embeddings.

    Args:
        model: The model.
        first: Its first layer.
        inputs: Token ids or images, on the device of the embeddings.
        mask: True at real tokens.
    """
    calls: list[LayerCall] = []

    def stop(_: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        calls.append(LayerCall(args[0], args[1:], kwargs))
        raise _FirstLayerReachedError

    hook = first.register_forward_pre_hook(stop, with_kwargs=True)
    try:
        with suppress(_FirstLayerReachedError):
            model.hidden(inputs, mask)
    finally:
        hook.remove()
    return calls[0]


def move_to(model: nn.Module, device: torch.device) -> None:
    """Moves a model to `device`.

    Raises:
        UnsupportedError: The model does not fit.
    """
    needed = sum(weight.nbytes for weight in model.parameters() if weight.device.type != device.type)
    if needed and needed > (free := available_bytes(device)):
        raise UnsupportedError(
            f"the model's weights need {needed / 1e9:.2f} GB, and {device} has {free / 1e9:.2f} GB free; it can be "
            "distilled there with distill.block_layers, but not trained further or measured: hold its weights in "
            "bfloat16 (backbone.weights=bfloat16), or use a larger device"
        )
    model.to(device)
