"""`lra/retrieval`: does one paper cite another? Two documents in bytes, up to 4,000 each at `paper` scale.

The model reads each document separately, with the same weights, and a classifier compares the two means x and y by
`[x, y, x * y, x - y]`. So no token sees the other document.

The data are the pairs of the ACL Anthology Network as the benchmark released them: `new_aan_pairs.train.tsv`,
`new_aan_pairs.eval.tsv` and `new_aan_pairs.test.tsv`, tab-separated without a header, with the columns label, id1, id2,
text1 and text2; quotes have no meaning. A mirror holds the files of the release in `datasets/OpenNLPLab/lra/data/aan/`,
as does that repository of the hub (10.6 GB). At `paper` scale the rows take 4 GB of memory.

Source: Radev et al., The ACL Anthology Network corpus, LREC 2013.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from ...adapters.base import ModelShape
from ...results.record import DataIdentity
from ..base import Sources
from ..data.batches import pad_rows
from ..data.sources import DatasetId, TabSeparated, identify_dataset, read_split
from ..data.tokenization import BYTES, ByteTokenizer
from ..heavy import np
from ..settings import check_ranges
from .protocol import SequenceClassification, SequenceSettings, lra_info
from .sequences import SequenceCache, Sequences

AAN = DatasetId(
    "OpenNLPLab/lra",
    "data/aan",
    "6cb133c44f406da743661488df9e977b87d98775",
    ("train", "eval", "test"),
    TabSeparated("new_aan_pairs.{split}.tsv", ("label", "id1", "id2", "text1", "text2")),
)
_READER_VERSION = "1"
_SHUFFLE_SEED = 0
_SPLITS: Mapping[str, str] = {"train": "train", "validation": "eval", "test": "test"}


@dataclass(frozen=True)
class RetrievalSettings(SequenceSettings):
    """Which pairs are read, and how many bytes of them.

    Attributes:
        max_length: Bytes kept of each document; 8 or more.
        train_rows: Training pairs, drawn with a fixed seed; None for all.
        validation_rows: Pairs that select the checkpoint, drawn with a fixed seed; None for all.
        test_rows: Test pairs, drawn with a fixed seed; None for all.

    Raises:
        ValueError: `max_length` is below 8.
    """

    max_length: int = 4_000
    train_rows: int | None = None
    validation_rows: int | None = None
    test_rows: int | None = None
    batch_size: int = 32

    def __post_init__(self) -> None:
        check_ranges(self, {"max_length": (8, None)})


@dataclass(frozen=True)
class DocumentPairs:
    """Pairs of documents, each in bytes.

    Attributes:
        dataset: A data set with the splits `train`, `eval` and `test` and the columns `text1`, `text2` and `label`.
    """

    dataset: DatasetId

    def identify(self, chosen: RetrievalSettings, sources: Sources) -> DataIdentity:  # noqa: ARG002
        """The data set."""
        return identify_dataset(self.dataset, sources)

    def split(self, name: str, chosen: RetrievalSettings, sources: Sources) -> Sequences:
        """The chosen pairs of a split."""
        rows = {"train": chosen.train_rows, "validation": chosen.validation_rows, "test": chosen.test_rows}[name]
        fingerprint = identify_dataset(self.dataset, sources).fingerprint
        key = f"{_READER_VERSION} {fingerprint} {name} {rows} {chosen.max_length}"
        cache = SequenceCache.keyed(
            "document-pairs", key, sources, lambda: {name: self._read(name, rows, chosen.max_length, sources)}
        )
        return cache.split(name)

    def _read(self, name: str, rows: int | None, max_length: int, sources: Sources) -> Sequences:
        whole = read_split(self.dataset, _SPLITS[name], sources)
        places = np.sort(np.random.default_rng(_SHUFFLE_SEED).permutation(len(whole))[:rows])
        chosen = whole.select(places)
        texts = [text for pair in zip(chosen["text1"][:], chosen["text2"][:], strict=True) for text in pair]
        tokenizer = ByteTokenizer()
        empty = np.array([tokenizer.end_of_text], np.int32)
        cut = [tokens[:max_length] if len(tokens) else empty for tokens in tokenizer.encode(texts)]
        tokens = pad_rows(cut)[0].astype(np.uint16)  # half of int32's memory, and of its file
        lengths = np.array([len(each) for each in cut], np.int32)
        labels = np.array(chosen["label"][:], np.float32).astype(np.int32)
        return Sequences(tokens.reshape(len(chosen), 2, -1), labels, lengths.reshape(-1, 2))


RETRIEVAL = SequenceClassification(
    lra_info(
        "retrieval",
        "does one paper cite another, both in bytes?",
        data=AAN.pinned,
        citation="Radev et al., ACL Anthology Network, LREC 2013",
        scales={
            "smoke": (
                RetrievalSettings(max_length=256, train_rows=500, validation_rows=100, test_rows=200),
                {"steps": 30, "batch_size": 16, "eval_every": 15},
            ),
            "small": (
                RetrievalSettings(max_length=1_000, train_rows=10_000, validation_rows=500, test_rows=2_000),
                {"steps": 1_500, "batch_size": 16, "eval_every": 250},
            ),
            "paper": (
                RetrievalSettings(),
                {"steps": 30_000, "batch_size": 32, "warmup": 0.027, "eval_every": 300, "eval_rows": 18_090},
            ),
        },
        train={"length_pool": 32},
    ),
    RetrievalSettings,
    lambda chosen: ModelShape(chosen.max_length, ByteTokenizer().vocab_size, num_classes=2, towers=2),
    DocumentPairs(AAN),
    {"tokenizer": BYTES.name, **BYTES.loaded("none")},
)
