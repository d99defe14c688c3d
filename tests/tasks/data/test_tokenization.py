"""Tests of tasks/data/tokenization.py."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from hedgebench.tasks.base import BackboneTokenizer, DataUnavailableError, Sources
from hedgebench.tasks.data.subword_tokenizer import END_OF_TEXT
from hedgebench.tasks.data.tokenization import GPT2_REPO, Tokenizer, identify_tokenizer, load_tokenizer

TEXTS = ["the cat sat on the mat", "the dog sat on the log", "naïve café – 猫"] * 20


def tokenizer_of(setting: str, sources: Sources) -> Tokenizer:
    return load_tokenizer(identify_tokenizer(setting, "corpus", sources), lambda: TEXTS)


def test_bytes_are_their_own_ids(sources: Sources) -> None:
    tokenizer = tokenizer_of("byte", sources)
    assert tokenizer.encode(["aé"])[0].tolist() == [97, 195, 169]
    assert (tokenizer.vocab_size, tokenizer.end_of_text, tokenizer.stop_token) == (257, 256, 256)
    assert tokenizer.stop_text == END_OF_TEXT
    assert tokenizer.decode([256, 97, 195, 169, 195, 256]) == "aé\N{REPLACEMENT CHARACTER}"


def test_bpe_spells_any_text_with_ids_below_its_size(sources: Sources) -> None:
    tokenizer = tokenizer_of("bpe:280", sources)
    ids = tokenizer.encode(["the cat", "\x00 żółć 🦔"])
    assert tokenizer.vocab_size == 280
    assert all(len(tokens) > 0 and tokens.max() < 280 for tokens in ids)
    assert tokenizer.decode([*ids[1].tolist(), tokenizer.stop_token]) == "\x00 żółć 🦔"


def test_bpe_training_is_deterministic_and_cached(sources: Sources, tmp_path: Path) -> None:
    elsewhere = Sources(mirror=None, cache=tmp_path / "other", offline=True)
    tokenizer_of("bpe:280", sources)
    tokenizer_of("bpe:280", elsewhere)
    first, second = (next((place.cache / "tokenizers").iterdir()) for place in (sources, elsewhere))
    assert first.name == second.name
    assert first.read_bytes() == second.read_bytes()
    again = load_tokenizer(identify_tokenizer("bpe:280", "corpus", sources), lambda: pytest.fail("trained again"))
    assert again.vocab_size == 280


def test_bpe_of_another_corpus_is_another_tokenizer(sources: Sources) -> None:
    one, other = (identify_tokenizer("bpe:280", corpus, sources) for corpus in ("one", "other"))
    assert one.fingerprint != other.fingerprint
    assert one.path != other.path


def test_the_spelling_of_a_special_token_is_ordinary_text(sources: Sources) -> None:
    tokenizer = tokenizer_of("bpe:280", sources)
    assert tokenizer.end_of_text not in tokenizer.encode([f"a {END_OF_TEXT} b"])[0]


def test_gpt2_is_read_from_the_mirror(sources: Sources) -> None:
    trained = identify_tokenizer("bpe:280", "corpus", sources)
    load_tokenizer(trained, lambda: TEXTS)
    assert trained.path is not None
    assert sources.mirror is not None
    folder = sources.mirror / "models" / GPT2_REPO
    folder.mkdir(parents=True)
    trained.path.rename(folder / "tokenizer.json")
    for setting in ("gpt2", "auto"):
        identity = identify_tokenizer(setting, "corpus", sources)
        assert (identity.name, identity.note) == ("gpt2", "")
        assert load_tokenizer(identity, list).vocab_size == 280


def test_gpt2_that_is_nowhere_says_where_it_was_looked_for(sources: Sources) -> None:
    with pytest.raises(DataUnavailableError, match=r"tokenizer of openai-community/gpt2") as caught:
        identify_tokenizer("gpt2", "corpus", sources)
    assert str(sources.mirror) in str(caught.value)
    assert "tokenizer=bpe:N" in str(caught.value)


def test_auto_names_its_substitute(sources: Sources) -> None:
    identity = identify_tokenizer("auto", "corpus", sources)
    assert identity.name == "bpe:16384"
    assert "gpt2 was not available" in str(identity.details()["tokenizer_fallback"])
    assert identity.fingerprint == identify_tokenizer("bpe:16384", "corpus", sources).fingerprint


def test_a_backbone_brings_its_own_tokenizer(sources: Sources, bert_folder: Path) -> None:
    own = replace(sources, tokenizer=BackboneTokenizer("tiny-bert", "abc", bert_folder))
    identity = identify_tokenizer("backbone", "corpus", own)
    assert (identity.name, identity.fingerprint, identity.path) == ("tiny-bert", "abc", bert_folder)
    assert identity.details() == {"tokenizer": "tiny-bert", "tokenizer_fingerprint": "abc"}
    tokenizer = load_tokenizer(identity, lambda: pytest.fail("trained"))
    assert (tokenizer.name, tokenizer.encode(["a b"])[0].tolist()) == ("tiny-bert", [2, 3])


def test_the_tokenizer_of_a_backbone_that_was_not_fetched_can_be_named_but_not_loaded(sources: Sources) -> None:
    planned = replace(sources, tokenizer=BackboneTokenizer("gpt2", "abc"))
    identity = identify_tokenizer("backbone", "corpus", planned)
    assert identity.details()["tokenizer_fingerprint"] == "abc"
    with pytest.raises(ValueError, match="backbone gpt2 has not been fetched"):
        load_tokenizer(identity, list)


def test_a_backbone_trained_from_scratch_has_no_tokenizer_of_its_own(sources: Sources) -> None:
    with pytest.raises(ValueError, match=r"trained from scratch; choose bpe:N, such as bpe:4096"):
        identify_tokenizer("backbone", "corpus", sources)


@pytest.mark.parametrize("setting", ["bpe", "bpe:", "GPT-2", "bpe:100"])
def test_unknown_tokenizers_are_refused(setting: str, sources: Sources) -> None:
    with pytest.raises(ValueError, match=f"tokenizer is '{setting}'"):
        identify_tokenizer(setting, "corpus", sources)
