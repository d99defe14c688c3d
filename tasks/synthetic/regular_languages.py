"""In-context language learning: strings of one unknown random automaton, and what may come next.

Each prompt has an automaton of its own: some states, a part of the symbols as its alphabet, and from every state a few
edges to states drawn at random, no two of one symbol. A string starts in state 0 and takes each edge of a state with
the same probability. Strings follow each other, each after a separator, until the prompt is full; the model predicts
every next token.

Scored are the places where a symbol comes next. The separator is left out of the model's distribution there, as where a
string ends is not the automaton's choice. Measured are whether the likeliest symbol is one that the automaton allows,
and the total variation distance between the model's distribution and the automaton's.

Source: RegBench of Akyürek et al., In-Context Language Learning (arXiv 2401.12973): 4 to 12 states, alphabets of 4 to
18 symbols, 1 to 4 edges and strings of 1 to 50 symbols, as we recall the paper; training and test automata differ. We
differ: prompts have a fixed length instead of 10 to 20 strings, automata are not minimised, and the training prompts
are one fixed set.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING

from ...adapters.base import Adapter, Capability, Examples, ModelShape, Settings
from ...results.record import DataIdentity, Metric
from ..base import INPUT, Row, Sources, TaskData, TaskInfo, TaskScale
from ..settings import as_settings, parse_settings
from .automata import LanguagePrompts, LanguageSettings, generate, true_distribution
from .generated import doubling, draw_splits, generated_data, identity_of, rows_of, share, whole_splits

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

GENERATOR_VERSION = "1"
NGRAM = 3


@dataclass(frozen=True)
class RegularLanguages:
    """The task; see the module's docstring."""

    info: TaskInfo

    def identify(self, settings: Settings, sources: Sources) -> DataIdentity:  # noqa: ARG002
        """The generator, and a hash of the prompts that it makes."""
        return _identity(parse_settings(LanguageSettings, settings))

    def load(self, settings: Settings, sources: Sources, limit: int | None = None) -> TaskData:  # noqa: ARG002
        """Generates the data; `test` is a `LanguagePrompts`."""
        chosen = parse_settings(LanguageSettings, settings)
        splits = generate_splits(chosen)
        shape = ModelShape(context_length=chosen.length - 1, vocab_size=chosen.symbols + 1)
        return generated_data(shape, splits, to_examples, limit)

    def predict(self, adapter: Adapter, data: TaskData, settings: Settings) -> list[Row]:
        """Legal answers and distances summed by string, of the model and of n-grams in context; a row per prompt."""
        chosen = parse_settings(LanguageSettings, settings)
        test: LanguagePrompts = data.test
        rows: list[Row] = []
        for start in range(0, len(test), chosen.batch_size):
            part = rows_of(test, slice(start, start + chosen.batch_size))
            answers = {
                "model": _model_distribution(adapter, part.tokens[:, :-1], chosen.separator),
                "ngram": ngram_distribution(part.tokens, chosen.separator),
            }
            sums = {name: _sums_by_string(part, found, chosen) for name, found in answers.items()}
            rows += [_row(start + i, part, i, sums) for i in range(len(part))]
        return rows

    def score(self, rows: Sequence[Row], settings: Settings) -> list[Metric]:
        """Accuracy and distance over all symbols, and after so many strings (`..._after`).

        Beside them, as `ngram_...`: the symbols that followed the last two, or else the last one, or else any, earlier
        in the prompt. The automaton itself has accuracy 1 and distance 0.
        """
        del settings
        metrics = []
        strings = min(len(row["model"]["symbols"]) for row in rows)  # those that every prompt has
        for name, prefix in (("model", ""), ("ngram", "ngram_")):
            for measure, key, better in (("accuracy", "legal", True), ("total_variation", "distance", False)):
                found = [row[name] for row in rows]
                direction = better if name == "model" else None
                sums, of = [sum(each[key]) for each in found], [sum(each["symbols"]) for each in found]
                metrics.append(share(prefix + measure, sums, of, direction))
                for k in doubling(strings - 1):
                    sums, of = [each[key][k] for each in found], [each["symbols"][k] for each in found]
                    metrics.append(share(f"{prefix}{measure}_after", sums, of, direction, {"strings": k}))
        return metrics


def _row(sample: int, part: LanguagePrompts, i: int, sums: dict[str, dict[str, NDArray[np.float64]]]) -> Row:
    strings = int((sums["model"]["symbols"][i] > 0).sum())
    found = {name: {key: each[i, :strings].tolist() for key, each in by_key.items()} for name, by_key in sums.items()}
    return {"sample": sample, **found, INPUT: part.tokens[i, :-1].tolist()}


@lru_cache(maxsize=4)  # a plan asks once for each model
def _identity(settings: LanguageSettings) -> DataIdentity:
    details = {"data_seed": settings.data_seed, "symbols": settings.symbols}
    return identity_of("regular_languages", GENERATOR_VERSION, generate_splits(settings), details)


def generate_splits(settings: LanguageSettings) -> dict[str, LanguagePrompts]:
    """Train, validation and test prompts; no automaton is in two of them."""
    parts = whole_splits(lambda rng, rows: generate(rng, rows, settings), settings)
    return draw_splits(parts, settings.data_seed, _automata)


