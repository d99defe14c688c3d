"""Results of linear attention, and the form and backend that computed them."""

from dataclasses import dataclass

from jaxtyping import Float
from torch import Tensor

from .state import LinearState


@dataclass(frozen=True)
class KernelChoice:
    """The form and the backend that ran.

    Attributes:
        form: for linear attention in torch "naive", "recurrent" or "chunk", in Triton "fused_chunk" (one segment),
            "chunk" (several) or "fused_recurrent"; "softmax"; "hybrid" for softmax over a window with linear attention;
            "tiled" for the distillation loss; "mixer" and "convolution" for what replaces a layer; "none" without
            attention.
        backend: "torch" or "triton"; for softmax "naive" or a key of `SDPA_BACKENDS`; "fla" for that package's kernels.
    """

    form: str
    backend: str


@dataclass(frozen=True)
class LinearAttentionResult:
    """Output of linear attention, the state after the last key, and what ran.

    Attributes:
        output: [b h n dv].
        state: sums after the last key, for each batch entry or packed sequence. None from the naive form, which keeps
            no sums, and from fused forms if the caller does not ask for it.
        kernel: the form and the backend that ran.
    """

    output: Float[Tensor, "b h n dv"]
    state: LinearState | None
    kernel: KernelChoice
