"""Attention distillation of models that do not fit on their device: some layers at a time.

The base model stays in host memory; only the block of layers under training is on the device. As softmax attention's
outputs flow on, a block's inputs depend on no feature map, so each layer has the same optimum as when all are distilled
at once. The hidden states between two blocks lie in files, not in memory. LoLCATs distilled Llama 3.1 405B so, 9 of its
126 layers at a time (arXiv:2410.10254).

Each block goes through the one training loop, with its own optimiser, gradient clipping, schedule and early stopping.
Dropout is off, as hidden states are computed once for all steps. Everything that a run needs to go on after it was
killed is in its folder: checkpoints of the blocks, what was measured of finished ones, and the inputs of the next.
"""

from __future__ import annotations

import json
import math
import shutil
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from numpy.typing import NDArray
from torch import Tensor

from ...results.atomic import replacing
from ...results.foreign import parse_json
from ..base import Examples
from ..precision import Precision
from ..pretrained.layer_calls import LayerBlock, first_call, layers_of
from ..pretrained.model import PretrainedModel
from .conversion_settings import DistillSettings
from .distillation import AttentionDistillation, divergence_of_batches
from .loop import History, Progress, batch_rows, train
from .objective import batch_of
from .settings import TrainSettings

HOST = torch.device("cpu")


@dataclass(frozen=True)
class BlockwiseResult:
    """What block-wise distillation went through.

    Attributes:
        history: Training of all blocks, one after another: steps run on, and the best loss is the sum over blocks. None
            where nothing was trained.
        before: Divergence in nats of each batch of measured rows, layer and head, before training.
        after: The same after training; None where nothing was trained.
    """

    history: History | None
    before: Float[np.ndarray, "batches layers h"]
    after: Float[np.ndarray, "batches layers h"] | None


@dataclass(frozen=True)
class HiddenFile:
    """Hidden states of some rows between two layers: a file of float32 `[rows m w]`.

    Rows and tokens that were never written are holes, which take no room on the disk and read as zeros.

    Attributes:
        path: The file; it exists only once it is complete.
        shape: Rows, tokens and width.
    """

    path: Path
    shape: tuple[int, int, int]

    def read(self, rows: NDArray[Any], tokens: int) -> Float[Tensor, "b m w"]:
        """The first `tokens` of some rows."""
        stored = np.memmap(self.path, np.float32, "r", shape=self.shape)
        return torch.from_numpy(np.asarray(stored[rows, :tokens]))

    def write(self, batches: Iterator[tuple[NDArray[Any], Float[Tensor, "b m w"]]]) -> None:
        """Writes batches of rows with their hidden states, which may lack tokens at the end."""
        _, tokens, width = self.shape
        with replacing(
            self.path
        ) as file:  # not through the map, where a full disk would end the process without a word
            file.truncate(math.prod(self.shape) * 4)
            for rows, hidden in batches:
                for row, states in zip(rows.tolist(), hidden.float().cpu().numpy(), strict=True):
                    file.seek(row * tokens * width * 4)
                    file.write(states.tobytes())


@dataclass(frozen=True)
class _Split:
    """Examples, and those of their rows that are trained on or measured."""

    name: str
    examples: Examples
    rows: NDArray[Any]


@dataclass(frozen=True)
class _Part:
    """What came out of one block."""

    history: History | None
    before: NDArray[Any]
    after: NDArray[Any] | None


