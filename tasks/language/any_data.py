"""`perplexity`: any documents, in local files or in a data set in the layout of the hub, named by settings.

    bench run --tasks perplexity:file=notes.jsonl --backbone smollm2-135m ...
    bench run --tasks perplexity:dataset=ORG/NAME:column=text --mirror DIR ...

`OwnTextSettings` lists the settings. A row is a document, and so is a text file; with `document_start`, documents begin
at some rows, or at some lines of text files. The protocol is that of all corpora (`perplexity.py`), with its measures
by token, word and byte. Models can be trained on data with a training split; on data without one, pretrained models are
measured as they are.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

from ...adapters.base import Adapter, Settings
from ...results.record import DataIdentity, Metric
from ..base import FROM_SCRATCH, Row, Sources, Task, TaskData, TaskInfo
from ..data.documents import Document
from ..data.own_rows import OwnData
from ..own_data import check_pretrained, settings_for, with_recipes
from ..settings import as_settings, parse_settings
from .perplexity import RECIPES, SCALES, Perplexity, PerplexitySettings, corpus_info


@dataclass(frozen=True, kw_only=True)
class OwnTextSettings(PerplexitySettings):
    """Settings of a corpus that they name.

    Attributes:
        file: A file or folder of text, JSON lines, CSV or parquet; see `local_files.py`.
        dataset: A repository in the layout of the hub, `ORG/NAME`; one of `file` and `dataset` is set.
        config: Folder of the repository that holds the parquet files; empty if there is only one.
        revision: Commit on the hub, in full; empty if only the mirror may be read.
        column: Column of the texts.
        document_start: A regular expression for the rows, or for the lines of text files, that begin a document. Each
            document reaches to the next of them. Empty: each row, and each text file, is a document.
        train_split: Split that is trained on; None for none.
        validation_split: Split that training is validated on; None for none.
        test_split: Split that models are tested on.

    Raises:
        ValueError: The regular expression is none.
    """

    file: str = ""
    dataset: str = ""
    config: str = ""
    revision: str = ""
    column: str = "text"
    document_start: str = ""
    train_split: str | None = "train"
    validation_split: str | None = "validation"
    test_split: str = "test"

    def __post_init__(self) -> None:
        super().__post_init__()
        try:
            re.compile(self.document_start)
        except re.error as error:
            raise ValueError(
                f"document_start is {self.document_start!r}; it takes a regular expression ({error})"
            ) from None

    @property
    def corpus(self) -> OwnCorpus:
        """The documents; raises the errors of `OwnData`."""
        train = self.train_split if self.train_bytes != 0 else None
        named = OwnData(
            self.file, self.dataset, self.config, self.revision, train, self.validation_split, self.test_split
        )
        return OwnCorpus(named, self.column, self.document_start)


@dataclass(frozen=True)
class OwnCorpus:
    """The documents of data that the user names.

    Attributes:
        named: The name of the data.
        column: Column of the texts.
        document_start: As in `OwnTextSettings`.
    """

    named: OwnData
    column: str = "text"
    document_start: str = ""

    def identify(self, splits: Sequence[str], sources: Sources) -> DataIdentity:
        """The rows of those splits that the data have.

        Raises:
            DataUnavailableError: The data are not available.
            ValueError: The data do not exist, the column does not exist or holds no text, or no test row has a word.
        """
        rows = self.named.find(sources).only(*splits)
        for role in rows.files:
            rows.check_text(role, "column", self.column)
        if not any(document.text.split() for document in self.documents("test", sources)):
            raise ValueError(f"column {self.column!r} of {rows.where('test')} has no word")
        return rows.identity(sources, column=self.column, document_start=self.document_start)

    def documents(self, split: str, sources: Sources) -> list[Document]:
        """The documents of one split; none if the data have no such split.

        Raises:
            DataUnavailableError: The data are not available.
            ValueError: They cannot be read.
        """
        rows = self.named.find(sources)
        if split not in rows.files:
            return []
        texts = [text or "" for text in rows.read(split, self.column)[self.column].to_pylist()]
        if not self.document_start:
            return [Document(str(place), text) for place, text in enumerate(texts)]
        # A row that is a whole file is cut at its lines; other rows are whole, as WikiText's, each of which is a line.
        pieces = [line for text in texts for line in text.splitlines(keepends=True)] if rows.are_texts else texts
        return list(_joined(pieces, re.compile(self.document_start)))


@dataclass(frozen=True)
class OwnPerplexity:
    """The task; see the module's docstring.

    Attributes:
        info: The declaration.
    """

    info: TaskInfo

    def decided(self, settings: Settings, data: DataIdentity | None) -> Task:
        """The task; nothing is trained on data without a training split."""
        return replace(self, info=with_recipes(self.info, data, lambda: self._protocol(settings)[1].named))

    def identify(self, settings: Settings, sources: Sources) -> DataIdentity:
        """Which documents and which tokenizer `load` would use.

        Raises:
            DataUnavailableError: The data or the tokenizer are not available.
            ValueError: A setting is wrong, or names what does not exist.
        """
        protocol, _, chosen = self._protocol(settings, sources)
        return protocol.identify(chosen, sources)

    def load(self, settings: Settings, sources: Sources, limit: int | None = None) -> TaskData:
        """Tokenizes the documents, as `Perplexity` does; a note tells if `test_bytes` leaves some out.

        Raises:
            DataUnavailableError: The data are not available.
            ValueError: A split has too little text for one row of `context_length` tokens.
        """
        protocol, corpus, chosen = self._protocol(settings, sources)
        data = protocol.load(chosen, sources, limit)
        of = sum(bool(document.text.split()) for document in corpus.documents("test", sources))
        read = len(protocol.reader(chosen, sources).documents("test"))
        note = f"test_bytes={chosen['test_bytes']} takes the first {read} of {of} documents; none takes all"
        return replace(data, notes=(*data.notes, note)) if read < of else data

    def predict(self, adapter: Adapter, data: TaskData, settings: Settings) -> list[Row]:
        """The negative log-likelihood of each document; one row per document."""
        protocol, _, chosen = self._protocol(settings)
        return protocol.predict(adapter, data, chosen)

    def score(self, rows: Sequence[Row], settings: Settings) -> list[Metric]:
        """Perplexities and bits per byte, as `Perplexity` computes them."""
        protocol, _, chosen = self._protocol(settings)
        return protocol.score(rows, chosen)

    def _protocol(
        self, settings: Settings, sources: Sources | None = None
    ) -> tuple[Perplexity, OwnCorpus, dict[str, Any]]:
        """The protocol on the documents, the documents, and the protocol's settings; `sources` is where they are.

        Raises:
            ValueError: A setting is wrong, or a model from scratch has nothing to learn from.
        """
        chosen = parse_settings(OwnTextSettings, settings)
        corpus, shared = chosen.corpus, settings_for(PerplexitySettings, chosen)
        if sources is not None and "train" not in (rows := corpus.named.find(sources)).files:
            check_pretrained(rows.id, sources)
            shared["train_bytes"] = 0
        return Perplexity(self.info, corpus), corpus, shared


def _joined(pieces: Sequence[str], start: re.Pattern[str]) -> Iterator[Document]:
    """Documents, each of which begins where a piece matches; what comes before the first match is one too."""
    text, place = "", 0
    for i, piece in enumerate(pieces):
        if text and start.search(piece):
            yield Document(str(place), text)
            text, place = "", i
        text += piece
    yield Document(str(place), text)


PERPLEXITY = OwnPerplexity(
    corpus_info(
        name="perplexity",
        summary="Perplexity on documents of yours: set file=PATH or dataset=ORG/NAME, and column=COLUMN",
        data=("named by the setting file or dataset",),
        licence="that of the data",
        citation="the protocol of wikitext2",
        backbone="smollm2-135m",
        recipes=tuple(dict.fromkeys((*FROM_SCRATCH, "zero-shot", *RECIPES))),
        scales={
            scale: replace(given, settings={**as_settings(OwnTextSettings()), **given.settings})
            for scale, given in SCALES.items()
        },
    )
)
