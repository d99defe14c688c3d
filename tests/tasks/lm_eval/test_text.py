"""What lm-eval asks of a model is answered as its own `hf` model answers it, and no row sees another's padding."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
import torch

from hedgebench.adapters.base import UnsupportedError
from hedgebench.adapters.model_adapter import ModelAdapter
from hedgebench.tasks.lm_eval.generation import Decoding, decoding_of

from ...adapters.layer_names import OF_HEADS
from ..lm_eval_tiny import adapter_of, convert_to, peer, requests, save_checkpoint, text_model_of

LONG = "the quick brown fox jumps over the lazy dog and runs on " * 2
PAIRS = (
    ("the cat", " sat on the mat"),
    ("the cat ", "sat"),
    ("two  ", " spaces"),
    ("", "no context"),
    ("", "<|endoftext|>begins with its end"),
    ("<|endoftext|>begun", " already"),
    (LONG, " is cut"),
    (LONG[:60], " longer answer"),
    ("a question", " a"),
    ("a question", " b"),
    ("é", "ü"),
)
OPTIONS = (
    *(f"hedgehog:map={name}" for name in ("exp_max", "softmax", "softmax_joint")),
    *("hedgehog:window=4", "hedgehog:negate=false", "hedgehog:bias=true", "exp:t=2"),
)
"""Specs that differ from their mechanism's default in how they weigh keys."""
GREEDY = {"until": ["\n"], "max_gen_toks": 12, "do_sample": False}


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> Mapping[str, Path]:
    return {kind: save_checkpoint(kind, tmp_path_factory.mktemp(kind) / "model") for kind in ("gpt2", "llama")}


@pytest.fixture(scope="module", params=["gpt2", "llama"])
def checkpoint(request: Any, folders: Mapping[str, Path]) -> tuple[str, Path]:
    kind: str = request.param
    return kind, folders[kind]


@pytest.fixture(scope="module")
def gpt2(folders: Mapping[str, Path]) -> Path:
    return folders["gpt2"]


def test_log_likelihoods_are_those_of_lm_evals_own_model(
    checkpoint: tuple[str, Path], caplog: pytest.LogCaptureFixture
) -> None:
    kind, folder = checkpoint
    asked = requests("loglikelihood", *PAIRS)
    ours = text_model_of(folder, model_type=kind).loglikelihood(asked)
    assert f"2 of {len(PAIRS)} requests lose their left end" in caplog.text
    theirs = peer(folder).loglikelihood(asked, disable_tqdm=True)
    assert [score for score, _ in ours] == [pytest.approx(score, rel=1e-6) for score, _ in theirs]
    assert [greedy for _, greedy in ours] == [greedy for _, greedy in theirs]


def test_rolling_log_likelihoods_are_those_of_lm_evals_own_model(checkpoint: tuple[str, Path]) -> None:
    kind, folder = checkpoint
    asked = requests("loglikelihood_rolling", *((text,) for text in ("short", LONG, LONG[:64], LONG[:65], "")))
    ours = text_model_of(folder, model_type=kind).loglikelihood_rolling(asked)
    theirs = peer(folder).loglikelihood_rolling(asked, disable_tqdm=True)
    assert ours == [pytest.approx(score, rel=1e-6) for score in theirs]
    assert ours[-1] == 0


def test_greedy_texts_are_those_of_lm_evals_own_model(checkpoint: tuple[str, Path]) -> None:
    kind, folder = checkpoint
    texts = ("the cat", "a", LONG, "one two three")
    model = text_model_of(folder, model_type=kind)
    free = [model.generate_until(requests("generate_until", (text, GREEDY)))[0] for text in texts]
    stop = free[1][3:5]  # something that is said for certain, in the middle
    asked = requests(
        "generate_until",
        *((text, GREEDY) for text in texts),
        *((text, {**GREEDY, "until": [stop, "\n"], "max_gen_toks": 20}) for text in texts),
    )
    ours = model.generate_until(asked)
    assert ours == peer(folder).generate_until(asked, disable_tqdm=True)
    assert ours[:4] == free
    assert ours[5] == free[1].split(stop)[0]


@pytest.mark.parametrize(
    ("kind", "spec"),
    [
        *(("llama", spec) for spec in (*OF_HEADS, *OPTIONS)),
        *(("gpt2", spec) for spec in ("softmax", "hedgehog", "hedgehog:window=4", "cosformer")),
    ],
)
def test_answers_in_a_batch_are_those_alone(folders: Mapping[str, Path], kind: str, spec: str) -> None:
    folder = folders[kind]
    model = text_model_of(folder, spec, kind, batch_size=8)
    pairs, texts = requests("loglikelihood", *PAIRS), requests("loglikelihood_rolling", ("short",), (LONG,), ("a",))
    few = {**GREEDY, "max_gen_toks": 5}
    prompts = requests("generate_until", *((text, few) for text in ("the cat", "a", LONG)))
    together = (model.loglikelihood(pairs), model.loglikelihood_rolling(texts), model.generate_until(prompts))
    model.batch_size = 1
    alone = [model.loglikelihood([pair])[0] for pair in pairs]
    assert [score for score, _ in together[0]] == [pytest.approx(score, rel=1e-5) for score, _ in alone]
    assert [greedy for _, greedy in together[0]] == [greedy for _, greedy in alone]
    assert together[1] == [pytest.approx(model.loglikelihood_rolling([text])[0], rel=1e-5) for text in texts]
    assert together[2] == [model.generate_until([prompt])[0] for prompt in prompts]


