"""The kernels of the peer package flash-linear-attention behind our feature maps and gates, to compare on equal terms.

Feature maps run eagerly and write their features to memory, as they do in that package's own layers.
"""

from __future__ import annotations

import importlib
import importlib.util
from typing import Any

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from ...kernels.choice import KernelChoice
from ...kernels.gated.rule import GatedResult, GatedRule
from ...kernels.linear.naive import linear_attention_weights
from ...kernels.maps.feature_map import FeatureMap
from ...kernels.state import LinearState
from ..base import UnsupportedError
from .core import Attended, AttentionCore, Heads, LayerState


class FlaLinearAttention(AttentionCore):
    """Causal linear attention by `chunk_linear_attn`, and by `fused_recurrent_linear_attn` for a token at a time.

    Args:
        query_map: Map of the query heads.
        key_map: Map of the key heads.
        normalize: Divide by the sum of the weights.
        window: Must be None.
        kernels: `fla`, the option that chose this class.

    Raises:
        ValueError: A window was asked for.
    """

    takes_padding = False

    def __init__(
        self,
        query_map: FeatureMap,
        key_map: FeatureMap,
        normalize: bool,
        window: int | None = None,
        kernels: str = "fla",
    ) -> None:
        super().__init__()
        if window is not None:
            raise ValueError(f"kernels={kernels} has no sliding window; leave out window={window}, or kernels")
        self.query_map = query_map
        self.key_map = key_map
        self.normalize = normalize

    def weights(self, heads: Heads, *, causal: bool) -> Float[Tensor, "b h n n"]:
        """The attention weights, which the kernels never compute."""
        features = self.query_map.features(heads.q, heads.positions), self.key_map.features(heads.k, heads.positions)
        return linear_attention_weights(
            *features, causal=causal, key_padding_mask=heads.key_padding_mask, normalize=self.normalize
        )

    def attend(self, heads: Heads, state: LayerState, *, causal: bool, return_state: bool) -> Attended:
        """Linear attention outputs; the state is the sums over keys and values.

        Raises:
            UnsupportedError: A call that is not causal or has padding, tensors that are not on CUDA, or a missing
                package.
        """
        del return_state
        assert state is None or isinstance(state, LinearState)
        if not causal:
            raise UnsupportedError("flash-linear-attention has only causal linear attention")
        if heads.key_padding_mask is not None:
            raise UnsupportedError("flash-linear-attention masks only values, so padding would stay in its normaliser")
        name = "fused_recurrent_linear_attn" if heads.q.shape[2] == 1 else "chunk_linear_attn"
        operator = fla_operator("linear_attn", name, heads.q.device)
        groups = heads.q.shape[1] // heads.k.shape[1]
        phi_q = self.query_map.features(heads.q, heads.positions)
        phi_k = self.key_map.features(heads.k, heads.positions).repeat_interleave(groups, dim=1)
        v = heads.v.repeat_interleave(groups, dim=1)
        inputs = [tensor.to(v.dtype).transpose(1, 2).contiguous() for tensor in (phi_q, phi_k, v)]  # b n h d
        out, sums = operator(
            *inputs,
            scale=1.0,
            initial_state=None if state is None else (state.kv, state.k[:, None]),
            output_final_state=True,
            normalize=self.normalize,
        )
        values, keys = sums if self.normalize else (sums, torch.zeros_like(sums[..., 0]))
        new_state = LinearState(values, keys.reshape(values.shape[:-1]))
        return out.transpose(1, 2), new_state, KernelChoice(name.removesuffix("_linear_attn"), "fla")


def fla_operator(room: str, name: str, device: torch.device) -> Any:
    """The operator `name` of `fla.ops.room`.

    Raises:
        UnsupportedError: The device is not CUDA, or the package is missing.
    """
    if device.type != "cuda":
        raise UnsupportedError(f"flash-linear-attention's kernels run only on cuda, not on {device.type}")
    if importlib.util.find_spec("fla") is None:
        raise UnsupportedError("flash-linear-attention is not installed: pip install 'hedgebench[fla]'")
    return getattr(importlib.import_module(f"fla.ops.{room}"), name)


def fla_gated_attention(
    rule: GatedRule,
    *,
    key_padding_mask: Bool[Tensor, "b n"] | None = None,
    initial_state: Float[Tensor, "b hk d dv"] | None = None,
    return_state: bool = True,
) -> GatedResult:
    """Gated attention by the package's kernels; tensors are in the type of the values.

    Args:
        rule: Queries, keys, values and gates.
        key_padding_mask: True at real tokens; padded ones leave the state as it is.
        initial_state: State after earlier tokens; None at the start.
        return_state: Whether the caller needs the state after the last token.

    Raises:
        UnsupportedError: Tensors that are not on CUDA, or a missing package.
    """
    rule = rule.without_padding(key_padding_mask)
    is_scalar, key_heads, groups = rule.log_decay.shape[-1] == 1, rule.k.shape[1], rule.q.shape[1] // rule.k.shape[1]
    room = _GATED_ROOMS[is_scalar, rule.beta is not None]
    form = "fused_recurrent" if rule.q.shape[2] == 1 else "chunk"
    operator = fla_operator(room, f"{form}_{room}", rule.q.device)

    def of_queries(x: Tensor, dtype: torch.dtype) -> Tensor:
        return x.to(dtype).repeat_interleave(groups, dim=1).transpose(1, 2).contiguous()  # b n h ..

    k, v = (of_queries(x, rule.v.dtype) for x in (rule.k, rule.v))
    q = rule.q.to(rule.v.dtype).transpose(1, 2).contiguous()
    decay = rule.log_decay.squeeze(-1) if is_scalar else rule.log_decay
    gates = {"gk" if (room, form) == ("gla", "fused_recurrent") else "g": of_queries(decay, torch.float32)}
    if rule.beta is not None:
        gates["beta"] = of_queries(rule.beta, rule.v.dtype)
    state = None if initial_state is None else initial_state.repeat_interleave(groups, dim=1)
    out, state = operator(q, k, v, **gates, scale=rule.scale, initial_state=state, output_final_state=return_state)
    sums = torch.unflatten(state, 1, (key_heads, groups))[:, :, 0] if return_state else None
    return GatedResult(out.to(rule.v.dtype).transpose(1, 2), sums, KernelChoice(form, "fla"))


_GATED_ROOMS = {
    (True, False): "simple_gla",
    (False, False): "gla",
    (True, True): "gated_delta_rule",
    (False, True): "kda",
}
"""Rooms of `fla.ops` by whether there is one decay for a head and whether the delta rule writes.

DeltaNet runs as gated DeltaNet with decays of 1.
"""
