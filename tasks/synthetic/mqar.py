"""MQAR, multi-query associative recall: give the values that followed many keys earlier in the sequence.

A sequence begins with pairs `k1 v1 k2 v2 ...` of distinct keys (lower half of the vocabulary, without token 0) and
distinct values (upper half). Then each key occurs once more as a query. The model must give its value at the position
of the query, and the value does not follow. Queries stand at even places after the pairs. Their distances from the
pairs follow a power law, `p(gap) ~ gap ** (power_a - 1)`, without replacement. All other places hold random tokens.

Source: Zoology (arXiv 2312.04927) and its published generator with `num_passes=1` and `power_a=0.01`. The vocabulary is
8,192, and figure 2 of the paper has one model for each of (64, 4), (128, 8), (256, 16) and (512, 64) tokens and pairs,
trained on 100,000 sequences. We differ: as the authors did later for Based (arXiv 2402.18668), we train one model on
all four, with 100,000 sequences of the shortest and 20,000 of each other, and test it on these and on settings between
them. Their models have no MLP, and they choose the best of four learning rates. A model with learned positions recalls
only from places that held pairs in training, so no test setting has more pairs than training had.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial

from ...adapters.base import IGNORED, Adapter, Examples, ModelShape
from ...results.record import Metric
from ..base import INPUT, Row
from ..heavy import NDArray, np
from .answers import mean_over_settings, predicted_by_length, right_tokens, shares_by
from .generated import Columns, GeneratedRows, GeneratedSettings, GeneratedTask, draw_splits, gpt, scale


@dataclass(frozen=True)
class MqarSettings(GeneratedSettings):
    """How the sequences are made. Each length belongs to the number of pairs at the same place.

    Attributes:
        vocab_size: Keys and values together.
        train_lengths: Tokens of the training sequences, by setting.
        train_pairs: Key-value pairs of the training sequences, by setting.
        train_samples: Training sequences of each setting.
        test_lengths: Tokens of the test sequences, by setting.
        test_pairs: Key-value pairs of the test sequences, by setting.
        test_samples: Test sequences of each setting.
        validation_samples: Sequences of each training setting for early stopping.
        power_a: Exponent of the power law of gaps, plus one; 1 is uniform.
        random_fill: Whether places without a query hold random tokens; zeros if false.
        more_metrics: Further metrics, from the package `evaluate`, over tokens; see `metrics/requested.py`.

    Raises:
        ValueError: The settings do not fit each other.
    """

    vocab_size: int = 8_192
    train_lengths: tuple[int, ...] = (64, 128, 256, 512)
    train_pairs: tuple[int, ...] = (4, 8, 16, 64)
    train_samples: tuple[int, ...] = (100_000, 20_000, 20_000, 20_000)
    test_lengths: tuple[int, ...] = (64, 64, 64, 128, 128, 256, 256, 512)
    test_pairs: tuple[int, ...] = (4, 8, 16, 8, 32, 16, 64, 64)
    validation_samples: int = 500
    power_a: float = 0.01
    random_fill: bool = True
    more_metrics: str = ""

    def __post_init__(self) -> None:
        trained = {len(self.train_lengths), len(self.train_pairs), len(self.train_samples)}
        if len(trained) > 1 or len(self.test_lengths) != len(self.test_pairs) or not self.train_lengths:
            raise ValueError(
                f"train_lengths {self.train_lengths}, train_pairs {self.train_pairs} and train_samples "
                f"{self.train_samples} take as many values each, and so do test_lengths {self.test_lengths} and "
                f"test_pairs {self.test_pairs}"
            )
        for length, pairs in (*self.trained, *self.tested):
            if length % 2 or not 1 <= pairs <= length // 4:
                raise ValueError(f"{pairs} pairs do not fit {length} tokens; allowed: an even length, 1 to length / 4")
            if pairs > self.vocab_size // 2 - 1:
                raise ValueError(f"vocab_size is {self.vocab_size}; {pairs} pairs take at least {2 * pairs + 2}")

    @property
    def trained(self) -> list[tuple[int, int]]:
        """Length and pairs of each training setting."""
        return list(zip(self.train_lengths, self.train_pairs, strict=True))

    @property
    def tested(self) -> list[tuple[int, int]]:
        """Length and pairs of each test setting."""
        return list(zip(self.test_lengths, self.test_pairs, strict=True))

    @property
    def longest(self) -> int:
        """Tokens of the longest sequence."""
        return max(*self.train_lengths, *self.test_lengths)


@dataclass(frozen=True)
class MqarSequences(GeneratedRows):
    """Sequences of one split, zeros after their end.

    Attributes:
        tokens: Input of the model, `[rows, longest]` int32.
        targets: The value to give at each query, `IGNORED` elsewhere, `[rows, longest]` int32.
        lengths: Tokens of each sequence, `[rows]`.
        pairs: Key-value pairs of each sequence, `[rows]`.
    """

    tokens: NDArray[np.int32]
    targets: NDArray[np.int32]
    lengths: NDArray[np.int32]
    pairs: NDArray[np.int32]


def generate_splits(settings: MqarSettings) -> dict[str, MqarSequences]:
    """Train, validation and test sequences; no sequence is in two of them."""
    trained = [partial(generate, length=n, pairs=pairs, settings=settings) for n, pairs in settings.trained]
    tested = [partial(generate, length=n, pairs=pairs, settings=settings) for n, pairs in settings.tested]
    parts = {
        "train": list(zip(trained, settings.train_samples, strict=True)),
        "validation": [(draw, settings.validation_samples) for draw in trained],
        "test": [(draw, settings.test_samples) for draw in tested],
    }
    return draw_splits(parts, settings.data_seed, lambda split: split.tokens)


def generate(rng: np.random.Generator, rows: int, length: int, pairs: int, settings: MqarSettings) -> MqarSequences:
    """Sequences of one length and number of pairs."""
    half, context = settings.vocab_size // 2, 2 * pairs
    keys = 1 + distinct_integers(rng, rows, half - 1, pairs)
    values = half + distinct_integers(rng, rows, settings.vocab_size - half, pairs)
    tokens = np.zeros((rows, settings.longest), np.int32)
    tokens[:, 0:context:2], tokens[:, 1:context:2] = keys, values
    places = context + 2 * power_law_gaps(rng, rows, (length - context) // 2, pairs, settings.power_a)
    if settings.random_fill:
        tokens[:, context:length] = rng.integers(settings.vocab_size, size=(rows, length - context))
    targets = np.full_like(tokens, IGNORED)
    np.put_along_axis(tokens, places, keys, axis=1)
    np.put_along_axis(targets, places, values, axis=1)
    return MqarSequences(tokens, targets, np.full(rows, length, np.int32), np.full(rows, pairs, np.int32))


def distinct_integers(rng: np.random.Generator, rows: int, below: int, count: int) -> NDArray[np.int32]:
    """Different integers from 0 to `below - 1` in random order, `[rows, count]`: Floyd's sampling, then a shuffle."""
    chosen = np.full((rows, count), -1, np.int32)
    for i, top in enumerate(range(below - count, below)):
        drawn = rng.integers(top + 1, size=rows, dtype=np.int32)
        chosen[:, i] = np.where((chosen[:, :i] == drawn[:, None]).any(axis=1), top, drawn)
    return rng.permuted(chosen, axis=1)


