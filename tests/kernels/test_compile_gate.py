"""Every kernel compiles for Hopper without a GPU: on its tensor cores, within its shared memory, with few spills.

Compilation needs Triton outside its interpreter, which these tests run under: a process of its own does it.
"""

import json
import os
import subprocess
import sys
from typing import Any

import pytest

pytest.importorskip("triton")

SHARED_MEMORY_BYTES = 227 * 1024

PRODUCTS = ("sum_keys", "attend", "attend_sequentially", "sum_queries", "query_gradients", "key_gradients",
            "map_gradients")  # fmt: skip

SPILL_BYTES = {64: 2048, 128: 4608}
"""What a thread may spill, by head dimension. Two halves of 128 features and their sums exceed 255 registers."""

DISTILLATION_SPILL_BYTES = {64: 1536, 128: 1536, 256: 2048}
"""Float32 operands take three TF32 products each, and twice the registers of bfloat16."""

WIDE_PRODUCTS = {"sum_wide_keys", "attend_wide", "sum_wide_queries", "wide_query_gradients", "wide_key_gradients",
                 "wide_value_gradients"}  # fmt: skip
WIDE_SPILL_BYTES = 0

WINDOW_SPILL_BYTES = 128

CONFIGURATIONS = [(64, "exp", "bfloat16"), (64, "softmax", "bfloat16"), (128, "softmax", "bfloat16"),
                  (48, "identity", "bfloat16"), (64, "softmax", "float32"), (64, "softmax", "float16")]  # fmt: skip

_PROGRAM = """
import dataclasses, json, sys, torch
from hedgebench.kernels.triton_compile import compile_attention, compile_distillation, compile_hybrid
kernels = {}
print(json.dumps([dataclasses.asdict(kernel) for kernel in kernels]))
"""


def compiled(call: str) -> dict[str, Any]:
    """What the compiler says of the kernels of a call, by name."""
    environment = {name: value for name, value in os.environ.items() if name != "TRITON_INTERPRET"}
    told = subprocess.run([sys.executable, "-c", _PROGRAM.format(call)], env=environment, capture_output=True,
                          text=True, check=False)  # fmt: skip
    assert told.returncode == 0, told.stderr[-2000:]
    kernels: dict[str, Any] = {kernel["name"]: kernel for kernel in json.loads(told.stdout.splitlines()[-1])}
    for name, kernel in kernels.items():
        assert kernel["shared_bytes"] <= SHARED_MEMORY_BYTES, name
    return kernels


@pytest.mark.parametrize(("dim", "feature_map", "dtype"), CONFIGURATIONS)
def test_kernels_compile_for_hopper(dim: int, feature_map: str, dtype: str) -> None:
    kernels = compiled(f"compile_attention({dim}, {feature_map!r}, torch.{dtype})")
    assert {*PRODUCTS, "scan_keys", "scan_queries", "pull_rows", "decode_tokens"} - kernels.keys() <= _unused(
        feature_map
    )
    for name, kernel in kernels.items():
        assert kernel["spill_bytes"] <= SPILL_BYTES[128 if dim > 64 else 64], name
        if name in PRODUCTS and dtype == "bfloat16":
            assert kernel["wgmma"] > 0, name
        if name in PRODUCTS and dtype == "float16":
            assert kernel["wgmma"] + kernel["mma"] > 0, name


def test_a_map_of_256_by_256_leaves_its_kernels_their_shared_memory() -> None:
    """The one that takes most, of those that hold a single map or work in two passes."""
    kernels = compiled("compile_attention(256, 'exp_max', torch.bfloat16, only=['key_gradients'])")
    assert kernels.keys() == {"key_gradients"}


def _unused(feature_map: str) -> set[str]:
    return {"map_gradients"} if feature_map == "identity" else set()


@pytest.mark.parametrize(("dim", "features"), [(64, 128), (128, 256), (256, 300)])
def test_distillation_kernels_compile_for_hopper(dim: int, features: int) -> None:
    kernels = compiled(f"compile_distillation({dim}, {features})")
    assert kernels.keys() == {"distill_rows", "distill_query_gradients", "distill_key_gradients"}
    for name, kernel in kernels.items():
        assert kernel["spill_bytes"] <= DISTILLATION_SPILL_BYTES[dim], name
        assert kernel["wgmma"] + kernel["mma"] > 0, name


def test_kernels_of_wide_features_compile_for_hopper() -> None:
    """Taylor's second-order map of 64 dimensions has 2,145 features."""
    kernels = compiled("compile_attention(2145, 'identity', torch.bfloat16, values=64)")
    assert kernels.keys() >= WIDE_PRODUCTS
    for name in WIDE_PRODUCTS:
        assert kernels[name]["wgmma"] > 0, name
        assert kernels[name]["spill_bytes"] <= WIDE_SPILL_BYTES, name


@pytest.mark.parametrize("dim", [64, 128])
def test_kernels_of_the_window_compile_for_hopper(dim: int) -> None:
    kernels = compiled(f"compile_hybrid({dim}, torch.bfloat16)")
    assert kernels.keys() == {"attend_to_window", "window_query_gradients", "window_key_gradients"}
    for name, kernel in kernels.items():
        assert kernel["wgmma"] > 0, name
        assert kernel["spill_bytes"] <= WINDOW_SPILL_BYTES, name
