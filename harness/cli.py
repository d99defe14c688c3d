"""The command `bench`. Nothing here imports torch: help, listings and reports answer at once."""

from __future__ import annotations

import argparse
import json
import os
import signal
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..results.names import UnknownNameError

if TYPE_CHECKING:
    from rich.console import Console

EXIT_USAGE = 2
LISTINGS = ("models", "tasks", "backbones", "recipes", "suites")
FORMATS = ("md", "csv", "latex", "json", "html")
LM_EVAL = "lm-eval"
"""The command whose arguments are another program's."""

EXPORT_FORMATS = ("parquet", "model-index", LM_EVAL, "mlflow", "tensorboard", "wandb")
COMPARE_FORMATS = ("md", "json", "github")


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the command line and gives the exit code: 0 fine, 2 wrong usage, 3 some cell failed, 130 interrupted."""
    given = sys.argv[1:] if arguments is None else list(arguments)
    options = make_parser().parse_args(given[:1] if given[:1] == [LM_EVAL] else given)
    options.rest = given[1:]
    from ..results.store import StoreError
    from .config import UsageError

    try:
        code = COMMANDS[options.command](options)
        sys.stdout.flush()
        return code
    except (UsageError, UnknownNameError, StoreError) as error:
        print(f"bench: error: {error}", file=sys.stderr)
        return EXIT_USAGE
    except KeyboardInterrupt:
        return 130
    except BrokenPipeError:  # whoever read our output has seen enough; Python must not try to flush it again
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0


def make_parser() -> argparse.ArgumentParser:
    """The parser of every subcommand."""
    parser = argparse.ArgumentParser(prog="bench", description="Evaluate and benchmark attention mechanisms.")
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    _add_run(commands.add_parser("run", help="train or convert models, measure them, write leaderboard and report"))
    _add_convert(commands.add_parser("convert", help="convert a pretrained model, measure it, write it to a folder"))
    listing = commands.add_parser("list", help="list models, tasks, backbones, recipes or suites")
    listing.add_argument("what", choices=LISTINGS)
    listing.add_argument("--json", action="store_true", help="print JSON")
    report = commands.add_parser("report", help="render the results of one or more runs")
    report.add_argument("runs", nargs="+", metavar="RUN_DIR")
    report.add_argument("--format", choices=FORMATS, help="default: md")
    report.add_argument("--serve", action="store_true", help="show the report in a browser and follow a run under way")
    report.add_argument(
        "--port", type=int, metavar="N", help="port on this machine for --serve (default: any free one)"
    )
    report.add_argument("--rescore", action="store_true", help="first recompute metrics from the stored predictions")
    exporting = commands.add_parser("export", help="write runs for other programs, or send them to a tracker")
    exporting.add_argument("runs", nargs="+", metavar="RUN_DIR")
    exporting.add_argument("--format", choices=EXPORT_FORMATS, required=True)
    exporting.add_argument("-o", "--output", metavar="PATH", help="file, or folder of lm-eval; trackers need none")
    importing = commands.add_parser("import", help="make a run of what lm-eval or an earlier release wrote")
    importing.add_argument("files", nargs="+", metavar="FILE", help="lm-eval's results JSON, a record, or our Parquet")
    importing.add_argument("-o", "--output", required=True, metavar="RUN_DIR")
    _add_compare(commands.add_parser("compare", help="hold a run against an earlier one: exit code 1 for a regression"))
    baseline = commands.add_parser("baseline", help="make a run one small file, to commit and to compare with")
    baseline.add_argument("run", metavar="RUN_DIR")
    baseline.add_argument("-o", "--output", required=True, metavar="FILE", help="such as results/baselines/NAME.json")
    environment = commands.add_parser("env", help="versions, devices, where data and weights would come from")
    environment.add_argument("--mirror", metavar="DIR")
    environment.add_argument("--json", action="store_true", help="print JSON")
    commands.add_parser(LM_EVAL, help="lm-eval's own command line, with our models as --model hedgebench")
    return parser


def _add_run(parser: argparse.ArgumentParser) -> None:
    parser.description = "Without --models and --tasks this is the suite `quickstart`: no network, no GPU, minutes."
    text: Mapping[str, str] = {
        "--models": "model specs NAME[:KEY=VALUE]...[@BACKBONE], separated by commas",
        "--tasks": "tasks or globs NAME[:KEY=VALUE]..., separated by commas",
        "--suite": "take models and tasks from a suite",
        "--backbone": "backbone of models that name none",
        "--recipe": "recipe of tasks that train",
        "--scale": "smoke (seconds), small (minutes) or paper",
        "--seeds": "seeds, separated by commas",
        "--device": "auto, cpu or cuda",
        "--dtype": "auto, float32 or bfloat16",
        "--batch-size": "rows per evaluation batch, or auto",
        "--config": "TOML file with any of these settings; flags win",
        "--output": "folder of the run (default: results/runs/NAME)",
        "--mirror": "folder with datasets/ORG/NAME and models/ORG/NAME, looked in first",
        "--executor": "local or ray",
    }
    for flag, help_text in text.items():
        parser.add_argument(flag, help=help_text)
    parser.add_argument("--limit", type=int, metavar="N", help="most test rows per task; such results are partial")
    parser.add_argument("--workers", type=int, metavar="N", help="cells at a time (default: 1)")
    parser.add_argument("--timeout", type=float, metavar="SECONDS", help="time limit of each cell")
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help="one setting; repeatable")
    parser.add_argument("--fresh", action="store_true", default=None, help="run every cell again")
    parser.add_argument("--offline", action="store_true", default=None, help="never touch the network")
    parser.add_argument(
        "--log", action="append", metavar="TRACKER", help="also send cells to mlflow, tensorboard or wandb; repeatable"
    )
    parser.add_argument("--log-samples", action="store_true", default=None, help="keep inputs beside predictions")
    parser.add_argument(
        "--trust-remote-code", action="store_true", default=None, help="load pickled weights and code of a checkpoint"
    )
    parser.add_argument("--quiet", action="store_true", help="print the table and failures only")


def _add_convert(parser: argparse.ArgumentParser) -> None:
    parser.description = (
        "The folder holds safetensors, config.json, tokenizer and provenance.json. Use it as a backbone: "
        "bench run --models MODEL@hf:FOLDER --recipe zero-shot --tasks ..."
    )
    parser.add_argument("--model", required=True, metavar="SPEC", help="model spec NAME[:KEY=VALUE]...")
    parser.add_argument("--base", required=True, metavar="BACKBONE", help="pretrained backbone, or hf:ID_OR_FOLDER")
    parser.add_argument("--data", required=True, metavar="TASK", help="task whose training data is converted on")
    parser.add_argument("--to", required=True, metavar="FOLDER", help="folder to write; must be empty or absent")
    parser.add_argument("--seed", type=int, default=0, metavar="N", help="seed of everything random (default: 0)")
    text: Mapping[str, str] = {
        "--recipe": "recipe of the conversion (default: the task's first for pretrained backbones)",
        "--scale": "smoke, small or paper: hyper-parameters of the recipe (default: small)",
        "--device": "auto, cpu or cuda",
        "--dtype": "auto, float32 or bfloat16",
        "--output": "folder of the run that is kept beside (default: results/runs/NAME)",
        "--mirror": "folder with datasets/ORG/NAME and models/ORG/NAME, looked in first",
    }
    for flag, help_text in text.items():
        parser.add_argument(flag, help=help_text)
    parser.add_argument("--limit", type=int, metavar="N", help="most test rows when the result is measured")
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help="one setting; repeatable")
    parser.add_argument("--offline", action="store_true", default=None, help="never touch the network")
    parser.add_argument(
        "--trust-remote-code", action="store_true", default=None, help="load pickled weights and code of a checkpoint"
    )


def _add_compare(parser: argparse.ArgumentParser) -> None:
    parser.description = (
        "Exit codes: 0 unchanged or improved, 1 a regression, 2 bad input, 4 something could not be decided or is "
        "missing, or nothing was compared."
    )
    parser.add_argument("baseline", metavar="BASELINE", help="run's folder, or file of bench baseline")
    parser.add_argument("candidate", metavar="CANDIDATE", help="likewise")
    parser.add_argument(
        "--tolerance",
        action="append",
        default=[],
        metavar="METRIC=PERCENT",
        help="how much worse is taken for unchanged, in percent, or points of a fraction; repeatable",
    )
    parser.add_argument("--junit", metavar="FILE", help="also write JUnit XML")
    parser.add_argument("--format", choices=COMPARE_FORMATS, default="md")


def _convert(options: argparse.Namespace) -> int:
    from .commands.convert import convert
    from .config import make_config, parse_overrides

    names = ("recipe", "scale", "device", "dtype", "output", "mirror", "limit", "offline", "trust_remote_code")
    values = {name: getattr(options, name) for name in names if getattr(options, name) is not None}
    values |= {"models": (options.model,), "tasks": (options.data,), "backbone": options.base, "seeds": (options.seed,)}
    values = {"scale": "small", **values, "set": parse_overrides(options.set)}
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    return convert(make_config(values), Path(options.to), _console())


def _run(options: argparse.Namespace) -> int:
    from .config import make_config, parse_overrides, parse_seeds, read_config_file, split_list
    from .running.runner import run

    values: dict[str, Any] = read_config_file(Path(options.config)) if options.config else {}
    flags = {
        "models": split_list(options.models) if options.models is not None else None,
        "tasks": split_list(options.tasks) if options.tasks is not None else None,
        "seeds": parse_seeds(options.seeds) if options.seeds is not None else None,
        "timeout_s": options.timeout,
        "log": split_list(",".join(options.log)) if options.log is not None else None,
    }
    plain = (
        *("suite", "backbone", "recipe", "scale", "device", "dtype", "limit", "batch_size", "output", "mirror"),
        *("offline", "executor", "workers", "fresh", "log_samples", "trust_remote_code"),
    )
    flags |= {name: getattr(options, name) for name in plain}
    values |= {name: value for name, value in flags.items() if value is not None}
    values["set"] = {**values.get("set", {}), **parse_overrides(options.set)}
    signal.signal(
        signal.SIGTERM, signal.default_int_handler
    )  # a scheduler's stop is an interrupt: nothing is left behind
    return run(make_config(values), _console(), options.quiet)


def _list(options: argparse.Namespace) -> int:
    from .commands.listing import listing, print_listing

    rows, problems = listing(options.what)
    if options.json:
        print(json.dumps(rows, indent=2))
    else:
        print_listing(rows, _console())
    for problem in problems:
        print(f"bench: warning: {problem}", file=sys.stderr)
    return 0


def _report(options: argparse.Namespace) -> int:
    from .commands.reporting import render_runs, rescore_runs

    folders = [Path(run) for run in options.runs]
    if options.rescore:
        rescore_runs(folders)
    if options.serve or options.port is not None:
        from .commands.serving import serve

        return serve(folders, options.serve, options.port, options.format, _console())
    text, messages = render_runs(folders, options.format or "md")
    for message in messages:
        print(f"bench: {message}", file=sys.stderr)
    sys.stdout.write(text)
    return 0


def _export(options: argparse.Namespace) -> int:
    from .commands.sharing import export_runs

    output = Path(options.output) if options.output else None
    for message in export_runs([Path(run) for run in options.runs], options.format, output):
        print(f"bench: {message}", file=sys.stderr)
    return 0


def _import(options: argparse.Namespace) -> int:
    from .commands.sharing import import_files

    for message in import_files([Path(file) for file in options.files], Path(options.output)):
        print(f"bench: {message}", file=sys.stderr)
    return 0


def _compare(options: argparse.Namespace) -> int:
    from .commands.comparing import compare_runs, parse_tolerances

    junit = Path(options.junit) if options.junit else None
    comparison, text = compare_runs(
        Path(options.baseline), Path(options.candidate), parse_tolerances(options.tolerance), options.format, junit
    )
    sys.stdout.write(text)
    return comparison.exit_code


def _baseline(options: argparse.Namespace) -> int:
    from .commands.comparing import make_baseline

    for message in make_baseline(Path(options.run), Path(options.output)):
        print(f"bench: {message}", file=sys.stderr)
    return 0


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


def _console() -> Console:
    from rich.console import Console

    console = Console()
    return console if console.is_terminal else Console(width=max(console.width, 120))


COMMANDS: Mapping[str, Callable[[argparse.Namespace], int]] = {
    "run": _run,
    "convert": _convert,
    "list": _list,
    "report": _report,
    "export": _export,
    "import": _import,
    "compare": _compare,
    "baseline": _baseline,
    "env": _env,
    LM_EVAL: _lm_eval,
}
