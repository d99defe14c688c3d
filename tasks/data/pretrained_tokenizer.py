"""The tokenizer of a pretrained backbone, and the token that stands before a text.

Token ids are AutoTokenizer's. The prefix token is the first of these that the tokenizer has: its BOS; its EOS, as in
lm-eval; `<|endoftext|>`, if the vocabulary has it; the separator, which is BERT's `[SEP]`.

Tasks that score whole texts put the prefix token before a text once, as context that is not scored, whether or not the
tokenizer would put one there itself, and leave out an EOS that the tokenizer would append. Tasks `lm_eval/*` do as
lm-eval's `hf` model. Classifications use the tokenizer's own template (`encode_framed`).
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

from ...adapters.pretrained.tokenizer import load_tokenizer
from ..heavy import np
from .batches import TokenIds
from .subword_tokenizer import ENCODE_BATCH, END_OF_TEXT


@dataclass(frozen=True)
class TextEnds:
    """The special tokens at the ends of a text.

    Attributes:
        prefix: Id of the prefix token.
        prefix_text: How it is spelled.
        before: Tokens that the tokenizer itself puts before a text, as they are spelled; empty for none.
        after: Tokens that the tokenizer itself puts after a text.
    """

    prefix: int
    prefix_text: str
    before: str
    after: str

    @classmethod
    def of(cls, tokenizer: Any, name: str) -> Self:
        """The special tokens of a tokenizer of transformers.

        Args:
            tokenizer: The tokenizer.
            name: Where it comes from, for the error.

        Raises:
            ValueError: The tokenizer has no token that could stand before a text.
        """
        of_vocabulary = tokenizer.get_vocab().get(END_OF_TEXT)
        candidates = (tokenizer.bos_token_id, tokenizer.eos_token_id, of_vocabulary, tokenizer.sep_token_id)
        prefix = next((each for each in candidates if each is not None), None)
        if prefix is None:
            raise ValueError(
                f"the tokenizer of {name} has no token to put before a text: neither bos_token, eos_token nor "
                f"sep_token, and no {END_OF_TEXT}; name one of its tokens as bos_token in its tokenizer_config.json"
            )
        bare, framed = (tokenizer.encode("a", add_special_tokens=added) for added in (False, True))
        start = next((i for i in range(len(framed)) if framed[i : i + len(bare)] == bare), 0)
        before, after = framed[:start], framed[start + len(bare) :]
        spell = tokenizer.convert_ids_to_tokens
        return cls(int(prefix), str(spell(int(prefix))), " ".join(spell(before)), " ".join(spell(after)))

    @property
    def notes(self) -> tuple[str, ...]:
        """What becomes of the tokens that the tokenizer itself would add, for the record of a task on whole texts."""
        before = (
            f"the tokenizer puts {self.before} before a text; here prefix_token {self.prefix_text} stands there once, "
            "as context that is not scored"
        )
        after = f"the tokenizer puts {self.after} after a text; here it is left out and not scored"
        return (*((before,) if self.before else ()), *((after,) if self.after else ()))

    @property
    def notes_of_lm_eval(self) -> tuple[str, ...]:
        """The same notes for a task that is scored as by lm-eval's `hf` model."""
        before = (
            f"the tokenizer puts {self.before} before a text; lm-eval's hf model, which this task equals, puts "
            f"prefix_token {self.prefix_text} before that in whole texts and scores the tokenizer's own: other tasks "
            "here have it once and do not score it"
        )
        after = (
            f"the tokenizer puts {self.after} after a text; lm-eval's hf model, which this task equals, scores it, and "
            "contexts end with it: other tasks here leave it out"
        )
        return (*((before,) if self.before else ()), *((after,) if self.after else ()))


@dataclass(frozen=True)
class PretrainedTokenizer:
    """AutoTokenizer's result with the methods and attributes of `SubwordTokenizer`, and the model's own template.

    Attributes:
        name: The backbone's name.
        inner: The tokenizer of transformers.
        ends: The special tokens at the ends of a text.
    """

    name: str
    inner: Any
    ends: TextEnds

    @classmethod
    def load(cls, name: str, folder: Path) -> Self:
        """The tokenizer of the checkpoint in `folder`.

        Raises:
            CheckpointError: The folder has no vocabulary, or transformers cannot read it.
            ValueError: The tokenizer has no token that could stand before a text.
        """
        inner = load_tokenizer(folder)
        return cls(name, inner, TextEnds.of(inner, f"backbone {name}"))

    @property
    def vocab_size(self) -> int:
        """The largest token id that rows may hold, plus one.

        Special tokens that no row holds do not count: transformers gives ids to the default special tokens of a class
        of tokenizers, and some authors add a padding token; the model has embeddings for neither.
        """
        known = set(self.inner.get_vocab().values()) - set(self.inner.all_special_ids)
        return int(max({*known, self.end_of_text, self.stop_token, *self.inner.encode("a", "a")})) + 1

    @property
    def end_of_text(self) -> int:
        """Id of the prefix token, which stands before each document."""
        return self.ends.prefix

    @property
    def prefix_text(self) -> str:
        """How the prefix token is spelled."""
        return self.ends.prefix_text

    @property
    def notes(self) -> tuple[str, ...]:
        """What becomes of the tokens that the tokenizer itself would put around a text, for the record."""
        return self.ends.notes

    @property
    def stop_token(self) -> int:
        """Id of the token that ends a generated text: the tokenizer's EOS, or the prefix token if it has none."""
        return self.ends.prefix if self.inner.eos_token_id is None else int(self.inner.eos_token_id)

    @property
    def stop_text(self) -> str:
        """How the stop token is spelled."""
        return str(self.inner.convert_ids_to_tokens(self.stop_token))

    def encode(self, texts: Sequence[str]) -> list[TokenIds]:
        """Token ids of each text, without special tokens; one that is spelled out in a text is ordinary text."""
        return self._encode([(text,) for text in texts], add_special_tokens=False)

    def encode_framed(self, texts: Sequence[tuple[str, ...]], max_length: int) -> list[TokenIds]:
        """Token ids of single texts and pairs in the model's template; a row without any holds the prefix token.

        BERT's rows are `[CLS] a [SEP]` and `[CLS] a [SEP] b [SEP]`. Rows have at most `max_length` tokens; the longer
        text is cut first.
        """
        rows = self._encode(texts, add_special_tokens=True, truncation="longest_first", max_length=max_length)
        return [row if len(row) else np.array([self.end_of_text], np.int32) for row in rows]

    def decode(self, tokens: Sequence[int]) -> str:
        """The text of token ids, special tokens left out, spaces as they are."""
        return str(self.inner.decode(list(tokens), skip_special_tokens=True, clean_up_tokenization_spaces=False))

    def _encode(self, texts: Sequence[tuple[str, ...]], **options: Any) -> list[TokenIds]:
        """Token ids of each text, or pair of texts, in batches that keep memory small."""
        options |= {"split_special_tokens": True, "return_attention_mask": False, "return_token_type_ids": False}
        rows: list[TokenIds] = []
        for _, group in itertools.groupby(texts, len):
            alike = list(group)
            for start in range(0, len(alike), ENCODE_BATCH):
                parts = [list(part) for part in zip(*alike[start : start + ENCODE_BATCH], strict=True)]
                rows += [np.array(ids, np.int32) for ids in self.inner(*parts, verbose=False, **options)["input_ids"]]
        return rows
