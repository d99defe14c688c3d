"""Rows of attention fidelity: measures of each layer and head over a text, and weights of a few heads for plots."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from ...adapters.base import Adapter, AttentionMaps, UnsupportedError
from ..base import Row
from .measures import check_weights, compare_maps
from .texts import Place, Window

if TYPE_CHECKING:
    import numpy as np
    import torch
    from numpy.typing import NDArray

WEIGHTS = "weights"
"""Key of the rows that hold weights for plots, and of those weights in them."""

_SAMPLED_LAYERS, _SAMPLED_HEADS = 3, 4


def measured_rows(adapter: Adapter, place: Place) -> Iterator[Row]:
    """A row for each window, layer and head of a place; of what cannot be measured, one that says why."""
    at = {"corpus": place.corpus, "seq_len": place.seq_len}
    if place.reason:
        yield _unsupported({**at, "window": 0}, place.reason)
    for i, window in enumerate(place.windows):
        yield from _of_window(adapter, window, {**at, "window": i})


def _of_window(adapter: Adapter, window: Window, at: Row) -> list[Row]:
    import torch

    inputs = torch.as_tensor(window.tokens, dtype=torch.long, device=adapter.device)
    mask = None if window.mask is None else torch.as_tensor(window.mask, device=adapter.device)
    found: list[Row] = []

    def visit(layer: int, maps: AttentionMaps) -> None:
        measured = {name: values.tolist() for name, values in compare_maps(maps, mask).items()}
        found.extend(
            {**at, "status": "ok", "layer": layer, "head": head, **{n: values[head] for n, values in measured.items()}}
            for head in range(maps.softmax.shape[1])
        )

    try:
        adapter.compare_attention(inputs, visit, mask)
    except UnsupportedError as error:
        return [_unsupported(at, str(error))]
    return found


def _unsupported(at: Row, reason: str) -> Row:
    return {**at, "status": "unsupported", "reason": reason}


def sampled_rows(adapter: Adapter, tokens: NDArray[np.int32], at: Row) -> Iterator[Row]:
    """Weights of a few heads of a few layers, spread evenly: for each query those of the keys it sees, in order.

    A model that has no place for the tokens, or whose weights are no distributions, has no sample; the rows of its
    measures say why.
    """
    import torch

    layers: list[AttentionMaps] = []
    inputs = torch.as_tensor(tokens, dtype=torch.long, device=adapter.device)[None]

    def visit(_: int, maps: AttentionMaps) -> None:
        check_weights(maps.weights)
        layers.append(maps)

    try:
        if len(tokens):
            adapter.compare_attention(inputs, visit)
    except UnsupportedError:
        return
    for layer in _spread(len(layers), _SAMPLED_LAYERS):
        maps = layers[layer]
        for head in _spread(maps.softmax.shape[1], _SAMPLED_HEADS):
            seen = maps.products[0, head] > -float("inf")
            kept = {WEIGHTS: maps.weights, "softmax": maps.softmax, "products": maps.products}
            rounded = {name: _ragged(values[0, head], seen) for name, values in kept.items()}
            yield {**at, "layer": layer, "head": head, **rounded}


def _spread(count: int, most: int) -> list[int]:
    """Up to `most` of `count` places, from the first to the last."""
    taken = min(count, most)
    return [round(i * (count - 1) / max(1, taken - 1)) for i in range(taken)]


def _ragged(values: torch.Tensor, seen: torch.Tensor) -> list[list[float]]:
    return [[float(f"{value:.4g}") for value in row[mask].tolist()] for row, mask in zip(values, seen, strict=True)]
