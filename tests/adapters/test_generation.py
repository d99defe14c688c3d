from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from hedgebench.adapters.generation import generate
from hedgebench.adapters.model_adapter import ModelAdapter
from hedgebench.adapters.scratch.transformer import Transformer

from .swapped import built

Build = Callable[..., ModelAdapter[Transformer]]

greedy = partial(generate, temperature=0.0, seed=0, stop_token=None)


def counting(token: Tensor, state: int) -> tuple[Tensor, int]:
    """A model of five tokens that always wants the token after the last one."""
    return torch.nn.functional.one_hot((token + 1) % 5, 5) * 20.0, state + 1


@pytest.mark.parametrize(
    "spec",
    ["softmax", "elu", "hedgehog", "taylor", "cosformer:length=16", "window:window=3", "hedgehog:map=softmax"],
)
def test_greedy_tokens_are_those_of_a_full_pass_at_every_step(build: Build, spec: str, tokens: Tensor) -> None:
    adapter = build(spec)
    prompt, mask = tokens[:, :5], torch.ones(3, 5, dtype=torch.bool)
    mask[0, :2] = False
    made = adapter.generate(prompt, mask, max_new_tokens=6)
    sequence, seen = prompt, mask
    for t in range(6):
        expected = adapter.logits(sequence, seen)[:, -1].argmax(-1)
        assert torch.equal(made[:, t], expected)
        sequence = torch.cat([sequence, expected[:, None]], dim=1)
        seen = torch.cat([seen, torch.ones(3, 1, dtype=torch.bool)], dim=1)


def test_a_padded_prompt_is_answered_as_if_it_stood_alone(build: Build, tokens: Tensor) -> None:
    adapter = build("hedgehog")
    mask = torch.ones(3, 5, dtype=torch.bool)
    mask[1, :3] = False
    together = adapter.generate(tokens[:, :5], mask, max_new_tokens=6)
    assert torch.equal(together[1:2], adapter.generate(tokens[1:2, 3:5], max_new_tokens=6))


@pytest.mark.parametrize("text", ["softmax", "hedgehog", "hedgehog:map=softmax", "hedgehog:window=4", "t2r"])
@pytest.mark.parametrize("model_type", ["gpt2", "llama"])
def test_a_batch_of_prompts_of_several_lengths_is_answered_as_each_alone(
    model_type: str, text: str, tmp_path: Path
) -> None:
    adapter = built(model_type, tmp_path, text)
    lengths = (9, 1, 5, 8)
    prompts = [torch.randint(0, 40, (n,), generator=torch.Generator().manual_seed(n)) for n in lengths]
    ids, mask = torch.zeros(4, 9, dtype=torch.long), torch.zeros(4, 9, dtype=torch.bool)
    for row, prompt in enumerate(prompts):
        ids[row, 9 - len(prompt) :], mask[row, 9 - len(prompt) :] = prompt, True
    together = adapter.generate(ids, mask, max_new_tokens=7)
    alone = [adapter.generate(prompt[None], max_new_tokens=7)[0] for prompt in prompts]
    assert torch.equal(together, torch.stack(alone))
    stop = int(together[1, 2])
    stopped = adapter.generate(ids, mask, max_new_tokens=7, stop_token=stop)
    for row, whole in zip(stopped.tolist(), together.tolist(), strict=True):
        end = whole.index(stop) if stop in whole else len(whole)
        assert row[: end + 1] == whole[: end + 1][: len(row)]
        assert set(row[end:]) <= {stop}


def test_a_logit_that_is_not_a_number_is_an_error_and_no_text() -> None:
    def broken(token: Tensor, state: int) -> tuple[Tensor, int]:
        logits, _ = counting(token, state)
        return logits.index_fill(0, torch.tensor([1]), torch.nan), state + 1

    first, _ = counting(torch.tensor([0, 3]), 0)
    with pytest.raises(FloatingPointError, match="1 of 2 rows a logit that is not a number, 1 tokens after the prompt"):
        greedy(first, 0, broken, max_new_tokens=4)


