"""Tests of tasks/measuring/cuda_graphs.py, with a fake of torch.cuda that refuses what CUDA refuses."""

from __future__ import annotations

import gc
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import torch

from hedgebench.tasks.kernel_speed import workloads
from hedgebench.tasks.kernel_speed.contenders import KernelInputs
from hedgebench.tasks.kernel_speed.shapes import KernelShape
from hedgebench.tasks.measuring import cuda_graphs
from hedgebench.tasks.measuring.cuda_graphs import capture_stream, graph_of, try_graph

CUDA = torch.device("cuda")
UNUSABLE = "operation failed due to a previous error during capture"


class FakeStream:
    def __init__(self, name: str, log: list[str]) -> None:
        self.name, self.log = name, log

    def wait_stream(self, other: FakeStream) -> None:
        self.log.append(f"{self.name} waits for {other.name}")


class FakeCuda:
    """The streams, captures and refused synchronisations of torch.cuda, as far as a graph needs them."""

    def __init__(self) -> None:
        self.log: list[str] = []
        self.default = self.current = FakeStream("default", self.log)
        self.sync_mode, self.is_spoiled = 0, False
        self.captured: list[str] | None = None
        self.CUDAGraph = type("CUDAGraph", (), {"replay": lambda graph: self.log.append("replay")})

    def Stream(self) -> FakeStream:
        return FakeStream("side", self.log)

    def current_stream(self) -> FakeStream:
        return self.current

    def stream(self, stream: FakeStream) -> Any:
        cuda = self

        class Context:
            def __enter__(self) -> None:
                self.before, cuda.current = cuda.current, stream

            def __exit__(self, *error: object) -> None:
                cuda.current = self.before

        return Context()

    def graph(self, graph: object, stream: FakeStream) -> Any:
        cuda = self

        class Context:
            def __enter__(self) -> None:
                cuda.current, cuda.captured, cuda.is_spoiled = stream, [], False

            def __exit__(self, *error: object) -> None:
                captured, cuda.captured = cuda.captured, None
                if cuda.is_spoiled:  # as torch does, before it goes back to the stream before
                    raise RuntimeError(UNUSABLE)
                if not captured:
                    warnings.warn("The CUDA Graph is empty.", stacklevel=1)
                cuda.log.append(f"captured {captured}")

        return Context()

    def get_sync_debug_mode(self) -> int:
        return self.sync_mode

    def set_sync_debug_mode(self, mode: str | int) -> None:
        if mode == "error":
            warnings.warn("Synchronization debug mode is a prototype feature", stacklevel=1)
        self.sync_mode = {"error": 2}.get(str(mode), 0)

    def synchronize(self, device: object = None) -> None:
        self.log.append("synchronize")

    def kernel(self, stream: FakeStream | None = None) -> None:
        """What a call starts on a stream; nothing of it is captured on another."""
        if (stream or self.current).name == "side" and self.captured is not None:
            self.captured.append("kernel")
        else:
            self.log.append(f"kernel on {(stream or self.current).name}")

    def item(self) -> None:
        """What waits for the device, and what torch knows to."""
        if self.sync_mode == 2:
            raise RuntimeError("called a synchronizing CUDA operation")
        self.wait()

    def wait(self) -> None:
        """What waits for the device without torch knowing."""
        if self.captured is not None:
            self.is_spoiled = True
            raise RuntimeError("operation not permitted when stream is capturing\nCUDA kernel errors might be ...")


@pytest.fixture
def cuda(monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeCuda]:
    fake = FakeCuda()
    monkeypatch.setattr(torch, "cuda", fake)
    cuda_graphs._stream.cache_clear()
    yield fake
    cuda_graphs._stream.cache_clear()


def test_a_call_is_warmed_on_the_stream_it_is_captured_on_and_then_replayed(cuda: FakeCuda) -> None:
    replay = graph_of(cuda.kernel, CUDA)
    assert cuda.log == [
        "side waits for default",
        "kernel on side",
        "captured ['kernel']",
        "replay",
        "default waits for side",
    ]
    replay()
    assert cuda.log[-1] == "replay"
    assert (cuda.current.name, cuda.sync_mode, gc.isenabled()) == ("default", 0, True)


