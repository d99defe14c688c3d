"""What ran and what it gave, and errors about names."""

from collections.abc import Iterable
from dataclasses import dataclass
from difflib import get_close_matches

from jaxtyping import Float
from torch import Tensor

from .state import LinearState


@dataclass(frozen=True)
class KernelChoice:
    """What really ran.

    Attributes:
        form: "naive", "recurrent" or "chunk" for linear attention, fused with the map "fused_chunk" (one pass), "chunk"
            (two passes) or "fused_recurrent"; "softmax"; "hybrid" of the two.
        backend: "torch" for linear forms in plain torch, "triton" for fused kernels; "naive" or "sdpa_flash" and the
            like for softmax.
    """

    form: str
    backend: str


@dataclass(frozen=True)
class LinearAttentionResult:
    """Output of linear attention, the state after the last key, and what ran.

    Attributes:
        output: [b h n dv].
        state: one for each batch entry or packed sequence; None from the naive form, which has none, and where nobody
            asked for it from the fused forms.
        kernel: what ran.
    """

    output: Float[Tensor, "b h n dv"]
    state: LinearState | None
    kernel: KernelChoice


def unknown_name(what: str, value: str, allowed: Iterable[str]) -> ValueError:
    """Gives the error about a name that is none of those allowed; its message names the nearest."""
    names = list(allowed)
    near = get_close_matches(value, names, n=1)
    hint = f"; did you mean {near[0]!r}?" if near else ""
    return ValueError(f"unknown {what} {value!r}, choose from {', '.join(names)}{hint}")
