"""Tokenizers of the `tokenizers` library, read from a `tokenizer.json`: one trained here, or GPT-2's.

Their one special token is `<|endoftext|>`, which stands before each document and ends a generated text.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

from ..heavy import np
from .batches import TokenIds

END_OF_TEXT = "<|endoftext|>"
ENCODE_BATCH = 512


@dataclass(frozen=True)
class SubwordTokenizer:
    """A tokenizer of the `tokenizers` library: text to token ids and back, without special tokens.

    Attributes:
        name: `gpt2` or `bpe:N`.
        inner: The library's tokenizer, without truncation and padding.
        vocab_size: The largest token id plus one; `bpe:N` has fewer than N where its training text has too few pairs.
        end_of_text: Id of the prefix token, which stands before each document.
        prefix_text: How the prefix token is spelled.
        stop_text: How the token that ends a generated text is spelled.
        notes: Notes for the record on the tokens around a text.
    """

    name: str
    inner: Any
    vocab_size: int
    end_of_text: int
    prefix_text: str = END_OF_TEXT
    stop_text: str = END_OF_TEXT
    notes: tuple[str, ...] = ()

    @classmethod
    def load(cls, name: str, file: Path) -> Self:
        """The tokenizer in `file`, a `tokenizer.json`.

        Raises:
            ValueError: The tokenizer has no `<|endoftext|>`.
        """
        from tokenizers import Tokenizer

        inner: Any = Tokenizer.from_file(str(file))
        inner.encode_special_tokens = True
        inner.no_truncation()
        inner.no_padding()
        vocabulary = inner.get_vocab(with_added_tokens=True)
        if END_OF_TEXT not in vocabulary:
            raise ValueError(f"tokenizer {name} in {file} has no {END_OF_TEXT}")
        return cls(name, inner, max(vocabulary.values()) + 1, vocabulary[END_OF_TEXT])

    @property
    def stop_token(self) -> int:
        """Id of the token that ends a generated text."""
        return self.end_of_text

    def encode(self, texts: Sequence[str]) -> list[TokenIds]:
        """Token ids of each text, without special tokens; one that is spelled out in a text is ordinary text."""
        return [
            np.array(encoding.ids, np.int32)
            for start in range(0, len(texts), ENCODE_BATCH)
            for encoding in self.inner.encode_batch_fast(texts[start : start + ENCODE_BATCH], add_special_tokens=False)
        ]

    def decode(self, tokens: Sequence[int]) -> str:
        """The text of token ids, special tokens left out."""
        return str(self.inner.decode(list(tokens), skip_special_tokens=True))
