"""The static roofline: known answers of its parts, and ceilings that our kernels must not fall below."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from .other_process import other_process
from .roofline.expected import CEILING_PERCENT
from .roofline.replay import Shape, pipe_cycles, replay
from .roofline.sass import Code, Instruction, parse

triton = pytest.importorskip("triton")

ONE_WARP_EACH = Shape(warps=4, registers=255, shared_bytes=200 * 1024)
"""One program on a multiprocessor, one warp on each scheduler."""


def instruction(address: int, text: str, *, predicated: bool = False, stall: int = 1, **others: Any) -> Instruction:
    return Instruction(16 * address, text, predicated, stall, others.get("sets", (None, None)), others.get("waits", ()))


def test_a_listing_is_read_with_its_control_bits() -> None:
    """Of a kernel that ptxas compiled: a load that sets barrier 2, and a product that waits for it."""
    listing = """
        /*0110*/                   LDG.E.128 R8, desc[UR4][R2.64] ;          /* 0x0000000402087981 */
                                                                             /* 0x000ea8000c1e1d00 */
        /*0120*/              @!P0 BRA 0x110 ;                               /* 0x0000000000f08947 */
                                                                             /* 0x004fea000383ffff */
    """
    load, branch = parse(listing)
    assert (load.name, load.kind, load.words, load.sets, load.stall) == ("LDG.E.128", "GLOBAL", 4, (2, None), 4)
    assert (branch.predicated, branch.target, branch.waits) == (True, 0x110, (2,))


def test_a_path_turns_the_main_loop_and_passes_over_what_is_rare() -> None:
    code = Code([
        instruction(0, "MOV R1, R2"),
        instruction(1, "HGMMA.64x64x16.F32.BF16 R24, gdesc[UR4], R24"),
        instruction(2, "BRA 0x50", predicated=True),
        instruction(3, "FADD R1, R1, R2"),
        instruction(4, "BRA 0x30", predicated=True),
        instruction(5, "BRA 0x10", predicated=True),
        instruction(6, "EXIT"),
        instruction(7, "BRA 0x70"),
    ])  # fmt: skip
    assert code.main_loop == (0x10, 0x50)
    assert [x.address // 16 for x in code.path(2)] == [0, 1, 2, 5, 1, 2, 5, 6]


def test_without_a_main_loop_behind_it_a_branch_over_the_loop_is_not_taken() -> None:
    code = Code([
        instruction(0, "BRA 0x30", predicated=True),
        instruction(1, "HMMA.16816.F32.BF16 R4, R8, R12, R4"),
        instruction(2, "BRA 0x10", predicated=True),
        instruction(3, "EXIT"),
    ])  # fmt: skip
    assert len(code.path(3)) == 1 + 3 * 2 + 1


@pytest.mark.parametrize(
    ("text", "cycles", "pipe"),
    [("FFMA R1, R2, R3, R1", 1, "FMA"), ("LOP3.LUT R1, R2, R3", 2, "ALU"), ("MUFU.EX2 R1, R2", 8, "MUFU")],
)
def test_a_busy_pipe_sets_the_pace(text: str, cycles: int, pipe: str) -> None:
    path = [instruction(place, text) for place in range(1000)]
    assert pipe_cycles(path, ONE_WARP_EACH)[pipe] == cycles * 1000
    assert replay(path, ONE_WARP_EACH) == pytest.approx(cycles * 1000, rel=0.01)


def test_a_second_program_hides_the_latency_of_the_first() -> None:
    chain = [
        x
        for place in range(0, 400, 2)
        for x in (
            instruction(place, "MUFU.EX2 R1, R1", sets=(0, None)),
            instruction(place + 1, "FADD R1, R1, R1", waits=(0,), stall=4),
        )
    ]
    two = Shape(warps=4, registers=255, shared_bytes=100 * 1024)
    assert (ONE_WARP_EACH.occupancy, two.occupancy) == (1, 2)
    assert replay(chain, two) == pytest.approx(replay(chain, ONE_WARP_EACH) / 2, rel=0.05)


def test_products_and_memory_are_counted_in_their_own_cycles() -> None:
    path = [
        instruction(0, "HGMMA.64x128x16.F32.BF16 R24, gdesc[UR4], R24"),
        instruction(1, "LDS.128 R4, [R8]"),
        instruction(2, "STL.64 [R1], R4"),
    ]
    cycles = pipe_cycles(path, ONE_WARP_EACH)
    assert (cycles["HGMMA"], cycles["SMEM"], cycles["LOCAL"], cycles["issue"]) == (64, 16, 8, 3)


@pytest.mark.parametrize(
    ("shape", "programs"),
    [(Shape(4, 255, 48 * 1024), 2), (Shape(4, 128, 48 * 1024), 4), (Shape(8, 255, 1024), 1), (Shape(4, 32, 0), 16)],
)
def test_registers_shared_memory_and_warps_limit_the_programs(shape: Shape, programs: int) -> None:
    assert shape.occupancy == programs


Counted = Callable[[str], dict[str, Any]]


@pytest.fixture(scope="module")
def counted() -> Iterator[Counted]:
    """Gives an operator by count; it needs Triton outside its interpreter, which these tests run under."""
    with other_process("TRITON_INTERPRET") as process:

        def counted(call: str) -> dict[str, Any]:
            folder = str(Path(__file__).parents[1])
            told = process.run(
                f"import json, sys\nsys.path[:0] = [{folder!r}]\n"
                "from kernels.roofline.__main__ import as_row\nfrom kernels.roofline.count import Variant, roofline\n"
                f"print(json.dumps(as_row(roofline({call}))))"
            )
            row: dict[str, Any] = json.loads(told.splitlines()[-1])
            return row

        yield counted


@pytest.mark.skipif(triton.__version__.startswith("3.6."), reason="ceilings are those of the newest triton")
@pytest.mark.parametrize(
    ("feature_map", "dim", "work"),
    [pytest.param(*key, marks=[pytest.mark.slow] if key[1:] == (128, "backward") else []) for key in CEILING_PERCENT],
)
def test_no_ceiling_falls_below_what_was_reached(counted: Counted, feature_map: str, dim: int, work: str) -> None:
    found = counted(f"Variant({feature_map!r}, {dim}), {work!r}")
    least = CEILING_PERCENT[feature_map, dim, work]
    assert least <= found["ceiling_percent"] <= 100, f"{found['ceiling_percent']:.1f}% of the roofline by count"
    assert found["ceiling_ms"] <= found["replayed_ms"] * 1.01
    if feature_map == "softmax":  # it has no exact path, so every product of the code is counted
        assert [each["products_left_out"] for each in found["kernels"]] == [0] * len(found["kernels"])


@pytest.mark.slow
@pytest.mark.parametrize("dim", [64, 128])
@pytest.mark.parametrize("feature_map", ["softmax", "exp"])
def test_a_mask_biases_and_groups_cost_few_issue_slots(counted: Counted, feature_map: str, dim: int) -> None:
    plain, masked = (
        counted(f"Variant({feature_map!r}, {dim}, masked={masked}), 'forward'") for masked in (False, True)
    )
    assert masked["ceiling_percent"] > 0.7 * plain["ceiling_percent"]


def test_decoding_is_bound_by_memory(counted: Counted) -> None:
    assert counted("Variant('softmax', 64), 'decode'")["ceiling_percent"] > 90
