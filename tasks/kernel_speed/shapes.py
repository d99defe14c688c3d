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
        batch: Sequences.
        tokens: Tokens of each.
        heads: Query heads, and key and value heads.
        head_dim: Of queries, keys and values.
        sweep: Name of the list in `SHAPES` whose tokens determine batch and heads; empty for a single shape.
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
        """Heads of all sequences, and their size: of two shapes that share these, the longer needs no less memory."""
        return self.batch * self.heads, self.head_dim

    def at(self) -> dict[str, int | str]:
        """The coordinates of a metric; a sweep's are its name and the tokens, so that its shapes make one line."""
        if self.sweep:
            return {"seq_len": self.tokens, "sweep": self.sweep}
        return {"seq_len": self.tokens, "batch_size": self.batch, "heads": self.heads, "head_dim": self.head_dim}


def _shape(sizes: Iterable[str]) -> KernelShape:
    batch, tokens, heads, head_dim = map(int, sizes)
    return KernelShape(batch, tokens, heads, head_dim)


def _sweep(head_dim: int) -> tuple[KernelShape, ...]:
    """16,384 tokens per call in sequences of 512 or more, then one sequence of up to 131,072; 2,048 columns in all."""
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
        ValueError: Something that is neither, or a size of zero.
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
