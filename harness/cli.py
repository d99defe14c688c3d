"""The command `bench`. Nothing here imports torch: help, listings and reports answer at once."""

from __future__ import annotations

import argparse
import json
import os
import signal
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .. import __version__
from ..results.names import UsageError

if TYPE_CHECKING:
    from rich.console import Console

EXIT_USAGE = 2
LISTINGS = ("models", "tasks", "backbones", "recipes", "suites")
FORMATS = ("md", "csv", "latex", "json", "html")
LM_EVAL = "lm-eval"
"""The command that passes its arguments to another program."""

EXPORT_FORMATS = ("parquet", "model-index", LM_EVAL, "mlflow", "tensorboard", "wandb")
COMPARE_FORMATS = ("md", "json", "github")
SHELLS = ("bash", "zsh")

CONVERT_FLAGS: Mapping[str, Mapping[str, Any]] = {
    "--recipe": {"help": "recipe of the conversion (default: the task's first for pretrained backbones)"},
    "--scale": {"help": "smoke, small or paper: hyper-parameters of the recipe (default: small)"},
    "--output": {"help": "folder of the conversion's run (default: results/runs/NAME)"},
    "--limit": {"help": "largest number of test rows when the result is measured"},
    **{flag: {} for flag in ("--device", "--dtype", "--mirror", "--set", "--offline", "--trust-remote-code")},
}
"""Flags that `bench convert` shares with `bench run`, and what differs in their arguments to `add_argument`."""


PAPER = ("list", "run", "render")
PAPER_FLAGS: Mapping[str, Mapping[str, Any]] = {
    "--seeds": {"help": "seeds, separated by commas (default: each study's own)"},
    "--output": {"help": "folder of the run (default: results/runs/paper-SCALE)"},
    **{flag: {} for flag in ("--scale", "--device", "--dtype", "--mirror", "--executor", "--workers", "--timeout")},
    **{flag: {} for flag in ("--offline", "--log", "--trust-remote-code")},
}
"""Flags that `bench paper` shares with `bench run`, and what differs in their arguments to `add_argument`."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the command line.

    Returns:
        The exit code: 0 fine, 1 `compare` found a regression, 2 wrong usage or a wrong file, 3 some cell has no result,
        4 `compare` could not decide, 130 interrupted.
    """
    given = sys.argv[1:] if arguments is None else list(arguments)
    options = make_parser(given[0] if given else "").parse_args(given[:1] if given[:1] == [LM_EVAL] else given)
    options.rest = given[1:]
    try:
        code: int = options.does(options)
        sys.stdout.flush()
        return code
    except UsageError as error:
        print(f"bench: error: {error}", file=sys.stderr)
        return EXIT_USAGE
    except KeyboardInterrupt:
        return 130
    except BrokenPipeError:  # the reader of our output has seen enough; Python must not try to flush it again
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0


def make_parser(command: str | None = None) -> argparse.ArgumentParser:
    """The parser of every subcommand; the flags of `run` and `convert` are left out if `command` is another one."""
    parser = argparse.ArgumentParser(prog="bench", description="Evaluate and benchmark attention mechanisms.")
    parser.add_argument("--version", action="version", version=f"bench {__version__}")
    parser.add_argument(
        "--print-completion", action=_Completion, choices=SHELLS, help="print what completes arguments in this shell"
    )
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")

    def add(name: str, does: Callable[[argparse.Namespace], int], help: str) -> argparse.ArgumentParser:
        added = commands.add_parser(name, help=help)
        added.set_defaults(does=does)
        return added

    run = add("run", _run, "train or convert models, measure them, write leaderboard and report")
    if command in (None, "run"):
        _add_run(run)
    conversion = add("convert", _convert, "convert a pretrained model, measure it, write it to a folder")
    if command in (None, "convert"):
        _add_convert(conversion)
    listing = add("list", _list, "list models, tasks, backbones, recipes or suites")
    listing.add_argument("what", choices=LISTINGS)
    listing.add_argument("--json", action="store_true", help="print JSON")
    report = add("report", _report, "render the results of one or more runs")
    report.add_argument("runs", nargs="+", type=Path, metavar="RUN_DIR")
    report.add_argument("--format", choices=FORMATS, help="default: md")
    report.add_argument("--serve", action="store_true", help="show the report in a browser and follow a run under way")
    report.add_argument(
        "--port", type=int, metavar="N", help="port on this machine for --serve (default: any free one)"
    )
    report.add_argument("--rescore", action="store_true", help="first recompute metrics from the stored predictions")
    exporting = add("export", _export, "write runs for other programs, or send them to a tracker")
    exporting.add_argument("runs", nargs="+", type=Path, metavar="RUN_DIR")
    exporting.add_argument("--format", choices=EXPORT_FORMATS, required=True)
    exporting.add_argument(
        "-o", "--output", type=Path, metavar="PATH", help="file, or folder of lm-eval; trackers need none"
    )
    importing = add("import", _import, "make a run from what lm-eval or an earlier release wrote")
    importing.add_argument(
        "files", nargs="+", type=Path, metavar="FILE", help="lm-eval's results JSON, a record, or our Parquet"
    )
    importing.add_argument("-o", "--output", required=True, type=Path, metavar="RUN_DIR")
    _add_compare(add("compare", _compare, "compare a run with an earlier one: exit code 1 for a regression"))
    baseline = add("baseline", _baseline, "write a run's results to one small file, to commit and compare")
    baseline.add_argument("run", type=Path, metavar="RUN_DIR")
    baseline.add_argument(
        "-o", "--output", required=True, type=Path, metavar="FILE", help="such as results/baselines/NAME.json"
    )
    paper = add("paper", _paper, "the paper's tables, figures and claims: list, run or render them")
    if command in (None, "paper"):
        _add_paper(paper)
    environment = add("env", _env, "versions, devices, where data and weights would come from")
    environment.add_argument("--mirror", metavar="DIR")
    environment.add_argument("--json", action="store_true", help="print JSON")
    add(LM_EVAL, _lm_eval, "lm-eval's own command line, with our models as --model hedgebench")
    return parser


