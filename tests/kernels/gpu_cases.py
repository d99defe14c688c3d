"""Calls that the GPU suite makes, each as a plain computation and as the kernels' public call.

Sizes are those of real layers: more tokens than a stored block of 256 or 512 holds, and no multiple of a tile. A case
says nothing of device or backend, so that the suite's own logic is tested without a GPU.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from hedgebench.kernels.choice import KernelChoice
from hedgebench.kernels.distillation.loss import attention_distillation_loss
from hedgebench.kernels.hedgehog import chunk_hedgehog_attn, chunk_linear_attn, fused_recurrent_hedgehog_attn
from hedgebench.kernels.hybrid.attention import hybrid_attention
from hedgebench.kernels.maps.fixed import EluMap
from hedgebench.kernels.maps.learned import HEDGEHOG_MAPS, TaylorMap
from hedgebench.kernels.state import LinearState

from .fused_cases import Case, draw, tensors_of
from .oracles import Attention, Named, plain_distillation, plain_hybrid, plain_linear

_LAYER = Case(b=2, h=4, hk=2, n=300, d=64, dv=64)

LINEAR = {
    **{name: replace(_LAYER, feature_map=name) for name in (*HEDGEHOG_MAPS, "identity", "log_identity")},
    **{
        f"{name}_one_pass": replace(_LAYER, feature_map=name, form="fused_chunk")
        for name in (*HEDGEHOG_MAPS, "identity", "log_identity")
    },
    "bias_and_odd_sizes": replace(_LAYER, feature_map="softmax_joint", d=48, w=40, dv=80, mask=True, bias=True),
    "bias_and_odd_sizes_log": replace(_LAYER, feature_map="exp", d=48, w=40, dv=80, mask=True, bias=True),
    "head_of_128": replace(_LAYER, feature_map="softmax", d=128, dv=128),
    "head_of_128_log": replace(_LAYER, feature_map="exp", d=128, dv=128),
    "head_of_256": replace(_LAYER, feature_map="identity", d=256, dv=256),
    "state": replace(_LAYER, feature_map="softmax", state=True, mask=True),
    "state_one_pass": replace(_LAYER, feature_map="softmax", state=True, mask=True, form="fused_chunk"),
    "state_log": replace(_LAYER, feature_map="exp", state=True, mask=True),
    "state_log_one_pass": replace(_LAYER, feature_map="exp", state=True, mask=True, form="fused_chunk"),
    "unnormalised": replace(_LAYER, feature_map="softmax", normalize=False, negate=False, state=True),
    "both_ways": replace(_LAYER, feature_map="softmax", causal=False, mask=True, state=True),
    "both_ways_log": replace(_LAYER, feature_map="exp", causal=False, mask=True, state=True),
    "packed": replace(_LAYER, feature_map="softmax", b=1, ends=(0, 1, 260, 300), state=True),
    "packed_log": replace(_LAYER, feature_map="exp", b=1, ends=(0, 1, 260, 300), state=True),
    "packed_one_pass": replace(_LAYER, feature_map="exp", b=1, ends=(0, 1, 260, 300), state=True, form="fused_chunk"),
    "multi_query": replace(_LAYER, feature_map="exp_max", h=8, hk=1),
    "one_token": replace(_LAYER, feature_map="exp", n=1, state=True),
    "taylor": replace(_LAYER, feature_map="identity", d=2145, n=530, b=1),
    "taylor_both_ways": replace(_LAYER, feature_map="identity", d=2145, causal=False, mask=True, b=1),
    "taylor_packed": replace(_LAYER, feature_map="identity", d=2145, ends=(0, 7, 300), b=1),
    "taylor_state": replace(_LAYER, feature_map="identity", d=2145, state=True, mask=True),
}
"""Forward and backward calls of linear attention."""

DECODED = {
    **{name: replace(_LAYER, feature_map=name, n=3, state=True) for name in HEDGEHOG_MAPS},
    "bias": replace(_LAYER, feature_map="softmax", n=1, state=True, bias=True, d=48, w=40, dv=80),
    "bias_log": replace(_LAYER, feature_map="exp", n=1, state=True, bias=True, d=48, w=40, dv=80),
    "unnormalised": replace(_LAYER, feature_map="exp", n=2, state=True, negate=False, normalize=False),
    "head_of_128": replace(_LAYER, feature_map="exp", n=1, state=True, d=128, dv=128, h=8, hk=1),
}
"""Calls of a few tokens after a state."""


@dataclass(frozen=True)
class PairCase:
    """A call of the hybrid (with a window) or of distillation; f features, logarithms in log space."""

    log_space: bool
    b: int = 2
    h: int = 4
    hk: int = 2
    n: int = 300
    d: int = 64
    dv: int = 64
    f: int = 128
    window: int = 64
    mask: bool = False
    causal: bool = True


HYBRID = {
    "bounded": PairCase(log_space=False),
    "log": PairCase(log_space=True),
    "masked": PairCase(log_space=False, mask=True, d=48, dv=80),
    "masked_log": PairCase(log_space=True, mask=True, d=48, dv=80),
    "head_of_128": PairCase(log_space=False, d=128, dv=128, f=256),
    "window_of_one": PairCase(log_space=True, window=1),
    "taylor": PairCase(log_space=False, f=2145),
}

DISTILLED = {
    "bounded": PairCase(log_space=False),
    "log": PairCase(log_space=True),
    "masked": PairCase(log_space=False, mask=True, d=48),
    "masked_log": PairCase(log_space=True, mask=True, d=48),
    "both_ways": PairCase(log_space=False, causal=False, mask=True),
    "both_ways_log": PairCase(log_space=True, causal=False),
    "head_of_128": PairCase(log_space=False, d=128, f=256),
    "head_of_256": PairCase(log_space=False, d=256, f=300),
}


@dataclass(frozen=True)
class Contest:
    """One call: what it is given in float32, the plain computation, and the kernels'."""

    given: Named
    plain: Attention
    kernels: Attention


