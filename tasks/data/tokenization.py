"""Tokenizers of text tasks, chosen by the setting `tokenizer`.

| setting | tokenizer |
|---|---|
| `gpt2` | GPT-2's byte-level BPE, 50,257 entries, from the mirror, the hub's cache or the hub at a pinned revision |
| `bpe:N` | byte-level BPE with up to N entries, trained on the task's training split and kept in `Sources.cache` |
| `byte` | the 256 bytes of UTF-8 |
| `auto` | `gpt2` where it is available, else `bpe:16384`; the record then says so |
| `backbone` | the one that the pretrained backbone was trained with; see `pretrained_tokenizer.py` |

All but `backbone` have `<|endoftext|>` as their one special token and can spell any text. Word perplexity and bits per
byte therefore compare across them; perplexity per token does not.

`auto` is the default of language models at `paper` scale, because the 125M models of the literature use GPT-2's
tokenizer. Its substitute is smaller because most of 50,257 entries would hardly occur in a training split as small as
WikiText-2's. The defaults at `smoke` and `small` scale are small `bpe:N`: an output layer of 50,257 rows would cost
more time and parameters than the rest of the tiny models whose attention is compared.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TypeAlias

from ...results.atomic import replacing
from ...results.record import DataIdentity, Scalar
from ..base import DataUnavailableError, Sources, TaskInfo
from ..heavy import np
from .batches import TokenIds
from .pretrained_tokenizer import PretrainedTokenizer
from .sources import REACH_TIMEOUT_S, find_copy, local_copies
from .subword_tokenizer import END_OF_TEXT, SubwordTokenizer

AUTO_SUBSTITUTE = "bpe:16384"
GPT2_REPO = "openai-community/gpt2"
GPT2_REVISION = "607a30d783dfa663caf39e06633721c8d4cfcd7e"
_BPE_RECIPE = "1"
_SMALLEST_BPE = 257


@dataclass(frozen=True)
class TokenizerIdentity:
    """Which tokenizer will be used.

    Attributes:
        name: `gpt2`, `bpe:N`, `byte` or the name of a pretrained backbone; never `auto`.
        fingerprint: Hash of the tokenizer's file, its revision on the hub, or hash of what it is trained from.
        path: Its file, which may not exist yet, or the folder of a backbone's checkpoint; None for `byte` and before a
            download.
        source: Where it comes from: `built in`, `trained here`, or the place of its checkpoint: `mirror`, `hub`,
            `package` or `folder`.
        note: Why it takes the place of the one that `auto` prefers; empty if it does not.
        of_backbone: Whether it belongs to a pretrained backbone.
    """

    name: str
    fingerprint: str
    path: Path | None = None
    source: str = "built in"
    note: str = ""
    of_backbone: bool = False

    @property
    def trained_here(self) -> bool:
        """Whether it is trained on the task's training text."""
        return self.name.startswith("bpe:") and not self.of_backbone

    @property
    def notes(self) -> tuple[str, ...]:
        """The note, if there is one, as a record holds it."""
        return (self.note,) if self.note else ()

    def details(self) -> dict[str, Scalar]:
        """What a record's data identity says about the tokenizer."""
        fallback: dict[str, Scalar] = {"tokenizer_fallback": self.note} if self.note else {}
        return {"tokenizer": self.name, "tokenizer_fingerprint": self.fingerprint, **fallback}

    def loaded(self, prefix: str) -> dict[str, Scalar]:
        """What a record says about the tokenizer once it is loaded: its source, and the token before a text."""
        return {"tokenizer_source": self.source, "prefix_token": prefix}


BYTES = TokenizerIdentity("byte", "utf-8")


