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

_ROOT = Path(hedgebench.__file__).parent


def _checked_modules() -> list[str]:
    """Modules whose tensor shapes are checked: those of kernels and adapters that hold no Triton kernel."""
    return [
        ".".join(("hedgebench", *path.relative_to(_ROOT).with_suffix("").parts))
        for floor in ("adapters", "kernels")
        for path in sorted((_ROOT / floor).rglob("*.py"))
        if "@triton.jit" not in path.read_text(encoding="utf-8")
    ]


install_import_hook(_checked_modules(), "beartype.beartype")
