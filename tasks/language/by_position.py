"""`perplexity_by_position`: perplexity as a function of the tokens of context, up to the trained length and beyond it.

The test documents form one stream with end-of-text tokens between them, cut into windows of `test_length` tokens that
do not overlap; what does not fill a window is dropped. A token's position is its number in its window, which is also
the number of tokens that it is conditioned on: the first follows an end-of-text token. A model is trained, if at all,
in rows of `context_length` tokens, so that positions above it were never trained. The perplexity at doubling positions
is the curve: it falls as long as more context helps, and rises where the model cannot read so much.

The perplexity within the trained length is not that of `wikitext2`, whose windows are shorter than these.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from ...adapters.base import Adapter, Settings
from ...results.record import DataIdentity, Metric, Scalar
from ..base import INPUT, Row, Sources, TaskData, TaskInfo, TaskScale
from ..heavy import NDArray, np
from ..own_data import settings_for
from ..settings import as_settings, check_ranges, parse_settings
from . import wikitext
from .perplexity import SCALES, Perplexity, PerplexitySettings, corpus_info


@dataclass(frozen=True)
class WindowSettings:
    """How a corpus is read in long windows.

    Attributes:
        test_length: Tokens of a test window.
        context_length: Tokens of a training row.
        tokenizer: `backbone`, `auto`, `gpt2`, `bpe:N` or `byte`; see `tokenization.py`.
        train_bytes: Most bytes of the training documents; 0 reads the test split alone, for models as they are.
        test_bytes: Most bytes of the test documents.
        batch_size: Windows per forward pass.

    Raises:
        ValueError: `test_length` is below 2.
    """

    test_length: int = 4096
    context_length: int = 1024
    tokenizer: str = "auto"
    train_bytes: int | None = None
    test_bytes: int | None = None
    batch_size: int = 1

    def __post_init__(self) -> None:
        check_ranges(self, {"test_length": (2, None)})


@dataclass(frozen=True)
class Windows:
    """Windows of a test stream.

    Attributes:
        tokens: Token ids `[windows, test_length]`.
        end_of_text: The token before the first of a window.
    """

    tokens: NDArray[np.int32]
    end_of_text: int

    def __len__(self) -> int:
        return len(self.tokens)


@dataclass(frozen=True)
class WindowedCorpus:
    """The steps that tasks over long windows of a corpus share.

    Attributes:
        info: The declaration.
        corpus: The task whose documents are read.
    """

    info: TaskInfo
    corpus: Perplexity

    def identify(self, settings: Settings, sources: Sources) -> DataIdentity:
        """Which documents and which tokenizer `load` would use.

        Raises:
            DataUnavailableError: The documents or the tokenizer are not available.
            ValueError: A setting is wrong.
        """
        return self._protocol.identify(_shared(settings), sources)

    def load(self, settings: Settings, sources: Sources, limit: int | None = None) -> TaskData:
        """Cuts the test documents into `Windows`, the first `limit` of them.

        Raises:
            DataUnavailableError: The data are not available.
            ValueError: The test documents do not fill one window.
        """
        chosen = parse_settings(WindowSettings, settings)
        data = self._protocol.load(_shared(settings), sources)
        separator = np.array([data.test.end_of_text], np.int32)
        parts = [part for document in data.test.documents for part in (document.tokens, separator)][:-1]
        stream = np.concatenate(parts)
        count = len(stream) // chosen.test_length
        if not count:
            raise ValueError(
                f"the test documents have {len(stream)} tokens, and test_length is {chosen.test_length}; allowed: at "
                f"most {len(stream)}"
            )
        tokens = stream[: count * chosen.test_length].reshape(count, -1)[:limit]
        shape = replace(data.shape, context_length=max(chosen.test_length, chosen.context_length))
        return replace(data, shape=shape, test=Windows(tokens, data.test.end_of_text), describes_state=False)

    def nll_nats(self, adapter: Adapter, windows: Windows, settings: Settings) -> NDArray[np.float64]:
        """Negative log-likelihood of each token `[windows, test_length]`; no window sees another."""
        batch_size = parse_settings(WindowSettings, settings).batch_size
        scores = [
            adapter.rolling_loglikelihood(row.tolist(), prefix_token=windows.end_of_text, batch_size=batch_size)
            for row in windows.tokens
        ]
        return -np.stack(scores)

    @property
    def _protocol(self) -> Perplexity:
        return replace(self.corpus, info=self.info)


@dataclass(frozen=True)
class PerplexityByPosition(WindowedCorpus):
    """The task; see the module's docstring."""

    def predict(self, adapter: Adapter, data: TaskData, settings: Settings) -> list[Row]:
        """The negative log-likelihood of each part of each window; one row per window."""
        chosen, nll_nats = parse_settings(WindowSettings, settings), self.nll_nats(adapter, data.test, settings)
        inside = min(chosen.context_length, chosen.test_length)
        ends = doubling_ends(chosen.test_length)
        parts = np.add.reduceat(nll_nats, [0, *ends[:-1]], axis=1)
        return [
            {
                "document": i,
                "tokens": inside,
                "nll_nats": float(row[:inside].sum()),
                "tokens_beyond": len(row) - inside,
                "nll_nats_beyond": float(row[inside:].sum()),
                "ends": ends,
                "nll_nats_by_part": part.tolist(),
                INPUT: tokens.tolist(),
            }
            for i, (row, part, tokens) in enumerate(zip(nll_nats, parts, data.test.tokens, strict=True))
        ]

    def score(self, rows: Sequence[Row], settings: Settings) -> list[Metric]:  # noqa: ARG002
        """Perplexity within the trained length (`perplexity`), beyond it, and by position.

        `position_perplexity` at `seq_len` n is that of the tokens at positions above the next smaller point, up to n.
        Standard errors are from resampling windows.
        """
        metrics = [perplexity("perplexity", [(row["nll_nats"], row["tokens"]) for row in rows])]
        if rows[0]["tokens_beyond"]:
            beyond = [(row["nll_nats_beyond"], row["tokens_beyond"]) for row in rows]
            metrics.append(perplexity("perplexity_beyond", beyond))
        ends = rows[0]["ends"]
        for place, (start, end) in enumerate(zip([0, *ends[:-1]], ends, strict=True)):
            part = [(row["nll_nats_by_part"][place], end - start) for row in rows]
            metrics.append(perplexity("position_perplexity", part, {"seq_len": end}))
        return metrics


