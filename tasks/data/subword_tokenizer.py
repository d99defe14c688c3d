"""Tokenizers of the `tokenizers` library, read from a `tokenizer.json`: one trained here, GPT-2's, or a backbone's.

Truncation and padding that a checkpoint's authors left in the file are taken out, as tasks do their own. End of text,
which stands before each document, is `<|endoftext|>` where the vocabulary has it, else the token that begins a text,
else the one that ends it, as `tokenizer_config.json` names them, else BERT's `[SEP]`. The stop token, at which
generation ends, is found likewise, but the token that ends a text comes before the one that begins it: of Llama-2's two
the end of text is `<s>` and the stop token `</s>`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

from ...results.foreign import parse_json
from ..heavy import np
from .batches import TokenIds

END_OF_TEXT = "<|endoftext|>"
_BERT_SEPARATOR = "[SEP]"
_ENCODE_BATCH = 512


@dataclass(frozen=True)
class SubwordTokenizer:
    """A tokenizer of the `tokenizers` library: text to token ids and back, without special tokens.

    Attributes:
        name: `gpt2`, `bpe:N` or the name of a pretrained backbone.
        inner: The library's tokenizer, without truncation and padding.
        vocab_size: The largest token id plus one; `bpe:N` has fewer than N where its training text has too few pairs.
        end_of_text: Id of the token that separates documents.
        stop_token: Id of the token that ends what a model writes; most tokenizers have one token for both.
    """

    name: str
    inner: Any
    vocab_size: int
    end_of_text: int
    stop_token: int

    @classmethod
    def load(cls, name: str, file: Path) -> Self:
        """The tokenizer in `file`, a `tokenizer.json`; a `tokenizer_config.json` beside it may name its special tokens.

        Raises:
            ValueError: The file has no token that could end a text.
        """
        from tokenizers import Tokenizer

        inner: Any = Tokenizer.from_file(str(file))
        inner.encode_special_tokens = True
        inner.no_truncation()
        inner.no_padding()
        vocabulary = inner.get_vocab(with_added_tokens=True)
        config_file = file.with_name("tokenizer_config.json")
        config = parse_json(config_file.read_bytes()) if config_file.is_file() else {}
        begins, ends = (_spelling(config.get(key)) for key in ("bos_token", "eos_token"))
        candidates = [each for each in (END_OF_TEXT, begins, ends, _BERT_SEPARATOR) if each]
        known = [vocabulary[each] for each in candidates if each in vocabulary]
        if not known:
            raise ValueError(
                f"the tokenizer of backbone {name} has none of {', '.join(candidates)} to end a text with; name one of "
                f"its tokens as bos_token or eos_token in {config_file}"
            )
        stops = [vocabulary[each] for each in (END_OF_TEXT, ends) if each in vocabulary]
        return cls(name, inner, max(vocabulary.values()) + 1, end_of_text=known[0], stop_token=[*stops, *known][0])

    @property
    def stop_text(self) -> str:
        """How the stop token is spelled."""
        return str(self.inner.id_to_token(self.stop_token))

    def encode(self, texts: Sequence[str]) -> list[TokenIds]:
        """Token ids of each text, without special tokens; the spelling of one inside a text is ordinary text."""
        return self._encode(texts, add_special_tokens=False)

    def decode(self, tokens: Sequence[int]) -> str:
        """The text of token ids, special tokens left out."""
        return str(self.inner.decode(list(tokens), skip_special_tokens=True))

    def _encode(self, texts: Sequence[Any], *, add_special_tokens: bool) -> list[TokenIds]:
        """Token ids of each text, or pair of texts, in batches that keep memory small."""
        return [
            np.array(encoding.ids, np.int32)
            for start in range(0, len(texts), _ENCODE_BATCH)
            for encoding in self.inner.encode_batch_fast(
                texts[start : start + _ENCODE_BATCH], add_special_tokens=add_special_tokens
            )
        ]


class PretrainedTokenizer(SubwordTokenizer):
    """The tokenizer of a pretrained backbone, with the template that the model was trained with."""

    def encode_framed(self, texts: Sequence[tuple[str, ...]], max_length: int) -> list[TokenIds]:
        """Token ids of single texts and pairs in the model's template.

        BERT's are `[CLS] a [SEP]` and `[CLS] a [SEP] b [SEP]`. Past `max_length` the longer text is cut first.
        """
        inputs = [text[0] if len(text) == 1 else text for text in texts]
        self.inner.enable_truncation(max_length, strategy="longest_first")
        try:
            return self._encode(inputs, add_special_tokens=True)
        finally:
            self.inner.no_truncation()


def _spelling(token: Any) -> str | None:
    """How a special token of `tokenizer_config.json` is spelled; None where it names none."""
    return (token.get("content") if isinstance(token, dict) else token) or None
