"""What every test runs under: checked tensor shapes, Triton's interpreter where there is no GPU, threads that fit."""

import gc
import os
import shutil
import sys
from importlib.util import find_spec
from pathlib import Path

# Triton reads this when it is imported, its own library included: before anything imports it.
if shutil.which("nvidia-smi") is None:
    os.environ.setdefault("TRITON_INTERPRET", "1")

# Workers of pytest-xdist share the processors: one thread each, their child processes too. torch reads this likewise.
if "PYTEST_XDIST_WORKER" in os.environ:
    os.environ.setdefault("OMP_NUM_THREADS", "1")

import hedgebench

from .browsing import browser as browser
from .shape_checks import check_shapes

_ROOT = Path(hedgebench.__file__).parent


def _checked_modules() -> list[str]:
    """Modules of kernels and adapters that name tensor shapes, which are checked, and hold no Triton kernel.

    Where no shape is named there is nothing to check that mypy does not, and a check costs more than most calls here.
    """
    return [
        ".".join(("hedgebench", *path.relative_to(_ROOT).with_suffix("").parts))
        for floor in ("adapters", "kernels")
        for path in sorted((_ROOT / floor).rglob("*.py"))
        for source in [path.read_text(encoding="utf-8")]
        if "@triton.jit" not in source and "from jaxtyping import" in source
    ]


_CHECKS_SHAPES = find_spec("beartype") is not None
if _CHECKS_SHAPES:
    check_shapes(_checked_modules())


def pytest_report_header() -> str:
    return "tensor shapes: checked" if _CHECKS_SHAPES else "tensor shapes: not checked, the package beartype is missing"


def pytest_collection_finish() -> None:
    """Leaves what is imported by now out of collections of garbage, each of which would walk all of it.

    Hypothesis, when it is imported, asks the collector who refers to the generators of other packages: not before.
    """
    if "hypothesis" in sys.modules:
        gc.collect()
        gc.freeze()
