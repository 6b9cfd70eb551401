"""CVAT's own driver and command with the function, against a stand-in of the server's endpoints."""

from __future__ import annotations

import io
import json
import os
import re
import subprocess
import sys
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import Any

import numpy as np
import pytest
from PIL import Image

from soloist.errors import ConfigError
from soloist.inference.segmenter import load

pytest.importorskip("cvat_sdk", reason="wants cvat-sdk: pip install '.[cvat]'")
from cvat_sdk import make_client
from cvat_sdk.auto_annotation import annotate_task
from cvat_sdk.masks import decode_mask

from soloist.integrations.cvat import create

PATIENCE = 240
TASK = 7
USER = {"url": "", "id": 1, "username": "ada", "first_name": "", "last_name": ""}


class StandIn(ThreadingHTTPServer):
    """The endpoints of a CVAT server that the driver calls, with one task.

    Args:
        images: The task's files.
        labels: Names of its labels by id.
        scored: Whether its labels have the attribute.
    """

    daemon_threads = True

    def __init__(self, images: list[Path], labels: dict[int, str], scored: bool = True) -> None:
        super().__init__(("127.0.0.1", 0), Endpoints)
        self.images = images
        self.labels = labels
        self.scored = scored
        self.annotations: list[tuple[str, str, Any]] = []
        self.unknown: list[str] = []

    @property
    def host(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"

    def task(self) -> dict[str, Any]:
        count = len(self.images)
        return {
            "url": f"{self.host}/api/tasks/{TASK}",
            "id": TASK,
            "name": "task",
            "owner": USER,
            "assignee": None,
            "mode": "annotation",
            "status": "annotation",
            "size": count,
            "dimension": "2d",
            "subset": "",
            "data": 1,
            "data_chunk_size": count,
            "data_compressed_chunk_type": "imageset",
            "data_original_chunk_type": "imageset",
            "segment_size": count,
            "overlap": 0,
            "created_date": "2026-11-01T00:00:00Z",
            "updated_date": "2026-11-01T00:00:00Z",
            "jobs": {"count": 1, "completed": 0, "validation": 0, "url": f"{self.host}/api/jobs"},
            "labels": {"url": f"{self.host}/api/labels?task_id={TASK}"},
            "project_id": None,
            "organization": None,
            "organization_id": None,
        }

    def meta(self) -> dict[str, Any]:
        frames = []
        for path in self.images:
            with Image.open(path) as image:
                width, height = image.size
            size = {
                "width": width,
                "height": height,
                "related_files": 0,
                "has_related_context": False,
            }
            frames.append({"name": path.name, **size})
        count = len(frames)
        return {
            "chunk_size": count,
            "chunks_updated_date": "2026-11-01T00:00:00Z",
            "size": count,
            "image_quality": 70,
            "start_frame": 0,
            "stop_frame": count - 1,
            "frame_filter": "",
            "frames": frames,
            "deleted_frames": [],
            "included_frames": None,
        }

    def label_page(self) -> dict[str, Any]:
        attribute = {
            "id": 50,
            "name": "score",
            "mutable": False,
            "input_type": "text",
            "default_value": "",
            "values": [],
        }
        results = [
            {
                "id": key,
                "name": name,
                "color": "#2080c0",
                "attributes": [attribute | {"id": 50 + key}] if self.scored else [],
                "type": "any",
                "sublabels": [],
                "has_parent": False,
                "task_id": TASK,
            }
            for key, name in self.labels.items()
        ]
        return {"count": len(results), "next": None, "previous": None, "results": results}

    def chunk(self) -> bytes:
        content = io.BytesIO()
        with zipfile.ZipFile(content, "w") as archive:
            for number, path in enumerate(self.images):
                archive.write(path, f"{number:06d}{path.suffix}")
        return content.getvalue()


class Endpoints(BaseHTTPRequestHandler):
    """Answers by the address alone."""

    server: StandIn

    def log_message(self, *_: object) -> None:
        pass

    def do_GET(self) -> None:
        answers: dict[str, Any] = {
            "/api/server/about": {
                "name": "CVAT",
                "description": "",
                "version": "2.80.0",
                "logo_url": "http://127.0.0.1/logo",
                "subtitle": "",
            },
            "/api/users/self": USER,
            f"/api/tasks/{TASK}": self.server.task(),
            f"/api/tasks/{TASK}/data/meta": self.server.meta(),
            "/api/labels": self.server.label_page(),
        }
        path = self.path.split("?")[0].rstrip("/")
        if path == f"/api/tasks/{TASK}/data":
            self._send(self.server.chunk(), "application/zip")
        elif path in answers:
            self._send(json.dumps(answers[path]).encode(), "application/json")
        else:
            self._refuse()

    def do_POST(self) -> None:
        content = self._content()
        if self.path.split("?")[0] == "/api/auth/login":
            assert content["username"] == "ada"
            session = ("sessionid=one; Path=/", "csrftoken=two; Path=/")
            self._send(b'{"key": "token"}', "application/json", session)
        else:
            self._refuse()

    def do_PUT(self) -> None:
        self._annotate()

    def do_PATCH(self) -> None:
        self._annotate()

    def _annotate(self) -> None:
        content = self._content()
        if not re.match(rf"/api/tasks/{TASK}/annotations/?(\?|$)", self.path):
            self._refuse()
            return
        self.server.annotations.append((self.command, self.path, content))
        answer = {"version": 1, "tags": [], "shapes": [], "tracks": []}
        self._send(json.dumps(answer).encode(), "application/json")

    def _content(self) -> Any:
        return json.loads(self.rfile.read(int(self.headers["Content-Length"])))

    def _refuse(self) -> None:
        self.server.unknown.append(f"{self.command} {self.path}")
        self.send_error(404)

    def _send(self, content: bytes, kind: str, cookies: tuple[str, ...] = ()) -> None:
        self.send_response(200)
        for cookie in cookies:
            self.send_header("Set-Cookie", cookie)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)