def linear_contest(case: Case, dtype: torch.dtype, device: str, backend: str) -> Contest:
    """Gives a case of linear attention; numbers are those that `dtype` can hold, and "auto" runs no kernel here."""
    named = _taylor(case) if case.d == 2145 else tensors_of(draw(case))
    mask = _moved(named.pop("mask", None), device)
    given = _rounded(named, dtype, device, ("initial_kv", "initial_k", "initial_scale"))

    def kernels(leaves: Named) -> Named:
        result = _call(case, leaves, key_padding_mask=mask, form=case.form, backend=backend)
        expected = KernelChoice(case.form, "triton") if backend == "triton" else KernelChoice("chunk", "torch")
        assert result.kernel == expected
        return {"output": result.output, **_true_sums(result.state)}

    return Contest(given, plain_linear(case.options, mask, case.ends), kernels)


def _true_sums(state: LinearState) -> Named:
    """Gives the sums without their shift, which differs between forms."""
    if state.log_scale is None:
        return {"kv": state.kv, "k": state.k}
    factor = state.log_scale.exp()
    return {"kv": state.kv * factor[..., None], "k": state.k * factor}


def decode_contest(case: Case, dtype: torch.dtype, device: str) -> Contest:
    """Gives a case of decoding, on CUDA by the kernel."""
    options = case.options
    given = _rounded(tensors_of(draw(case)), dtype, device, ("initial_kv", "initial_k", "initial_scale"))

    def kernels(leaves: Named) -> Named:
        state = _state({name: x.detach().clone() for name, x in leaves.items()})
        assert state is not None
        decoded = fused_recurrent_hedgehog_attn(
            *_tensors(leaves), state=state, feature_map=case.feature_map, negate=options.negate,
            normalize=options.normalize, eps=options.eps,
        )  # fmt: skip
        assert decoded.kernel.backend == ("triton" if device == "cuda" else "torch")
        return {"output": decoded.output, **_true_sums(state)}

    def plain(leaves: Named) -> Named:
        with torch.no_grad():
            return plain_linear(options)(leaves)

    return Contest(given, plain, kernels)


def hybrid_contest(case: PairCase, dtype: torch.dtype, device: str, backend: str) -> Contest:
    """Gives a case of the hybrid; `backend` is what must have run."""
    named, mask = _pairs(case, device, ("q", "k", "v", "phi_q", "phi_k"))
    named["gate_log"] = -torch.linspace(0.1, 2.0, case.h)
    given = _rounded(named, dtype, device, ("gate_log", *(("phi_q", "phi_k") if case.log_space else ())))
    positions = torch.arange(case.n, device=device).repeat(case.b, 1)

    def kernels(leaves: Named) -> Named:
        result = hybrid_attention(
            leaves["q"], leaves["k"], leaves["v"], leaves["phi_q"], lambda k, _: leaves["phi_k"][:, :, : k.shape[2]],
            window=case.window, gate_log=leaves["gate_log"], positions=positions, key_padding_mask=mask,
            log_space=case.log_space, shift_window=not case.log_space,
        )  # fmt: skip
        assert result.kernel == KernelChoice("hybrid", backend)
        return {"output": result.output}

    return Contest(given, plain_hybrid(case.window, log_space=case.log_space, mask=mask), kernels)


