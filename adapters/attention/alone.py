"""One attention layer alone, to measure the cost of a mechanism without the rest of a model.

Its inputs are projected queries, keys and values, and for gates the layer's input: there are no projections, norms or
position embeddings around it. Feature maps, gates and their projections belong to the layer.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

from ...kernels.costs import (
    Cost,
    feature_map_cost,
    linear_attention_cost,
    softmax_cost,
)
from ...kernels.dispatch import keeps_features_in_cache
from ...kernels.fused_costs import Walk, fused_decode_cost
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
        gradient: Gradient of the output, from which the backward pass starts.
    """

    heads: Heads
    gradient: Tensor

    def part(self, start: int, stop: int) -> Heads:
        """The heads of some tokens."""
        h = self.heads
        q, k, v = (tensor[:, :, start:stop] for tensor in (h.q, h.k, h.v))
        inputs = None if h.inputs is None else h.inputs[:, start:stop]
        return replace(h, q=q, k=k, v=v, positions=h.positions[:, start:stop], inputs=inputs)


class AttentionAlone:
    """An attention layer with the calls that are measured (`tasks.efficiency.subjects.Calls`).

    Args:
        core: The attention, already on its device.
        shape: Its sizes.
        precision: Device, and the type of queries, keys and values.
        causal: A token sees the tokens up to itself; otherwise, as in an encoder, it sees all, and cannot be decoded.
    """

    def __init__(self, core: AttentionCore, shape: AttentionShape, precision: Precision, causal: bool = True) -> None:
        self.core = core
        self.shape = shape
        self.precision = precision
        self.causal = causal
        self._forward: Callable[..., Any] = core.forward
        self._extend: Callable[[Heads, LayerState], tuple[Tensor, LayerState]] = core.extend

    @property
    def device(self) -> torch.device:
        """The device of the layer."""
        return self.precision.device

    def compile(self) -> None:
        """Runs the layer through torch.compile from now on; every new shape is compiled again."""
        self._forward = torch.compile(self.core.forward, dynamic=False)
        self._extend = torch.compile(self.core.extend, dynamic=False)

    def inputs(self, batch_size: int, seq_len: int) -> LayerInputs:
        """Random heads of `batch_size` sequences of `seq_len` tokens."""
        generator = torch.Generator().manual_seed(seq_len)

        def normal(*sizes: int) -> Tensor:
            made = torch.randn(batch_size, *sizes, generator=generator)
            return made.to(self.device, self.precision.dtype)

        positions, s = torch.arange(seq_len, device=self.device).expand(batch_size, -1), self.shape
        q, k, v, gradient = (normal(heads, seq_len, s.head_dim) for heads in (s.heads, s.kv_heads, s.kv_heads, s.heads))
        inputs = None if s.width is None else normal(seq_len, s.width)
        return LayerInputs(Heads(q, k, v, positions, inputs=inputs), gradient)

    @torch.no_grad()
    def prefill(self, inputs: LayerInputs, seq_len: int) -> LayerState:
        """Outputs of the first `seq_len` tokens; returns the state to decode from, None if the layer is not causal."""
        heads = inputs.part(0, seq_len)
        with self.precision.autocast():
            if not self.causal:
                self._forward(heads, causal=False)
                return None
            return self._extend(heads, None)[1]

    @torch.no_grad()
    def decode(self, inputs: LayerInputs, position: int, state: LayerState) -> LayerState:
        """Computes outputs of the token at `position`; returns the new state, which replaces the old one.

        Raises:
            UnsupportedError: The layer is not causal.
        """
        self._require_causal()
        with self.precision.autocast():
            return self._extend(inputs.part(position, position + 1), state)[1]

    def train(self, inputs: LayerInputs) -> None:
        """A forward pass, and a backward pass to heads, the layer's input and all parameters; gradients are dropped."""
        h = inputs.heads
        q, k, v = (x.detach().requires_grad_() for x in (h.q, h.k, h.v))
        given = None if h.inputs is None else h.inputs.detach().requires_grad_()
        with self.precision.autocast():
            out = self._forward(replace(h, q=q, k=k, v=v, inputs=given), causal=self.causal)
        if out.requires_grad:  # without attention nothing depends on the inputs
            torch.autograd.backward(out, inputs.gradient.to(out.dtype))
        self.core.zero_grad(set_to_none=True)

    def parameter_count(self) -> ParameterCount:
        """Number of parameters, all of which belong to feature maps and gates."""
        total = sum(parameter.numel() for parameter in self.core.parameters())
        return ParameterCount(total, total)

    def state_bytes(self, batch_size: int, seq_len: int) -> int:
        """Bytes of the decode state after `seq_len` tokens; measured on a real prefill of one row.

        Raises:
            UnsupportedError: The layer is not causal.
        """
        self._require_causal()
        return state_bytes(self.prefill(self.inputs(1, seq_len), seq_len)) * batch_size

    def _require_causal(self) -> None:
        if not self.causal:
            raise UnsupportedError("an encoder's attention has no state to decode from")

    def kernels_used(self) -> tuple[KernelUse, ...]:
        """Attention kernels that have run so far."""
        return tuple(KernelUse(f"layer_{phase}", c.form, c.backend) for phase, c in kernels_of(self.core))

    def cost(self, phase: str, batch_size: int, seq_len: int) -> Cost | None:
        """Analytic cost of the kernel that ran in `phase`, `prefill` or `decode`, and of its feature maps.

        Returns:
            None where no count is known: for windows, hybrids, gates, no attention, peers' kernels, and for our fused
            kernels without causality, with features that are not twice the head dimension, or with fewer key heads than
            query heads; also if several kernels ran in the phase.
        """
        wanted = phase if self.causal else "forward"
        ran = [choice for done, choice in kernels_of(self.core) if done == wanted]
        match self.core, [choice.backend for choice in ran]:
            case SoftmaxAttention(window=None), [backend]:
                s, size = self.shape, self.precision.dtype.itemsize
                sizes = {"b": batch_size, "h": s.heads, "hk": s.kv_heads, "d": s.head_dim, "dv": s.head_dim}
                given = {**sizes, "tokens": seq_len, "bytes_per_element": size}
                return softmax_cost(decodes=phase == "decode", backend=backend, causal=self.causal, **given)
            case LinearAttention() as core, ["torch"]:
                return self._linear_cost(core, phase, ran[0].form, batch_size, seq_len)
            case LinearAttention() as core, ["triton"]:
                return self._fused_cost(core, ran[0].form, batch_size, seq_len)
        return None

    def _fused_cost(self, core: LinearAttention, form: str, batch_size: int, seq_len: int) -> Cost | None:
        s, query_map = self.shape, core.query_map
        is_counted = isinstance(query_map, HedgehogMap) and query_map.feature_dim == 2 * query_map.weight.shape[-1]
        if not self.causal or not is_counted or _matrix_width(query_map) != s.head_dim or s.heads != s.kv_heads:
            return None
        if form == "fused_recurrent":
            return fused_decode_cost(heads=batch_size * s.heads, d=s.head_dim)
        dtype = str(self.precision.dtype).removeprefix("torch.")
        return Walk(form, batch_size, s.heads, seq_len, s.head_dim, dtype).forward

    def _linear_cost(self, core: LinearAttention, phase: str, form: str, batch_size: int, seq_len: int) -> Cost:
        s, decodes, size = self.shape, phase == "decode", self.precision.dtype.itemsize
        with self.precision.autocast():
            in_cache = not decodes and keeps_features_in_cache(form, self.device)
        shared: dict[str, Any] = {"b": batch_size, "n": 1 if decodes else seq_len, "bytes_per_element": size}
        shared["features_in_cache"] = in_cache
        sizes = {**shared, "h": s.heads, "hk": s.kv_heads, "f": core.query_map.feature_dim, "dv": s.head_dim}
        kind = "recurrent" if decodes else form
        attention = linear_attention_cost(kind, **sizes, causal=self.causal, log_space=core.query_map.log_space)
        maps = [
            feature_map_cost(**shared, heads=heads, d=s.head_dim, width=_matrix_width(part), f=part.feature_dim)
            for heads, part in ((s.heads, core.query_map), (s.kv_heads, core.key_map))
        ]
        return sum(maps, start=attention)


def _matrix_width(feature_map: nn.Module) -> int:
    """Columns of a map's matrix, trained for each head or drawn once for all heads; 0 for a map without one."""
    match getattr(feature_map, "weight", None), getattr(feature_map, "projection", None):
        case Tensor() as weight, _:
            return weight.shape[-1]
        case _, Tensor() as drawn:
            return drawn.shape[0]
    return 0


def build_alone(spec: ModelSpec, shape: AttentionShape, precision: Precision, *, causal: bool = True) -> AttentionAlone:
    """The attention layer of a mechanism alone.

    Args:
        spec: The mechanism and its options.
        shape: The layer.
        precision: Device and type.
        causal: Whether a token sees only the tokens up to itself, as in a decoder.

    Raises:
        UnsupportedError: The mechanism exists only in decoders, and the layer is not causal.
        ValueError: Options that do not fit the layer.
    """
    if spec.is_causal_only and not causal:
        raise UnsupportedError(f"model {spec.canonical} exists only in decoders")
    torch.manual_seed(shape.seed)
    core = build_attention(spec.mechanism, spec.options, shape).to(precision.device)
    return AttentionAlone(core, shape, precision, causal)
