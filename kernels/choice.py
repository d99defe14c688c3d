"""Results of linear attention, and the form and backend that computed them."""

from dataclasses import dataclass

from jaxtyping import Float
from torch import Tensor

from .state import LinearState


@dataclass(frozen=True)
class KernelChoice:
    """The form and the backend that ran.

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
        state: one for each batch entry or packed sequence. None from the naive form, which keeps none, and from a fused
            form if `return_state` is false.
        kernel: form and backend that ran.
    """

    output: Float[Tensor, "b h n dv"]
    state: LinearState | None
    kernel: KernelChoice
