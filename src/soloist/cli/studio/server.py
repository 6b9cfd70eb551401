"""Serves the page to this machine alone, to whom has the address, and asks nobody outside."""

from __future__ import annotations

import hashlib
import json
import logging
import re
import secrets
import socket
from base64 import b64encode
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from http import HTTPStatus
from http.cookies import CookieError, SimpleCookie
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from importlib.resources import files
from threading import Thread
from typing import Any
from urllib.parse import parse_qs, urlsplit

from soloist.cli.studio.workspace import Workspace
from soloist.errors import ConfigError, DataError, RunError, SoloistError

logger = logging.getLogger(__name__)

LOOPBACK = "127.0.0.1"
MAX_SENT = 4_000_000
"""Bytes that the page may send at once."""
_OTHER = "choose another with --port"
_PAGE = files("soloist") / "cli" / "studio" / "page"
_KINDS = {
    "html": "text/html; charset=utf-8",
    "css": "text/css; charset=utf-8",
    "js": "text/javascript; charset=utf-8",
    "mjs": "text/javascript; charset=utf-8",
    "svg": "image/svg+xml",
    "txt": "text/plain; charset=utf-8",
}
_FILE = re.compile(r"(?:vendor/)?[a-z-]+\.(html|css|js|mjs|svg)|vendor/LICENSE-[a-z]+\.(txt)")


def check_port(port: int) -> None:
    """Finds out whether the page can be served, before anything is loaded for it.

    Args:
        port: On the loopback interface; 0 takes any that is free.

    Raises:
        ConfigError: If it is no port.
        RunError: If it cannot be had.
    """
    if not 0 <= port <= 65535:
        raise ConfigError(f"--port must be from 0 to 65535, got {port}")
    with socket.socket() as probe:
        # A port that a server left a moment ago is free.
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((LOOPBACK, port))
        except OSError as error:
            raise RunError(f"cannot serve on port {port}: {error.strerror}; {_OTHER}") from error


@contextmanager
def serve(workspace: Workspace, *, port: int) -> Iterator[str]:
    """Serves the page on the loopback interface until the block ends.

    Args:
        workspace: What it shows.
        port: One that `check_port` found free.

    Yields:
        The page's address, with a key that nobody else knows.

    Raises:
        RunError: If the port cannot be had any more.
    """
    try:
        server = StudioServer(workspace, port)
    except OSError as error:
        raise RunError(f"cannot serve on port {port}: {error.strerror}; {_OTHER}") from error
    thread = Thread(target=server.serve_forever, kwargs={"poll_interval": 0.1}, daemon=True)
    thread.start()
    try:
        yield server.address
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


class StudioServer(ThreadingHTTPServer):
    """The server of one workspace.

    Args:
        workspace: What it shows.
        port: On the loopback interface.
    """

    daemon_threads = True

    def __init__(self, workspace: Workspace, port: int) -> None:
        super().__init__((LOOPBACK, port), Handler)
        self.workspace = workspace
        self.key = secrets.token_urlsafe(24)
        self.hosts = {f"{name}:{self.server_port}" for name in (LOOPBACK, "localhost")}

    def handle_error(self, request: Any, client_address: Any) -> None:
        """What nobody foresaw: the terminal says it, the page that there is no answer."""
        logger.exception("a request of the page failed")

    @property
    def cookie(self) -> str:
        """Browsers keep cookies of all ports of a host together."""
        return f"soloist-{self.server_port}"

    @property
    def address(self) -> str:
        """Where the page is."""
        return f"http://{LOOPBACK}:{self.server_port}/?key={self.key}"


