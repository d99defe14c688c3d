"""The device and the type in which a model computes."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass

import torch

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}


@dataclass(frozen=True)
class Precision:
    """A device and the type of matrix products.

    Attributes:
        device: Device of all tensors.
        dtype: `torch.float32`, or `torch.bfloat16`: by autocast, or by the type of the weights if `is_pure`.
        is_pure: The weights have the type `dtype`, log-probabilities are computed in it, and autocast is off, as in
            lm-eval's `hf` model. Otherwise weights keep the type they were loaded in, and log-probabilities are
            float32.
    """

    device: torch.device
    dtype: torch.dtype
    is_pure: bool = False

    @classmethod
    def of(cls, device: str, dtype: str, is_pure: bool = False) -> Precision:
        """The precision of a device, `cpu` or `cuda`, and a type, `float32` or `bfloat16`.

        Raises:
            ValueError: The device is CUDA, and torch sees none.
        """
        if device == "cuda" and not torch.cuda.is_available():
            raise ValueError("device cuda was asked for, but torch sees no CUDA device (allowed here: cpu, auto)")
        return cls(torch.device(device), DTYPES[dtype], is_pure)

    @property
    def of_scores(self) -> torch.dtype:
        """Type in which log-probabilities are computed."""
        return self.dtype if self.is_pure else torch.float32

    def autocast(self) -> AbstractContextManager[object]:
        """The context in which the model runs."""
        if self.is_pure or self.dtype == torch.float32:
            return nullcontext()
        return torch.autocast(self.device.type, self.dtype)
