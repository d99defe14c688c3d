"""`bench lm-eval ARGS...`: lm-eval's own command line, with our models as its model `hedgebench`."""

from __future__ import annotations

import sys
from collections.abc import Sequence

MODEL = "hedgebench"
TARGET = f"{__package__}.lm_eval_model:HedgebenchLM"


def run_lm_eval(arguments: Sequence[str]) -> int:
    """Runs lm-eval's command line in this process; returns exit code 0.

    Release 0.4.13 does not read entry points, so the model is registered here; later releases find it by its entry
    point.

    Raises:
        SystemExit: lm-eval ends with an exit code or a message of its own.
    """
    from lm_eval.__main__ import cli_evaluate

    register()
    before, sys.argv = sys.argv, ["bench lm-eval", *arguments]
    try:
        cli_evaluate()
    finally:
        sys.argv = before
    return 0


def register() -> None:
    """Makes `hedgebench` a model of lm-eval in this process."""
    from lm_eval.api.registry import model_registry

    if MODEL not in model_registry:
        model_registry.register(MODEL, target=TARGET)
