"""The studio as people have it: the command, a browser, a pointer, and nothing from outside."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image
from tests.cli.studio.conftest import DISCS, SIZE, disc, draw, iou

from soloist.cli.studio.server import LOOPBACK
from soloist.data.coco.read import load_coco
from soloist.data.coco.rle import decode_mask

PATIENCE = 120  # Seconds; on a busy machine everything takes long.
MAX_MILLISECONDS = 50
"""For an answer to a move of the pointer."""

# Runs the command and notes whom the process talks to, whatever library does the talking.
WATCHED_COMMAND = """
import sys
log = open(sys.argv.pop(1), "a", buffering=1)
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
    """A running `soloist studio`."""

    process: subprocess.Popen[str]
    address: str
    folder: Path

    @property
    def labels(self) -> Path:
        return self.folder / "run" / "labels.json"

    @property
    def errors(self) -> str:
        return (self.folder / "errors.txt").read_text()

    @property
    def contacts(self) -> set[str]:
        return set((self.folder / "contacts.txt").read_text().split())


@contextmanager
def served(folder: Path, *arguments: str) -> Iterator[Server]:
    """The command on the images of a folder, with a proxy nobody answers for."""
    proxy = f"http://{LOOPBACK}:9"
    environment = {
        **os.environ,
        **dict.fromkeys(("http_proxy", "https_proxy", "HTTP_PROXY", "HTTPS_PROXY"), proxy),
    }
    watched = [sys.executable, "-c", WATCHED_COMMAND, str(folder / "contacts.txt"), "studio"]
    given = ["images", "--out", "run", "--device", "cpu", "--precision", "fp32", "--no-browser"]
    with (folder / "errors.txt").open("w") as errors:
        process = subprocess.Popen(
            [*watched, *given, *arguments],
            stdout=subprocess.PIPE,
            stderr=errors,
            text=True,
            cwd=folder,
            env=environment,
        )
    with process:
        try:
            assert process.stdout is not None
            server = Server(process, process.stdout.readline().split(" ")[0], folder)
            assert server.address.startswith(f"http://{LOOPBACK}:"), server.errors
            yield server
        finally:
            process.kill()


@pytest.fixture
def server(folder: Path, tmp_path: Path) -> Iterator[Server]:
    with served(tmp_path) as running:
        yield running


class Studio:
    """The page as somebody uses it; points are rows and columns of the image."""

    def __init__(self, page: Any, address: str, size: tuple[int, int] = SIZE) -> None:
        self.page = page
        self.size = size
        self.address = address
        self.requests: list[str] = []
        self.complaints: list[str] = []
        page.set_viewport_size({"width": 1400, "height": 900})
        page.on("request", lambda request: self.requests.append(request.url))
        page.on("pageerror", lambda error: self.complaints.append(str(error)))
        page.on("console", lambda said: self.complaints.append(said.text))
        page.goto(address)
        self.wait_for_image()

    def until(self, condition: str) -> None:
        """Waits; the page's own policy forbids Playwright's way to do it."""
        end = time.monotonic() + PATIENCE
        while not self.page.evaluate(condition):
            assert time.monotonic() < end, (condition, self.problem, self.complaints)
            self.page.wait_for_timeout(20)

    def wait_for_image(self, name: str = "") -> None:
        self.until(
            f"Boolean(window.studio && window.studio.ready.startsWith({name!r}) && "
            "window.studio.ready && document.querySelector('img').complete)"
        )

    @property
    def objects(self) -> int:
        return int(self.page.locator(".objects li").count())

    @property
    def lit(self) -> str:
        return str(self.page.locator("#lit").inner_text())

    @property
    def status(self) -> str:
        return str(self.page.locator("footer [role=status]").inner_text())

    @property
    def problem(self) -> str:
        return str(self.page.locator("footer [role=alert]").inner_text())

    def on_screen(self, row: float, column: float) -> tuple[float, float]:
        box = self.page.locator(".sheet").bounding_box()
        across, down = box["width"] / self.size[1], box["height"] / self.size[0]
        return box["x"] + (column + 0.5) * across, box["y"] + (row + 0.5) * down

    def point(self, row: float, column: float) -> None:
        self.page.mouse.move(*self.on_screen(row, column))

    def acting(self, work: Any) -> None:
        """Does something, and waits until it is done and saved."""
        before = self.page.evaluate("window.studio.acts")
        work()
        self.until(
            f"window.studio.acts > {before} || "
            "document.querySelector('footer [role=alert]').textContent !== ''"
        )

    def click(self, row: float, column: float) -> None:
        self.point(row, column)
        self.acting(lambda: self.page.mouse.click(*self.on_screen(row, column)))

    def drag(
        self, points: Sequence[tuple[float, float]], key: str | None = None, steps: int = 8
    ) -> None:
        def work() -> None:
            self.point(*points[0])
            if key is not None:
                self.page.keyboard.down(key)
            self.page.mouse.down()
            for point in points[1:]:
                self.page.mouse.move(*self.on_screen(*point), steps=steps)
            self.page.mouse.up()
            if key is not None:
                self.page.keyboard.up(key)

        self.acting(work)

    def press(self, key: str) -> None:
        self.page.keyboard.press(key)

    def lit_mask(self) -> NDArray[np.bool_]:
        """What is lit, on the size of the arrays."""
        pixels = self.page.evaluate(
            """() => {
              const {stage} = window.studio, {items, lit} = stage;
              if (!lit || lit.item === undefined) return [];
              return [...Array(items.width * items.height).keys()].filter(
                (pixel) => items.holds(lit.item, pixel));
            }"""
        )
        height, width = self.page.evaluate(
            "[window.studio.stage.items.height, window.studio.stage.items.width]"
        )
        mask = np.zeros(height * width, dtype=np.bool_)
        mask[pixels] = True
        small: NDArray[np.bool_] = mask.reshape(height, width)
        whole = Image.fromarray(small).resize(self.size[::-1], Image.Resampling.NEAREST)
        return np.asarray(whole)


