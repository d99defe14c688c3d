"""Texts and pairs of texts as token ids.

The tokenizer of a pretrained backbone puts texts into its own template. With every other tokenizer a pair is
`a <|endoftext|> b` and a single text stands alone. In a row that is too long the longer text is cut first.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeAlias

from ..data.batches import TokenIds
from ..data.pretrained_tokenizer import PretrainedTokenizer
from ..data.tokenization import Tokenizer
from ..heavy import np

Text: TypeAlias = tuple[str, ...]
"""A text, or a pair of texts."""


def encode_texts(texts: Sequence[Text], tokenizer: Tokenizer, max_length: int) -> list[TokenIds]:
    """Token ids of each text or pair, between 1 and `max_length` of them."""
    if isinstance(tokenizer, PretrainedTokenizer):
        return tokenizer.encode_framed(texts, max_length)

    end_of_text = np.array([tokenizer.end_of_text], np.int32)
    parts = iter(tokenizer.encode([part for text in texts for part in text]))
    return [_joined([next(parts) for _ in text], end_of_text, max_length) for text in texts]


def prefix_of(tokenizer: Tokenizer) -> str:
    """The special tokens that `encode_texts` puts before a text, as they are spelled; `none` without any."""
    return (tokenizer.ends.before if isinstance(tokenizer, PretrainedTokenizer) else "") or "none"


def longest_first(lengths: Sequence[int], room: int) -> tuple[int, ...]:
    """The number of tokens to keep of each of one or two texts, so that together they take at most `room` tokens.

    The longer text is cut first. If both are longer than half of `room`, each keeps half; an odd token goes to the
    longer text, or to the second of two texts of equal length, as in the `tokenizers` library.
    """
    if len(lengths) == 1:
        return (min(lengths[0], room),)
    shorter, longer = sorted(lengths)
    kept_shorter = min(shorter, max(room // 2, room - longer))
    kept_longer = min(longer, room - kept_shorter)
    return (kept_longer, kept_shorter) if lengths[0] > lengths[1] else (kept_shorter, kept_longer)


def _joined(parts: Sequence[TokenIds], end_of_text: TokenIds, max_length: int) -> TokenIds:
    """One text, or two around an end of text; an end of text alone where the text is empty."""
    room = max_length - len(parts) + 1
    cut = [part[:kept] for part, kept in zip(parts, longest_first([len(p) for p in parts], room), strict=True)]
    if len(cut) == 2:
        return np.concatenate([cut[0], end_of_text, cut[1]])
    return cut[0] if len(cut[0]) else end_of_text