@pytest.fixture
def images(scenes: Path) -> list[Path]:
    return sorted((scenes / "images").iterdir())[:2]


@contextmanager
def standing_in(server: StandIn) -> Iterator[StandIn]:
    thread = Thread(target=server.serve_forever, daemon=True)
    thread.start()
    yield server
    server.shutdown()
    server.server_close()
    assert server.unknown == []


@pytest.fixture
def stand_in(images: list[Path]) -> Iterator[StandIn]:
    with standing_in(StandIn(images, {11: "object"})) as server:
        yield server


def masks_of(shapes: list[Any], frame: int, size: tuple[int, int]) -> list[Any]:
    return [
        decode_mask(one["points"], image_width=size[1], image_height=size[0])
        for one in shapes
        if one["frame"] == frame
    ]


def expected(path: Path, score: float) -> Any:
    return load(device="cpu", precision="fp32").predict(path)[0].filter(score)


@pytest.mark.slow
def test_a_task_is_annotated_by_the_command(
    stand_in: StandIn, images: list[Path], tmp_path: Path
) -> None:
    command = [
        *(sys.executable, "-m", "cvat_cli", "--server-host", stand_in.host, "--auth", "ada:secret"),
        *("task", "auto-annotate", str(TASK), "--function-module", "soloist.integrations.cvat"),
        *("-p", "min_score=float:0.2", "-p", "device=str:cpu", "-p", "precision=str:fp32"),
    ]
    home = {"HOME": str(tmp_path), "XDG_CACHE_HOME": str(tmp_path), "NO_PROXY": "*"}
    done = subprocess.run(
        command, capture_output=True, text=True, timeout=PATIENCE, env={**os.environ, **home}
    )
    assert done.returncode == 0, done.stderr
    ((method, _, content),) = stand_in.annotations
    assert method == "PATCH"
    for frame, path in enumerate(images):
        result = expected(path, 0.2)
        shapes = [one for one in content["shapes"] if one["frame"] == frame]
        assert len(shapes) == len(result) > 0
        assert {one["type"] for one in shapes} == {"mask"}
        assert {one["label_id"] for one in shapes} == {11}
        assert [one["attributes"] for one in shapes] == [
            [{"spec_id": 61, "value": f"{score:.2f}"}] for score in result.scores.tolist()
        ]
        for mask, wanted in zip(
            masks_of(content["shapes"], frame, result.image_size), result.masks, strict=True
        ):
            assert np.array_equal(mask, wanted.numpy())


@pytest.mark.parametrize(
    ("options", "kind", "method"),
    [
        pytest.param({"conf_threshold": 0.5}, "mask", "PATCH", id="threshold"),
        pytest.param(
            {"conv_mask_to_poly": True, "clear_existing": True}, "polygon", "PUT", id="polygons"
        ),
    ],
)
def test_what_cvat_asks_for_is_done(
    stand_in: StandIn,
    tmp_path: Path,
    options: dict[str, Any],
    kind: str,
    method: str,
) -> None:
    function = create(min_score=0.0, device="cpu", precision="fp32")
    with make_client(stand_in.host, credentials=("ada", "secret")) as client:
        client.config.cache_dir = tmp_path
        annotate_task(client, TASK, function, **options)
    ((sent, _, content),) = stand_in.annotations
    assert (sent, {one["type"] for one in content["shapes"]}) == (method, {kind})
    scores = [float(one["attributes"][0]["value"]) for one in content["shapes"]]
    assert min(scores) >= options.get("conf_threshold", 0.0) - 0.005
    if kind == "polygon":
        assert all(len(one["points"]) >= 6 for one in content["shapes"])


def test_classes_are_labels(classes_folder: Path) -> None:
    function = create(str(classes_folder), device="cpu", precision="fp32")
    assert [(one.id, one.name) for one in function.spec.labels] == [
        (0, "cat"),
        (1, "dog"),
        (2, "tree"),
    ]


def test_a_task_calls_objects_as_it_likes(images: list[Path], tmp_path: Path) -> None:
    function = create(label="nucleus", scores=False, device="cpu", precision="fp32")
    with (
        standing_in(StandIn(images, {11: "nucleus"}, scored=False)) as server,
        make_client(server.host, credentials=("ada", "secret")) as client,
    ):
        client.config.cache_dir = tmp_path
        annotate_task(client, TASK, function)
    ((_, _, content),) = server.annotations
    assert {(one["label_id"], len(one["attributes"])) for one in content["shapes"]} == {(11, 0)}


@pytest.mark.parametrize(
    ("options", "message"),
    [
        pytest.param({"min_score": 7.0}, r"wanted min_score in \[0, 1\], got 7.0", id="score"),
        pytest.param({"tolerance": -1.0}, "wanted a tolerance of 0 pixels or more", id="tolerance"),
    ],
)
def test_what_no_mask_could_have_is_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        create(device="cpu", **options)


def test_one_label_is_for_one_class(classes_folder: Path) -> None:
    with pytest.raises(ConfigError, match="a model of 3 classes, got 'nucleus'"):
        create(str(classes_folder), label="nucleus", device="cpu")


def test_a_tolerance_of_masks_is_refused(stand_in: StandIn, tmp_path: Path) -> None:
    function = create(tolerance=2.0, device="cpu", precision="fp32")
    with make_client(stand_in.host, credentials=("ada", "secret")) as client:
        client.config.cache_dir = tmp_path
        with pytest.raises(ConfigError, match="add --conv-mask-to-poly"):
            annotate_task(client, TASK, function)
    assert stand_in.annotations == []
