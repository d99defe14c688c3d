"""`bench convert`: converts one pretrained model to one mechanism on one data set, and writes it to a folder."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path

from rich.console import Console

from ...adapters.pretrained.weight_files import read_config
from ...results.exchange.model_card import write_model_card
from ...results.names import UsageError
from ...results.store import RunStore
from ...tasks.data.sources import hub_is_off
from ..config import RunConfig
from ..plan import make_plan
from ..python.called import Following
from ..recipes import RECIPES
from ..running.progress import reason, say
from ..running.runner import EXIT_FAILED, EXIT_OK, default_output, run

_PIPELINES = {"bert": "text-classification", "vit": "image-classification"}
"""The hub's names of what models do, by type; all others generate text."""

NO_TOKEN = (
    "--push needs a token of the Hugging Face hub that may write: make one at https://huggingface.co/settings/tokens, "
    "then set HF_TOKEN or log in with: hf auth login"
)


def convert(
    config: RunConfig,
    folder: Path,
    console: Console,
    push: str | None = None,
    quiet: bool = False,
    following: Following | None = None,
) -> int:
    """Runs one cell and keeps its model.

    Args:
        config: Configuration with one model, one task, one seed and a pretrained backbone.
        folder: Folder to write the model to.
        console: Console to print to.
        push: Repository on the hub to upload the folder to; None for none.
        quiet: Print the table and failures only.
        following: How a Python session follows the run; None if none does.

    Returns:
        0 if the model was written, and uploaded if it had to be; 3 if that failed; 130 if the run was interrupted.

    Raises:
        UsageError: The folder is not empty, or the configuration is not of exactly one conversion.
    """
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise UsageError(f"--to {str(folder)!r} holds something already; give a folder that is empty or absent")
    planned = make_plan(config)
    if len(planned) != 1:
        raise UsageError(f"--model and --data ask for {len(planned)} conversions; ask for one")
    cell, named = planned[0].cell, planned[0].spec.backbone
    if named not in (None, config.backbone):
        raise UsageError(f"--model names the backbone {named}, and --base {config.backbone}; name it with --base alone")
    if not RECIPES[cell.recipe].pretrained:
        is_small = RECIPES[cell.recipe].trains_teacher
        problem = "converts a model that it trains itself, which no folder can hold" if is_small else "converts nothing"
        raise UsageError(
            f"recipe {cell.recipe} {problem}; choose among "
            f"{', '.join(name for name, recipe in RECIPES.items() if recipe.pretrained)} and a pretrained --base"
        )
    config = replace(config, output=config.output or str(default_output(config)), save_to=str(folder.resolve()))
    code = run(config, console, quiet, planned, **(following or {}))
    if code != EXIT_OK:
        return code
    (record,) = (r for r in RunStore(Path(config.output or "")).records().records if r.cell_id == cell.key)
    if not folder.exists():  # to run out of memory is a result of a run, and no converted model
        say(console, f"no model was written: {reason(record)}")
        return EXIT_FAILED
    write_model_card(
        record, folder, push or str(folder), _PIPELINES.get(read_config(folder)["model_type"], "text-generation")
    )
    say(console, f"converted model: {folder}; use it as {cell.model}@hf:{folder}")
    return _upload(folder, push, console) if push is not None else code


def require_push(repo: str, config: RunConfig) -> None:
    """Checks, before hours of conversion, that a folder could be uploaded.

    Raises:
        UsageError: The name is no repository's, there is no token, the hub refuses it, or the network is not to be
            used.
    """
    from huggingface_hub import HfApi, get_token
    from huggingface_hub.errors import HfHubHTTPError

    if not re.fullmatch(r"[\w.-]+/[\w.-]+", repo):
        raise UsageError(f"--push {repo!r} is no name of a repository on the hub; give ORG/NAME")
    if config.offline or hub_is_off():
        raise UsageError("--push uploads to the hub, and the run is offline; leave out --offline and HF_HUB_OFFLINE=1")
    if get_token() is None:
        raise UsageError(NO_TOKEN)
    try:
        HfApi().whoami()
    except (HfHubHTTPError, OSError) as error:
        raise UsageError(f"the hub does not take the token: {_first_line(error)}. {NO_TOKEN}") from error


def _upload(folder: Path, repo: str, console: Console) -> int:
    """Uploads a folder, into a repository that is made if it does not exist."""
    from huggingface_hub import HfApi
    from huggingface_hub.errors import HfHubHTTPError

    try:
        HfApi().create_repo(repo, exist_ok=True)
        found = HfApi().upload_folder(repo_id=repo, folder_path=folder, commit_message="Upload a converted model")
    except (HfHubHTTPError, OSError, RuntimeError) as error:  # a large file that is refused is a RuntimeError
        say(console, f"not uploaded: {_first_line(error)}; the model is in {folder}: hf upload {repo} {folder}")
        return EXIT_FAILED
    say(console, f"uploaded: {found.commit_url}")
    return EXIT_OK


def _first_line(error: Exception) -> str:
    return str(error).strip().partition("\n")[0] or type(error).__name__