@dataclass(frozen=True)
class TextIdentity:
    """Which text a task reads under given settings, and which tokenizer turns it into token ids.

    Attributes:
        data: Identity of the data; its details name the tokenizer.
        tokenizer: The tokenizer.
        task: Name of the task.
        key: What determines the training text.
    """

    data: DataIdentity
    tokenizer: TokenizerIdentity
    task: str
    key: str

    def token_folder(self, sources: Sources, *choices: object) -> Path:
        """Where token ids are kept for later cells; `choices` are the other settings that they depend on."""
        key = " ".join(map(str, (self.key, *choices, self.tokenizer.fingerprint)))
        return sources.cache / "tokens" / f"{self.task}-{hashlib.sha256(key.encode()).hexdigest()[:16]}"


@dataclass(frozen=True)
class ByteTokenizer:
    """UTF-8 bytes, and the end of text as id 256; attributes and methods as in `SubwordTokenizer`."""

    name: str = "byte"
    vocab_size: int = 257
    end_of_text: int = 256
    stop_token: int = 256
    prefix_text: str = END_OF_TEXT
    stop_text: str = END_OF_TEXT
    notes: tuple[str, ...] = ()

    def encode(self, texts: Sequence[str]) -> list[TokenIds]:
        """Bytes of each text."""
        return [np.frombuffer(text.encode(), np.uint8).astype(np.int32) for text in texts]

    def decode(self, tokens: Sequence[int]) -> str:
        """The text of bytes; invalid UTF-8 becomes U+FFFD."""
        return bytes(token for token in tokens if token < self.end_of_text).decode(errors="replace")


Tokenizer: TypeAlias = ByteTokenizer | SubwordTokenizer | PretrainedTokenizer


def identify_text(
    task: TaskInfo, data: DataIdentity, tokenizer: str, sources: Sources, /, **training: object
) -> TextIdentity:
    """Identifies the text of a task and its tokenizer.

    Args:
        task: The declaration; a new version trains tokenizers anew.
        data: Identity of the data.
        tokenizer: The setting; see `identify_tokenizer`.
        sources: Where to look for the tokenizer.
        **training: The settings that choose the training text; 0 reads none.

    Raises:
        DataUnavailableError: The tokenizer is not available.
        ValueError: There is no such tokenizer, or it needs training text and none is read.
    """
    key = " ".join(map(str, (task.name, task.version, data.fingerprint, *training.values())))
    chosen = identify_tokenizer(tokenizer, key, sources)
    for name, amount in training.items():
        if amount == 0 and chosen.trained_here:
            raise ValueError(
                f"tokenizer {chosen.name} needs training text, and {name} is 0; use gpt2, byte or backbone"
            )
    return TextIdentity(replace(data, details={**data.details, **chosen.details()}), chosen, task.name, key)


def identify_tokenizer(setting: str, corpus: str, sources: Sources) -> TokenizerIdentity:
    """The tokenizer that `load_tokenizer` would return, found by looking at files only.

    Args:
        setting: `auto`, `gpt2`, `bpe:N`, `byte` or `backbone`.
        corpus: What identifies the training text, for `bpe:N`.
        sources: Where to look.

    Raises:
        DataUnavailableError: `gpt2` was asked for and is not available.
        ValueError: The setting is none of these, or it is `backbone` and the backbone is not pretrained.
    """
    match setting:
        case "auto":
            return _identify_auto(corpus, sources)
        case "gpt2":
            return _identify_gpt2(sources)
        case "byte":
            return BYTES
        case "backbone":
            return _identify_backbone(sources)
    if size := re.fullmatch(r"bpe:(\d+)", setting):
        return _identify_bpe(int(size[1]), corpus, sources)
    raise ValueError(f"tokenizer is {setting!r}; choose auto, gpt2, byte, backbone or bpe:N, such as bpe:4096")


