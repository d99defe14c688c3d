"""`bench report --serve`: serves the current report over HTTP to browsers on this machine.

The page asks for `/version` every two seconds and reloads when a cell has been written since. The server renders a page
on request and keeps it until the folders change.
"""

from __future__ import annotations

import hashlib
import os
import signal
import threading
import webbrowser
from collections.abc import Sequence
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

from rich.console import Console

from ...results.names import UsageError
from ...results.report.write import render_html
from ..running.progress import say
from .reporting import load_content, load_runs

LOOPBACK = "127.0.0.1"
_OWN_NAMES = (LOOPBACK, "localhost")
_HIGHEST_PORT = 65_535


def serve(folders: Sequence[Path], is_asked: bool, port: int | None, format: str | None, console: Console) -> int:
    """Serves the report until it is interrupted, its normal end.

    Args:
        folders: The runs' folders.
        is_asked: Whether `--serve` was given.
        port: Port to listen on; None for any free one.
        format: Value of `--format`; None if it was not given.
        console: Console to print the address to.

    Returns:
        Exit code 0.

    Raises:
        StoreError: A folder holds no run.
        UsageError: The port is taken or not valid, or the options do not go together.
    """
    if not is_asked:
        raise UsageError("--port goes with --serve; add --serve, or leave --port out")
    if format not in (None, "html"):
        raise UsageError(f"--serve shows HTML and nothing else, not {format!r}; leave --format or --serve out")
    load_runs(folders)  # a folder without a run is an error here, not in the browser
    with make_server(folders, port or 0) as server:
        signal.signal(signal.SIGTERM, signal.default_int_handler)
        try:
            say(console, f"report: {server.address} (Ctrl-C ends)")
            if os.environ.get("DISPLAY") or os.environ.get("WAYLAND_DISPLAY"):
                webbrowser.open(server.address)
            server.serve_forever()
        except KeyboardInterrupt:
            say(console, "report: no longer served")
    return 0


class ReportServer(ThreadingHTTPServer):
    """Serves the report of some runs on the loopback interface.

    Attributes:
        folders: The runs' folders.
    """

    daemon_threads = True

    def __init__(self, folders: Sequence[Path], port: int) -> None:
        self.folders = tuple(folders)
        self._page = ("", "")
        self._rendering = threading.Lock()
        super().__init__((LOOPBACK, port), _Handler)

    @property
    def address(self) -> str:
        """URL of the report."""
        return f"http://{LOOPBACK}:{self.server_port}/"

    def version(self) -> str:
        """Hash of the folders' cells, which changes whenever a cell is written, replaced or removed."""
        found = hashlib.sha256()
        for folder in self.folders:
            for entry in sorted(os.scandir(folder / "cells"), key=lambda entry: entry.name):
                if entry.name.endswith(".json"):
                    status = entry.stat()
                    found.update(f"{entry.name} {status.st_mtime_ns} {status.st_size}\n".encode())
        return found.hexdigest()[:16]

    def page(self) -> tuple[str, str]:
        """The version and its page; requests that arrive while the page is rendered wait for it."""
        with self._rendering:
            version = self.version()
            if self._page[0] != version:
                self._page = (version, render_html(load_content(self.folders, version)))
            return self._page


def make_server(folders: Sequence[Path], port: int) -> ReportServer:
    """A server that listens on a port; 0 stands for any free port.

    Raises:
        UsageError: The port is taken or not valid.
    """
    if not 0 <= port <= _HIGHEST_PORT:
        raise UsageError(
            f"--port is {port}; give a number from 1 to {_HIGHEST_PORT}, or leave it out for any free port"
        )
    try:
        return ReportServer(folders, port)
    except OSError as error:
        raise UsageError(f"cannot serve on port {port}: {error.strerror or error}; choose another --port") from error


class _Handler(BaseHTTPRequestHandler):
    """Answers `/` with the page and `/version` with its version; refuses everything else with the reason."""

    def do_GET(self) -> None:
        server = self.server
        assert isinstance(server, ReportServer)
        if self.headers.get("Host", "").rsplit(":", 1)[0] not in _OWN_NAMES:
            # A page of another site, whose name points to this machine, must not read the report.
            self._answer(HTTPStatus.FORBIDDEN, f"ask for {server.address}; other names are refused\n")
            return
        try:
            if self.path == "/version":
                self._answer(HTTPStatus.OK, server.version())
            elif self.path in ("/", "/index.html", "/report.html"):
                version, page = server.page()
                self._answer(HTTPStatus.OK, page, "text/html", version)
            else:
                self._answer(HTTPStatus.NOT_FOUND, f"there is no {self.path}; the report is at /\n")
        except (OSError, UsageError) as error:
            self._answer(HTTPStatus.INTERNAL_SERVER_ERROR, f"{type(error).__name__}: {error}\n")

    do_HEAD = do_GET

    def log_message(self, format: str, *args: object) -> None:
        """Logs nothing: a page that asks every two seconds would fill the terminal."""

    def _answer(self, status: HTTPStatus, text: str, kind: str = "text/plain", version: str = "") -> None:
        tag = f'"{version}"'
        if version and self.headers.get("If-None-Match") == tag:
            status, text = HTTPStatus.NOT_MODIFIED, ""
        body = text.encode()
        self.send_response(status)
        self.send_header("Content-Type", f"{kind}; charset=utf-8")
        self.send_header("Content-Length", str(len(body)))
        self.send_header("Cache-Control", "no-cache")
        self.send_header("X-Content-Type-Options", "nosniff")
        if version:
            self.send_header("ETag", tag)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)
