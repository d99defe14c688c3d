"""Texts to summarise as prompts and training rows, and what a model writes after them.

A prompt is the prefix token and the template with the text in it. A training row is a prompt, the summary and the stop
token; its loss is on summary and stop token alone, so that a model learns when to stop. The parts are tokenized apart,
so that the template's tokens do not depend on the text. A text that is too long is cut at its end to leave room for
`max_new_tokens` tokens; template and summary are never cut. The text of a training row may be as long as that of a test
prompt, or shorter if its summary takes more than `max_new_tokens`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

from ...adapters.base import IGNORED, Adapter, Examples
from ..data.batches import TokenIds, batches_by_length, pad_left, pad_rows
from ..data.tokenization import Tokenizer
from ..heavy import np
from .settings import SOURCE, SummarizationSettings


@dataclass(frozen=True)
class Prompt:
    """What a model is given.

    Attributes:
        ids: Token ids.
        text: Their text, without the prefix token.
        cut: Whether the end of the text was cut off.
    """

    ids: TokenIds
    text: str
    cut: bool


@dataclass(frozen=True)
class SummaryRows:
    """Training rows.

    Attributes:
        examples: Inputs and targets, padded on the right; None if there are no rows.
        cut: Number of texts that were cut.
        left_out: Number of rows left out because their summary leaves no room for any of the text.
    """

    examples: Examples | None
    cut: int = 0
    left_out: int = 0


@dataclass(frozen=True)
class Written:
    """What a model wrote after a prompt.

    Attributes:
        ids: Token ids, without the stop token.
        finished: Whether the model wrote the stop token.
    """

    ids: list[int]
    finished: bool


@dataclass(frozen=True)
class Prompter:
    """A template in the tokens of a tokenizer.

    Attributes:
        tokenizer: The tokenizer.
        chosen: The settings, of which `prompt`, `context_length` and `max_new_tokens` are used.

    Raises:
        ValueError: The template leaves no room for a text.
    """

    tokenizer: Tokenizer
    chosen: SummarizationSettings

    def __post_init__(self) -> None:
        length, reserved = self.chosen.context_length, self.chosen.max_new_tokens
        if (room := self._room(reserved)) < 1:
            raise ValueError(
                f"context_length is {length}, of which the template takes {sum(map(len, self._frame))} tokens "
                f"and max_new_tokens {reserved}: no token of a text fits; "
                f"set context_length to at least {length + 1 - room}"
            )

    def prompts(self, texts: Sequence[str]) -> list[Prompt]:
        """The prompt of each text."""
        room = self._room(self.chosen.max_new_tokens)
        before, after = self.chosen.prompt.split(SOURCE)
        prompts = []
        for text, tokens in zip(texts, self.tokenizer.encode(texts), strict=True):
            cut = len(tokens) > room
            seen = self.tokenizer.decode(tokens[:room].tolist()) if cut else text
            prompts.append(Prompt(self._framed(tokens[:room]), f"{before}{seen}{after}", cut))
        return prompts

    def rows(self, texts: Sequence[str], summaries: Sequence[str]) -> SummaryRows:
        """Training rows of texts and their summaries."""
        stop = np.array([self.tokenizer.stop_token], np.int32)
        made, cut, left_out = [], 0, 0
        for text, summary in zip(self.tokenizer.encode(texts), self.tokenizer.encode(summaries), strict=True):
            answer = np.concatenate([summary, stop])
            room = self._room(max(self.chosen.max_new_tokens, len(answer)))
            if room < 1:
                left_out += 1
                continue
            cut += len(text) > room
            made.append((self._framed(text[:room]), answer))
        return SummaryRows(_examples(made) if made else None, cut, left_out)

    @cached_property
    def _frame(self) -> tuple[TokenIds, TokenIds]:
        before, after = self.tokenizer.encode(self.chosen.prompt.split(SOURCE))
        return np.concatenate([np.array([self.tokenizer.end_of_text], np.int32), before]), after

    def _room(self, reserved: int) -> int:
        return self.chosen.context_length - sum(map(len, self._frame)) - reserved

    def _framed(self, tokens: TokenIds) -> TokenIds:
        before, after = self._frame
        return np.concatenate([before, tokens, after])


def write_after(
    adapter: Adapter, prompts: Sequence[TokenIds], stop_token: int, chosen: SummarizationSettings
) -> list[Written]:
    """What the model writes after each prompt, in the order of `prompts`.

    Raises:
        FloatingPointError: The model gives a logit that is not a number.
        UnsupportedError: The model cannot generate.
    """
    lengths = [len(prompt) for prompt in prompts]
    written: dict[int, Written] = {}
    for places, ids, mask in batches_by_length(
        adapter, lengths, chosen.batch_size, lambda places: pad_left([prompts[i] for i in places])
    ):
        tokens = adapter.generate(
            ids, mask, max_new_tokens=chosen.max_new_tokens, temperature=chosen.temperature, stop_token=stop_token
        )
        for i, row in zip(places.tolist(), tokens.tolist(), strict=True):
            finished = stop_token in row
            written[i] = Written(row[: row.index(stop_token)] if finished else row, finished)
    return [written[i] for i in range(len(prompts))]


def _examples(rows: Sequence[tuple[TokenIds, TokenIds]]) -> Examples:
    """Inputs are all tokens but the last; targets the tokens of the answers, each where the one before it stands."""
    inputs, mask = pad_rows([np.concatenate([prompt, answer[:-1]]) for prompt, answer in rows])
    targets = np.full(inputs.shape, IGNORED, np.int32)
    for row, (prompt, answer) in zip(targets, rows, strict=True):
        row[len(prompt) - 1 : len(prompt) - 1 + len(answer)] = answer
    return Examples(inputs, targets, mask)
