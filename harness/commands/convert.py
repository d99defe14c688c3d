"""`bench convert`: converts one pretrained model to one mechanism on one data set, and writes it to a folder."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from rich.console import Console

from ...results.names import UsageError
from ..config import RunConfig
from ..plan import make_plan
from ..recipes import RECIPES
from ..running.progress import say
from ..running.runner import EXIT_OK, run


def convert(config: RunConfig, folder: Path, console: Console) -> int:
    """Runs one cell and keeps its model.

    Args:
        config: Configuration with one model, one task, one seed and a pretrained backbone.
        folder: Folder to write the model to.
        console: Console to print to.

    Returns:
        0 if the model was written, 3 if the cell failed, 130 if the run was interrupted.

    Raises:
        UsageError: The folder is not empty, or the configuration is not of exactly one conversion.
    """
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise UsageError(f"--to {str(folder)!r} holds something already; give a folder that is empty or absent")
    planned = make_plan(config)
    if len(planned) != 1:
        raise UsageError(f"--model and --data ask for {len(planned)} conversions; ask for one")
    cell = planned[0].cell
    if not RECIPES[cell.recipe].pretrained:
        is_small = RECIPES[cell.recipe].trains_teacher
        problem = "converts a model that it trains itself, which no folder can hold" if is_small else "converts nothing"
        raise UsageError(
            f"recipe {cell.recipe} {problem}; choose among "
            f"{', '.join(name for name, recipe in RECIPES.items() if recipe.pretrained)} and a pretrained --base"
        )
    code = run(replace(config, save_to=str(folder.resolve())), console, planned=planned)
    if code == EXIT_OK:
        say(console, f"converted model: {folder}; use it as {cell.model}@hf:{folder}")
    return code
