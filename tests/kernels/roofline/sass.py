"""Machine code of a kernel: its instructions, their control bits, the loops, and the path that a program takes.

Two things are not in the code, and are assumed: how often the main loop turns, which the caller says, and which
branches are rare. A branch that jumps over a loop other than the main one, or over a call, is taken: behind it lies an
exact path for inputs that random numbers do not reach.
"""

from __future__ import annotations

import re
import subprocess
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

_LINE = re.compile(r"/\*([0-9a-f]{4,})\*/\s+(.+?)\s*;\s+/\* 0x[0-9a-f]{16} \*/\s+/\* 0x([0-9a-f]{16}) \*/")
_PREDICATE = re.compile(r"@!?U?P\w+\s+")
_BARRIERS = 6

KINDS = {
    **dict.fromkeys(("FFMA", "FMUL", "FADD", "FFMA2", "FMUL2", "FADD2", "HFMA2", "HADD2", "HMUL2"), "FMA"),
    **dict.fromkeys(("IMAD", "IMUL"), "IMAD"),
    **dict.fromkeys(("LDS", "LDSM", "STS", "STSM"), "SMEM"),
    **dict.fromkeys(("LDL", "STL"), "LOCAL"),
    **dict.fromkeys(("LDG", "LD", "LDGSTS", "STG", "ST", "ATOMG", "RED"), "GLOBAL"),
    **dict.fromkeys(
        ("BAR", "DEPBAR", "WARPGROUP", "WARPSYNC", "FENCE", "MEMBAR", "CCTL", "LDGDEPBAR", "SYNCS"), "SYNC"
    ),
    **dict.fromkeys(("BRA", "EXIT", "NOP", "BSSY", "BSYNC", "CALL", "RET", "BREAK", "YIELD"), "CONTROL"),
    **{name: name for name in ("HGMMA", "HMMA", "MUFU", "SHFL")},
}
"""The pipe or kind of an instruction by its name; all others are integer and logic instructions, `ALU`."""


@dataclass(frozen=True)
class Instruction:
    """One instruction of a warp.

    Attributes:
        address: in bytes, a multiple of 16.
        text: as the disassembler writes it, without its predicate.
        predicated: it runs under a condition.
        stall: cycles until the same warp may issue the next one.
        sets: barriers that are released when its result has been written, or its operands have been read.
        waits: barriers that it waits for.
    """

    address: int
    text: str
    predicated: bool
    stall: int
    sets: tuple[int | None, int | None]
    waits: tuple[int, ...]

    @cached_property
    def name(self) -> str:
        return self.text.split()[0]

    @cached_property
    def kind(self) -> str:
        first = self.name.partition(".")[0]
        return "UNIFORM" if first[0] == "U" or first == "R2UR" else KINDS.get(first, "ALU")

    @cached_property
    def target(self) -> int | None:
        """The address that a branch leads to."""
        found = re.search(r"`?\(?0x([0-9a-f]+)\)?$", self.text) if self.name.startswith("BRA") else None
        return int(found[1], 16) if found else None

    @cached_property
    def words(self) -> int:
        """4-byte words that each thread moves."""
        found = re.search(r"\.(128|64)\b", self.name)
        matrices = re.search(r"\.([24])$", self.name) if self.name.startswith(("LDSM", "STSM")) else None
        return int(found[1]) // 32 if found else int(matrices[1]) if matrices else 1

    @cached_property
    def columns(self) -> int:
        """n of a product m64 n k16 of a warp group."""
        found = re.match(r"HGMMA\.64x(\d+)x", self.name)
        return int(found[1]) if found else 0


def read_cubin(cubin: bytes) -> list[Instruction]:
    """The instructions of a binary, by the disassembler of Triton's wheel."""
    import triton

    tool = Path(triton.__file__).parent / "backends" / "nvidia" / "bin" / "cuobjdump"
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(cubin)
        file.flush()
        told = subprocess.run([tool, "-sass", file.name], capture_output=True, text=True, check=True).stdout
    return list(parse(told))


def parse(listing: str) -> Iterator[Instruction]:
    """The instructions of a listing: each is a line and, on the next, the upper half of its code with control bits."""
    for match in _LINE.finditer(listing):
        address, text, high = int(match[1], 16), match[2], int(match[3], 16)
        plain = _PREDICATE.sub("", text, count=1)
        written, read, waits = high >> 46 & 7, high >> 49 & 7, high >> 52 & 63
        yield Instruction(
            address, plain, plain != text, high >> 41 & 15,
            (written if written < _BARRIERS else None, read if read < _BARRIERS else None),
            tuple(barrier for barrier in range(_BARRIERS) if waits >> barrier & 1),
        )  # fmt: skip


@dataclass(frozen=True)
class Code:
    """The instructions of a kernel, in order."""

    instructions: Sequence[Instruction]

    @cached_property
    def loops(self) -> list[tuple[int, int]]:
        """First and last address of each loop; the last is that of its branch back."""
        backwards = ((x.target, x.address) for x in self.instructions if x.target is not None)
        return sorted((target, address) for target, address in backwards if target < address)

    @cached_property
    def main_loop(self) -> tuple[int, int] | None:
        """The first of the outermost loops with products; without one, the first outermost loop."""
        outermost = [
            (a, b) for a, b in self.loops if not any(c <= a and b <= d and (c, d) != (a, b) for c, d in self.loops)
        ]
        multiply = [x.address for x in self.instructions if x.kind in ("HGMMA", "HMMA")]
        with_products = [(a, b) for a, b in outermost if any(a <= address <= b for address in multiply)]
        candidates = with_products or outermost
        return candidates[0] if candidates else None

    def path(self, turns: int) -> list[Instruction]:
        """The instructions that a warp issues if the main loop turns so often, and every other loop once."""
        index = {x.address: place for place, x in enumerate(self.instructions)}
        found: list[Instruction] = []
        place, left = 0, turns - 1
        while place < len(self.instructions):
            x = self.instructions[place]
            found.append(x)
            if x.name == "EXIT" and not x.predicated:
                break
            place += 1
            if x.target is None or x.target == x.address:
                continue
            if x.target < x.address:
                if (x.target, x.address) == self.main_loop and left > 0:
                    left, place = left - 1, index[x.target]
            elif not x.predicated or self._is_rare(x.address, x.target):
                place = index[x.target]
        return found

    def _is_rare(self, start: int, end: int) -> bool:
        """Whether what a branch jumps over is rare: a loop or a call that the main loop does not consist of."""
        skipped = [loop for loop in self.loops if start < loop[0] and loop[1] < end]
        calls = any(x.name.startswith("CALL") and start < x.address < end for x in self.instructions)
        multiply = [x.address for x in self.instructions if x.kind in ("HGMMA", "HMMA")]
        holds_all = bool(multiply) and all(start < address < end for address in multiply)
        return self.main_loop not in skipped and not holds_all and (bool(skipped) or calls)
