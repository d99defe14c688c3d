"""Peaks of NVIDIA devices by their datasheets, for rooflines: dense tensor-core FLOP/s and memory bandwidth."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True)
class Roof:
    """A machine's peaks for numbers of one type.

    Attributes:
        flops_per_s: FLOP/s of dense matrix products, without sparsity.
        bytes_per_s: Memory bandwidth.
        source: Where the numbers are printed, or how they were measured.
    """

    flops_per_s: float
    bytes_per_s: float
    source: str


_H100 = "NVIDIA H100 Tensor Core GPU datasheet; its numbers with sparsity halved"
_H200 = "NVIDIA H200 Tensor Core GPU datasheet; its numbers with sparsity halved"

DEVICE_PEAKS: Mapping[str, Mapping[str, Roof]] = {
    "NVIDIA H100 80GB HBM3": {"bfloat16": Roof(989.5e12, 3.35e12, _H100), "float32": Roof(67e12, 3.35e12, _H100)},
    "NVIDIA H100 PCIe": {"bfloat16": Roof(756.5e12, 2.0e12, _H100), "float32": Roof(51e12, 2.0e12, _H100)},
    "NVIDIA H100 NVL": {"bfloat16": Roof(835.5e12, 3.9e12, _H100), "float32": Roof(60e12, 3.9e12, _H100)},
    "NVIDIA H200": {"bfloat16": Roof(989.5e12, 4.8e12, _H200), "float32": Roof(67e12, 4.8e12, _H200)},
}
"""Peaks by the name that the driver gives, then by type. float32 is without tensor cores, as this project runs it
(`ieee`, no TF32)."""
