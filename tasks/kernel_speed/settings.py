"""Settings of the tasks `kernels/*`."""

from __future__ import annotations

from dataclasses import dataclass

from ...results.names import unknown_name
from ..measuring.timing import Repeats
from .shapes import KernelShape, parse_shapes
from .workloads import WORKS

DTYPES = ("auto", "bfloat16", "float16", "float32")


@dataclass(frozen=True)
class KernelSettings:
    """What is timed.

    Attributes:
        shapes: Names of `kernel_shapes.SHAPES` and BATCHxTOKENSxHEADSxHEAD_DIM, joined by `+`.
        contenders: Names joined by `+`, or `all`.
        dtype: Of all tensors: `auto` is bfloat16 on CUDA and float32 on the CPU.
        repeats: Timed calls at least.
        min_time_ms: Time over which calls are repeated at least, but no more than 20 times `repeats`.
        warmup: Calls before timing, at most, once `min_warmup_ms` are over; 0 for none.
        min_warmup_ms: Time over which calls warm up at least.
        max_call_s: A call that takes longer ends its contender's climb with the status `timeout`; the first, which
            compiles and tunes and is told apart, has no limit but the cell's.

    Raises:
        ValueError: A shape, a contender or a type that is not known.
    """

    shapes: str = "sweep64+sweep128+fla"
    contenders: str = "all"
    dtype: str = "auto"
    repeats: int = 10
    min_time_ms: float = 100.0
    warmup: int = 10
    min_warmup_ms: float = 100.0
    max_call_s: float = 30.0

    def __post_init__(self) -> None:
        parse_shapes(self.shapes)
        known = sorted({name for contenders in WORKS.values() for name in contenders})
        for name in self.contenders.split("+"):
            if name != "all" and name not in known:
                raise ValueError(str(unknown_name("contender", name, ("all", *known))))
        if self.dtype not in DTYPES:
            raise ValueError(str(unknown_name("dtype", self.dtype, DTYPES)))

    def ordered_shapes(self) -> list[KernelShape]:
        """The shapes, within a family from short to long."""
        return sorted(parse_shapes(self.shapes), key=lambda shape: (shape.family, shape.tokens))

    def chosen(self, work: str) -> list[str]:
        """The contenders of a work that were asked for, ours first.

        Raises:
            ValueError: None of those asked for does this work.
        """
        names = [name for name in WORKS[work] if self.contenders == "all" or name in self.contenders.split("+")]
        if not names:
            raise ValueError(f"contenders is {self.contenders!r}; kernels/{work} has {', '.join(WORKS[work])}")
        return names

    def repeated(self) -> Repeats:
        """How often a call is repeated."""
        return Repeats(self.repeats, self.min_time_ms, self.warmup, self.max_call_s, min_warmup_ms=self.min_warmup_ms)
