"""Windows of text or images and their rows: measures of each layer and head, and weights of a few heads for plots."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, NamedTuple

from ...adapters.base import Adapter, AttentionMaps, PixelInputs, UnsupportedError
from ..base import Row
from ..data.batches import model_inputs
from ..heavy import NDArray, Tensor, np, torch
from .measures import check_weights, compare_maps

WEIGHTS = "weights"
"""Key under which rows for plots hold weights; rows of measures lack it."""

_SAMPLED_LAYERS, _SAMPLED_HEADS = 3, 4


class Window(NamedTuple):
    """Rows of text, or images, that are measured together; standard errors are taken over windows.

    Attributes:
        inputs: Token ids `[rows, n]`, or stored pixels `[rows, channels, height, width]`.
        mask: True at real tokens, `[rows, n]`; None where all are real.
        pixels: How pixels become inputs; None for tokens.
    """

    inputs: NDArray[Any]
    mask: NDArray[np.bool_] | None = None
    pixels: PixelInputs | None = None

    def on(self, adapter: Adapter) -> tuple[Tensor, Tensor | None]:
        """The model's inputs and mask, on its device."""
        if self.pixels is None:
            return model_inputs(adapter, (self.inputs, self.mask))
        return self.pixels.normalised(torch.as_tensor(self.inputs, device=adapter.device)), None

    def sample(self, most: int) -> Window | None:
        """The first `most` tokens of the longest row; None for none."""
        lengths = (np.ones_like(self.inputs) if self.mask is None else self.mask).sum(1)
        longest = int(lengths.argmax())
        return Window(self.inputs[longest : longest + 1, : min(most, int(lengths[longest]))]) if most else None


@dataclass(frozen=True)
class CorpusWindows:
    """Windows of one corpus at one length.

    Attributes:
        corpus: Name of the corpus.
        seq_len: Most tokens of a row.
        windows: The windows; may be empty.
        reason: Why there are none; used only if `windows` is empty.
    """

    corpus: str
    seq_len: int
    windows: tuple[Window, ...]
    reason: str


def measured_rows(adapter: Adapter, corpus: CorpusWindows) -> Iterator[Row]:
    """A row for each window, layer and head; a window that cannot be measured has one row with the reason."""
    at = {"corpus": corpus.corpus, "seq_len": corpus.seq_len}
    if not corpus.windows:
        yield _unsupported({**at, "window": 0}, corpus.reason)
    for i, window in enumerate(corpus.windows):
        yield from _rows_of_window(adapter, window, {**at, "window": i})


def _rows_of_window(adapter: Adapter, window: Window, at: Row) -> list[Row]:
    inputs, mask = window.on(adapter)
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


def sampled_rows(adapter: Adapter, window: Window, at: Row) -> Iterator[Row]:
    """Weights of a few heads of a few layers, spread evenly: for each query the weights of the keys it sees, in order.

    There is no row if the model has no room for the tokens or a weight is negative; the rows of measures say why.

    Args:
        adapter: The model.
        window: One row.
        at: Corpus and tokens.
    """
    layers: list[AttentionMaps] = []
    inputs, _ = window.on(adapter)

    def visit(_: int, maps: AttentionMaps) -> None:
        check_weights(maps.weights)
        layers.append(maps)

    try:
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