def saved(server: Server, name: str) -> list[NDArray[np.bool_]]:
    """The masks of an image as the next command has them; the server must have ended."""
    file = load_coco(server.labels)
    image = next(image for image in file.images if image.file_name == name)
    return [decode_mask(one.rle) for one in file.annotations[image.id]]


def end(server: Server) -> None:
    """Ends the command as a service is ended, and checks that it had nothing to complain about."""
    server.process.send_signal(signal.SIGTERM)
    assert server.process.wait(PATIENCE) == 0
    assert server.errors == ""
    assert server.contacts <= {LOOPBACK}


RED, GREEN, BLUE = (DISCS[name][:2] for name in ("red", "green", "blue"))


def test_what_is_under_the_pointer_is_lit_kept_and_removed(
    browser_page: Any, server: Server
) -> None:
    studio = Studio(browser_page, server.address)
    for name, place in zip(DISCS, (RED, GREEN, BLUE), strict=True):
        studio.point(*place)
        assert iou(studio.lit_mask(), disc(name)) > 0.9
    studio.click(*GREEN)
    assert (studio.objects, studio.status) == (1, "Kept. 1 object. Saved.")
    assert studio.lit == "object, kept. Click removes it."
    studio.click(*RED)
    studio.click(*GREEN)
    assert (studio.objects, studio.status) == (1, "Removed. 1 object. Saved.")
    studio.acting(lambda: studio.press("Control+z"))
    assert studio.objects == 2
    studio.acting(lambda: studio.press("Control+y"))
    assert (studio.objects, studio.status) == (1, "Done again. 1 object. Saved.")
    assert studio.complaints == []
    assert [url for url in studio.requests if not url.startswith(f"http://{LOOPBACK}:")] == []
    end(server)
    (mask,) = saved(server, "0.png")
    assert iou(mask, disc("red")) > 0.95


