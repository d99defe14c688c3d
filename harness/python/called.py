"""A command that a Python session has started: it ends with the session, and tells a notebook of its progress."""

from __future__ import annotations

import json
import os
import signal
import sys
import threading
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, TypedDict

if TYPE_CHECKING:
    from ...results.store import RunStore
    from ..running.runner import End, Tell

MARK = "\x1e"
"""Begins a line of the output that is a JSON object for the session (RFC 7464), and not a text for people."""


class Following(TypedDict, total=False):
    """Arguments of `runner.run` that differ for a command that a Python session follows."""

    end: End
    tell: Tell


def following(caller: str | None) -> Following:
    """Prepares this process to be followed by its caller.

    Args:
        caller: Kind of the session; None if a person started the command.
    """
    if caller is None:
        return {}
    threading.Thread(target=_end_with_caller, daemon=True).start()
    return {} if caller == "script" else {"end": _write_report, "tell": _tell}


def _end_with_caller() -> None:
    """Waits until the caller, who holds the other end of our standard input, is gone; then ends as by an interrupt."""
    while os.read(sys.stdin.fileno(), 1):
        pass
    os.kill(os.getpid(), signal.SIGTERM)


def _write_report(store: RunStore, *_: object) -> None:
    """Ends a run without a word: the session shows its records."""
    from ..running.runner import report_page

    report_page(store)


def _tell(event: Mapping[str, Any]) -> None:
    assert sys.__stdout__ is not None
    sys.__stdout__.write(f"{MARK}{json.dumps(event)}\n")  # a console that draws bars may have replaced the other one
    sys.__stdout__.flush()
