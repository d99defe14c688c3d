"""The kernels of the peer package flash-linear-attention behind our feature maps, to compare kernels on equal terms.

Feature maps run eagerly and write their features to memory, as they do in that package's own layers.
"""

from __future__ import annotations

import importlib
import importlib.util
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from ...kernels.choice import KernelChoice
from ...kernels.linear.naive import linear_attention_weights
from ...kernels.maps.feature_map import FeatureMap
from ...kernels.state import LinearState
from ..base import UnsupportedError
from .core import Attended, AttentionCore, Heads, LayerState

_OPS = "fla.ops.linear_attn"


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
        operator = self._operator(name, heads.q.device)
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

    def _operator(self, name: str, device: torch.device) -> Any:
        if device.type != "cuda":
            raise UnsupportedError(f"flash-linear-attention's kernels run only on cuda, not on {device.type}")
        if importlib.util.find_spec("fla") is None:
            raise UnsupportedError("flash-linear-attention is not installed: pip install 'hedgebench[fla]'")
        return getattr(importlib.import_module(_OPS), name)