def test_the_wheel_walks_to_parts_and_to_groups(browser_page: Any, server: Server) -> None:
    studio = Studio(browser_page, server.address)
    studio.point(*GREEN)
    sizes = [studio.lit_mask().sum()]
    for _ in range(2):
        studio.page.mouse.wheel(0, 100)
        sizes.append(studio.lit_mask().sum())
    assert sizes[0] > sizes[1] > sizes[2] > 0
    for _ in range(2):
        studio.page.mouse.wheel(0, -100)
    assert studio.lit_mask().sum() == sizes[0]
    # A level that was chosen stays lit within its item, and is left with it.
    studio.page.mouse.wheel(0, -100)
    larger = studio.lit_mask()
    assert larger.sum() > sizes[0]
    studio.point(GREEN[0] + 5, GREEN[1] + 5)
    assert np.array_equal(studio.lit_mask(), larger)
    # A touchpad turns by a few pixels at a time: a notch of them is a level.
    for turned in (10, 20, 30, 40):
        studio.page.mouse.wheel(0, 10)
        assert np.array_equal(studio.lit_mask(), larger), turned
    studio.page.mouse.wheel(0, 10)
    assert studio.lit_mask().sum() == sizes[0]


def test_a_drag_makes_one_object_and_a_stroke_makes_two(browser_page: Any, server: Server) -> None:
    studio = Studio(browser_page, server.address)
    studio.click(*RED)
    studio.click(*GREEN)
    studio.drag([RED, GREEN])
    assert studio.objects == 1
    studio.drag([(150, 170), (150, 290)], key="Shift")
    assert (studio.objects, studio.problem) == (2, "")
    assert studio.status == "Split. 2 objects. Saved."
    # A stroke may begin and end beside the image, also where that fills its room.
    studio.page.set_viewport_size({"width": 1400, "height": 500})
    studio.page.wait_for_timeout(200)
    room, sheet = (studio.page.locator(name).bounding_box() for name in (".scroll", ".sheet"))
    assert abs(room["height"] - sheet["height"]) < 1
    studio.drag([(-4, 240), (60, 240), (244, 240)], key="Shift")
    assert (studio.objects, studio.problem) == (3, "")
    studio.acting(lambda: studio.press("u"))
    studio.page.set_viewport_size({"width": 1400, "height": 900})
    studio.page.wait_for_timeout(200)
    assert studio.objects == 2
    studio.press("s")
    studio.drag([(70, 60), (70, 80)])
    assert "crosses from side to side" in studio.problem
    assert studio.objects == 2
    studio.press("Escape")
    # What a drag within one object joins is nothing, which is said.
    studio.point(150, 190)
    studio.page.mouse.down()
    studio.page.mouse.move(*studio.on_screen(150, 200), steps=4)
    studio.page.mouse.up()
    assert studio.status.startswith("Nothing to join")
    assert studio.objects == 2
    end(server)
    masks = saved(server, "0.png")
    assert iou(masks[0] | masks[1], disc("red") | disc("green")) > 0.9
    assert not (masks[0] & masks[1]).any()


def test_an_outline_is_drawn_by_a_drag_and_by_corners(browser_page: Any, server: Server) -> None:
    studio = Studio(browser_page, server.address)
    studio.press("l")
    assert studio.lit == "Drag around an object, or click its corners."
    corners = [(10, 10), (10, 60), (40, 60), (40, 10)]
    studio.drag([*corners, corners[0]])
    assert (studio.objects, studio.status) == (1, "Drawn. 1 object. Saved.")
    other = [(100, 10), (100, 60), (130, 60), (130, 10)]
    for row, column in other:
        studio.page.mouse.click(*studio.on_screen(row, column))
    studio.click(*other[0])
    assert studio.objects == 2
    # A drag that encloses nothing is said, and changes nothing.
    studio.drag([(60, 60), (60, 90)])
    assert "encloses something" in studio.problem
    # A wrong corner is taken back alone, and Enter closes what has three.
    third = [(160, 10), (160, 60), (190, 60), (190, 10)]
    for row, column in [*third[:2], (5, 200), *third[2:]]:
        studio.page.mouse.click(*studio.on_screen(row, column))
        if row == 5:
            studio.press("Control+z")
            assert studio.status == "Corner 3 taken back."
    studio.acting(lambda: studio.press("Enter"))
    assert (studio.objects, studio.status) == (3, "Drawn. 3 objects. Saved.")
    studio.page.mouse.click(*studio.on_screen(*third[0]))
    studio.press("Escape")
    assert studio.status == "Given up."
    assert studio.objects == 3
    end(server)
    drawn = (corners, other, third)
    for mask, outline in zip(saved(server, "0.png"), drawn, strict=True):
        (top, left), (bottom, right) = outline[0], outline[2]
        wanted = np.zeros_like(mask)
        wanted[top:bottom, left:right] = True
        assert iou(mask, wanted) > 0.9


