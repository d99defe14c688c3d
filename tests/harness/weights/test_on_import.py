"""transformers loads converted models after `import hedgebench`, in whichever order the two are imported."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from hedgebench.adapters.pretrained.converted import save_converted

from ...adapters.swapped import built

CHECK = """
import sys
model = AutoModelForCausalLM.from_pretrained({folder!r})
assert any("attention_core" in name for name, _ in model.named_parameters())
tokenizer = AutoTokenizer.from_pretrained({folder!r})
ids = tokenizer("the cat", return_tensors="pt").input_ids
print(model.generate(ids, max_new_tokens=3, do_sample=False, pad_token_id=0).shape[1] - ids.shape[1])
"""
IMPORTS = {
    "hedgebench first": "import hedgebench, sys\nassert 'torch' not in sys.modules\n"
    "from transformers import AutoModelForCausalLM, AutoTokenizer",
    "transformers first": "from transformers import AutoModelForCausalLM, AutoTokenizer\nimport hedgebench",
    "between": "import transformers, hedgebench\nfrom transformers import AutoModelForCausalLM, AutoTokenizer",
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    base = tmp_path_factory.mktemp("base")
    adapter = built("llama", base / "base", "hedgehog")
    save_converted(adapter.model, base / "out", base=base / "base", context_length=16, provenance={})
    return base / "out"


@pytest.mark.parametrize("order", IMPORTS)
def test_auto_classes_load_a_converted_folder(order: str, folder: Path) -> None:
    script = IMPORTS[order] + CHECK.format(folder=str(folder))
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (0, "3\n"), done.stderr
