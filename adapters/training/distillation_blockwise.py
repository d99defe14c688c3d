"""Attention distillation of models that do not fit on their device: a block of layers at a time.

The base model stays in host memory; only the block under training is on the device. Each layer passes on the output of
softmax attention, so a block's inputs depend on no feature map, and each layer has the same optimum as when all layers
are distilled at once. The hidden states between two blocks are stored in files. LoLCATs distilled Llama 3.1 405B this
way, 9 of its 126 layers at a time (arXiv:2410.10254).

Each block is trained by `loop.train`, with its own optimiser, gradient clipping, schedule and early stopping.
Dropout and random changes of images are off, as hidden states are computed once for all steps. A run that was killed
resumes from its folder, which holds checkpoints of the blocks, the measurements of finished blocks, and the inputs of
the next block.
"""

from __future__ import annotations

import json
import math
import shutil
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from numpy.typing import NDArray
from torch import Tensor

from ...results.atomic import replacing
from ...results.foreign import parse_json
from ...results.run_folder import RunFolder
from ..base import Examples
from ..precision import Precision
from ..pretrained.layer_calls import LayerBlock, first_call, layers_of, require_equal_calls
from ..pretrained.model import PretrainedModel
from .checkpoint import is_damaged
from .distillation import AttentionDistillation, DistillResult, divergence_of_batches
from .loop import History, Progress, batch_rows, train
from .objective import batch_of
from .settings import DistillSettings, TrainSettings

HOST = torch.device("cpu")


@dataclass(frozen=True)
class HiddenFile:
    """A file of float32 hidden states `[rows m w]` between two layers.

    Rows and tokens that were never written are holes in the file, which take no space on disk and read as zeros.

    Attributes:
        path: The file; it exists only once it is complete.
        shape: Rows, tokens and width.
    """

    path: Path
    shape: tuple[int, int, int]

    @property
    def is_whole(self) -> bool:
        """Whether the file exists in its size."""
        return self.path.is_file() and self.path.stat().st_size == math.prod(self.shape) * 4

    def read(self, rows: NDArray[Any], tokens: int) -> Float[Tensor, "b m w"]:
        """The hidden states of the first `tokens` tokens of some rows."""
        stored = np.memmap(self.path, np.float32, "r", shape=self.shape)
        return torch.from_numpy(np.asarray(stored[rows, :tokens]))

    def write(self, batches: Iterator[tuple[NDArray[Any], Float[Tensor, "b m w"]]]) -> None:
        """Writes batches of rows with their hidden states, which may lack tokens at the end."""
        _, tokens, width = self.shape
        with replacing(self.path) as file:  # not a memory map: on a full disk, a write to it would kill the process
            file.truncate(math.prod(self.shape) * 4)
            for rows, hidden in batches:
                for row, states in zip(rows.tolist(), hidden.float().cpu().numpy(), strict=True):
                    file.seek(row * tokens * width * 4)
                    file.write(states.tobytes())


@dataclass(frozen=True)
class _Split:
    """Examples, and the rows of them that training or measuring reads."""

    name: str
    examples: Examples
    rows: NDArray[Any]


