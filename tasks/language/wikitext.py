"""WikiText-2 and WikiText-103: perplexity on Wikipedia articles in the token form of the papers.

The text is kept as it is, `<unk>` and ` @-@ ` included. An article begins at a level-1 heading and ends before the
next.
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterator, Sequence
from dataclasses import replace

from ..data.documents import Document, HubCorpus
from ..data.sources import DatasetId
from .perplexity import SCALES, Perplexity, corpus_info

REPO = "Salesforce/wikitext"
REVISION = "b08601e04326c79dfdd32d625aee71d232d685c3"
_LEVEL_1_HEADING = re.compile(r" = ([^=].*[^=]|[^=]) = \n")


def split_articles(lines: Sequence[str]) -> Iterator[Document]:
    r"""Splits WikiText's lines, each of which ends in a line feed or is empty, into articles.

    A level-1 heading is ` = Title = \n` between empty lines; ` = = Section = = \n` is not one. The empty lines matter:
    a few lines of tables and formulas look like headings. Lines before the first heading belong to the first article.
    """
    rows = list(lines)
    starts = [i for i in range(len(rows)) if _starts_article(rows, i)]
    bounds = [0, *starts[1:], len(rows)]
    for i, (start, end) in enumerate(itertools.pairwise(bounds)):
        title = _LEVEL_1_HEADING.fullmatch(rows[starts[i]]) if starts else None
        yield Document(name=title[1] if title else "", text="".join(rows[start:end]))


def _starts_article(rows: Sequence[str], i: int) -> bool:
    def is_empty(j: int) -> bool:
        return not 0 <= j < len(rows) or not rows[j].strip()

    return bool(_LEVEL_1_HEADING.fullmatch(rows[i])) and is_empty(i - 1) and is_empty(i + 1)


def _wikitext(name: str, config: str, summary: str) -> Perplexity:
    dataset = DatasetId(REPO, config, REVISION)
    info = corpus_info(
        name=name,
        summary=summary,
        data=(dataset.pinned,),
        licence="CC BY-SA 3.0",
        citation="Merity et al., Pointer Sentinel Mixture Models, arXiv 1609.07843",
        scales={**SCALES, "paper": replace(SCALES["paper"], train={"lr": 6e-4})},
    )
    return Perplexity(info, HubCorpus(dataset, to_documents=split_articles))


WIKITEXT2 = _wikitext("wikitext2", "wikitext-2-v1", "Perplexity on WikiText-2, 2 million training tokens of Wikipedia")
WIKITEXT103 = _wikitext(
    "wikitext103", "wikitext-103-v1", "Perplexity on WikiText-103, 103 million training tokens of Wikipedia"
)
