"""Attention kernels against their peers, in one process and one run: `kernels/forward`, `backward`, `decode` and
`distillation`.

Every contender gets the same tensors (`kernel_calls`); calls are timed as kernels are (`timing.measure_calls`): warmed
up, the L2 cache flushed before each, a CUDA graph replayed where launches dominate. The first call, which compiles and
tunes, is timed apart, and the peak of memory is that of one call of its own. Reported are the median with its bootstrap
standard error, the 20th and 80th percentile and all samples; FLOPs and bytes by counting, where there are counts; for
Hedgehog's attention also TFLOP/s, TB/s and the percentage of the roofline of the form that ran, over the machine's own
peaks measured in the same run. On the CPU, whose torch forms do other work than the counts, the percentage says how far
they are from a perfect fused kernel.

A contender that cannot run here is a point with the status `unsupported`; one that runs out of memory or time is not
tried at longer sequences of the same heads. A contender that fails is a point with the status `error`: the others go
on, and the cell ends with that error. `longest_tokens_per_s` ranks: Hedgehog's best backend at the largest shape.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from ...adapters.base import Adapter, Capability, ModelShape, Settings
from ...results.record import DataIdentity, Metric
from ..base import Row, Sources, TaskData, TaskInfo, TaskScale
from ..efficiency.sweep_settings import VOCAB_SIZE
from ..measuring.machine_peak import measure_machine
from ..settings import as_settings, parse_settings
from .bench import KernelBench
from .metrics import kernel_metrics
from .settings import KernelSettings
from .workloads import WORKS, products_of

if TYPE_CHECKING:
    import torch


@dataclass(frozen=True)
class Kernels:
    """The task of one work; see the module's docstring."""

    info: TaskInfo
    work: str

    def identify(self, settings: Settings, sources: Sources) -> DataIdentity:  # noqa: ARG002
        """Random tensors."""
        parse_settings(KernelSettings, settings).chosen(self.work)
        return DataIdentity(id=self.info.name, revision="1", fingerprint="standard normal, seed 0", source="generated")

    def load(self, settings: Settings, sources: Sources, limit: int | None = None) -> TaskData:  # noqa: ARG002
        """The shapes, the first `limit` of them; the model is not read, and as small as can be."""
        shapes = parse_settings(KernelSettings, settings).ordered_shapes()
        return TaskData(ModelShape(context_length=16, vocab_size=VOCAB_SIZE), test=tuple(shapes[:limit]))

    def predict(self, adapter: Adapter, data: TaskData, settings: Settings) -> list[Row]:
        """One row for each shape and contender, and one of the machine's peaks."""
        chosen = parse_settings(KernelSettings, settings)
        device, dtype = adapter.device, _dtype(chosen.dtype, adapter.device)
        machine = measure_machine(device, dtype, products_of(self.work, device, dtype))
        bench = KernelBench(WORKS[self.work], chosen.repeated(), device, dtype)
        return [
            {"machine": machine},
            *(row for name in chosen.chosen(self.work) for row in bench.climb(name, data.test)),
        ]

    def score(self, rows: Sequence[Row], settings: Settings) -> list[Metric]:  # noqa: ARG002
        """See the module's docstring."""
        return kernel_metrics(self.work, rows)


def _dtype(name: str, device: torch.device) -> torch.dtype:
    import torch

    if name == "auto":
        return torch.bfloat16 if device.type == "cuda" else torch.float32
    dtype: torch.dtype = getattr(torch, name)
    return dtype


def _task(work: str, summary: str) -> Kernels:
    info = TaskInfo(
        name=f"kernels/{work}",
        version=2,
        summary=summary,
        main_metric="longest_tokens_per_s",
        data=("generated",),
        licence="Apache-2.0",
        citation="shapes of flash-linear-attention's and FlashAttention's own benchmarks",
        needs=frozenset({Capability.LANGUAGE_MODEL}),
        recipes=("zero-shot",),
        own_device=True,
        model="hedgehog:map=softmax",
        scales={
            "smoke": _scale("1x256x4x32+1x1024x4x32", repeats=3, min_time_ms=1.0),
            "small": _scale("+".join(f"1x{2**power}x8x64" for power in range(9, 14))),
            "paper": _scale("sweep64+sweep128+fla"),
        },
    )
    return Kernels(info, work)


def _scale(shapes: str, repeats: int = 10, min_time_ms: float = 100.0) -> TaskScale:
    settings = as_settings(KernelSettings(shapes=shapes, repeats=repeats, min_time_ms=min_time_ms))
    return TaskScale(settings=settings, backbone={"layers": 1, "width": 32})


FORWARD = _task("forward", "Forward pass of Hedgehog's attention against peers and softmax attention")
BACKWARD = _task("backward", "Gradients of Hedgehog's attention, maps included, against peers")
DECODE = _task("decode", "One decoded token of Hedgehog's attention against peers and a KV cache")
DISTILLATION = _task("distillation", "Attention-distillation loss and gradients, tiled against quadratic")
