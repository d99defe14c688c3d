"""Training checkpoints: written whole or not at all, and read without running any code from the file."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import torch
from torch import nn


def save_checkpoint(path: Path, model: nn.Module, optimizer: torch.optim.Optimizer, state: dict[str, Any]) -> None:
    """Writes weights, optimiser, random states and `state` to `path`, through a temporary name.

    Args:
        path: File to write; its folder is made.
        model: Whose weights to keep.
        optimizer: Whose moments to keep.
        state: Tensors and plain values, nested in dicts and lists.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_suffix(".tmp")
    content = {
        "model": model.state_dict(),
        "optimizer": optimizer.state_dict(),
        "cpu_random_state": torch.get_rng_state(),
        "cuda_random_states": torch.cuda.get_rng_state_all() if torch.cuda.is_available() else [],
        "state": state,
    }
    with temporary.open("wb") as file:
        torch.save(content, file)
        file.flush()
        os.fsync(file.fileno())
    temporary.replace(path)


def load_checkpoint(path: Path, model: nn.Module, optimizer: torch.optim.Optimizer) -> dict[str, Any]:
    """Puts back what `save_checkpoint` wrote, and gives its `state` with tensors on the CPU.

    Raises:
        RuntimeError: The file is of another model, or damaged.
    """
    content = torch.load(path, map_location="cpu", weights_only=True)
    model.load_state_dict(content["model"])
    optimizer.load_state_dict(content["optimizer"])
    torch.set_rng_state(content["cpu_random_state"])
    if content["cuda_random_states"]:
        torch.cuda.set_rng_state_all(content["cuda_random_states"])
    state: dict[str, Any] = content["state"]
    return state
