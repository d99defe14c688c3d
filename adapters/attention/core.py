"""Attention cores, which compute attention from projected queries, keys and values in the place of softmax."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields, is_dataclass, replace
from typing import Any, ClassVar, Protocol, TypeAlias

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from ...kernels.choice import KernelChoice
from ...kernels.hybrid.state import HybridState
from ...kernels.maps.feature_map import FeatureMap
from ...kernels.state import LinearState
from ..base import UnsupportedError
from ..mechanisms.declaration import AttentionShape, Mechanism, OptionValue, load_attribute
from .kv_cache import KVCache
from .recurrent_state import RecurrentState

LayerState: TypeAlias = KVCache | LinearState | HybridState | RecurrentState | None
"""The state of one attention layer between decoded tokens."""

QueryHeads: TypeAlias = Float[Tensor, "b h n d"]
"""Queries of n tokens, or the outputs of their attention."""

KeyHeads: TypeAlias = Float[Tensor, "b hk n d"]
"""Keys or values of n tokens; grouped queries have fewer key heads than query heads."""

Attended: TypeAlias = tuple[QueryHeads, LayerState, KernelChoice]
"""Attention outputs, the new state, and the kernel that ran."""


@dataclass(frozen=True)
class Heads:
    """Projected heads of n tokens, and the positions of those tokens.

    Attributes:
        q: Queries.
        k: Keys.
        v: Values.
        positions: Position of each token in its sequence, from 0.
        key_padding_mask: True at real tokens; None without padding.
        scale: Factor on q·k in softmax; 1/√d unless given.
        inputs: The layer's input, for gates; None where a model does not pass it on.
    """

    q: QueryHeads
    k: KeyHeads
    v: KeyHeads
    positions: Int[Tensor, "b n"]
    key_padding_mask: Bool[Tensor, "b n"] | None = None
    scale: float | None = None
    inputs: Float[Tensor, "b n w"] | None = None


class Attend(Protocol):
    """Attention over a whole sequence."""

    def __call__(self, heads: Heads, *, causal: bool) -> QueryHeads:
        """The outputs."""
        ...


class AttentionCore(nn.Module):
    """Attention over projected heads; each kind of attention is a class with `attend` and `weights`.

    Attributes:
        takes_padding: Whether `attend` takes a padding mask; a class attribute.
        kernels_used: Kernels that ran so far, by phase (`train`, `forward`, `prefill`, `decode`), in the order of their
            first run.
        stand_in: Gives the outputs over whole sequences in place of this attention; None but in a lesson of
            `AttentionModel.teaching`.
        is_kept: Whether it is the softmax attention of a layer that a hybrid leaves as it is.
    """

    takes_padding: ClassVar[bool] = True
    is_kept: bool = False

    def __init__(self) -> None:
        super().__init__()
        self.kernels_used: dict[tuple[str, KernelChoice], None] = {}
        self.stand_in: Attend | None = None

    @abstractmethod
    def attend(self, heads: Heads, state: LayerState, *, causal: bool, return_state: bool) -> Attended:
        """Attention over the tokens in `state` and those of `heads`; padded keys are not seen.

        Args:
            heads: Tokens that follow those in `state`.
            state: State after earlier tokens; None at the start.
            causal: A token sees the tokens up to itself; otherwise it sees all.
            return_state: Whether the caller needs the new state; otherwise it may be None.
        """

    @abstractmethod
    def weights(self, heads: Heads, *, causal: bool) -> Float[Tensor, "b h n n"]:
        """Attention weights, for analysis; their memory is quadratic in tokens."""

    def forward(self, heads: Heads, *, causal: bool) -> QueryHeads:
        """Attention outputs over a whole sequence that the layer passes on: the stand-in's if there is one."""
        return (self.stand_in or self.outputs)(heads, causal=causal)

    def outputs(self, heads: Heads, *, causal: bool) -> QueryHeads:
        """Attention outputs over a whole sequence."""
        out, _, kernel = self.attend(heads, None, causal=causal, return_state=False)
        self.record("train" if torch.is_grad_enabled() else "forward", kernel)
        return out

    def extend(self, heads: Heads, state: LayerState) -> tuple[QueryHeads, LayerState]:
        """Causal outputs of tokens that follow those in `state`, and the new state.

        A core without a state records every call as a prefill.
        """
        out, new_state, kernel = self.attend(heads, state, causal=True, return_state=True)
        self.record("prefill" if state is None else "decode", kernel)
        return out, new_state

    def record(self, phase: str, choice: KernelChoice) -> None:
        """Records that a kernel ran."""
        self.kernels_used[phase, choice] = None


class LayerMixer(nn.Module):
    """What stands in the place of a whole attention layer, projections included.

    A residual projection is named `output`, so that it is initialised as one.

    Attributes:
        kernels_used: As in `AttentionCore`.
    """

    def __init__(self) -> None:
        super().__init__()
        self.kernels_used: dict[tuple[str, KernelChoice], None] = {}

    @abstractmethod
    def mix(
        self, x: Float[Tensor, "b n w"], mask: Bool[Tensor, "b n"] | None, state: LayerState
    ) -> tuple[Float[Tensor, "b n w"], LayerState, KernelChoice]:
        """Outputs of the layer, the new state, and what ran.

        Args:
            x: The layer's input, of tokens that follow those in `state`.
            mask: True at real tokens; None without padding.
            state: State after earlier tokens; None at the start and in encoders.
        """

    def forward(
        self, x: Float[Tensor, "b n w"], mask: Bool[Tensor, "b n"] | None, state: LayerState, *, decodes: bool
    ) -> tuple[Float[Tensor, "b n w"], LayerState]:
        """Outputs over a whole sequence or, if it `decodes`, of tokens that follow those in `state`."""
        out, new_state, kernel = self.mix(x, mask, state)
        whole = "train" if torch.is_grad_enabled() else "forward"
        self.kernels_used["decode" if state else "prefill" if decodes else whole, kernel] = None
        return out, new_state