def test_counting_goes_on_until_the_tokens_asked_for_are_made() -> None:
    first, _ = counting(torch.tensor([0, 3]), 0)
    made = greedy(first, 0, counting, max_new_tokens=4)
    assert made.tolist() == [[1, 2, 3, 4], [4, 0, 1, 2]]


def test_rows_that_have_stopped_repeat_the_stop_token_and_all_stopping_ends_it() -> None:
    first, _ = counting(torch.tensor([0, 2]), 0)
    made = generate(first, 0, counting, max_new_tokens=9, temperature=0.0, seed=0, stop_token=4)
    assert made.tolist() == [[1, 2, 3, 4], [3, 4, 4, 4]]


def test_no_token_is_decoded_that_nobody_needs() -> None:
    calls: list[int] = []

    def decode(token: Tensor, state: int) -> tuple[Tensor, int]:
        calls.append(state)
        return counting(token, state)

    greedy(counting(torch.tensor([0]), 0)[0], 0, decode, max_new_tokens=3)
    assert calls == [0, 1]


def test_sampling_repeats_with_its_seed_and_leaves_the_global_one_alone(build: Build, tokens: Tensor) -> None:
    adapter = build()
    prompt = tokens[:, :3]
    before = torch.get_rng_state()
    made = [adapter.generate(prompt, max_new_tokens=12, temperature=1.5, seed=seed).tolist() for seed in (7, 7, 8)]
    assert torch.equal(torch.get_rng_state(), before)
    assert made[0] == made[1]
    assert made[0] != made[2]


def test_sampled_tokens_follow_the_softmax_of_the_logits_over_the_temperature() -> None:
    logits = torch.tensor([0.0, 1.0, 2.0, -torch.inf]).expand(20_000, -1)
    made = generate(logits, 0, counting, max_new_tokens=1, temperature=2.0, seed=0, stop_token=None)
    shares = made.flatten().bincount(minlength=4) / len(logits)
    torch.testing.assert_close(shares, (logits[0] / 2).softmax(-1), rtol=0, atol=0.015)
    assert shares[3] == 0


def test_a_low_temperature_is_nearly_greedy() -> None:
    first, _ = counting(torch.tensor([0, 3]), 0)
    made = generate(first, 0, counting, max_new_tokens=4, temperature=0.1, seed=0, stop_token=None)
    assert made.tolist() == [[1, 2, 3, 4], [4, 0, 1, 2]]


@pytest.mark.parametrize(("temperature", "tokens"), [(-1.0, 1), (0.0, 0)])
def test_what_cannot_be_generated_is_refused(temperature: float, tokens: int) -> None:
    with pytest.raises(ValueError, match=f"temperature is {temperature} and max_new_tokens {tokens}"):
        generate(
            torch.zeros(1, 5), 0, counting, max_new_tokens=tokens, temperature=temperature, seed=0, stop_token=None
        )


@pytest.mark.parametrize("narrowed", [{"top_k": 2}, {"top_p": 0.6}])
def test_sampling_goes_to_the_likeliest_tokens_alone(narrowed: dict[str, Any]) -> None:
    logits = torch.tensor([[0.1, 0.4, 0.05, 0.3, 0.15]]).log().expand(200, 5)
    made = generate(
        logits,
        0,
        lambda token, state: (logits, state),
        max_new_tokens=1,
        temperature=1.0,
        seed=0,
        stop_token=None,
        **narrowed,
    )
    assert set(made.flatten().tolist()) == {1, 3}


def test_a_watcher_ends_the_generation() -> None:
    first, _ = counting(torch.tensor([0, 3]), 0)
    made = greedy(first, 0, counting, max_new_tokens=9, has_ended=lambda tokens: tokens.shape[1] == 2)
    assert made.tolist() == [[1, 2], [4, 0]]


@pytest.mark.parametrize("narrowed", [{"top_k": 0}, {"top_p": 0.0}, {"top_p": 1.5}])
def test_a_choice_among_no_tokens_is_refused(narrowed: dict[str, Any]) -> None:
    first, _ = counting(torch.tensor([0]), 0)
    with pytest.raises(ValueError, match="allowed: at least 1, and above 0 and at most 1"):
        greedy(first, 0, counting, max_new_tokens=1, **narrowed)