def power_law_gaps(rng: np.random.Generator, rows: int, space: int, count: int, power_a: float) -> NDArray[np.int64]:
    """Different gaps from 0 below `space`, `[rows, count]`, drawn one by one with weights `(gap + 1) ** (a - 1)`.

    The indices of the largest log-weights with Gumbel noise are a draw without replacement.
    """
    log_weights = (power_a - 1) * np.log(np.arange(1, space + 1))
    noisy = log_weights + rng.gumbel(size=(rows, space))
    return np.argsort(-noisy, axis=1)[:, :count]


def to_examples(sequences: MqarSequences) -> Examples:
    """The tokens, and the values as targets of the queries; padding after shorter sequences is masked."""
    longest = sequences.tokens.shape[1]
    mask = np.arange(longest) < sequences.lengths[:, None]
    return Examples(sequences.tokens, sequences.targets, None if mask.all() else mask)


def answer(adapter: Adapter, sequences: MqarSequences, settings: MqarSettings) -> Columns:
    """The likeliest token at each query, over the whole vocabulary."""
    lengths, targets = sequences.lengths, sequences.targets
    guesses = predicted_by_length(adapter, sequences.tokens, lengths, settings.batch_size)
    asked = targets != IGNORED
    return {
        "length": lengths,
        "pairs": sequences.pairs,
        "answers": [row[places].tolist() for row, places in zip(targets, asked, strict=True)],
        "predictions": [row[places].tolist() for row, places in zip(guesses, asked, strict=True)],
        INPUT: [row[:length].tolist() for row, length in zip(sequences.tokens, lengths, strict=True)],
    }


