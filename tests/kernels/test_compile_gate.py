"""Every kernel compiles for Hopper without a GPU: on its tensor cores, within its shared memory, with few spills.

Compilation needs Triton outside its interpreter, which these tests run under: a process of its own does all of it.
"""

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from .other_process import other_process

triton = pytest.importorskip("triton")

SPILLS_MORE = 1.2 if triton.__version__.startswith("3.6.") else 1.0
"""Budgets of spills are for triton 3.9; the oldest that is supported spills up to a fifth more."""

SHARED_MEMORY_BYTES = 227 * 1024

PRODUCTS = ("sum_keys", "walk", "query_walk", "sum_queries", "key_walk")

SPILL_BYTES = {64: 1536, 128: 4608}
"""What a thread may spill, by head dimension, in `CONFIGURATIONS`: the most that a kernel does, and a few percent."""

SWEPT_SPILL_BYTES = {64: 8192, 128: 24576, 256: 24576}
"""The same of the rest: operands of float32 take twice the registers."""

DISTILLATION_SPILL_BYTES = {64: 1536, 128: 1536, 256: 2048}
"""Float32 operands take three TF32 products each, and twice the registers of bfloat16."""

WIDE_SPILL_BYTES = 224

WINDOW = ("attend_to_window", "window_query_gradients", "window_key_gradients")
WINDOW_SPILL_BYTES = 128
SWEPT_WINDOW_SPILL_BYTES = 320
"""The same in float32."""

FAR = {"sum_keys", "walk", "query_walk", "sum_queries", "key_walk"}
"""Kernels of linear attention that the hybrid runs over keys that have left the window."""

CONFIGURATIONS = [(64, "exp", "bfloat16", False), (64, "softmax", "bfloat16", True),
                  (128, "softmax", "bfloat16", True), (48, "identity", "bfloat16", False),
                  (64, "softmax", "float16", False)]  # fmt: skip
"""Each kernel at least once in bfloat16 and float16, at 64 and 128 dimensions.

Bare ones, without groups, mask and biases, are those that are benchmarked.
"""

SWEEP = [(16, "exp", "bfloat16"), (80, "exp", "bfloat16"), (256, "identity", "bfloat16"), (64, "exp_max", "bfloat16"),
         (64, "softmax_joint", "bfloat16"), (128, "exp", "bfloat16"), (128, "exp_max", "bfloat16"),
         (128, "exp", "float16"), (128, "softmax", "float16"), (64, "exp", "float32"), (64, "exp", "float16"),
         (64, "softmax", "float32"), (128, "softmax", "float32"), (128, "exp", "float32")]  # fmt: skip
"""The rest of maps, types and dimensions: minutes of compilation."""

Compiled = Callable[[str], dict[str, Any]]

_PROGRAM = """
import dataclasses, json, sys, torch
sys.path[:0] = [{folder!r}] if {folder!r} not in sys.path else []
from triton_compile import compile_attention, compile_distillation, compile_hybrid
kernels = {call}
print(json.dumps([dataclasses.asdict(kernel) for kernel in kernels]))
"""


@pytest.fixture(scope="module")
def compiled() -> Iterator[Compiled]:
    """Gives what the compiler says of the kernels of a call, by name."""
    with other_process("TRITON_INTERPRET") as process:

        def compiled(call: str) -> dict[str, Any]:
            told = process.run(_PROGRAM.format(folder=str(Path(__file__).parent), call=call))
            kernels: dict[str, Any] = {kernel["name"]: kernel for kernel in json.loads(told.splitlines()[-1])}
            for name, kernel in kernels.items():
                assert kernel["shared_bytes"] <= SHARED_MEMORY_BYTES, name
                kernel["spill_bytes"] /= SPILLS_MORE
            return kernels

        yield compiled


@pytest.mark.parametrize(("dim", "feature_map", "dtype", "bare"), CONFIGURATIONS)
def test_kernels_compile_for_hopper(compiled: Compiled, dim: int, feature_map: str, dtype: str, bare: bool) -> None:
    kernels = compiled(f"compile_attention({dim}, {feature_map!r}, torch.{dtype}, bare={bare})")
    assert kernels.keys() == {*PRODUCTS, "decode_tokens"}
    assert_within_budgets(kernels, dim, dtype)


@pytest.mark.slow
@pytest.mark.timeout(1800)
@pytest.mark.parametrize(("dim", "feature_map", "dtype"), SWEEP)
def test_kernels_of_other_maps_types_and_dimensions_compile_for_hopper(
    compiled: Compiled, dim: int, feature_map: str, dtype: str
) -> None:
    kernels = compiled(f"compile_attention({dim}, {feature_map!r}, torch.{dtype})")
    assert kernels.keys() == {*PRODUCTS, "decode_tokens"}
    assert_within_budgets(kernels, dim, dtype, SWEPT_SPILL_BYTES)