class _Completion(argparse.Action):
    """Prints a shell's completion script and exits."""

    def __call__(self, parser: argparse.ArgumentParser, *given: Any) -> None:
        from .commands.completion import completion_script

        print(completion_script(make_parser(), given[1]))
        parser.exit()


def _add_run(parser: argparse.ArgumentParser) -> None:
    from .config import flag_arguments

    parser.description = "Without --models and --tasks this is the suite `quickstart`: no network, no GPU, minutes."
    for flag, how in flag_arguments().items():
        parser.add_argument(flag, **how)
    parser.add_argument("--config", metavar="FILE", help="TOML file with any of these settings; flags win")
    parser.add_argument("--quiet", action="store_true", help="print the table and failures only")


def _add_convert(parser: argparse.ArgumentParser) -> None:
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
    shared = flag_arguments()
    for flag, how in CONVERT_FLAGS.items():
        parser.add_argument(flag, **{**shared[flag], **how})


def _add_paper(parser: argparse.ArgumentParser) -> None:
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
    parser.add_argument("--quiet", action="store_true", help="print failures only")
    parser.add_argument("--json", action="store_true", help="print JSON (list)")


def _add_compare(parser: argparse.ArgumentParser) -> None:
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
    parser.add_argument("--format", choices=COMPARE_FORMATS, default="md")


def _run(options: argparse.Namespace) -> int:
    from .config import flag_values, make_config, read_config_file
    from .running.runner import run

    values = read_config_file(Path(options.config)) if options.config else {}
    flags = flag_values(vars(options))
    overrides = {**values.get("set", {}), **flags["set"]}
    _end_as_by_interrupt()
    return run(make_config({**values, **flags, "set": overrides}), _console(), options.quiet)


def _convert(options: argparse.Namespace) -> int:
    from .commands.convert import convert
    from .config import flag_values, make_config

    _end_as_by_interrupt()
    return convert(make_config({"scale": "small", **flag_values(vars(options))}), options.to, _console())


def _end_as_by_interrupt() -> None:
    """Treats SIGTERM, by which a scheduler stops a job, as an interrupt, so that no process is left behind."""
    signal.signal(signal.SIGTERM, signal.default_int_handler)


def _list(options: argparse.Namespace) -> int:
    from .commands.listing import listing, print_listing

    rows, problems = listing(options.what)
    if options.json:
        print(json.dumps(rows, indent=2))
    else:
        print_listing(rows, _console())
    _tell(f"warning: {problem}" for problem in problems)
    return 0


def _report(options: argparse.Namespace) -> int:
    from .commands.reporting import render_runs, rescore_runs

    if options.rescore:
        rescore_runs(options.runs)
    if options.serve or options.port is not None:
        from .commands.serving import serve

        return serve(options.runs, options.serve, options.port, options.format, _console())
    text, messages = render_runs(options.runs, options.format or "md")
    _tell(messages)
    sys.stdout.write(text)
    return 0


def _export(options: argparse.Namespace) -> int:
    from .commands.sharing import export_runs

    _tell(export_runs(options.runs, options.format, options.output))
    return 0


def _import(options: argparse.Namespace) -> int:
    from .commands.sharing import import_files

    _tell(import_files(options.files, options.output))
    return 0


def _compare(options: argparse.Namespace) -> int:
    from .commands.comparing import compare_runs, parse_tolerances

    tolerances = parse_tolerances(options.tolerance)
    comparison, text = compare_runs(options.baseline, options.candidate, tolerances, options.format, options.junit)
    sys.stdout.write(text)
    return comparison.exit_code


def _baseline(options: argparse.Namespace) -> int:
    from .commands.comparing import make_baseline

    _tell(make_baseline(options.run, options.output))
    return 0


def _paper(options: argparse.Namespace) -> int:
    from .commands.paper import VERBS, PaperRequest
    from .config import RunConfig, flag_values

    _end_as_by_interrupt()
    names = [*options.artefacts, *(f"table-{n}" for n in options.table), *(f"figure-{n}" for n in options.figure)]
    given = flag_values(vars(options))
    seeds = given.pop("seeds", ())
    config = RunConfig(models=(), tasks=(), suite="paper", **given)
    return VERBS[options.what](PaperRequest(tuple(names), config, seeds, options.quiet, options.json), _console())


def _env(options: argparse.Namespace) -> int:
    from .commands.env import environment_report, print_environment

    report = environment_report(options.mirror)
    if options.json:
        print(json.dumps(report, indent=2))
    else:
        print_environment(report, _console())
    return 0


def _lm_eval(options: argparse.Namespace) -> int:
    from .commands.lm_eval import run_lm_eval

    return run_lm_eval(options.rest)


def _tell(messages: Iterable[str]) -> None:
    for message in messages:
        print(f"bench: {message}", file=sys.stderr)


def _console() -> Console:
    from rich.console import Console

    console = Console()
    return console if console.is_terminal else Console(width=max(console.width, 120))
