"""SAMSum: summaries of messenger dialogues, 14,731 of them to train on (Gliwa et al., arXiv 1911.12237).

The paper converts Llama-2 7B here (table 11): two epochs of distillation, then LoRA of rank 8 and alpha 16 on the
projections of queries, keys, values and outputs, all of it in bfloat16. `--scale paper --backbone llama2-7b` has those
values; learning rates, batch, lengths, prompt and decoding the paper does not state. With `context_length=1024` only
the longest few dialogues are cut, and GPT-2's positions suffice.

The data is looked for in the mirror. For the hub a commit is to be set, `--set revision=COMMIT`: we have none that we
could vouch for.
"""

from __future__ import annotations

from dataclasses import replace

from .data import SummaryData
from .prompts import SOURCE
from .protocol import SMALL, SUMMARIZATION, Summarization, summarization_scales

REPO = "knkarthick/samsum"

SAMSUM = Summarization(
    info=replace(
        SUMMARIZATION.info,
        name="samsum",
        summary="ROUGE of summaries of messenger dialogues",
        data=(REPO,),
        licence="CC BY-NC-ND 4.0",
        citation="Gliwa et al., SAMSum, arXiv 1911.12237; Lin, ROUGE, ACL 2004; Hedgehog, arXiv 2402.04347, table 11",
        scales=summarization_scales(replace(SMALL, prompt=f"Summarize this dialogue:\n{SOURCE}\n\nSummary:\n")),
    ),
    data=SummaryData(REPO, source="dialogue", target="summary"),
)
