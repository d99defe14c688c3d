"""Tests of tasks/data/pretrained_tokenizer.py: token ids are AutoTokenizer's, whatever files the tokenizer has."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from hedgebench.tasks.data.pretrained_tokenizer import PretrainedTokenizer
from hedgebench.tasks.data.subword_tokenizer import END_OF_TEXT

CLS, SEP = 15, 16
A, B, C, D, E = 2, 3, 4, 5, 6
WORDS = ("<unk>", "<s>", "</s>", "a", "b")


def make_folder(folder: Path, tokens: tuple[str, ...], config: Mapping[str, Any] | None = None) -> Path:
    """A Llama's tokenizer of whole words."""
    from tokenizers import Tokenizer, models, pre_tokenizers

    tokenizer: Any = Tokenizer(models.WordLevel({token: i for i, token in enumerate(tokens)}, unk_token=tokens[0]))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    tokenizer.save(str(folder / "tokenizer.json"))
    (folder / "config.json").write_text('{"model_type": "llama"}')
    if config is not None:
        (folder / "tokenizer_config.json").write_text(json.dumps(config))
    return folder


def ids(tokenizer: PretrainedTokenizer, *texts: str) -> list[list[int]]:
    return [row.tolist() for row in tokenizer.encode(texts)]


def framed_ids(tokenizer: PretrainedTokenizer, *texts: tuple[str, ...], most: int = 12) -> list[list[int]]:
    return [row.tolist() for row in tokenizer.encode_framed(texts, most)]


def test_the_truncation_and_padding_of_the_file_are_taken_out(bert_folder: Path) -> None:
    tokenizer = PretrainedTokenizer.load("bert", bert_folder)
    assert ids(tokenizer, "a b c d e", "a") == [[A, B, C, D, E], [A]]


def test_texts_and_pairs_are_framed_as_the_model_was_trained(bert_folder: Path) -> None:
    framed = framed_ids(PretrainedTokenizer.load("bert", bert_folder), ("A b",), ("a", "c d"), ("",))
    assert framed == [[CLS, A, B, SEP], [CLS, A, SEP, C, D, SEP], [CLS, SEP]]


def test_the_longer_text_is_cut_first(bert_folder: Path) -> None:
    tokenizer = PretrainedTokenizer.load("bert", bert_folder)
    texts = (("a b c d e", "e"), ("a b c d e", "a b c d"), ("a b c d e a b",))
    assert framed_ids(tokenizer, *texts, most=8) == [
        [CLS, A, B, C, D, SEP, E, SEP],
        [CLS, A, B, C, SEP, A, B, SEP],
        [CLS, A, B, C, D, E, A, SEP],
    ]


def test_framing_leaves_no_truncation_behind(bert_folder: Path) -> None:
    tokenizer = PretrainedTokenizer.load("bert", bert_folder)
    framed_ids(tokenizer, ("a b c d e", "a b c d e"), most=8)
    assert len(ids(tokenizer, "a b c d e a b c d e")[0]) == 10


def test_the_spelling_of_a_special_token_is_ordinary_text(bert_folder: Path) -> None:
    assert ids(PretrainedTokenizer.load("bert", bert_folder), "a [SEP] b") == [[A, 12, 14, 13, B]]


def test_many_texts_keep_their_order(bert_folder: Path) -> None:
    texts = ["abcdefghij"[i % 10] for i in range(1300)]
    rows = ids(PretrainedTokenizer.load("bert", bert_folder), *texts)
    assert [row[0] for row in rows] == [2 + i % 10 for i in range(1300)]


def test_ids_become_text_again_without_special_tokens(bert_folder: Path) -> None:
    assert PretrainedTokenizer.load("bert", bert_folder).decode([CLS, A, B, SEP]) == "a b"


def test_an_empty_text_without_a_template_is_the_prefix_token(tmp_path: Path) -> None:
    tokenizer = PretrainedTokenizer.load("x", make_folder(tmp_path, WORDS, {"bos_token": "<s>"}))
    assert framed_ids(tokenizer, ("",), ("a",)) == [[1], [3]]


@pytest.mark.parametrize(
    ("config", "text", "right"),
    [
        ({"do_lower_case": False}, "A b", [1, B]),
        ({"do_lower_case": True}, "A b", [A, B]),
        ({"do_lower_case": True, "strip_accents": False}, "á b", [1, B]),
        ({"do_lower_case": True, "strip_accents": True}, "á b", [A, B]),
    ],
)
def test_options_of_tokenizer_config_count_as_in_transformers(
    config: Mapping[str, Any], text: str, right: list[int], bert_folder: Path
) -> None:
    from transformers import AutoTokenizer

    special = {"unk_token": "[UNK]", "cls_token": "[CLS]", "sep_token": "[SEP]", "pad_token": "[PAD]"}
    written = {"tokenizer_class": "BertTokenizer", **special, **config}
    (bert_folder / "tokenizer_config.json").write_text(json.dumps(written))
    tokenizer = PretrainedTokenizer.load("bert", bert_folder)
    auto: Any = AutoTokenizer.from_pretrained(bert_folder)
    assert ids(tokenizer, text) == [auto.encode(text, add_special_tokens=False)] == [right]
    assert framed_ids(tokenizer, (text, "c")) == [auto.encode(text, "c")]


def test_a_tokenizer_json_without_post_processor_is_framed_as_in_transformers(bert_folder: Path) -> None:
    from transformers import AutoTokenizer

    file = bert_folder / "tokenizer.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), "post_processor": None}))
    auto: Any = AutoTokenizer.from_pretrained(bert_folder)
    framed = framed_ids(PretrainedTokenizer.load("bert", bert_folder), ("a", "c d"))
    assert framed == [auto.encode("a", "c d")] == [[CLS, A, SEP, C, D, SEP]]


