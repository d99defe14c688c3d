"""Compiles Triton kernels for a GPU that is not at hand, and reads what the compiler says of them."""

import re
import subprocess
import tempfile
from collections.abc import Container, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
import triton
from torch import Tensor
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource
from triton.runtime.jit import JITFunction

from hedgebench.kernels.distillation.call import DistillationCall
from hedgebench.kernels.distillation.launch import distill
from hedgebench.kernels.fused.call import Call
from hedgebench.kernels.fused.gradients import backward
from hedgebench.kernels.fused.launch import decode, forward
from hedgebench.kernels.hybrid.call import HybridCall
from hedgebench.kernels.hybrid.launch import hybrid_backward, hybrid_forward
from hedgebench.kernels.triton.backend import MAX_WIDTH

HOPPER = GPUTarget("cuda", 90, 32)
"""H100 and H200."""

SHARED_MEMORY_BYTES = 227 * 1024
"""What a block may take of a Hopper multiprocessor's shared memory."""

_TYPES = {
    torch.bfloat16: "bf16", torch.float16: "fp16", torch.float32: "fp32", torch.int32: "i32", torch.int64: "i64",
    torch.uint8: "u8", torch.bool: "u8",
}  # fmt: skip


@dataclass(frozen=True)
class Launch:
    """A kernel with the arguments it was launched with, and the programs along each axis of its grid."""

    kernel: Any
    arguments: dict[str, Any]
    options: dict[str, Any]
    grid: tuple[int, ...] = ()


@dataclass(frozen=True)
class CompiledKernel:
    """What the compiler says of a kernel.

    Attributes:
        name: of the kernel.
        registers: of each thread.
        spill_bytes: stored to local memory by each thread.
        shared_bytes: of each program.
        wgmma: instructions of Hopper's warp-group tensor cores in it.
        mma: instructions of the older kind.
        warps: of each program.
    """

    name: str
    registers: int
    spill_bytes: int
    shared_bytes: int
    wgmma: int
    mma: int
    warps: int = 4


@contextmanager
def recorded_launches() -> Iterator[list[Launch]]:
    """Collects the launches inside, and runs none of them: tensors may lie on any device."""
    launches: list[Launch] = []

    def record(kernel: Any, *args: Any, grid: tuple[int, ...], warmup: bool, **kwargs: Any) -> None:
        del warmup
        options: dict[str, Any] = {key: kwargs.pop(key) for key in ("num_warps", "num_stages") if key in kwargs}
        launches.append(Launch(kernel, {**dict(zip(kernel.arg_names, args, strict=False)), **kwargs}, options, grid))

    run = JITFunction.run
    setattr(JITFunction, "run", record)  # noqa: B010
    try:
        yield launches
    finally:
        setattr(JITFunction, "run", run)  # noqa: B010


def compile_launch(launch: Launch, target: GPUTarget = HOPPER) -> CompiledKernel:
    """Compiles a kernel as that launch would, and reads what the compiler says of it."""
    return described(launch, compiled_code(launch, target))


def described(launch: Launch, compiled: Any) -> CompiledKernel:
    """What the compiler says of a kernel that `compiled_code` compiled."""
    registers, spills = _resources(compiled.asm["cubin"])
    ptx: str = compiled.asm["ptx"]
    return CompiledKernel(launch.kernel.__name__, registers, spills, compiled.metadata.shared,
                          ptx.count("wgmma.mma_async"), len(re.findall(r"\bmma\.sync", ptx)),
                          compiled.metadata.num_warps)  # fmt: skip


def compiled_code(launch: Launch, target: GPUTarget = HOPPER) -> Any:
    """Compiles a kernel as that launch would: an integer of 1 becomes a constant, as Triton makes it one."""
    signature: dict[str, Any] = {}
    constants: dict[tuple[int, ...], Any] = {}
    aligned: dict[tuple[int, ...], list[list[Any]]] = {}

    def declare(value: Any, place: tuple[int, ...], parameter: Any) -> Any:
        """The type of an argument; of a tuple, the types of its parts."""
        if isinstance(value, tuple):
            return tuple(declare(part, (*place, index), parameter) for index, part in enumerate(value))
        if parameter.is_constexpr or value is None or (_is_one(value) and not parameter.do_not_specialize):
            constants[place] = value
            return "constexpr"
        if _divides(value) and not parameter.do_not_specialize:
            aligned[place] = [["tt.divisibility", 16]]
        return _type(value)

    for index, parameter in enumerate(launch.kernel.params):
        signature[parameter.name] = declare(launch.arguments[parameter.name], (index,), parameter)
    source = ASTSource(launch.kernel, signature, constants, aligned)
    return triton.compile(source, target=target, options=launch.options)


