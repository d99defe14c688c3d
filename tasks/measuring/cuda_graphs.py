"""Calls captured as CUDA graphs: one replay starts all that the call starts, whatever that takes the host.

Not every call can be captured. One that waits for the device, that copies from pageable memory, or that runs on another
stream cannot; `try_graph` says why, and the call is then timed as it is.
"""

from __future__ import annotations

import functools
import gc
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch

Call = Callable[[], object]

_EMPTY = "Graph is empty"
"""What torch warns of where nothing ran on the captured stream."""


@contextmanager
def capture_stream(device: torch.device) -> Iterator[None]:
    """Runs the block on the stream that graphs are captured on; on the CPU it just runs.

    autograd runs a backward pass on the stream of its forward pass. So a backward pass that is timed without its
    forward pass can be captured only where that ran in such a block; where it ran elsewhere, it must not be tried.
    """
    if device.type != "cuda":
        yield
        return
    import torch

    stream = _stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):  # goes back to the stream before even where a capture fails half way
        yield
    torch.cuda.current_stream().wait_stream(stream)


def graph_of(call: Call, device: torch.device) -> Call:
    """A call that replays, as one CUDA graph, all that `call` starts; it has to be warm.

    The call is made once before it is captured, on the same stream, so that workspaces exist, and with every
    synchronisation that torch knows of refused: a capture that fails leaves torch's random numbers unusable.

    Raises:
        RuntimeError: The call cannot be captured.
    """
    import torch

    with capture_stream(device):
        with _waiting_refused():
            call()
        graph = torch.cuda.CUDAGraph()
        with _collection_off(), _empty_refused(), torch.cuda.graph(graph, stream=_stream()):
            call()
        graph.replay()  # the first replay also brings the graph to the device
    replay: Call = graph.replay
    return replay


def try_graph(call: Call, device: torch.device) -> tuple[Call | None, str]:
    """The replay of a call's graph; or None, and in words why there is no graph."""
    import torch

    try:
        return graph_of(call, device), ""
    except RuntimeError as error:
        torch.cuda.synchronize(device)  # what is wrong with the device itself, and not with the capture, is raised here
        first: BaseException = error
        while first.__context__ is not None:  # ending a capture that failed raises once more
            first = first.__context__
        return None, f"{type(first).__name__}: {str(first).strip().splitlines()[0] if str(first).strip() else ''}"


@functools.cache
def _stream() -> Any:
    """The one stream that graphs are captured on; torch gives its constructor no types."""
    import torch

    return getattr(torch.cuda, "Stream")()  # noqa: B009


@contextmanager
def _waiting_refused() -> Iterator[None]:
    import torch

    before = torch.cuda.get_sync_debug_mode()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that the mode is a prototype
        torch.cuda.set_sync_debug_mode("error")
    try:
        yield
    finally:
        torch.cuda.set_sync_debug_mode(before)


@contextmanager
def _collection_off() -> Iterator[None]:
    """Keeps Python from collecting garbage: a Triton kernel that goes unloads its module, which spoils a capture."""
    was_on = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_on:
            gc.enable()


@contextmanager
def _empty_refused() -> Iterator[None]:
    """Refuses a graph that holds nothing: its replays would take no time."""
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        yield
    for each in told:
        if _EMPTY in str(each.message):
            raise RuntimeError("nothing ran on the stream that was captured")
        warnings.warn_explicit(each.message, each.category, each.filename, each.lineno)