def _automata(prompts: LanguagePrompts) -> NDArray[np.int8]:
    import numpy as np

    return np.concatenate([prompts.symbol, prompts.target, prompts.edges[..., None]], axis=-1)


def to_examples(prompts: LanguagePrompts) -> Examples:
    """Every token but the last, and the token after each, separators too."""
    return Examples(prompts.tokens[:, :-1], prompts.tokens[:, 1:])


def ngram_distribution(tokens: NDArray[np.int32], separator: int, order: int = NGRAM) -> NDArray[np.float64]:
    """Shares of the symbols that earlier followed the same context, `[rows, length - 1, symbols]`.

    The context is the last `order - 1` tokens, none from before the separator; where it is new, one token less, down to
    none, and where no symbol came before, all symbols alike.
    """
    import numpy as np

    rows, width = tokens.shape[0], tokens.shape[1] - 1
    following = np.eye(separator + 1, dtype=np.float32)[tokens[:, 1:], :separator]  # separators count as nothing
    earlier = np.tri(width, k=-1, dtype=bool)
    distribution = np.full((rows, width, separator), 1 / separator)
    for size in range(order):
        context = _contexts(tokens[:, :-1], separator, size)
        same = ((context[:, :, None] == context[:, None, :]) & earlier).astype(np.float32)
        counts = same @ following
        total = counts.sum(-1, keepdims=True)
        distribution = np.where(total > 0, counts / np.maximum(total, 1), distribution)
    return distribution


def _contexts(tokens: NDArray[np.int32], separator: int, size: int) -> NDArray[np.int64]:
    """A number for the last `size` tokens at each place, where what is before a separator counts as none."""
    import numpy as np

    context = np.zeros(tokens.shape, np.int64)
    open_ = np.ones(tokens.shape, bool)
    for back in range(size):
        token = np.full(tokens.shape, separator + 1, np.int64)
        token[:, back:] = tokens[:, : tokens.shape[1] - back]
        token = np.where(open_, token, separator + 1)
        context = context * (separator + 2) + token
        open_ = open_ & (token < separator)
    return context


def _model_distribution(adapter: Adapter, tokens: NDArray[np.int32], separator: int) -> NDArray[np.float64]:
    """The model's distribution over symbols after each of `tokens`, the separator left out."""
    import numpy as np
    import torch

    logits = adapter.logits(torch.as_tensor(tokens, dtype=torch.long, device=adapter.device))
    return np.asarray(logits[..., :separator].double().softmax(dim=-1).cpu().numpy())


def _sums_by_string(
    prompts: LanguagePrompts, answers: NDArray[np.float64], settings: LanguageSettings
) -> dict[str, NDArray[np.float64]]:
    """Symbols, legal answers and distances of each string of each prompt, `[rows, strings]`, zeros after the last."""
    import numpy as np

    truth = true_distribution(prompts, settings.symbols)
    is_symbol = prompts.tokens[:, 1:] != settings.separator
    legal = np.take_along_axis(truth, answers.argmax(-1)[..., None], axis=-1)[..., 0] > 0
    distance = np.abs(truth - answers).sum(-1) / 2
    string = (prompts.tokens[:, :-1] == settings.separator).cumsum(axis=1) - 1
    sums = {}
    for name, values in {"symbols": np.ones_like(distance), "legal": legal, "distance": distance}.items():
        sums[name] = np.zeros((len(prompts), string.max() + 1))
        np.add.at(sums[name], (np.arange(len(prompts))[:, None], string), np.where(is_symbol, values, 0.0))
    return sums


_TRAIN: Settings = {"beta2": 0.999, "weight_decay": 0.1, "final_lr": 0.1}

REGULAR_LANGUAGES = RegularLanguages(
    info=TaskInfo(
        name="regular_languages",
        version=1,
        summary="Synthetic: next symbol of strings of an unknown random automaton (legal answers, total variation)",
        main_metric="accuracy",
        data=("generated",),
        licence="Apache-2.0",
        citation="Akyürek et al., In-Context Language Learning: Architectures and Algorithms, arXiv 2401.12973",
        needs=frozenset({Capability.LANGUAGE_MODEL}),
        recipes=("scratch",),
        scales={
            "smoke": TaskScale(
                settings=as_settings(
                    LanguageSettings(
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
                ),
                train={**_TRAIN, "lr": 3e-3, "steps": 150, "batch_size": 16},
            ),
            "small": TaskScale(
                settings=as_settings(
                    LanguageSettings(
                        symbols=8,
                        least_states=3,
                        most_states=6,
                        most_edges=3,
                        most_length=20,
                        length=129,
                        train_samples=40_000,
                        validation_samples=200,
                        test_samples=200,
                    )
                ),
                train={**_TRAIN, "lr": 1e-3, "steps": 2_500, "batch_size": 32, "eval_every": 250},
                backbone={"rope": True, "layers": 2, "heads": 2, "kv_heads": 2, "width": 64, "mlp_width": 256},
            ),
            "paper": TaskScale(
                settings=as_settings(LanguageSettings()),
                train={**_TRAIN, "lr": 5e-4, "epochs": 50.0, "batch_size": 32},
                backbone={"rope": True, "layers": 8, "heads": 4, "kv_heads": 4, "width": 256, "mlp_width": 1024},
            ),
        },
    )
)
