"""Variables of the environment that other programs honour too, and completion in a shell: in processes of their own."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from .conftest import Finished

REVISION = "a" * 40
IDENTIFY = f"""
from pathlib import Path
from hedgebench.tasks.base import Sources
from hedgebench.tasks.data.sources import DatasetId, identify_dataset
found = identify_dataset(DatasetId("org/tiny", "plain", "{REVISION}", ("test",)), Sources(None, Path("cache")))
print(found.source, found.splits["test"])
"""


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[str | None]]:
    """A hub that has nothing; the tokens of the requests that came to it."""
    seen: list[str | None] = []

    class Hub(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            seen.append(self.headers.get("authorization"))
            self.send_response(404)
            self.send_header("Content-Length", "0")
            self.end_headers()

        do_HEAD = do_GET

        def log_message(self, format: str, *args: Any) -> None:
            pass

    with HTTPServer(("127.0.0.1", 0), Hub) as server:
        thread = threading.Thread(target=server.serve_forever, daemon=True)
        thread.start()
        monkeypatch.setenv("HF_ENDPOINT", f"http://127.0.0.1:{server.server_address[1]}")
        yield seen
        server.shutdown()
        thread.join()


ASKING = ("run", "--models", "softmax", "--backbone", "hf:org/model", "--tasks", "wikitext2", "--quiet")


def test_the_token_of_the_hub_is_sent_with_requests(bench_process: Any, hub: list[str | None]) -> None:
    done: Finished = bench_process(*ASKING, env={"HF_HUB_OFFLINE": "0", "HF_TOKEN": "hf_of_this_test"})
    assert done.code == 2
    assert "org/model" in done.err
    assert "Bearer hf_of_this_test" in hub
    assert "hf_of_this_test" not in done.out + done.err


@pytest.mark.parametrize("value", ["1", "true"])
def test_a_hub_that_is_off_is_asked_nothing(bench_process: Any, hub: list[str | None], value: str) -> None:
    done: Finished = bench_process(*ASKING, env={"HF_HUB_OFFLINE": value})
    assert done.code == 2
    assert "offline was chosen" in done.err
    assert hub == []


def test_the_hubs_cache_is_where_its_variable_says(tmp_path: Path) -> None:
    folder = tmp_path / "elsewhere/hub/datasets--org--tiny/snapshots" / REVISION / "plain"
    folder.mkdir(parents=True)
    pd.DataFrame({"text": ["a", "b"]}).to_parquet(folder / "test-00000-of-00001.parquet")
    command = [sys.executable, "-c", IDENTIFY]

    def found_with(home: str) -> subprocess.CompletedProcess[str]:
        environment = {**os.environ, "HF_HOME": str(tmp_path / home)}
        return subprocess.run(command, env=environment, capture_output=True, text=True, check=False)

    assert found_with("elsewhere").stdout == "hub 2\n"
    assert "DataUnavailableError" in found_with("nowhere").stderr


def test_a_hidden_device_is_not_chosen_and_no_colour_is_printed(bench_process: Any) -> None:
    done: Finished = bench_process("env", "--json", env={"CUDA_VISIBLE_DEVICES": "-1"})
    assert '"CUDA_VISIBLE_DEVICES": "-1"' in done.out
    coloured, plain = (
        bench_process("list", "suites", "--long", env={"FORCE_COLOR": "1", "TERM": "xterm-256color", **more}).out
        for more in ({}, {"NO_COLOR": "1"})
    )
    assert "\x1b[" in coloured
    assert not [part for part in plain.split("\x1b[")[1:] if part.split("m")[0].startswith(("3", "38", "9"))]


@pytest.mark.parametrize("shell", ["bash", "zsh"])
def test_completion_knows_commands_flags_and_names(bench_process: Any, shell: str) -> None:
    done: Finished = bench_process("--print-completion", shell)
    assert (done.code, done.err) == (0, "")
    for word in ("compare", "--backbone", "hedgehog", "wikitext2", "smollm2-135m", "model-index"):
        assert word in done.out
    if checker := shutil.which(shell):
        subprocess.run([checker, "-n"], input=done.out, text=True, check=True)


def test_bash_completes_what_is_typed(bench_process: Any) -> None:
    script = bench_process("--print-completion", "bash").out
    if (bash := shutil.which("bash")) is None:
        pytest.skip("there is no bash")

    def completed(*words: str) -> list[str]:
        given = " ".join(f"'{word}'" for word in words)
        asked = (
            f"COMP_WORDS=(bench {given}); COMP_CWORD={len(words)}; _shtab_bench; printf '%s\\n' \"${{COMPREPLY[@]}}\""
        )
        done = subprocess.run([bash], input=f"{script}\n{asked}\n", capture_output=True, text=True, check=True)
        return done.stdout.split()

    assert completed("comp") == ["compare"]
    assert completed("run", "--models", "hedge") == ["hedgehog"]
    assert "--timeout" in completed("run", "--t")


def test_an_unknown_shell_is_wrong_usage(bench_process: Any) -> None:
    done: Finished = bench_process("--print-completion", "fish")
    assert done.code == 2
    assert "bash" in done.err
