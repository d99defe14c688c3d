"""Generation settings of lm-eval's tasks, and the ends of generated texts."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ...adapters.base import UnsupportedError
from ..heavy import Tensor

SAMPLED_TOP_K = 50
"""The default `top_k` of transformers' sampling, and so of lm-eval's `hf` model."""

_WITHOUT_EFFECT: Mapping[str, Any] = {
    "num_beams": 1,
    "num_return_sequences": 1,
    "repetition_penalty": 1.0,
    "length_penalty": 1.0,
    "use_cache": True,
}
"""Settings of transformers that change nothing at these values; other values are refused."""

_LOOK_BACK_TOKENS = 2


@dataclass(frozen=True)
class Decoding:
    """How a text is continued.

    Attributes:
        until: Strings that end the continuation, and are not part of it.
        max_new_tokens: Most tokens of the continuation.
        temperature: 0 for the most likely token.
        top_k: Sample among this many tokens; None for all.
        top_p: Sample among the fewest tokens with this total probability; None for all.
    """

    until: tuple[str, ...]
    max_new_tokens: int
    temperature: float = 0.0
    top_k: int | None = None
    top_p: float | None = None


def decoding_of(settings: Mapping[str, Any], end_of_text: str) -> Decoding:
    """A task's `generation_kwargs`, as lm-eval reads them; `end_of_text` always ends a text.

    Raises:
        UnsupportedError: A setting that is not supported, such as a beam search.
    """
    from lm_eval.models.utils import handle_stop_sequences, normalize_gen_kwargs

    asked: dict[str, Any] = dict(normalize_gen_kwargs(dict(settings)))
    until = tuple(handle_stop_sequences(asked.pop("until"), eos=end_of_text))
    most, sampled = int(asked.pop("max_gen_toks")), bool(asked.pop("do_sample"))
    temperature = float(asked.pop("temperature", 0.0))
    top_k, top_p = asked.pop("top_k", SAMPLED_TOP_K), asked.pop("top_p", None)
    for name, value in asked.items():
        if name not in _WITHOUT_EFFECT or value != _WITHOUT_EFFECT[name]:
            raise UnsupportedError(
                f"the generation setting {name}={value!r} is not supported; supported are until, max_gen_toks, "
                "do_sample, temperature, top_k and top_p"
            )
    if not sampled or temperature == 0:
        return Decoding(until, most)
    return Decoding(until, most, temperature, top_k or None, top_p)


class Endings:
    """Checks a growing batch of texts for their ends, and cuts them there.

    Args:
        tokenizer: A tokenizer of transformers.
        decoding: How texts are continued; its `until` has the strings that end a text.
        end_tokens: Token ids that end a text.
        rows: Number of texts.
    """

    def __init__(self, tokenizer: Any, decoding: Decoding, end_tokens: frozenset[int], rows: int) -> None:
        self.tokenizer = tokenizer
        self.until = [stop for stop in decoding.until if stop]
        self.end_tokens = end_tokens
        self.done = [False] * rows
        lengths = (len(tokenizer.encode(stop, add_special_tokens=False)) for stop in self.until)
        # The model may write a stop string in other tokens than the tokenizer does, such as "\n", "\n" for "\n\n".
        self.look_back = max(lengths, default=0) + _LOOK_BACK_TOKENS

    def __call__(self, made: Tensor) -> bool:
        """Whether every text has ended; `made` holds the new tokens so far, `[b, t]`."""
        for place, tail in enumerate(made[:, -self.look_back :].tolist()):
            self.done[place] = self.done[place] or self._ends(tail)
        return all(self.done)

    def text(self, tokens: Sequence[int]) -> str:
        """The text of one row, without what follows its end and without special tokens."""
        end = next((place for place, token in enumerate(tokens) if token in self.end_tokens), len(tokens))
        text = str(self.tokenizer.decode(tokens[: end + 1], skip_special_tokens=True))
        for stop in self.until:
            text = text.split(stop)[0]
        return text

    def _ends(self, tail: Sequence[int]) -> bool:
        if tail[-1] in self.end_tokens:
            return True
        text = self.tokenizer.decode(tail)
        return any(stop in text for stop in self.until)