def distill_blockwise(
    model: PretrainedModel,
    examples: Examples | None,
    validation: Examples | None,
    settings: TrainSettings,
    distill: DistillSettings,
    *,
    seed: int,
    precision: Precision,
    folder: Path,
    progress: Progress | None = None,
) -> BlockwiseResult:
    """Distils the feature maps of `model`, `distill.block_layers` layers at a time, and leaves it in host memory.

    Divergence is measured on the first `settings.eval_rows` validation rows, or training rows where there are none.

    Args:
        model: Its parameters that require gradients are trained; they must be those of feature maps.
        examples: What to train on; None to leave the maps as they are and only measure.
        validation: What to validate on.
        settings: Hyper-parameters; steps, clipping and early stopping go for each block.
        distill: What to minimise, and the size of blocks.
        seed: Seed of the data order, the same in every block.
        precision: Device of the block under training, and autocast type.
        folder: Where to keep checkpoints and hidden states, and to go on from; the latter are removed at the end.
        progress: Called after every step, with steps counted over all blocks.

    Raises:
        OSError: The disk has no room for hidden states.
        UnsupportedError: The model's layers cannot be taken apart.
        ValueError: There is nothing to measure on.
    """
    if not (examples or validation):
        raise ValueError("there are no examples to distil or to measure on")
    folder.mkdir(parents=True, exist_ok=True)
    walk = _Walk(model, examples, validation, settings, distill, seed, precision, folder, progress)
    parts = [walk.block(index) for index in range(len(walk.blocks))]
    walk.remove_files()
    histories = [part.history for part in parts if part.history is not None]
    after = [part.after for part in parts if part.after is not None]
    return BlockwiseResult(
        _joined(histories) if histories else None,
        np.concatenate([part.before for part in parts], axis=1),
        np.concatenate(after, axis=1) if after else None,
    )


class _Walk:
    """The way through a model, block after block."""

    def __init__(
        self,
        model: PretrainedModel,
        examples: Examples | None,
        validation: Examples | None,
        settings: TrainSettings,
        distill: DistillSettings,
        seed: int,
        precision: Precision,
        folder: Path,
        progress: Progress | None,
    ) -> None:
        self.model, self.examples, self.validation = model.eval().to(HOST), examples, validation
        self.settings, self.seed, self.precision = settings, seed, precision
        self.folder, self.progress = folder, progress
        self.objective = AttentionDistillation(model, distill, self.run)
        self.layers = layers_of(model.inner)
        size = distill.block_layers
        self.blocks = [LayerBlock(self.layers[i : i + size]) for i in range(0, len(self.layers), size)]
        self.index = 0
        self.measured = validation or examples
        self.splits = _splits(examples, validation, settings, seed)
        self._check_room()

    def block(self, index: int) -> _Part:
        """Distils a block, or takes it as it was left when it had been finished before."""
        self.index = index
        marker = self.folder / f"distill-block-{index}.json"
        if marker.is_file():
            kept = parse_json(marker.read_bytes())
            after = None if kept["after"] is None else np.array(kept["after"])
            return _Part(self._train(), np.array(kept["before"]), after)
        block = self.blocks[index].to(self.precision.device)
        part = _Part(before=self._measure(), history=self._train(), after=self._measure() if self.examples else None)
        if index + 1 < len(self.blocks):
            for split in self.splits:
                self._file(split, index + 1).write(self._outputs(split))
        block.to(HOST)
        _free(self.precision.device)
        _write(marker, {"before": part.before.tolist(), "after": None if part.after is None else part.after.tolist()})
        for split in self.splits:
            self._file(split, index).path.unlink(missing_ok=True)
        return part

    def run(self, examples: Examples, rows: NDArray[Any], device: torch.device) -> Float[Tensor, "b m w"]:
        """Runs the block at hand on its inputs for some rows."""
        inputs, mask, _ = batch_of(examples, rows, HOST)
        call = first_call(self.model, self.layers[0], inputs, mask)
        if self.index:
            split = next(split for split in self.splits if split.examples is examples)
            hidden = self._file(split, self.index).read(rows, call.hidden.shape[1])
            call = replace(call, hidden=hidden.to(call.hidden.dtype))
        out: Tensor = self.blocks[self.index](call.on(device))
        return out

    def remove_files(self) -> None:
        """Removes all hidden states, those too that a killed run left."""
        for path in self.folder.glob("distill-hidden-*"):
            path.unlink()

    def _measure(self) -> NDArray[Any]:
        assert self.measured is not None
        return divergence_of_batches(self.objective, self.measured, self.settings, self.precision)

    def _train(self) -> History | None:
        if self.examples is None:
            return None
        return train(
            self.blocks[self.index],
            self.examples,
            self.validation,
            self.settings,
            seed=self.seed,
            precision=self.precision,
            objective=self.objective,
            checkpoint=self.folder / f"distill-block-{self.index}.pt",
            progress=self._tell,
        )

    def _tell(self, step: int, steps: int, loss: float) -> None:
        if self.progress is not None:
            self.progress(self.index * steps + step, len(self.blocks) * steps, loss)

    @torch.no_grad()
    def _outputs(self, split: _Split) -> Iterator[tuple[NDArray[Any], Tensor]]:
        size = self.settings.eval_batch_size
        for start in range(0, len(split.rows), size):
            rows = split.rows[start : start + size]
            with self.precision.autocast(), self.model.swap.watching(lambda *_: None, teaching=True):
                yield rows, self.run(split.examples, rows, self.precision.device)

    def _file(self, split: _Split, index: int) -> HiddenFile:
        path = self.folder / f"distill-hidden-{split.name}-{index}.f32"
        return HiddenFile(path, (len(split.examples), *self.shape))

    def _check_room(self) -> None:
        assert self.measured is not None
        row, _, _ = batch_of(replace(self.measured, attention_mask=None), np.arange(1), HOST)
        _, tokens, width = first_call(self.model, self.layers[0], row, None).hidden.shape
        self.shape = (tokens, width)
        at_once = min(2, len(self.blocks) - 1)  # a block's inputs and its outputs
        needed = at_once * sum(len(split.rows) for split in self.splits) * tokens * width * 4
        taken = sum(path.stat().st_blocks * 512 for path in self.folder.glob("distill-hidden-*"))
        if needed > (free := shutil.disk_usage(self.folder).free + taken):
            raise OSError(
                f"hidden states between blocks need {needed / 1e9:.2f} GB, and {self.folder} has {free / 1e9:.2f} GB "
                "free; lower distill.steps or distill.epochs, raise distill.block_layers, or choose another --output"
            )


