"""Rows of attention fidelity: measures of each layer and head over a text, and weights of a few heads for plots."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from ..adapters.base import Adapter, AttentionMaps, UnsupportedError
from .attention_measures import check_weights, compare_maps
from .base import Row

if TYPE_CHECKING:
    import numpy as np
    import torch
    from numpy.typing import NDArray

WEIGHTS = "weights"
"""Key of the rows that hold weights for plots, and of those weights in them."""

_SAMPLED_LAYERS, _SAMPLED_HEADS = 3, 4


def measured_rows(adapter: Adapter, tokens: NDArray[np.int32], at: Row) -> list[Row]:
    """A row for each layer and head of one window of text; one that says why where they cannot be had.

    Args:
        adapter: The model.
        tokens: The window.
        at: What each row says of where it was measured.
    """
    found: list[Row] = []

    def visit(layer: int, maps: AttentionMaps) -> None:
        measured = {name: values.tolist() for name, values in compare_maps(maps).items()}
        found.extend(
            {**at, "status": "ok", "layer": layer, "head": head, **{n: values[head] for n, values in measured.items()}}
            for head in range(maps.softmax.shape[1])
        )

    try:
        adapter.compare_attention(_inputs(adapter, tokens), visit)
    except UnsupportedError as error:
        return [unsupported_row(at, str(error))]
    return found


def unsupported_row(at: Row, reason: str) -> Row:
    """The row of a place where nothing can be measured."""
    return {**at, "status": "unsupported", "reason": reason}


def sampled_rows(adapter: Adapter, tokens: NDArray[np.int32], at: Row) -> Iterator[Row]:
    """Weights of a few heads of a few layers, spread evenly: for each query those of the keys it sees, in order.

    A model that has no place for the tokens, or whose weights are no distributions, has no sample; the rows of its
    measures say why.
    """
    layers: list[AttentionMaps] = []

    def visit(_: int, maps: AttentionMaps) -> None:
        check_weights(maps.weights)
        layers.append(maps)

    try:
        if len(tokens):
            adapter.compare_attention(_inputs(adapter, tokens), visit)
    except UnsupportedError:
        return
    for layer in _spread(len(layers), _SAMPLED_LAYERS):
        maps = layers[layer]
        for head in _spread(maps.softmax.shape[1], _SAMPLED_HEADS):
            seen = maps.products[0, head] > -float("inf")
            kept = {WEIGHTS: maps.weights, "softmax": maps.softmax, "products": maps.products}
            rounded = {name: _ragged(values[0, head], seen) for name, values in kept.items()}
            yield {**at, "layer": layer, "head": head, **rounded}


def _inputs(adapter: Adapter, tokens: NDArray[np.int32]) -> torch.Tensor:
    import torch

    return torch.as_tensor(tokens, dtype=torch.long, device=adapter.device)[None]


def _spread(count: int, most: int) -> list[int]:
    """Up to `most` of `count` places, from the first to the last."""
    taken = min(count, most)
    return [round(i * (count - 1) / max(1, taken - 1)) for i in range(taken)]


def _ragged(values: torch.Tensor, seen: torch.Tensor) -> list[list[float]]:
    return [[float(f"{value:.4g}") for value in row[mask].tolist()] for row, mask in zip(values, seen, strict=True)]
