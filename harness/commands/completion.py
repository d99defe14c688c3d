"""`bench --print-completion SHELL`: a script that completes commands, flags and names in bash or zsh."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path

import shtab

from ...adapters.backbone import BACKBONES
from .. import registry
from ..recipes import RECIPES

_FOLDERS = frozenset({"--output", "--mirror", "--to"})
_NAMES: Mapping[str, Callable[[], Iterable[str]]] = {
    "models": lambda: registry.mechanisms().items,
    "tasks": lambda: registry.tasks().items,
    "backbone": lambda: BACKBONES,
    "recipe": lambda: RECIPES,
}
"""Names that an argument takes, by its destination."""


def completion_script(parser: argparse.ArgumentParser, shell: str) -> str:
    """The script of a shell for a parser with all its subcommands, whose arguments get the names of this installation.

    Args:
        parser: The parser; it is changed, so that it is of no use afterwards.
        shell: `bash` or `zsh`.
    """
    for each in _parsers(parser):
        for action in each._actions:
            if action.choices is None and action.dest in _NAMES:
                action.choices = sorted(_NAMES[action.dest]())
            elif action.type is Path or _FOLDERS & {*action.option_strings}:
                is_folder = bool(_FOLDERS & {*action.option_strings}) or action.dest == "runs"
                action.complete = shtab.DIRECTORY if is_folder else shtab.FILE  # type: ignore[attr-defined]
    return str(shtab.complete(parser, shell))


def _parsers(parser: argparse.ArgumentParser) -> list[argparse.ArgumentParser]:
    groups = (action for action in parser._actions if isinstance(action, argparse._SubParsersAction))
    return [parser, *(command for group in groups for command in group.choices.values())]
