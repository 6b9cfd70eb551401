"""Images at addresses, fetched from a server on loopback."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from io import BytesIO
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from soloist.data import web
from soloist.data.coco.read import load_coco
from soloist.data.datasets.image_paths import image_paths
from soloist.data.images import read_image
from soloist.data.sources import find_images
from soloist.data.web import address_name
from soloist.errors import DataError


class _Handler(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        self.server.asked.append(self.path)  # type: ignore[attr-defined]
        if self.path.startswith("/away"):
            self.send_response(302)
            self.send_header("Location", "file:///etc/passwd")
            self.end_headers()
            return
        if not self.path.startswith("/photos/"):
            self.send_error(404)
            return
        buffer = BytesIO()
        Image.fromarray(np.full((20, 30, 3), 90, np.uint8)).save(buffer, "PNG")
        self.send_response(200)
        self.end_headers()
        self.wfile.write(buffer.getvalue())

    def log_message(self, format: str, *args: object) -> None:
        """Keeps the tests' output quiet."""


@pytest.fixture
def site() -> Iterator[tuple[str, list[str]]]:
    """The server's address, and what it was asked for."""
    with ThreadingHTTPServer(("127.0.0.1", 0), _Handler) as server:
        server.asked = []  # type: ignore[attr-defined]
        threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
        yield f"http://127.0.0.1:{server.server_address[1]}", server.asked  # type: ignore[attr-defined]
        server.shutdown()


def test_an_image_at_an_address_is_fetched_once(site: tuple[str, list[str]]) -> None:
    address, asked = site
    for _ in range(2):
        (image,) = find_images(f"{address}/photos/a%20b.png?size=2")
        assert image.name == "a_b.png"
        assert read_image(image.path).shape == (20, 30, 3)
    assert len(asked) == 1
    images = find_images([f"{address}/photos/c.png", f"{address}/photos/c.png?other"])
    assert len({image.name for image in images}) == 2


@pytest.mark.parametrize(
    ("path", "message"),
    [
        pytest.param("/none.jpg", "the server answers 404", id="absent"),
        pytest.param("/away.jpg", "the server answers 302", id="to-a-file-of-this-machine"),
    ],
)
def test_what_cannot_be_fetched_is_reported(
    site: tuple[str, list[str]], path: str, message: str
) -> None:
    with pytest.raises(DataError, match=f"cannot fetch .*{message}.*check the address") as caught:
        find_images(site[0] + path)
    assert "\n" not in str(caught.value)


def test_nobody_there_or_no_address_is_reported() -> None:
    for address in ("http://127.0.0.1:9/a.jpg", "http://[::1/a.jpg", "https://"):
        with pytest.raises(DataError, match="cannot fetch"):
            find_images(address)


def test_too_large_an_image_is_refused(
    site: tuple[str, list[str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(web, "MAX_BYTES", 20)
    with pytest.raises(DataError, match="it is larger than"):
        find_images(f"{site[0]}/photos/large.png")


def test_addresses_in_files_are_not_asked(site: tuple[str, list[str]], tmp_path: Path) -> None:
    address, asked = site
    image = f"{address}/photos/a.png"
    (tmp_path / "list.txt").write_text(f"{image}\n")
    record = {"id": 1, "file_name": image, "height": 20, "width": 30, "coco_url": image}
    content = {"images": [record], "annotations": [], "info": {"images": [image]}}
    (tmp_path / "coco.json").write_text(json.dumps(content))
    for name in ("list.txt", "coco.json"):
        assert not find_images(tmp_path / name)[0].path.exists()
    with pytest.raises(DataError, match="found none of them"):
        image_paths(load_coco(tmp_path / "coco.json"), [])
    assert asked == []


@pytest.mark.parametrize(
    ("address", "name"),
    [
        ("https://a.org/b/photo.jpg", "photo.jpg"),
        ("https://a.org/..%2F..%2Fetc", "_.._etc"),
        ("https://a.org", "image"),
        ("https://a.org/.hidden", "hidden"),
    ],
)
def test_names_are_safe(address: str, name: str) -> None:
    assert address_name(address) == name
