"""WikiText-2 and WikiText-103: perplexity on Wikipedia articles in the token form of the papers.

The text is kept verbatim (`<unk>`, ` @-@ ` and all), and an article is what lies between two level-1 headings.
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace

from ...adapters.base import Capability
from ...results.record import DataIdentity
from ..base import Sources, TaskInfo, TaskScale
from ..data.documents import Document
from ..data.sources import DatasetId, identify_dataset, read_split
from ..settings import as_settings
from .perplexity import RECIPES, Perplexity, PerplexitySettings

REPO = "Salesforce/wikitext"
REVISION = "b08601e04326c79dfdd32d625aee71d232d685c3"
_LEVEL_1_HEADING = re.compile(r" = ([^=].*[^=]|[^=]) = \n")


@dataclass(frozen=True)
class WikiText:
    """The articles of one configuration of WikiText."""

    config: str

    def identify(self, splits: Sequence[str], sources: Sources) -> DataIdentity:
        """The parquet files in the mirror, or the revision on the hub; `splits` counts lines, not articles."""
        return identify_dataset(self._dataset(splits), sources)

    def documents(self, split: str, sources: Sources) -> list[Document]:
        """The articles of one split."""
        lines = read_split(self._dataset([split]), split, sources)["text"]
        return list(split_articles(lines))

    def _dataset(self, splits: Sequence[str]) -> DatasetId:
        return DatasetId(REPO, self.config, REVISION, tuple(splits))


def split_articles(lines: Iterable[str]) -> Iterator[Document]:
    r"""Articles out of WikiText's lines, each of which ends in a line feed or is empty.

    A level-1 heading is ` = Title = \n` between empty lines; ` = = Section = = \n` is not one. The empty lines matter:
    a few lines of tables and formulas look like headings. Lines before the first heading belong to the first article.
    """
    rows = list(lines)
    starts = [i for i in range(len(rows)) if _starts_article(rows, i)]
    bounds = [0, *starts[1:], len(rows)] if starts else [0, len(rows)]
    for i, (start, end) in enumerate(itertools.pairwise(bounds)):
        title = _LEVEL_1_HEADING.fullmatch(rows[starts[i]]) if starts else None
        yield Document(name=title[1] if title else "", text="".join(rows[start:end]))


def _starts_article(rows: Sequence[str], i: int) -> bool:
    def is_empty(j: int) -> bool:
        return not 0 <= j < len(rows) or not rows[j].strip()

    return bool(_LEVEL_1_HEADING.fullmatch(rows[i])) and is_empty(i - 1) and is_empty(i + 1)


_PAPER = PerplexitySettings(context_length=1024, tokenizer="auto")

WIKITEXT2 = Perplexity(
    info=TaskInfo(
        name="wikitext2",
        version=1,
        summary="Perplexity on WikiText-2, 2 million training tokens of Wikipedia",
        main_metric="perplexity",
        data=(f"{REPO}/wikitext-2-v1@{REVISION}",),
        licence="CC BY-SA 3.0",
        citation="Merity et al., Pointer Sentinel Mixture Models, arXiv 1609.07843",
        needs=frozenset({Capability.LANGUAGE_MODEL}),
        recipes=RECIPES,
        scales={
            "smoke": TaskScale(
                settings=as_settings(
                    PerplexitySettings(
                        context_length=128, tokenizer="bpe:1024", train_bytes=1_000_000, test_bytes=100_000
                    )
                ),
                train={"steps": 60},
            ),
            "small": TaskScale(
                settings=as_settings(PerplexitySettings(context_length=128, tokenizer="bpe:2048")),
                train={"steps": 1_500, "batch_size": 8, "lr": 2e-3, "eval_every": 500, "eval_rows": 128},
                backbone={"layers": 2},
            ),
            "paper": TaskScale(settings=as_settings(_PAPER), train={"lr": 6e-4}),
        },
    ),
    corpus=WikiText("wikitext-2-v1"),
)

WIKITEXT103 = Perplexity(
    info=replace(
        WIKITEXT2.info,
        name="wikitext103",
        summary="Perplexity on WikiText-103, 103 million training tokens of Wikipedia",
        data=(f"{REPO}/wikitext-103-v1@{REVISION}",),
    ),
    corpus=WikiText("wikitext-103-v1"),
)
