"""A hub on loopback: what huggingface_hub asks for, answered from memory."""

from __future__ import annotations

import base64
import hashlib
import json
import re
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import huggingface_hub.constants
import pytest


class HubServer(ThreadingHTTPServer):
    """A hub on this machine: repositories of one commit on `main`, to read and to push to."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _HubHandler)
        self.repos: dict[str, dict[str, bytes]] = {}
        self.asked: list[str] = []
        self.commit = "c0ffee" + "0" * 34
        self.url = f"http://127.0.0.1:{self.server_address[1]}"


class _HubHandler(BaseHTTPRequestHandler):
    server: HubServer

    def do_HEAD(self) -> None:
        self.do_GET()

    def do_GET(self) -> None:
        self.server.asked.append(f"{self.command} {self.path}")
        match = re.fullmatch(r"/([^/]+/[^/]+)/resolve/([^/]+)/(.+)", self.path)
        if match is None or match[1] not in self.server.repos:
            return self._answer(401 if match else 404, error="RepoNotFound")
        if match[2] not in ("main", self.server.commit):
            return self._answer(404, error="RevisionNotFound")
        content = self.server.repos[match[1]].get(match[3])
        if content is None:
            return self._answer(404, error="EntryNotFound")
        return self._answer(200, content)

    def do_POST(self) -> None:
        self.server.asked.append(f"{self.command} {self.path}")
        content = self.rfile.read(int(self.headers["Content-Length"]))
        if self.path == "/api/repos/create":
            asked = json.loads(content)
            repo = f"{asked.get('organization', 'owner')}/{asked['name']}"
            self.server.repos[repo] = {}
            return self._json({"url": f"{self.server.url}/{repo}"})
        if "/preupload/" in self.path:
            files = [{**file, "uploadMode": "regular"} for file in json.loads(content)["files"]]
            return self._json(
                {"files": [{"shouldIgnore": False, "oid": None, **file} for file in files]}
            )
        if "/commit/" in self.path:
            repo = self.path.removeprefix("/api/models/").partition("/commit/")[0]
            for line in map(json.loads, content.splitlines()):
                if line["key"] == "file":
                    file = line["value"]
                    self.server.repos[repo][file["path"]] = base64.b64decode(file["content"])
            return self._json({"commitUrl": f"{self.server.url}/{repo}", "commitOid": "1" * 40})
        return self._json({"errors": [], "warnings": []})

    def _json(self, content: dict[str, Any]) -> None:
        self._answer(200, json.dumps(content).encode())

    def _answer(self, status: int, content: bytes = b"", error: str | None = None) -> None:
        self.send_response(status)
        self.send_header("Content-Length", str(len(content)))
        if error is None:
            self.send_header("X-Repo-Commit", self.server.commit)
            self.send_header("ETag", f'"{hashlib.sha256(content).hexdigest()}"')
        else:
            self.send_header("X-Error-Code", error)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(content)

    def log_message(self, format: str, *args: Any) -> None:
        """Keeps the tests' output quiet."""


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[HubServer]:
    """A hub on loopback, and an empty cache, in place of the real ones."""
    with HubServer() as server:
        threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
        constants = huggingface_hub.constants
        template = server.url + "/{repo_id}/resolve/{revision}/{filename}"
        monkeypatch.setattr(constants, "ENDPOINT", server.url)
        monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)
        monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub-cache"))
        monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
        yield server
        server.shutdown()