@pytest.mark.parametrize("spec", [*OF_HEADS, *OPTIONS])
def test_weights_in_bfloat16_come_close_to_those_in_float32(gpt2: Path, spec: str) -> None:
    tokens = torch.arange(40).reshape(2, 20)
    exact = adapter_of(gpt2, spec).logits(tokens)
    half = adapter_of(gpt2, spec, dtype="bfloat16")
    assert next(half.model.parameters()).dtype == torch.bfloat16
    rounded = half.logits(tokens)
    torch.testing.assert_close(rounded, exact, rtol=0.05, atol=0.1)
    assert not torch.equal(rounded, exact)


def test_a_converted_model_scores_as_its_own_logits_say(gpt2: Path, tmp_path: Path) -> None:
    folder = convert_to(gpt2, "hedgehog", tmp_path / "converted")
    model = text_model_of(folder)
    assert model.adapter.model.spec.canonical == "hedgehog"  # type: ignore[attr-defined]
    (score, _), *_ = model.loglikelihood(requests("loglikelihood", *PAIRS))
    tokens = model.encode("".join(PAIRS[0]))
    context = len(model.encode(PAIRS[0][0]))
    logits = adapter_of(folder).logits(torch.tensor([tokens[:-1]]))[0].log_softmax(-1)
    expected = sum(float(logits[i - 1, tokens[i]]) for i in range(context, len(tokens)))
    assert score == pytest.approx(expected, rel=1e-6)
    assert score != pytest.approx(text_model_of(gpt2).loglikelihood(requests("loglikelihood", PAIRS[0]))[0][0])


@pytest.mark.parametrize(("share_context", "method"), [(False, "_logits"), (True, "_read")])
def test_answers_of_one_token_to_one_question_share_a_forward_pass(
    gpt2: Path, monkeypatch: pytest.MonkeyPatch, share_context: bool, method: str
) -> None:
    model = text_model_of(gpt2, batch_size=8, share_context=share_context)
    rows: list[int] = []
    run: Callable[..., Any] = getattr(ModelAdapter, method)

    def counted(self: Any, ids: torch.Tensor, *others: Any) -> Any:
        rows.append(len(ids))
        return run(self, ids, *others)

    monkeypatch.setattr(ModelAdapter, method, counted)
    model.loglikelihood(requests("loglikelihood", *(("Answer", letter) for letter in "ABCD")))
    assert rows == [1]


def test_sampling_is_repeatable_and_goes_where_it_is_let(gpt2: Path) -> None:
    model = text_model_of(gpt2)
    sampled = {"until": ["\n"], "max_gen_toks": 12, "do_sample": True, "temperature": 1.0}
    first, again = (model.generate_until(requests("generate_until", ("a cat", sampled))) for _ in range(2))
    greedy, narrow, nucleus = (
        model.generate_until(requests("generate_until", ("a cat", settings)))
        for settings in (GREEDY, {**sampled, "top_k": 1}, {**sampled, "top_p": 1e-9})
    )
    assert first == again != greedy
    assert narrow == nucleus == greedy


@pytest.mark.parametrize(
    "settings", [{"do_sample": True}, {"do_sample": True, "temperature": 0.0}, {"do_sample": False}]
)
def test_without_a_temperature_the_likeliest_token_is_taken(settings: Mapping[str, Any]) -> None:
    assert decoding_of({"max_gen_toks": 4, **settings}, "</s>") == Decoding(("</s>",), 4)


def test_a_setting_that_we_do_not_have_is_named(gpt2: Path) -> None:
    model = text_model_of(gpt2)
    assert model.generate_until(requests("generate_until", ("a", {**GREEDY, "num_beams": 1})))
    with pytest.raises(UnsupportedError, match="the generation setting num_beams=4 is not supported; supported are"):
        model.generate_until(requests("generate_until", ("a", {**GREEDY, "num_beams": 4})))
    with pytest.raises(UnsupportedError, match="64 new tokens leave no room for a prompt in 64 tokens"):
        model.generate_until(requests("generate_until", ("a", {**GREEDY, "max_gen_toks": 64})))


def test_conversations_are_those_of_lm_evals_own_model(gpt2: Path) -> None:
    ours, theirs = text_model_of(gpt2), peer(gpt2)
    plain = [{"role": "user", "content": "hello"}]
    started = [*plain, {"role": "assistant", "content": "I"}]
    assert ours.apply_chat_template(plain) == theirs.apply_chat_template(plain) == "<user>hello<assistant>"
    assert ours.apply_chat_template(started, False) == theirs.apply_chat_template(started, False)
    with_system = [{"role": "system", "content": "be brief"}, *plain]
    assert ours.apply_chat_template(with_system) == theirs.apply_chat_template(with_system)


def test_memory_that_runs_out_halves_the_batch_where_that_is_wanted(
    gpt2: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = text_model_of(gpt2, batch_size=8, share_context=False)
    expected = model.loglikelihood(requests("loglikelihood", *PAIRS))
    logits: Callable[..., torch.Tensor] = ModelAdapter._logits

    def hungry(self: Any, ids: torch.Tensor, mask: Any = None) -> torch.Tensor:
        if len(ids) > 2:
            raise torch.OutOfMemoryError("too many rows")
        return logits(self, ids, mask)

    monkeypatch.setattr(ModelAdapter, "_logits", hungry)
    with pytest.raises(torch.OutOfMemoryError):
        model.loglikelihood(requests("loglikelihood", *PAIRS))
    model.halves = True
    got = model.loglikelihood(requests("loglikelihood", *PAIRS))
    assert model.batch_size == 2
    assert [score for score, _ in got] == [pytest.approx(score, rel=1e-5) for score, _ in expected]
