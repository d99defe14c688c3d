"""Peak bytes of tensors that a call allocates: the allocator's own count on CUDA, an exact count on the CPU.

On the CPU torch keeps no count. There every operator's outputs are watched: a storage counts from the operator that
made it until it is freed. Memory that an operator takes and gives back within itself is not seen (a matrix product's
packing buffers, say), and neither is Python's own; so numbers of the two devices do not compare.
"""

from __future__ import annotations

import importlib
import weakref
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch


@dataclass(frozen=True)
class Peak:
    """Peak memory of a call.

    Attributes:
        allocated_bytes: Most bytes of tensors alive at once, less what was alive before.
        reserved_bytes: Most bytes that CUDA's caching allocator held, the model's included; None on the CPU.
    """

    allocated_bytes: int
    reserved_bytes: int | None


@dataclass
class _LiveStorages:
    """Bytes of the storages that were made since this object was, and are still alive."""

    bytes: int = 0
    peak_bytes: int = 0
    known: dict[int, int] = field(default_factory=dict)

    def note(self, tensors: Iterable[torch.Tensor], made_here: bool) -> None:
        for tensor in tensors:
            storage = tensor.untyped_storage()
            if storage._cdata in self.known:
                continue
            size = storage.nbytes() if made_here else 0
            self.known[storage._cdata] = size
            self.bytes += size
            weakref.finalize(storage, self._free, storage._cdata)
        self.peak_bytes = max(self.peak_bytes, self.bytes)

    def _free(self, key: int) -> None:
        self.bytes -= self.known.pop(key, 0)


def peak_memory(call: Callable[[], object], device: torch.device) -> Peak:
    """Peak memory of `call()` on a device; on CUDA call it once before, so that lazily made workspaces exist."""
    return _peak_on_cuda(call) if device.type == "cuda" else Peak(_peak_on_cpu(call), None)


def _peak_on_cuda(call: Callable[[], object]) -> Peak:
    import torch

    torch.cuda.synchronize()
    torch.cuda.empty_cache()
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    call()
    torch.cuda.synchronize()
    return Peak(torch.cuda.max_memory_allocated() - before, torch.cuda.max_memory_reserved())


def _peak_on_cpu(call: Callable[[], object]) -> int:
    dispatch: Any = importlib.import_module("torch.utils._python_dispatch")

    live = _LiveStorages()

    class Watch(dispatch.TorchDispatchMode):  # type: ignore[misc]
        def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            live.note(_tensors((args, kwargs)), made_here=False)
            outputs = func(*args, **(kwargs or {}))
            live.note(_tensors(outputs), made_here=True)
            return outputs

    with Watch():
        call()
    return live.peak_bytes


def _tensors(tree: Any) -> list[torch.Tensor]:
    import torch
    from torch.utils._pytree import tree_leaves

    return [leaf for leaf in tree_leaves(tree) if isinstance(leaf, torch.Tensor)]
