"""A real Label Studio: masks are seen on the image, and corrected ones are learned from.

It is no dependency: the test wants its command in the path, or its place in the environment
variable SOLOIST_LABEL_STUDIO, best from an environment of its own
(`python -m venv ls && ls/bin/pip install label-studio`).
"""

from __future__ import annotations

import json
import os
import shutil
import socket
import subprocess
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

import soloist
from soloist.cli import run_command
from soloist.data.coco.read import load_coco
from soloist.data.coco.rle import encode_masks
from soloist.data.coco.types import CocoImage
from soloist.data.coco.write import write_coco

COMMAND = os.environ.get("SOLOIST_LABEL_STUDIO") or shutil.which("label-studio")
HOST = "127.0.0.1"
PATIENCE = 560  # Seconds; its data base is made first.
TOKEN = "0123456789abcdef0123456789abcdef01234567"
ADA, WORD = "ada@example.org", "correct-horse-1"
SIZE = (120, 160)
GROUND, COLOR = (120, 120, 120), (230, 60, 40)


class Studio(NamedTuple):
    """A running Label Studio with the folder that it serves."""

    address: str
    root: Path

    def ask(self, path: str, values: Any = None, method: str | None = None) -> Any:
        """An answer of its interface."""
        request = urllib.request.Request(
            self.address + path,
            data=None if values is None else json.dumps(values).encode(),
            method=method,
            headers={"Authorization": f"Token {TOKEN}", "Content-Type": "application/json"},
        )
        with urllib.request.urlopen(request, timeout=PATIENCE) as answer:
            content = answer.read()
        return json.loads(content) if content else None


def squares(number: int) -> NDArray[np.bool_]:
    """The masks of an image: two squares."""
    masks = np.zeros((2, *SIZE), dtype=np.bool_)
    masks[0, 20 : 60 + number, 20:70] = True
    masks[1, 70:110, 90 : 140 + number] = True
    return masks


@pytest.fixture(scope="module")
def studio(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Studio]:
    if COMMAND is None:
        pytest.skip("wants label-studio in the path, or in SOLOIST_LABEL_STUDIO")
    root = tmp_path_factory.mktemp("label-studio")
    (root / "files" / "photos").mkdir(parents=True)
    with socket.socket() as probe:
        probe.bind((HOST, 0))
        port = probe.getsockname()[1]
    address = f"http://{HOST}:{port}"
    settings = {
        "LABEL_STUDIO_BASE_DATA_DIR": str(root / "data"),
        "LABEL_STUDIO_LOCAL_FILES_SERVING_ENABLED": "true",
        "LABEL_STUDIO_LOCAL_FILES_DOCUMENT_ROOT": str(root / "files"),
        "LABEL_STUDIO_ENABLE_LEGACY_API_TOKEN": "true",
        "LABEL_STUDIO_DISABLE_SIGNUP_WITHOUT_LINK": "true",
        "COLLECT_ANALYTICS": "false",
        "LATEST_VERSION_CHECK": "false",
        "DJANGO_DB": "sqlite",
        "LABEL_STUDIO_HOST": address,
        "NO_PROXY": "*",
        "PYTHONPATH": "",
    }
    command = [
        *(COMMAND, "start", "--no-browser", "--internal-host", HOST, "--port", str(port)),
        *("--username", ADA, "--password", WORD, "--user-token", TOKEN, "--log-level", "ERROR"),
    ]
    with (root / "log.txt").open("w") as log:
        process = subprocess.Popen(
            command, stdout=log, stderr=log, env={**os.environ, **settings}, cwd=root
        )
    try:
        end = time.monotonic() + PATIENCE
        while True:
            assert process.poll() is None, (root / "log.txt").read_text()[-2000:]
            assert time.monotonic() < end, (root / "log.txt").read_text()[-2000:]
            try:
                urllib.request.urlopen(f"{address}/health", timeout=5).close()
                break
            except (OSError, urllib.error.URLError):
                time.sleep(0.5)
        yield Studio(address, root)
    finally:
        process.terminate()
        process.wait(30)