def test_a_vocabulary_in_a_text_file_alone_is_enough(bert_folder: Path) -> None:
    vocabulary = json.loads((bert_folder / "tokenizer.json").read_text())["model"]["vocab"]
    pieces = [*vocabulary, "[CLS]", "[SEP]", "[MASK]"]
    (bert_folder / "vocab.txt").write_text("\n".join(pieces) + "\n")
    (bert_folder / "tokenizer.json").unlink()
    assert framed_ids(PretrainedTokenizer.load("bert", bert_folder), ("A", "c d")) == [[CLS, A, SEP, C, D, SEP]]


def test_a_sentencepiece_model_alone_is_enough(tmp_path: Path) -> None:
    written: Any = pytest.importorskip("sentencepiece.sentencepiece_model_pb2")
    model: Any = written.ModelProto()
    model.trainer_spec.model_type = 2
    model.trainer_spec.byte_fallback = True
    model.normalizer_spec.name = "identity"
    model.normalizer_spec.remove_extra_whitespaces = False
    control = [("<unk>", 2), ("<s>", 3), ("</s>", 3), *((f"<0x{byte:02X}>", 6) for byte in range(256))]
    pieces = ["▁t", "he", "▁the", "▁c", "at", "▁cat", "▁", *"theca"]
    for place, (piece, kind) in enumerate([*control, *((piece, 1) for piece in dict.fromkeys(pieces))]):
        model.pieces.add(piece=piece, type=kind, score=-float(place))
    make_folder(tmp_path, WORDS, {"tokenizer_class": "LlamaTokenizer", "bos_token": "<s>", "eos_token": "</s>"})
    (tmp_path / "tokenizer.json").unlink()
    (tmp_path / "tokenizer.model").write_bytes(model.SerializeToString())
    tokenizer = PretrainedTokenizer.load("x", tmp_path)
    names = [piece.piece for piece in model.pieces]
    assert ids(tokenizer, "the cat ż") == [list(map(names.index, ["▁the", "▁cat", "▁", "<0xC5>", "<0xBC>"]))]
    assert (tokenizer.end_of_text, tokenizer.stop_token) == (1, 2)


def test_special_tokens_that_only_their_map_names_count(tmp_path: Path) -> None:
    make_folder(tmp_path, WORDS)
    (tmp_path / "special_tokens_map.json").write_text(json.dumps({"bos_token": "<s>", "eos_token": "</s>"}))
    tokenizer = PretrainedTokenizer.load("x", tmp_path)
    assert (tokenizer.end_of_text, tokenizer.stop_token) == (1, 2)


def test_a_converted_model_has_the_tokenizer_of_its_base(bert_folder: Path) -> None:
    framed = framed_ids(PretrainedTokenizer.load("bert", bert_folder), ("A", "c d"))
    config = {"model_type": "hedgebench", "base": {"model_type": "bert"}, "hedgebench": {}}
    (bert_folder / "config.json").write_text(json.dumps(config))
    assert framed_ids(PretrainedTokenizer.load("bert", bert_folder), ("A", "c d")) == framed


def test_a_folder_without_a_vocabulary_is_refused(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text('{"model_type": "bert"}')
    with pytest.raises(ValueError, match=r"has no tokenizer: none of tokenizer\.json, vocab\.txt"):
        PretrainedTokenizer.load("x", tmp_path)


@pytest.mark.parametrize(
    ("tokens", "config", "prefix", "stop"),
    [
        (("u", "<s>", "</s>", END_OF_TEXT), {"bos_token": "<s>", "eos_token": "</s>"}, 1, 2),
        (("u", "<s>", "</s>"), {"bos_token": "<s>"}, 1, 1),
        (("u", "<s>", "</s>", END_OF_TEXT), {"eos_token": "</s>"}, 2, 2),
        (("u", "<s>", END_OF_TEXT), {"bos_token": None}, 2, 2),
        (("u", "[SEP]"), {"sep_token": "[SEP]"}, 1, 1),
    ],
)
def test_the_prefix_token_is_the_first_of_bos_eos_end_of_text_and_separator(
    tmp_path: Path, tokens: tuple[str, ...], config: dict[str, Any], prefix: int, stop: int
) -> None:
    tokenizer = PretrainedTokenizer.load("x", make_folder(tmp_path, tokens, config))
    assert (tokenizer.end_of_text, tokenizer.stop_token) == (prefix, stop)
    assert (tokenizer.prefix_text, tokenizer.stop_text) == (tokens[prefix], tokens[stop])
    assert tokenizer.notes == ()


def test_a_tokenizer_without_any_such_token_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"tokenizer of backbone x has no token to put before a text"):
        PretrainedTokenizer.load("x", make_folder(tmp_path, ("<unk>", "<s>"), {}))


def test_gaps_in_the_ids_count_towards_the_vocabulary(tmp_path: Path) -> None:
    from tokenizers import Tokenizer, models

    make_folder(tmp_path, WORDS, {"eos_token": "</s>"})
    tokenizer: Any = Tokenizer(models.WordLevel({"<unk>": 0, "</s>": 9}, unk_token="<unk>"))
    tokenizer.save(str(tmp_path / "tokenizer.json"))
    assert PretrainedTokenizer.load("x", tmp_path).vocab_size == 10


def test_special_tokens_that_no_row_holds_do_not_count_towards_the_vocabulary(tmp_path: Path) -> None:
    folder = make_folder(tmp_path, WORDS, {"eos_token": "</s>", "pad_token": "[PAD]"})
    tokenizer = PretrainedTokenizer.load("x", folder)
    assert tokenizer.inner.pad_token_id == len(WORDS) == tokenizer.vocab_size
