"""Tile sizes of the Triton kernels, from fixed rules: without tuning at run time, no first call is slow."""

import os
from dataclasses import dataclass
from typing import Any

import torch

from .backend import MAX_WIDTH

PROGRAMS = 132
"""Programs that fill an H100 or H200, one for each of its 132 multiprocessors."""

WIDE_TILE = 64
"""Columns of features in a tile if there are more than `MAX_WIDTH` features."""


@dataclass(frozen=True)
class Tiles:
    """Tile sizes and launch options of one call.

    Attributes:
        chunk: tokens in a tile, at least 16.
        block: tokens between two stored states; a multiple of `chunk`.
        values: columns of values that a program of the forward kernels holds.
        warps: warps of a program of the forward kernels and of the sums.
        backward_warps: warps of a program of the gradient kernels.
        stages: stages of the software pipeline.

    Raises:
        ValueError: a chunk below 16 tokens, or one that does not divide the block.
    """

    chunk: int
    block: int
    values: int
    warps: int
    backward_warps: int
    stages: int

    def __post_init__(self) -> None:
        if self.chunk < 16 or self.block % self.chunk:
            raise ValueError(f"tiles need chunks of 16 tokens or more that divide the block, got {self}")


@dataclass(frozen=True)
class Constants:
    """The compile-time constants of the kernels of linear attention, their parameter `C`.

    Attributes:
        DIM: columns of q and k, rows of a map's matrix.
        WIDTH: columns of one half of the features.
        VALUES: columns of v.
        HALVES: 2 for a map with both halves, else 1.
        MAP: a code of `features.MAP_CODES`.
        LOG: the map gives logarithms of features.
        CAUSAL: a query sees the keys up to its own.
        NORMALIZE: outputs are divided by the row sums.
        HAS_BIAS: the maps have biases.
        HAS_MASK: there is a padding mask.
        BLOCK: tokens between two stored states.
        CHUNK: tokens in a tile.
        BD: columns of a tile of q or k.
        BW: columns of a tile of one half of the features.
        BF: columns of a tile of features that do not fit into one.
        BV: columns of a tile of values.
        OPERAND: type of the operands of products.
        PRECISION: precision of products.
    """

    DIM: int
    WIDTH: int
    VALUES: int
    HALVES: int
    MAP: int
    LOG: bool
    CAUSAL: bool
    NORMALIZE: bool
    HAS_BIAS: bool
    HAS_MASK: bool
    BLOCK: int
    CHUNK: int
    BD: int
    BW: int
    BF: int
    BV: int
    OPERAND: Any
    PRECISION: str

    @property
    def FEATURES(self) -> int:
        """Number of features, both halves together."""
        return self.HALVES * self.WIDTH


def tiles_for(dtype: torch.dtype, dim: int, width: int, values: int, log_space: bool, *, mapped: bool = True) -> Tiles:
    """The tiles for these sizes on a Hopper GPU.

    They are smaller if operands take four bytes, and if a map's matrix of more than 128 rows and columns takes most of
    the shared memory. More than `MAX_WIDTH` features are read `WIDE_TILE` at a time, and their states, which are large,
    are stored half as often.

    Args:
        dtype: type of q, k and v.
        dim: columns of q and k.
        width: columns of one half of the features.
        values: columns of v.
        log_space: the map gives logarithms of features.
        mapped: the kernels apply a map.
    """
    if width > MAX_WIDTH:
        chunk = 64 if dtype == torch.bfloat16 else 32
        return Tiles(chunk, 512, min(padded(values), 64), 4, 8, 2 if dtype == torch.bfloat16 else 1)
    widest = max(padded(dim), padded(width), padded(values))
    if dtype == torch.bfloat16:
        chunk = 64 if widest <= 128 else 16 if mapped and min(padded(dim), padded(width)) > 128 else 32
        # Four warps take 64 rows of a tensor-core product; eight would compute products of 64 rows twice.
        warps = 4 if widest <= 64 else 8
        return Tiles(chunk, 256, min(padded(values), 64 if widest > 64 or log_space else 128), warps, warps, 2)
    chunk = 32 if dtype == torch.float16 and widest <= 128 else 16
    return Tiles(chunk, 256, min(padded(values), 32), 8, 8, 1)


def padded(size: int) -> int:
    """The width of a tile for `size` columns: a power of two of at least 16."""
    return max(16, 1 << (size - 1).bit_length())


def interpreting() -> bool:
    """Whether kernels run in Triton's interpreter, which takes CPU tensors and has no limit of shared memory."""
    return os.environ.get("TRITON_INTERPRET") == "1"


def operands(dtype: torch.dtype) -> dict[str, Any]:
    """The type and the precision of the operands of products, `OPERAND` and `PRECISION` of `Constants`.

    bfloat16 inputs are multiplied as they are. float16 inputs are multiplied in TF32, which has the same mantissa and a
    wider range. The interpreter of triton 3.9 computes bfloat16 products wrongly, so its operands are float32.
    """
    import triton.language as tl

    if dtype == torch.bfloat16 and not interpreting():
        return {"OPERAND": tl.bfloat16, "PRECISION": "ieee"}
    return {"OPERAND": tl.float32, "PRECISION": "tf32" if dtype == torch.float16 else "ieee"}


def state_dtype(dtype: torch.dtype) -> torch.dtype:
    """The type in which the sums before blocks are stored, which is that of the products that read them."""
    return torch.bfloat16 if dtype == torch.bfloat16 and not interpreting() else torch.float32
