"""`bench lm-eval ARGS...`: lm-eval's own command line, with our models as its model `hedgebench`."""

from __future__ import annotations

import sys
from collections.abc import Sequence

MODEL = "hedgebench"
TARGET = f"{__package__}.lm_eval_model:HedgebenchLM"


def run_lm_eval(arguments: Sequence[str]) -> int:
    """Runs lm-eval's command line in this process and gives its exit code.

    Release 0.4.13 does not read entry points, so the model is registered here; later ones find it by themselves.
    """
    from lm_eval.__main__ import cli_evaluate

    register()
    before, sys.argv = sys.argv, ["bench lm-eval", *arguments]
    try:
        cli_evaluate()
    except SystemExit as ended:
        return _code(ended)
    finally:
        sys.argv = before
    return 0


def register() -> None:
    """Makes `hedgebench` a model of lm-eval in this process."""
    from lm_eval.api.registry import model_registry

    if MODEL not in model_registry:
        model_registry.register(MODEL, target=TARGET)


def _code(ended: SystemExit) -> int:
    if isinstance(ended.code, str):
        print(ended.code, file=sys.stderr)
        return 1
    return ended.code or 0
