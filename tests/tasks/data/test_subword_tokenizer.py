"""Tests of tasks/data/subword_tokenizer.py."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from hedgebench.tasks.data.subword_tokenizer import END_OF_TEXT, PretrainedTokenizer

CLS, SEP = 15, 16
A, B, C, D, E = 2, 3, 4, 5, 6


def make_file(folder: Path, tokens: list[str], config: dict[str, Any] | None = None) -> Path:
    """A tokenizer of whole words."""
    from tokenizers import Tokenizer, models, pre_tokenizers

    tokenizer: Any = Tokenizer(models.WordLevel({token: i for i, token in enumerate(tokens)}, unk_token=tokens[0]))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    tokenizer.save(str(folder / "tokenizer.json"))
    if config is not None:
        (folder / "tokenizer_config.json").write_text(json.dumps(config))
    return folder / "tokenizer.json"


def test_the_truncation_and_padding_of_the_file_are_taken_out(bert_file: Path) -> None:
    tokenizer = PretrainedTokenizer.load("bert", bert_file)
    assert [ids.tolist() for ids in tokenizer.encode(["a b c d e", "a"])] == [[A, B, C, D, E], [A]]


def test_texts_and_pairs_are_framed_as_the_model_was_trained(bert_file: Path) -> None:
    framed = PretrainedTokenizer.load("bert", bert_file).encode_framed([("A b",), ("a", "c d"), ("",)], 12)
    assert [ids.tolist() for ids in framed] == [[CLS, A, B, SEP], [CLS, A, SEP, C, D, SEP], [CLS, SEP]]


def test_the_longer_text_is_cut_first(bert_file: Path) -> None:
    tokenizer = PretrainedTokenizer.load("bert", bert_file)
    framed = tokenizer.encode_framed([("a b c d e", "e"), ("a b c d e", "a b c d"), ("a b c d e a b",)], 8)
    assert [ids.tolist() for ids in framed] == [
        [CLS, A, B, C, D, SEP, E, SEP],
        [CLS, A, B, C, SEP, A, B, SEP],
        [CLS, A, B, C, D, E, A, SEP],
    ]


def test_framing_leaves_no_truncation_behind(bert_file: Path) -> None:
    tokenizer = PretrainedTokenizer.load("bert", bert_file)
    tokenizer.encode_framed([("a b c d e", "a b c d e")], 8)
    assert len(tokenizer.encode(["a b c d e a b c d e"])[0]) == 10


def test_the_spelling_of_a_special_token_is_ordinary_text(bert_file: Path) -> None:
    tokenizer = PretrainedTokenizer.load("bert", bert_file)
    assert tokenizer.encode(["a [SEP] b"])[0].tolist() == [A, 12, 14, 13, B]


def test_many_texts_keep_their_order(bert_file: Path) -> None:
    texts = ["abcdefghij"[i % 10] for i in range(1300)]
    ids = PretrainedTokenizer.load("bert", bert_file).encode(texts)
    assert [int(row[0]) for row in ids] == [2 + i % 10 for i in range(1300)]


@pytest.mark.parametrize(
    ("tokens", "config", "expected"),
    [
        (["<unk>", "<s>", "</s>", END_OF_TEXT], {"bos_token": "<s>"}, 3),
        (["<unk>", "<s>", "</s>"], {"bos_token": "<s>", "eos_token": "</s>"}, 1),
        (["<unk>", "<s>", "</s>"], {"bos_token": None, "eos_token": {"content": "</s>", "lstrip": False}}, 2),
        (["<unk>", "[SEP]", "</s>"], {"eos_token": "</s>"}, 2),
        (["<unk>", "[SEP]"], {"sep_token": "[SEP]"}, 1),
        (["<unk>", "[SEP]"], None, 1),
    ],
)
def test_the_end_of_text_is_the_first_that_the_vocabulary_has(
    tmp_path: Path, tokens: list[str], config: dict[str, Any] | None, expected: int
) -> None:
    assert PretrainedTokenizer.load("x", make_file(tmp_path, tokens, config)).end_of_text == expected


def test_a_tokenizer_that_ends_no_text_is_refused(tmp_path: Path) -> None:
    file = make_file(tmp_path, ["<unk>", "<s>"], {"bos_token": "<bos>"})
    with pytest.raises(ValueError, match=r"backbone x has none of <\|endoftext\|>, <bos>, \[SEP\] to end a text"):
        PretrainedTokenizer.load("x", file)


def test_gaps_in_the_ids_count_towards_the_vocabulary(tmp_path: Path) -> None:
    from tokenizers import Tokenizer, models

    tokenizer: Any = Tokenizer(models.WordLevel({"<unk>": 0, "[SEP]": 9}, unk_token="<unk>"))
    tokenizer.save(str(tmp_path / "tokenizer.json"))
    assert PretrainedTokenizer.load("x", tmp_path / "tokenizer.json").vocab_size == 10


@pytest.mark.parametrize(
    ("tokens", "config", "begins", "ends"),
    [
        (["u", "<s>", "</s>"], {"bos_token": "<s>", "eos_token": {"content": "</s>"}}, 1, 2),
        (["u", "<s>", "</s>", END_OF_TEXT], {"bos_token": "<s>", "eos_token": "</s>"}, 3, 3),
        (["u", "<s>"], {"bos_token": "<s>"}, 1, 1),
        (["u", "</s>"], {"eos_token": "</s>"}, 1, 1),
    ],
)
def test_what_a_model_writes_ends_with_the_token_that_ends_a_text(
    tokens: list[str], config: dict[str, Any], begins: int, ends: int, tmp_path: Path
) -> None:
    tokenizer = PretrainedTokenizer.load("tiny", make_file(tmp_path, tokens, config))
    assert (tokenizer.end_of_text, tokenizer.stop_token) == (begins, ends)
    assert tokenizer.stop_text == tokens[ends]


def test_ids_become_text_again_without_special_tokens(bert_file: Path) -> None:
    tokenizer = PretrainedTokenizer.load("bert", bert_file)
    assert tokenizer.decode([CLS, A, B, SEP]) == "a b"
