"""Sizes that costs are counted from: of models, of their inputs, and of training splits, without loading any."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from ..cell import Cell


@dataclass(frozen=True)
class ModelSizes:
    """The sizes of a Transformer whose matrices are counted.

    Attributes:
        layers: Blocks.
        heads: Query heads.
        kv_heads: Key and value heads.
        width: Model width.
        mlp_width: Hidden width of the MLP.
        mlp_matrices: Matrices of the MLP: 2, or 3 with a gate.
        causal: Whether it is a decoder, with an output at each position.
        outputs: Outputs of a decoder at each position: the vocabulary; of an encoder the tokens that it embeds.
        head_is_tied: Whether a decoder's head shares the embedding's matrix.
    """

    layers: int
    heads: int
    kv_heads: int
    width: int
    mlp_width: int
    mlp_matrices: int = 2
    causal: bool = True
    outputs: int = 0
    head_is_tied: bool = True

    @property
    def head_dim(self) -> int:
        """Width of a head."""
        return self.width // self.heads

    @property
    def block_weights(self) -> int:
        """Numbers in the matrices of one block."""
        keys_and_values = 2 * self.width * self.kv_heads * self.head_dim
        return 2 * self.width**2 + keys_and_values + self.mlp_matrices * self.width * self.mlp_width

    @property
    def weights(self) -> int:
        """Numbers in all matrices; positions, biases and norms are left out."""
        return self.layers * self.block_weights + self.outputs * self.width * (1 if self.head_is_tied else 2)


PRETRAINED: Mapping[str, ModelSizes] = {
    "gpt2": ModelSizes(12, 12, 12, 768, 3072, outputs=50_257),
    "bert-base": ModelSizes(12, 12, 12, 768, 3072, causal=False, outputs=30_522),
    "minilm-l6": ModelSizes(6, 12, 12, 384, 1536, causal=False, outputs=30_522),
    "vit-b16": ModelSizes(12, 12, 12, 768, 3072, causal=False),
    "llama2-7b": ModelSizes(32, 32, 32, 4096, 11_008, 3, outputs=32_000, head_is_tied=False),
    "smollm2-135m": ModelSizes(30, 9, 3, 576, 1536, 3, outputs=49_152),
}
"""Sizes of pretrained backbones, as their published configurations have them."""

_GPT2_TOKENS = 50_257
_PIXELS = {"digits": 8, "images:dataset=local/mnist-10k": 28, "cifar10": 32}
"""Pixels of a side of data whose task does not set them."""

TRAIN_ROWS: Mapping[str, int] = {
    "glue/cola": 8_551,
    "glue/sst2": 67_349,
    "glue/mrpc": 3_668,
    "glue/stsb": 5_749,
    "glue/qqp": 363_846,
    "glue/mnli": 392_702,
    "glue/qnli": 104_743,
    "glue/rte": 2_490,
    "attention_fidelity_cola": 8_551,
    "samsum": 14_731,
    "imagenet1k": 1_281_167,
}
"""Rows of official training splits."""

TRAIN_WORDS: Mapping[str, int] = {"wikitext2": 2_088_628, "wikitext103": 103_227_021, "attention_fidelity": 2_088_628}
"""Words of training texts that are cut into rows of the context length; each counts as one token."""

TOKENS_PER_ROW: Mapping[str, int] = {
    "glue/cola": 11,
    "glue/sst2": 14,
    "glue/mrpc": 53,
    "glue/stsb": 28,
    "glue/rte": 67,
    "attention_fidelity_cola": 11,
    "samsum": 161,
}
"""Mean tokens of training rows, which batches of rows of like length pad little: measured with the vocabulary of BERT.

The other tasks of GLUE, whose training splits were not at hand, are counted at their longest length.
"""


@dataclass(frozen=True)
class InputSizes:
    """The inputs of one row of training.

    Attributes:
        sequences: Sequences in a row.
        length: Tokens, patches or numbers of a sequence, their mean where that is known.
        longest: Those of the longest sequence.
    """

    sequences: int
    length: int
    longest: int


def model_sizes(cell: Cell) -> ModelSizes | None:
    """The sizes of a cell's model; None for a pretrained backbone that is not in `PRETRAINED`."""
    size = cell.settings["backbone"]
    if "layers" not in size:
        return PRETRAINED.get(cell.backbone)
    layers, heads, kv_heads, width, mlp_width = (
        int(str(size[name])) for name in ("layers", "heads", "kv_heads", "width", "mlp_width")
    )
    causal = cell.backbone == "gpt"
    return ModelSizes(layers, heads, kv_heads, width, mlp_width, causal=causal, outputs=_vocabulary(cell))


def _vocabulary(cell: Cell) -> int:
    task = cell.settings["task"]
    if isinstance(vocabulary := task.get("vocab_size"), int):
        return vocabulary
    name = str(cell.data.details.get("tokenizer") or task.get("tokenizer") or "")
    if name.startswith("bpe:"):
        return int(name.removeprefix("bpe:"))
    return _GPT2_TOKENS if name in ("auto", "gpt2") else 256


def input_sizes(cell: Cell) -> InputSizes | None:
    """The inputs of a cell's training; None if they are known only once data are loaded."""
    task, name = cell.settings["task"], cell.task.partition(":")[0]
    pixels = task.get("image_size") or _PIXELS.get(cell.task)
    if name.startswith("lra/"):
        length = pixels**2 if isinstance(pixels, int) else task.get("max_length", 1024)
        return InputSizes(2 if name == "lra/retrieval" else 1, int(str(length)), int(str(length)))
    if isinstance(pixels, int):
        patch = int(str(cell.settings["backbone"].get("patch_size", 16)))
        return InputSizes(1, (pixels // patch) ** 2 + 1, (pixels // patch) ** 2 + 1)
    longest = next((task[key] for key in ("context_length", "max_length", "length") if key in task), None)
    if not isinstance(longest, int):
        return None
    return InputSizes(1, min(longest, TOKENS_PER_ROW.get(name, longest)), longest)


def train_rows(cell: Cell) -> int | None:
    """The rows of a cell's training split, from its data if they are there; None if they are not known."""
    task, name = cell.settings["task"], cell.task.partition(":")[0]
    if name in TRAIN_WORDS and (inputs := input_sizes(cell)) is not None:
        return TRAIN_WORDS[name] // inputs.length
    rows = cell.data.splits.get("train") or TRAIN_ROWS.get(name)
    wanted = task.get("train_rows")
    return min(rows, wanted) if rows and isinstance(wanted, int) else rows