def distillation_contest(case: PairCase, dtype: torch.dtype, device: str, backend: str) -> Contest:
    """Gives a case of distillation; the teacher's queries and keys get no gradient."""
    named, mask = _pairs(case, device, ("q", "k", "phi_q", "phi_k"))
    given = _rounded(named, dtype, device, ())

    def kernels(leaves: Named) -> Named:
        loss = attention_distillation_loss(
            leaves["q"], leaves["k"], leaves["phi_q"], leaves["phi_k"], causal=case.causal, key_padding_mask=mask,
            log_space=case.log_space, backend=backend,
        )  # fmt: skip
        assert loss.kernel == KernelChoice("tiled", backend)
        return {"cross_entropy": loss.cross_entropy, "kl": loss.kl}

    return Contest(given, plain_distillation(causal=case.causal, log_space=case.log_space, mask=mask), kernels)


def _call(case: Case, leaves: Named, **options: Any) -> Any:
    """Runs linear attention by its public call, of a map or of features."""
    chosen = case.options
    options |= {"causal": chosen.causal, "normalize": chosen.normalize, "eps": chosen.eps, "output_final_state": True}
    options["cu_seqlens"] = None if case.ends is None else torch.tensor(case.ends)
    options["initial_state"] = _state(leaves)
    if chosen.feature_map == "identity":
        return chunk_linear_attn(leaves["q"], leaves["k"], leaves["v"], log_space=chosen.log_space, **options)
    options |= {"feature_map": chosen.feature_map, "negate": chosen.negate}
    return chunk_hedgehog_attn(*_tensors(leaves), **options)


def _state(leaves: Named) -> LinearState | None:
    if "initial_kv" not in leaves:
        return None
    return LinearState(leaves["initial_kv"], leaves["initial_k"], leaves.get("initial_scale"))


def _tensors(leaves: Named) -> tuple[Any, ...]:
    return tuple(leaves.get(name) for name in ("q", "k", "v", "q_weight", "k_weight", "q_bias", "k_bias"))


def _taylor(case: Case) -> dict[str, Any]:
    """Gives the case's tensors with Taylor's features of 64 dimensions for features: of either sign, sums positive."""
    small = draw(replace(case, feature_map="log_identity", d=64, state=False))
    q, k = (TaylorMap(x.shape[1], 64)(x) for x in (small.q, small.k))
    named = {**tensors_of(small), "q": q, "k": k}
    if case.state:
        earlier = TaylorMap(case.hk, 64)(
            torch.randn(case.b, case.hk, 9, 64, generator=torch.Generator().manual_seed(3))
        )
        values = torch.randn(case.b, case.hk, 9, case.dv, generator=torch.Generator().manual_seed(4))
        named |= {"initial_kv": earlier.mT @ values, "initial_k": earlier.sum(2)}
    return named


def _pairs(case: PairCase, device: str, names: tuple[str, ...]) -> tuple[dict[str, Tensor], Tensor | None]:
    """Draws queries and keys of both kinds; Taylor's features are of those queries and keys."""
    generator = torch.Generator().manual_seed(0)
    sizes = {"q": (case.h, case.d), "k": (case.hk, case.d), "v": (case.hk, case.dv), "phi_q": (case.h, case.f),
             "phi_k": (case.hk, case.f)}  # fmt: skip
    drawn = {name: torch.randn(case.b, heads, case.n, size, generator=generator)
             for name, (heads, size) in sizes.items()}  # fmt: skip
    if case.f == 2145:
        drawn |= {"phi_q": TaylorMap(case.h, case.d)(drawn["q"]), "phi_k": TaylorMap(case.hk, case.d)(drawn["k"])}
    elif not case.log_space:
        drawn |= {"phi_q": EluMap(case.h, case.f)(drawn["phi_q"]), "phi_k": EluMap(case.hk, case.f)(drawn["phi_k"])}
    mask = None
    if case.mask:
        mask = torch.rand(case.b, case.n, generator=generator) > 0.3
        mask[0, : case.n // 2] = False
    return {name: drawn[name] for name in names}, _moved(mask, device)


def _rounded(named: dict[str, Any], dtype: torch.dtype, device: str, in_float32: tuple[str, ...]) -> Named:
    """Gives the tensors there are in `dtype`, but for some in float32 of numbers that `dtype` holds."""
    there = {name: x.detach().to(device, dtype) for name, x in named.items() if x is not None and name != "cu_seqlens"}
    return {name: x.float() if name in in_float32 else x for name, x in there.items()}


def _moved(mask: Tensor | None, device: str) -> Tensor | None:
    return None if mask is None else mask.to(device)
