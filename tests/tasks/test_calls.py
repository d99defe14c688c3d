"""Tests of tasks/calls.py."""

from __future__ import annotations

from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from hedgebench.adapters.base import UnsupportedError
from hedgebench.tasks.calls import LayerCalls, ModelCalls, calls_for, check_compiled


def subject(log: list[str]) -> Any:
    def prefill(tokens: torch.Tensor) -> tuple[None, str]:
        log.append("prefill")
        return None, "state"

    return SimpleNamespace(
        device=torch.device("cpu"),
        prefill=prefill,
        training_step=lambda tokens, targets: log.append("train"),
        compile=lambda: log.append("compile"),
    )


def test_a_mode_says_what_is_called_and_on_what() -> None:
    calls, work = calls_for("layer_train", subject([]))
    assert (type(calls), work) == (LayerCalls, "train")
    calls, work = calls_for("decode", subject([]))
    assert (type(calls), work) == (ModelCalls, "decode")


def test_a_model_is_trained_on_the_tokens_that_follow() -> None:
    seen: list[Any] = []
    adapter = subject([])
    adapter.training_step = lambda tokens, targets: seen.extend((tokens, targets))
    calls = ModelCalls(adapter)
    calls.train(calls.inputs(2, 6))
    assert torch.equal(seen[0][:, 1:], seen[1][:, :-1])


def test_compiled_modes_go_through_the_compiler(monkeypatch: pytest.MonkeyPatch) -> None:
    log: list[str] = []

    def compile(call: Callable[..., Any], dynamic: bool) -> Callable[..., Any]:
        def compiled(*args: Any) -> Any:
            log.append("compiled")
            return call(*args)

        return compiled

    monkeypatch.setattr(torch, "compile", compile)
    calls, work = calls_for("compiled_prefill", subject(log))
    assert (calls.prefill(calls.inputs(1, 4), 4), work) == ("state", "prefill")
    assert log == ["compiled", "prefill"]
    calls_for("layer_compiled_train", subject(log))
    assert log[-1] == "compile"


def test_a_compiler_that_compiled_nothing_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    import importlib

    counters = importlib.import_module("torch._dynamo.utils").counters
    monkeypatch.setitem(counters["stats"], "unique_graphs", 0)
    check_compiled("prefill")
    with pytest.raises(UnsupportedError, match="compiled nothing of compiled_prefill"):
        check_compiled("compiled_prefill")
    monkeypatch.setitem(counters["stats"], "unique_graphs", 2)
    check_compiled("compiled_prefill")
