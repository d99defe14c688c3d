"""Attention kernels against their peers, in one process: `kernels/forward`, `backward`, `decode` and `distillation`.

Every contender gets the same tensors (`contenders.py`). Its output, or its gradient of the queries, is held to the
naive form in float64 before it is timed (`agreement.py`), and the error is a metric. At each shape the contenders are
timed in turns, twice, so that drifting clocks meet all of them. Calls are timed by `timing.measure_calls` with
`kernel=True`: after a warm-up, with the L2 cache flushed before each call, replayed from a CUDA graph if launches
dominate. The first call, which compiles and tunes, is timed apart, and peak memory is measured in a call of its own.

Metrics are the median with its bootstrap standard error, the 20th and 80th percentiles and all samples; counted FLOPs
and bytes, if there are counts; for Hedgehog's attention also TFLOP/s, TB/s and the percentage of the roofline of the
form that ran, relative to the machine's own peaks measured in the same run. Counts are those of a fused kernel. The
torch forms, which run on the CPU, do other work; their percentage says how far they are from a perfect fused kernel.

A contender that cannot run here is a point with the status `unsupported`; one that runs out of memory or time is not
tried at longer sequences of the same heads. A contender that fails is a point with the status `error`: the others go
on, and the cell ends with that error. The main metric, `longest_tokens_per_s`, is that of the contender `hedgehog` at
its last shape.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from ...adapters.base import Adapter, Capability, ModelShape, Settings
from ...results.names import unknown_name
from ...results.record import DataIdentity, Metric
from ..base import NO_TEXT, Row, Sources, TaskData, TaskInfo, TaskScale
from ..heavy import torch
from ..measuring.machine import measure_machine
from ..measuring.timing import Repeats
from ..settings import as_settings, parse_settings
from .agreement import relative_error
from .bench import ROUNDS, KernelBench
from .metrics import kernel_metrics
from .shapes import KernelShape, parse_shapes
from .workloads import WORKLOADS, products_of

DTYPES = ("auto", "bfloat16", "float16", "float32")


@dataclass(frozen=True)
class KernelSettings:
    """What is timed.

    Attributes:
        shapes: Names of `shapes.SHAPES` and BATCHxTOKENSxHEADSxHEAD_DIM, joined by `+`.
        contenders: Names joined by `+`, or `all`.
        dtype: Type of all tensors; `auto` is bfloat16 on CUDA and float32 on the CPU.
        repeats: Fewest timed calls.
        min_time_ms: Least total time of the timed calls, up to 20 times `repeats` calls.
        warmup: Most calls before timing, once `min_warmup_ms` are over; 0 for none.
        min_warmup_ms: Least time of the warm-up.
        max_call_s: Longest time of a call; a longer one ends its contender's climb with the status `timeout`. The first
            call, which compiles and tunes, is limited by the cell's time only.

    Raises:
        ValueError: An unknown shape, contender or type.
    """

    shapes: str = "sweep64+sweep128+fla"
    contenders: str = "all"
    dtype: str = "auto"
    repeats: int = 10
    min_time_ms: float = 100.0
    warmup: int = 10
    min_warmup_ms: float = 100.0
    max_call_s: float = 30.0

    def __post_init__(self) -> None:
        parse_shapes(self.shapes)
        known = ("all", *sorted({name for contenders in WORKLOADS.values() for name in contenders}))
        for name in self.contenders.split("+"):
            if name not in known:
                raise unknown_name("contender", name, known)
        if self.dtype not in DTYPES:
            raise unknown_name("dtype", self.dtype, DTYPES)

    def ordered_shapes(self) -> list[KernelShape]:
        """The shapes, within a family from short to long."""
        return sorted(parse_shapes(self.shapes), key=lambda shape: (shape.family, shape.tokens))

    def chosen(self, work: str) -> list[str]:
        """The contenders of a workload that were asked for, ours first.

        Raises:
            ValueError: None of those asked for has this workload.
        """
        names = [name for name in WORKLOADS[work] if self.contenders == "all" or name in self.contenders.split("+")]
        if not names:
            raise ValueError(f"contenders is {self.contenders!r}; kernels/{work} has {', '.join(WORKLOADS[work])}")
        return names


@dataclass(frozen=True)
class Kernels:
    """The task of one workload; see the module's docstring."""

    info: TaskInfo
    work: str

    def identify(self, settings: Settings, sources: Sources) -> DataIdentity:  # noqa: ARG002
        """Identifies random tensors.

        Raises:
            ValueError: A setting is wrong, or no contender that was asked for has this workload.
        """
        parse_settings(KernelSettings, settings).chosen(self.work)
        return DataIdentity(id=self.info.name, revision="1", fingerprint="standard normal, seed 0", source="generated")

    def load(self, settings: Settings, sources: Sources, limit: int | None = None) -> TaskData:  # noqa: ARG002
        """The first `limit` shapes; the model is not measured, so its shape is small."""
        shapes = parse_settings(KernelSettings, settings).ordered_shapes()
        return TaskData(ModelShape(context_length=16, vocab_size=256), test=tuple(shapes[:limit]), details=NO_TEXT)

    def predict(self, adapter: Adapter, data: TaskData, settings: Settings) -> list[Row]:
        """One row of the machine's peaks, then one for each contender and shape."""
        chosen = parse_settings(KernelSettings, settings)
        device, dtype = adapter.device, _dtype(chosen.dtype, adapter.device)
        machine = measure_machine(device, dtype, products_of(self.work, device, dtype))
        repeats = Repeats(
            -(-chosen.repeats // ROUNDS),
            chosen.min_time_ms / ROUNDS,
            chosen.warmup,
            chosen.max_call_s,
            min_warmup_ms=chosen.min_warmup_ms,
        )
        bench = KernelBench(WORKLOADS[self.work], repeats, device, dtype, relative_error)
        return [{"machine": machine}, *bench.climb(chosen.chosen(self.work), data.test)]

    def score(self, rows: Sequence[Row], settings: Settings) -> list[Metric]:  # noqa: ARG002
        """See the module's docstring."""
        return kernel_metrics(self.work, rows)


def _dtype(name: str, device: torch.device) -> torch.dtype:
    if name == "auto":
        return torch.bfloat16 if device.type == "cuda" else torch.float32
    dtype: torch.dtype = getattr(torch, name)
    return dtype


def _task(work: str, summary: str) -> Kernels:
    scales = {
        "smoke": KernelSettings("1x256x4x32+1x1024x4x32", repeats=3, min_time_ms=1.0),
        "small": KernelSettings("+".join(f"1x{2**power}x8x64" for power in range(9, 14))),
        "paper": KernelSettings(),
    }
    backbone: Settings = {"layers": 1, "width": 32}
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
        scales={name: TaskScale(as_settings(values), backbone=backbone) for name, values in scales.items()},
    )
    return Kernels(info, work)


FORWARD = _task("forward", "Forward pass of Hedgehog's attention against peers and softmax attention")
BACKWARD = _task("backward", "Gradients of Hedgehog's attention, maps included, against peers")
DECODE = _task("decode", "One decoded token of Hedgehog's attention against peers and a KV cache")
DISTILLATION = _task("distillation", "Attention-distillation loss and gradients, tiled against quadratic")
