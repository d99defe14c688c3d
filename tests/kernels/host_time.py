"""What a call of the kernels takes the host, beside its launches and allocations alone; without a GPU.

PYTHONPATH=.pyroot:tests python -m kernels.host_time

Tensors lie on the CPU, and the driver is a stand-in that starts nothing; everything before it is real: checks,
autograd, and how Triton binds arguments. What CUDA itself takes to start a kernel is not in it. Numbers are
microseconds of CPU time, medians of blocks that take turns, and the minima of blocks.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from contextlib import ExitStack
from functools import partial
from typing import Any
from unittest.mock import patch

import torch
from torch import Tensor
from triton.backends.compiler import GPUTarget
from triton.runtime.driver import driver
from triton.runtime.jit import JITFunction

from hedgebench.kernels.fused import choose
from hedgebench.kernels.hedgehog import chunk_hedgehog_attn, fused_recurrent_hedgehog_attn
from hedgebench.kernels.state import LinearState
from hedgebench.kernels.triton import operator

ROUNDS, CALLS = 9, 50
ALLOCATIONS = [
    *((torch, name) for name in ("empty", "empty_like", "zeros_like")),
    *((Tensor, name) for name in ("new_empty", "new_empty_strided", "new_zeros")),
]

Called = Callable[[], object]


class StandIn:
    """A driver, its utilities and its launcher, none of which do anything."""

    def __init__(self, *_: object) -> None:
        self.launcher_cls, self.utils = StandIn, self

    def __call__(self, *_: object) -> None:
        pass

    def load_binary(self, *_: object) -> tuple[int, int, int, int, int]:
        return 1, 2, 128, 0, 1024

    def get_device_properties(self, _: int) -> dict[str, int]:
        return {"max_shared_mem": 232_448}

    def get_current_target(self) -> GPUTarget:
        return GPUTarget("cuda", 90, 32)

    def get_current_device(self) -> int:
        return 0

    def get_current_stream(self, _: object = None) -> int:
        return 0


def calls() -> dict[str, Called]:
    """Calls by name: two heads of 64 dimensions, 16 tokens, in bfloat16."""
    q, k, v, grad = (torch.randn(1, 16, 2, 64, dtype=torch.bfloat16).transpose(1, 2) for _ in range(4))
    maps = [torch.randn(2, 64, 64, dtype=torch.bfloat16) for _ in range(2)]
    leaves = [x.clone().requires_grad_() for x in (q, k, v, *maps)]
    state = LinearState(torch.zeros(1, 2, 128, 64), torch.zeros(1, 2, 128), torch.zeros(1, 2, 128))

    def forward(name: str, form: str) -> object:
        with torch.no_grad():
            return chunk_hedgehog_attn(q, k, v, maps[0], maps[1], feature_map=name, form=form)

    def both(name: str, form: str) -> object:
        output = chunk_hedgehog_attn(*leaves, feature_map=name, form=form).output
        return torch.autograd.grad(output, leaves, grad)

    found: dict[str, Called] = {}
    for form in ("fused_chunk", "chunk"):
        for name in ("softmax", "exp"):
            found[f"{name}, {form}, forward"] = partial(forward, name, form)
            found[f"{name}, {form}, both ways"] = partial(both, name, form)
    token = [x[:, :, :1] for x in (q, k, v)]
    found["exp, decoding"] = lambda: fused_recurrent_hedgehog_attn(*token, *maps, state=state, feature_map="exp")
    return found


def alone(call: Called) -> Called:
    """The launches and allocations of a call, and nothing else."""
    launches: list[tuple[Any, tuple[Any, ...], dict[str, Any]]] = []
    sizes: list[tuple[tuple[int, ...], torch.dtype]] = []

    def noted(make: Callable[..., Tensor]) -> Callable[..., Tensor]:
        def made(*args: Any, **options: Any) -> Tensor:
            tensor = make(*args, **options)
            sizes.append((tuple(tensor.shape), tensor.dtype))
            return tensor

        return made

    with ExitStack() as stack:
        for owner, name in ALLOCATIONS:
            stack.enter_context(patch.object(owner, name, noted(getattr(owner, name))))
        record = stack.enter_context(patch.object(JITFunction, "run", autospec=True))
        record.side_effect = lambda kernel, *args, **options: launches.append((kernel, args, options))
        call()

    def run() -> list[Tensor]:
        kept = [torch.empty(size, dtype=dtype) for size, dtype in sizes]
        for kernel, args, options in launches:
            kernel.run(*args, **options)
        return kept

    return run


def microseconds(call: Called) -> float:
    """CPU time of a call: the mean of a block."""
    start = time.process_time()
    for _ in range(CALLS):
        call()
    return (time.process_time() - start) / CALLS * 1e6


def main() -> None:
    torch.set_num_threads(1)
    stand_in: Any = StandIn()
    driver.set_active(stand_in)
    listened_to = operator.listened_to
    setattr(choose, "obstacles", lambda _: iter(()))  # noqa: B010
    setattr(operator, "listened_to", lambda tensors: listened_to(tensors) and False)  # noqa: B010
    timed = {name: (call, alone(call)) for name, call in calls().items()}
    blocks: dict[str, list[tuple[float, float]]] = {name: [] for name in timed}
    for _ in range(ROUNDS + 1):
        for name, (call, floor) in timed.items():
            blocks[name].append((microseconds(call), microseconds(floor)))
    print("| call | median, minimum | launches and allocations alone | median ratio |\n|---|---|---|---|")
    for name, found in blocks.items():
        whole, parts = zip(*found[1:], strict=True)  # the first block compiles
        ratio = statistics.median(a / b for a, b in found[1:])
        print(f"| {name} | {statistics.median(whole):.0f}, {min(whole):.0f} | {statistics.median(parts):.0f}, "
              f"{min(parts):.0f} | {ratio:.1f} |")  # fmt: skip


if __name__ == "__main__":
    main()
