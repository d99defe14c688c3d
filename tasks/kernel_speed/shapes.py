"""Shapes that attention kernels are timed at: flash-linear-attention's, FlashAttention's sweep, and any given."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass

_FORM = re.compile("x".join([r"([1-9]\d*)"] * 4))


@dataclass(frozen=True)
class KernelShape:
    """Sizes of a call, in the order in which flash-linear-attention and FlashAttention name them.

    Attributes:
        batch: Number of sequences.
        tokens: Tokens of each sequence.
        heads: Query heads, and as many key and value heads.
        head_dim: Dimension of a head of queries, keys and values.
        sweep: Name of the list in `SHAPES` that the shape is part of, in which the tokens determine all other sizes;
            empty for a single shape.
    """

    batch: int
    tokens: int
    heads: int
    head_dim: int
    sweep: str = ""

    @property
    def name(self) -> str:
        """The sizes as `parse_shapes` reads them."""
        return f"{self.batch}x{self.tokens}x{self.heads}x{self.head_dim}"

    @property
    def family(self) -> tuple[int, int]:
        """Heads of all sequences, and their dimension: of two shapes that share these, the longer takes more memory."""
        return self.batch * self.heads, self.head_dim

    def at(self) -> dict[str, int | str]:
        """The coordinates of a metric; in a sweep the tokens and its name alone, so that its shapes make one line."""
        if self.sweep:
            return {"seq_len": self.tokens, "sweep": self.sweep}
        return {"seq_len": self.tokens, "batch_size": self.batch, "heads": self.heads, "head_dim": self.head_dim}


def _shape(sizes: Iterable[str]) -> KernelShape:
    batch, tokens, heads, head_dim = map(int, sizes)
    return KernelShape(batch, tokens, heads, head_dim)


def _sweep(head_dim: int) -> tuple[KernelShape, ...]:
    """16,384 tokens per call in sequences from 512, then one sequence of up to 131,072; heads x head_dim is 2,048."""
    heads = 2048 // head_dim
    lengths = [2**power for power in range(9, 18)]
    name = f"sweep{head_dim}"
    return tuple(KernelShape(max(1, 16384 // tokens), tokens, heads, head_dim, name) for tokens in lengths)


SHAPES: dict[str, tuple[KernelShape, ...]] = {
    "fla": tuple(
        _shape(sizes.split("x"))
        for sizes in (
            *("1x8192x96x128", "2x16384x16x128", "4x2048x16x128"),
            *("4x4096x64x128", "8x2048x32x256", "8x1024x8x64"),
        )
    ),
    "sweep64": _sweep(64),
    "sweep128": _sweep(128),
}
"""Named lists: the six shapes of flash-linear-attention's benchmarks, and FlashAttention's sweep for two head sizes."""


def parse_shapes(text: str) -> tuple[KernelShape, ...]:
    """Shapes written as names of `SHAPES` and `BATCHxTOKENSxHEADSxHEAD_DIM`, joined by `+`.

    Raises:
        ValueError: A part is neither, or has a size of zero.
    """
    shapes: list[KernelShape] = []
    for part in text.split("+"):
        if part in SHAPES:
            shapes += SHAPES[part]
        elif match := _FORM.fullmatch(part):
            shapes.append(_shape(match.groups()))
        else:
            raise ValueError(
                f"shapes holds {part!r}; join {', '.join(SHAPES)} or shapes such as 4x2048x16x128 "
                "(batch, tokens, heads, head dimension) by '+'"
            )
    return tuple(dict.fromkeys(shapes))
