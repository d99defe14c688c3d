"""Peaks of NVIDIA devices by their datasheets, for rooflines: dense tensor-core FLOP/s and memory bandwidth."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True)
class DevicePeak:
    """A device's peaks.

    Attributes:
        flops_per_s: FLOP/s of dense matrix products by type, without sparsity.
        bytes_per_s: Memory bandwidth.
        source: Where the numbers are printed.
    """

    flops_per_s: Mapping[str, float]
    bytes_per_s: float
    source: str


_H100 = "NVIDIA H100 Tensor Core GPU datasheet; its numbers with sparsity halved"
_H200 = "NVIDIA H200 Tensor Core GPU datasheet; its numbers with sparsity halved"

DEVICE_PEAKS: Mapping[str, DevicePeak] = {
    "NVIDIA H100 80GB HBM3": DevicePeak({"bfloat16": 989.5e12, "float32": 67e12}, 3.35e12, _H100),
    "NVIDIA H100 PCIe": DevicePeak({"bfloat16": 756.5e12, "float32": 51e12}, 2.0e12, _H100),
    "NVIDIA H100 NVL": DevicePeak({"bfloat16": 835.5e12, "float32": 60e12}, 3.9e12, _H100),
    "NVIDIA H200": DevicePeak({"bfloat16": 989.5e12, "float32": 67e12}, 4.8e12, _H200),
}
"""By the name that the driver gives. float32 is without tensor cores, as this project runs it (`ieee`, no TF32)."""


def device_peak(name: str) -> DevicePeak | None:
    """The peaks of a device; None if its datasheet is not in the table."""
    return DEVICE_PEAKS.get(name)