def test_garbage_is_not_collected_while_a_call_is_captured(cuda: FakeCuda) -> None:
    was_on: list[bool] = []

    def call() -> None:
        cuda.kernel()
        was_on.append(gc.isenabled())

    graph_of(call, CUDA)
    assert was_on == [True, False]


def failing(cuda: FakeCuda) -> dict[str, tuple[Callable[[], None], str]]:
    def wait_for(how: Callable[[], None]) -> Callable[[], None]:
        def call() -> None:
            cuda.kernel()
            how()

        return call

    return {
        "a wait that torch knows": (wait_for(cuda.item), "RuntimeError: called a synchronizing CUDA operation"),
        "another wait": (wait_for(cuda.wait), "RuntimeError: operation not permitted when stream is capturing"),
        "a backward pass whose forward pass ran elsewhere": (
            lambda: cuda.kernel(cuda.default),
            "RuntimeError: nothing ran on the stream that was captured",
        ),
    }


@pytest.mark.parametrize(
    "what", ["a wait that torch knows", "another wait", "a backward pass whose forward pass ran elsewhere"]
)
def test_what_cannot_be_captured_has_no_graph_but_a_reason_and_the_stream_is_that_before(
    cuda: FakeCuda, what: str
) -> None:
    call, reason = failing(cuda)[what]
    assert try_graph(call, CUDA) == (None, reason)
    assert cuda.log[-1] == "synchronize"
    assert (cuda.current.name, cuda.sync_mode, gc.isenabled()) == ("default", 0, True)


def test_a_wait_that_torch_knows_is_refused_before_anything_is_captured(cuda: FakeCuda) -> None:
    try_graph(failing(cuda)["a wait that torch knows"][0], CUDA)
    assert not [line for line in cuda.log if line.startswith("captured")]


def test_other_errors_of_a_call_are_mistakes(cuda: FakeCuda) -> None:
    def call() -> None:
        raise ValueError("no such shape")

    with pytest.raises(ValueError, match="no such shape"):
        try_graph(call, CUDA)


def test_other_warnings_of_a_capture_are_passed_on(cuda: FakeCuda) -> None:
    def call() -> None:
        cuda.kernel()
        if cuda.captured is not None:
            warnings.warn("slow path", UserWarning, stacklevel=1)

    with pytest.warns(UserWarning, match="slow path"):
        graph_of(call, CUDA)


def test_kernels_that_are_pulled_back_alone_had_their_forward_pass_on_the_captured_stream(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    log: list[str] = []

    @contextmanager
    def block(device: torch.device) -> Iterator[None]:
        log.append("in")
        yield
        log.append("out")

    def attend(inputs: KernelInputs) -> tuple[torch.Tensor, str]:
        log.append("forward")
        return inputs.q * inputs.v, "known/torch"

    monkeypatch.setattr(workloads, "capture_stream", block)
    prepared = workloads.backward(attend, KernelShape(1, 4, 1, 2, ""), torch.device("cpu"), torch.float32)
    assert log == []
    prepared["backward"]()
    assert log == ["in", "forward", "out"]


def test_on_the_processor_there_is_no_stream() -> None:
    with capture_stream(torch.device("cpu")):
        pass


@pytest.mark.gpu
def test_a_backward_pass_is_captured_alone_where_its_forward_pass_ran_on_the_same_stream() -> None:
    x, w = (torch.randn(64, 64, device="cuda", requires_grad=True) for _ in range(2))

    def pull(y: torch.Tensor) -> tuple[torch.Tensor, ...]:
        return torch.autograd.grad(y, (x, w), torch.ones_like(y), retain_graph=True)

    expected = pull(x @ w)
    kept: list[tuple[torch.Tensor, ...]] = []
    with capture_stream(CUDA):
        y = x @ w
        pull(y)
        replay = graph_of(lambda: kept.append(pull(y)), CUDA)
    for gradient in kept[-1]:
        gradient.zero_()
    replay()
    torch.cuda.synchronize()
    torch.testing.assert_close(kept[-1], expected)


@pytest.mark.gpu
def test_on_a_device_what_waits_has_no_graph_and_random_numbers_go_on() -> None:
    x = torch.randn(64, device="cuda")
    replay, reason = try_graph(lambda: x.sum().item(), CUDA)
    assert replay is None
    assert "synchroniz" in reason
    assert torch.randn(4, device="cuda").isfinite().all()
