"""The static roofline of an operator: what its kernels' machine code takes on a Hopper GPU, by count, not measured.

The operator is called on uninitialised CPU tensors with its CPU kernel switched off, so that it launches what it would
launch on CUDA; launches are recorded and compiled, and run nowhere.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from math import ceil, prod
from typing import Any

import torch
from torch import Tensor

from hedgebench.kernels.costs import Cost
from hedgebench.kernels.fused.call import Call
from hedgebench.kernels.fused.choose import choose_form
from hedgebench.kernels.fused.op import fused_backward, fused_decode_, fused_forward
from hedgebench.kernels.fused_costs import Walk, fused_decode_cost

from ..triton_compile import CompiledKernel, Launch, compiled_code, described, recorded_launches
from .replay import CLOCK_HZ, MULTIPROCESSORS, Shape, local_bytes, pipe_cycles, replay
from .sass import Code, read_cubin

FLOPS_PER_S, BYTES_PER_S = 790e12, 4.3e12
"""Measured peaks of an H200: products of bfloat16, and copies counted both ways."""

HEADS, BATCH = 16, 8


@dataclass(frozen=True)
class Variant:
    """A call whose kernels are counted; batch 8, 16 heads, bfloat16, values as wide as heads.

    Attributes:
        feature_map: as in `Call`; "exp" takes logarithms.
        dim: d of q and k, of a map's columns and of values.
        tokens: of each sequence.
        masked: with a padding mask, biases, and two query heads for each key head; benchmarks have none of these.
    """

    feature_map: str
    dim: int
    tokens: int = 4096
    masked: bool = False

    @property
    def token_heads(self) -> int:
        return BATCH * HEADS * self.tokens

    def walk(self, form: str) -> Walk:
        """What the kernels of a call in this form move and multiply."""
        return Walk(form, BATCH, HEADS, self.tokens, self.dim, "bfloat16", log_space=self.feature_map == "exp")

    def call(self, tokens: int | None = None, **others: Any) -> Call:
        kv_heads, tokens = HEADS // 2 if self.masked else HEADS, tokens or self.tokens

        def empty(*sizes: int) -> Tensor:
            return torch.empty(*sizes, dtype=torch.bfloat16)

        q, k, v = (empty(BATCH, tokens, heads, self.dim).transpose(1, 2) for heads in (HEADS, kv_heads, kv_heads))
        matrices = [empty(heads, self.dim, self.dim) for heads in (HEADS, kv_heads)]
        biases = [empty(heads, self.dim) if self.masked else None for heads in (HEADS, kv_heads)]
        mask = torch.ones(BATCH, tokens, dtype=torch.bool) if self.masked else None
        call = Call(
            q=q, k=k, v=v, q_weight=matrices[0], k_weight=matrices[1], q_bias=biases[0], k_bias=biases[1],
            feature_map=self.feature_map, negate=True, log_space=self.feature_map == "exp", mask=mask, **others,
        )  # fmt: skip
        return call if others else replace(call, form=choose_form(call))


def launches_of(variant: Variant, work: str) -> tuple[list[Launch], str]:
    """The launches of "forward", "backward" (alone) or "decode", and the form that was chosen."""
    with ExitStack() as stack:
        for operator in (fused_forward, fused_backward, fused_decode_):
            stack.enter_context(operator.set_kernel_enabled("cpu", enabled=False))
        recorded = stack.enter_context(recorded_launches())
        if work == "decode":
            fused_decode_(*_decoding(variant).flatten())
            return recorded, "fused_recurrent"
        call = variant.call()
        output, norms, _kv, _keys, *kept = fused_forward(*call.flatten())
        if work == "backward":
            recorded.clear()
            fused_backward(output, None, None, output, norms, *kept, *call.flatten())
        return recorded, call.form


def _decoding(variant: Variant) -> Call:
    shape = (BATCH, HEADS // 2 if variant.masked else HEADS, 2 * variant.dim)
    state = {"initial_kv": torch.empty(*shape, variant.dim), "initial_k": torch.empty(shape)}
    scale = torch.empty(shape) if variant.feature_map == "exp" else None
    return replace(variant.call(tokens=1, **state, initial_scale=scale), mask=None)


@dataclass(frozen=True)
class Counted:
    """One launch by count.

    Attributes:
        kernel: what the compiler says.
        programs: of the launch, without those that have no work.
        turns: of the main loop of a program, on average.
        occupancy: programs that run on a multiprocessor at a time.
        cycles: of a program by pipe, `issue` among them (see `pipe_cycles`).
        local_bytes: that spills of a program move.
        replayed: cycles of a program, replayed in order beside as many others as fit.
        bytes: that the launch reads and writes, each once.
        products_left_out: products in the code that are on no path that was counted: those of the exact path.
    """

    kernel: CompiledKernel
    programs: int
    turns: float
    occupancy: int
    cycles: dict[str, float]
    local_bytes: float
    replayed: float
    bytes: int
    products_left_out: int

    @property
    def ceiling_s(self) -> float:
        """The least time: issue slots, tensor cores or memory."""
        busiest = max(self.cycles["issue"], self.cycles["HGMMA"] + self.cycles["HMMA"])
        return max(self.programs * busiest / MULTIPROCESSORS / CLOCK_HZ, self.bytes / BYTES_PER_S)

    @property
    def replayed_s(self) -> float:
        """The time of the replay; at least that of one program, and of the memory."""
        programs = max(self.programs / MULTIPROCESSORS, self.occupancy)
        return max(programs * self.replayed / CLOCK_HZ, self.bytes / BYTES_PER_S)


def count(launch: Launch, token_heads: int, moved: int | None = None) -> Counted:
    """Compiles a launch and counts it. All counts are linear in the turns of the main loop, so two suffice.

    Args:
        launch: the launch.
        token_heads: tokens times heads of the call.
        moved: bytes that it reads and writes; those of all its tensors if None.
    """
    compiled = compiled_code(launch)
    kernel, code = described(launch, compiled), Code(read_cubin(compiled.asm["cubin"]))
    shape, programs = Shape(kernel.warps, kernel.registers, kernel.shared_bytes), _programs(launch)
    turns = _turns(launch, token_heads, programs) if code.main_loop else 1.0
    beside = min(shape.occupancy, ceil(programs / MULTIPROCESSORS))
    few, more = (code.path(number) for number in (1, 3))

    def at(one: float, three: float) -> float:
        return one + (three - one) / 2 * (turns - 1)

    one, three = pipe_cycles(few, shape), pipe_cycles(more, shape)
    passed = {x.address for x in more}
    left_out = sum(x.kind in ("HGMMA", "HMMA") and x.address not in passed for x in code.instructions)
    return Counted(
        kernel, programs, turns, beside, {pipe: at(one[pipe], three[pipe]) for pipe in one},
        at(local_bytes(few, shape), local_bytes(more, shape)),
        at(replay(few, shape, beside), replay(more, shape, beside)),
        _bytes(launch) if moved is None else moved, left_out,
    )  # fmt: skip


def _turns(launch: Launch, token_heads: int, programs: int) -> float:
    """Turns of a program's main loop, on average: chunks of the tokens that it reads, shared out among programs."""
    constants = launch.arguments.get("C")
    if launch.kernel.__name__ == "decode_tokens":
        return 1.0
    assert constants is not None
    tiles = -(-constants.VALUES // constants.BV) if len(launch.grid) > 2 else 1
    return token_heads * _share(launch) * tiles / programs / int(constants.CHUNK)


def _programs(launch: Launch) -> int:
    """The programs of a launch that have work: one segment of each sequence has no part in sums."""
    segments = launch.arguments["sizes"][2] if "sizes" in launch.arguments else 1
    has_part = segments - 1 if launch.kernel.__name__ in ("sum_keys", "sum_queries") else segments
    return prod(launch.grid) * has_part // segments


def _share(launch: Launch) -> float:
    """The share of all tokens that a launch reads: sums leave out the last segment's keys, the first one's queries."""
    tokens, span, segments, _sequences = (int(size) for size in launch.arguments["sizes"])
    left_out = {"sum_keys": tokens - (segments - 1) * span, "sum_queries": span}.get(launch.kernel.__name__, 0)
    return 1 - left_out / tokens


def _bytes(launch: Launch) -> int:
    parts = (part for x in launch.arguments.values() for part in (x if isinstance(x, tuple) else (x,)))
    return sum(x.nbytes for x in {x.data_ptr(): x for x in parts if isinstance(x, Tensor)}.values())


@dataclass(frozen=True)
class Roofline:
    """One operator by count, not measured: its kernels, and its algorithm's least time by FLOPs and bytes."""

    variant: Variant
    work: str
    form: str
    kernels: Sequence[Counted]

    @property
    def cost(self) -> Cost:
        """The FLOPs and bytes of the walk in this form."""
        if self.work == "decode":
            return fused_decode_cost(heads=BATCH * HEADS, d=self.variant.dim)
        walk = self.variant.walk(self.form)
        return walk.backward if self.work == "backward" else walk.forward

    @property
    def least_s(self) -> float:
        """The roofline time of the algorithm."""
        return self.cost.seconds(FLOPS_PER_S, BYTES_PER_S)

    @property
    def ceiling_s(self) -> float:
        """The least time of the kernels, one after another; a state changed in place is read and written."""
        return max(sum(kernel.ceiling_s for kernel in self.kernels), self.cost.bytes / BYTES_PER_S)

    @property
    def replayed_s(self) -> float:
        return sum(kernel.replayed_s for kernel in self.kernels)

    @property
    def ceiling_percent(self) -> float:
        """The largest share of the roofline that issue slots and memory allow."""
        return 100 * self.least_s / self.ceiling_s


def roofline(variant: Variant, work: str) -> Roofline:
    """Counts every launch of an operator."""
    launches, form = launches_of(variant, work)
    walk = variant.walk(form)
    moved = {name: cost.bytes for name, cost in (walk.forward_kernels | walk.backward_kernels).items()}
    kernels = [count(each, variant.token_heads, moved.get(each.kernel.__name__)) for each in launches]
    return Roofline(variant, work, form, kernels)


def rooflines(variants: Sequence[Variant], works: Sequence[str]) -> Iterator[Roofline]:
    """Counts operators one by one: each takes seconds to compile."""
    for variant in variants:
        for work in works:
            yield roofline(variant, work)
