"""Training checkpoints: written atomically, sealed by a digest, and read without running code from the file.

A checkpoint ends in the SHA-256 of its content, as torch does not notice bytes that changed in a tensor. Checkpoints of
earlier releases have none.
"""

from __future__ import annotations

import hashlib
import io
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import IO, Any, cast

import torch
from torch import Tensor, nn

from ...results.atomic import replacing

_SEAL = b"\nsha256:"
_SEAL_BYTES = len(_SEAL) + hashlib.sha256().digest_size
_CHUNK_BYTES = 2**20


class DamagedCheckpointError(RuntimeError):
    """A checkpoint cannot be read, or is of another model; neither model nor optimiser was changed."""


def save_checkpoint(path: Path, model: nn.Module, optimizer: torch.optim.Optimizer, state: dict[str, Any]) -> None:
    """Writes trained weights, optimiser state, random states and `state` to `path` atomically.

    Args:
        path: File to write; its folder is created.
        model: Model whose trained weights are written.
        optimizer: Optimiser whose state is written.
        state: Tensors and plain values, nested in dicts and lists.

    Raises:
        OSError: It cannot be written; an earlier one is kept, and nothing else is left.
    """
    content = {
        "model": trained_weights(model),
        "optimizer": optimizer.state_dict(),
        "cpu_random_state": torch.get_rng_state(),
        "cuda_random_states": torch.cuda.get_rng_state_all() if torch.cuda.is_available() else [],
        "state": state,
    }
    with replacing(path) as file:
        sealed = _Sealed(file)
        try:
            torch.save(content, cast("IO[bytes]", sealed))
        except RuntimeError as error:  # torch hides the system's refusal behind an error of its own
            raise sealed.refused or error from error
        file.write(_SEAL + sealed.digest.digest())


class _Sealed(io.RawIOBase):
    """Passes bytes on to a file, and keeps their digest and the error that ended the writing."""

    def __init__(self, file: IO[bytes]) -> None:
        self.file = file
        self.digest = hashlib.sha256()
        self.refused: OSError | None = None

    def write(self, data: Any) -> int:
        try:
            self.file.write(data)
        except OSError as error:
            self.refused = error
            raise
        self.digest.update(data)
        return memoryview(data).nbytes


def trained_weights(model: nn.Module) -> dict[str, Tensor]:
    """The weights of `model` that training changes, by name; they share memory with the model."""
    return {name: value.detach() for name, value in model.named_parameters() if value.requires_grad}


def put_weights(model: nn.Module, weights: Mapping[str, Tensor]) -> None:
    """Copies trained weights into a model.

    Raises:
        RuntimeError: The names or shapes are not those of the model's trained weights; the model is not changed.
    """
    if problem := _misfit(trained_weights(model), weights):
        raise RuntimeError(f"the checkpoint is of another model: {problem}")
    model.load_state_dict(weights, strict=False)


def _misfit(own: Mapping[str, Tensor], weights: Mapping[str, Tensor]) -> str:
    """Why weights are not those of a model; empty if they are."""
    if odd := sorted(own.keys() ^ weights.keys()):
        return f"{len(odd)} weights differ, such as {odd[0]}"
    sizes = {name: (tuple(value.shape), tuple(weights[name].shape)) for name, value in own.items()}
    wrong = (name for name, (ours, theirs) in sizes.items() if ours != theirs)
    return next((f"size mismatch for {name}: {sizes[name][1]}, not {sizes[name][0]}" for name in wrong), "")


def load_checkpoint(
    path: Path, model: nn.Module, optimizer: torch.optim.Optimizer, needed: Sequence[str] = ()
) -> dict[str, Any]:
    """Restores what `save_checkpoint` wrote; returns its `state`, with tensors on the CPU.

    Args:
        path: The file.
        model: Model that takes the weights.
        optimizer: Optimiser that takes the state.
        needed: Names that the file's `state` must have.

    Raises:
        DamagedCheckpointError: The file belongs to another model, or is damaged. Model and optimiser are as before.
    """
    before = optimizer.state_dict()
    try:
        content = _read(path)
        weights, moments = content["model"], content["optimizer"]
        state: dict[str, Any] = content["state"]
        cuda_states: list[Tensor] = content["cuda_random_states"]
        if missing := sorted(set(needed) - state.keys()):
            raise ValueError(f"it lacks {', '.join(missing)}")
        problem = _misfit(trained_weights(model), weights)
        if not problem:
            torch.Generator().set_state(content["cpu_random_state"])
            optimizer.load_state_dict(moments)
    except (MemoryError, torch.OutOfMemoryError):
        raise
    except Exception as error:  # torch has no error of its own for a damaged file
        raise DamagedCheckpointError(f"{path} is damaged ({_in_one_line(error)})") from error
    if not problem and (problem := _misfit_of_moments(optimizer)):
        optimizer.load_state_dict(before)
    if problem:
        raise DamagedCheckpointError(f"{path} is of another model: {problem}")
    model.load_state_dict(weights, strict=False)
    torch.set_rng_state(content["cpu_random_state"])
    for index, random_state in enumerate(cuda_states[: torch.cuda.device_count()]):  # there may be fewer than before
        torch.cuda.set_rng_state(random_state, index)
    return state


def is_damaged(path: Path) -> bool:
    """Whether a checkpoint is missing or cannot be read."""
    try:
        _read(path)
    except (MemoryError, torch.OutOfMemoryError):
        raise
    except Exception:  # torch has no error of its own for a damaged file
        return True
    return False


def _misfit_of_moments(optimizer: torch.optim.Optimizer) -> str:
    """Why the state of an optimiser is not that of its parameters; empty if it is."""
    for parameter, values in optimizer.state.items():
        for name, value in values.items():
            if isinstance(value, Tensor) and value.ndim and value.shape != parameter.shape:
                return f"size mismatch for {name}: {tuple(value.shape)}, not {tuple(parameter.shape)}"
    return ""


def _read(path: Path) -> dict[str, Any]:
    """The content of a checkpoint, once its digest has been compared.

    Raises:
        ValueError: The digest is not that of the content, or the content is no mapping.
    """
    with path.open("rb") as file:
        size = file.seek(0, io.SEEK_END) - _SEAL_BYTES
        file.seek(max(0, size))
        seal = file.read()
        file.seek(0)
        if seal.find(_SEAL) > 0:
            raise ValueError("its end is cut off")
        if seal.startswith(_SEAL) and seal.removeprefix(_SEAL) != _digest(file, size):
            raise ValueError("its digest is not that of its content")
        content = torch.load(file, map_location="cpu", weights_only=True)
    if not isinstance(content, dict):
        raise ValueError(f"it holds a {type(content).__name__}")
    return content


def _digest(file: IO[bytes], size: int) -> bytes:
    """SHA-256 of the first `size` bytes; the file is at its start afterwards."""
    digest = hashlib.sha256()
    while size > 0 and (part := file.read(min(size, _CHUNK_BYTES))):
        digest.update(part)
        size -= len(part)
    file.seek(0)
    return digest.digest()


def _in_one_line(error: Exception) -> str:
    """The kind of an error and its first sentence: torch's own advice to load unsafely is left out."""
    first = str(error).partition("\n")[0].partition(". ")[0]
    return f"{type(error).__name__}: {first[:200]}"