def load_tokenizer(identity: TokenizerIdentity, texts: Callable[[], Iterable[str]]) -> Tokenizer:
    """The tokenizer; a `bpe:N` that is not in the cache is trained on `texts()` and kept there.

    `gpt2` is downloaded if only the hub has it; errors of the download are those of huggingface_hub.

    Raises:
        CheckpointError: A backbone's tokenizer is missing, or transformers cannot read it.
        ValueError: A backbone's checkpoint has not been fetched, or its tokenizer has no token to put before a text.
    """
    if identity.of_backbone:
        if identity.path is None:
            raise ValueError(
                f"the checkpoint of backbone {identity.name} has not been fetched, so its tokenizer cannot be loaded"
            )
        return PretrainedTokenizer.load(identity.name, identity.path)
    if identity.name == "byte":
        return ByteTokenizer()
    file = identity.path or _download_gpt2()
    if not file.is_file():
        _train_bpe(int(identity.name.removeprefix("bpe:")), texts(), file)
    return SubwordTokenizer.load(identity.name, file)


def _identify_gpt2(sources: Sources) -> TokenizerIdentity:
    def look(_: str, folder: Path) -> Path | str:
        file = folder / "tokenizer.json"
        return file if file.is_file() else "there is no tokenizer.json"

    places = local_copies(GPT2_REPO, GPT2_REVISION, sources, kind="models")
    advice = " Or set tokenizer=bpe:N, such as bpe:4096, which is trained here and needs no download."
    place, file = find_copy(f"the tokenizer of {GPT2_REPO}", places, look, sources, advice=advice) or ("hub", None)
    if file and place == "mirror":
        return TokenizerIdentity("gpt2", hashlib.sha256(file.read_bytes()).hexdigest(), file, place)
    return TokenizerIdentity("gpt2", GPT2_REVISION, file, "hub")


def _identify_auto(corpus: str, sources: Sources) -> TokenizerIdentity:
    try:
        return _identify_gpt2(sources)
    except DataUnavailableError:
        note = (
            f"tokenizer gpt2 was not available, so {AUTO_SUBSTITUTE} was trained on the training split: perplexity per "
            "token does not compare with GPT-2's; word perplexity and bits per byte do"
        )
        return replace(identify_tokenizer(AUTO_SUBSTITUTE, corpus, sources), note=note)


def _identify_backbone(sources: Sources) -> TokenizerIdentity:
    if (tokenizer := sources.tokenizer) is None:
        raise ValueError(
            "tokenizer is 'backbone', which is the one of a pretrained backbone, and this backbone is trained from "
            "scratch; choose bpe:N, such as bpe:4096, or a pretrained backbone"
        )
    return TokenizerIdentity(
        tokenizer.name, tokenizer.fingerprint, tokenizer.folder, tokenizer.source, of_backbone=True
    )


def _identify_bpe(size: int, corpus: str, sources: Sources) -> TokenizerIdentity:
    if size < _SMALLEST_BPE:
        raise ValueError(f"tokenizer is 'bpe:{size}'; N is at least {_SMALLEST_BPE}: 256 bytes and the end of text")
    # Imported here because its import takes longer than that of this whole folder, and listings do not need it.
    from importlib.metadata import version

    made_from = [_BPE_RECIPE, size, corpus, version("tokenizers")]
    fingerprint = hashlib.sha256(json.dumps(made_from).encode()).hexdigest()
    file = sources.cache / "tokenizers" / f"bpe-{size}-{fingerprint[:16]}.json"
    return TokenizerIdentity(f"bpe:{size}", fingerprint, file, "trained here")


def _train_bpe(size: int, texts: Iterable[str], file: Path) -> None:
    from tokenizers import Tokenizer as Subwords
    from tokenizers import decoders, models, pre_tokenizers, trainers

    tokenizer = Subwords(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=size,
        special_tokens=[END_OF_TEXT],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    with replacing(file) as handle:
        handle.write(tokenizer.to_str().encode())


def _download_gpt2() -> Path:
    from huggingface_hub import hf_hub_download

    return Path(hf_hub_download(GPT2_REPO, "tokenizer.json", revision=GPT2_REVISION, etag_timeout=REACH_TIMEOUT_S))
