"""Batches of token rows of different lengths: padded, the longest rows first, on a model's device."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any, TypeAlias

from ...adapters.base import Adapter
from ..heavy import NDArray, Tensor, np, torch

TokenIds: TypeAlias = "NDArray[np.int32]"
Batch: TypeAlias = "tuple[NDArray[Any], NDArray[np.bool_] | None]"
"""Token ids, and a mask that is True at real tokens; None where all are real."""


def pad_rows(rows: Sequence[TokenIds]) -> tuple[TokenIds, NDArray[np.bool_]]:
    """Token ids `[rows, n]`, padded with 0 on the right to the longest row, and a mask that is True at real tokens."""
    lengths = np.array([len(row) for row in rows], np.int64)
    mask = np.arange(lengths.max(initial=0)) < lengths[:, None]
    ids = np.zeros(mask.shape, np.int32)
    if rows:
        ids[mask] = np.concatenate(rows)
    return ids, mask


def pad_left(rows: Sequence[TokenIds]) -> tuple[TokenIds, NDArray[np.bool_]]:
    """As `pad_rows`, but padded on the left."""
    ids, mask = pad_rows([row[::-1] for row in rows])
    return ids[:, ::-1].copy(), mask[:, ::-1].copy()


def model_inputs(adapter: Adapter, batch: Batch) -> tuple[Tensor, Tensor | None]:
    """A batch as tensors on the model's device; the mask is None where all tokens are real."""
    ids, mask = batch
    attention_mask = None if mask is None or mask.all() else torch.as_tensor(mask, device=adapter.device)
    return torch.as_tensor(ids, dtype=torch.long, device=adapter.device), attention_mask


def batches_by_length(
    adapter: Adapter, lengths: Sequence[int], batch_size: int, batch_of: Callable[[NDArray[np.intp]], Batch]
) -> Iterator[tuple[NDArray[np.intp], Tensor, Tensor | None]]:
    """Batches of rows of similar length, the longest first, so that a batch too large for memory fails at once.

    Args:
        adapter: The model that reads the batches.
        lengths: Tokens of each row.
        batch_size: Rows per batch.
        batch_of: Makes the batch of the rows with these indices.

    Yields:
        The indices of a batch's rows, its token ids and its mask, as `model_inputs` returns them.
    """
    order = np.argsort(-np.asarray(lengths), kind="stable")
    for start in range(0, len(order), batch_size):
        chosen = order[start : start + batch_size]
        yield chosen, *model_inputs(adapter, batch_of(chosen))


def batched_logits(
    adapter: Adapter, lengths: Sequence[int], batch_size: int, batch_of: Callable[[NDArray[np.intp]], Batch]
) -> NDArray[np.float32]:
    """Class logits `[rows, classes]` in the order of the rows; arguments as in `batches_by_length`.

    Raises:
        FloatingPointError: The model gives a logit that is not finite.
    """
    order: list[int] = []
    parts = []
    for chosen, ids, mask in batches_by_length(adapter, lengths, batch_size, batch_of):
        order.extend(chosen)
        parts.append(adapter.class_logits(ids, mask).float().cpu().numpy())
    logits: NDArray[np.float32] = np.concatenate(parts)[np.argsort(order)]
    if broken := int((~np.isfinite(logits)).any(axis=1).sum()):
        raise FloatingPointError(f"the model gives {broken} of {len(lengths)} rows a logit that is not finite")
    return logits
