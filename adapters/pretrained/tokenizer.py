"""The tokenizer of a checkpoint, read by transformers' AutoTokenizer.

All code that needs a checkpoint's tokenizer reads it here. Importing this module needs neither torch nor transformers.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from ..backbone import CheckpointError
from .weight_files import transformers_config

VOCABULARIES = (
    *("tokenizer.json", "vocab.txt", "vocab.json"),
    *("tokenizer.model", "spiece.model", "sentencepiece.bpe.model"),
)
"""Files that hold a vocabulary. Without one, AutoTokenizer silently makes an empty tokenizer for some model types."""


def has_tokenizer(folder: Path) -> bool:
    """Whether a checkpoint has a vocabulary."""
    return any((folder / name).is_file() for name in VOCABULARIES)


def load_tokenizer(folder: Path) -> Any:
    """The tokenizer of a checkpoint; for a converted checkpoint, that of its base. No code of the checkpoint runs.

    Raises:
        CheckpointError: The folder has no vocabulary, or transformers cannot read it.
    """
    if not has_tokenizer(folder):
        raise CheckpointError(f"{folder} has no tokenizer: none of {', '.join(VOCABULARIES)}")
    from transformers import AutoTokenizer

    config = transformers_config(folder)
    try:
        return AutoTokenizer.from_pretrained(str(folder), config=config, trust_remote_code=False, local_files_only=True)
    except MemoryError:
        raise
    except Exception as error:  # for a damaged file, the library tokenizers raises plain exceptions
        raise CheckpointError(f"transformers cannot read the tokenizer in {folder}: {error}") from error