def doubling_ends(length: int, first: int = 16) -> list[int]:
    """`first`, twice that and so on below `length`, and `length`."""
    ends = []
    while first < length:
        ends.append(first)
        first *= 2
    return [*ends, length]


def perplexity(name: str, sums: Sequence[tuple[float, int]], at: dict[str, Scalar] | None = None) -> Metric:
    """A perplexity from the negative log-likelihood in nats and the number of tokens of each window that has any."""
    from ...results.stats.statistics import ratio_bootstrap

    nats, tokens = zip(*((nats, tokens) for nats, tokens in sums if tokens), strict=True)
    with np.errstate(over="ignore"):
        value = float(np.exp(sum(nats) / sum(tokens)))
        return Metric(name, value, "1", False, ratio_bootstrap(nats, tokens, "exp_ratio"), len(tokens), at or {})


def _shared(settings: Settings) -> Settings:
    """The settings of the corpus."""
    shared = settings_for(WindowSettings, parse_settings(WindowSettings, settings))
    names = ("context_length", "tokenizer", "train_bytes", "test_bytes")
    return as_settings(PerplexitySettings(**{name: shared[name] for name in names}))


def window_scales(**changes: Any) -> dict[str, TaskScale]:
    """Defaults of tasks over long windows: those of a corpus, test windows of four training rows, rotary positions."""
    scales = {}
    for name, each in SCALES.items():
        corpus = PerplexitySettings(**each.settings)  # type: ignore[arg-type]
        chosen = WindowSettings(
            4 * corpus.context_length, corpus.context_length, corpus.tokenizer, corpus.train_bytes, corpus.test_bytes
        )
        backbone = {**each.backbone, "rope": True}
        scales[name] = replace(each, settings={**as_settings(chosen), **changes}, backbone=backbone)
    return scales


BY_POSITION = PerplexityByPosition(
    corpus_info(
        name="perplexity_by_position",
        summary="Perplexity on WikiText-2 by the tokens of context, within and beyond the trained length",
        data=wikitext.WIKITEXT2.info.data,
        licence=wikitext.WIKITEXT2.info.licence,
        citation="Merity et al., Pointer Sentinel Mixture Models, arXiv 1609.07843; Press et al., arXiv 2108.12409",
        scales=window_scales(),
    ),
    wikitext.WIKITEXT2,
)
