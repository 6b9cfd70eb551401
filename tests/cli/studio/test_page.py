"""The page as a user has it: the command, a browser, and nothing from outside."""

from __future__ import annotations

import json
import os
import re
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
from PIL import Image
from pycocotools import mask as coco_mask

from soloist.cli import run_command
from soloist.cli.runs import USER_ERROR
from soloist.cli.studio.server import LOOPBACK, check_ready
from soloist.inference.segmenter import load

PATIENCE = 120  # Seconds; on a busy machine everything takes long.

# Runs the command and notes whom the process talks to, whatever library does the talking.
WATCHED_COMMAND = """
import sys
log = open(sys.argv.pop(1), "w", buffering=1)
def note(event, arguments):
    if event in ("socket.connect", "socket.sendto"):
        log.write(f"{arguments[1][0]}\\n")
    elif event in ("socket.getaddrinfo", "socket.gethostbyname"):
        log.write(f"{arguments[0]}\\n")
sys.addaudithook(note)
from soloist.cli import main
main()
"""


class Server(NamedTuple):
    """A running `soloist app`."""

    process: subprocess.Popen[str]
    address: str
    folder: Path

    @property
    def errors(self) -> str:
        return (self.folder / "errors.txt").read_text()

    @property
    def contacts(self) -> set[str]:
        return set((self.folder / "contacts.txt").read_text().split())


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind((LOOPBACK, 0))
        port: int = probe.getsockname()[1]
        return port


@pytest.fixture
def model(model_folder: Path, tmp_path: Path) -> Path:
    """A network without training whose scores differ."""
    segmenter = load(model_folder, device="cpu", precision="fp32")
    for tensor, factor in zip(
        segmenter.network.category_branch.category.parameters(), (30, 0), strict=True
    ):
        tensor.data.mul_(factor)
    segmenter.save_pretrained(tmp_path / "model")
    return tmp_path / "model"


@pytest.fixture
def server(model: Path, tmp_path: Path) -> Iterator[Server]:
    """The command on the model, in an empty folder, with a proxy nobody answers for."""
    pytest.importorskip("gradio", reason="wants gradio: pip install '.[app]'")
    for name in ("here", "temporary"):
        (tmp_path / name).mkdir()
    proxy = f"http://{LOOPBACK}:9"
    environment = {
        **{name: value for name, value in os.environ.items() if name.lower() != "no_proxy"},
        **dict.fromkeys(("http_proxy", "https_proxy", "HTTP_PROXY", "HTTPS_PROXY"), proxy),
        "TMPDIR": str(tmp_path / "temporary"),
    }
    arguments = ["--model", str(model), "--port", str(free_port()), "--no-browser"]
    arguments += ["--device", "cpu", "--precision", "fp32"]
    watched = [sys.executable, "-c", WATCHED_COMMAND, str(tmp_path / "contacts.txt")]
    with (tmp_path / "errors.txt").open("w") as errors:
        process = subprocess.Popen(
            [*watched, "app", *arguments],
            stdout=subprocess.PIPE,
            stderr=errors,
            text=True,
            cwd=tmp_path / "here",
            env=environment,
        )
    with process:
        try:
            assert process.stdout is not None
            server = Server(process, process.stdout.readline().split(" ")[0], tmp_path)
            assert server.address.startswith(f"http://{LOOPBACK}:"), server.errors
            yield server
        finally:
            process.kill()