@pytest.fixture(scope="module")
def project(studio: Studio, tmp_path_factory: pytest.TempPathFactory) -> tuple[int, Path]:
    """A project with the masks of two images as predictions, as docs/formats.md makes it."""
    folder = tmp_path_factory.mktemp("masks")
    photos = studio.root / "files" / "photos"
    entries: list[dict[str, Any]] = []
    for number in range(2):
        pixels = np.full((*SIZE, 3), GROUND, dtype=np.uint8)
        pixels[squares(number).any(axis=0)] = COLOR
        Image.fromarray(pixels).save(photos / f"{number}.png")
        for rle in encode_masks(squares(number)):
            entry = {"image_id": number + 1, "category_id": 1, "segmentation": rle, "score": 0.8}
            entries.append({"id": len(entries) + 1, **entry})
    images = [CocoImage(number + 1, f"{number}.png", *SIZE) for number in range(2)]
    write_coco(folder / "masks.json", images, entries)
    arguments = [
        str(folder / "masks.json"),
        "--format",
        "label-studio",
        "--out",
        str(folder / "ls"),
    ]
    address = "/data/local-files/?d=photos/"
    assert run_command(["convert", *arguments, "--image-url", address]) == 0
    configuration = (folder / "ls" / "label_config.xml").read_text()
    made = studio.ask("/api/projects", {"title": "Discs", "label_config": configuration})
    storage = {
        "project": made["id"],
        "path": str(photos),
        "regex_filter": ".*png",
        "use_blob_urls": True,
    }
    studio.ask("/api/storages/localfiles", storage)
    tasks = json.loads((folder / "ls" / "tasks.json").read_text())
    studio.ask(f"/api/projects/{made['id']}/import", tasks)
    return made["id"], folder


def tasks_of(studio: Studio, project: int) -> list[Any]:
    found = studio.ask(f"/api/tasks?project={project}&fields=all")
    tasks: list[Any] = found["tasks"] if isinstance(found, dict) else found
    return sorted(tasks, key=lambda one: one["data"]["file_name"])


def test_tasks_and_predictions_arrive(studio: Studio, project: tuple[int, Path]) -> None:
    tasks = tasks_of(studio, project[0])
    assert [one["data"]["file_name"] for one in tasks] == ["0.png", "1.png"]
    for one in tasks:
        (prediction,) = studio.ask(f"/api/predictions?task={one['id']}")
        assert prediction["score"] == pytest.approx(0.8)
        assert len(prediction["result"]) == 2


def test_masks_are_seen_on_the_image(
    browser_page: Any, studio: Studio, project: tuple[int, Path], tmp_path: Path
) -> None:
    page = browser_page
    page.set_viewport_size({"width": 1500, "height": 950})
    page.goto(f"{studio.address}/user/login/")
    page.fill("input[name=email]", ADA)
    page.fill("input[name=password]", WORD)
    page.click("button[type=submit]")
    page.wait_for_url(lambda url: "login" not in url)
    task = tasks_of(studio, project[0])[0]
    page.goto(f"{studio.address}/projects/{project[0]}/data?task={task['id']}")
    page.locator("canvas").first.wait_for()
    image = tmp_path / "task.png"
    end = time.monotonic() + 90
    while True:
        page.wait_for_timeout(1000)
        page.screenshot(path=image)
        with Image.open(image) as opened:
            pixels = np.asarray(opened.convert("RGB")).astype(int)
        # The ground as it is, and the squares, which a mask tints.
        ground = np.abs(pixels - GROUND).max(axis=2) <= 2
        bare = np.abs(pixels - COLOR).max(axis=2) <= 2
        if ground.sum() > 20_000 and bare.sum() < 0.02 * ground.sum():
            break
        assert time.monotonic() < end, f"no masks over the image: {image}"


def test_corrected_masks_come_back(
    studio: Studio, project: tuple[int, Path], tmp_path: Path
) -> None:
    number, _ = project
    for place, task in enumerate(tasks_of(studio, number)):
        (prediction,) = studio.ask(f"/api/predictions?task={task['id']}")
        # Somebody throws one of the two masks of the second image away.
        kept = prediction["result"][: 2 - place]
        studio.ask(f"/api/tasks/{task['id']}/annotations", {"result": kept})
    exported = studio.ask(f"/api/projects/{number}/export?exportType=JSON")
    (tmp_path / "export.json").write_text(json.dumps(exported))
    shutil.copytree(studio.root / "files" / "photos", tmp_path / "photos")
    assert len(exported) == 2
    source = [str(tmp_path / "export.json"), "--images", str(tmp_path / "photos")]
    status = run_command(["convert", *source, "--format", "coco", "--out", str(tmp_path / "coco")])
    assert status == 0
    back = load_coco(tmp_path / "coco" / "annotations" / "instances_default.json")
    assert [len(back.annotations[image.id]) for image in back.images] == [2, 1]
    # As it is: no conversion first.
    learned = tmp_path / "learned"
    assert run_command(["finetune", *source, "--out", str(learned)]) == 0
    found = soloist.load(learned).predict(tmp_path / "photos" / "0.png")[0].filter()
    overlaps = [
        max(float((mask & one).sum() / (mask | one).sum()) for mask in found.masks.numpy())
        for one in squares(0)
    ]
    assert min(overlaps) > 0.8