def compile_attention(
    dim: int,
    feature_map: str,
    dtype: torch.dtype,
    *,
    width: int | None = None,
    values: int | None = None,
    causal: bool = True,
    initial: bool = False,
    bare: bool = False,
    only: Container[str] | None = None,
) -> list[CompiledKernel]:
    """Compiles every kernel of forward, backward and decoding, for grouped queries with a padding mask and biases.

    Args:
        dim: d of queries and keys.
        feature_map: "identity", "exp", "exp_max", "softmax" or "softmax_joint".
        dtype: of all tensors.
        width: w, columns of W; d unless given.
        values: dv; d unless given.
        causal: a query sees the keys up to its own; without it there is no decoding.
        initial: there is a state before the first token.
        bare: without groups, mask and biases, as calls are benchmarked.
        only: names of the kernels to compile; all unless given.
    """
    call = _attention_call(dim, feature_map, dtype, width or dim, values or dim, causal, bare)
    with recorded_launches() as launches:
        ran = forward(call)
        state = {"initial_kv": ran.final.kv, "initial_k": ran.final.k, "initial_scale": ran.final.log_scale}
        if initial:
            call = replace(call, **state)  # type: ignore[arg-type]
            ran = forward(call)
        if causal and dim <= MAX_WIDTH:
            token = {name: getattr(call, name)[:, :, :1] for name in ("q", "k", "v")}
            decode(replace(call, **token, **state, mask=None), in_place=True)  # type: ignore[arg-type]
        backward(call, ran, ran.output)
    return _compile_distinct(launches, only)


def _attention_call(
    dim: int, feature_map: str, dtype: torch.dtype, width: int, values: int, causal: bool, bare: bool
) -> Call:
    plain = feature_map == "identity"
    heads, kv_heads, tokens = 4, 4 if bare else 2, 1024
    q, k, v = (torch.empty(2, h, tokens, size, dtype=dtype) for h, size in
               ((heads, dim), (kv_heads, dim), (kv_heads, values)))  # fmt: skip
    matrices = [None if plain else torch.empty(h, dim, width, dtype=dtype) for h in (heads, kv_heads)]
    vectors = [None if plain or bare else torch.empty(h, width, dtype=dtype) for h in (heads, kv_heads)]
    return Call(
        q=q, k=k, v=v, q_weight=matrices[0], k_weight=matrices[1], q_bias=vectors[0], k_bias=vectors[1],
        feature_map=feature_map, negate=not plain, causal=causal, normalize=True, eps=1e-12,
        mask=None if bare else torch.empty(2, tokens, dtype=torch.bool), log_space=feature_map == "exp", form="chunk",
    )  # fmt: skip


def _compile_distinct(launches: list[Launch], only: Container[str] | None = None) -> list[CompiledKernel]:
    """Compiles the last launch of each kernel, of all or of those named."""
    distinct = {launch.kernel.__name__: launch for launch in launches}
    return [compile_launch(launch) for name, launch in distinct.items() if only is None or name in only]


def compile_distillation(dim: int, features: int) -> list[CompiledKernel]:
    """Compiles every kernel of the distillation loss and its gradients, causal, with padding and grouped queries.

    Args:
        dim: d of the teacher's queries and keys.
        features: f of the student's.
    """
    tokens = 512
    q, phi_q = (torch.empty(2, 2, tokens, size) for size in (dim, features))
    k, phi_k = (torch.empty(2, tokens, size) for size in (dim, features))
    shares, padding = torch.empty(2, tokens), torch.empty(2, tokens, dtype=torch.bool)
    call = DistillationCall(q, k, phi_q, phi_k, shares, padding, True, 1e-12, False, None, True, "triton")
    with recorded_launches() as launches:
        distill(call, (phi_q, phi_k))
    return [compile_launch(launch) for launch in launches]


def compile_hybrid(
    dim: int, dtype: torch.dtype, *, log_space: bool = False, only: Container[str] | None = None
) -> list[CompiledKernel]:
    """Compiles the kernels of the hybrid, forward and backward, its far ones among them, with groups and a mask.

    Args:
        dim: d of queries, keys and values; features are twice as many.
        dtype: of all tensors, but for logarithms, which are float32.
        log_space: features are logarithms, and the window is not shifted; else they are bounded, and it is.
        only: names of the kernels to compile; all unless given.
    """
    tokens, window = 512, 64
    q, k, v = (torch.empty(2, heads, tokens, dim, dtype=dtype) for heads in (4, 2, 2))
    far_type = torch.float32 if log_space else dtype
    far_q, far_k = (torch.empty(2, heads, tokens - window, 2 * dim, dtype=far_type) for heads in (4, 2))
    gate, mask = torch.empty(4), torch.empty(2, tokens, dtype=torch.bool)
    call = HybridCall(q, k, v, far_q, far_k, gate, mask, window, 0.1, log_space, not log_space)
    with recorded_launches() as launches:
        rows, _ = hybrid_forward(call)
        hybrid_backward(call, rows, rows.output)
    return _compile_distinct(launches, only)


def _type(value: Any) -> str:
    if isinstance(value, Tensor):
        return "*" + _TYPES[value.dtype]
    return "fp32" if isinstance(value, float) else "i64" if abs(int(value)) >= 2**31 else "i32"


def _is_one(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value == 1


def _divides(value: Any) -> bool:
    return isinstance(value, Tensor) or (isinstance(value, int) and value % 16 == 0)


def _resources(cubin: bytes) -> tuple[int, int]:
    """Gives registers and local bytes of each thread, as the binary says."""
    tool = Path(triton.__file__).parent / "backends" / "nvidia" / "bin" / "cuobjdump"
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(cubin)
        file.flush()
        told = subprocess.run([tool, "-res-usage", file.name], capture_output=True, text=True, check=True).stdout
    match = re.search(r"REG:(\d+) STACK:(\d+)", told)
    if match is None:
        raise RuntimeError(f"cuobjdump told no registers: {told!r}")
    return int(match[1]), int(match[2])
