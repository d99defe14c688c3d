"""Tests of tasks/measuring/failures.py."""

from __future__ import annotations

import pytest
import torch
import torch.nn.attention

from hedgebench.adapters.base import UnsupportedError
from hedgebench.tasks.measuring.failures import failure_status

FAILURES: list[tuple[Exception, str]] = [
    (torch.OutOfMemoryError("CUDA out of memory"), "oom"),
    (MemoryError(), "oom"),
    (RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory: you tried"), "oom"),
    (RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"), "oom"),
    (OSError(12, "Cannot allocate memory"), "oom"),
    (RuntimeError("No available kernel. Aborting execution."), "unsupported"),
    (UnsupportedError("no decoding"), "unsupported"),
    (NotImplementedError("no decoding"), "unsupported"),
    (TimeoutError("slow"), "timeout"),
]


@pytest.mark.parametrize(("error", "status"), FAILURES)
def test_limits_have_a_status(error: Exception, status: str) -> None:
    assert failure_status(error) == status


@pytest.mark.parametrize("error", [RuntimeError("shapes do not match"), ValueError("x"), KeyError("x")])
def test_mistakes_have_none(error: Exception) -> None:
    assert failure_status(error) is None


def test_what_torch_raises_for_too_much_memory_and_for_a_kernel_that_is_not_there_is_known() -> None:
    with pytest.raises(RuntimeError) as memory:
        torch.empty(1 << 60, dtype=torch.int8)
    assert failure_status(memory.value) == "oom"
    q = torch.zeros(1, 1, 4, 8)
    cudnn = torch.nn.attention.sdpa_kernel(torch.nn.attention.SDPBackend.CUDNN_ATTENTION)
    with cudnn, pytest.raises(RuntimeError) as kernel:
        torch.nn.functional.scaled_dot_product_attention(q, q, q)
    assert failure_status(kernel.value) == "unsupported"


def test_a_missing_compiler_is_told_by_the_type_behind_the_error() -> None:
    kind = type("InvalidCxxCompiler", (RuntimeError,), {})
    outer = RuntimeError("backend failed")
    outer.__cause__ = kind("no compiler")
    assert failure_status(outer) == "unsupported"
