"""How long a path of machine code takes on a Hopper multiprocessor, by count: bounds of pipes, and a replay in order.

A multiprocessor has four schedulers, each with its own pipes, and one memory pipe for shared and local memory that they
share. A scheduler issues one instruction of one of its warps a cycle. Warps of a program are spread evenly over the
schedulers, so one scheduler stands for all. Rates are those of NVIDIA's programming guide for compute capability 9.0;
latencies are round numbers. What is left out: caches, bank conflicts, waiting for HBM beyond a latency, and clocks
below 1.755 GHz. On a plain FlashAttention-2 kernel in Triton such a replay was 1.4 to 1.6 times as fast as what was
published.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from .sass import Instruction

CLOCK_HZ, MULTIPROCESSORS, SCHEDULERS, LANES = 1.755e9, 132, 4, 32
REGISTERS, SHARED_BYTES, WARPS = 65_536, 227 * 1024, 64
RESERVED_BYTES = 1024
"""Shared memory that the system takes of each program."""

CYCLES: Mapping[str, int] = {"FMA": 1, "ALU": 2, "IMAD": 2, "MUFU": 8, "SHFL": 4, "UNIFORM": 2, "HMMA": 4}
"""Cycles that an instruction of a warp keeps its scheduler's pipe; of shuffles, the share of four schedulers."""

LATENCY: Mapping[str, int] = {
    **{"FMA": 6, "ALU": 8, "IMAD": 6, "MUFU": 24, "SHFL": 24, "UNIFORM": 12, "HMMA": 32, "SMEM": 30, "LOCAL": 36},
    **{"GLOBAL": 300, "SYNC": 20, "CONTROL": 10, "HGMMA": 0},
}
"""Cycles until a result can be read, for instructions whose end a barrier tells."""

PRODUCT_LATENCY, BARRIER_LATENCY = 32, 18


@dataclass(frozen=True)
class Shape:
    """What a program takes of a multiprocessor."""

    warps: int
    registers: int
    shared_bytes: int

    @property
    def occupancy(self) -> int:
        """Programs that run on a multiprocessor at a time."""
        registers = -(-self.registers // 8) * 8 * LANES * self.warps
        by_memory = SHARED_BYTES // (self.shared_bytes + RESERVED_BYTES)
        return max(1, min(REGISTERS // registers, by_memory, WARPS // self.warps))


def pipe_cycles(path: Sequence[Instruction], shape: Shape) -> dict[str, float]:
    """Cycles of a multiprocessor that one program needs of each pipe, if nothing else holds it up.

    `issue` are issue slots; `LOCAL` is the part of the memory pipe that spills take.
    """
    per_scheduler, counts = shape.warps / SCHEDULERS, Counter(x.kind for x in path)
    cycles = {
        kind: CYCLES[kind] * counts[kind] * per_scheduler for kind in ("FMA", "ALU", "IMAD", "MUFU", "SHFL", "HMMA")
    }
    for kind in ("SMEM", "LOCAL"):
        cycles[kind] = float(shape.warps * sum(x.words for x in path if x.kind == kind))
    cycles["HGMMA"] = per_scheduler * sum(x.columns / 2 for x in path)
    return {"issue": len(path) * per_scheduler, **cycles}


def local_bytes(path: Sequence[Instruction], shape: Shape) -> int:
    """Bytes that a program's spills move, both ways."""
    return sum(x.words * 4 * LANES for x in path if x.kind == "LOCAL") * shape.warps


@dataclass
class _Warp:
    """A warp under way: its next instruction, when it may issue it, and when its barriers are released."""

    program: int
    place: int = 0
    time: float = 0.0
    barriers: list[float] = field(default_factory=lambda: [0.0] * 6)
    products: float = 0.0
    waits: bool = False


class _Scheduler:
    """One scheduler with the warps of several programs, its pipes and its share of the memory pipe."""

    def __init__(self, path: Sequence[Instruction], shape: Shape, programs: int) -> None:
        self.path, self.mates = path, max(1, shape.warps // SCHEDULERS)
        self.warps = [_Warp(program) for program in range(programs) for _ in range(self.mates)]
        self.free: defaultdict[str, float] = defaultdict(float)
        self.issued = 0.0

    def run(self) -> float:
        """Cycles until the last warp has ended."""
        going = list(self.warps)
        while going:
            ready = [(self._ready(warp), place) for place, warp in enumerate(going) if not warp.waits]
            time, place = min(ready)
            warp = going[place]
            self._issue(warp, max(time, self.issued))
            if warp.place == len(self.path):
                going.pop(place)
        return max(warp.time for warp in self.warps)

    def _ready(self, warp: _Warp) -> float:
        x = self.path[warp.place]
        time = max(warp.time, *(warp.barriers[each] for each in x.waits)) if x.waits else warp.time
        if x.name.startswith("WARPGROUP.DEPBAR"):
            time = max(time, warp.products)
        return time if x.kind == "HGMMA" else max(time, self.free[_pipe(x)])

    def _issue(self, warp: _Warp, time: float) -> None:
        x, busy = self.path[warp.place], _busy(self.path[warp.place])
        start = max(time, self.free[_pipe(x)])
        if busy:
            self.free[_pipe(x)] = start + busy
        if x.kind == "HGMMA":
            warp.products = start + busy + PRODUCT_LATENCY
        written, read = x.sets
        if written is not None:
            moved = busy if x.kind in ("SMEM", "LOCAL", "GLOBAL") else 0
            warp.barriers[written] = max(warp.barriers[written], start + LATENCY[x.kind] + moved)
        if read is not None:
            warp.barriers[read] = max(warp.barriers[read], start + 12 + busy)
        self.issued, warp.time = time + 1, time + max(1, x.stall)
        warp.place += 1
        if x.name.startswith("BAR") and self.mates > 1:
            self._meet(warp)

    def _meet(self, warp: _Warp) -> None:
        """A barrier of a program: its last warp releases the others."""
        warp.waits = True
        mates = [each for each in self.warps if each.program == warp.program]
        if all(each.waits for each in mates):
            released = max(each.time for each in mates) + BARRIER_LATENCY
            for each in mates:
                each.waits, each.time = False, released


def _pipe(x: Instruction) -> str:
    return "MEMORY" if x.kind in ("SMEM", "LOCAL", "GLOBAL") else x.kind


def _busy(x: Instruction) -> float:
    if x.kind in ("SMEM", "LOCAL", "GLOBAL"):
        return SCHEDULERS * x.words
    return x.columns / 2 if x.kind == "HGMMA" else CYCLES.get(x.kind, 0)


def replay(path: Sequence[Instruction], shape: Shape, programs: int | None = None) -> float:
    """Cycles of a multiprocessor for one program, with so many at a time, or as many as fit."""
    at_once = programs or shape.occupancy
    return _Scheduler(path, shape, at_once).run() / at_once
