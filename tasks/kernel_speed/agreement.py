"""Whether contenders compute the same: each is held to the naive form in float64 before it is timed."""

from __future__ import annotations

from functools import partial
from typing import Any

from ..heavy import Tensor, torch
from .contenders import EXP, MAP, make_inputs, map_features
from .shapes import KernelShape

TOKENS, HEADS = 256, 2
"""What is compared: the first tokens of some heads of one sequence, which later tokens do not change."""

LARGEST_ERROR = 0.05
"""Largest error relative to the norm of the exact result: bfloat16 costs about 0.01, another function far more."""


class DisagreementError(RuntimeError):
    """A contender computes another function than the one that it is timed for."""


def relative_error(contender: str, call: str, result: Any, shape: KernelShape, dtype: torch.dtype) -> float | None:
    """The error of a result relative to the norm of the naive form's in float64.

    Args:
        contender: Its name; those of softmax attention begin with `softmax`.
        call: What is timed, such as `forward` or `backward`.
        result: What the call returned: the output `[b h n d]`, or gradients, those of the queries first.
        shape: The shape of the call.
        dtype: Type of its tensors.

    Returns:
        The error of the output, or of the gradients of the queries; None for other calls.

    Raises:
        DisagreementError: It is larger than `LARGEST_ERROR`, or not a number.
    """
    if call not in ("forward", "backward", "forward_backward"):
        return None
    got = result if call == "forward" else result[0]
    part = got[:1, :HEADS, :TOKENS].double()
    exact = _exact(contender, shape, dtype, part.device, with_gradients=call != "forward")
    error = float((part - exact).norm() / exact.norm())
    if not error <= LARGEST_ERROR:
        raise DisagreementError(f"{call} is off by {error:.2g} of its norm from the naive form in float64")
    return error


def _exact(name: str, shape: KernelShape, dtype: torch.dtype, device: torch.device, *, with_gradients: bool) -> Tensor:
    """The output, or the gradient of the queries if all outputs are summed."""
    from ...kernels.linear.naive import linear_attention_naive
    from ...kernels.softmax.attention import softmax_attention

    inputs = make_inputs(shape, device, dtype)
    q, k, v = (x[:1, :HEADS, :TOKENS].double() for x in (inputs.q, inputs.k, inputs.v))
    q_weight, k_weight = (x[:HEADS].double() for x in (inputs.q_weight, inputs.k_weight))
    with torch.enable_grad():
        q = q.requires_grad_(with_gradients)
        if name.startswith("softmax"):
            output = softmax_attention(q, k, v, causal=True, backend="naive").output
        else:
            features = partial(map_features, feature_map="exp" if name.endswith(EXP) else MAP)
            phi_q, phi_k = (features(x, w).transpose(1, 2) for x, w in ((q, q_weight), (k, k_weight)))
            output = linear_attention_naive(phi_q, phi_k, v, causal=True)
        return torch.autograd.grad(output.sum(), q)[0] if with_gradients else output
