"""Arguments of the subcommands of `bench`."""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from pathlib import Path
from typing import Any

LISTINGS = ("models", "tasks", "backbones", "recipes", "suites")
FORMATS = ("md", "csv", "latex", "json", "html")
LM_EVAL = "lm-eval"
"""The command that passes its arguments to another program."""

EXPORT_FORMATS = ("parquet", "model-index", LM_EVAL, "mlflow", "tensorboard", "wandb")
COMPARE_FORMATS = ("md", "json", "github")
SHELLS = ("bash", "zsh")
CALLERS = ("script", "notebook")
"""Kinds of Python sessions that start a command in a process of its own (see `python/session.py`)."""

CONVERT_FLAGS: Mapping[str, Mapping[str, Any]] = {
    "--recipe": {"help": "recipe of the conversion (default: the task's first for pretrained backbones)"},
    "--scale": {"help": "smoke, small or paper: hyper-parameters of the recipe (default: small)"},
    "--output": {"help": "folder of the conversion's run (default: results/runs/NAME)"},
    "--limit": {"help": "largest number of test rows when the result is measured"},
    **{flag: {} for flag in ("--device", "--devices", "--dtype", "--mirror", "--set", "--offline")},
    "--trust-remote-code": {},
}
"""Flags that `bench convert` shares with `bench run`, and what differs in their arguments to `add_argument`."""


PAPER = ("list", "run", "render", "claims")
PAPER_FLAGS: Mapping[str, Mapping[str, Any]] = {
    "--seeds": {"help": "seeds, separated by commas (default: each study's own)"},
    "--output": {"help": "folder of the run (default: results/runs/paper-SCALE)"},
    **{flag: {} for flag in ("--scale", "--device", "--dtype", "--mirror", "--executor", "--workers")},
    **{flag: {} for flag in ("--devices", "--timeout", "--offline", "--log", "--trust-remote-code")},
}
"""Flags that `bench paper` shares with `bench run`, and what differs in their arguments to `add_argument`."""


def add_run(parser: argparse.ArgumentParser) -> None:
    """Adds the arguments of `bench run`."""
    from .config import flag_arguments

    parser.description = "Without --models and --tasks this is the suite `quickstart`: no network, no GPU, minutes."
    for flag, how in flag_arguments().items():
        parser.add_argument(flag, **how)
    parser.add_argument("--config", metavar="FILE", help="TOML file with any of these settings; flags win")
    parser.add_argument("--details", action="store_true", help="print every table, then the summary")
    parser.add_argument("--quiet", action="store_true", help="print the table and failures only")
    _add_caller(parser)


def _add_caller(parser: argparse.ArgumentParser) -> None:
    """Adds the hidden option by which a Python session says how it follows this command."""
    parser.add_argument("--caller", choices=CALLERS, help=argparse.SUPPRESS)


def add_list(parser: argparse.ArgumentParser) -> None:
    """Adds the arguments of `bench list`."""
    parser.add_argument("what", choices=LISTINGS)
    parser.add_argument("pattern", nargs="?", default="", help="a name, for its page, or a glob (default: all)")
    parser.add_argument("--long", action="store_true", help="everything that is known of each, as a table")
    parser.add_argument("--json", action="store_true", help="print JSON")


def add_report(parser: argparse.ArgumentParser) -> None:
    """Adds the arguments of `bench report`."""
    parser.add_argument("runs", nargs="+", type=Path, metavar="RUN_DIR")
    parser.add_argument("--format", choices=FORMATS, help="print this instead (default: what bench run ends with)")
    parser.add_argument("--details", action="store_true", help="print every table, then what bench run ends with")
    parser.add_argument("--serve", action="store_true", help="show the report in a browser and follow a run under way")
    parser.add_argument("--port", type=int, metavar="N", help="port of --serve on this machine (default: any free one)")
    parser.add_argument("--rescore", action="store_true", help="first recompute metrics from the stored predictions")
    parser.add_argument("--trust-remote-code", action="store_true", help="run code that tasks of --rescore name")


def add_convert(parser: argparse.ArgumentParser) -> None:
    """Adds the arguments of `bench convert`."""
    from .config import flag_arguments

    parser.description = (
        "The folder holds safetensors, config.json, tokenizer and provenance.json. Use it as a backbone: "
        "bench run --models MODEL@hf:FOLDER --recipe zero-shot --tasks ..."
    )
    required: dict[str, Any] = {"required": True}
    parser.add_argument("--model", **required, dest="models", metavar="SPEC", help="model spec NAME[:KEY=VALUE]...")
    parser.add_argument(
        "--base", **required, dest="backbone", metavar="BACKBONE", help="pretrained backbone, or hf:ID_OR_FOLDER"
    )
    parser.add_argument(
        "--data", **required, dest="tasks", metavar="TASK", help="task whose training data the conversion uses"
    )
    parser.add_argument(
        "--to", **required, type=Path, metavar="FOLDER", help="folder to write; must be empty or absent"
    )
    parser.add_argument(
        "--seed", type=int, default=0, dest="seeds", metavar="N", help="seed of everything random (default: 0)"
    )
    parser.add_argument("--push", metavar="ORG/NAME", help="then upload the folder to the Hugging Face hub")
    parser.add_argument("--quiet", action="store_true", help="print the table and failures only")
    shared = flag_arguments()
    for flag, how in CONVERT_FLAGS.items():
        parser.add_argument(flag, **{**shared[flag], **how})
    _add_caller(parser)


def add_paper(parser: argparse.ArgumentParser) -> None:
    """Adds the arguments of `bench paper`."""
    from .config import flag_arguments

    parser.description = (
        "Artefacts are named by id, such as table-7 or ablations, or by number; all of them by default."
    )
    parser.add_argument("what", choices=PAPER)
    parser.add_argument("artefacts", nargs="*", metavar="ARTEFACT", help="such as table-7; see bench paper list")
    for kind in ("table", "figure"):
        parser.add_argument(f"--{kind}", action="append", default=[], type=int, metavar="N", help="repeatable")
    shared = flag_arguments()
    for flag, how in PAPER_FLAGS.items():
        parser.add_argument(flag, **{**shared[flag], **how})
    parser.add_argument("--quiet", action="store_true", help="print failures, what is left out and where results are")
    output = parser.add_mutually_exclusive_group()
    output.add_argument("--json", action="store_true", help="print JSON (list, claims)")
    output.add_argument("--format", choices=("md",), help="print Markdown (claims)")


def add_compare(parser: argparse.ArgumentParser) -> None:
    """Adds the arguments of `bench compare`."""
    parser.description = (
        "Exit codes: 0 unchanged or improved, 1 a regression, 2 bad input, 4 something could not be decided or is "
        "missing, or nothing was compared."
    )
    parser.add_argument("baseline", type=Path, metavar="BASELINE", help="run's folder, or file of bench baseline")
    parser.add_argument("candidate", type=Path, metavar="CANDIDATE", help="likewise")
    parser.add_argument(
        "--tolerance",
        action="append",
        default=[],
        metavar="METRIC=PERCENT",
        help="how much worse still counts as unchanged, in percent, or points of a fraction; repeatable",
    )
    parser.add_argument("--junit", type=Path, metavar="FILE", help="also write JUnit XML")
    parser.add_argument("--format", choices=COMPARE_FORMATS, default="md", help="default: md")