@dataclass
class BlockwiseDistillation:
    """Distils the feature maps of `model`, `distill.block_layers` layers at a time; the model ends in host memory.

    Divergence is measured on the first `settings.eval_rows` rows of the validation examples or, without these, of the
    training examples.

    Attributes:
        model: The model; its parameters that require gradients, which must be those of its attention cores, are
            trained.
        examples: Training examples; None to measure the maps without training.
        validation: Validation examples.
        settings: Hyper-parameters; steps, clipping and early stopping apply to each block.
        distill: The loss to minimise, and the number of layers in a block.
        seed: Seed of the data order, the same in every block.
        precision: Device of the block under training, and autocast type.
        folder: Folder of checkpoints and hidden states, from which a run resumes; hidden states are removed at the end.
        progress: Called after every step, with steps counted over all blocks.
        index: Index of the present block.

    Raises:
        UnsupportedError: The model does not keep its layers in one list, or calls them with different arguments.
        ValueError: There are neither training nor validation examples.
    """

    model: PretrainedModel
    examples: Examples | None
    validation: Examples | None
    settings: TrainSettings
    distill: DistillSettings
    seed: int
    precision: Precision
    folder: Path
    progress: Progress | None = None
    index: int = 0

    def __post_init__(self) -> None:
        measured = self.validation or self.examples
        if not measured:
            raise ValueError("there are no examples to distil or to measure on")
        self.measured = measured
        self.model.eval().to(HOST)
        self.objective = AttentionDistillation(self.model, self.distill, self.run_block)
        self.layers = layers_of(self.model.inner)
        require_equal_calls(self.model, self.layers)
        size = self.distill.block_layers
        self.blocks = [LayerBlock(self.layers[i : i + size]) for i in range(0, len(self.layers), size)]
        self.splits = _splits(self.examples, measured, self.settings, self.seed)

    def run(self) -> DistillResult:
        """Distils every block.

        Raises:
            OSError: The disk has no space for the hidden states.
        """
        self.folder.mkdir(parents=True, exist_ok=True)
        notes = self._start_over_if_damaged()
        self.check_space()
        outcomes = [self.block(index) for index in range(len(self.blocks))]
        self.remove_files()
        histories = [outcome.history for outcome in outcomes if outcome.history is not None]
        after = [outcome.after for outcome in outcomes if outcome.after is not None]
        joined = _joined(histories) if histories else None
        return DistillResult(
            replace(joined, notes=(*notes, *joined.notes)) if joined else None,
            np.concatenate([outcome.before for outcome in outcomes], axis=1),
            np.concatenate(after, axis=1) if after else None,
        )

    def _start_over_if_damaged(self) -> tuple[str, ...]:
        """Sets every file of a killed run aside if one that is needed is damaged; gives a note of it.

        The inputs of a finished block are gone, so it cannot be trained again by itself.
        """
        if not (name := self._damaged()):
            return ()
        for path in sorted(self.folder.glob("distill-*")):
            RunFolder(self.folder).set_aside(path)
        return (f"distillation started over: {name} is damaged; the earlier files end in .corrupt",)

    def _damaged(self) -> str:
        """The first file of a killed run that cannot be used; empty if there is none."""
        finished = 0
        for finished, _ in enumerate(self.blocks):
            if not self._marker(finished).exists():
                break
            if _kept(self._marker(finished)) is None:
                return self._marker(finished).name
            if self._is_trained(finished) and is_damaged(self._checkpoint(finished)):
                return self._checkpoint(finished).name
        else:
            return ""
        inputs = [self._file(split, finished) for split in self.splits if finished]
        return next((each.path.name for each in inputs if not each.is_whole), "")

    def block(self, index: int) -> DistillResult:
        """Distils a block, or reads the outcome of one that a killed run had finished."""
        self.index = index
        marker = self._marker(index)
        if kept := _kept(marker):
            after = None if kept["after"] is None else np.array(kept["after"])
            return DistillResult(self._train(), np.array(kept["before"]), after)
        block = self.blocks[index].to(self.precision.device)
        before, history, after = self._measure(), self._train(), self._measure() if self.examples else None
        if index + 1 < len(self.blocks):
            for split in self.splits:
                self._file(split, index + 1).write(self._outputs(split))
        block.to(HOST)
        if self.precision.device.type == "cuda":  # memory that torch caches is not free for the next block
            torch.cuda.empty_cache()
        kept = {"before": before.tolist(), "after": None if after is None else after.tolist()}
        with replacing(marker) as file:
            file.write(json.dumps(kept).encode())
        for split in self.splits:
            self._file(split, index).path.unlink(missing_ok=True)
        return DistillResult(history, before, after)

    def run_block(self, examples: Examples, rows: NDArray[Any], device: torch.device) -> Float[Tensor, "b m w"]:
        """Hidden states after the present block, for some rows of the examples."""
        inputs, mask, _ = batch_of(examples, rows, HOST)
        call = first_call(self.model, self.layers[0], inputs, mask)
        if self.index:
            split = next(split for split in self.splits if split.examples is examples)
            hidden = self._file(split, self.index).read(rows, call.hidden.shape[1])
            call = replace(call, hidden=hidden.to(call.hidden.dtype))
        out: Tensor = self.blocks[self.index](call.on(device))
        return out

    def remove_files(self) -> None:
        """Removes all files of hidden states, including those of a killed run."""
        for path in self.folder.glob("distill-hidden-*"):
            path.unlink()

    def _measure(self) -> NDArray[Any]:
        return divergence_of_batches(self.objective, self.measured, self.settings, self.precision)

    def _is_trained(self, index: int) -> bool:
        """Whether a block has maps to train: not if nothing is trained, or if a hybrid keeps all of its layers."""
        return self.examples is not None and any(p.requires_grad for p in self.blocks[index].parameters())

    def _train(self) -> History | None:
        if self.examples is None or not self._is_trained(self.index):
            return None
        return train(
            self.blocks[self.index],
            self.examples,
            self.validation,
            self.settings,
            seed=self.seed,
            precision=self.precision,
            objective=self.objective,
            checkpoint=self._checkpoint(self.index),
            progress=self._report,
        )

    def _report(self, step: int, steps: int, loss: float) -> None:
        if self.progress is not None:
            self.progress(self.index * steps + step, len(self.blocks) * steps, loss)

    @torch.no_grad()
    def _outputs(self, split: _Split) -> Iterator[tuple[NDArray[Any], Tensor]]:
        size = self.settings.eval_batch_size
        for start in range(0, len(split.rows), size):
            rows = split.rows[start : start + size]
            with self.precision.autocast(), self.model.teaching(lambda *_: None):
                yield rows, self.run_block(split.examples, rows, self.precision.device)

    def _marker(self, index: int) -> Path:
        return self.folder / f"distill-block-{index}.json"

    def _checkpoint(self, index: int) -> Path:
        return self.folder / f"distill-block-{index}.pt"

    def _file(self, split: _Split, index: int) -> HiddenFile:
        path = self.folder / f"distill-hidden-{split.name}-{index}.f32"
        return HiddenFile(path, (len(split.examples), *self.hidden_shape))

    @cached_property
    def hidden_shape(self) -> tuple[int, int]:
        """Tokens and width of a row's hidden states."""
        row, _, _ = batch_of(replace(self.measured, attention_mask=None), np.arange(1), HOST)
        _, tokens, width = first_call(self.model, self.layers[0], row, None).hidden.shape
        return tokens, width

    def check_space(self) -> None:
        """Refuses a folder whose disk has too little space for the hidden states.

        Raises:
            OSError: There is too little space.
        """
        at_once = min(2, len(self.blocks) - 1)  # a block's inputs and its outputs
        needed = at_once * sum(len(split.rows) for split in self.splits) * math.prod(self.hidden_shape) * 4
        taken = sum(path.stat().st_blocks * 512 for path in self.folder.glob("distill-hidden-*"))
        if needed > (free := shutil.disk_usage(self.folder).free + taken):
            raise OSError(
                f"hidden states between blocks need {needed / 1e9:.2f} GB, and {self.folder} has {free / 1e9:.2f} GB "
                "free; lower distill.steps or distill.epochs, raise distill.block_layers, or choose another --output"
            )


