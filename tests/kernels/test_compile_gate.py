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

PRODUCTS = ("sum_keys", "attend", "attend_sequentially", "sum_queries", "query_gradients", "key_gradients",
            "map_gradients")  # fmt: skip

SCANS = ("scan_keys", "scan_queries", "pull_rows")

SPILL_BYTES = {64: 960, 128: 1408}
"""What a thread may spill, by head dimension, in `CONFIGURATIONS`: the most that a kernel does, and a few percent."""

SWEPT_SPILL_BYTES = {64: 2048, 128: 7424, 256: 16384}
"""The same of the rest: operands of float32 take twice the registers, most of them in `exp`'s key gradients."""

DISTILLATION_SPILL_BYTES = {64: 1536, 128: 1536, 256: 2048}
"""Float32 operands take three TF32 products each, and twice the registers of bfloat16."""

WIDE_PRODUCTS = {"sum_wide_keys", "attend_wide", "sum_wide_queries", "wide_query_gradients", "wide_key_gradients",
                 "wide_value_gradients"}  # fmt: skip
WIDE_SPILL_BYTES = 0

WINDOW = ("attend_to_window", "window_query_gradients", "window_key_gradients")
WINDOW_SPILL_BYTES = 128
SWEPT_WINDOW_SPILL_BYTES = 320
"""The same in float32."""

FAR = {"sum_keys", "attend", "sum_queries", "query_gradients", "key_gradients", *SCANS}
"""Kernels of linear attention that the hybrid runs over keys that have left the window."""

CONFIGURATIONS = [(64, "exp", "bfloat16"), (64, "softmax", "bfloat16"), (128, "exp", "bfloat16"),
                  (48, "identity", "bfloat16"), (64, "softmax", "float16")]  # fmt: skip
"""Each kernel at least once in bfloat16 and float16, and by the map that takes most at 64 and 128 dimensions."""

QUICK = {(64, "softmax", "bfloat16"): {"attend", "key_gradients"},
         (128, "exp", "bfloat16"): {"attend_sequentially", "key_gradients"}}  # fmt: skip
"""Of these only the kernels that spill most; all of them with the rest."""

SWEEP = [(16, "exp", "bfloat16"), (80, "exp", "bfloat16"), (256, "identity", "bfloat16"), (64, "exp_max", "bfloat16"),
         (64, "softmax_joint", "bfloat16"), (128, "softmax", "bfloat16"), (128, "exp_max", "bfloat16"),
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


@pytest.mark.parametrize(("dim", "feature_map", "dtype"), CONFIGURATIONS)
def test_kernels_compile_for_hopper(compiled: Compiled, dim: int, feature_map: str, dtype: str) -> None:
    only = QUICK.get((dim, feature_map, dtype))
    kernels = compiled(f"compile_attention({dim}, {feature_map!r}, torch.{dtype}, only={only})")
    assert kernels.keys() == (only or {*PRODUCTS, *SCANS, "decode_tokens"} - _unused(feature_map))
    assert_within_budgets(kernels, dim, dtype)


@pytest.mark.slow
@pytest.mark.parametrize(("dim", "feature_map", "dtype"), QUICK)
def test_the_rest_of_their_kernels_compiles_for_hopper(
    compiled: Compiled, dim: int, feature_map: str, dtype: str
) -> None:
    kernels = compiled(f"compile_attention({dim}, {feature_map!r}, torch.{dtype})")
    assert kernels.keys() == {*PRODUCTS, *SCANS, "decode_tokens"}
    assert_within_budgets(kernels, dim, dtype)


@pytest.mark.slow
@pytest.mark.timeout(1800)
@pytest.mark.parametrize(("dim", "feature_map", "dtype"), SWEEP)
def test_kernels_of_other_maps_types_and_dimensions_compile_for_hopper(
    compiled: Compiled, dim: int, feature_map: str, dtype: str
) -> None:
    kernels = compiled(f"compile_attention({dim}, {feature_map!r}, torch.{dtype})")
    assert kernels.keys() == {*PRODUCTS, *SCANS, "decode_tokens"} - _unused(feature_map)
    assert_within_budgets(kernels, dim, dtype, SWEPT_SPILL_BYTES)


def test_kernels_compile_for_calls_that_see_both_ways_from_a_state(compiled: Compiled) -> None:
    kernels = compiled("compile_attention(64, 'exp', torch.bfloat16, causal=False, initial=True)")
    assert kernels.keys() == {*PRODUCTS, *SCANS} - {"attend_sequentially"}
    assert_within_budgets(kernels, 64, "bfloat16")


@pytest.mark.parametrize(("dim", "feature_map"), [(48, "identity"), pytest.param(64, "exp", marks=pytest.mark.slow)])
def test_kernels_that_start_from_a_state_compile_for_hopper(compiled: Compiled, dim: int, feature_map: str) -> None:
    names = ["attend_sequentially", "scan_keys"]
    kernels = compiled(f"compile_attention({dim}, {feature_map!r}, torch.bfloat16, initial=True, only={names})")
    assert list(kernels) == ["scan_keys", "attend_sequentially"]
    assert_within_budgets(kernels, dim, "bfloat16")


def assert_within_budgets(kernels: dict[str, Any], dim: int, dtype: str, budgets: dict[int, int] = SPILL_BYTES) -> None:
    """Holds products to tensor cores, where there are any for the type, and all to what a thread may spill.

    Tiles of float16, which TF32 takes, and of more than 128 columns have too few rows for those of warp groups, as have
    features, which stand upright, of at most 32 columns.
    """
    for name, kernel in kernels.items():
        assert kernel["spill_bytes"] <= next(most for size, most in budgets.items() if dim <= size), name
        if name in PRODUCTS and dtype == "bfloat16" and 32 < dim <= 128:
            assert kernel["wgmma"] > 0, name
        elif name in PRODUCTS and dtype != "float32":
            assert kernel["wgmma"] + kernel["mma"] > 0, name


def test_a_map_of_256_by_256_leaves_its_kernels_their_shared_memory(compiled: Compiled) -> None:
    """The one that takes most, of those that hold a single map or work in two passes."""
    kernels = compiled("compile_attention(256, 'exp_max', torch.bfloat16, only=['key_gradients'])")
    assert kernels.keys() == {"key_gradients"}


def _unused(feature_map: str) -> set[str]:
    return {"map_gradients"} if feature_map == "identity" else set()


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
    assert kernels.keys() >= WIDE_PRODUCTS
    for name in WIDE_PRODUCTS:
        assert kernels[name]["wgmma"] > 0, name
        assert kernels[name]["spill_bytes"] <= WIDE_SPILL_BYTES, name


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
            assert name in SCANS or kernel["wgmma"] + kernel["mma"] > 0, name
