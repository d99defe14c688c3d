"""The two ways to step through linear attention: on features, or on their logarithms."""

from typing import Protocol, runtime_checkable

from torch import Tensor

from . import log_space, plain_space
from .sums import Carry, Rows


@runtime_checkable
class Space(Protocol):
    """The steps every form is made of."""

    def absorb(self, keys: Tensor, values: Tensor, carry: Carry) -> Carry:
        """Adds keys to the carried sums."""
        ...

    def apply(self, queries: Tensor, carry: Carry) -> Rows:
        """Reads the carried sums with queries."""
        ...

    def causal_step(self, queries: Tensor, keys: Tensor, values: Tensor, carry: Carry) -> tuple[Rows, Carry]:
        """Attends from a chunk to itself and to all that is carried, and carries the chunk too."""
        ...


SPACES: dict[bool, Space] = {False: plain_space, True: log_space}
"""By whether features are given as logarithms."""
