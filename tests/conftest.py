"""What every test runs under: checked tensor shapes, Triton's interpreter where there is no GPU, threads that fit."""

import os
import shutil
from pathlib import Path

# Triton reads this when it is imported, its own library included: before anything imports it.
if shutil.which("nvidia-smi") is None:
    os.environ.setdefault("TRITON_INTERPRET", "1")

# Workers of pytest-xdist share the processors: one thread each, their child processes too. torch reads this likewise.
if "PYTEST_XDIST_WORKER" in os.environ:
    os.environ.setdefault("OMP_NUM_THREADS", "1")

from jaxtyping import install_import_hook

import hedgebench

from .browsing import browser as browser

TRITON_CODE = {
    f"triton_{name}"
    for name in (
        *("backward", "decode", "distillation", "exact", "features", "forward", "one_pass", "states"),
        *("wide", "wide_backward", "window"),
    )
}
"""Modules that Triton compiles from their source, where a checking decorator has no place."""

_KERNELS = Path(hedgebench.__file__).parent / "kernels"
_CHECKED = sorted(path.stem for path in _KERNELS.glob("*.py") if path.stem not in TRITON_CODE)

install_import_hook([*(f"hedgebench.kernels.{name}" for name in _CHECKED), "hedgebench.adapters"], "beartype.beartype")
