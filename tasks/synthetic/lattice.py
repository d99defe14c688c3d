"""Mazes on a square lattice: spanning trees by depth-first search, many side by side, and the paths in them.

Cells are numbered row by row. A tree is stored as the parent of each cell; the root is its own parent.
"""

from __future__ import annotations

from ..heavy import NDArray, np


def neighbours(side: int) -> NDArray[np.int32]:
    """The cells above, below, left and right of each cell, `[cells, 4]`; -1 beyond the edge."""
    grid = np.pad(np.arange(side**2, dtype=np.int32).reshape(side, side), 1, constant_values=-1)
    beside = (grid[:-2, 1:-1], grid[2:, 1:-1], grid[1:-1, :-2], grid[1:-1, 2:])
    return np.stack(beside, axis=-1).reshape(-1, 4)


def depth_first_trees(rng: np.random.Generator, rows: int, side: int) -> tuple[NDArray[np.int32], NDArray[np.int32]]:
    """Parents and depths `[rows, cells]` of depth-first searches from a random cell with random turns.

    All rows search side by side: in each step a row enters a new cell next to its current one, or goes back by one.
    """
    cells, row = side**2, np.arange(rows)
    beside = neighbours(side)
    at = rng.integers(cells, size=rows).astype(np.int32)
    parent, depth = np.tile(np.arange(cells, dtype=np.int32), (rows, 1)), np.zeros((rows, cells), np.int32)
    seen = np.zeros((rows, cells), bool)
    seen[row, at] = True
    while not seen.all():
        options = beside[at]  # rows 4
        is_open = (options >= 0) & ~seen[row[:, None], options]
        choice = options[row, np.where(is_open, rng.random(options.shape), -1.0).argmax(axis=1)]
        enters = is_open.any(axis=1)
        new, entered, before = row[enters], choice[enters], at[enters]
        parent[new, entered], depth[new, entered] = before, depth[new, before] + 1
        seen[new, entered] = True
        at = np.where(enters, choice, parent[row, at])
    return parent, depth


def paths(
    parent: NDArray[np.int32], depth: NDArray[np.int32], origin: NDArray[np.int64], target: NDArray[np.int64]
) -> tuple[NDArray[np.int32], NDArray[np.int32]]:
    """The paths `[rows, cells]` from origins to targets, zeros after their end, and the number of cells of each.

    Both ends climb towards the root, the deeper one first, until they meet.
    """
    rows, cells = parent.shape
    row, ends = np.arange(rows), [origin.copy(), target.copy()]
    path, back = np.zeros((rows, cells), np.int32), np.zeros((rows, cells), np.int32)
    taken = [np.zeros(rows, np.int64), np.zeros(rows, np.int64)]
    while (apart := ends[0] != ends[1]).any():
        first_climbs = apart & (depth[row, ends[0]] >= depth[row, ends[1]])
        for side, (cells_of, climbs) in enumerate(((path, first_climbs), (back, apart & ~first_climbs))):
            cells_of[row[climbs], taken[side][climbs]] = ends[side][climbs]
            taken[side] = taken[side] + climbs
            ends[side] = np.where(climbs, parent[row, ends[side]], ends[side])
    path[row, taken[0]] = ends[0]
    lengths = taken[0] + 1 + taken[1]
    place = np.arange(cells)
    from_back = (place > taken[0][:, None]) & (place < lengths[:, None])
    turned = np.take_along_axis(back, np.clip(lengths[:, None] - 1 - place, 0, cells - 1), axis=1)
    return np.where(from_back, turned, np.where(place <= taken[0][:, None], path, 0)), lengths.astype(np.int32)


def passages(parent: NDArray[np.int32]) -> NDArray[np.bool_]:
    """Whether a passage joins two cells, `[rows, cells, cells]`, from the parents `[rows, cells]`."""
    rows, cells = parent.shape
    joined = np.zeros((rows, cells, cells), bool)
    row, cell = np.arange(rows)[:, None], np.arange(cells)
    joined[row, cell, parent] = joined[row, parent, cell] = True
    joined[:, cell, cell] = False
    return joined
