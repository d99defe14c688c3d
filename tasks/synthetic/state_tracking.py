"""State tracking: after each of a sequence of permutations, give the permutation that they make together.

A token is an element of the symmetric group on three or five things. The answer at each position is the product of all
elements so far, applied one after another. For S5, whose word problem is complete for NC1, no fixed number of layers of
softmax attention, or of linear attention with a state that only adds up, has an answer for every length; a model may
learn one for the lengths that it was trained on. S3 can be solved. Test sequences go on beyond the trained length, so
one sequence gives the accuracy at every length.

Source: Merrill, Petty and Sabharwal, The Illusion of State in State-Space Models (arXiv 2404.08819): word problems of
finite groups, every position tagged. We recall no settings of theirs, so that lengths, rows and sizes of models are
ours.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial

from ...adapters.base import Adapter, Examples, ModelShape
from ...results.names import unknown_name
from ...results.record import Metric
from ..base import INPUT, Row
from ..heavy import NDArray, np
from ..settings import check_ranges
from .answers import doubling, predicted_tokens, share
from .generated import Columns, GeneratedRows, GeneratedSettings, GeneratedTask, draw_splits, gpt, scale

GROUPS = {"S3": 3, "S5": 5}
"""Things that the permutations of a group move."""


@dataclass(frozen=True)
class StateTrackingSettings(GeneratedSettings):
    """How the sequences are made.

    Attributes:
        group: `S3`, of 6 permutations, or `S5`, of 120.
        length: Elements of a training sequence.
        test_length: Elements of a test sequence; from `length`.
        train_samples: Training sequences.

    Raises:
        ValueError: The group is unknown, or a length is too small.
    """

    group: str = "S3"
    length: int = 64
    test_length: int = 256
    train_samples: int = 100_000
    batch_size: int = 64

    def __post_init__(self) -> None:
        if self.group not in GROUPS:
            raise unknown_name("group", self.group, GROUPS)
        check_ranges(self, {"length": (2, None), "test_length": (self.length, None)})

    @property
    def order(self) -> int:
        """Elements of the group, which are the tokens and the states."""
        return len(permutations(self.group))


@dataclass(frozen=True)
class GroupWords(GeneratedRows):
    """Sequences of one split.

    Attributes:
        elements: `[rows, n]` int32; the identity is 0.
        states: The product of the elements up to each, `[rows, n]` int32.
    """

    elements: NDArray[np.int32]
    states: NDArray[np.int32]


def permutations(group: str) -> list[tuple[int, ...]]:
    """The elements of a group in lexical order, which begins with the identity."""
    return list(itertools.permutations(range(GROUPS[group])))


def product_table(group: str) -> NDArray[np.int32]:
    """The place of `after[before]` for every pair, `[before, after]`: the permutation of one after the other."""
    elements = permutations(group)
    place = {element: i for i, element in enumerate(elements)}
    things = range(GROUPS[group])
    rows = [[place[tuple(after[before[i]] for i in things)] for after in elements] for before in elements]
    return np.array(rows, np.int32)


def generate_splits(settings: StateTrackingSettings) -> dict[str, GroupWords]:
    """Train, validation and test sequences; no two splits share the first `length` elements of a sequence."""
    longer = partial(generate, length=settings.test_length, group=settings.group)
    trained = partial(generate, length=settings.length, group=settings.group)
    parts = {
        "train": [(trained, settings.train_samples)],
        "validation": [(trained, settings.validation_samples)],
        "test": [(longer, settings.test_samples)],
    }
    return draw_splits(
        parts, settings.data_seed, lambda split: np.ascontiguousarray(split.elements[:, : settings.length])
    )


def generate(rng: np.random.Generator, rows: int, length: int, group: str) -> GroupWords:
    """Sequences of elements drawn alike and independently."""
    table = product_table(group)
    elements = rng.integers(len(table), size=(rows, length), dtype=np.int32)
    states = elements.copy()
    for place in range(1, length):
        states[:, place] = table[states[:, place - 1], elements[:, place]]
    return GroupWords(elements, states)


def answer(adapter: Adapter, words: GroupWords, settings: StateTrackingSettings) -> Columns:
    """Whether the likeliest token at each position is the state, as a text of 0 and 1."""
    right = predicted_tokens(adapter, words.elements, settings.batch_size) == words.states
    return {"right": ["".join(map(str, row.astype(int))) for row in right], INPUT: words.elements}


def measure(rows: Sequence[Row], settings: StateTrackingSettings) -> list[Metric]:
    """Accuracy over the positions of the trained length, over those beyond it, and at single positions.

    `sequence_accuracy` is the share of sequences without an error within the trained length, and `position_accuracy`
    that of right states after so many elements.
    """
    right = np.array([[symbol == "1" for symbol in row["right"]] for row in rows])
    trained, beyond = right[:, : settings.length], right[:, settings.length :]
    of = [1] * len(rows)
    places = sorted({*(n for n in doubling(settings.test_length) if n), settings.length})
    metrics = [
        share("accuracy", trained.sum(1), [trained.shape[1]] * len(rows), True),
        share("sequence_accuracy", trained.all(axis=1).astype(float).tolist(), of, True),
        *(share("position_accuracy", right[:, n - 1], of, True, {"seq_len": n}) for n in places),
        Metric("chance", 1 / settings.order, "1", None, None, len(rows)),
    ]
    if beyond.shape[1]:
        metrics.append(share("accuracy_beyond", beyond.sum(1), [beyond.shape[1]] * len(rows), True))
    return metrics


_SMOKE = StateTrackingSettings(length=8, test_length=16, train_samples=2_000, validation_samples=100, test_samples=200)
_SMALL = StateTrackingSettings(
    length=16, test_length=64, train_samples=50_000, validation_samples=200, test_samples=500
)

STATE_TRACKING = GeneratedTask(
    name="state_tracking",
    summary="the product of permutations so far, within and beyond the trained length (accuracy); set group=S3 or S5",
    citation="Merrill et al., The Illusion of State in State-Space Models, arXiv 2404.08819",
    train={"weight_decay": 0.01, "final_lr": 0.0},
    scales={
        "smoke": scale(
            _SMOKE, {"lr": 3e-3, "steps": 150, "batch_size": 32}, gpt(layers=2, heads=2, width=64, rope=True)
        ),
        "small": scale(
            _SMALL,
            {"lr": 1e-3, "steps": 3_000, "batch_size": 64, "eval_every": 250, "target_loss": 0.01},
            gpt(layers=2, heads=2, width=64, rope=True),
        ),
        "paper": scale(
            StateTrackingSettings(),
            {"lr": 1e-3, "epochs": 20.0, "batch_size": 256, "eval_every": 500},
            gpt(layers=4, heads=4, width=256, rope=True),
        ),
    },
    settings=StateTrackingSettings,
    shape=lambda chosen: ModelShape(chosen.test_length, chosen.order),
    generate_splits=generate_splits,
    to_examples=lambda split, _: Examples(split.elements, split.states),
    answer=answer,
    measure=measure,
    details=("group",),
)
