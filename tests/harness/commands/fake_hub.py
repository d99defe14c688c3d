"""A hub of this machine, with the endpoints by which huggingface_hub makes a repository and commits files to it."""

from __future__ import annotations

import base64
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any


@dataclass
class FakeHub:
    """What reached the hub.

    Attributes:
        url: Its address.
        token: The token that it takes; another is refused with status 401.
        repos: The files of each repository, by name.
        stored: Contents of large files by their SHA-256, which commits refer to.
        is_full: Whether it refuses large files.
    """

    url: str = ""
    token: str = "hf_of_this_test"
    repos: dict[str, dict[str, bytes]] = field(default_factory=dict)
    stored: dict[str, bytes] = field(default_factory=dict)
    is_full: bool = False

    def answer(self, path: str, body: bytes) -> Any:
        """The answer to a request, JSON-ready; None if there is no such endpoint."""
        if path == "/api/whoami-v2":
            return {"name": "org", "type": "user"}
        if path == "/api/repos/create":
            name = "{organization}/{name}".format(**json.loads(body))
            self.repos.setdefault(name, {})
            return {"url": f"{self.url}/{name}", "name": name}
        if path == "/api/validate-yaml":
            return {"warnings": [], "errors": []}
        if path.startswith("/put/"):
            if self.is_full:
                return None
            self.stored[path.removeprefix("/put/")] = body
            return {}
        name = next((repo for repo in self.repos if f"/{repo}" in path), "")
        match path.replace(name, "", 1):
            case "/api/models//preupload/main":
                return {"files": [{"path": file["path"], "uploadMode": _mode(file["path"]), "shouldIgnore": False}
                                  for file in json.loads(body)["files"]]}  # fmt: skip
            case "/.git/info/lfs/objects/batch":
                objects = [
                    {**each, "actions": {"upload": {"href": f"{self.url}/put/{each['oid']}"}}}
                    for each in json.loads(body)["objects"]
                ]
                return {"transfer": "basic", "objects": objects}
            case "/api/models//commit/main":
                self.repos[name] |= dict(self._committed(body))
                return {"commitUrl": f"{self.url}/{name}/commit/1", "commitOid": "1", "hookOutput": "", "success": True}
        return None

    def _committed(self, body: bytes) -> Iterator[tuple[str, bytes]]:
        for line in map(json.loads, body.splitlines()):
            value = line["value"]
            if line["key"] == "file":
                yield value["path"], base64.b64decode(value["content"])
            elif line["key"] == "lfsFile":
                yield value["path"], self.stored[value["oid"]]


def _mode(path: str) -> str:
    return "lfs" if path.endswith(".safetensors") else "regular"


@contextmanager
def serving() -> Iterator[FakeHub]:
    """A hub that answers while the block runs."""
    hub = FakeHub()

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self._body()
            given = self.headers.get("authorization")
            if given != f"Bearer {hub.token}" and not self.path.startswith("/put/"):
                self._reply(401, {"error": "Invalid username or password."})
                return
            answer = hub.answer(self.path.partition("?")[0], body)
            self._reply(404 if answer is None else 200, answer or {})

        do_GET = do_PUT = do_POST

        def _body(self) -> bytes:
            if self.headers.get("transfer-encoding") != "chunked":
                return self.rfile.read(int(self.headers.get("content-length", 0)))
            parts = []
            while size := int(self.rfile.readline(), 16):
                parts.append(self.rfile.read(size))
                self.rfile.readline()
            self.rfile.readline()
            return b"".join(parts)

        def _reply(self, status: int, answer: Any) -> None:
            content = json.dumps(answer).encode()
            self.send_response(status)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)

        def log_message(self, format: str, *args: Any) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        hub.url = f"http://127.0.0.1:{server.server_address[1]}"
        thread = threading.Thread(target=server.serve_forever, daemon=True)
        thread.start()
        yield hub
        server.shutdown()
        thread.join()
