"""The server by its requests: whom it answers, and what it says of mistakes."""

from __future__ import annotations

import http.client
import json
import socket
from collections.abc import Iterator, Mapping
from http import HTTPStatus
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import urlsplit

import pytest

from soloist.cli import run_command
from soloist.cli.runs import USER_ERROR
from soloist.cli.studio.server import LOOPBACK, MAX_SENT, check_port, serve
from soloist.cli.studio.workspace import Workspace

PATIENCE = 120


class Visitor(NamedTuple):
    """Who asks the server, with or without the key."""

    port: int
    key: str

    def ask(
        self,
        path: str,
        values: Any = None,
        *,
        key: str | None = None,
        headers: Mapping[str, str] = {},  # not changed
    ) -> tuple[int, Any]:
        """Status and content of an answer."""
        given = self.key if key is None else key
        sent = {"Cookie": f"soloist-{self.port}={given}", **headers}
        body = None
        if values is not None:
            body = values if isinstance(values, bytes) else json.dumps(values).encode()
            sent = {"Content-Type": "application/json", **sent}
        connection = http.client.HTTPConnection(LOOPBACK, self.port, timeout=PATIENCE)
        connection.request("GET" if values is None else "POST", path, body, sent)
        answer = connection.getresponse()
        content = answer.read()
        is_json = answer.headers["Content-Type"] == "application/json"
        connection.close()
        return answer.status, json.loads(content) if is_json else content


@pytest.fixture
def visitor(workspace: Workspace) -> Iterator[Visitor]:
    with serve(workspace, port=0) as address:
        url = urlsplit(address)
        assert url.port is not None
        yield Visitor(url.port, url.query.removeprefix("key="))


def test_the_address_lets_in_and_no_other(visitor: Visitor) -> None:
    connection = http.client.HTTPConnection(LOOPBACK, visitor.port, timeout=PATIENCE)
    connection.request("GET", f"/?key={visitor.key}")
    answer = connection.getresponse()
    cookie = answer.headers["Set-Cookie"]
    assert (answer.status, answer.headers["Location"]) == (HTTPStatus.SEE_OTHER, "/")
    assert all(part in cookie for part in (visitor.key, "HttpOnly", "SameSite=Strict"))
    status, page = visitor.ask("/")
    assert status == HTTPStatus.OK
    assert b"Soloist studio" in page


@pytest.mark.parametrize("path", ["/", "/api/overview", "/api/image?index=0", "/app.js"])
@pytest.mark.parametrize(
    ("key", "headers"),
    [
        pytest.param("guessed", {}, id="wrong-key"),
        pytest.param("", {"Cookie": ""}, id="no-key"),
        pytest.param(None, {"Host": "example.org"}, id="another-name-that-leads-here"),
    ],
)
def test_nobody_else_is_answered(
    visitor: Visitor, path: str, key: str | None, headers: dict[str, str]
) -> None:
    status, content = visitor.ask(path, key=key, headers=headers)
    assert status == HTTPStatus.FORBIDDEN
    assert set(content) == {"error"}


@pytest.mark.parametrize(
    "headers",
    [
        pytest.param({"Origin": "http://example.org"}, id="script-of-another-page"),
        pytest.param({"Content-Type": "text/plain"}, id="form-of-another-page"),
    ],
)
def test_other_pages_change_nothing(visitor: Visitor, headers: dict[str, str]) -> None:
    act = {"index": 0, "act": "finish", "finished": True}
    status, _ = visitor.ask("/api/act", act, headers=headers)
    assert status == HTTPStatus.FORBIDDEN
    _, overview = visitor.ask("/api/overview")
    assert not overview["images"][0]["finished"]


def test_every_file_of_the_page_is_served_and_nothing_beside_them(visitor: Visitor) -> None:
    page = Path("src/soloist/cli/studio/page")
    for file in page.rglob("*.*"):
        status, content = visitor.ask(f"/{file.relative_to(page).as_posix()}")
        assert (status, content) == (HTTPStatus.OK, file.read_bytes()), file
    for path in ("/../server.py", "/vendor/../../server.py", "/%2e%2e/server.py", "/etc/passwd"):
        assert visitor.ask(path)[0] == HTTPStatus.NOT_FOUND


