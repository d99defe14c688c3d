"""Associative recall, the synthetic task of the Hedgehog paper: give the value that followed a key earlier.

Keys are the lower half of the vocabulary and values the upper half. Each sequence has its own map from keys to values
(each value uniform and independent), and consists of pairs `k1 v1 k2 v2 ...` whose keys are uniform with replacement.
The last key is one of those that occurred before, and the model must give its value. `length` counts every token, the
last value included; a model reads the `length - 1` tokens before it, so that no model sees the answer.

Source: Hedgehog (arXiv 2402.04347), with 10,000 training and 2,000 freshly generated test samples. We recall vocabulary
40 and length 128 from the paper. Its training set-up is unknown to us, so that of the scale `paper` is our choice.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from ...adapters.base import IGNORED, Adapter, AttentionMaps, Capability, Examples, ModelShape, UnsupportedError
from ...results.record import Metric
from ..base import INPUT, Row
from ..fidelity.measures import MIN_KEYS, compare_maps
from ..heavy import NDArray, np, torch
from ..settings import check_ranges
from .answers import predicted_tokens
from .generated import Columns, GeneratedRows, GeneratedSettings, GeneratedTask, gpt, scale

NO_WEIGHT = 1e-6
"""Weights below it count as zero."""


@dataclass(frozen=True)
class RecallSettings(GeneratedSettings):
    """How the sequences are made.

    Attributes:
        vocab_size: Keys and values together; even.
        length: Tokens of a sequence, the answer included; even.
        train_samples: Training sequences.
        loss: `recall` trains on every value whose key occurred before, `final` on the last value only.
        attention_rows: Test sequences whose attention weights are measured; 0 for none.
        more_metrics: Further metrics, from the package `evaluate`, over tokens; see `metrics/requested.py`.

    Raises:
        ValueError: A size is odd or too small, or the loss is unknown.
    """

    vocab_size: int = 40
    length: int = 128
    train_samples: int = 10_000
    test_samples: int = 2_000
    loss: str = "recall"
    batch_size: int = 256
    attention_rows: int = 64
    more_metrics: str = ""

    def __post_init__(self) -> None:
        for name in ("vocab_size", "length"):
            value = getattr(self, name)
            if value < 4 or value % 2:
                near = max(4, value + value % 2)
                raise ValueError(f"{name} is {value}; it takes an even number from 4, such as {near}")
        check_ranges(self, {"attention_rows": (0, None)})
        if self.loss not in ("recall", "final"):
            raise ValueError(f"loss is {self.loss!r}; choose 'recall' (every repeated key) or 'final' (the last query)")


@dataclass(frozen=True)
class RecallSequences(GeneratedRows):
    """Sequences of one split.

    Attributes:
        tokens: Whole sequences `[rows, length]` int32, the answer last.
        repeated: Whether each pair's key occurred earlier in its row, `[rows, length / 2]`.
    """

    tokens: NDArray[np.int32]
    repeated: NDArray[np.bool_]


def generate_splits(settings: RecallSettings) -> dict[str, RecallSequences]:
    """Train, validation and test sequences, each from its own child of the seed; no size changes another split."""
    sizes = {name: getattr(settings, f"{name}_samples") for name in ("train", "validation", "test")}
    seeds = np.random.SeedSequence(settings.data_seed).spawn(len(sizes))
    return {
        name: generate(np.random.default_rng(seed), rows, settings.length, settings.vocab_size)
        for (name, rows), seed in zip(sizes.items(), seeds, strict=True)
    }


def generate(rng: np.random.Generator, rows: int, length: int, vocab_size: int) -> RecallSequences:
    """Sequences of `length / 2` key-value pairs whose last key occurred before.

    The last key is uniform over the distinct keys of its sequence, so that frequent keys are not favoured.
    """
    pairs, half = length // 2, vocab_size // 2
    value_of_key = rng.integers(half, vocab_size, size=(rows, half), dtype=np.int32)
    keys = rng.integers(0, half, size=(rows, pairs), dtype=np.int32)
    row = np.arange(rows)[:, None]
    first_pair = _first_pair(keys[:, :-1], half)
    keys[:, -1] = np.where(first_pair < pairs - 1, rng.random((rows, half)), -1.0).argmax(axis=1)
    tokens = np.empty((rows, length), np.int32)
    tokens[:, 0::2] = keys
    tokens[:, 1::2] = value_of_key[row, keys]
    return RecallSequences(tokens, repeated=_first_pair(keys, half)[row, keys] < np.arange(pairs))


def _first_pair(keys: NDArray[np.int32], num_keys: int) -> NDArray[np.int64]:
    """Index of the first pair with each key, `[rows, num_keys]`; the number of pairs if a key does not occur."""
    rows, pairs = keys.shape
    row, first = np.arange(rows), np.full((rows, num_keys), pairs)
    for pair in reversed(range(pairs)):
        first[row, keys[:, pair]] = pair
    return first


def to_examples(sequences: RecallSequences, loss: str) -> Examples:
    """Inputs `[rows, length - 1]`; targets are the values that can be recalled, and `IGNORED` elsewhere.

    Args:
        sequences: Sequences of one split.
        loss: `recall` keeps every value whose key occurred before, `final` the last value only.
    """
    targets = np.full_like(sequences.tokens[:, 1:], IGNORED)
    keep = sequences.repeated.copy()
    if loss == "final":
        keep[:, :-1] = False
    targets[:, 0::2] = np.where(keep, sequences.tokens[:, 1::2], IGNORED)
    return Examples(inputs=sequences.tokens[:, :-1], targets=targets)


def most_frequent_value(tokens: NDArray[np.int32], vocab_size: int) -> NDArray[np.int64]:
    """The value that occurs most often before the answer, for each of `tokens` `[rows, length]`; ties to the lowest."""
    counts = np.zeros((len(tokens), vocab_size), np.int32)
    np.add.at(counts, (np.arange(len(tokens))[:, None], tokens[:, 1:-1:2]), 1)
    return np.asarray(counts.argmax(axis=1))


def answer(adapter: Adapter, sequences: RecallSequences, settings: RecallSettings) -> Columns:
    """The likeliest token after each final query, over the whole vocabulary, and the most frequent value."""
    tokens = sequences.tokens
    prediction = predicted_tokens(adapter, tokens[:, :-1], settings.batch_size)[:, -1]
    return {
        "answer": tokens[:, -1],
        "prediction": prediction,
        "correct": prediction == tokens[:, -1],
        "pooled": most_frequent_value(tokens, settings.vocab_size),
        INPUT: tokens[:, :-1],
        **attention(adapter, tokens[:, :-1], settings.attention_rows),
    }


def attention(adapter: Adapter, inputs: NDArray[np.int32], rows: int) -> Columns:
    """How spiky the attention is over the first rows, layer by layer; None for the others.

    `entropy` is the mean over heads and queries that see 8 keys or more, in nats; `zeros` is the share of the keys that
    these queries see whose weight is below 1e-6. No column if the model has no attention weights, or one of them is
    negative.
    """
    if not rows or Capability.ATTENTION_WEIGHTS not in adapter.capabilities or inputs.shape[1] < MIN_KEYS:
        return {}
    found: list[list[tuple[float, float]]] = []

    def visit(layer: int, maps: AttentionMaps) -> None:
        del layer
        weights = maps.weights[..., MIN_KEYS - 1 :, :]
        is_seen = maps.products[..., MIN_KEYS - 1 :, :] > -math.inf
        zeros = float((weights[is_seen] < NO_WEIGHT).double().mean())
        found[-1].append((float(compare_maps(maps)["entropy"].mean()), zeros))

    try:
        for row in torch.tensor(inputs[:rows], dtype=torch.long, device=adapter.device):
            found.append([])
            adapter.compare_attention(row[None], visit)
    except UnsupportedError:
        return {}
    absent = [None] * (len(inputs) - len(found))
    by_layer = [tuple(zip(*layers, strict=True)) for layers in found]
    return {name: [*(each[i] for each in by_layer), *absent] for i, name in enumerate(("entropy", "zeros"))}


def measure(rows: Sequence[Row], settings: RecallSettings) -> list[Metric]:
    """Accuracy, and two references for it.

    `chance` is that of a random value. `pooled_accuracy` is that of the value seen most often in the sequence: a model
    that adds up values and cannot tell keys apart reaches it. `attention_entropy` and `attention_zeros` are means over
    layers, and those with `_last_layer` the numbers of the last layer.
    """
    from ...results.stats.statistics import accuracy_stderr, mean_stderr

    n = len(rows)
    correct = sum(row["correct"] for row in rows)
    pooled = sum(row["pooled"] == row["answer"] for row in rows)
    return [
        Metric("accuracy", correct / n, "1", True, accuracy_stderr(correct, n), n),
        Metric("pooled_accuracy", pooled / n, "1", None, accuracy_stderr(pooled, n), n),
        Metric("chance", 2 / settings.vocab_size, "1", None, None, n),
        *(
            Metric(f"attention_{name}", float(np.mean(values)), unit, None, mean_stderr(values), len(values))
            for name, unit, values in _spikiness(rows)
            if values
        ),
    ]


def _spikiness(rows: Sequence[Row]) -> Iterator[tuple[str, str, list[float]]]:
    """Name, unit and values by sequence of each metric of the attention."""
    for column, unit in (("entropy", "nats"), ("zeros", "1")):
        layers = [row[column] for row in rows if row.get(column)]
        yield column, unit, [float(np.mean(values)) for values in layers]
        yield f"{column}_last_layer", unit, [values[-1] for values in layers]


def token_hash(splits: Mapping[str, RecallSequences]) -> str:
    """A hash of all tokens; `repeated` follows from them."""
    return hashlib.sha256(b"".join(split.tokens.astype("<i4").tobytes() for split in splits.values())).hexdigest()


_TWO_LAYERS = gpt(layers=2, heads=2, width=64)
_SMOKE = RecallSettings(vocab_size=8, length=16, train_samples=2_000, validation_samples=200, test_samples=500)

ASSOCIATIVE_RECALL = GeneratedTask(
    name="associative_recall",
    summary="give the value that went with a key earlier in the sequence (accuracy)",
    citation="Zhang et al., The Hedgehog & the Porcupine, arXiv 2402.04347, tables 2 and 3",
    train={"batch_size": 64, "lr": 1e-3, "final_lr": 0.5, "eval_every": 100, "target_loss": 0.01},
    scales={
        "smoke": scale(_SMOKE, {"steps": 200}, _TWO_LAYERS),
        "small": scale(RecallSettings(vocab_size=16, length=32), {"steps": 3_000}, gpt(layers=2, heads=2, width=64)),
        "paper": scale(RecallSettings(), {"steps": 20_000}),
    },
    settings=RecallSettings,
    shape=lambda chosen: ModelShape(chosen.length, chosen.vocab_size),
    generate_splits=generate_splits,
    to_examples=lambda split, chosen: to_examples(split, chosen.loss),
    answer=answer,
    measure=measure,
    details=("loss",),
    fingerprint=token_hash,
    compared=("answer", "prediction"),
)
