"""Tests of tasks/heavy.py."""

from __future__ import annotations

import numpy
import pytest
import torch

from hedgebench.tasks import heavy


def test_names_are_those_of_the_libraries() -> None:
    assert heavy.np.float32 is numpy.float32
    assert heavy.torch.Tensor is torch.Tensor


def test_a_name_that_a_library_lacks_is_an_error() -> None:
    with pytest.raises(AttributeError, match="no_such_name"):
        _ = heavy.np.no_such_name  # type: ignore[attr-defined]