def _splits(
    examples: Examples | None, validation: Examples | None, settings: TrainSettings, seed: int
) -> Sequence[_Split]:
    """Rows whose hidden states will be asked for."""
    measured = validation or examples
    assert measured is not None
    first = np.arange(min(len(measured), settings.eval_rows))
    if examples is None:
        return [_Split("validation", measured, first)]
    trained = rows_trained_on(len(examples), settings, seed)
    if measured is examples:
        return [_Split("train", examples, np.union1d(trained, first))]
    return [_Split("train", examples, trained), _Split("validation", measured, first)]


def rows_trained_on(rows: int, settings: TrainSettings, seed: int) -> NDArray[Any]:
    """Rows that the training loop may ask for, sorted."""
    settings = settings.for_rows(rows)
    pool = max(1, settings.length_pool)
    drawn = math.ceil(settings.steps / pool) * pool * settings.batch_size
    return np.arange(rows) if drawn >= rows else np.sort(batch_rows(rows, 0, drawn, seed))


def _joined(histories: Sequence[History]) -> History:
    offsets = np.cumsum([0, *(history.steps for history in histories)]).tolist()
    return History(
        curves=tuple(
            replace(point, step=offset + point.step)
            for offset, history in zip(offsets, histories, strict=False)
            for point in history.curves
        ),
        steps=offsets[-1],
        best_step=offsets[-2] + histories[-1].best_step,
        best_loss=sum(history.best_loss for history in histories),
        stopped_early=any(history.stopped_early for history in histories),
    )


def _free(device: torch.device) -> None:
    if device.type == "cuda":  # what torch keeps for itself would count as taken when the next block comes
        torch.cuda.empty_cache()


def _write(path: Path, content: dict[str, Any]) -> None:
    temporary = path.with_suffix(".tmp")
    temporary.write_text(json.dumps(content), encoding="utf-8")
    temporary.replace(path)
