"""What one call of the fused kernels is given, what it gives, and what all launches take from it."""

from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from ..state import LinearState
from ..triton.block_tables import BlockTable, batch_table, packed_table
from ..triton.features import MAP_CODES
from ..triton.tiles import MAX_WIDTH, WIDE_TILE, Tiles, operands, padded, tiles_for

MAX_GRID = (2**31 - 1, 65_535, 65_535)
"""Programs that CUDA starts along each axis of a grid at most."""


@dataclass(frozen=True)
class FusedCall:
    """One call's tensors and options; shapes as of `hedgehog.chunk_hedgehog_attn`.

    Attributes:
        feature_map: a key of `MAP_CODES`.
        log_space: features are exp of what the map gives.
        mask: [b n] uint8 or bool, true at real tokens.
        tiles: unless given, those of `tiles_for`.
    """

    q: Tensor
    k: Tensor
    v: Tensor
    q_weight: Tensor | None
    k_weight: Tensor | None
    q_bias: Tensor | None
    k_bias: Tensor | None
    feature_map: str
    negate: bool
    causal: bool
    normalize: bool
    eps: float
    mask: Tensor | None
    cu_seqlens: Tensor | None
    initial: LinearState | None
    log_space: bool
    tiles: Tiles | None = None

    @cached_property
    def sizes(self) -> Tiles:
        """The tiles in use."""
        mapped = self.q_weight is not None
        sizes = (self.q.dtype, self.dim, self.width, self.values, self.log_space)
        return self.tiles or tiles_for(*sizes, mapped=mapped)

    @property
    def dim(self) -> int:
        """d, of queries and keys."""
        return self.q.shape[-1]

    @property
    def width(self) -> int:
        """w, columns of one half of the features."""
        return self.dim if self.q_weight is None else self.q_weight.shape[-1]

    @property
    def wide(self) -> bool:
        """Whether features are too many for one tile."""
        return self.width > MAX_WIDTH

    @property
    def values(self) -> int:
        """dv."""
        return self.v.shape[-1]

    @property
    def features(self) -> int:
        """f, both halves together."""
        return self.width * (2 if self.negate else 1)

    @cached_property
    def table(self) -> BlockTable:
        """Where the blocks lie."""
        tokens, block, device = self.q.shape[2], self.sizes.block, self.q.device
        if self.cu_seqlens is None:
            return batch_table(self.q.shape[0], tokens, block, device)
        return packed_table(self.cu_seqlens, tokens, block, device)

    def constants(self) -> dict[str, Any]:
        """What every kernel is compiled for."""
        return {
            "DIM": self.dim,
            "WIDTH": self.width,
            "VALUES": self.values,
            "HALVES": 2 if self.negate else 1,
            "MAP": MAP_CODES[self.feature_map],
            "LOG": self.log_space,
            "HAS_BIAS": self.q_bias is not None,
            "CHUNK": self.sizes.chunk,
            "BD": padded(self.dim),
            "BW": padded(self.width),
            **operands(self.q.dtype),
        }

    def wide_constants(self) -> dict[str, Any]:
        """What the kernels of wide features are compiled for, the values' tile excepted."""
        sizes = self.sizes
        return {
            "FEATURES": self.features, "VALUES": self.values, "BLOCK": sizes.block, "CHUNK": sizes.chunk,
            "BF": WIDE_TILE, **operands(self.q.dtype), "num_stages": sizes.stages,
        }  # fmt: skip

    def queries(self) -> tuple[Tensor, ...]:
        """W and b of the queries, or stand-ins that no kernel reads."""
        return stand_in(self.q_weight, self.q), stand_in(self.q_bias, self.q)

    def keys(self) -> tuple[Tensor, ...]:
        """W and b of the keys, or stand-ins that no kernel reads."""
        return stand_in(self.k_weight, self.k), stand_in(self.k_bias, self.k)

    def state_like(self, count: int, dtype: torch.dtype, *, shifts: bool = True) -> "Sums":
        """Empty sums for `count` blocks or sequences, each in memory of its own: an operator may return them.

        Without `shifts`, as outside log space, no kernel reads a shift of theirs, and the vector stands in for both.
        """
        shape, device = (count, self.k.shape[1], self.features), self.q.device
        matrix = torch.empty(*shape, self.values, dtype=dtype, device=device)
        vector = torch.empty(shape, dtype=torch.float32, device=device)
        if not (shifts and self.log_space):
            return Sums(matrix, vector, vector, vector)
        return Sums(matrix, vector, torch.empty_like(vector), torch.empty_like(vector))


@dataclass(frozen=True)
class Sums:
    """Sums of blocks or sequences.

    Attributes:
        matrix: [count hk f dv].
        vector: [count hk f].
        before: [count hk f], shift of the keys before a block.
        through: [count hk f], shift of the keys through it.
    """

    matrix: Tensor
    vector: Tensor
    before: Tensor
    through: Tensor


@dataclass(frozen=True)
class Forward:
    """Output, what the backward pass needs of it, the state after the last key, and the form that ran."""

    output: Tensor
    norms: Tensor
    final: LinearState
    form: str


@dataclass(frozen=True)
class Gradients:
    """Gradients of everything that has one; None where nothing was given."""

    q: Tensor
    k: Tensor
    v: Tensor
    q_weight: Tensor | None
    k_weight: Tensor | None
    q_bias: Tensor | None
    k_bias: Tensor | None
    initial: LinearState | None


def initial_tensors(call: FusedCall, unread: Sums) -> tuple[Tensor, Tensor, Tensor]:
    """Gives the initial state's tensors in float32 and contiguous, or stand-ins that no kernel reads."""
    state = call.initial
    if state is None:
        return unread.matrix, unread.vector, unread.through
    tensors = (state.kv, state.k, stand_in(state.log_scale, state.k))
    kv, keys, scale = (x.to(torch.float32).contiguous() for x in tensors)
    return kv, keys, scale


def mask_of(call: FusedCall) -> Tensor:
    """Gives the padding mask in bytes, or a stand-in that no kernel reads."""
    return call.table.spans if call.mask is None else call.mask.view(torch.uint8)


def launch(kernel: Any, grid: tuple[int, ...], first: Tensor, *arguments: Any, **constants: Any) -> None:
    """Launches a kernel on the device of its first argument, whichever device is current.

    The kernel's type, as Triton declares it, knows neither tensors nor launch options.

    Raises:
        ValueError: more programs along an axis than CUDA starts.
    """
    if any(programs > limit for programs, limit in zip(grid, MAX_GRID, strict=False)):
        raise ValueError(f"{kernel.__name__} would need a grid of {grid} programs, CUDA starts up to {MAX_GRID}")
    with torch.cuda.device(first.get_device() if first.is_cuda else -1):
        kernel[grid](first, *arguments, **constants)


def strides_of(tensor: Tensor) -> tuple[int, int, int]:
    """Gives the strides of batch, heads and tokens."""
    return tensor.stride(0), tensor.stride(1), tensor.stride(2)


def stand_in(tensor: Tensor | None, other: Tensor) -> Tensor:
    """Gives a tensor, or another that no kernel reads."""
    return other if tensor is None else tensor
