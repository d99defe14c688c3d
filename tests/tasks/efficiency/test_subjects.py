"""Tests of tasks/efficiency/subjects.py."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from hedgebench.adapters.base import ModelShape, UnsupportedError
from hedgebench.tasks.efficiency.subjects import (
    Compiled,
    ModelCalls,
    calls_for,
    check_compiled,
    compilations,
)


@pytest.fixture
def counters() -> Iterator[Any]:
    """The compiler's counters, emptied before and after."""
    torch._dynamo.reset()
    torch._dynamo.utils.counters.clear()
    yield torch._dynamo.utils.counters
    torch._dynamo.utils.counters.clear()


def subject(log: list[str]) -> Any:
    def prefill(tokens: torch.Tensor) -> tuple[None, str]:
        log.append("prefill")
        return None, "state"

    return SimpleNamespace(
        device=torch.device("cpu"),
        shape=ModelShape(4096, 256),
        prefill=prefill,
        training_step=lambda tokens, targets: log.append("train"),
        compile=lambda: log.append("compile"),
    )


def test_a_mode_says_what_is_called_and_on_what() -> None:
    layer = subject([])
    calls, work = calls_for("layer_train", layer)
    assert calls is layer
    assert work == "train"
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


def test_a_compiler_that_compiled_nothing_is_told(counters: Any) -> None:
    assert check_compiled("prefill") is None
    with pytest.raises(UnsupportedError, match="compiled nothing of compiled_prefill"):
        check_compiled("compiled_prefill")
    counters["stats"]["unique_graphs"] = 2
    assert check_compiled("compiled_prefill") == Compiled(2)
    assert Compiled(2).notes == []


def test_what_another_mode_compiled_before_does_not_count(counters: Any) -> None:
    counters["stats"]["unique_graphs"] = 3
    calls_for("layer_compiled_train", subject([]))
    with pytest.raises(UnsupportedError, match="compiled nothing of layer_compiled_train"):
        check_compiled("layer_compiled_train")


def test_where_the_compiler_goes_back_to_python_is_counted_and_said(counters: Any) -> None:
    def broken(x: torch.Tensor) -> torch.Tensor:
        y = x.sin()
        torch._dynamo.graph_break()
        return y.cos()

    def whole(x: torch.Tensor) -> torch.Tensor:
        return x.sin().cos()

    compile: Any = torch.compile
    compile(whole, backend="eager", dynamic=False)(torch.ones(3))
    found = check_compiled("compiled_prefill")
    assert found is not None
    assert (found.graphs, found.breaks) == (1, {})
    compile(broken, backend="eager", dynamic=False)(torch.ones(3))
    found = check_compiled("compiled_prefill")
    assert found is not None
    assert (found.graphs, sum(found.breaks.values())) == (3, 1)
    (note,) = found.notes
    assert note.startswith("torch.compile made 3 graphs, with plain Python between them: ")
    assert "graph_break" in note


def test_functions_left_to_python_are_counted_and_said(counters: Any) -> None:
    counters["stats"]["unique_graphs"] = 2
    counters["frames"].update(total=5, ok=4)
    counters["unimplemented"].update({"Reconstruction failure\n  Hint": 1, "Reconstruction failure\n  Other": 1})
    found = check_compiled("compiled_prefill")
    assert found is not None
    assert found == Compiled(2, {}, 1, {"Reconstruction failure": 2})
    assert found.notes == [
        "torch.compile made 2 graphs, and left 1 functions to plain Python: Reconstruction failure (2)"
    ]
    assert (compilations("compiled_prefill"), compilations("prefill")) == (5, 0)
