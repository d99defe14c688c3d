"""Sweeps over sequence length: inputs, the climb from short to long, and what stops it."""

from __future__ import annotations

import gc
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING

from ..adapters.base import Adapter, UnsupportedError
from ..results.record import DataIdentity, Status
from .base import Row

if TYPE_CHECKING:
    from torch import Tensor

VOCAB_SIZE = 256
"""Entries of the vocabulary: small, so that the output layer does not hide the attention."""

_CPU_ALLOCATOR = "DefaultCPUAllocator"


def identity(name: str) -> DataIdentity:
    """The random tokens that a sweep reads; their values do not matter."""
    return DataIdentity(id=name, revision="1", fingerprint=f"uniform tokens below {VOCAB_SIZE}", source="generated")


def random_tokens(adapter: Adapter, batch_size: int, seq_len: int) -> Tensor:
    """Uniform token ids `[batch_size, seq_len]` on the adapter's device, the same for every model."""
    import torch

    generator = torch.Generator().manual_seed(seq_len)
    return torch.randint(0, VOCAB_SIZE, (batch_size, seq_len), generator=generator).to(adapter.device)


def climb(mode: str, seq_lens: Sequence[int], batch_size: int, measure: Callable[[int], Row]) -> Iterator[Row]:
    """Rows of one mode from the shortest length to the longest, or to the first that fails.

    A failed point's row holds `status` (`oom`, `unsupported` or `timeout`) and `message`, and ends the climb: what does
    not fit or is too slow at one length will not be better at the next. Other exceptions pass.
    """
    for seq_len in sorted(seq_lens):
        row: Row = {"mode": mode, "seq_len": seq_len, "batch_size": batch_size, "status": "ok"}
        try:
            row |= measure(seq_len)
        except Exception as error:
            status = failure_status(error)
            if status is None:
                raise
            row |= {"status": status, "message": f"{type(error).__name__}: {error}"}
        yield row
        if row["status"] != "ok":
            release_memory()
            return


def failure_status(error: Exception) -> Status | None:
    """What an exception says about a point; None when it is a mistake rather than a limit."""
    import torch

    if isinstance(error, UnsupportedError | NotImplementedError):
        return "unsupported"
    if isinstance(error, TimeoutError):
        return "timeout"
    if isinstance(error, MemoryError | torch.OutOfMemoryError) or _CPU_ALLOCATOR in str(error):
        return "oom"
    return None


def release_memory() -> None:
    """Gives freed memory back to the device, so that what is measured next starts afresh."""
    import torch

    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()


def check_sweep(seq_lens: Sequence[int], modes: str, known_modes: Sequence[str]) -> None:
    """Refuses a sweep without lengths, with lengths below 1, or with unknown modes.

    Raises:
        ValueError: Naming the value and what is allowed.
    """
    if not seq_lens or min(seq_lens) < 1:
        raise ValueError(
            f"seq_lens is {tuple(seq_lens)}; give at least one length, each 1 or more, such as 128,256,512"
        )
    if unknown := [mode for mode in modes.split("+") if mode not in known_modes]:
        raise ValueError(f"modes holds {', '.join(map(repr, unknown))}; join any of {', '.join(known_modes)} by '+'")
