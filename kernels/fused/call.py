"""The arguments of linear attention with its map inside, as one value from the public function to a kernel's launch."""

from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field, replace
from functools import cached_property, lru_cache, wraps
from typing import Any, ClassVar, TypeVar

import torch
from torch import Tensor
from torch.utils.weak import WeakIdKeyDictionary

from ..linear.sums import EPS
from ..state import LinearState, accumulator_dtype
from ..triton.backend import NARROW
from ..triton.launch import by_head, mask_bytes, sums_of
from ..triton.operator import Arguments, Size
from ..triton.tiles import COLUMNS, Constants, Tiles, operands, padded, parts, span_of, tiles_for, with_tiles

R = TypeVar("R")


def settled(function: Callable[["Call"], R]) -> Callable[["Call"], R]:
    """Decorates a function of a call that depends on its options and its tensors' shapes, types and devices alone.

    Calls that are equal in these share its results: making them anew would take the host longer than the launches.
    """

    @wraps(function)
    def found(call: "Call") -> R:
        if call.results is None:
            return function(call)
        if function not in call.results:
            call.results[function] = function(call)
        result: R = call.results[function]
        return result

    return found


@dataclass(frozen=True)
class Call(Arguments):
    """Tensors and options of one call; shapes are those of `hedgehog.chunk_hedgehog_attn`.

    Attributes:
        q_weight: W of the queries; None, like the other three tensors of the maps, if q and k are features.
        initial_kv: `kv` of the initial state; None, like the next two, without a state. `initial_scale` is also None
            outside log space.
        mask: [b n], true at real tokens.
        feature_map: "identity" (q and k are features, or their logarithms with `log_space`) or a variant of
            `HedgehogMap`.
        negate: the map has both halves.
        log_space: the map gives logarithms of features.
        eps: added to the row sum, outside log space.
        form: "auto" (the faster), "fused_chunk" (each sequence in one segment) or "chunk" (in several, if it is
            causal); not read on a CPU and in decoding.
        tiles: sizes of the kernels' tiles; `tiles_for` chooses them if None.
        results: those of `settled` functions, shared by equal calls; None while torch traces the call.
    """

    DIFFERENTIABLE: ClassVar = (
        *("q", "k", "v", "q_weight", "k_weight", "q_bias", "k_bias", "initial_kv", "initial_k"),
    )

    q: Tensor
    k: Tensor
    v: Tensor
    q_weight: Tensor | None = None
    k_weight: Tensor | None = None
    q_bias: Tensor | None = None
    k_bias: Tensor | None = None
    initial_kv: Tensor | None = None
    initial_k: Tensor | None = None
    initial_scale: Tensor | None = None
    mask: Tensor | None = None
    cu_seqlens: Tensor | None = None
    feature_map: str = "identity"
    negate: bool = False
    log_space: bool = False
    causal: bool = True
    normalize: bool = True
    eps: float = EPS
    form: str = "auto"
    tiles: Tiles | None = field(default=None, kw_only=True)
    results: dict[Any, Any] | None = field(init=False, compare=False, repr=False, kw_only=True)

    def __post_init__(self) -> None:
        results = None
        if not torch.compiler.is_compiling():
            key = [(x.shape, x.dtype, x.device) if isinstance(x, Tensor) else x for x in self.flatten()]
            with suppress(TypeError):  # a size that torch traces has no hash
                results = _results((*key, self.tiles))
        object.__setattr__(self, "results", results)

    @classmethod
    def of(cls, q: Tensor, k: Tensor, v: Tensor, state: LinearState | None = None, **others: Any) -> "Call":
        """Makes a call with q, k and v in one type: that of autocast if it is on, else the widest of their types.

        If q and k are logarithms of features, all three are float32 at least: bfloat16 rounds a logarithm near 10 by up
        to 0.03, which changes the feature by 3 percent.

        Args:
            q: queries, or their features.
            k: keys, or their features.
            v: values.
            state: state after the tokens before these.
            **others: the remaining fields.
        """
        device = q.device.type
        if others.get("log_space") and others.get("q_weight") is None:
            dtype = accumulator_dtype(q, k, v)
        elif torch.is_autocast_enabled(device):
            dtype = torch.get_autocast_dtype(device)
        else:
            dtype = torch.promote_types(torch.promote_types(q.dtype, k.dtype), v.dtype)
        if state is not None:
            others |= {"initial_kv": state.kv, "initial_k": state.k, "initial_scale": state.log_scale}
        q, k, v = (x if x.dtype == dtype else x.to(dtype) for x in (q, k, v))
        return cls(q, k, v, **others)

    def readable(self) -> "Call":
        """The call with tensors as kernels read them: q, k and v contiguous in rows, W and b in all."""
        maps = (self.q_weight, self.k_weight, self.q_bias, self.k_bias)
        if self.q.stride(-1) == self.k.stride(-1) == self.v.stride(-1) == 1:
            if all(x is None or x.is_contiguous() for x in maps):
                return self
        rows = {name: x for name in ("q", "k", "v") if (x := getattr(self, name)).stride(-1) != 1}
        rows |= {name: x for name in _MAPS if (x := getattr(self, name)) is not None}
        return replace(self, **{name: x.contiguous() for name, x in rows.items()})

    @property
    def initial(self) -> LinearState | None:
        """The state after the tokens before these."""
        if self.initial_kv is None or self.initial_k is None:
            return None
        return LinearState(self.initial_kv, self.initial_k, self.initial_scale)

    @property
    def sums_dtype(self) -> torch.dtype:
        """The type of the sums, and of the state after these tokens."""
        earlier = [x for x in (self.initial_kv, self.initial_k) if x is not None]
        return accumulator_dtype(self.q, self.k, self.v, *earlier)

    @property
    def tokens(self) -> Size:
        """The number of tokens in each entry of the batch."""
        return self.q.shape[2]

    @property
    def sequences(self) -> Size:
        """The number of sequences: entries of the batch, or sequences packed into its one entry."""
        return self.q.shape[0] if self.cu_seqlens is None else self.cu_seqlens.shape[0] - 1

    @property
    def dim(self) -> Size:
        """Size d of queries and keys."""
        return self.q.shape[-1]

    @property
    def width(self) -> Size:
        """Columns w of one half of the features."""
        return self.dim if self.q_weight is None else self.q_weight.shape[-1]

    @property
    def values(self) -> Size:
        """Size dv of values."""
        return self.v.shape[-1]

    @property
    def features(self) -> Size:
        """Number of features, both halves together."""
        return self.width * (2 if self.negate else 1)

    @property
    def wide(self) -> bool:
        """Whether features are read a few columns at a time: many plain ones, or any beside wide values."""
        plain = self.q_weight is None and not self.log_space
        return plain and bool(self.width > NARROW or self.values > NARROW)

    @property
    def sizes(self) -> Tiles:
        """The tiles in use."""
        return self._cut[0]

    @property
    def span(self) -> Size:
        """Tokens of a segment."""
        return self._cut[1]

    @property
    def segments(self) -> Size:
        """Segments of each sequence; of all tokens, if sequences are packed."""
        return self._cut[2]

    @property
    def slots(self) -> Size:
        """Places of segments, of which packed sequences may leave some empty."""
        return self._cut[3]

    @property
    def in_one(self) -> bool:
        """Whether the form is "fused_chunk": asked for, or one segment for each sequence and head fills a GPU."""
        if self.form != "auto" or not self.causal:
            return self.form == "fused_chunk"
        return bool(self.segments == 1)

    @property
    def kept_slots(self) -> Size:
        """Slots whose sums the forward pass keeps for the backward pass."""
        return 0 if self.in_one else self.slots

    @property
    @settled
    def _cut(self) -> tuple[Tiles, Size, Size, Size]:
        """Tiles, span, segments and slots."""
        tokens, (batch, heads, _, _) = self.tokens, self.q.shape
        sides = (int(size) for size in (self.dim, self.width, self.values))
        sizes = self.tiles or tiles_for(str(self.q.dtype).removeprefix("torch."), *sides, wide=self.wide)
        span = span_of(self.form, sizes, tokens=tokens, heads=batch * heads, causal=self.causal)
        segments = parts(tokens, span)
        slots = batch * segments if self.cu_seqlens is None else tokens // span + self.sequences
        return sizes, span, segments, slots

    @property
    def constants(self) -> Constants:
        """The constants that kernels are compiled for, one object for equal ones; a launch may replace some."""
        return self._constants[0]

    @property
    def tiled(self) -> tuple[int, Constants]:
        """The tiles of values, or of columns, that programs of some kernels share out, and the constants for these."""
        return self._constants[1:]

    @property
    @settled
    def _constants(self) -> tuple[Constants, int, Constants]:
        columns = (COLUMNS, COLUMNS) if self.wide else (padded(self.dim), padded(self.width))
        constants = Constants(
            DIM=self.dim, WIDTH=self.width, VALUES=self.values, HALVES=2 if self.negate else 1,
            MAP=self.feature_map, LOG=self.log_space, CAUSAL=self.causal, NORMALIZE=self.normalize,
            HAS_BIAS=self.q_bias is not None, HAS_MASK=self.mask is not None,
            PACKED=self.cu_seqlens is not None, GROUPS=self.q.shape[1] // self.k.shape[1],
            CHUNK=self.sizes.chunk, BD=columns[0], BW=columns[1], BV=padded(self.values), **operands(self.q.dtype),
        )  # fmt: skip
        if self.wide:
            return constants, parts(self.width, COLUMNS), constants
        tile = min(self.sizes.values, padded(self.values))
        return constants, parts(self.values, tile), with_tiles(constants, values=tile)

    @cached_property
    def shared(self) -> dict[str, Any]:
        """Arguments that several kernels take, by the names of their parameters."""
        return {
            "q": by_head(self.q), "k": by_head(self.k), "v": by_head(self.v), "mask": mask_bytes(self.mask),
            "q_map": (self.q_weight, self.q_bias), "k_map": (self.k_weight, self.k_bias),
            "initial": tuple(x if x is None else x.to(torch.float32).contiguous() for x in sums_of(self.initial)),
            "ends": None if self.cu_seqlens is None else self._checked_ends(self.cu_seqlens),
            **self._numbers,
        }  # fmt: skip

    @property
    @settled
    def _numbers(self) -> dict[str, Any]:
        sizes = (self.tokens, self.span, self.segments, self.sequences)
        return {"sizes": sizes, "eps": self.eps, "C": self.constants}

    def _checked_ends(self, cu_seqlens: Tensor) -> Tensor:
        ends_of(cu_seqlens, self.tokens)
        # A copy that blocks would wait for the device, though kernels read the ends in the order of the stream.
        return cu_seqlens.to(self.q.device, non_blocking=True).contiguous()


_MAPS = ("q_weight", "k_weight", "q_bias", "k_bias")


@lru_cache(1024)
def _results(_: tuple[Any, ...]) -> dict[Any, Any]:
    """Results of `settled` functions for calls that are equal in this."""
    return {}


_ENDS: Any = WeakIdKeyDictionary()
"""Ends that were read before, with the version of their tensor: only the first layer of a model waits for a GPU."""


def ends_of(cu_seqlens: Tensor, tokens: int) -> list[int]:
    """The sequence ends in a tensor, as numbers.

    Raises:
        ValueError: ends that do not rise strictly from 0 to `tokens`.
    """
    version, ends = _ENDS.get(cu_seqlens, (None, []))
    if version != cu_seqlens._version:
        ends = [int(end) for end in cu_seqlens.tolist()]
        _ENDS[cu_seqlens] = cu_seqlens._version, ends
    if len(ends) < 2 or ends[0] != 0 or ends[-1] != tokens or sorted(set(ends)) != ends:
        raise ValueError(f"cu_seqlens must rise from 0 to the {tokens} tokens given, each above the last, got {ends}")
    return list(ends)