def test_kernels_compile_for_calls_that_see_both_ways_from_a_state(compiled: Compiled) -> None:
    kernels = compiled("compile_attention(64, 'exp', torch.bfloat16, causal=False, initial=True)")
    assert kernels.keys() == set(PRODUCTS)
    assert_within_budgets(kernels, 64, "bfloat16")


def test_keys_of_grouped_queries_find_room_in_shared_memory_at_128_dimensions(compiled: Compiled) -> None:
    """A loop over query heads keeps the operands of keys and values, which bare calls need no longer."""
    kernels = compiled("compile_attention(128, 'softmax', torch.bfloat16, only={'key_walk'})")
    assert kernels.keys() == {"key_walk"}
    assert_within_budgets(kernels, 128, "bfloat16", SWEPT_SPILL_BYTES)


def assert_within_budgets(kernels: dict[str, Any], dim: int, dtype: str, budgets: dict[int, int] = SPILL_BYTES) -> None:
    """Holds products to tensor cores, where there are any for the type, and all to what a thread may spill.

    Tiles of float16, which TF32 takes, have too few rows for those of warp groups, as have sums of at most 32 features.
    """
    for name, kernel in kernels.items():
        assert kernel["spill_bytes"] <= next(most for size, most in budgets.items() if dim <= size), name
        if name in PRODUCTS and dtype == "bfloat16" and 32 < dim <= 128:
            assert kernel["wgmma"] > 0, name
        elif name in PRODUCTS and dtype != "float32":
            assert kernel["wgmma"] + kernel["mma"] > 0, name


@pytest.mark.parametrize(("dim", "features"), [(64, 128), pytest.param(128, 256, marks=pytest.mark.slow), (256, 300)])
def test_distillation_kernels_compile_for_hopper(compiled: Compiled, dim: int, features: int) -> None:
    kernels = compiled(f"compile_distillation({dim}, {features})")
    assert kernels.keys() == {"distill_rows", "distill_query_gradients", "distill_key_gradients"}
    for name, kernel in kernels.items():
        assert kernel["spill_bytes"] <= DISTILLATION_SPILL_BYTES[dim], name
        assert kernel["wgmma"] + kernel["mma"] > 0, name


def test_kernels_of_wide_features_compile_for_hopper(compiled: Compiled) -> None:
    """Taylor's second-order map of 64 dimensions has 2,145 features."""
    kernels = compiled("compile_attention(2145, 'identity', torch.bfloat16, values=64)")
    assert kernels.keys() == set(PRODUCTS)
    for name, kernel in kernels.items():
        assert kernel["wgmma"] > 0, name
        assert kernel["spill_bytes"] <= WIDE_SPILL_BYTES, name


@pytest.mark.parametrize("dim", [64, 128])
def test_kernels_of_the_window_compile_for_hopper(compiled: Compiled, dim: int) -> None:
    kernels = compiled(f"compile_hybrid({dim}, torch.bfloat16, only={list(WINDOW)})")
    assert kernels.keys() == set(WINDOW)
    for name, kernel in kernels.items():
        assert kernel["wgmma"] > 0, name
        assert kernel["spill_bytes"] <= WINDOW_SPILL_BYTES, name


def test_kernels_of_far_keys_compile_for_hopper(compiled: Compiled) -> None:
    kernels = compiled(f"compile_hybrid(64, torch.bfloat16, only={sorted(FAR)})")
    assert kernels.keys() == FAR
    assert_within_budgets(kernels, 64, "bfloat16")


@pytest.mark.slow
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("log_space", [False, True])
@pytest.mark.parametrize("dtype", ["bfloat16", "float16", "float32"])
@pytest.mark.parametrize("dim", [64, 128])
def test_kernels_of_every_hybrid_compile_for_hopper(compiled: Compiled, dim: int, dtype: str, log_space: bool) -> None:
    kernels = compiled(f"compile_hybrid({dim}, torch.{dtype}, log_space={log_space})")
    assert kernels.keys() == {*FAR, *WINDOW}
    for name, kernel in kernels.items():
        window_budget = SWEPT_WINDOW_SPILL_BYTES if dtype == "float32" else WINDOW_SPILL_BYTES
        assert kernel["spill_bytes"] <= (SWEPT_SPILL_BYTES[dim] if name in FAR else window_budget), name
        if dtype != "float32" and (name in WINDOW or not log_space):
            assert kernel["wgmma"] + kernel["mma"] > 0, name