def measure(rows: Sequence[Row]) -> list[Metric]:
    """Accuracy over queries: at each setting (`setting_accuracy`), and the mean over settings.

    `chance_in_context` is that of a random value of the sequence: a model that cannot tell keys apart reaches it.
    """
    by_setting = shares_by("setting_accuracy", rows, {"seq_len": "length", "pairs": "pairs"}, right_tokens)
    chance = sum(1 / pairs for _, pairs in by_setting) / len(by_setting)
    return [
        mean_over_settings("accuracy", list(by_setting.values())),
        *by_setting.values(),
        Metric("chance_in_context", chance, "1", None, None, len(rows)),
    ]


_SMOKE = MqarSettings(
    vocab_size=32,
    train_lengths=(16, 24),
    train_pairs=(2, 4),
    train_samples=(2_000, 2_000),
    test_lengths=(16, 24),
    test_pairs=(2, 4),
    test_samples=200,
    validation_samples=100,
)
_SMALL = MqarSettings(
    vocab_size=256,
    train_lengths=(32, 64, 64),
    train_pairs=(4, 8, 16),
    train_samples=(40_000, 10_000, 10_000),
    test_lengths=(32, 64, 64, 64),
    test_pairs=(4, 4, 8, 16),
    test_samples=500,
    validation_samples=200,
)

MQAR = GeneratedTask(
    name="mqar",
    summary="values of many keys seen earlier in the sequence, at several lengths (accuracy)",
    citation="Arora et al., Zoology: Measuring and Improving Recall in Efficient Language Models, arXiv 2312.04927",
    train={"lr": 1e-3, "weight_decay": 0.1, "final_lr": 0.0, "length_pool": 16},
    scales={
        "smoke": scale(
            _SMOKE, {"lr": 3e-3, "steps": 150, "batch_size": 32}, gpt(layers=2, heads=1, width=64, mlp_width=128)
        ),
        "small": scale(
            _SMALL,
            {"lr": 2e-3, "steps": 3_000, "batch_size": 64, "eval_every": 250, "target_loss": 0.01},
            gpt(layers=2, heads=1, width=64),
        ),
        "paper": scale(
            MqarSettings(), {"epochs": 64.0, "batch_size": 256, "eval_rows": 2_000}, gpt(layers=2, heads=1, width=128)
        ),
    },
    settings=MqarSettings,
    shape=lambda chosen: ModelShape(chosen.longest, chosen.vocab_size),
    generate_splits=generate_splits,
    to_examples=lambda split, _: to_examples(split),
    answer=answer,
    measure=lambda rows, _: measure(rows),
    details=("vocab_size",),
    compared=("answers", "predictions"),
)
