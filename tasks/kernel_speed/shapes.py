"""Shapes that attention kernels are timed at: flash-linear-attention's own, FlashAttention's sweep, and any given."""

from __future__ import annotations

import re
from dataclasses import dataclass

_FORM = re.compile(r"(\d+)x(\d+)x(\d+)x(\d+)")


@dataclass(frozen=True)
class KernelShape:
    """Sizes of a call, in the order in which flash-linear-attention and FlashAttention name them.

    Attributes:
        batch: Sequences.
        tokens: Tokens of each.
        heads: Query heads, and key and value heads.
        head_dim: Of queries, keys and values.
        sweep: Name of the list of `SHAPES` in which batch and heads follow from the tokens; empty for a shape alone.
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
        """What shapes share of which a longer one needs no less: tokens aside, the heads in all and their size."""
        return self.batch * self.heads, self.head_dim

    def at(self) -> dict[str, int | str]:
        """The coordinates of a metric: of a sweep its name and the tokens, so that they make one line."""
        if self.sweep:
            return {"seq_len": self.tokens, "sweep": self.sweep}
        return {"seq_len": self.tokens, "batch_size": self.batch, "heads": self.heads, "head_dim": self.head_dim}


def _sweep(head_dim: int) -> tuple[KernelShape, ...]:
    """16,384 tokens a call in sequences of 512 and more, then one of up to 131,072; 2,048 columns in all heads."""
    heads = 2048 // head_dim
    lengths = [2**power for power in range(9, 18)]
    name = f"sweep{head_dim}"
    return tuple(KernelShape(max(1, 16384 // tokens), tokens, heads, head_dim, name) for tokens in lengths)


SHAPES: dict[str, tuple[KernelShape, ...]] = {
    "fla": tuple(
        KernelShape(*sizes)
        for sizes in (
            (1, 8192, 96, 128),
            (2, 16384, 16, 128),
            (4, 2048, 16, 128),
            (4, 4096, 64, 128),
            (8, 2048, 32, 256),
            (8, 1024, 8, 64),
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
        match = _FORM.fullmatch(part)
        if part in SHAPES:
            shapes += SHAPES[part]
        elif match and min(sizes := [int(size) for size in match.groups()]) > 0:
            batch, tokens, heads, head_dim = sizes
            shapes.append(KernelShape(batch, tokens, heads, head_dim))
        else:
            raise ValueError(
                f"shapes holds {part!r}; join {', '.join(SHAPES)} or shapes such as 4x2048x16x128 "
                "(batch, tokens, heads, head dimension) by '+'"
            )
    return tuple(dict.fromkeys(shapes))
