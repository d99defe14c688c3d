"""The report over HTTP: for this machine alone, as new as the run's folder, and ended by Ctrl-C."""

from __future__ import annotations

import signal
import socket
import subprocess
import sys
import threading
import urllib.request
from collections.abc import Callable, Iterator
from http.client import HTTPConnection, HTTPResponse
from pathlib import Path
from typing import Any

import pytest

from hedgebench.harness.commands import serving
from hedgebench.harness.commands.serving import ReportServer, make_server
from hedgebench.results.record import SCHEMA_VERSION, Metric, Record
from hedgebench.results.report.write import render_html
from hedgebench.results.store import RunStore

from ...browsing import Browser

Bench = Callable[..., Any]


def make_record(model: str, value: float) -> Record:
    return Record(
        schema_version=SCHEMA_VERSION,
        run_id="run",
        cell_id=model,
        model=model,
        backbone="gpt",
        task="wikitext2",
        recipe="scratch",
        scale="smoke",
        seed=0,
        status="ok",
        main_metric="perplexity",
        metrics=(Metric("perplexity", value, "1", False, 0.1, 10),),
        settings={},
        timings_s={},
        kernels=(),
        data=None,
        environment={},
    )


@pytest.fixture
def store(tmp_path: Path) -> RunStore:
    """A run with one cell."""
    store = RunStore(tmp_path / "run")
    store.create()
    store.write_record(make_record("softmax", 20.0))
    return store


@pytest.fixture
def server(store: RunStore) -> Iterator[ReportServer]:
    """A server of the run, on a free port."""
    with make_server([store.root], 0) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield server
        server.shutdown()
        thread.join()


def ask(server: ReportServer, path: str = "/", method: str = "GET", **headers: str) -> tuple[HTTPResponse, str]:
    connection = HTTPConnection("127.0.0.1", server.server_port)
    connection.request(method, path, headers=headers)
    answer = connection.getresponse()
    text = answer.read().decode()
    connection.close()
    return answer, text


def test_the_report_is_served_and_may_ask_its_own_server_only(server: ReportServer) -> None:
    answer, text = ask(server)
    assert (answer.status, answer.headers["Content-Type"]) == (200, "text/html; charset=utf-8")
    assert "<h1>run</h1>" in text
    assert "connect-src &#39;self&#39;" in text
    assert f'data-version="{server.version()}"' in text


def test_the_version_changes_when_a_cell_is_written_replaced_or_removed(server: ReportServer, store: RunStore) -> None:
    versions = [ask(server, "/version")[1]]
    assert ask(server, "/version")[1] == versions[0]
    before = set(store.cells.iterdir())
    store.write_record(make_record("elu", 30.0))
    (path,) = set(store.cells.iterdir()) - before
    versions.append(ask(server, "/version")[1])
    store.write_record(make_record("elu", 31.5))
    versions.append(ask(server, "/version")[1])
    path.unlink()
    assert ask(server, "/version")[1] == versions[0]
    assert len(set(versions)) == 3


def test_an_unchanged_page_is_neither_rendered_nor_sent_twice(
    server: ReportServer, store: RunStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    rendered: list[str] = []

    def noted(content: Any) -> str:
        rendered.append("page")
        return render_html(content)

    monkeypatch.setattr(serving, "render_html", noted)
    tag = ask(server)[0].headers["ETag"]
    assert ask(server)[0].status == 200
    assert len(rendered) == 1
    answer, text = ask(server, **{"If-None-Match": tag})
    assert (answer.status, text) == (304, "")
    store.write_record(make_record("elu", 30.0))
    assert ask(server, **{"If-None-Match": tag})[0].status == 200


def test_only_this_machine_is_answered(server: ReportServer) -> None:
    assert server.server_address[0] == "127.0.0.1"
    answer, text = ask(server, Host="evil.example")
    assert answer.status == 403
    assert text == f"ask for {server.address}; other names are refused\n"
    assert ask(server, Host=f"localhost:{server.server_port}")[0].status == 200


def test_what_is_refused_is_refused_with_the_reason(server: ReportServer, store: RunStore) -> None:
    assert [(a.status, t) for a, t in [ask(server, "/../etc/passwd")]] == [
        (404, "there is no /../etc/passwd; the report is at /\n")
    ]
    assert ask(server, method="POST")[0].status == 501
    head, text = ask(server, method="HEAD")
    assert (head.status, text) == (200, "")
    for path in store.cells.iterdir():
        path.unlink()
    store.cells.rmdir()
    answer, text = ask(server, "/version")
    assert answer.status == 500
    assert text.startswith("FileNotFoundError")


def test_a_corrupt_cell_is_told_on_the_page(server: ReportServer, store: RunStore) -> None:
    (store.cells / "half.json").write_text("{", encoding="utf-8")
    assert "corrupt file left out" in ask(server)[1]


def test_the_page_follows_a_run_that_goes_on(server: ReportServer, store: RunStore, browser: Browser) -> None:
    browser.open(server.address)
    assert browser.run("return document.querySelectorAll('.board tbody tr').length") == 1
    store.write_record(make_record("elu", 30.0))
    browser.wait(lambda: browser.run("return document.querySelectorAll('.board tbody tr').length") == 2)
    browser.wait(lambda: browser.run("return document.documentElement.dataset.ready") == "true")
    assert browser.errors() == []
    assert {address.rsplit("/", 1)[0] for address in browser.requests()} == {server.address.rstrip("/")}
    browser.driver.get("about:blank")


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--port", "8000"], "--port goes with --serve; add --serve, or leave --port out"),
        (["--serve", "--port", "70000"], "--port is 70000; give a number from 1 to 65535"),
        (["--serve", "--port", "-1"], "--port is -1"),
        (["--serve", "--format", "csv"], "--serve shows HTML and nothing else, not 'csv'"),
    ],
)
def test_flags_that_do_not_go_together_are_refused(
    store: RunStore, bench: Bench, flags: list[str], message: str
) -> None:
    finished = bench("report", str(store.root), *flags)
    assert finished.code == 2
    assert message in finished.err


def test_a_port_that_is_taken_and_a_folder_without_a_run_are_refused(
    store: RunStore, bench: Bench, tmp_path: Path
) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = str(taken.getsockname()[1])
        finished = bench("report", str(store.root), "--serve", "--port", port)
    assert (finished.code, f"cannot serve on port {port}: " in finished.err) == (2, True)
    finished = bench("report", str(tmp_path), "--serve")
    assert (finished.code, "is not a run's folder" in finished.err) == (2, True)


@pytest.mark.parametrize("stop", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupt_ends_the_server_without_a_trace(store: RunStore, stop: signal.Signals) -> None:
    command = [sys.executable, "-u", "-m", "hedgebench", "report", str(store.root), "--serve"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        line = process.stdout.readline()
        assert line.startswith("report: http://127.0.0.1:")
        with urllib.request.urlopen(line.split()[1] + "version") as answer:  # it answers once it serves
            assert answer.status == 200
        process.send_signal(stop)
        try:
            rest = process.communicate(timeout=60)
        finally:
            process.kill()
    assert (process.returncode, *rest) == (0, "report: no longer served\n", "")
