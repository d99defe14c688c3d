"""In-context language learning: from strings of an unknown random automaton, predict the next symbol.

Each prompt has its own automaton: some states, a part of the symbols as its alphabet, and a few edges from each state
to random states, no two of a state with the same symbol. A string starts in state 0 and takes each edge of a state with
the same probability. Strings follow each other, each after a separator, until the prompt is full. The model predicts
every next token.

Metrics are taken where a symbol comes next. The model's distribution there leaves the separator out, as the automaton
does not choose where a string ends. We measure whether the automaton allows the likeliest symbol, and the total
variation distance between the distributions of the model and of the automaton.

Source: RegBench of Akyürek et al., In-Context Language Learning (arXiv 2401.12973): 4 to 12 states, alphabets of 4 to
18 symbols, 1 to 4 edges and strings of 1 to 50 symbols, as we recall the paper; training and test automata differ. We
differ: prompts have a fixed length instead of 10 to 20 strings, automata are not minimised, and the training prompts
are one fixed set.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from ...adapters.base import Adapter, Examples, ModelShape
from ...results.record import Metric
from ..base import INPUT, Row
from ..heavy import NDArray, Tensor, np
from .answers import doubling, in_batches, share
from .automata import LanguagePrompts, LanguageSettings, generate, true_distribution
from .generated import Columns, GeneratedTask, draw_alike, gpt, scale

NGRAM = 3


def generate_splits(settings: LanguageSettings) -> dict[str, LanguagePrompts]:
    """Train, validation and test prompts; no automaton is in two of them."""

    def automata(prompts: LanguagePrompts) -> NDArray[np.int8]:
        return np.concatenate([prompts.symbol, prompts.target, prompts.edges[..., None]], axis=-1)

    return draw_alike(generate, settings, automata)


def to_examples(prompts: LanguagePrompts) -> Examples:
    """Every token but the last, with the next token as its target, separators included."""
    return Examples(prompts.tokens[:, :-1], prompts.tokens[:, 1:])


def ngram_distribution(tokens: NDArray[np.int32], separator: int, order: int = NGRAM) -> NDArray[np.float64]:
    """Shares of the symbols that followed earlier occurrences of a context, `[rows, length - 1, symbols]`.

    The context is the last `order - 1` tokens, without those before a separator. If no symbol followed the context
    before, it is made one token shorter, down to none; if no symbol came before at all, all symbols have equal shares.
    """
    read = tokens[:, :-1]
    following = np.eye(separator + 1, dtype=np.float32)[tokens[:, 1:], :separator]  # zeros for separators
    earlier = np.tri(read.shape[1], k=-1, dtype=bool)
    distribution = np.full(following.shape, 1 / separator)
    context, is_open = np.zeros(read.shape, np.int64), np.ones(read.shape, bool)
    for size in range(order):
        same = ((context[:, :, None] == context[:, None, :]) & earlier).astype(np.float32)
        counts = same @ following
        total = counts.sum(-1, keepdims=True)
        distribution = np.where(total > 0, counts / np.maximum(total, 1), distribution)
        # One token more, by a number for the whole context; `separator + 1` stands for no token.
        token = np.full(read.shape, separator + 1, np.int64)
        token[:, size:] = read[:, : read.shape[1] - size]
        token[~is_open] = separator + 1
        context = context * (separator + 2) + token
        is_open &= token < separator
    return distribution


def answer(adapter: Adapter, prompts: LanguagePrompts, settings: LanguageSettings) -> Columns:
    """Numbers of legal answers, and distances, summed by string, of the model and of n-grams in context."""
    tokens, separator, batch_size = prompts.tokens, settings.separator, settings.batch_size

    def distribution(ids: Tensor) -> Tensor:
        return adapter.logits(ids.long())[..., :separator].double().softmax(dim=-1)

    starts = range(0, len(tokens), batch_size)  # n-grams take `length ** 2` numbers for each prompt
    ngram = np.concatenate([ngram_distribution(tokens[start : start + batch_size], separator) for start in starts])
    answers = {"model": in_batches(adapter, distribution, tokens[:, :-1], batch_size), "ngram": ngram}
    return {
        **{name: _sums_by_string(prompts, found, separator) for name, found in answers.items()},
        INPUT: tokens[:, :-1],
    }


def _sums_by_string(prompts: LanguagePrompts, answers: NDArray[np.float64], separator: int) -> list[dict[str, Any]]:
    """Symbols, legal answers and distances, summed over each string of a prompt; one entry for each prompt."""
    truth = true_distribution(prompts, separator)
    is_symbol = prompts.tokens[:, 1:] != separator
    legal = np.take_along_axis(truth, answers.argmax(-1)[..., None], axis=-1)[..., 0] > 0
    distance = np.abs(truth - answers).sum(-1) / 2
    string = (prompts.tokens[:, :-1] == separator).cumsum(axis=1) - 1
    sums = {}
    for name, values in {"symbols": np.ones_like(distance), "legal": legal, "distance": distance}.items():
        sums[name] = np.zeros((len(prompts), string.max() + 1))
        np.add.at(sums[name], (np.arange(len(prompts))[:, None], string), np.where(is_symbol, values, 0.0))
    strings = (sums["symbols"] > 0).sum(axis=1)  # the last string may have no symbol yet
    return [{name: rows[i, :count].tolist() for name, rows in sums.items()} for i, count in enumerate(strings)]


def measure(rows: Sequence[Row]) -> list[Metric]:
    """Accuracy and distance over all symbols, and over the string after a number of strings (`..._after`).

    The reference `ngram_distribution` has the same metrics, as `ngram_...`. The automaton itself has accuracy 1 and
    distance 0.
    """
    metrics = []
    strings = min(len(row["model"]["symbols"]) for row in rows)  # every prompt has these
    for name, prefix in (("model", ""), ("ngram", "ngram_")):
        found = [row[name] for row in rows]
        for measured, key, better in (("accuracy", "legal", True), ("total_variation", "distance", False)):
            direction = better if name == "model" else None
            sums, of = [sum(each[key]) for each in found], [sum(each["symbols"]) for each in found]
            metrics.append(share(prefix + measured, sums, of, direction))
            for k in doubling(strings - 1):
                sums, of = [each[key][k] for each in found], [each["symbols"][k] for each in found]
                metrics.append(share(f"{prefix}{measured}_after", sums, of, direction, {"strings": k}))
    return metrics


_SMOKE = LanguageSettings(
    symbols=6,
    least_states=2,
    most_states=4,
    most_edges=2,
    most_length=10,
    length=65,
    train_samples=2_000,
    validation_samples=50,
    test_samples=50,
)
_SMALL = LanguageSettings(
    symbols=8,
    least_states=3,
    most_states=6,
    most_edges=3,
    most_length=20,
    length=129,
    validation_samples=200,
    test_samples=200,
)

REGULAR_LANGUAGES = GeneratedTask(
    name="regular_languages",
    summary="next symbol of strings of an unknown random automaton (legal answers, total variation)",
    citation="Akyürek et al., In-Context Language Learning: Architectures and Algorithms, arXiv 2401.12973",
    train={"beta2": 0.999, "weight_decay": 0.1, "final_lr": 0.1},
    scales={
        "smoke": scale(_SMOKE, {"lr": 3e-3, "steps": 150, "batch_size": 16}),
        "small": scale(
            _SMALL,
            {"lr": 1e-3, "steps": 2_500, "batch_size": 32, "eval_every": 250},
            gpt(layers=2, heads=2, width=64, rope=True),
        ),
        "paper": scale(
            LanguageSettings(),
            {"lr": 5e-4, "epochs": 50.0, "batch_size": 32},
            gpt(layers=8, heads=4, width=256, rope=True),
        ),
    },
    settings=LanguageSettings,
    shape=lambda chosen: ModelShape(chosen.length - 1, chosen.symbols + 1),
    generate_splits=generate_splits,
    to_examples=lambda split, _: to_examples(split),
    answer=answer,
    measure=lambda rows, _: measure(rows),
    details=("symbols",),
)