def test_all_from_a_score_on_is_kept_and_classes_are_given_by_keys(
    browser_page: Any, server: Server
) -> None:
    studio = Studio(browser_page, server.address)
    studio.page.get_by_label("Name of a new class").fill("lamp")
    studio.page.get_by_role("button", name="Add").click()
    studio.page.get_by_role("radio", name="lamp").wait_for()
    studio.page.locator("input[type=range]").fill("0.2")
    studio.acting(lambda: studio.press("a"))
    count = studio.objects
    assert count >= 3
    assert studio.status.startswith(f"{count} kept.")
    studio.point(*RED)
    studio.acting(lambda: studio.press("2"))
    assert studio.lit == "lamp, kept. Click removes it."
    end(server)
    file = load_coco(server.labels)
    assert file.categories == {1: "object", 2: "lamp"}
    lamps = [one for one in file.annotations[1] if one.category_id == 2]
    assert [iou(decode_mask(one.rle), disc("red")) > 0.9 for one in lamps] == [True]


def test_images_follow_each_other_and_nothing_is_lost_by_a_kill(
    browser_page: Any, server: Server, tmp_path: Path
) -> None:
    studio = Studio(browser_page, server.address)
    studio.click(*RED)
    studio.press("f")
    studio.until("!window.studio.ready.startsWith('0.png')")
    second = studio.page.evaluate("window.studio.ready").split(" ")[0]
    assert second in ("1.png", "2.png")
    studio.click(*GREEN)
    studio.click(*BLUE)
    server.process.kill()
    server.process.wait(PATIENCE)
    studio.click(*RED)
    assert "does not answer" in studio.problem
    with served(tmp_path) as later:
        studio = Studio(browser_page, later.address)
        # The first that is not finished.
        assert studio.page.evaluate("window.studio.ready") == "1.png 0"
        text = studio.page.locator("nav").inner_text()
        assert "1 of 3 finished" in text
        end(later)
    assert len(saved(later, second)) == 2
    assert len(saved(later, "0.png")) == 1
    info = json.loads(later.labels.read_text())["info"]
    assert info["unfinished"] == [second]


def test_the_end_of_the_work_is_said(browser_page: Any, server: Server) -> None:
    studio = Studio(browser_page, server.address)
    for _ in range(2):
        ready = studio.page.evaluate("window.studio.ready")
        studio.press("f")
        studio.until(f"window.studio.ready !== {ready!r}")
    studio.press("f")
    studio.page.get_by_text("All images are finished.").wait_for()
    end(server)


def test_everything_goes_without_a_pointer(browser_page: Any, server: Server) -> None:
    studio = Studio(browser_page, server.address)
    studio.page.locator(".scroll").focus()
    # From the middle of the image; a step is a hundredth of its long side.
    for _ in range(22):
        studio.press("ArrowRight")
    for _ in range(9):
        studio.press("ArrowDown")
    assert studio.lit.startswith("Score ")
    assert iou(studio.lit_mask(), disc("green")) > 0.9
    studio.acting(lambda: studio.press("Enter"))
    assert studio.objects == 1
    studio.press("s")
    for _ in range(4):
        studio.press("Shift+ArrowLeft")
    studio.press("Enter")
    for _ in range(8):
        studio.press("Shift+ArrowRight")
    studio.acting(lambda: studio.press("Enter"))
    assert studio.objects == 2
    studio.press("Escape")
    studio.press("?")
    studio.page.get_by_role("heading", name="Keys and the pointer").wait_for()
    studio.press("Escape")
    studio.page.get_by_role("button", name="Remove object 2").focus()
    studio.acting(lambda: studio.press("Enter"))
    assert studio.objects == 1
    # What a screen reader says.
    assert studio.status == "Removed. 1 object. Saved."
    names = studio.page.locator("button, input, select, [tabindex='0']").evaluate_all(
        "(all) => all.filter((one) => !(one.innerText || one.ariaLabel || one.labels?.length))"
        ".map((one) => one.outerHTML)"
    )
    assert names == []


