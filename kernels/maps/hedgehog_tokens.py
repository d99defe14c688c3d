"""Hedgehog's maps as linear attention in chunks applies them, with hand-written gradients."""

from dataclasses import dataclass
from functools import cached_property

import torch
from jaxtyping import Float
from torch import Tensor

from .learned import hedgehog_features
from .token_maps import FeatureReader, MappedReader


@dataclass(frozen=True)
class HedgehogTokens:
    """The maps of `HedgehogMap` as a `TokenMap`: log φ(x) = [y, -y] for "exp", φ(x) for the other variants.

    Attributes:
        weight: W of y = Wx + b, for each head.
        bias: b, or None.
        map: "exp" (in log space), "exp_max", "softmax" or "softmax_joint".
        negate: use y and -y; otherwise y alone.
    """

    weight: Float[Tensor, "h d w"]
    bias: Float[Tensor, "h w"] | None = None
    map: str = "exp"
    negate: bool = True

    @property
    def parameters(self) -> tuple[Tensor, ...]:
        """W, and b if there is one."""
        return (self.weight,) if self.bias is None else (self.weight, self.bias)

    @property
    def reversible(self) -> bool:
        """True for all variants except "exp_max", whose gradients autograd computes."""
        return self.map != "exp_max"

    def __call__(self, x: Tensor, tokens: slice) -> Tensor:
        """The features, or their logarithms."""
        del tokens
        return hedgehog_features(x, self.weight, self.bias, map=self.map, negate=self.negate)

    def reader(self, x: Tensor, dtype: torch.dtype) -> FeatureReader:
        """Makes a reader that maps runs of tokens in reused buffers; "exp_max" has no such reader."""
        return _HedgehogReader(self, x, dtype) if self.reversible else MappedReader(self, x, dtype)


class _Buffers:
    """Buffers for the features of a run of `tokens` tokens, and the views of them that `_HedgehogReader` uses."""

    def __init__(self, of: HedgehogTokens, like: Float[Tensor, "bh d w"], tokens: int) -> None:
        heads, columns, width = like.shape
        signs = 2 if of.negate else 1
        self.vectors = like.new_empty(heads, tokens, columns)
        self.projection = like.new_empty(heads, tokens, width)
        self.features = like.new_empty(heads, tokens, signs * width)
        exponents = self.features if of.map == "exp" else torch.empty_like(self.features)
        self.plus, *self.minus = torch.split(exponents, width, -1)
        self.softmaxes = (heads, tokens, 1 if of.map == "softmax_joint" else signs, -1)
        self.from_softmax, self.to_softmax = exponents.view(self.softmaxes), self.features.view(self.softmaxes)


class _HedgehogReader:
    owned = True

    def __init__(self, of: HedgehogTokens, x: Float[Tensor, "b h n d"], dtype: torch.dtype) -> None:
        self._of = of
        self._shape = x.shape
        self._x = x.flatten(0, 1)
        self._dtype = dtype
        self._matrices = of.weight.to(dtype).expand(x.shape[0], -1, -1, -1).flatten(0, 1)
        self._biases = None if of.bias is None else of.bias.to(dtype).repeat(x.shape[0], 1)[:, None]
        self._buffers_by_tokens: dict[int, _Buffers] = {}

    @cached_property
    def _grad(self) -> Tensor:
        return torch.empty_like(self._x)

    @cached_property
    def _matrix_grads(self) -> Tensor:
        return torch.zeros_like(self._matrices)

    @cached_property
    def _bias_grads(self) -> Tensor:
        return self._matrices.new_zeros(len(self._matrices), self._matrices.shape[2])

    def read(self, at: slice) -> Float[Tensor, "bh c f"]:
        of, buffers = self._of, self._buffers(at)
        y = torch.bmm(self._x[:, at].to(self._dtype), self._matrices, out=buffers.projection)
        if self._biases is not None:
            y.add_(self._biases)
        if of.map == "softmax_joint":
            y.mul_(2.0)
        buffers.plus.copy_(y)
        for minus in buffers.minus:
            torch.neg(y, out=minus)
        if of.map != "exp":
            torch.softmax(buffers.from_softmax, -1, out=buffers.to_softmax)
        return buffers.features

    def reverse(self, at: slice, features: Tensor, grad: Tensor) -> None:
        """Stores a run's gradient of x and adds its part to those of W and b; y has that of +y minus that of -y."""
        of, buffers = self._of, self._buffers(at)
        if of.map != "exp":
            through = grad.view(buffers.softmaxes)
            weights = features.view(buffers.softmaxes)
            # In place: the gradient of a row is written after the row has been read.
            torch.ops.aten._softmax_backward_data.out(through, weights, -1, grad.dtype, grad_input=through)
        y = buffers.projection
        if of.negate:
            plus, minus = grad.chunk(2, -1)
            torch.sub(plus, minus, out=y)
        else:
            y.copy_(grad)
        if of.map == "softmax_joint":
            y.mul_(2.0)
        x = self._x[:, at]
        if of.weight.requires_grad:
            self._matrix_grads.baddbmm_(x.to(self._dtype).mT, y)
        if of.bias is not None and of.bias.requires_grad:
            self._bias_grads.add_(y.sum(1))
        self._grad[:, at] = torch.bmm(y, self._matrices.mT, out=buffers.vectors)

    def gradients(self) -> tuple[Tensor, tuple[Tensor, ...]]:
        totals = zip(self._of.parameters, (self._matrix_grads, self._bias_grads), strict=False)
        batch = self._shape[0]
        return self._grad.view(self._shape), tuple(
            torch.unflatten(total, 0, (batch, -1)).sum(0).to(like.dtype) for like, total in totals
        )

    def _buffers(self, at: slice) -> _Buffers:
        tokens = at.stop - at.start
        if tokens not in self._buffers_by_tokens:
            self._buffers_by_tokens[tokens] = _Buffers(self._of, self._matrices, tokens)
        return self._buffers_by_tokens[tokens]
