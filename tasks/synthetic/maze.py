"""Mazes: from the list of a maze's passages, an origin and a target, give the path between them, cell by cell.

A maze is a spanning tree of a square lattice, made by depth-first search with random turns. So exactly one path without
a step back joins two cells. The sequence is `<adjlist> a <--> b ; c <--> d ; ... </adjlist> <origin> a </origin>
<target> z </target> <path> a ... z </path>`, with one token for each cell and mark, and passages in random order and
direction. The loss is taken on the tokens after `<path>`.

Source: Ivanitskiy et al., A Configurable Library for Generating and Manipulating Maze Datasets (arXiv 2309.10498): its
generator by depth-first search and its sequences. Origin and target are any two cells. Sizes of models are ours.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from ...adapters.base import IGNORED, Adapter, Examples, ModelShape
from ...results.record import Metric
from ..base import INPUT, Row
from ..heavy import NDArray, np
from ..settings import check_ranges
from .answers import predicted_tokens, right_tokens, share
from .generated import Columns, GeneratedRows, GeneratedSettings, GeneratedTask, draw_alike, gpt, scale
from .lattice import depth_first_trees, passages, paths

MARKS = ("<adjlist>", "</adjlist>", "<origin>", "</origin>", "<target>", "</target>", "<path>", "</path>", "<-->", ";")
"""The tokens after those of the cells."""


@dataclass(frozen=True)
class MazeSettings(GeneratedSettings):
    """How mazes are made.

    Attributes:
        side: Cells along each side.
        train_samples: Training mazes.
        more_metrics: Further metrics, from the package `evaluate`, over tokens; see `metrics/requested.py`.

    Raises:
        ValueError: `side` is below 2.
    """

    side: int = 6
    train_samples: int = 100_000
    batch_size: int = 64
    more_metrics: str = ""

    def __post_init__(self) -> None:
        check_ranges(self, {"side": (2, None)})

    @property
    def cells(self) -> int:
        """Cells of a maze."""
        return self.side**2

    def mark(self, name: str) -> int:
        """The token of one of `MARKS`."""
        return self.cells + MARKS.index(name)

    @property
    def prompt_length(self) -> int:
        """Tokens of the prompt, `<path>` included."""
        return 4 * (self.cells - 1) + 9

    @property
    def longest(self) -> int:
        """Tokens of the longest sequence: a path may visit every cell."""
        return self.prompt_length + self.cells + 1


@dataclass(frozen=True)
class Mazes(GeneratedRows):
    """Mazes of one split with their paths.

    Attributes:
        parent: The cell from which each cell was reached, `[rows, cells]`; the cell where the search began is its own
            parent.
        tokens: Sequences, `[rows, longest]` int32, zeros after the end.
        path_lengths: Cells of each path, both ends included, `[rows]`.
    """

    parent: NDArray[np.int32]
    tokens: NDArray[np.int32]
    path_lengths: NDArray[np.int32]


def generate_splits(settings: MazeSettings) -> dict[str, Mazes]:
    """Train, validation and test mazes; no maze is in two of them, whatever its origin and target."""
    return draw_alike(generate, settings, lambda split: passages(split.parent))


def generate(rng: np.random.Generator, rows: int, settings: MazeSettings) -> Mazes:
    """Mazes, each with an origin and another cell as the target."""
    parent, depth = depth_first_trees(rng, rows, settings.side)
    origin = rng.integers(settings.cells, size=rows)
    target = (origin + rng.integers(1, settings.cells, size=rows)) % settings.cells
    listed = _listed_passages(rng, parent, settings)
    path, lengths = paths(parent, depth, origin, target)
    path = np.pad(path, ((0, 0), (0, 1)))
    path[np.arange(rows), lengths] = settings.mark("</path>")

    ends = ("<origin>", origin, "</origin>", "<target>", target, "</target>")
    sequence = ("<adjlist>", listed, "</adjlist>", *ends, "<path>", path)
    columns = [
        np.full((rows, 1), settings.mark(part)) if isinstance(part, str) else part.reshape(rows, -1)
        for part in sequence
    ]
    return Mazes(parent, np.concatenate(columns, axis=1).astype(np.int32), lengths)


def _listed_passages(rng: np.random.Generator, parent: NDArray[np.int32], settings: MazeSettings) -> NDArray[np.int64]:
    """Every passage `a <--> b ;`, in random order and direction, `[rows, cells - 1, 4]`."""
    rows, cells = parent.shape
    order = rng.random((rows, cells))
    order[parent == np.arange(cells)] = np.inf  # the root has no passage to a parent
    child = order.argsort(axis=1)[:, :-1]
    ends = np.stack([child, np.take_along_axis(parent, child, axis=1)], axis=-1)
    listed = np.full((rows, cells - 1, 4), [0, settings.mark("<-->"), 0, settings.mark(";")])
    listed[..., ::2] = np.where(rng.random((rows, cells - 1, 1)) < 0.5, ends, ends[..., ::-1])
    return listed


def to_examples(mazes: Mazes, settings: MazeSettings) -> Examples:
    """Every token but the last, with the next one as the target from `<path>` on; padding after the path is masked."""
    targets = mazes.tokens[:, 1:].copy()
    place = np.arange(targets.shape[1])
    end = settings.prompt_length + mazes.path_lengths[:, None]  # place of the end mark
    targets[(place < settings.prompt_length - 1) | (place >= end)] = IGNORED
    return Examples(mazes.tokens[:, :-1], targets, place < end)


def random_walk_chance(mazes: Mazes) -> NDArray[np.float64]:
    """The probability of each path if each step takes any passage but the last one with equal chance, `[rows]`."""
    degree = passages(mazes.parent).sum(-1)
    cells = degree.shape[1]
    start = mazes.tokens.shape[1] - cells - 1
    path = np.minimum(mazes.tokens[:, start:-1], cells - 1)
    place = np.arange(cells)
    choices = np.take_along_axis(degree, path, axis=1) - (place > 0)
    walked = place < mazes.path_lengths[:, None] - 1
    return np.asarray(1 / np.where(walked, choices, 1).prod(axis=1))


def answer(adapter: Adapter, mazes: Mazes, settings: MazeSettings) -> Columns:
    """The likeliest token after each token from `<path>` on, given the right tokens before.

    Greedy decoding gives the whole path if and only if each of these is right.
    """
    guesses = predicted_tokens(adapter, mazes.tokens[:, :-1], settings.batch_size)
    start, lengths = settings.prompt_length, mazes.path_lengths.tolist()
    return {
        "answers": [row[start : start + n + 1].tolist() for row, n in zip(mazes.tokens, lengths, strict=True)],
        "predictions": [row[start - 1 : start + n].tolist() for row, n in zip(guesses, lengths, strict=True)],
        "chance": random_walk_chance(mazes),
        INPUT: mazes.tokens[:, :start],
    }


def measure(rows: Sequence[Row]) -> list[Metric]:
    """Exact paths (`accuracy`) and their tokens, the end mark included (`token_accuracy`).

    `random_walk_accuracy` is that of a walk that never steps back, turns at random and stops at the target.
    """
    one = [1] * len(rows)
    right, of = zip(*map(right_tokens, rows), strict=True)
    return [
        share("accuracy", [row["answers"] == row["predictions"] for row in rows], one, True),
        share("token_accuracy", right, of, True),
        share("random_walk_accuracy", [row["chance"] for row in rows], one, None),
    ]


MAZE = GeneratedTask(
    name="maze",
    summary="the path through a maze that is given as a list of passages (exact paths)",
    citation="Ivanitskiy et al., A Configurable Library for Generating and Manipulating Maze Datasets, "
    "arXiv 2309.10498",
    train={"weight_decay": 0.01, "beta2": 0.999, "final_lr": 0.1},
    scales={
        "smoke": scale(
            MazeSettings(side=4, train_samples=2_000, validation_samples=50, test_samples=100),
            {"lr": 2e-3, "steps": 150, "batch_size": 32},
        ),
        "small": scale(
            MazeSettings(side=4, train_samples=60_000, validation_samples=200, test_samples=300),
            {"lr": 1e-3, "steps": 4_000, "batch_size": 32, "eval_every": 500},
            gpt(layers=4, heads=4, width=64),
        ),
        "paper": scale(
            MazeSettings(), {"lr": 5e-4, "epochs": 20.0, "batch_size": 64}, gpt(layers=6, heads=8, width=256)
        ),
    },
    settings=MazeSettings,
    shape=lambda chosen: ModelShape(chosen.longest - 1, chosen.cells + len(MARKS)),
    generate_splits=generate_splits,
    to_examples=to_examples,
    answer=answer,
    measure=lambda rows, _: measure(rows),
    details=("side",),
    compared=("answers", "predictions"),
)
