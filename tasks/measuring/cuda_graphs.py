"""Calls captured as CUDA graphs: one replay starts everything that the call starts, at no cost to the host.

Some calls cannot be captured: those that wait for the device, copy from pageable memory, or run on another stream.
`try_graph` returns the reason, and the call is then timed as it is.
"""

from __future__ import annotations

import functools
import gc
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from ..heavy import torch

_EMPTY = "Graph is empty"
"""torch's warning that nothing ran on the captured stream."""


@contextmanager
def capture_stream(device: torch.device) -> Iterator[None]:
    """Runs the block on the stream that graphs are captured on; does nothing on the CPU.

    autograd runs a backward pass on the stream of its forward pass. A backward pass that is timed alone can therefore
    be captured only if its forward pass ran in such a block.
    """
    if device.type != "cuda":
        yield
        return
    stream = _stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):  # returns to the previous stream even if a capture fails half way
        yield
    torch.cuda.current_stream().wait_stream(stream)


def graph_of(call: Callable[[], object], device: torch.device) -> Callable[[], object]:
    """Captures a warm call as one CUDA graph and returns its replay.

    The call first runs once on the same stream, so that workspaces exist. In this run torch refuses every
    synchronisation that it knows of, so that a call that waits fails here: a capture that fails leaves torch's random
    numbers unusable.

    Raises:
        RuntimeError: The call cannot be captured.
    """
    with capture_stream(device):
        with _waiting_refused():
            call()
        graph = torch.cuda.CUDAGraph()
        with _collection_off(), _empty_refused(), torch.cuda.graph(graph, stream=_stream()):
            call()
        graph.replay()  # the first replay also uploads the graph to the device
    replay: Callable[[], object] = graph.replay
    return replay


def try_graph(call: Callable[[], object], device: torch.device) -> tuple[Callable[[], object] | None, str]:
    """The replay of a call's graph and an empty string; or None, and why the call cannot be captured."""
    try:
        return graph_of(call, device), ""
    except RuntimeError as error:
        torch.cuda.synchronize(device)  # raises if the device itself is broken, rather than the capture
        first: BaseException = error
        while first.__context__ is not None:  # ending a capture that failed raises once more
            first = first.__context__
        return None, f"{type(first).__name__}: {str(first).strip().partition(chr(10))[0]}"


@functools.cache
def _stream() -> Any:
    """The one stream that graphs are captured on."""
    stream: Any = torch.cuda.Stream  # torch gives its constructor no types
    return stream()


@contextmanager
def _waiting_refused() -> Iterator[None]:
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
    """Stops garbage collection: a collected Triton kernel unloads its module, which spoils a capture."""
    was_on = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_on:
            gc.enable()


@contextmanager
def _empty_refused() -> Iterator[None]:
    """Refuses an empty graph: its replays would take no time."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        yield
    for each in caught:
        if _EMPTY in str(each.message):
            raise RuntimeError("nothing ran on the stream that was captured")
        warnings.warn_explicit(each.message, each.category, each.filename, each.lineno)
