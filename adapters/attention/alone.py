"""One attention layer on its own: what a mechanism costs where nothing else of a model does.

Queries, keys and values go in as they come out of a model's projections; there are no projections, norms or positions
around it. Feature maps belong to the layer.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

from ...kernels.costs import (
    FUSED_SOFTMAX,
    Cost,
    feature_map_cost,
    linear_attention_cost,
    linear_decode_cost,
    softmax_attention_cost,
    softmax_decode_cost,
)
from ...kernels.dispatch import keeps_features_in_cache
from ...kernels.fused_costs import KernelCost, fused_decode_cost, fused_forward_cost
from ...kernels.maps.learned import HedgehogMap
from ...results.record import KernelUse
from ..base import ParameterCount, UnsupportedError
from ..mechanisms.declaration import AttentionShape
from ..precision import Precision
from ..spec import ModelSpec
from .core import AttentionCore, Heads, LayerState, build_attention, kernels_of, state_bytes
from .linear import LinearAttention
from .softmax import SoftmaxAttention


@dataclass(frozen=True)
class LayerInputs:
    """Random heads of a batch of sequences, the same for every mechanism.

    Attributes:
        heads: Queries, keys and values, standard normal, in the type that the layer computes in.
        gradient: What is handed to the backward pass, of the output's shape.
    """

    heads: Heads
    gradient: Tensor

    def part(self, start: int, stop: int) -> Heads:
        """The heads of some tokens."""
        h = self.heads
        tokens = slice(start, stop)
        return replace(
            h, q=h.q[:, :, tokens], k=h.k[:, :, tokens], v=h.v[:, :, tokens], positions=h.positions[:, tokens]
        )


class AttentionAlone:
    """An attention layer behind calls like those of a whole model.

    Args:
        core: The attention, already on its device.
        shape: Its sizes.
        precision: Device, and the type of queries, keys and values.
        causal: A token sees those up to itself; else, as in an encoder, all, and there is no state to decode from.
    """

    def __init__(self, core: AttentionCore, shape: AttentionShape, precision: Precision, causal: bool = True) -> None:
        self.core = core
        self.shape = shape
        self.precision = precision
        self.causal = causal
        self._forward: Callable[..., Any] = core.forward
        self._extend: Callable[..., Any] = core.extend

    @property
    def device(self) -> torch.device:
        """Where the layer lives."""
        return self.precision.device

    def compile(self) -> None:
        """Runs the layer through torch.compile from now on, for the shapes that it is called with."""
        self._forward = torch.compile(self.core.forward, dynamic=False)
        self._extend = torch.compile(self.core.extend, dynamic=False)

    def inputs(self, batch_size: int, seq_len: int) -> LayerInputs:
        """Random heads of `batch_size` sequences of `seq_len` tokens."""
        generator = torch.Generator().manual_seed(seq_len)

        def normal(heads: int) -> Tensor:
            made = torch.randn(batch_size, heads, seq_len, self.shape.head_dim, generator=generator)
            return made.to(self.device, self.precision.dtype)

        positions = torch.arange(seq_len, device=self.device).expand(batch_size, -1)
        q, k, v = normal(self.shape.heads), normal(self.shape.kv_heads), normal(self.shape.kv_heads)
        return LayerInputs(Heads(q, k, v, positions), normal(self.shape.heads))

    @torch.no_grad()
    def prefill(self, heads: Heads) -> LayerState:
        """Outputs over whole sequences, and the state to decode from, which is given; None where nothing is causal."""
        with self.precision.autocast():
            if not self.causal:
                self._forward(heads, causal=False)
                return None
            _, state = self._extend(heads, None)
        kept: LayerState = state
        return kept

    @torch.no_grad()
    def decode(self, heads: Heads, state: LayerState) -> LayerState:
        """Outputs of one more token per row, and the new state, which is given; the old state is used up.

        Raises:
            UnsupportedError: The layer is not causal.
        """
        self._require_causal()
        with self.precision.autocast():
            _, state = self._extend(heads, state)
        return state

    def training_step(self, inputs: LayerInputs) -> None:
        """A forward pass, and a backward pass to queries, keys, values and feature maps; gradients are dropped."""
        leaves = [tensor.detach().requires_grad_() for tensor in (inputs.heads.q, inputs.heads.k, inputs.heads.v)]
        q, k, v = leaves
        with self.precision.autocast():
            out = self._forward(replace(inputs.heads, q=q, k=k, v=v), causal=self.causal)
        if out.requires_grad:  # without attention nothing depends on the inputs
            torch.autograd.backward(out, inputs.gradient.to(out.dtype))
        self.core.zero_grad(set_to_none=True)

    def parameter_count(self) -> ParameterCount:
        """Parameters, all of which are of feature maps and gates."""
        total = sum(parameter.numel() for parameter in self.core.parameters())
        return ParameterCount(total, total)

    def held_bytes(self) -> int:
        """Bytes of parameters and buffers."""
        return sum(t.numel() * t.element_size() for t in (*self.core.parameters(), *self.core.buffers()))

    def state_bytes(self, batch_size: int, seq_len: int) -> int:
        """Bytes of the decode state after `seq_len` tokens; measured on a real prefill of one row.

        Raises:
            UnsupportedError: The layer is not causal.
        """
        self._require_causal()
        return state_bytes(self.prefill(self.inputs(1, seq_len).heads)) * batch_size

    def _require_causal(self) -> None:
        if not self.causal:
            raise UnsupportedError("an encoder's attention has no state to decode from")

    def kernels_used(self) -> tuple[KernelUse, ...]:
        """Attention kernels that have run so far."""
        return tuple(KernelUse(f"layer_{phase}", c.form, c.backend) for phase, c in kernels_of(self.core))

    def cost(self, phase: str, batch_size: int, seq_len: int) -> Cost | KernelCost | None:
        """What the kernel that ran in `phase`, `prefill` or `decode`, costs by counting, its feature maps included.

        None where no analytic count is known: of hybrids, of no attention, of peers' kernels, and of our fused ones
        where a map's features are not twice the head dimension, or key heads fewer than query heads.
        """
        wanted = phase if self.causal else "forward"
        ran = [choice for done, choice in kernels_of(self.core) if done == wanted]
        if len(ran) != 1:
            return None
        if isinstance(self.core, SoftmaxAttention) and self.core.window is None:
            return self._softmax_cost(phase, ran[0].backend, batch_size, seq_len)
        if isinstance(self.core, LinearAttention) and ran[0].backend == "torch":
            return self._linear_cost(phase, ran[0].form, batch_size, seq_len)
        if isinstance(self.core, LinearAttention) and ran[0].backend == "triton":
            return self._fused_cost(ran[0].form, batch_size, seq_len)
        return None

    def _softmax_cost(self, phase: str, backend: str, batch_size: int, seq_len: int) -> Cost:
        s, size = self.shape, self.precision.dtype.itemsize
        sizes: dict[str, Any] = {"b": batch_size, "h": s.heads, "hk": s.kv_heads, "d": s.head_dim, "dv": s.head_dim}
        if phase == "decode":
            return softmax_decode_cost(**sizes, m=seq_len, bytes_per_element=size)
        fused = backend in FUSED_SOFTMAX
        return softmax_attention_cost(**sizes, causal=self.causal, n=seq_len, bytes_per_element=size, fused=fused)

    def _fused_cost(self, form: str, batch_size: int, seq_len: int) -> KernelCost | None:
        assert isinstance(self.core, LinearAttention)
        s, query_map = self.shape, self.core.query_map
        is_counted = isinstance(query_map, HedgehogMap) and query_map.feature_dim == 2 * query_map.weight.shape[-1]
        if not self.causal or not is_counted or _matrix_width(query_map) != s.head_dim or s.heads != s.kv_heads:
            return None
        if form == "fused_recurrent":
            return fused_decode_cost(heads=batch_size * s.heads, d=s.head_dim)
        dtype = str(self.precision.dtype).removeprefix("torch.")
        return fused_forward_cost(form, token_heads=batch_size * seq_len * s.heads, d=s.head_dim, dtype=dtype)

    def _linear_cost(self, phase: str, form: str, batch_size: int, seq_len: int) -> Cost:
        assert isinstance(self.core, LinearAttention)
        s, size, log_space = self.shape, self.precision.dtype.itemsize, self.core.query_map.log_space
        tokens = 1 if phase == "decode" else seq_len
        with self.precision.autocast():
            in_cache = keeps_features_in_cache(form, self.device)
        sizes: dict[str, Any] = {"b": batch_size, "h": s.heads, "hk": s.kv_heads, "f": self.core.query_map.feature_dim}
        sizes |= {"dv": s.head_dim, "bytes_per_element": size}
        if phase == "decode":
            attention = linear_decode_cost(**sizes, log_space=log_space)
        else:
            attention = linear_attention_cost(
                form, **sizes, n=tokens, causal=self.causal, log_space=log_space, features_in_cache=in_cache
            )
        maps = [
            feature_map_cost(
                b=batch_size,
                heads=heads,
                n=tokens,
                d=s.head_dim,
                width=_matrix_width(feature_map),
                f=feature_map.feature_dim,
                bytes_per_element=size,
                features_in_cache=in_cache and phase != "decode",
            )
            for heads, feature_map in ((s.heads, self.core.query_map), (s.kv_heads, self.core.key_map))
        ]
        return Cost(
            attention.flops + sum(cost.flops for cost in maps),
            attention.bytes_read + sum(cost.bytes_read for cost in maps),
            attention.bytes_written + sum(cost.bytes_written for cost in maps),
            attention.state_bytes,
        )


def _matrix_width(feature_map: nn.Module) -> int:
    """Columns of a map's matrix, trained for each head or drawn for all; 0 for a map without one."""
    weight, drawn = getattr(feature_map, "weight", None), getattr(feature_map, "projection", None)
    if isinstance(weight, Tensor):
        return weight.shape[-1]
    return drawn.shape[0] if isinstance(drawn, Tensor) else 0


def build_alone(spec: ModelSpec, shape: AttentionShape, precision: Precision, *, causal: bool = True) -> AttentionAlone:
    """The attention layer of a mechanism on its own.

    Args:
        spec: The mechanism and its options.
        shape: The layer.
        precision: Device and type.
        causal: As of `AttentionAlone`.

    Raises:
        UnsupportedError: A mechanism for decoders alone, where the layer is not causal.
        ValueError: Options that do not fit the layer.
    """
    if spec.is_causal_only and not causal:
        raise UnsupportedError(f"model {spec.canonical} is for decoders alone")
    torch.manual_seed(shape.seed)
    core = build_attention(spec.mechanism, spec.options, shape).to(precision.device)
    return AttentionAlone(core, shape, precision, causal)