def test_labels_are_exported_and_shown_in_the_dark(
    browser_page: Any, server: Server, tmp_path: Path
) -> None:
    browser_page.emulate_media(color_scheme="dark")
    studio = Studio(browser_page, server.address)
    studio.click(*RED)
    background = "getComputedStyle(document.body).backgroundColor"
    assert studio.page.evaluate(background) == "rgb(15, 23, 42)"
    studio.page.get_by_label("Format").select_option("label-maps")
    studio.page.get_by_role("button", name="Export").click()
    studio.page.get_by_text("1 masks of 1 images are in").wait_for()
    with Image.open(tmp_path / "run" / "export-label-maps" / "masks" / "0.png") as labels:
        assert iou(np.asarray(labels) == 1, disc("red")) > 0.95
    end(server)


def test_a_move_of_the_pointer_is_answered_at_once(browser_page: Any, tmp_path: Path) -> None:
    """Of twelve megapixels, everywhere on the image."""
    scale = 13
    draw(tmp_path / "images" / "large.png", 0, scale)
    size = (SIZE[0] * scale, SIZE[1] * scale)
    assert size[0] * size[1] > 12e6
    with served(tmp_path) as server:
        studio = Studio(browser_page, server.address, size)
        studio.page.evaluate("window.studio.stage.timings.length = 0")
        for row in range(5, size[0], size[0] // 7):
            for column in range(5, size[1], size[1] // 7):
                studio.point(row, column)
        times = sorted(studio.page.evaluate("window.studio.stage.timings"))
    print(f"{len(times)} moves: median {times[len(times) // 2]:.1f} ms, most {times[-1]:.1f} ms")
    assert len(times) >= 49
    assert times[len(times) // 2] < MAX_MILLISECONDS


@pytest.mark.slow
def test_corrections_are_learned_from_while_the_page_goes_on(
    browser_page: Any, server: Server
) -> None:
    studio = Studio(browser_page, server.address)
    learn = studio.page.get_by_role("button", name="Learn from my corrections")
    learn.click()
    studio.page.get_by_text("wanted a finished image with objects").wait_for()
    for place in (RED, GREEN, BLUE):
        studio.click(*place)
    studio.acting(lambda: studio.press("f"))
    studio.until("!window.studio.ready.startsWith('0.png')")
    ready = studio.page.evaluate("window.studio.ready")
    learn.click()
    studio.page.get_by_text("Learns from 1 image:").wait_for()
    studio.click(*RED)
    # What is begun when the training ends is not lost, and marks of the masks before count.
    studio.point(*GREEN)
    studio.press("m")
    studio.page.get_by_text("Learned from 1 image.").wait_for()
    studio.page.wait_for_timeout(1000)
    assert studio.page.evaluate("window.studio.ready") == ready
    studio.acting(lambda: studio.press("Enter"))
    assert (studio.problem, studio.objects) == ("", 2)
    studio.until(f"window.studio.ready === {ready.replace(' 0', ' 1')!r}")
    learn.click()
    studio.page.get_by_text("Learns from 2 images").wait_for()
    studio.press("+")
    studio.press("l")
    for down, across in [(0, 0), (0, 30), (30, 30)]:
        studio.page.mouse.click(*studio.on_screen(RED[0] + down, RED[1] + across))
    studio.page.get_by_text("Learned from 2 images.").wait_for()
    studio.page.wait_for_timeout(1000)
    assert studio.page.evaluate("window.studio.ready") == ready.replace(" 0", " 1")
    studio.acting(lambda: studio.press("Enter"))
    assert (studio.problem, studio.objects) == ("", 3)
    studio.until(f"window.studio.ready === {ready.replace(' 0', ' 2')!r}")
    assert studio.objects == 3
    assert studio.page.evaluate("window.studio.stage.zoom") == 1
    # Regions are what is learned from few labels, not the network.
    model = json.loads((server.folder / "run/models/1/model/config.json").read_text())
    assert model["inference"]["masks"] == "regions"
    assert "models/2" in studio.page.locator("aside").inner_text()
    end(server)
