"""Tests of tasks/summarization/prompts.py, in bytes, where a token is a letter."""

from __future__ import annotations

from typing import Any, cast

import numpy as np
import pytest
import torch
from torch import Tensor

from hedgebench.adapters.base import IGNORED, Adapter
from hedgebench.tasks.data.tokenization import ByteTokenizer
from hedgebench.tasks.summarization.prompts import Prompter, write_after
from hedgebench.tasks.summarization.settings import SummarizationSettings

END = 256


def prompter(context_length: int = 20, max_new_tokens: int = 4, template: str = "<{source}>") -> Prompter:
    chosen = SummarizationSettings(context_length=context_length, max_new_tokens=max_new_tokens, prompt=template)
    return Prompter(ByteTokenizer(), chosen)


def spelled(ids: Any) -> str:
    """Bytes as text, the end of text as |."""
    return "".join("|" if i == END else chr(i) for i in ids)


def test_a_prompt_is_the_end_of_text_and_the_template_with_the_text_in_it() -> None:
    (prompt,) = prompter().prompts(["hello"])
    assert (spelled(prompt.ids), prompt.text, prompt.cut) == ("|<hello>", "<hello>", False)


def test_the_end_of_a_long_text_is_cut_and_the_template_is_whole() -> None:
    short, exact, long = prompter().prompts(["a" * 12, "a" * 13, "a" * 13 + "bc"])
    assert [len(each.ids) + 4 for each in (short, exact, long)] == [19, 20, 20]
    assert spelled(long.ids) == "|<" + "a" * 13 + ">"
    assert long.text == "<" + "a" * 13 + ">"
    assert [each.cut for each in (short, exact, long)] == [False, False, True]


def test_the_loss_is_on_the_summary_and_the_stop_token_alone() -> None:
    rows = prompter().rows(["long text", "txt"], ["sum", "s"])
    assert rows.examples is not None
    assert (rows.cut, rows.left_out) == (0, 0)
    inputs, targets, mask = rows.examples.inputs, rows.examples.targets, rows.examples.attention_mask
    assert mask is not None
    assert inputs.dtype == targets.dtype == np.int32
    assert [spelled(row[real]) for row, real in zip(inputs, mask, strict=True)] == ["|<long text>sum", "|<txt>s"]
    assert [spelled(row[row != IGNORED]) for row in targets] == ["sum|", "s|"]
    for row, target in zip(inputs, targets, strict=True):
        first, *_, last = np.flatnonzero(target != IGNORED)
        assert spelled([row[first]]) == ">"
        assert (row[first + 1 : last + 1] == target[first:last]).all()
    assert (targets[~mask] == IGNORED).all()


def test_a_training_text_is_cut_for_a_long_summary_and_the_summary_never_is() -> None:
    rows = prompter().rows(["abcdefghijklmnop", "abcdefghijklmnop"], ["12", "123456789"])
    assert rows.examples is not None
    assert rows.cut == 2
    mask = rows.examples.attention_mask
    assert mask is not None
    whole = [spelled(row[real]) for row, real in zip(rows.examples.inputs, mask, strict=True)]
    assert whole == ["|<abcdefghijklm>12", "|<abcdefg>123456789"]
    assert rows.examples.inputs.shape[1] < 20


def test_rows_whose_summary_leaves_no_room_are_left_out_and_counted() -> None:
    rows = prompter().rows(["abc", "abc"], ["x" * 16, "y"])
    assert rows.left_out == 1
    assert rows.examples is not None
    assert len(rows.examples) == 1
    assert prompter().rows(["abc"], ["x" * 16]).examples is None


def test_training_text_and_prompt_agree() -> None:
    (prompt,) = prompter().prompts(["a text that is too long"])
    rows = prompter().rows(["a text that is too long"], ["abc"])
    assert rows.examples is not None
    assert rows.examples.inputs[0, : len(prompt.ids)].tolist() == prompt.ids.tolist()


def test_a_template_that_leaves_no_room_is_refused_with_the_length_it_takes() -> None:
    with pytest.raises(ValueError, match=r"context_length is 10, of which the template takes 7 .* at least 12"):
        prompter(10, 4, "abc{source}def")
    assert prompter(12, 4, "abc{source}def").prompts(["xy"])[0].text == "abcxdef"


class Echo:
    """Writes the prompt's last letter as often as the prompt has letters, then stops."""

    device = torch.device("cpu")

    def __init__(self) -> None:
        self.batches: list[list[int]] = []

    def generate(self, input_ids: Tensor, attention_mask: Tensor | None, **options: Any) -> Tensor:
        assert options == {"max_new_tokens": 5, "temperature": 0.0, "stop_token": END}
        mask = torch.ones_like(input_ids, dtype=torch.bool) if attention_mask is None else attention_mask
        lengths = mask.sum(1).tolist()
        self.batches.append(lengths)
        rows = [[int(row[-1])] * min(n, 5) + [END] * (5 - n) for row, n in zip(input_ids, lengths, strict=True)]
        return torch.tensor(rows)


def test_what_is_written_comes_in_the_order_of_the_prompts_longest_first() -> None:
    model = Echo()
    prompts = [np.array(list(text.encode()), np.int32) for text in ("ab", "cdefgh", "i", "jkl")]
    chosen = SummarizationSettings(max_new_tokens=5, temperature=0.0, batch_size=2)
    written = write_after(cast(Adapter, model), prompts, END, chosen)
    assert model.batches == [[6, 3], [2, 1]]
    assert [spelled(each.ids) for each in written] == ["bb", "hhhhh", "i", "lll"]
    assert [each.finished for each in written] == [True, False, True, True]