@pytest.mark.parametrize(
    ("path", "values", "message"),
    [
        pytest.param("/api/state?index=9", None, "wanted an image from 0 to 2", id="no-image"),
        pytest.param("/api/state?index=x", None, "the number of an image", id="no-number"),
        pytest.param("/api/act", {}, "the number of an image", id="nothing"),
        pytest.param("/api/act", [], "an object of JSON", id="a-list"),
        pytest.param("/api/act", b"{", "wanted JSON", id="no-json"),
        pytest.param("/api/act", {"index": 0, "act": "?"}, "wanted one of keep", id="no-act"),
        pytest.param(
            "/api/act",
            {"index": 0, "act": "join", "items": [0], "objects": [], "category": 1, "version": 7},
            "new masks since",
            id="items-of-an-older-model",
        ),
        pytest.param(
            "/api/act",
            {"index": 0, "act": "remove", "objects": [], "version": []},
            "wanted a version that is a number",
            id="no-version",
        ),
        pytest.param("/api/learn", {}, "wanted a finished image", id="nothing-to-learn"),
        pytest.param("/api/export", {"format": "doc"}, "wanted one of coco", id="no-format"),
        pytest.param("/api/export", {"format": "coco"}, "got none yet", id="nothing-to-export"),
        pytest.param("/api/categories", {"categories": [1]}, "pairs of an id", id="no-pairs"),
    ],
)
def test_mistakes_are_one_line(visitor: Visitor, path: str, values: Any, message: str) -> None:
    status, content = visitor.ask(path, values)
    assert status == HTTPStatus.BAD_REQUEST
    assert message in content["error"]
    assert "\n" not in content["error"]


def test_too_much_at_once_is_refused(visitor: Visitor) -> None:
    status, _ = visitor.ask("/api/act", headers={}, values=b" " * 10)
    assert status == HTTPStatus.BAD_REQUEST
    connection = http.client.HTTPConnection(LOOPBACK, visitor.port, timeout=PATIENCE)
    connection.putrequest("POST", "/api/act")
    connection.putheader("Content-Length", str(MAX_SENT + 1))
    connection.endheaders()
    assert connection.getresponse().status == HTTPStatus.REQUEST_ENTITY_TOO_LARGE


def test_a_image_that_cannot_be_read_is_told_and_the_others_open(
    workspace: Workspace, visitor: Visitor, folder: Path
) -> None:
    (folder / "1.png").write_text("no image")
    status, content = visitor.ask("/api/state?index=1")
    assert status == HTTPStatus.BAD_REQUEST
    assert "cannot read image" in content["error"]
    assert visitor.ask("/api/state?index=0")[0] == HTTPStatus.OK


def told_by(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    """The one line that a command with a mistake in it ends in."""
    assert run_command(["studio", *arguments]) == USER_ERROR
    out, err = capsys.readouterr()
    assert out == ""
    assert err.count("\n") == 1
    return err


def test_a_port_that_is_taken_is_told(capsys: pytest.CaptureFixture[str], folder: Path) -> None:
    with socket.socket() as other:
        other.bind((LOOPBACK, 0))
        other.listen()
        port = str(other.getsockname()[1])
        line = told_by(capsys, str(folder), "--port", port)
    assert line == (
        f"soloist: cannot serve on port {port}: Address already in use; "
        "choose another with --port\n"
    )
    check_port(int(port))  # Free again.


@pytest.mark.parametrize("port", ["65536", "-1"])
def test_a_port_is_a_port(capsys: pytest.CaptureFixture[str], folder: Path, port: str) -> None:
    line = told_by(capsys, str(folder), f"--port={port}")
    assert line == f"soloist: --port must be from 0 to 65535, got {port}\n"


def test_a_model_that_is_not_there_is_told(
    capsys: pytest.CaptureFixture[str], folder: Path, tmp_path: Path
) -> None:
    out = str(tmp_path / "run")
    assert "none" in told_by(capsys, str(folder), "--out", out, "--model", str(tmp_path / "none"))


def test_an_order_that_is_no_estimate_is_told(
    capsys: pytest.CaptureFixture[str], folder: Path, tmp_path: Path
) -> None:
    order = tmp_path / "order.json"
    order.write_text('{"images": [{"file_name": "0.png"}]}')
    line = told_by(capsys, str(folder), "--out", str(tmp_path / "run"), "--order", str(order))
    assert "wanted a file of `soloist estimate`" in line
