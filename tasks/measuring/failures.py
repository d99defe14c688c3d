"""What an exception means for a measurement: a limit that was met, which is a result, or a mistake."""

from __future__ import annotations

import gc

from ...adapters.base import UnsupportedError
from ...results.record import Status
from ..heavy import torch

ENDS_A_CLIMB: frozenset[Status] = frozenset({"oom", "timeout"})
"""Statuses that a longer sequence or a larger batch cannot improve."""

_OUT_OF_MEMORY = ("DefaultCPUAllocator", "Cannot allocate memory", "CUDA out of memory", "CUBLAS_STATUS_ALLOC_FAILED")
_NO_KERNEL = ("No available kernel", "No viable backend for scaled_dot_product_attention")
_NO_COMPILER = frozenset({"InvalidCxxCompiler", "TritonMissing", "GPUTooOldForTriton"})


def failure_status(error: Exception) -> Status | None:
    """The status of a measurement that raised `error`; None if the error is a mistake rather than a limit.

    torch raises a plain RuntimeError when the CPU's memory runs out and when a pinned attention kernel cannot run; the
    texts identify these. The types of a missing compiler's errors are private; their names identify them.
    """
    text = str(error)
    names = {kind.__name__ for cause in (error, error.__cause__) for kind in type(cause).__mro__}
    if isinstance(error, UnsupportedError | NotImplementedError) or names & _NO_COMPILER:
        return "unsupported"
    if isinstance(error, TimeoutError):
        return "timeout"
    if isinstance(error, MemoryError | torch.OutOfMemoryError):
        return "oom"
    if isinstance(error, RuntimeError | OSError) and any(words in text for words in _OUT_OF_MEMORY):
        return "oom"
    if isinstance(error, RuntimeError) and any(words in text for words in _NO_KERNEL):
        return "unsupported"
    return None


def release_memory() -> None:
    """Returns freed memory to the device, so that the next measurement starts afresh."""
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
