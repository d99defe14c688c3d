"""The command `bench`. Nothing here imports torch: help, listings and reports answer at once."""

from __future__ import annotations

import argparse
import errno
import json
import os
import signal
import sys
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .. import __version__
from ..results.names import UsageError, unknown_name
from .arguments import (
    EXPORT_FORMATS,
    LM_EVAL,
    SHELLS,
    add_compare,
    add_convert,
    add_list,
    add_paper,
    add_report,
    add_run,
)

if TYPE_CHECKING:
    from rich.console import Console

EXIT_USAGE = 2


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the command line.

    Returns:
        The exit code: 0 fine, 1 `compare` found a regression, 2 wrong usage or a wrong file, 3 some cell has no result,
        4 `compare` could not decide, 130 interrupted.
    """
    given = sys.argv[1:] if arguments is None else list(arguments)
    try:
        options = make_parser(given[0] if given else "").parse_args(given[:1] if given[:1] == [LM_EVAL] else given)
        options.rest = given[1:]
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
    except OSError as error:
        print(f"bench: error: {_told(error)}", file=sys.stderr)
        return EXIT_USAGE


_ADVICE = {
    **dict.fromkeys((errno.ENOSPC, errno.EDQUOT), "free some space, or choose another folder: {places}"),
    **dict.fromkeys((errno.EACCES, errno.EPERM, errno.EROFS), "choose a folder that can be written: {places}"),
    **dict.fromkeys((errno.EMFILE, errno.ENFILE), "raise the limit of open files (ulimit -n), or lower --workers"),
    **dict.fromkeys((errno.ENOMEM, errno.EAGAIN), "raise the limits of memory or processes, or lower --workers"),
    errno.ENAMETOOLONG: "choose a shorter name",
}
_PLACES = "--output DIR for results, XDG_CACHE_HOME for the cache, TMPDIR for temporary files"


def _told(error: OSError) -> str:
    """What the system refused, at which path, and what to do."""
    path = f"{error.filename}: " if error.filename else ""
    advice = _ADVICE.get(error.errno or 0, "").format(places=_PLACES)
    return f"{path}{error.strerror or error}" + (f"; {advice}" if advice else "")


def make_parser(command: str | None = None) -> argparse.ArgumentParser:
    """The parser of every subcommand; the flags of `run` and `convert` are left out if `command` is another one."""
    parser = argparse.ArgumentParser(prog="bench", description="Evaluate and benchmark attention mechanisms.")
    parser.add_argument("--version", action="version", version=f"bench {__version__}")
    parser.add_argument(
        "--print-completion", action=_Completion, choices=SHELLS, help="print what completes arguments in this shell"
    )
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND", parser_class=_CommandParser)

    def add(name: str, does: Callable[[argparse.Namespace], int], help: str) -> argparse.ArgumentParser:
        added = commands.add_parser(name, help=help)
        added.set_defaults(does=does)
        return added

    run = add("run", _run, "train or convert models, measure them, write leaderboard and report")
    if command in (None, "run"):
        add_run(run)
    conversion = add("convert", _convert, "convert a pretrained model, measure it, write it to a folder")
    if command in (None, "convert"):
        add_convert(conversion)
    add_list(add("list", _list, "list models, tasks, backbones, recipes or suites"))
    add_report(add("report", _report, "show or render the results of one or more runs"))
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
    add_compare(add("compare", _compare, "compare a run with an earlier one: exit code 1 for a regression"))
    baseline = add("baseline", _baseline, "write a run's results to one small file, to commit and compare")
    baseline.add_argument("run", type=Path, metavar="RUN_DIR")
    baseline.add_argument(
        "-o", "--output", required=True, type=Path, metavar="FILE", help="such as results/baselines/NAME.json"
    )
    past = add("history", _history, "metrics over commits: of runs, baselines, or folders of either")
    past.add_argument("runs", nargs="+", type=Path, metavar="RUN")
    past.add_argument("--metric", action="append", default=[], help="a metric or glob to show; repeatable")
    past.add_argument("--json", action="store_true", help="print JSON")
    past.add_argument("-o", "--output", type=Path, metavar="FILE", help="also draw a page (.html) or the plot (.svg)")
    paper = add("paper", _paper, "the paper's tables, figures and claims: list, run, render or judge them")
    if command in (None, "paper"):
        add_paper(paper)
    environment = add("env", _env, "versions, devices, where data and weights would come from")
    environment.add_argument("--mirror", metavar="DIR")
    environment.add_argument("--json", action="store_true", help="print JSON")
    add(LM_EVAL, _lm_eval, "lm-eval's own command line, with our models as --model hedgebench")
    return parser


class _CommandParser(argparse.ArgumentParser):
    """A subcommand's parser: flags stand before, between or after other arguments, and an unknown one gets a hint."""

    _calls_itself = False  # parse_known_intermixed_args calls parse_known_args in Python 3.11

    def parse_known_args(self, args: Any = None, namespace: Any = None) -> Any:  # pyright: ignore[reportIncompatibleMethodOverride]
        if self._calls_itself:
            return super().parse_known_args(args, namespace)
        self._calls_itself = True
        try:
            options, unknown = self.parse_known_intermixed_args(args, namespace)
        finally:
            self._calls_itself = False
        for argument in unknown:
            if argument.startswith("-"):
                actions = self._option_string_actions.items()
                shown = [flag for flag, action in actions if action.help != argparse.SUPPRESS]
                raise unknown_name("flag", argument.split("=")[0], shown)
        return options, unknown


