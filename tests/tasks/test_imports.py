"""Listing tasks imports every module of the folder, so none may load a heavy library."""

from __future__ import annotations

import subprocess
import sys

import hedgebench

SCRIPT = """
import importlib, pathlib, sys, hedgebench
root = pathlib.Path(hedgebench.__file__).parent
files = sorted((root / "tasks").rglob("*.py"))
assert len(files) > 50
for file in files:
    importlib.import_module(".".join(("hedgebench", *file.relative_to(root).with_suffix("").parts)))
print(*sorted({name.split(".")[0] for name in sys.modules} & set(sys.argv[1:])))
"""
HEAVY = ("torch", "numpy", "pandas", "datasets", "transformers", "tokenizers", "huggingface_hub", "pyarrow", "scipy")


def test_importing_every_task_loads_no_heavy_library() -> None:
    root = str(__import__("pathlib").Path(hedgebench.__file__).parent.parent)
    result = subprocess.run(
        [sys.executable, "-c", SCRIPT, *HEAVY],
        env={"PYTHONPATH": ":".join([root, *sys.path])},
        capture_output=True,
        text=True,
        check=True,
    )
    assert result.stdout.strip() == ""
