"""Where a model computes, and in which type."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass

import torch

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}


@dataclass(frozen=True)
class Precision:
    """A device and the type that matrix products run in; weights stay in float32 unless it is pure.

    Attributes:
        device: Where tensors live.
        dtype: `torch.float32`, or `torch.bfloat16` through autocast.
        is_pure: Weights are held in `dtype` too, nothing is cast as the model runs, and log-probabilities are of that
            type: what lm-eval's `hf` model does.
    """

    device: torch.device
    dtype: torch.dtype
    is_pure: bool = False

    @classmethod
    def of(cls, device: str, dtype: str, is_pure: bool = False) -> Precision:
        """The precision that `--device` and `--dtype` ask for; `auto` is CUDA where there is one, and bfloat16 on it.

        Raises:
            ValueError: CUDA was asked for where there is none.
        """
        if device == "auto":
            device = "cuda" if torch.cuda.is_available() else "cpu"
        if device == "cuda" and not torch.cuda.is_available():
            raise ValueError("device cuda was asked for, but torch sees no CUDA device (allowed here: cpu, auto)")
        if dtype == "auto":
            dtype = "bfloat16" if device == "cuda" else "float32"
        return cls(torch.device(device), DTYPES[dtype], is_pure)

    @property
    def of_scores(self) -> torch.dtype:
        """Type of log-probabilities."""
        return self.dtype if self.is_pure else torch.float32

    def autocast(self) -> AbstractContextManager[object]:
        """The context in which the model runs."""
        if self.is_pure or self.dtype == torch.float32:
            return nullcontext()
        return torch.autocast(self.device.type, self.dtype)
