"""Rolling tasks of lm-eval, which score whole texts, with measures by token beside lm-eval's by word and byte."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from ...adapters.base import Adapter, Settings
from ...results.record import UNSCORED, Metric
from ..base import INPUT, Row, Task, TaskData
from ..heavy import np
from ..settings import parse_settings
from .task import LM_EVAL, LmEvalFamily, LmEvalSettings, LmEvalTask
from .text import text_model

ROLLING = "loglikelihood_rolling"
TOKENS = "tokens"
"""Key of a row for the number of tokens that are scored; the metric of that name has their sum."""


@dataclass(frozen=True)
class RollingTask(LmEvalTask):
    """A task of lm-eval whose model scores whole texts."""

    def predict(self, adapter: Adapter, data: TaskData, settings: Settings) -> list[Row]:
        """The log-likelihood of each document, its metric values and its number of tokens.

        Raises:
            UnsupportedError: The model or its tokenizer cannot answer any document.
        """
        chosen = parse_settings(LmEvalSettings, settings)
        model = text_model(
            adapter,
            data.test.folder,
            batch_size=chosen.batch_size,
            seed=chosen.seed,
            share_context=chosen.share_context,
        )
        rows = super().predict(adapter, data, settings)
        return [{**row, TOKENS: sum(len(model.encode(text)) for (text,) in row[INPUT])} for row in rows]

    def score(self, rows: Sequence[Row], settings: Settings) -> list[Metric]:
        """lm-eval's metrics of the documents; `perplexity` and `tokens` of those with a score and a token."""
        own = [{key: value for key, value in row.items() if key != TOKENS} for row in rows]
        metrics = super().score(own, settings)
        scored = [row for row in rows if UNSCORED not in row and row[TOKENS]]
        known = {metric.name for metric in metrics}
        by_token = _by_token(scored) if scored else []
        return metrics + [metric for metric in by_token if metric.name not in known]


def _by_token(rows: Sequence[Row]) -> list[Metric]:
    from ...results.stats.statistics import ratio_bootstrap

    nats = [-math.fsum(_numbers(row["responses"])) for row in rows]
    tokens = [row[TOKENS] for row in rows]
    with np.errstate(over="ignore"):
        perplexity = float(np.exp(math.fsum(nats) / sum(tokens)))
    return [
        Metric("perplexity", perplexity, "1", False, ratio_bootstrap(nats, tokens, "exp_ratio"), len(rows)),
        Metric(TOKENS, float(sum(tokens)), TOKENS, None, None, len(rows)),
    ]


def _numbers(responses: Any) -> Iterator[float]:
    """The log-likelihoods in the lists of a document's responses."""
    if isinstance(responses, list):
        for each in responses:
            yield from _numbers(each)
    else:
        yield float(responses)


@dataclass(frozen=True)
class FamilyWithRolling:
    """Every task of lm-eval, rolling ones with measures by token.

    Attributes:
        extends: lm-eval's tasks as they are.
    """

    extends: LmEvalFamily = LM_EVAL

    @property
    def prefix(self) -> str:
        """The prefix of every name."""
        return self.extends.prefix

    @property
    def summary(self) -> str:
        """One line for the listing."""
        return self.extends.summary

    @property
    def data(self) -> tuple[str, ...]:
        """The data that the tasks read, in words."""
        return self.extends.data

    def expand(self, name: str) -> Sequence[str]:
        """The tasks that a name stands for.

        Raises:
            UnknownNameError: There is no such name, or it is a glob.
        """
        return self.extends.expand(name)

    def get(self, name: str) -> Task:
        """The task of that name.

        Raises:
            UnknownNameError: There is no such task, or its file is not that of a task.
        """
        task = self.extends.get(name)
        if (
            isinstance(task, LmEvalTask)
            and not task.config.is_class
            and task.config.values.get("output_type") == ROLLING
        ):
            return RollingTask(task.info, task.config)
        return task


LM_EVAL_WITH_ROLLING = FamilyWithRolling()