def test_a_picture_is_segmented_filtered_and_downloaded(
    browser_page: Any, server: Server, model: Path, scenes: Path, tmp_path: Path
) -> None:
    page = browser_page
    requests: list[str] = []
    complaints: list[str] = []
    page.on("request", lambda request: requests.append(request.url))
    page.on("pageerror", lambda error: complaints.append(str(error)))
    page.on("console", lambda said: complaints.append(said.text) if said.type == "error" else None)
    picture = scenes / "images" / "000001.jpg"
    result = load(model, device="cpu", precision="fp32").predict(picture)[0]
    height, width = result.image_size
    scores = result.scores.tolist()
    # Of the slider's steps the first that hides a mask.
    threshold = next(step / 100 for step in range(100) if step / 100 > min(scores))
    expected = [score for score in scores if score >= threshold]
    assert 0 < len(expected) < len(scores)

    def told(count: int) -> str:
        return f"{width} × {height} pixels: {count} of {len(scores)} masks shown."

    page.goto(server.address)
    page.get_by_text("No picture yet.").wait_for()
    score = page.locator("input[type=range]").first
    score.fill("0")
    page.locator("input[type=file]").set_input_files(picture)
    page.get_by_text(told(len(scores))).wait_for()
    image = page.locator(".soloist-picture img")
    with_all = image.get_attribute("src")
    score.fill(str(threshold))
    page.get_by_text(told(len(expected))).wait_for()
    assert image.get_attribute("src") != with_all

    saved = {}
    for button in ("COCO JSON", "Overlay PNG", "Label PNG"):
        with page.expect_download() as download:
            page.get_by_role("button", name=button).click()
        path = saved[button] = tmp_path / download.value.suggested_filename
        download.value.save_as(path)
    assert [path.name for path in saved.values()] == [
        "000001.json",
        "000001.masks.png",
        "000001.labels.png",
    ]
    annotations = json.loads(saved["COCO JSON"].read_text())["annotations"]
    assert [one["score"] for one in annotations] == pytest.approx(expected, abs=1e-6)
    for one, mask in zip(annotations, result.masks.numpy(), strict=False):
        assert np.array_equal(coco_mask.decode(one["segmentation"]).view(bool), mask)
    for button, mode in (("Overlay PNG", "RGB"), ("Label PNG", "I;16")):
        with Image.open(saved[button]) as opened:
            opened.load()
            assert (opened.size, opened.mode) == ((width, height), mode)

    broken = tmp_path / "broken <b>.jpg"
    broken.write_text("no picture")
    page.get_by_label("Clear").click()
    page.get_by_text("No picture yet.").wait_for()
    page.locator("input[type=file]").set_input_files(broken)
    problem = page.locator(".soloist-problem")
    problem.wait_for()
    assert re.fullmatch(
        r"cannot read image 'broken .*\.jpg': it is not an image, .*", problem.inner_text()
    )
    assert page.get_by_role("button", name="COCO JSON").is_disabled()

    assert complaints == []
    assert [url for url in requests if not url.startswith(server.address)] == []
    server.process.send_signal(signal.SIGTERM)
    assert server.process.wait(PATIENCE) == 0
    assert server.errors == ""
    assert server.contacts == {LOOPBACK}
    left = [path for name in ("here", "temporary") for path in (tmp_path / name).rglob("*")]
    assert [path for path in left if path.is_file() or "gradio" in path.name] == []
    assert list((tmp_path / "temporary").glob("soloist*")) == []


# Mistakes


def told_by(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    """The one line that a command with a mistake in it ends in."""
    assert run_command(["app", *arguments]) == USER_ERROR
    out, err = capsys.readouterr()
    assert out == ""
    assert err.count("\n") == 1
    return err


@pytest.fixture
def with_gradio(monkeypatch: pytest.MonkeyPatch) -> None:
    """As if Gradio were installed, whether it is or not."""
    monkeypatch.setattr("soloist.cli.studio.server.find_spec", lambda name: name)


def test_without_gradio_the_remedy_is_told(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("soloist.cli.studio.server.find_spec", lambda name: None)
    assert "pip install '.[app]'" in told_by(capsys, "--model", "none")


@pytest.mark.usefixtures("with_gradio")
def test_a_port_that_is_taken_is_told(capsys: pytest.CaptureFixture[str]) -> None:
    with socket.socket() as other:
        other.bind((LOOPBACK, 0))
        other.listen()
        port = str(other.getsockname()[1])
        line = told_by(capsys, "--model", "none", "--port", port)
    assert line == (
        f"soloist: cannot serve on port {port}: Address already in use; "
        "choose another with --port\n"
    )
    check_ready(int(port))  # Free again.


@pytest.mark.usefixtures("with_gradio")
@pytest.mark.parametrize("port", ["0", "65536", "-1"])
def test_a_port_is_a_port(capsys: pytest.CaptureFixture[str], port: str) -> None:
    line = told_by(capsys, "--model", "none", f"--port={port}")
    assert line == f"soloist: --port must be from 1 to 65535, got {port}\n"


@pytest.mark.usefixtures("with_gradio")
def test_a_model_that_is_not_there_is_told(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    line = told_by(capsys, "--model", str(tmp_path / "none"), "--port", str(free_port()))
    assert "none" in line
