"""Draws dashes and dots into small grey images, many images at once."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

DASH_RADIUS, DOT_RADIUS = 0.4, 1.5
_POINTS = 4


def draw(dashes: NDArray[np.floating], dots: NDArray[np.floating], size: int) -> NDArray[np.uint8]:
    """Images `[n, size, size]`, black with white dashes and dots, whose edges are smoothed.

    Args:
        dashes: Both ends of each dash, `[n, dashes, 2, xy]` in pixels; those that are NaN are left out.
        dots: Centres of the dots, `[n, dots, xy]`.
        size: Pixels per side.
    """
    import numpy as np

    ink = np.zeros((len(dashes), size * size), np.float32)
    along = np.linspace(0, 1, _POINTS)[:, None]
    points = dashes[:, :, :1] * (1 - along) + dashes[:, :, 1:] * along  # n dashes points xy
    _stamp(ink, points.reshape(len(dashes), -1, 2), DASH_RADIUS, size)
    _stamp(ink, dots, DOT_RADIUS, size)
    return np.rint(255 * ink).astype(np.uint8).reshape(-1, size, size)


def _stamp(ink: NDArray[np.float32], points: NDArray[np.floating], radius: float, size: int) -> None:
    """Adds a disc at each of `points` `[n, points, xy]`; where discs meet, the darker one counts."""
    import numpy as np

    image, point = np.nonzero(~np.isnan(points[..., 0]))
    centres = points[image, point]
    reach = int(np.ceil(radius + 0.5))
    for dy in range(-reach, reach + 1):
        for dx in range(-reach, reach + 1):
            pixels = np.rint(centres).astype(np.intp) + np.array([dx, dy])
            strength = np.clip(radius + 0.5 - np.linalg.norm(pixels - centres, axis=1), 0, 1).astype(np.float32)
            used = (strength > 0) & ((pixels >= 0) & (pixels < size)).all(axis=1)
            np.maximum.at(ink, (image[used], pixels[used, 1] * size + pixels[used, 0]), strength[used])