class _Completion(argparse.Action):
    """Prints a shell's completion script and exits."""

    def __call__(self, parser: argparse.ArgumentParser, *given: Any) -> None:
        from .commands.completion import completion_script

        print(completion_script(make_parser(), given[1]))
        parser.exit()


def _run(options: argparse.Namespace) -> int:
    from .config import config_of
    from .python.called import Following, following
    from .running.runner import report_details, report_summary, run
    from .temporary import writable_cache

    _end_as_by_interrupt()
    end = report_details if options.details else report_summary
    followed: Following = {"end": end, **following(options.caller)}
    with writable_cache() as note:
        _tell([note] if note else [])
        return run(config_of(vars(options)), _console(), options.quiet, **followed)


def _convert(options: argparse.Namespace) -> int:
    from .commands.convert import convert, require_push
    from .config import flag_values, make_config
    from .python.called import following
    from .temporary import writable_cache

    config = make_config({"scale": "small", **flag_values(vars(options))})
    if options.push is not None:
        require_push(options.push, config)
    _end_as_by_interrupt()
    with writable_cache() as note:
        _tell([note] if note else [])
        return convert(config, options.to, _console(), options.push, options.quiet, following(options.caller))


def _end_as_by_interrupt() -> None:
    """Treats SIGTERM, by which a scheduler stops a job, as an interrupt, so that no process is left behind."""
    signal.signal(signal.SIGTERM, signal.default_int_handler)


def _list(options: argparse.Namespace) -> int:
    from .commands.listing import listing, print_lines, print_listing

    rows, problems = listing(options.what, options.pattern)
    is_one = [row[options.what.removesuffix("s")] for row in rows] == [options.pattern]
    if options.json:
        print(json.dumps(rows, indent=2))
    elif options.long:
        print_listing(rows, _console())
    elif is_one:
        from .commands.pages import page_of

        print(page_of(options.what, rows[0]), end="")
    else:
        print_lines(rows, _console(least=0))
    _tell(f"warning: {problem}" for problem in problems)
    return 0


def _report(options: argparse.Namespace) -> int:
    from .commands.reporting import render_runs, rescore_runs, show_runs

    if options.details and (options.serve or options.format):
        form = "--serve" if options.serve else f"--format {options.format}"
        raise UsageError(f"--details prints every table to the terminal, and {form} has its own form")
    if options.trust_remote_code and not options.rescore:
        raise UsageError("--trust-remote-code goes with --rescore; add --rescore, or leave --trust-remote-code out")
    if options.rescore:
        rescore_runs(options.runs, options.trust_remote_code)
    if options.serve or options.port is not None:
        from .commands.serving import serve

        return serve(options.runs, options.serve, options.port, options.format, _console())
    if options.format is None:
        _tell(show_runs(options.runs, _console(), options.details))
        return 0
    text, messages = render_runs(options.runs, options.format)
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


def _history(options: argparse.Namespace) -> int:
    from .commands.history import show_history

    show_history(options.runs, options.metric, options.output, options.json, _console())
    return 0


def _paper(options: argparse.Namespace) -> int:
    from .commands.paper import VERBS, PaperRequest
    from .config import RunConfig, flag_values
    from .temporary import writable_cache

    if options.format and options.what != "claims":
        raise UsageError(f"bench paper {options.what} has no --format; allowed: --format md with bench paper claims")
    if options.json and options.what not in ("list", "claims"):
        raise UsageError(
            f"bench paper {options.what} has no --json; allowed with bench paper list and bench paper claims"
        )
    _end_as_by_interrupt()
    names = [*options.artefacts, *(f"table-{n}" for n in options.table), *(f"figure-{n}" for n in options.figure)]
    given = flag_values(vars(options))
    seeds = given.pop("seeds", ())
    config = RunConfig(models=(), tasks=(), suite="paper", **given)
    request = PaperRequest(tuple(names), config, seeds, options.quiet, options.json, options.format == "md")
    with writable_cache() as note:
        _tell([note] if note else [])
        return VERBS[options.what](request, _console())


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


def _console(least: int = 120) -> Console:
    """Standard output; at least `least` columns wide if it is no terminal."""
    from rich.console import Console

    console = Console()
    return console if console.is_terminal else Console(width=max(console.width, least))
