"""Image data sets that several tasks read: CIFAR-10, and the handwritten digits that scikit-learn contains."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ..heavy import NDArray, np
from .sources import DatasetId

CIFAR10 = DatasetId("uoft-cs/cifar10", "plain_text", "0b2714987fa478483af9968de7c934580d0bb9a2", ("train", "test"))
"""Columns `img` (encoded pictures of 32 by 32 pixels) and `label`."""

DIGITS_SPLITS: Mapping[str, int] = {"train": 1_198, "validation": 200, "test": 399}
"""Rows of our own splits of scikit-learn's digits, which come without splits."""

_SHUFFLE_SEED = 0


def read_digits() -> tuple[NDArray[np.uint8], NDArray[np.int32]]:
    """The 1,797 digits: pixels `[rows, 64]` from 0, black, to 16, white, and the class of each."""
    from sklearn.datasets import load_digits

    digits: Any = load_digits()
    return digits.data.astype(np.uint8), digits.target.astype(np.int32)


def digits_places(split: str) -> NDArray[np.intp]:
    """The places of a split's rows among all digits, shuffled with a fixed seed."""
    ends = np.cumsum(list(DIGITS_SPLITS.values()))
    places = np.random.default_rng(_SHUFFLE_SEED).permutation(int(ends[-1]))
    parts: dict[str, NDArray[np.intp]] = dict(zip(DIGITS_SPLITS, np.split(places, ends[:-1]), strict=True))
    return parts[split]