def build_attention(mechanism: Mechanism, options: Mapping[str, OptionValue], shape: AttentionShape) -> AttentionCore:
    """The attention of `mechanism` for one layer, between the projections of a model.

    Args:
        mechanism: The declaration.
        options: Every option's value, from `Mechanism.resolve`.
        shape: The layer.

    Raises:
        UnsupportedError: The mechanism stands in the place of the whole layer, or reads more than a layer of this shape
            passes on.
        ValueError: The options do not fit the layer.
        TypeError: The core or the map does not take an option of the mechanism.
    """
    built = build_layer(mechanism, options, shape)
    if isinstance(built, LayerMixer):
        raise UnsupportedError(
            f"model {mechanism.name} stands in the place of whole attention layers, which only backbones that are "
            "trained from scratch have room for"
        )
    return built


def build_layer(
    mechanism: Mechanism, options: Mapping[str, OptionValue], shape: AttentionShape
) -> AttentionCore | LayerMixer:
    """The attention of `mechanism` for one layer, or what stands in the place of that whole layer.

    Arguments and errors are those of `build_attention`.
    """
    core: Any = load_attribute(mechanism.attention_for(options))
    layer_options = {**mechanism.attention_arguments(shape), **mechanism.options_for("attention", options)}
    if mechanism.feature_map is None:
        built = core(**layer_options)
    else:
        tied = bool(layer_options.pop("tied", False))
        query_map, key_map = _build_maps(mechanism, mechanism.options_for("map", options), shape, tied)
        built = core(query_map, key_map, mechanism.normalize, **layer_options)
    assert isinstance(built, AttentionCore | LayerMixer)
    return built


def _build_maps(
    mechanism: Mechanism, options: Mapping[str, OptionValue], shape: AttentionShape, tied: bool
) -> tuple[FeatureMap, FeatureMap]:
    assert mechanism.feature_map is not None
    if tied and shape.heads != shape.kv_heads:
        raise ValueError(
            f"{mechanism.name}:tied=true needs as many key heads as query heads; "
            f"got {shape.heads} query heads and {shape.kv_heads} key heads"
        )
    feature_map: Any = load_attribute(mechanism.feature_map)
    arguments = {"seed": shape.seed * 1000 + shape.layer, **mechanism.map_arguments(shape), **options}
    query_map = feature_map(shape.heads, shape.head_dim, role="query", **arguments)
    key_map = query_map if tied else feature_map(shape.kv_heads, shape.head_dim, role="key", **arguments)
    return query_map, key_map


def token_positions(tokens: Tensor, mask: Bool[Tensor, "b m"] | None) -> Int[Tensor, "b n"]:
    """Positions of tokens, counting real tokens only; a padded token has the position of its neighbour.

    Args:
        tokens: Any tensor `[b, n, ...]`; its values are not read.
        mask: True at real tokens `[b, m]`; the last n columns are these tokens, the first may be earlier ones.
    """
    if mask is None:
        return torch.arange(tokens.shape[1], device=tokens.device).expand(len(tokens), -1)
    return (mask.long().cumsum(1) - 1).clamp(min=0)[:, -tokens.shape[1] :]


def tokens_seen(
    tokens: Tensor, mask: Bool[Tensor, "b n"] | None, before: Int[Tensor, " b"] | None
) -> Int[Tensor, " b"]:
    """Number of real tokens of each row up to the end of these, which is the position of the next token.

    Args:
        tokens: Any tensor `[b, n, ...]`; its values are not read.
        mask: True at real tokens.
        before: Number of real tokens before these; None at the start.
    """
    new = tokens.new_full(tokens.shape[:1], tokens.shape[1], dtype=torch.long) if mask is None else mask.long().sum(1)
    return new if before is None else before + new


def state_bytes(state: LayerState) -> int:
    """Bytes of one layer's decode state."""
    return 0 if state is None else state.bytes


def kernels_of(module: nn.Module) -> list[tuple[str, KernelChoice]]:
    """Kernels that ran in any attention layer inside `module`, by phase, in the order of their first run."""
    cores = (part for part in module.modules() if isinstance(part, AttentionCore | LayerMixer))
    return list(dict.fromkeys(ran for core in cores for ran in core.kernels_used))


def select_rows(state: LayerState, rows: Int[Tensor, " r"], room: int) -> LayerState:
    """A copy of rows of the batch; a KV cache has room for `room` more tokens."""
    if isinstance(state, KVCache):
        return state.select(rows, room)
    copied: LayerState = map_tensors(state, lambda tensor: tensor.index_select(0, rows))
    return copied


def map_tensors(value: Any, function: Callable[[Tensor], Tensor]) -> Any:
    """The value with `function` applied to every tensor in it: in dataclasses, dicts, lists and tuples."""
    match value:
        case Tensor():
            return function(value)
        case dict():
            return {key: map_tensors(part, function) for key, part in value.items()}
        case tuple() | list():
            return type(value)(map_tensors(part, function) for part in value)
    if is_dataclass(value) and not isinstance(value, type):
        return replace(value, **{f.name: map_tensors(getattr(value, f.name), function) for f in fields(value)})
    return value
