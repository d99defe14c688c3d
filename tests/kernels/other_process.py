"""A Python process without the checks and the interpreter of this one, which runs one program after another.

Its imports and torch's first compilation, which take longer than most programs, are paid once.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

_SERVER = """
import contextlib, io, json, sys, traceback
for line in sys.stdin:
    printed, failed = io.StringIO(), ""
    try:
        with contextlib.redirect_stdout(printed):
            exec(json.loads(line), {"__name__": "program"})
    except BaseException:
        failed = traceback.format_exc()
    print(json.dumps([printed.getvalue(), failed]), flush=True)
"""


@dataclass(frozen=True)
class OtherProcess:
    """The process, with pipes to and from it."""

    process: Any

    def run(self, program: str) -> str:
        """Gives what a program prints. It must not change what later programs see.

        Raises:
            AssertionError: the program failed, with what it printed and its traceback.
        """
        print(json.dumps(program), file=self.process.stdin, flush=True)
        printed, failed = json.loads(self.process.stdout.readline())
        assert not failed, (printed, failed[-2000:])
        return str(printed)


@contextmanager
def other_process(*without: str) -> Iterator[OtherProcess]:
    """Starts the process, with this one's environment but for the variables named; ends it afterwards."""
    environment = {name: value for name, value in os.environ.items() if name not in without}
    command = [sys.executable, "-c", _SERVER]
    with subprocess.Popen(
        command, env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        try:
            yield OtherProcess(process)
        finally:
            process.kill()
