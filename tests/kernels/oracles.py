"""Attention from whole matrices in the tensors' own type, and how far a kernel may be from it.

The same few lines are the exact answer in float64 and, in bfloat16, a plain computation whose error says how much the
type costs: FlashAttention's criterion lets a kernel be at most twice as far off.
"""

from collections.abc import Callable, Mapping
from itertools import pairwise

import torch
from torch import Tensor

from hedgebench.kernels.distillation.tiles import FLOOR

from .fused_cases import Options

Named = dict[str, Tensor]
Attention = Callable[[Named], Named]
"""Named tensors in, named outputs out."""

UNTAUGHT = ("initial_scale",)
"""Inputs that get no gradient."""


def plain_linear(options: Options, mask: Tensor | None = None, ends: tuple[int, ...] | None = None) -> Attention:
    """Gives "output" and the state's true sums "kv" and "k", of inputs named as in `fused.call.Call`."""

    def attend(given: Named) -> Named:
        if ends is None:
            return _sequence(given, options, mask)
        parts = []
        for index, (start, end) in enumerate(pairwise(ends)):
            part = {name: x[:, :, start:end] if name in ("q", "k", "v") else x for name, x in given.items()}
            part |= {name: x[index : index + 1] for name, x in given.items() if name.startswith("initial")}
            parts.append(_sequence(part, options, None if mask is None else mask[:, start:end]))
        joined = {name: torch.cat([part[name] for part in parts]) for name in ("kv", "k")}
        return {"output": torch.cat([part["output"] for part in parts], 2), **joined}

    return attend


def _sequence(given: Named, options: Options, mask: Tensor | None) -> Named:
    queries, keys, values = _logs_or_features(given, "q", options), _logs_or_features(given, "k", options), given["v"]
    groups, tokens = queries.shape[1] // keys.shape[1], keys.shape[2]
    hidden = torch.zeros(1, 1, 1, tokens, dtype=torch.bool, device=keys.device)
    if mask is not None:
        hidden = ~mask[:, None, None]
        values = values.masked_fill(hidden.mT, 0.0)
    kv, sums, scale = given.get("initial_kv"), given.get("initial_k"), given.get("initial_scale")
    if options.log_space:
        queries, keys = queries.exp(), keys.exp()
        if kv is not None and sums is not None and scale is not None:
            kv, sums = kv * scale.exp()[..., None], sums * scale.exp()
    keys = keys.masked_fill(hidden.mT, 0.0)
    many_keys, many_values = (x.repeat_interleave(groups, 1) for x in (keys, values))
    scores = queries @ many_keys.mT
    scores = scores.tril() if options.causal else scores
    numerator, denominator = scores @ many_values, scores.sum(-1, keepdim=True)
    last_kv, last_k = keys.mT @ values, keys.sum(2)
    if kv is not None and sums is not None:
        numerator = numerator + queries @ kv.repeat_interleave(groups, 1)
        denominator = denominator + queries @ sums.repeat_interleave(groups, 1)[..., None]
        last_kv, last_k = last_kv + kv, last_k + sums
    if options.normalize:
        empty = 0.0 if options.log_space else options.eps
        numerator = numerator / (denominator + empty).masked_fill(denominator + empty == 0, 1.0)
    return {"output": numerator, "kv": last_kv, "k": last_k}


def _logs_or_features(given: Named, of: str, options: Options) -> Tensor:
    """Gives features, or their logarithms in log space."""
    y = given[of]
    if options.feature_map == "identity":
        return y
    y = y @ given[f"{of}_weight"]
    if f"{of}_bias" in given:
        y = y + given[f"{of}_bias"][:, None]
    halves = [y, -y] if options.negate else [y]
    if options.feature_map == "softmax_joint":
        return (2 * torch.cat(halves, -1)).softmax(-1)
    if options.feature_map == "softmax":
        halves = [half.softmax(-1) for half in halves]
    elif options.feature_map == "exp_max":
        halves = [(half - half.amax(-1, keepdim=True)).exp() for half in halves]
    return torch.cat(halves, -1)


def plain_hybrid(window: int, *, log_space: bool, mask: Tensor | None = None) -> Attention:
    """Gives "output" of q, k, v, phi_q, phi_k and gate_log, as `hybrid.hybrid_attention` defines it."""

    def attend(given: Named) -> Named:
        groups, tokens = given["q"].shape[1] // given["k"].shape[1], given["q"].shape[2]
        keys, values, phi_k = (given[name].repeat_interleave(groups, 1) for name in ("k", "v", "phi_k"))
        token = torch.arange(tokens, device=keys.device)
        distance = token[:, None] - token
        real = torch.ones_like(distance, dtype=torch.bool) if mask is None else mask[:, None, None]
        near, far = real & (distance >= 0) & (distance < window), real & (distance >= window)
        logits = (given["q"] @ keys.mT) * given["q"].shape[-1] ** -0.5
        shift = logits.masked_fill(~near, -torch.inf).amax(-1, keepdim=True)
        shift = torch.zeros_like(shift) if log_space else shift.masked_fill(~near.any(-1, keepdim=True), 0.0)
        gate = given["gate_log"].to(logits.dtype).exp()[:, None, None]
        # The exponent of a hidden pair could overflow, and infinity times a gradient of zero is not a number.
        softmax = gate * (logits - shift).masked_fill(~near, 0.0).exp().masked_fill(~near, 0.0)
        features = (given["phi_q"].exp(), phi_k.exp()) if log_space else (given["phi_q"], phi_k)
        weights = softmax + (features[0] @ features[1].mT).masked_fill(~far, 0.0)
        total = weights.sum(-1, keepdim=True)
        return {"output": weights @ values / total.masked_fill(total == 0, 1.0)}

    return attend


