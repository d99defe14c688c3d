"""Gated and delta-rule attention by the form that suits the call."""

from __future__ import annotations

from jaxtyping import Bool, Float
from torch import Tensor

from ...results.names import unknown_name
from ..choice import KernelChoice
from ..maps.feature_map import without_autocast
from .forms import FORMS
from .rule import GatedResult, GatedRule


def gated_attention(
    rule: GatedRule,
    *,
    key_padding_mask: Bool[Tensor, "b n"] | None = None,
    initial_state: Float[Tensor, "b hk d dv"] | None = None,
    return_state: bool = True,
    form: str = "auto",
) -> GatedResult:
    """Causal attention by a decayed or delta-rule state, computed in float32 at least and outside autocast.

    Args:
        rule: queries, keys, values and gates.
        key_padding_mask: true at real tokens; padded ones leave the state as it is.
        initial_state: state after earlier tokens; None at the start.
        return_state: the caller needs the state after the last token; otherwise it may be None.
        form: "naive", "recurrent", "chunk", or "auto": recurrent for one token, else chunk.

    Raises:
        ValueError: the naive form got a state.
        UnknownNameError: an unknown form.
    """
    if form == "auto":
        form = "recurrent" if rule.q.shape[2] == 1 else "chunk"
    if form not in FORMS:
        raise unknown_name("form of gated attention", form, FORMS)
    with without_autocast(rule.q.device.type):
        exact = rule.without_padding(key_padding_mask).exact()
        output, state = FORMS[form](exact, initial_state, return_state)
    return GatedResult(output.to(rule.v.dtype), state, KernelChoice(form, "torch"))
