from __future__ import annotations

import os
import subprocess
import sys

import numpy as np
import pytest

from hedgebench.adapters.base import Capability, Examples, ModelShape
from hedgebench.harness.registry import ROOT

LISTED = sorted(
    ".".join(path.relative_to(ROOT / "adapters").with_suffix("").parts)
    for pattern in ("base", "spec", "backbone", "model_code", "training/settings", "mechanisms/*")
    for path in (ROOT / "adapters").glob(f"{pattern}.py")
)


def test_what_listings_need_imports_no_torch() -> None:
    code = "import sys\n" + "".join(f"import hedgebench.adapters.{name}\n" for name in LISTED)
    code += "print(sorted({'torch', 'numpy', 'jaxtyping', 'transformers'} & set(sys.modules)))"
    answer = subprocess.run(
        [sys.executable, "-c", code],
        env={**os.environ, "PYTHONPATH": str(ROOT / ".pyroot")},
        capture_output=True,
        text=True,
        check=True,
    )
    assert len(LISTED) >= 8
    assert answer.stdout.strip() == "[]"


@pytest.mark.parametrize(
    ("shape", "needs"),
    [
        (ModelShape(16, vocab_size=11), Capability.LANGUAGE_MODEL),
        (ModelShape(16, vocab_size=11, num_classes=2), Capability.CLASSIFIER),
        (ModelShape(1, image_size=8, num_classes=2), Capability.CLASSIFIER),
    ],
)
def test_a_shape_asks_for_what_its_outputs_are(shape: ModelShape, needs: Capability) -> None:
    assert shape.needs == needs


def test_examples_are_as_many_as_their_rows() -> None:
    assert len(Examples(np.zeros((3, 4)), np.zeros((3, 4), dtype=np.int32))) == 3
