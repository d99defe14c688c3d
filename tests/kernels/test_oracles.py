"""The GPU suite's own logic, without a GPU: its cases at a small size, with torch's forms in the kernels' place."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

import pytest
import torch

from .gpu_cases import (
    DECODED,
    DISTILLED,
    HYBRID,
    LINEAR,
    Contest,
    decode_contest,
    distillation_contest,
    hybrid_contest,
    linear_contest,
)
from .oracles import Named, beyond_rounding, beyond_share, cast, outcome, plain_linear


def small(case: Any) -> Any:
    """A case with a few tokens of few dimensions, its kinds of tensors and options as they were."""
    if case.n < 10:
        return case
    sizes = {"n": 19, "d": case.d if case.d == 2145 else 8, "dv": 6}
    if hasattr(case, "ends"):
        return replace(case, **sizes, w=None if case.w is None else 5, ends=case.ends and (0, 1, 12, 19))
    return replace(case, **sizes, f=5, window=min(case.window, 4))


def contests(dtype: torch.dtype) -> dict[str, Callable[[], Contest]]:
    of: dict[str, tuple[dict[str, Any], Callable[[Any], Contest]]] = {
        "linear": (LINEAR, lambda case: linear_contest(case, dtype, "cpu", "torch")),
        "decode": (DECODED, lambda case: decode_contest(case, dtype, "cpu")),
        "hybrid": (HYBRID, lambda case: hybrid_contest(case, dtype, "cpu", "torch")),
        "distillation": (DISTILLED, lambda case: distillation_contest(case, dtype, "cpu", "torch")),
    }
    return {
        f"{kind}_{name}": lambda case=case, make=make: make(small(case))  # type: ignore[misc]
        for kind, (cases, make) in of.items()
        for name, case in cases.items()
    }


def every(share: float) -> Mapping[str, float]:
    return defaultdict(lambda: share)


NAMES = [*contests(torch.float64)]


@pytest.mark.parametrize("name", NAMES)
def test_plain_computations_are_the_torch_forms_in_double_and_within_the_bounds_below(name: str) -> None:
    double = contests(torch.float64)[name]()
    given = cast(double.given, torch.float64)
    assert beyond_share(outcome(double.kernels, given), outcome(double.plain, given), every(1e-9)) == {}
    single = contests(torch.float32)[name]()
    exact = outcome(single.plain, cast(single.given, torch.float64))
    assert beyond_share(outcome(single.kernels, single.given), exact, every(1e-5)) == {}
    half = contests(torch.bfloat16)[name]()
    exact, rounded = (outcome(half.plain, cast(half.given, dtype)) for dtype in (torch.float64, torch.bfloat16))
    assert beyond_rounding(outcome(half.kernels, half.given), rounded, exact) == {}


def test_results_that_are_wrong_or_missing_are_told() -> None:
    contest = contests(torch.bfloat16)["linear_softmax"]()
    exact, rounded = (outcome(contest.plain, cast(contest.given, dtype)) for dtype in (torch.float64, torch.bfloat16))
    got = outcome(contest.kernels, contest.given)
    for name in ("output", "kv", "gradient of q", "gradient of k_weight"):
        wrong = {**got, name: got[name] * 1.1}
        assert list(beyond_rounding(wrong, rounded, exact)) == [name]
        assert list(beyond_share(wrong, exact, every(0.05))) == [name]
        assert name in beyond_rounding({**got, name: torch.full_like(got[name], torch.nan)}, rounded, exact)
    with pytest.raises(AssertionError, match="gradient of v"):
        beyond_share({name: x for name, x in got.items() if name != "gradient of v"}, exact, every(1.0))


def test_a_kernel_that_forgets_the_gradient_of_the_normaliser_is_told() -> None:
    """Its output is right; the mistake is one that such kernels have made before."""
    case = small(LINEAR["identity"])
    contest = linear_contest(case, torch.bfloat16, "cpu", "torch")
    sums = plain_linear(replace(case, normalize=False).options)

    def forgetful(leaves: Named) -> Named:
        wide = cast(leaves, torch.float32)
        totals = sums({**wide, "v": torch.ones_like(wide["v"])})["output"].detach()
        return {**sums(wide), "output": sums(wide)["output"] / totals}

    exact, rounded = (outcome(contest.plain, cast(contest.given, dtype)) for dtype in (torch.float64, torch.bfloat16))
    told = beyond_rounding(outcome(forgetful, contest.given), rounded, exact)
    assert {"gradient of q", "gradient of k"} <= told.keys()
    assert "output" not in told
