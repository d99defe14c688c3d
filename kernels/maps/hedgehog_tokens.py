"""Hedgehog's maps as linear attention in chunks applies them, with gradients of their own."""

from dataclasses import dataclass
from functools import partial

import torch
from jaxtyping import Float
from torch import Tensor

from .learned import hedgehog_features
from .token_maps import Mapped, Reader, TokenMap

REVERSIBLE_VARIANTS = ("exp", "softmax", "softmax_joint")
"""Variants of Hedgehog's map that `HedgehogTokens` has."""


def hedgehog_tokens(
    weight: Float[Tensor, "h d w"], bias: Float[Tensor, "h w"] | None, map: str, negate: bool
) -> TokenMap:
    """Gives a variant of Hedgehog's map for tokens, with gradients of its own where it has them."""
    if map in REVERSIBLE_VARIANTS:
        return HedgehogTokens(weight, bias, map, negate)
    features = partial(hedgehog_features, weight=weight, bias=bias, map=map, negate=negate)
    return Mapped(lambda x, _: features(x), (weight,) if bias is None else (weight, bias))


@dataclass(frozen=True)
class HedgehogTokens:
    """Hedgehog's maps with y = Wx + b, W per head: log φ(x) = [y, -y], or φ(x) as of `HedgehogMap`.

    Attributes:
        weight: [h d w].
        bias: [h w], or None.
        map: "exp", in log space, "softmax" or "softmax_joint".
        negate: without it, y alone.
    """

    weight: Float[Tensor, "h d w"]
    bias: Float[Tensor, "h w"] | None = None
    map: str = "exp"
    negate: bool = True

    @property
    def parameters(self) -> tuple[Tensor, ...]:
        """W, and b where there is one."""
        return (self.weight,) if self.bias is None else (self.weight, self.bias)

    @property
    def reversible(self) -> bool:
        """Yes."""
        return True

    def __call__(self, x: Tensor, tokens: slice) -> Tensor:
        """Gives the features, or their logarithms."""
        del tokens
        return hedgehog_features(x, self.weight, self.bias, map=self.map, negate=self.negate)

    def reader(self, x: Tensor, dtype: torch.dtype) -> Reader:
        """Gives what maps runs of tokens in memory that is used again."""
        return _HedgehogReader(self, x, dtype)


class _Memory:
    """What maps as many tokens: tensors, and the views of them that the steps take."""

    def __init__(self, of: HedgehogTokens, like: Float[Tensor, "bh c d"], dtype: torch.dtype) -> None:
        heads, tokens, _ = like.shape
        width, signs = of.weight.shape[-1], 2 if of.negate else 1
        self.vectors = torch.empty_like(like, dtype=dtype, memory_format=torch.contiguous_format)
        self.projection = like.new_empty(heads, tokens, width, dtype=dtype)
        self.features = like.new_empty(heads, tokens, signs * width, dtype=dtype)
        softmax = of.map != "exp"
        self.exponents = torch.empty_like(self.features) if softmax else self.features
        self.plus, *minus = torch.split(self.exponents, width, -1)
        self.minus = minus[0] if minus else None
        self.softmaxes = 1 if of.map == "softmax_joint" else signs
        shape = (heads, tokens, self.softmaxes, -1)
        self.from_softmax, self.to_softmax = self.exponents.view(shape), self.features.view(shape)


class _HedgehogReader:
    owned = True

    def __init__(self, of: HedgehogTokens, x: Float[Tensor, "b h n d"], dtype: torch.dtype) -> None:
        self._of = of
        self._shape = x.shape
        self._x = x.flatten(0, 1)
        self._dtype = dtype
        self._matrices = of.weight.to(dtype).expand(x.shape[0], -1, -1, -1).flatten(0, 1)
        self._biases = None if of.bias is None else of.bias.to(dtype).repeat(x.shape[0], 1)[:, None]
        self._memories: dict[int, _Memory] = {}
        self._found: Tensor | None = None
        self._total: Tensor | None = None
        self._bias_total: Tensor | None = None

    def read(self, at: slice) -> Float[Tensor, "bh c f"]:
        of, memory = self._of, self._memory(at)
        y = torch.bmm(self._run(at), self._matrices, out=memory.projection)
        if self._biases is not None:
            y.add_(self._biases)
        if of.map == "softmax_joint":
            y.mul_(2.0)
        memory.plus.copy_(y)
        if memory.minus is not None:
            torch.neg(y, out=memory.minus)
        if of.map != "exp":
            torch.softmax(memory.from_softmax, -1, out=memory.to_softmax)
        return memory.features

    def reverse(self, at: slice, features: Tensor, grad: Tensor) -> None:
        """Goes back through Φ and W; of a softmax s the gradient is s·(∂s - Σ s·∂s), and y has that of +y less -y."""
        of, memory = self._of, self._memory(at)
        if of.map != "exp":
            weights = features.view(memory.to_softmax.shape)
            weighted = grad.view(memory.to_softmax.shape).mul_(weights)
            weighted.addcmul_(weights, weighted.sum(-1, keepdim=True), value=-1.0)
        y = memory.projection
        if of.negate:
            torch.sub(*torch.split(grad, y.shape[-1], -1), out=y)
        else:
            y.copy_(grad)
        if of.map == "softmax_joint":
            y.mul_(2.0)
        if self._found is None:
            self._found = torch.empty_like(self._x)
        if of.weight.requires_grad:
            self._total = torch.zeros_like(self._matrices) if self._total is None else self._total
            torch.baddbmm(self._total, self._run(at).mT, y, out=self._total)
        if of.bias is not None and of.bias.requires_grad:
            bias = y.sum(1)
            self._bias_total = bias if self._bias_total is None else self._bias_total.add_(bias)
        self._found[:, at].copy_(torch.bmm(y, self._matrices.mT, out=memory.vectors))

    def gradients(self) -> tuple[Tensor, tuple[Tensor, ...]]:
        found = torch.zeros_like(self._x) if self._found is None else self._found
        totals = zip(self._of.parameters, (self._total, self._bias_total), strict=False)
        return found.view(self._shape), tuple(self._over_batch(total, like) for like, total in totals)

    def _over_batch(self, total: Tensor | None, like: Tensor) -> Tensor:
        if total is None:
            return torch.zeros_like(like)
        return torch.unflatten(total, 0, (self._shape[0], -1)).sum(0).to(like.dtype)

    def _run(self, at: slice) -> Tensor:
        return self._x[:, at].to(self._dtype)

    def _memory(self, at: slice) -> _Memory:
        tokens = at.stop - at.start
        if tokens not in self._memories:
            self._memories[tokens] = _Memory(self._of, self._x[:, at], self._dtype)
        return self._memories[tokens]
