"""The controls of an audit compute the attention that they name, on every path, and leave the model as it was."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch

from hedgebench.adapters.audit.controls import CONTROLS, attending, controls_of
from hedgebench.adapters.audit.exposure import Exposure, metered
from hedgebench.adapters.backbone import DECODER
from hedgebench.adapters.base import ModelShape
from hedgebench.adapters.model_adapter import ModelAdapter
from hedgebench.adapters.pretrained.model import PretrainedModel
from hedgebench.adapters.pretrained.sites import example_inputs
from hedgebench.adapters.pretrained.swap import swap_attention
from hedgebench.adapters.scratch.transformer import Transformer
from hedgebench.results import audit

from ..any_models import any_model
from ..swapped import CPU, spec

Build = Callable[..., ModelAdapter[Transformer]]

HYBRID = "hedgehog:window=4"


@pytest.mark.parametrize(
    ("control", "same_as"), [("linear_only", "hedgehog"), ("without_attention", "none"), ("with_softmax", "softmax")]
)
def test_a_hybrid_attends_as_its_control_says(build: Build, control: str, same_as: str, tokens: torch.Tensor) -> None:
    hybrid, other = build(HYBRID), build(same_as)
    other.model.load_state_dict({
        name: value for name, value in hybrid.model.state_dict().items() if name in other.model.state_dict()
    })  # fmt: skip
    before = hybrid.logits(tokens)
    requests = [(row[:5].tolist(), row[5:].tolist()) for row in tokens]
    with attending(hybrid, control):
        assert torch.allclose(hybrid.logits(tokens), other.logits(tokens), atol=1e-5)
        assert torch.equal(
            hybrid.generate(tokens[:, :5], max_new_tokens=4), other.generate(tokens[:, :5], max_new_tokens=4)
        )
        found, expected = (each.loglikelihood(requests, share_context=True) for each in (hybrid, other))
        assert [each.loglikelihood_nats for each in found] == pytest.approx(
            [each.loglikelihood_nats for each in expected], abs=1e-4
        )
    assert not torch.allclose(before, other.logits(tokens), atol=1e-3)
    assert torch.equal(hybrid.logits(tokens), before)
    assert [use.phase for use in hybrid.kernels_used()] == ["forward"]


@pytest.mark.parametrize(
    ("spec", "controls"),
    [
        (HYBRID, ["linear_only", "without_attention", "with_softmax"]),
        ("elu", ["without_attention", "with_softmax"]),
        ("window:window=4", ["without_attention", "with_softmax"]),
        ("softmax", []),
        ("none", []),
    ],
)
def test_only_converted_models_have_controls(build: Build, spec: str, controls: list[str]) -> None:
    assert controls_of(build(spec)) == controls


def test_controls_leave_layers_that_a_hybrid_keeps_as_they_are() -> None:
    """Sliding windows of the model's own are not converted, so softmax in the other layers gives the model back."""
    inner = any_model("gemma3_text")
    ids, mask = example_inputs(inner, 1, 12)
    expected = inner(input_ids=ids, attention_mask=mask).logits.detach()
    model = PretrainedModel(inner, swap_attention(inner, spec("hedgehog:window=4:keep=sliding"), context_length=64))
    adapter = ModelAdapter(model, DECODER, ModelShape(64, 97), CPU)
    assert controls_of(adapter) == ["linear_only", "without_attention", "with_softmax"]
    with attending(adapter, "with_softmax"):
        torch.testing.assert_close(adapter.logits(ids, mask), expected)


def test_the_controls_are_those_that_tables_know() -> None:
    assert list(CONTROLS) == list(audit.CONTROLS)


def counts(exposure: Exposure) -> tuple[int, int]:
    return exposure.beyond, exposure.scored


def test_exposure_counts_what_is_predicted_from_more_tokens_than_the_window_holds(
    build: Build, tokens: torch.Tensor
) -> None:
    adapter = build(HYBRID, shape=ModelShape(context_length=9, vocab_size=11))
    rows = tokens.tolist()
    expected = adapter.loglikelihood([(rows[0][:3], rows[0][3:])])
    with metered(adapter, 4) as exposure:
        # Its tokens are predicted from 3, 4, 5, 6, 7 and 8 tokens.
        assert adapter.loglikelihood([(rows[0][:3], rows[0][3:])]) == expected
    assert counts(exposure) == (4, 6)
    with metered(adapter, 4) as exposure:  # the context is cut to the 9 tokens that the model reads
        adapter.loglikelihood([([1] * 30, [2, 3])])
    assert counts(exposure) == (2, 2)
    with metered(adapter, 4) as exposure:  # two windows of 9 tokens, each of which begins with one token of context
        adapter.rolling_loglikelihood([1] * 18, prefix_token=0)
    assert counts(exposure) == (5 + 5, 18)
    with metered(adapter, 4) as exposure:
        mask = torch.ones(3, 5, dtype=torch.bool)
        mask[0, :3] = False
        adapter.generate(tokens[:, :5], mask, max_new_tokens=4)  # from 2 to 5 tokens, and twice from 5 to 8
    assert counts(exposure) == (1 + 4 + 4, 12)
    assert not exposure.assumed
    with metered(adapter, 4) as exposure:
        adapter.logits(tokens)
    assert counts(exposure) == (3 * 5, 3 * 9)
    assert exposure.assumed
    assert "logits" not in vars(adapter)
