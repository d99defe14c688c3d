"""Scenes of `lra/pathfinder`: dashed paths, and two dots that mark the ends of one path or of two.

Each scene has two long paths with equally many dashes, and some short paths; all paths keep clear of each other. The
dots mark both ends of one long path, or one end of each. A scene is kept only if both choices put the dots about
equally far apart, and a coin then chooses between them. So neither the sum of the pixels nor, in images of 24 pixels or
more, the distance of the dots predicts the label.

The coordinates of both dots together still do, more so in small images, where short paths are nearly straight:
gradient-boosted trees on them and the distance reach 61 % with 32 pixels and 9 dashes, 67 % with 24 and 6, and 79 %
with 16 and 3, where the distance alone gives 72 % (10,000 training and 4,000 test images, ± 0.8). Scores of small
images may come from that rather than from tracing a path.

The generator is our own, in the spirit of Linsley et al., arXiv 1805.08315 (after Houtkamp and Roelfsema, 2010), whose
task Long Range Arena (Tay et al., arXiv 2011.04006) reads pixel by pixel. Its images differ from theirs, so accuracies
do not compare.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from ..heavy import NDArray, np
from ..settings import check_ranges
from .protocol import SeededSettings

DASH, GAP = 1.5, 1.7
"""Length of a dash, and of the gap to the next dash, in pixels."""

TURN = 0.4
"""Standard deviation of the turn from one dash to the next, in radians."""

_MARGIN = 2
_CLEARANCE = 3.2
_TRIES = 8
_SLACK = 1.5
_BORDER = 4
_SHARPEST_TURN = 1.2
_SCENES_AT_ONCE = 512
DASH_RADIUS, DOT_RADIUS = 0.4, 1.5
_POINTS = 4


@dataclass(frozen=True)
class PathfinderSettings(SeededSettings):
    """How images are made.

    Attributes:
        image_size: Pixels per side; 12 or more.
        dashes: Dashes of a long path, 3 or more; a distractor has a third of them.
        distractors: Short paths, as far as they find a place.
        train_rows: Training images.
        validation_rows: Images that select the checkpoint.
        test_rows: Test images.

    Raises:
        ValueError: The image or a path is too small.
    """

    image_size: int = 32
    dashes: int = 9
    distractors: int = 5
    train_rows: int = 160_000
    validation_rows: int = 20_000
    test_rows: int = 20_000

    def __post_init__(self) -> None:
        check_ranges(self, {"image_size": (12, None), "dashes": (3, None), "distractors": (0, None)})


@dataclass(frozen=True)
class Scenes:
    """Scenes as geometry; coordinates are (x, y) in pixels.

    Attributes:
        paths: Both ends of each dash of the two long paths, `[n, path, dash, end, xy]`.
        distractors: Both ends of each dash of the short paths, `[n, dash, end, xy]`; NaN for paths without a place.
        dots: Centres of the two dots, `[n, 2, xy]`.
        labels: 1 where both dots are on one path, else 0; `[n]`.
    """

    paths: NDArray[np.floating]
    distractors: NDArray[np.floating]
    dots: NDArray[np.floating]
    labels: NDArray[np.int32]

    def __len__(self) -> int:
        return len(self.labels)

    def images(self, image_size: int) -> NDArray[np.uint8]:
        """Pixels from 0 to 255, `[n, image_size, image_size]`."""
        dashes = np.concatenate([self.paths.reshape(len(self), -1, 2, 2), self.distractors], axis=1)
        return draw(dashes, self.dots, image_size)


def generate_scenes(rng: np.random.Generator, rows: int, settings: PathfinderSettings) -> Iterator[Scenes]:
    """Yields scenes, some at a time and `rows` in all, half of each label (one more 0 if the number is odd).

    Raises:
        ValueError: The paths do not fit into the image.
    """
    labels = rng.permutation(np.arange(rows, dtype=np.int32) % 2)
    done, drawn = 0, 0
    while done < rows:
        scenes = _draw_scenes(rng, settings, labels[done:])
        done, drawn = done + len(scenes), drawn + _SCENES_AT_ONCE
        if drawn >= 8 * _SCENES_AT_ONCE and not done:
            raise ValueError(
                f"two paths of {settings.dashes} dashes find no place in {settings.image_size} pixels; "
                "set dashes lower or image_size higher"
            )
        if len(scenes):
            yield scenes


def _draw_scenes(rng: np.random.Generator, settings: PathfinderSettings, labels: NDArray[np.int32]) -> Scenes:
    """Scenes for the first of `labels`; their number is random."""
    size = settings.image_size + 2 * _BORDER
    canvas = _Canvas(np.zeros((_SCENES_AT_ONCE, size, size), np.int16), [0])
    first, fits = canvas.grow(rng, settings.dashes)
    canvas, first = canvas.of(fits), first[fits]
    second, fits = canvas.grow(rng, settings.dashes)
    canvas, paths = canvas.of(fits), np.stack([first[fits], second[fits]], axis=1)
    same, across, fits = _dot_choices(paths)
    fits[np.flatnonzero(fits)[len(labels) :]] = False
    canvas, paths, same, across = canvas.of(fits), paths[fits], same[fits], across[fits]
    labels = labels[: len(paths)]
    dots = np.where(labels[:, None, None] == 1, same, across)

    short = np.full((len(paths), settings.distractors, settings.dashes // 3, 2, 2), np.nan)
    for index in range(settings.distractors):
        grown, fits = canvas.grow(rng, settings.dashes // 3)
        short[fits, index] = grown[fits]
    return Scenes(paths, short.reshape(len(paths), settings.distractors * (settings.dashes // 3), 2, 2), dots, labels)


def _dot_choices(
    paths: NDArray[np.floating],
) -> tuple[NDArray[np.floating], NDArray[np.floating], NDArray[np.bool_]]:
    """Two dots on one path, two dots on different paths about equally far apart, and whether such dots exist.

    In both pairs the first dot is at the start of a path and the second at an end, as starts and ends are distributed
    differently over an image.
    """
    rows = np.arange(len(paths))
    begins, ends = paths[:, :, 0, 0], paths[:, :, -1, 1]  # n path xy
    distances = np.linalg.norm(begins[:, :, None] - ends[:, None], axis=-1)  # n path path
    same, across = np.diagonal(distances, axis1=1, axis2=2), distances[:, [0, 1], [1, 0]]
    differences = np.abs(same[:, :, None] - across[:, None]).reshape(-1, 4)
    best = differences.argmin(axis=1)
    path, begin = best // 2, best % 2
    on_one = np.stack([begins[rows, path], ends[rows, path]], axis=1)
    on_two = np.stack([begins[rows, begin], ends[rows, 1 - begin]], axis=1)
    return on_one, on_two, differences[rows, best] < _SLACK


@dataclass(frozen=True)
class _Canvas:
    """The pixels that paths occupy in each of many images, which grow side by side.

    Attributes:
        taken: Number, from 1, of the oldest dash near each pixel, or 0; `[n, size, size]`. A border of `_BORDER` pixels
            stands for everything outside.
        count: The last number given to a dash, in a list of one item that all canvases made by `of` share.
    """

    taken: NDArray[np.int16]
    count: list[int]

    def of(self, chosen: NDArray[np.bool_]) -> _Canvas:
        """The chosen images."""
        return _Canvas(self.taken[chosen], self.count)

    def grow(self, rng: np.random.Generator, dashes: int) -> tuple[NDArray[np.floating], NDArray[np.bool_]]:
        """A new path in each image: both ends of its dashes, `[n, dashes, 2, 2]`, and whether it found a place.

        Each dash turns a little from the dash before it. Of several tries, the first that keeps clear of all dashes but
        the last two is taken; if possible, the first that also leaves room for another dash.
        """
        n, rows = len(self.taken), np.arange(len(self.taken))
        self.count[0] += 1  # no dash has this number: it stands before the first one
        oldest_own, room = self.count[0], self.taken.shape[-1] - 2 * _BORDER - 1 - 2 * _MARGIN
        path, fits = np.zeros((n, dashes, 2, 2), np.float32), np.ones(n, bool)
        start = _MARGIN + room * rng.random((n, _TRIES, 2), np.float32)
        heading = 2 * np.pi * rng.random((n, _TRIES), np.float32)
        spread = np.linspace(TURN, 3 * TURN, _TRIES, dtype=np.float32)
        for index in range(dashes):
            direction = np.stack([np.cos(heading), np.sin(heading)], axis=-1)
            ends = np.stack([start, start + DASH * direction], axis=2)  # n tries end xy
            free = self._is_free(ends, oldest_own)
            goes_on = free & self._is_free((ends[:, :, 1] + (GAP + DASH) * direction)[:, :, None], oldest_own)
            choice = (free + 1.0 * goes_on).argmax(axis=1)
            fits &= free[rows, choice]
            path[:, index] = ends[rows, choice]
            self._take(path[:, index])
            start = np.repeat((path[:, index, 1] + GAP * direction[rows, choice])[:, None], _TRIES, axis=1)
            turn = np.clip(spread * rng.standard_normal((n, _TRIES), np.float32), -_SHARPEST_TURN, _SHARPEST_TURN)
            heading = heading[rows, choice][:, None] + turn
        return path, fits & self._has_room_for_dots(path, oldest_own)

    def _is_free(self, points: NDArray[np.floating], oldest_own: int) -> NDArray[np.bool_]:
        """Whether `points` `[n, tries, k, xy]` lie inside, and near no dash but the last two of this path."""
        last = self.taken.shape[-1] - 2 * _BORDER - 1
        inside = ((points >= _MARGIN) & (points <= last - _MARGIN)).all(axis=(2, 3))
        near = self.taken[self._pixels(points)]
        free = (near == 0) | (near >= max(oldest_own, self.count[0] - 1))
        return np.asarray(inside & free.all(axis=2))

    def _take(self, ends: NDArray[np.floating]) -> None:
        """Marks the free pixels near a new dash `[n, 2, xy]` of each image."""
        self.count[0] += 1
        offsets = np.mgrid[-_BORDER : _BORDER + 1, -_BORDER : _BORDER + 1].reshape(2, -1).T
        near = offsets[np.linalg.norm(offsets, axis=1) < _CLEARANCE].astype(np.float32)
        pixels = self._pixels(ends[:, :, None] + near)
        self.taken[pixels] = np.where(self.taken[pixels] == 0, self.count[0], self.taken[pixels])

    def _has_room_for_dots(self, path: NDArray[np.floating], oldest_own: int) -> NDArray[np.bool_]:
        """Whether other paths are one pixel further away from the ends of a path than from the rest of it."""
        ends = np.stack([path[:, 0, 0], path[:, -1, 1]], axis=1)
        around = np.array([(1, 0), (-1, 0), (0, 1), (0, -1)], np.float32)
        near = self.taken[self._pixels(ends[:, :, None] + around)]
        return np.asarray(((near == 0) | (near > oldest_own)).all(axis=(1, 2)))

    def _pixels(self, points: NDArray[np.floating]) -> tuple[NDArray[np.intp], ...]:
        """Indices into `taken` of the pixels of points `[n, .., xy]`; points far outside fall on its border."""
        places = np.clip(np.rint(points).astype(np.intp) + _BORDER, 0, self.taken.shape[-1] - 1)
        images = np.arange(len(points)).reshape(-1, *[1] * (points.ndim - 2))
        return np.broadcast_to(images, places.shape[:-1]), places[..., 1], places[..., 0]


def draw(dashes: NDArray[np.floating], dots: NDArray[np.floating], size: int) -> NDArray[np.uint8]:
    """Images `[n, size, size]`, black with white dashes and dots that have smooth edges.

    Args:
        dashes: Both ends of each dash, `[n, dashes, 2, xy]` in pixels; NaN leaves a dash out.
        dots: Centres of the dots, `[n, dots, xy]`.
        size: Pixels per side.
    """
    ink = np.zeros((len(dashes), size * size), np.float32)
    along = np.linspace(0, 1, _POINTS)[:, None]
    points = dashes[:, :, :1] * (1 - along) + dashes[:, :, 1:] * along  # n dashes points xy
    _stamp(ink, points.reshape(len(dashes), -1, 2), DASH_RADIUS, size)
    _stamp(ink, dots, DOT_RADIUS, size)
    return np.rint(255 * ink).astype(np.uint8).reshape(-1, size, size)


def _stamp(ink: NDArray[np.float32], points: NDArray[np.floating], radius: float, size: int) -> None:
    """Adds a disc at each of `points` `[n, points, xy]`; where discs overlap, the brighter one counts."""
    image, point = np.nonzero(~np.isnan(points[..., 0]))
    centres = points[image, point]
    reach = int(np.ceil(radius + 0.5))
    for dy in range(-reach, reach + 1):
        for dx in range(-reach, reach + 1):
            pixels = np.rint(centres).astype(np.intp) + np.array([dx, dy])
            strength = np.clip(radius + 0.5 - np.linalg.norm(pixels - centres, axis=1), 0, 1).astype(np.float32)
            used = (strength > 0) & ((pixels >= 0) & (pixels < size)).all(axis=1)
            np.maximum.at(ink, (image[used], pixels[used, 1] * size + pixels[used, 0]), strength[used])
