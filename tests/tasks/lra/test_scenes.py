"""Tests of tasks/lra/scenes.py."""

from __future__ import annotations

from functools import cache

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components
from sklearn.linear_model import LogisticRegression

from hedgebench.tasks.lra.scenes import DASH, GAP, PathfinderSettings, Scenes, draw, generate_scenes

SIZE = 24
SETTINGS = PathfinderSettings(SIZE, dashes=6, distractors=3)


def joined(parts: list[Scenes]) -> Scenes:
    return Scenes(*(np.concatenate(arrays) for arrays in zip(*(vars(part).values() for part in parts), strict=True)))


@cache
def scenes() -> Scenes:
    return joined(list(generate_scenes(np.random.default_rng(0), 1_600, SETTINGS)))


def by_linking_near_ends(dashes: NDArray[np.floating], dots: NDArray[np.floating]) -> bool:
    """Whether two dots are on one path, told from where dashes lie alone: those whose ends are near are linked."""
    dashes = dashes[~np.isnan(dashes[:, 0, 0])]
    ends = dashes.reshape(-1, 2)
    distances = np.linalg.norm(ends[:, None] - ends[None], axis=-1)
    owner = np.repeat(np.arange(len(dashes)), 2)
    i, j = np.nonzero(distances < GAP + 0.1)
    _, component = connected_components(coo_array((np.ones(len(i)), (owner[i], owner[j]))), directed=False)
    marked = [component[owner[np.linalg.norm(ends - dot, axis=1).argmin()]] for dot in dots]
    return bool(marked[0] == marked[1])


def test_labels_are_right_by_where_the_dots_were_put() -> None:
    made = scenes()
    ends = np.stack([made.paths[:, :, 0, 0], made.paths[:, :, -1, 1]], axis=2)  # n path end xy
    on_path = [(ends == dot[:, None, None]).all(axis=-1).any(axis=2) for dot in made.dots.swapaxes(0, 1)]
    assert (on_path[0].sum(axis=1) == 1).all()
    assert (on_path[1].sum(axis=1) == 1).all()
    assert ((on_path[0] == on_path[1]).all(axis=1) == (made.labels == 1)).all()
    assert (np.linalg.norm(made.dots[:, 0] - made.dots[:, 1], axis=1) > 0).all()


def test_labels_can_be_told_from_the_dashes_alone() -> None:
    made = scenes()
    dashes = np.concatenate([made.paths.reshape(len(made), -1, 2, 2), made.distractors], axis=1)
    told = [by_linking_near_ends(*scene) for scene in zip(dashes[:400], made.dots[:400], strict=True)]
    assert told == (made.labels[:400] == 1).tolist()


def test_dashes_have_their_length_and_their_gaps() -> None:
    made = scenes().paths
    assert np.linalg.norm(made[..., 1, :] - made[..., 0, :], axis=-1) == pytest.approx(DASH, abs=1e-4)
    assert np.linalg.norm(made[:, :, 1:, 0] - made[:, :, :-1, 1], axis=-1) == pytest.approx(GAP, abs=1e-4)
    assert made.min() >= 2
    assert made.max() <= SIZE - 3


def test_the_two_paths_keep_clear_of_each_other() -> None:
    ends = scenes().paths.reshape(len(scenes()), 2, -1, 1, 2)
    apart = np.linalg.norm(ends[:, 0] - ends[:, 1].swapaxes(1, 2), axis=-1).min(axis=(1, 2))
    assert apart.min() > GAP + 0.1


@pytest.mark.parametrize("rows", [300, 301])
def test_labels_are_half_and_half(rows: int) -> None:
    labels = joined(list(generate_scenes(np.random.default_rng(1), rows, SETTINGS))).labels
    assert (len(labels), labels.sum()) == (rows, rows // 2)


def test_no_simple_statistic_tells_the_labels_apart() -> None:
    made = scenes()
    images = made.images(SIZE).reshape(len(made), -1).astype(float) / 255
    apart = np.linalg.norm(made.dots[:, 0] - made.dots[:, 1], axis=1)
    from_centre = np.linalg.norm(made.dots - (SIZE - 1) / 2, axis=2).sum(axis=1)
    columns = np.stack([images.sum(1), images.std(1), (images > 0.5).sum(1), apart, apart**2, from_centre], axis=1)
    columns = (columns - columns.mean(0)) / columns.std(0)
    train, test = slice(0, 800), slice(800, None)
    for features in (columns[:, :1], columns, images):
        model = LogisticRegression(C=0.1, max_iter=1_000).fit(features[train], made.labels[train])
        accuracy = model.score(features[test], made.labels[test])
        assert abs(accuracy - 0.5) < 4 * 0.5 / 800**0.5


def test_the_seed_decides() -> None:
    first, again, other = (
        next(generate_scenes(np.random.default_rng(seed), 50, SETTINGS)).images(SIZE) for seed in (0, 0, 1)
    )
    assert (first == again).all()
    assert (first != other).any()


def test_a_dash_and_a_dot_are_drawn_where_they_lie() -> None:
    dashes = np.array([[[[2.0, 3.0], [5.0, 3.0]], [[np.nan, np.nan], [np.nan, np.nan]]]])
    image = draw(dashes, np.array([[[10.0, 9.0]]]), 14)[0]
    assert np.argwhere(image[:6]).tolist() == [[3, 2], [3, 3], [3, 4], [3, 5]]
    assert (image[8:11, 9:12] > 140).all()
    assert image[9, 10] == 255
    assert image[6:].astype(bool).sum() <= 13


def test_what_falls_outside_is_not_drawn_elsewhere() -> None:
    image = draw(np.zeros((1, 0, 2, 2)), np.array([[[0.0, 0.0]]]), 8)[0]
    assert image[0, 0] == 255
    assert image[3:].sum() == image[:, 3:].sum() == 0


def test_paths_that_do_not_fit_are_refused() -> None:
    with pytest.raises(ValueError, match="two paths of 12 dashes find no place in 12 pixels"):
        list(generate_scenes(np.random.default_rng(0), 4, PathfinderSettings(12, dashes=12, distractors=0)))
