"""Training checkpoints: written atomically, and read without running code from the file."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from ...results.atomic import replacing


def save_checkpoint(path: Path, model: nn.Module, optimizer: torch.optim.Optimizer, state: dict[str, Any]) -> None:
    """Writes trained weights, optimiser state, random states and `state` to `path` atomically.

    Args:
        path: File to write; its folder is created.
        model: Model whose trained weights are written.
        optimizer: Optimiser whose state is written.
        state: Tensors and plain values, nested in dicts and lists.
    """
    content = {
        "model": trained_weights(model),
        "optimizer": optimizer.state_dict(),
        "cpu_random_state": torch.get_rng_state(),
        "cuda_random_states": torch.cuda.get_rng_state_all() if torch.cuda.is_available() else [],
        "state": state,
    }
    with replacing(path) as file:
        torch.save(content, file)


def trained_weights(model: nn.Module) -> dict[str, Tensor]:
    """The weights of `model` that training changes, by name; they share memory with the model."""
    return {name: value.detach() for name, value in model.named_parameters() if value.requires_grad}


def put_weights(model: nn.Module, weights: Mapping[str, Tensor]) -> None:
    """Copies trained weights into a model.

    Raises:
        RuntimeError: The names or shapes are not those of the model's trained weights.
    """
    if odd := sorted(trained_weights(model).keys() ^ weights.keys()):
        raise RuntimeError(f"the checkpoint is of another model: {len(odd)} weights differ, such as {odd[0]}")
    model.load_state_dict(weights, strict=False)


def load_checkpoint(path: Path, model: nn.Module, optimizer: torch.optim.Optimizer) -> dict[str, Any]:
    """Restores what `save_checkpoint` wrote; returns its `state`, with tensors on the CPU.

    Raises:
        RuntimeError: The file belongs to another model, or is damaged.
    """
    content = torch.load(path, map_location="cpu", weights_only=True)
    put_weights(model, content["model"])
    optimizer.load_state_dict(content["optimizer"])
    torch.set_rng_state(content["cpu_random_state"])
    if content["cuda_random_states"]:
        torch.cuda.set_rng_state_all(content["cuda_random_states"])
    state: dict[str, Any] = content["state"]
    return state