class Handler(BaseHTTPRequestHandler):
    """Answers one request: files of the package, images, and what is done to them."""

    server: StudioServer
    protocol_version = "HTTP/1.1"
    server_version = "Soloist"
    sys_version = ""

    def do_GET(self) -> None:
        """Files, images and states."""
        self._answer(self._get)

    def do_POST(self) -> None:
        """What changes something."""
        self._answer(self._post)

    def log_message(self, format: str, *arguments: Any) -> None:
        """Requests are no news."""
        logger.debug(format, *arguments)

    def _answer(self, work: Any) -> None:
        try:
            # Pages of other names that lead here (DNS rebinding) have another host.
            if self.headers.get("Host") not in self.server.hosts:
                self._tell(HTTPStatus.FORBIDDEN, "this page is for this machine alone")
                return
            work()
        except SoloistError as error:
            self._tell(HTTPStatus.BAD_REQUEST, str(error))
        except (BrokenPipeError, ConnectionResetError):
            self.close_connection = True

    def _get(self) -> None:
        url = urlsplit(self.path)
        query = {name: values[0] for name, values in parse_qs(url.query).items()}
        if url.path == "/" and secrets.compare_digest(
            query.get("key", "").encode(), self.server.key.encode()
        ):
            self.send_response(HTTPStatus.SEE_OTHER)
            cookie = f"{self.server.cookie}={self.server.key}"
            self.send_header("Set-Cookie", f"{cookie}; HttpOnly; SameSite=Strict; Path=/")
            self.send_header("Location", "/")
            self.send_header("Content-Length", "0")
            self.end_headers()
            return
        if not self._is_known():
            return
        workspace = self.server.workspace
        if url.path == "/":
            self._send_file("index.html")
        elif url.path == "/api/overview":
            self._send_json(workspace.overview())
        elif url.path == "/api/state":
            state = workspace.state(_index(query))
            workspace.prefetch(state["next"])
            self._send_json(state)
        elif url.path == "/api/tree":
            self._send(workspace.image(_index(query)).packed(), "application/octet-stream")
        elif url.path == "/api/image":
            self._send(workspace.image(_index(query)).jpeg, "image/jpeg")
        elif _FILE.fullmatch(url.path[1:]):
            self._send_file(url.path[1:])
        else:
            self._tell(HTTPStatus.NOT_FOUND, "there is no such page")

    def _post(self) -> None:
        values = self._sent()
        if values is None or not self._is_known():
            return
        workspace = self.server.workspace
        if self.path == "/api/act":
            self._send_json(workspace.act(_index(values), values))
        elif self.path == "/api/categories":
            workspace.labels.set_categories(_categories(values))
            self._send_json(workspace.overview())
        elif self.path == "/api/learn":
            if values.get("stop"):
                workspace.learning.stop()
            else:
                workspace.learn()
            self._send_json(workspace.overview())
        elif self.path == "/api/export":
            self._send_json(workspace.export(str(values.get("format"))))
        else:
            self._tell(HTTPStatus.NOT_FOUND, "there is no such page")

    def _sent(self) -> dict[str, Any] | None:
        """What the page sent; None after an answer that it cannot be taken."""
        length = self.headers.get("Content-Length", "")
        if not length.isdecimal() or int(length) > MAX_SENT:
            self.close_connection = True
            self._tell(HTTPStatus.REQUEST_ENTITY_TOO_LARGE, "this is too much at once")
            return None
        content = self.rfile.read(int(length))
        origin = self.headers.get("Origin")
        # Forms of other pages cannot send JSON.
        is_json = self.headers.get("Content-Type", "").split(";")[0] == "application/json"
        if not is_json or (origin is not None and urlsplit(origin).netloc not in self.server.hosts):
            self._tell(HTTPStatus.FORBIDDEN, "only the studio's own page may do this")
            return None
        try:
            values = json.loads(content)
        except (ValueError, RecursionError) as error:
            raise DataError(f"wanted JSON, got something else: {error}") from error
        if not isinstance(values, dict):
            raise DataError("wanted an object of JSON")
        return values

    def _is_known(self) -> bool:
        """Whether the browser has the key; else it learns where that is."""
        try:
            cookies = SimpleCookie(self.headers.get("Cookie", ""))
        except CookieError:
            cookies = SimpleCookie()
        given = cookies.get(self.server.cookie)
        key = "" if given is None else given.value
        if secrets.compare_digest(key.encode(), self.server.key.encode()):
            return True
        self._tell(HTTPStatus.FORBIDDEN, "open the whole address that `soloist studio` printed")
        return False

    def _tell(self, status: HTTPStatus, line: str) -> None:
        self._send(json.dumps({"error": line}).encode(), "application/json", status)

    def _send_json(self, content: Any) -> None:
        self._send(json.dumps(content, allow_nan=False).encode(), "application/json")

    def _send_file(self, name: str) -> None:
        self._send(_file(name), _KINDS[name.rsplit(".", 1)[1]])

    def _send(self, content: bytes, kind: str, status: HTTPStatus = HTTPStatus.OK) -> None:
        self.send_response(status)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(content)))
        self.send_header("Cache-Control", "no-store")
        self.send_header("X-Content-Type-Options", "nosniff")
        self.send_header("Referrer-Policy", "no-referrer")
        self.send_header("Content-Security-Policy", _policy())
        self.end_headers()
        self.wfile.write(content)


@cache
def _file(name: str) -> bytes:
    return _PAGE.joinpath(name).read_bytes()


@cache
def _policy() -> str:
    """Nothing from elsewhere, and of scripts in the page only its list of modules."""
    listed = re.search(rb'<script type="importmap">(.*?)</script>', _file("index.html"), re.DOTALL)
    assert listed is not None
    digest = b64encode(hashlib.sha256(listed[1]).digest()).decode("ascii")
    return (
        f"default-src 'self'; script-src 'self' 'sha256-{digest}'; img-src 'self' blob: data:; "
        "frame-ancestors 'none'; base-uri 'none'; form-action 'none'"
    )


def _index(values: Any) -> int:
    try:
        return int(values["index"])
    except (KeyError, TypeError, ValueError) as error:
        raise DataError("wanted the number of an image under index") from error


def _categories(values: Any) -> dict[int, str]:
    try:
        return {int(key): str(name) for key, name in values["categories"]}
    except (KeyError, TypeError, ValueError) as error:
        raise DataError("wanted pairs of an id and a name under categories") from error
