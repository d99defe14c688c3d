"""Tests of tasks/synthetic/lattice.py."""

from __future__ import annotations

from collections import deque

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from hedgebench.tasks.synthetic.lattice import depth_first_trees, neighbours, passages, paths


def shortest_path(joined: NDArray[np.bool_], origin: int, target: int) -> list[int]:
    """A breadth-first search."""
    came_from, queue = {origin: origin}, deque([origin])
    while queue:
        cell = queue.popleft()
        for near in np.flatnonzero(joined[cell]).tolist():
            if near not in came_from:
                came_from[near] = cell
                queue.append(near)
    path = [target]
    while path[-1] != origin:
        path.append(came_from[path[-1]])
    return path[::-1]


def test_neighbours_are_those_of_the_lattice() -> None:
    assert neighbours(3)[4].tolist() == [1, 7, 3, 5]
    assert neighbours(3)[2].tolist() == [-1, 5, 1, -1]
    assert (neighbours(4) >= 0).sum() == 2 * 2 * 4 * 3


@settings(max_examples=20, deadline=None)
@given(st.integers(2, 6), st.integers(0, 1000))
def test_a_maze_is_a_spanning_tree_of_the_lattice(side: int, seed: int) -> None:
    parent, depth = depth_first_trees(np.random.default_rng(seed), 4, side)
    cells = side**2
    for tree, depths, joined in zip(parent, depth, passages(parent), strict=True):
        root = int(np.flatnonzero(tree == np.arange(cells)).item())
        assert joined.sum() == 2 * (cells - 1)
        assert all(near in neighbours(side)[cell] for cell, near in zip(*np.nonzero(joined), strict=True))
        assert all(len(shortest_path(joined, root, cell)) == depths[cell] + 1 for cell in range(cells))


@settings(max_examples=20, deadline=None)
@given(st.integers(2, 6), st.integers(0, 1000))
def test_paths_are_those_of_a_breadth_first_search(side: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    parent, depth = depth_first_trees(rng, 6, side)
    origin, target = rng.integers(side**2, size=(2, 6))
    found, lengths = paths(parent, depth, origin, target)
    for row, joined in enumerate(passages(parent)):
        expected = shortest_path(joined, int(origin[row]), int(target[row]))
        assert found[row].tolist() == expected + [0] * (side**2 - len(expected))
        assert lengths[row] == len(expected)


def test_depth_first_search_makes_long_corridors_and_every_small_maze() -> None:
    """A lattice of 2 by 2 has four spanning trees, all of them paths; a search goes on while it can."""
    parent, _ = depth_first_trees(np.random.default_rng(0), 4_000, 2)
    joined, counts = np.unique(passages(parent).reshape(4_000, -1), axis=0, return_counts=True)
    assert len(joined) == 4
    assert np.abs(counts / 4_000 - 1 / 4).max() < 0.03
    parent, depth = depth_first_trees(np.random.default_rng(0), 500, 5)
    ends = passages(parent).sum(-1) == 1
    assert ends.sum(1).mean() < 25 / 4  # of a uniform spanning tree nearly a third of the cells are ends
    assert depth.max(axis=1).mean() > 12