def plain_distillation(*, causal: bool, log_space: bool, mask: Tensor | None = None) -> Attention:
    """Gives "cross_entropy" and "kl" [h] of q, k, phi_q and phi_k, as `distillation` defines them."""

    def loss(given: Named) -> Named:
        groups = given["q"].shape[1] // given["k"].shape[1]
        keys, phi_k = (given[name].repeat_interleave(groups, 1) for name in ("k", "phi_k"))
        logits = (given["q"] @ keys.mT).detach() * given["q"].shape[-1] ** -0.5
        seen = torch.ones_like(logits, dtype=torch.bool)
        seen = seen.tril() if causal else seen
        real = torch.ones(logits.shape[0], logits.shape[2], dtype=torch.bool, device=logits.device)
        if mask is not None:
            seen, real = seen & mask[:, None, None], mask
        teacher = logits.masked_fill(~seen, torch.finfo(logits.dtype).min / 2).softmax(-1)
        features = (given["phi_q"].exp(), phi_k.exp()) if log_space else (given["phi_q"], phi_k)
        scores = (features[0] @ features[1].mT).masked_fill(~seen, 0.0)
        total = scores.sum(-1, keepdim=True)
        logs = (scores / total.masked_fill(total == 0, 1.0)).clamp_min(FLOOR).log()
        shares = (real.to(logs.dtype) / real.sum())[:, None]
        crossed = (-(teacher * logs).sum(-1) * shares).sum((0, 2))
        entropy = (-torch.xlogy(teacher, teacher).sum(-1) * shares).sum((0, 2))
        return {"cross_entropy": crossed, "kl": (crossed - entropy).detach()}

    return loss


def outcome(attention: Attention, given: Mapping[str, Tensor], rounding: torch.dtype = torch.bfloat16) -> Named:
    """Gives outputs, and gradients as "gradient of NAME" under cotangents that `rounding` can hold."""
    leaves = {name: x.detach().clone().requires_grad_(name not in UNTAUGHT) for name, x in given.items()}
    outputs = attention(leaves)
    generator = torch.Generator().manual_seed(7)
    drawn = {name: torch.randn(x.shape, generator=generator) for name, x in sorted(outputs.items())}
    wanted = [name for name, x in sorted(outputs.items()) if x.requires_grad]
    results = {name: x.detach() for name, x in outputs.items()}
    if wanted:
        taught = [name for name in leaves if name not in UNTAUGHT]
        cotangents = [drawn[name].to(rounding).to(outputs[name]) for name in wanted]
        found = torch.autograd.grad([outputs[name] for name in wanted], [leaves[name] for name in taught], cotangents,
                                    allow_unused=True)  # fmt: skip
        results |= {f"gradient of {name}": x for name, x in zip(taught, found, strict=True) if x is not None}
    return results


def cast(given: Mapping[str, Tensor], dtype: torch.dtype) -> Named:
    """Gives the same numbers in another type."""
    return {name: x.to(dtype) for name, x in given.items()}


def errors(got: Named, exact: Named) -> dict[str, float]:
    """Gives the largest difference of each result."""
    assert got.keys() == exact.keys(), (sorted(got), sorted(exact))
    for name, x in exact.items():
        assert got[name].shape == x.shape, name
    return {name: float((got[name].double() - x.double()).abs().max()) for name, x in exact.items()}


def beyond_rounding(got: Named, rounded: Named, exact: Named, factor: float = 2.0) -> dict[str, tuple[float, float]]:
    """Gives error and bound of each result further off than `factor` times what rounding costs a plain computation."""
    bounds = {name: factor * error for name, error in errors(rounded, exact).items()}
    return {name: (error, bounds[name]) for name, error in errors(got, exact).items() if not error <= bounds[name]}


def beyond_share(got: Named, exact: Named, shares: Mapping[str, float]) -> dict[str, tuple[float, float]]:
    """Gives error and bound of each result further off than its share of its largest number."""
    bounds = {name: shares[name] * float(x.abs().max()) for name, x in exact.items()}
    return {name: (error, bounds[name]) for name, error in errors(got, exact).items() if not error <= bounds[name]}
