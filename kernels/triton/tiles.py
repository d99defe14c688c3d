"""Tile and segment sizes of the Triton kernels, from fixed rules: without tuning at run time, no first call is slow.

Needs no torch, as what the kernels cost is counted from these sizes too.
"""

from __future__ import annotations

import os
from dataclasses import dataclass, replace
from functools import cache, cached_property
from typing import TYPE_CHECKING, Any, ClassVar

if TYPE_CHECKING:
    import torch

PROGRAMS = 132
"""Programs of eight warps that fill an H100 or H200, one for each multiprocessor; of four warps twice as many."""

COLUMNS = 64
"""Columns of features in a tile if they do not fit into one."""


@dataclass(frozen=True)
class Tiles:
    """Tile sizes and launch options of one call.

    Attributes:
        chunk: tokens in a tile, at least 16.
        block: fewest tokens of a segment, a multiple of `chunk`.
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
    """The compile-time constants of the kernels, their parameter `C`.

    Attributes:
        DIM: columns of q and k, rows of a map's matrix.
        VALUES: columns of v.
        CHUNK: tokens in a tile.
        BD: columns of a tile of q or k.
        BV: columns of a tile of values.
        OPERAND: type of the operands of products.
        PRECISION: precision of products.
        WIDTH: columns of one half of the features.
        BW: columns of a tile of one half of the features.
        HALVES: 2 for a map with both halves, else 1.
        MAP: a variant of `HedgehogMap`, or "identity" for features that are given.
        LOG: the map gives logarithms of features.
        CAUSAL: a query sees the keys up to its own.
        NORMALIZE: outputs are divided by the row sums.
        HAS_BIAS: the maps have biases.
        HAS_MASK: there is a padding mask.
        PACKED: sequences are packed one after another.
        GROUPS: query heads of a kv head.
        WINDOW: keys in the hybrid's window.
        SHIFT: the hybrid's window is shifted by its largest score.
    """

    DIM: int
    VALUES: int
    CHUNK: int
    BD: int
    BV: int
    OPERAND: Any
    PRECISION: str
    WIDTH: int = 0
    BW: int = 0
    HALVES: int = 1
    MAP: str = "identity"
    LOG: bool = False
    CAUSAL: bool = True
    NORMALIZE: bool = True
    HAS_BIAS: bool = False
    HAS_MASK: bool = False
    PACKED: bool = False
    GROUPS: int = 1
    WINDOW: int = 0
    SHIFT: bool = False

    UNIT: ClassVar[int] = 16
    """Equal columns that stand for a vector."""

    TAME: ClassVar[float] = 40.0
    """Largest log feature of which sums take the exponential as it is: e⁴⁰ times e⁴⁰ times a million is a float32."""

    LOG2_E: ClassVar[float] = 1.4426950408889634
    """The logarithm of e to the base 2: a GPU takes a fraction of exp's instructions for exp2."""

    @cached_property
    def _hash(self) -> int:
        return hash(tuple(getattr(self, name) for name in self.__match_args__))

    def __hash__(self) -> int:
        """Of all fields, once: Triton looks constants up at every launch."""
        return self._hash

    @property
    def FEATURES(self) -> int:
        """Number of features, both halves together."""
        return self.HALVES * self.WIDTH

    @property
    def CROWDED(self) -> bool:
        """Three matrices of TF32 operands, 64 KiB each, do not fit beside sums: one is read for each chunk."""
        return self.PRECISION == "tf32" and max(self.DIM, self.WIDTH, self.VALUES) > 64

    @property
    def LATE(self) -> bool:
        """Keys read the sums over queries after a chunk's queries are mapped, which takes fewer registers, by count."""
        return self.CAUSAL and self.GROUPS == 1 and not self.LOG


@cache
def with_tiles(constants: Constants, *, values: int, columns: int | None = None) -> Constants:
    """The constants with tiles of so many columns of values, and of plain features; one object for equal ones."""
    return replace(constants, BV=values, BD=columns or constants.BD, BW=columns or constants.BW)


@cache
def tiles_for(dtype: str, dim: int, width: int, values: int, *, wide: bool = False) -> Tiles:
    """The tiles for these sizes on a Hopper GPU; they are smaller if operands take four bytes.

    Args:
        dtype: name of the type of q, k and v.
        dim: columns of q and k.
        width: columns of one half of the features.
        values: columns of v.
        wide: features are read `COLUMNS` at a time, beside all columns of values.
    """
    if wide:
        warps = 4 if padded(values) <= 64 else 8
        return Tiles(64 if dtype == "bfloat16" else 32, 256, padded(values), warps, warps, 1)
    widest = max(padded(dim), padded(width), padded(values))
    if dtype == "bfloat16":
        # A product of 64 rows takes four warps; eight would compute it twice.
        small, large = Tiles(64, 256, padded(values), 4, 4, 2), Tiles(128, 512, padded(values), 8, 8, 1)
        return small if widest <= 64 else large if widest <= 128 else Tiles(64, 256, min(padded(values), 64), 8, 8, 1)
    return Tiles(32 if dtype == "float16" else 16, 256, min(padded(values), 32), 8, 8, 1)


def span_of(form: str, sizes: Tiles, *, tokens: Any, heads: Any, causal: bool = True) -> Any:
    """Tokens of a segment: as many segments as fill the chip, of `Tiles.block` tokens at least.

    Args:
        form: "fused_chunk" for one segment, "chunk" for two at least if the call is causal, or "auto".
        sizes: tiles of the call.
        tokens: tokens of each entry of the batch.
        heads: query heads of all entries together.
        causal: a query sees the keys up to its own.
    """
    fewest = 2 if form == "chunk" and causal else 1
    wanted = 1 if form == "fused_chunk" else max(fewest, PROGRAMS * 8 // sizes.warps // heads)
    return parts(parts(tokens, min(wanted, parts(tokens, sizes.block))), sizes.chunk) * sizes.chunk


def parts(size: Any, part: Any) -> Any:
    """The number of parts of a size, the last of which may be smaller."""
    return (size + part - 1) // part


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
    import torch
    import triton.language as tl

    if dtype == torch.bfloat16 and not interpreting():
        return {"OPERAND": tl.bfloat16, "PRECISION": "ieee"}
    return {"OPERAND": tl.float32, "PRECISION": "tf32" if dtype == torch.float16 else "ieee"}
