"""Calls of the fused kernels beside the torch forms in float64: one place draws both from the same seed."""

from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from hedgebench.kernels.fused.call import Call
from hedgebench.kernels.fused.torch_forms import torch_attention
from hedgebench.kernels.state import LinearState


@dataclass(frozen=True)
class Options:
    """What is not a tensor in a call."""

    feature_map: str
    negate: bool
    log_space: bool
    causal: bool
    normalize: bool
    eps: float
    form: str


@dataclass(frozen=True)
class Case:
    """One call. `spread` multiplies queries and keys; `mask` hides keys at random, and the first half of entry 0."""

    feature_map: str = "softmax"
    b: int = 1
    h: int = 2
    hk: int = 2
    n: int = 37
    d: int = 16
    w: int | None = None
    dv: int = 16
    causal: bool = True
    mask: bool = False
    bias: bool = False
    negate: bool = True
    normalize: bool = True
    state: bool = False
    form: str = "chunk"
    spread: float = 1.0
    ends: tuple[int, ...] | None = None

    @property
    def options(self) -> Options:
        plain = self.feature_map in ("identity", "log_identity")
        return Options(
            "identity" if plain else self.feature_map,
            self.negate and not plain,
            self.feature_map in ("exp", "log_identity"),
            self.causal,
            self.normalize,
            1e-6,
            self.form,
        )

    @property
    def features(self) -> int:
        return (self.w or self.d) * (2 if self.options.negate else 1)


def draw(case: Case, seed: int = 0) -> Call:
    """Gives a case's call in float64."""
    generator = torch.Generator().manual_seed(seed)

    def normal(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator, dtype=torch.float64)

    w = case.w or case.d
    q, k = (normal(case.b, h, case.n, case.d) * case.spread for h in (case.h, case.hk))
    v = normal(case.b, case.hk, case.n, case.dv)
    maps: list[Tensor | None] = [None] * 4
    if case.options.feature_map != "identity":
        maps[:2] = [normal(h, case.d, w) * case.d**-0.5 for h in (case.h, case.hk)]
        maps[2:] = [normal(h, w) for h in (case.h, case.hk)] if case.bias else [None, None]
    elif case.feature_map == "identity":
        q, k = q.exp(), k.exp()
    mask = None
    if case.mask:
        mask = torch.rand(case.b, case.n, generator=generator) > 0.3
        mask[0, : case.n // 2] = False
    sequences = case.b if case.ends is None else len(case.ends) - 1
    initial: list[Tensor | None] = [None] * 3
    if case.state:
        shape = (sequences, case.hk, case.features)
        initial = [normal(*shape, case.dv), normal(*shape).exp(), normal(*shape) if case.options.log_space else None]
    ends = None if case.ends is None else torch.tensor(case.ends)
    tensors: list[Any] = [q, k, v, *maps, *initial, mask, ends]
    return Call(*tensors, **vars(case.options))


def single(call: Call, dtype: torch.dtype = torch.float32) -> Call:
    """Gives the same call as the kernels take it: the state in float32, the rest in `dtype`."""
    cast: dict[str, Any] = {name: x.to(dtype) for name, x in call.differentiable().items()}
    cast |= {name: x.float() for name, x in tensors_of(call).items() if name.startswith("initial")}
    return replace(call, **cast)


def tensors_of(call: Call) -> dict[str, Tensor]:
    """Gives the tensors of a call by name."""
    named = zip(call.__match_args__, call.flatten(), strict=True)
    return {name: x for name, x in named if isinstance(x, Tensor)}


def learning(call: Call) -> Call:
    """Gives the call with gradients wanted for all but its initial state."""
    wanted = {name: x.detach().requires_grad_() for name, x in call.differentiable().items() if "initial" not in name}
    return replace(call, **wanted)  # type: ignore[arg-type]


@dataclass(frozen=True)
class Results:
    """Output, state and gradients by the name of what they are of."""

    output: Tensor
    state: LinearState
    gradients: dict[str, Tensor]


def reference(call: Call) -> tuple[Results, tuple[Tensor, Tensor, Tensor]]:
    """Gives what the torch forms give in float64, and the gradients of output and state that went in."""
    leaves: dict[str, Any] = {name: x.detach().clone().requires_grad_() for name, x in call.differentiable().items()}
    output, state = torch_attention(replace(call, **leaves))
    generator = torch.Generator().manual_seed(7)
    cotangents = [torch.randn(x.shape, generator=generator, dtype=x.dtype) for x in (output, state.kv, state.k)]
    found = torch.autograd.grad([output, state.kv, state.k], list(leaves.values()), cotangents)
    gradients = dict(zip(leaves, found, strict=True))
    return Results(output, state, gradients), (cotangents[0], cotangents[1], cotangents[2])


def relative(got: Tensor, expected: Tensor) -> float:
    """Gives the largest difference as a share of the largest number expected."""
    assert got.shape == expected.shape
    difference = (got.double() - expected).detach().abs().max()
    return float(difference / expected.detach().abs().max().clamp_min(1e-30))
