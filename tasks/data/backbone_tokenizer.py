"""The tokenizer of a pretrained backbone: what its `tokenizer.json` says, read for our tasks.

Truncation and padding that a checkpoint's authors left in the file are taken out, as tasks do their own. End of text,
which stands before each document, is `<|endoftext|>` where the vocabulary has it, else the token that begins a text,
else the one that ends it, as `tokenizer_config.json` names them, else BERT's `[SEP]`. The stop token, at which
generation ends, is found likewise, but for the order: of Llama-2's two the first is `<s>` and the second `</s>`.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ...results.foreign import parse_json

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

END_OF_TEXT = "<|endoftext|>"
_BERT_SEPARATOR = "[SEP]"
_ENCODE_BATCH = 512


@dataclass(frozen=True)
class PretrainedTokenizer:
    """A pretrained backbone's tokenizer.

    Attributes:
        name: The backbone's name.
        inner: A tokenizer of the `tokenizers` library, without truncation and padding.
        vocab_size: The largest token id, and one.
        end_of_text: Id of the token that separates documents.
        stop_token: Id of the token that ends what a model writes.
    """

    name: str
    inner: Any
    vocab_size: int
    end_of_text: int
    stop_token: int

    @property
    def stop_text(self) -> str:
        """How the stop token is spelled."""
        return str(self.inner.id_to_token(self.stop_token))

    def encode(self, texts: Sequence[str]) -> list[NDArray[np.int32]]:
        """Token ids of each text, without special tokens."""
        return encode_batches(self.inner, texts, add_special_tokens=False)

    def decode(self, tokens: Sequence[int]) -> str:
        """The text of token ids, special tokens left out."""
        return str(self.inner.decode(list(tokens), skip_special_tokens=True))

    def encode_framed(self, texts: Sequence[tuple[str, ...]], max_length: int) -> list[NDArray[np.int32]]:
        """Token ids of single texts and pairs in the template that the model was trained with.

        BERT's are `[CLS] a [SEP]` and `[CLS] a [SEP] b [SEP]`. Past `max_length` the longer text is cut first.
        """
        inputs = [text[0] if len(text) == 1 else text for text in texts]
        self.inner.enable_truncation(max_length, strategy="longest_first")
        try:
            return encode_batches(self.inner, inputs, add_special_tokens=True)
        finally:
            self.inner.no_truncation()


def load_backbone_tokenizer(name: str, file: Path | None) -> PretrainedTokenizer:
    """The tokenizer in `file`, a `tokenizer.json`.

    Args:
        name: The backbone's name.
        file: Its `tokenizer.json`; the `tokenizer_config.json` beside it is read too, where there is one.

    Raises:
        ValueError: The checkpoint has not been fetched, or names no token that could end a text.
    """
    from tokenizers import Tokenizer

    if file is None:
        raise ValueError(f"the checkpoint of backbone {name} has not been fetched, so its tokenizer cannot be loaded")
    inner: Any = Tokenizer.from_file(str(file))
    inner.encode_special_tokens = True
    inner.no_truncation()
    inner.no_padding()
    vocabulary = inner.get_vocab(with_added_tokens=True)
    config_file = file.with_name("tokenizer_config.json")
    end_of_text, stop_token = (
        next((vocabulary[token] for token in _ends_of_text(config_file, keys) if token in vocabulary), None)
        for keys in (("bos_token", "eos_token"), ("eos_token", "bos_token"))
    )
    if end_of_text is None or stop_token is None:
        tried = ", ".join(_ends_of_text(config_file))
        raise ValueError(
            f"the tokenizer of backbone {name} has none of {tried} to end a text with; name one of its "
            f"tokens as bos_token or eos_token in {config_file}"
        )
    return PretrainedTokenizer(name, inner, max(vocabulary.values()) + 1, end_of_text, stop_token)


def encode_batches(inner: Any, texts: Sequence[Any], *, add_special_tokens: bool) -> list[NDArray[np.int32]]:
    """Token ids of each text, or pair of texts, in batches that keep memory small."""
    import numpy as np

    return [
        np.array(encoding.ids, np.int32)
        for start in range(0, len(texts), _ENCODE_BATCH)
        for encoding in inner.encode_batch_fast(
            texts[start : start + _ENCODE_BATCH], add_special_tokens=add_special_tokens
        )
    ]


def _ends_of_text(config_file: Path, keys: Sequence[str] = ("bos_token", "eos_token")) -> Iterator[str]:
    """Spellings of the end of text, the likeliest first."""
    yield END_OF_TEXT
    config = parse_json(config_file.read_bytes()) if config_file.is_file() else {}
    for key in keys:
        token = config.get(key)
        spelling = token.get("content") if isinstance(token, dict) else token
        if spelling:
            yield spelling
    yield _BERT_SEPARATOR
