"""Bytes that a call allocates: peaks of tensors, what is kept for the backward pass, the process's own, and limits.

Peaks of tensors are the allocator's own count on CUDA, an exact count on the CPU.

On the CPU torch keeps no count. There every operator's outputs are watched: a storage counts from the operator that
made it until it is freed. Memory that an operator takes and gives back within itself is not seen (a matrix product's
packing buffers, say), and neither is Python's own; so numbers of the two devices do not compare.
"""

from __future__ import annotations

import importlib
import re
import resource
import weakref
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch


@dataclass(frozen=True)
class Peak:
    """Peak memory of a call.

    Attributes:
        allocated_bytes: Most bytes of tensors alive at once, less what was alive before.
        reserved_bytes: Most bytes that CUDA's caching allocator held, the model's included; None on the CPU.
        before_bytes: Bytes of tensors alive before, as CUDA's allocator counts them; None on the CPU.
    """

    allocated_bytes: int
    reserved_bytes: int | None
    before_bytes: int | None = None


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


def saved_bytes(call: Callable[[], object]) -> int:
    """Bytes that autograd keeps for the backward pass of `call()`: its activations, without parameters.

    Storages are counted once however many views of them are kept, and none that a parameter is a view of. They are all
    held from the forward pass to the backward pass, so no address is counted for two.
    """
    import torch

    kept: dict[int, int] = {}

    def pack(tensor: torch.Tensor) -> torch.Tensor:
        owner = tensor if tensor._base is None else tensor._base
        if not isinstance(owner, torch.nn.Parameter):
            storage = tensor.untyped_storage()
            kept[storage.data_ptr()] = storage.nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        call()
    return sum(kept.values())


def peak_resident_bytes() -> int | None:
    """Most bytes that this process has had in memory so far, by the kernel's count; None where it does not tell."""
    status = Path("/proc/self/status")
    found = re.search(r"VmHWM:\s*(\d+) kB", status.read_text(encoding="utf-8")) if status.exists() else None
    return int(found[1]) * 1024 if found else None


@contextmanager
def memory_limit(limit_bytes: int, device: torch.device) -> Iterator[None]:
    """Lets the block allocate so many bytes; 0 for no limit.

    On the CPU they come on top of what the process has now, and writable memory is what counts, so that a request is
    refused rather than granted and then met by a kill, as systems do that promise more memory than they have. On CUDA
    they are all of this process's; a limit above the device's own memory is none.
    """
    if not limit_bytes:
        yield
        return
    if device.type == "cuda":
        import torch

        total = torch.cuda.get_device_properties(device).total_memory
        torch.cuda.set_per_process_memory_fraction(min(1.0, limit_bytes / total), device)
        try:
            yield
        finally:
            torch.cuda.set_per_process_memory_fraction(1.0, device)
        return
    before = resource.getrlimit(resource.RLIMIT_DATA)
    wanted = _writable_bytes() + limit_bytes
    ceilings = [ceiling for ceiling in before if ceiling != resource.RLIM_INFINITY]
    resource.setrlimit(resource.RLIMIT_DATA, (min([wanted, *ceilings]), before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_DATA, before)


def _writable_bytes() -> int:
    found = re.search(r"VmData:\s*(\d+) kB", Path("/proc/self/status").read_text(encoding="utf-8"))
    assert found is not None
    return int(found[1]) * 1024


def _peak_on_cuda(call: Callable[[], object]) -> Peak:
    import torch

    torch.cuda.synchronize()
    torch.cuda.empty_cache()
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    call()
    torch.cuda.synchronize()
    return Peak(torch.cuda.max_memory_allocated() - before, torch.cuda.max_memory_reserved(), before)


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
