"""Memory of a call: its peak, the activations that autograd keeps, the process's own peak, and limits.

CUDA's allocator counts peaks of tensors itself. On the CPU torch keeps no count, so every operator's outputs are
watched: a storage counts from the operator that made it until it is freed. Memory that an operator allocates and frees
internally (a matrix product's packing buffers, for example) is not seen, and neither is Python's own, so numbers of the
two devices do not compare.
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
from typing import Any

from ..heavy import torch


@dataclass(frozen=True)
class Peak:
    """Peak memory of a call.

    Attributes:
        allocated_bytes: Most bytes of tensors alive at once, less those alive before.
        reserved_bytes: Most bytes that CUDA's caching allocator held, the model's included; None on the CPU.
        before_bytes: Bytes of tensors alive before, by CUDA's allocator; None on the CPU.
    """

    allocated_bytes: int
    reserved_bytes: int | None = None
    before_bytes: int | None = None


@dataclass
class _LiveStorages:
    """Bytes of the storages that were made since this object was, and are still alive."""

    bytes: int = 0
    peak_bytes: int = 0
    known: dict[int, int] = field(default_factory=dict)

    def note(self, tree: Any, *, made_here: bool) -> None:
        """Counts the tensors in a nest of tuples, lists and dicts."""
        for tensor in _tensors(tree):
            storage = tensor.untyped_storage()
            if storage._cdata not in self.known:
                size = storage.nbytes() if made_here else 0
                self.known[storage._cdata] = size
                self.bytes += size
                weakref.finalize(storage, self._free, storage._cdata)
        self.peak_bytes = max(self.peak_bytes, self.bytes)

    def _free(self, key: int) -> None:
        self.bytes -= self.known.pop(key, 0)


def peak_memory(call: Callable[[], object], device: torch.device) -> Peak:
    """Peak memory of `call()`; on CUDA, call it once before so that lazily made workspaces exist."""
    return _peak_on_cuda(call) if device.type == "cuda" else _peak_on_cpu(call)


def saved_bytes(call: Callable[[], object]) -> int:
    """Bytes that autograd keeps for the backward pass of `call()`: its activations, without parameters.

    A storage counts once, however many views of it are kept, and not at all if a parameter owns it. All are held from
    the forward pass to the backward pass, so no address stands for two storages.
    """
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
    """Most bytes of memory that this process has held so far, by the kernel's count; None if it keeps none."""
    return _process_bytes("VmHWM")


@contextmanager
def memory_limit(limit_bytes: int, device: torch.device) -> Iterator[None]:
    """Limits what the block may allocate; 0 for no limit.

    On the CPU the limit is added to the memory that the process has now. It applies to writable memory, so that a
    request fails at once; systems that promise more memory than they have would grant it and kill the process later.
    On CUDA the limit covers the whole process; a limit above the device's memory has no effect.
    """
    if not limit_bytes:
        yield
    elif device.type == "cuda":
        total = torch.cuda.get_device_properties(device).total_memory
        torch.cuda.set_per_process_memory_fraction(min(1.0, limit_bytes / total), device)
        try:
            yield
        finally:
            torch.cuda.set_per_process_memory_fraction(1.0, device)
    else:
        before = resource.getrlimit(resource.RLIMIT_DATA)
        held = _process_bytes("VmData")
        assert held is not None
        ceilings = [ceiling for ceiling in before if ceiling != resource.RLIM_INFINITY]
        resource.setrlimit(resource.RLIMIT_DATA, (min([held + limit_bytes, *ceilings]), before[1]))
        try:
            yield
        finally:
            resource.setrlimit(resource.RLIMIT_DATA, before)


def _process_bytes(name: str) -> int | None:
    """A size in /proc/self/status; None if there is none."""
    status = Path("/proc/self/status")
    found = re.search(rf"{name}:\s*(\d+) kB", status.read_text(encoding="utf-8")) if status.exists() else None
    return int(found[1]) * 1024 if found else None


def _peak_on_cuda(call: Callable[[], object]) -> Peak:
    torch.cuda.synchronize()
    torch.cuda.empty_cache()
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    call()
    torch.cuda.synchronize()
    return Peak(torch.cuda.max_memory_allocated() - before, torch.cuda.max_memory_reserved(), before)


def _peak_on_cpu(call: Callable[[], object]) -> Peak:
    dispatch: Any = importlib.import_module("torch.utils._python_dispatch")

    live = _LiveStorages()

    class Watch(dispatch.TorchDispatchMode):  # type: ignore[misc]
        def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            live.note((args, kwargs), made_here=False)
            outputs = func(*args, **(kwargs or {}))
            live.note(outputs, made_here=True)
            return outputs

    with Watch():
        call()
    return Peak(live.peak_bytes)


def _tensors(tree: Any) -> Iterable[torch.Tensor]:
    from torch.utils._pytree import tree_leaves

    return [leaf for leaf in tree_leaves(tree) if isinstance(leaf, torch.Tensor)]
