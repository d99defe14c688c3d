"""`text_recall`: how well a model predicts what the text itself has told it, by how long ago it was told.

A token is recalled if the pair of it and the token before it occurred earlier in the window, and the training text has
the pair so seldom that it cannot be known from there. Its distance is the number of tokens since then. The perplexity
of recalled tokens, and of those at each distance, shows what attention adds in real text: a window alone has nothing of
pairs further back than it reaches, and a state that is too small forgets them. Windows are those of
`perplexity_by_position`.

Source: the slices of perplexity of Arora et al., Zoology (arXiv 2312.04927), section 3. We differ: the limit is a share
of the training tokens, and distances are measured.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from ...adapters.base import Adapter, Settings
from ...results.record import DataIdentity, Metric
from ..base import INPUT, Row, Sources, TaskData
from ..heavy import NDArray, np
from ..own_data import settings_for
from ..settings import check_ranges, parse_settings
from . import wikitext
from .by_position import WindowedCorpus, Windows, WindowSettings, doubling_ends, perplexity, window_scales
from .perplexity import corpus_info


@dataclass(frozen=True)
class TextRecallSettings(WindowSettings):
    """How recalled tokens are found.

    Attributes:
        most_per_million: Most occurrences of a pair per million training tokens; pairs that occur more often, and more
            than once, do not count as recalled. Without training text every repeated pair counts.

    Raises:
        ValueError: `test_length` is below 2, or `most_per_million` is negative.
    """

    most_per_million: float = 10.0

    def __post_init__(self) -> None:
        super().__post_init__()
        check_ranges(self, {"most_per_million": (0, None)})


@dataclass(frozen=True)
class RecallWindows(Windows):
    """Windows, and how far back each of their tokens can be recalled from.

    Attributes:
        distances: Tokens since the pair of a token and the one before it last occurred, `[windows, test_length]`; 0 for
            a token that is not recalled.
    """

    distances: NDArray[np.int32]


@dataclass(frozen=True)
class TextRecall(WindowedCorpus):
    """The task; see the module's docstring."""

    def identify(self, settings: Settings, sources: Sources) -> DataIdentity:
        """As of `WindowedCorpus`."""
        return super().identify(_windows(settings), sources)

    def load(self, settings: Settings, sources: Sources, limit: int | None = None) -> TaskData:
        """Cuts the test documents into `RecallWindows`, the first `limit` of them.

        Raises:
            DataUnavailableError: The data are not available.
            ValueError: The test documents do not fill one window, or no token of them is recalled.
        """
        chosen = parse_settings(TextRecallSettings, settings)
        data = super().load(_windows(settings), sources, limit)
        frequent = np.empty(0, np.int64)
        if data.train is not None:
            stream = data.train.inputs.reshape(-1).astype(np.int64)
            pairs, counts = np.unique(_pairs(stream), return_counts=True)
            frequent = pairs[counts > max(1, chosen.most_per_million * len(stream) / 1e6)]
        distances = np.stack([recall_distances(row, frequent) for row in data.test.tokens])
        if not distances.any():
            raise ValueError("no token of the test windows is recalled; set a longer test_length or test_bytes")
        return replace(data, test=RecallWindows(data.test.tokens, data.test.end_of_text, distances))

    def predict(self, adapter: Adapter, data: TaskData, settings: Settings) -> list[Row]:
        """The negative log-likelihood of recalled tokens by distance, and of the others; one row per window."""
        nll_nats, distances = self.nll_nats(adapter, data.test, _windows(settings)), data.test.distances
        ends = doubling_ends(data.test.tokens.shape[1], first=8)
        rows = []
        for i, (scores, back) in enumerate(zip(nll_nats, distances, strict=True)):
            part = np.searchsorted(ends, back[back > 0])
            rows.append({
                "document": i,
                "tokens": int((back > 0).sum()),
                "nll_nats": float(scores[back > 0].sum()),
                "other_tokens": int((back == 0).sum()),
                "other_nll_nats": float(scores[back == 0].sum()),
                "ends": ends,
                "tokens_by_distance": np.bincount(part, minlength=len(ends)).tolist(),
                "nll_nats_by_distance": np.bincount(part, scores[back > 0], minlength=len(ends)).tolist(),
                INPUT: data.test.tokens[i].tolist(),
            })  # fmt: skip
        return rows

    def score(self, rows: Sequence[Row], settings: Settings) -> list[Metric]:  # noqa: ARG002
        """Perplexity of recalled tokens (`recall_perplexity`), of the others, and of recalled tokens by distance.

        `distance_perplexity` at n is that of tokens recalled from above the next smaller point, up to n. Standard
        errors are from resampling windows.
        """
        recalled = [(row["nll_nats"], row["tokens"]) for row in rows]
        others = [(row["other_nll_nats"], row["other_tokens"]) for row in rows]
        count = sum(row["tokens"] for row in rows)
        metrics = [
            perplexity("recall_perplexity", recalled),
            replace(perplexity("other_perplexity", others), higher_is_better=None),
            Metric("recalled_share", count / (count + sum(n for _, n in others)), "1", None, None, len(rows)),
        ]
        for place, end in enumerate(rows[0]["ends"]):
            part = [(row["nll_nats_by_distance"][place], row["tokens_by_distance"][place]) for row in rows]
            if any(tokens for _, tokens in part):
                metrics.append(perplexity("distance_perplexity", part, {"distance": end}))
        return metrics


def recall_distances(tokens: NDArray[np.int32], frequent: NDArray[np.int64]) -> NDArray[np.int32]:
    """How far back the pair of each of `tokens` `[n]` and the one before it last was; 0 for none or a frequent one.

    Args:
        tokens: A window.
        frequent: Pairs that do not count, as `_pairs` numbers them, sorted.
    """
    distances = np.zeros(len(tokens), np.int32)
    pairs = _pairs(tokens.astype(np.int64))
    order = np.argsort(pairs, kind="stable")
    same = np.flatnonzero(pairs[order][1:] == pairs[order][:-1])
    distances[order[same + 1] + 1] = order[same + 1] - order[same]
    if len(frequent):
        distances[1:][np.isin(pairs, frequent)] = 0
    return distances


def _pairs(tokens: NDArray[np.int64]) -> NDArray[np.int64]:
    """One number for each pair of neighbouring tokens."""
    return (tokens[:-1] << 32) | tokens[1:]


def _windows(settings: Settings) -> Settings:
    chosen = parse_settings(TextRecallSettings, settings)
    return {**settings_for(WindowSettings, chosen)}


TEXT_RECALL = TextRecall(
    corpus_info(
        name="text_recall",
        summary="Perplexity on WikiText-2 of what the text has said before, by the distance to where it was said",
        main_metric="recall_perplexity",
        data=wikitext.WIKITEXT2.info.data,
        licence=wikitext.WIKITEXT2.info.licence,
        citation="Arora et al., Zoology: Measuring and Improving Recall in Efficient Language Models, arXiv 2312.04927",
        scales=window_scales(most_per_million=10.0),
    ),
    wikitext.WIKITEXT2,
)
