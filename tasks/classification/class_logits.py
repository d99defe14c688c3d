"""Class logits of many rows of different lengths, batch by batch."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, TypeAlias

from ...adapters.base import Adapter

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    Batch: TypeAlias = tuple[NDArray[Any], NDArray[np.bool_] | None]
    """Token ids, and a mask that is True at real ones; None where all are real."""


def batched_logits(
    adapter: Adapter, lengths: Sequence[int], batch_size: int, batch_of: Callable[[NDArray[np.intp]], Batch]
) -> NDArray[np.float32]:
    """Class logits `[rows, classes]` in the order of the rows.

    Batches hold rows of like length; the longest come first, so that what does not fit in memory fails at once.

    Args:
        adapter: A classifier.
        lengths: Tokens of each row.
        batch_size: Rows per forward pass.
        batch_of: Gives the inputs of the rows with these indices.

    Raises:
        FloatingPointError: The model gives a logit that is not finite.
    """
    import numpy as np
    import torch

    order = np.argsort(-np.asarray(lengths), kind="stable")
    parts = []
    for start in range(0, len(lengths), batch_size):
        ids, mask = batch_of(order[start : start + batch_size])
        inputs = torch.as_tensor(ids, dtype=torch.long, device=adapter.device)
        attention_mask = None if mask is None or mask.all() else torch.as_tensor(mask, device=adapter.device)
        parts.append(adapter.class_logits(inputs, attention_mask).float().cpu().numpy())
    logits: NDArray[np.float32] = np.concatenate(parts)[np.argsort(order)]
    if broken := int((~np.isfinite(logits)).any(axis=1).sum()):
        raise FloatingPointError(f"the model gives {broken} of {len(lengths)} rows a logit that is not finite")
    return logits