def _kept(marker: Path) -> dict[str, Any] | None:
    """The measurements of a finished block; None if its file is missing or damaged."""
    try:
        kept = parse_json(marker.read_bytes())
        shapes = [np.array(kept[name], float).ndim for name in ("before", "after") if kept[name] is not None]
    except (OSError, ValueError, KeyError, TypeError):
        return None
    return kept if shapes and set(shapes) == {3} else None


def _splits(examples: Examples | None, measured: Examples, settings: TrainSettings, seed: int) -> list[_Split]:
    """The rows whose hidden states training and measuring read."""
    first = np.arange(min(len(measured), settings.eval_rows))
    if examples is None:
        return [_Split("validation", measured, first)]
    trained = rows_trained_on(len(examples), settings, seed)
    if measured is examples:
        return [_Split("train", examples, np.union1d(trained, first))]
    return [_Split("train", examples, trained), _Split("validation", measured, first)]


def rows_trained_on(rows: int, settings: TrainSettings, seed: int) -> NDArray[Any]:
    """Rows of the training examples that the training loop may read, sorted."""
    settings = settings.for_rows(rows)
    pool = max(1, settings.length_pool)
    drawn = math.ceil(settings.steps / pool) * pool * settings.batch_size
    return np.arange(rows) if drawn >= rows else np.sort(batch_rows(rows, 0, drawn, seed))


def _joined(histories: Sequence[History]) -> History:
    """The history of all blocks, with steps counted on from block to block."""
    offsets = np.cumsum([0, *(history.steps for history in histories)]).tolist()
    return History(
        curves=tuple(
            replace(point, step=offset + point.step)
            for offset, history in zip(offsets, histories, strict=False)
            for point in history.curves
        ),
        steps=offsets[-1],
        kept_step=offsets[-2] + histories[-1].kept_step,
        kept_loss=sum(history.kept_loss for history in histories),
        kept_lowest=all(history.kept_lowest for history in histories),
        stopped_early=any(history.stopped_early for history in histories),
        notes=tuple(dict.fromkeys(note for history in histories for note in history.notes)),
    )
