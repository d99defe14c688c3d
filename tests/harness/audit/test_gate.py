"""The gate and the audit in cells: what is scored, what is refused, and what the record says."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, cast

import pytest
import torch

from hedgebench.adapters.attention.linear import LinearAttention
from hedgebench.harness.audit.audit import control_scores
from hedgebench.harness.config import make_config
from hedgebench.harness.plan import make_plan, make_sources
from hedgebench.harness.running.job import CellJob
from hedgebench.harness.running.worker import run_job
from hedgebench.results.record import Metric, Record
from hedgebench.results.tables.aggregate import group_seeds
from hedgebench.results.tables.conversion import audit_notes
from hedgebench.tasks.fidelity.attention_fidelity import ATTENTION_FIDELITY

from ...adapters.tiny_models import save_tiny

HYBRID = "hedgehog:window=8"


@pytest.fixture
def cell(tmp_path: Path) -> Callable[..., Record]:
    """Runs a tiny Llama with a mechanism on a text of one's own, and gives its record."""
    save_tiny("llama", tmp_path / "llama")
    (tmp_path / "text.txt").write_text("the cat sat on the mat, and the dog ran. " * 20, encoding="utf-8")

    def run(model: str, **values: Any) -> Record:
        config = make_config({
            "models": (model,),
            "tasks": ("perplexity",),
            "recipe": "zero-shot",
            "backbone": f"hf:{tmp_path / 'llama'}",
            "offline": True,
            "set": {"file": str(tmp_path / "text.txt"), "context_length": "32"},
            **values,
        })  # fmt: skip
        (planned,) = make_plan(config)
        assert planned.problem is None, planned.problem
        return run_job(CellJob(planned, config, tmp_path, make_sources(config), threads=1), lambda _: None).record

    return run


def values(record: Record) -> dict[str, float | None]:
    return {metric.name: metric.value for metric in record.metrics}


def test_a_model_that_passes_is_scored_as_without_the_gate(cell: Callable[..., Record]) -> None:
    gated, plain = cell("hedgehog"), cell("hedgehog", no_gate=True)
    assert gated.status == plain.status == "ok"
    assert gated.cell_id == plain.cell_id
    assert gated.kernels == plain.kernels
    assert "gate" in gated.timings_s
    assert "gate" not in plain.timings_s
    found = values(gated)
    assert 0 <= (found.pop("path_difference") or 0.0) < 1e-3
    assert found == values(plain)


def test_a_model_with_a_broken_decode_path_is_not_scored(
    cell: Callable[..., Record], monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = LinearAttention.attend

    def broken(self: Any, heads: Any, state: Any, **options: Any) -> Any:
        """Decodes without the state."""
        return whole(self, heads, None if heads.q.shape[2] == 1 else state, **options)

    monkeypatch.setattr(LinearAttention, "attend", broken)
    record = cell("hedgehog")
    assert record.status == "error"
    assert record.error is not None
    assert record.error.type == "EquivalenceError"
    assert "the path 'token by token' differs from the whole sequence" in record.error.message
    assert record.metrics == ()
    assert cell("hedgehog", no_gate=True).status == "ok"  # whole sequences alone are right


def test_an_audit_scores_the_same_weights_with_other_attention(cell: Callable[..., Record]) -> None:
    torch.manual_seed(0)
    audited, plain, softmax = cell(HYBRID, audit=True), cell(HYBRID), cell("softmax", audit=True)
    found = values(audited)
    controls = ("linear_only", "without_attention", "with_softmax", "without_linear_branch")
    assert len({found[f"perplexity_{each}"] for each in controls}) == 4
    assert found["perplexity_with_softmax"] == pytest.approx(values(softmax)["perplexity"] or 0.0, rel=1e-5)
    assert audited.cell_id == plain.cell_id
    assert {name: value for name, value in found.items() if name in values(plain)} == values(plain)
    # Windows of 32 tokens: the last 24 of each are predicted from more than 8, and more of the last, which overlaps.
    assert found["linear_exposure"] == pytest.approx(0.75, abs=0.01)
    assert not any("with" in name for name in values(softmax))
    ((note,),) = audit_notes(group_seeds([audited, softmax])).values()
    assert note.startswith(f"{HYBRID} on perplexity: 76% of the scored tokens have a context longer than its window; ")
    assert "as it is, and the same weights give" in note
    assert note.count("with") >= 3


def test_a_task_that_measures_the_weights_of_attention_is_not_measured_under_controls() -> None:
    def measured() -> list[Metric]:
        raise AssertionError

    assert not list(control_scores(cast("Any", object()), ATTENTION_FIDELITY.info, measured))
