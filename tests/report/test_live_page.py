"""The page in a browser: what its script does, and that it asks for nothing."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from soloist.data.coco.read import load_coco
from soloist.data.coco.rle import encode_masks
from soloist.data.coco.types import CocoFile, CocoImage
from soloist.data.coco.write import write_coco
from soloist.data.sources import ImageRef
from soloist.report.content import ImageVerdict, ReportContent, ReportStage
from soloist.report.html import write_report

NAMES = ["a.png", "b.png", "c.png", "</script><img src=x onerror=window.hit=1>.png"]
# Scores of the masks of each image: sure and doubtful ones, many and none.
FIRST = [[0.9, 0.8, 0.7], [0.5], [], [0.6, 0.95]]
LAST = [[0.99, 0.98], [0.55, 0.45, 0.52], [0.9], []]
SIZE = (60, 80)


def write_file(path: Path, scores: list[list[float]]) -> CocoFile:
    """Squares side by side; each is a fourth as large as the one before."""
    records: list[dict[str, Any]] = []
    for image_id, several in enumerate(scores, start=1):
        for place, score in enumerate(several):
            mask = np.zeros((1, *SIZE), dtype=np.bool_)
            side, left = 32 >> place, (2, 36, 54)[place]
            mask[0, 4 : 4 + side, left : left + side] = True
            record = {"image_id": image_id, "score": score, "category_id": 1}
            records.append({**record, "id": len(records), "segmentation": encode_masks(mask)[0]})
    images = [CocoImage(at, name, *SIZE) for at, name in enumerate(NAMES, start=1)]
    write_coco(path, images, records)
    return load_coco(path)


@pytest.fixture
def report(tmp_path: Path) -> Path:
    refs = []
    for at, name in enumerate(NAMES, start=1):
        Image.new("RGB", SIZE[::-1], (40 * at, 90, 160)).save(tmp_path / f"{at}.png")
        refs.append(ImageRef(tmp_path / f"{at}.png", name, at))
    verdicts = {
        "a.png": ImageVerdict(2, 2, 0.9),
        "b.png": ImageVerdict(0, 2, 0.1),
        "c.png": ImageVerdict(1, 2, 0.5),
    }
    content = ReportContent(
        title="Live",
        stages=[
            ReportStage("free_masks", "Free Mask", write_file(tmp_path / "free.json", FIRST)),
            ReportStage("segmenter", "SOLO", write_file(tmp_path / "solo.json", LAST), verdicts),
        ],
        ground_truth=write_file(tmp_path / "truth.json", [[1.0], [1.0], [1.0], []]),
        images=refs,
    )
    write_report(tmp_path / "report.html", content)
    return tmp_path / "report.html"


class Live:
    """The page as a reader has it."""

    def __init__(self, page: Any, path: Path) -> None:
        self.page = page
        self.requests: list[str] = []
        self.complaints: list[str] = []
        page.on("request", lambda request: self.requests.append(request.url))
        page.on("pageerror", lambda error: self.complaints.append(str(error)))
        page.on("console", lambda said: self.complaints.append(said.text))
        page.goto(path.as_uri())

    @property
    def remaining(self) -> str:
        return str(self.page.locator("#remaining").inner_text())

    @property
    def names(self) -> list[str]:
        names: list[str] = self.page.locator("article:visible h3").all_inner_texts()
        return names

    def masks(self, column: int) -> int:
        """Visible masks of a column."""
        return int(self.page.locator(f"figure[data-column='{column}'] .masks path:visible").count())

    def slide(self, selector: str, value: int) -> None:
        self.page.locator(selector).fill(str(value))
        # The script filters before the next frame is drawn.
        self.page.evaluate("() => new Promise((done) => requestAnimationFrame(done))")


@pytest.fixture
def live(browser_page: Any, report: Path) -> Live:
    return Live(browser_page, report)


def test_sliders_choose_masks_and_say_how_many_remain(live: Live, report: Path) -> None:
    assert live.remaining == "12 of 12 masks shown, on 4 of 4 images"
    assert (live.masks(0), live.masks(1), live.masks(2)) == (6, 6, 3)
    live.slide(".least-score[data-column='1']", 900)
    assert (live.masks(0), live.masks(1), live.masks(2)) == (6, 3, 3)
    assert live.remaining == "9 of 12 masks shown, on 4 of 4 images"
    slider = live.page.locator(".least-score[data-column='1']")
    assert slider.get_attribute("aria-valuetext") == "0.9"
    assert live.page.get_by_role("status").first.inner_text() == live.remaining
    # The largest square has 21 % of the image, the next 5.3 %, the third 1.3 %.
    live.slide("#min-area", 30)
    assert (live.masks(0), live.masks(1)) == (5, 3)
    live.slide("#min-area", 50)
    assert (live.masks(0), live.masks(1)) == (3, 2)
    live.slide("#largest-area", 55)
    assert (live.masks(0), live.masks(1)) == (0, 0)
    assert live.remaining == "0 of 12 masks shown, on 0 of 4 images"
    live.page.get_by_role("button", name="All masks").click()
    assert live.remaining == "12 of 12 masks shown, on 4 of 4 images"
    assert live.page.evaluate("window.hit") is None
    assert live.complaints == []
    assert [url for url in live.requests if not url.startswith("data:")] == [report.as_uri()]


def test_images_are_sorted_and_hidden(live: Live) -> None:
    a, b, c, d = NAMES
    assert live.names == NAMES

    def order(key: str) -> list[str]:
        live.page.select_option("#order", key)
        return live.names

    # Without a choice of stage the last one counts.
    assert order("score-high") == [a, c, b, d]
    assert order("score-low") == [b, c, a, d]
    assert order("count-high") == [b, a, c, d]
    assert order("doubt") == [b, a, c, d]
    live.slide(".least-score[data-column='1']", 900)
    live.page.locator(".least-score[data-column='1']").dispatch_event("change", {"bubbles": True})
    assert live.names == [c, a, b, d]
    live.page.get_by_role("button", name="All masks").click()
    assert order("worst") == [b, c, a, d]
    assert order("best") == [a, c, b, d]
    live.page.select_option("#view", "0")
    assert (live.masks(0), live.masks(1)) == (6, 0)
    assert order("count-high") == [a, d, b, c]
    live.page.check("#hide-empty")
    assert live.names == [a, d, b]
    assert live.remaining == "6 of 6 masks shown, on 3 of 4 images"


def test_keys_lead_from_image_to_image_and_into_one(live: Live) -> None:
    page = live.page
    page.select_option("#view", "1")
    focused = "document.activeElement.textContent"
    page.locator("article h3 button").first.focus()
    page.keyboard.press("ArrowRight")
    assert page.evaluate(focused) == "b.png"
    page.keyboard.press("End")
    assert page.evaluate(focused) == NAMES[3]
    assert page.locator("article h3 button[tabindex='0']").count() == 1
    page.keyboard.press("Home")
    page.keyboard.press("ArrowRight")
    page.keyboard.press("Enter")
    dialog = page.get_by_role("dialog", name="b.png")
    assert dialog.is_visible()
    assert page.locator("#closer-place").inner_text() == "2 of 4"
    assert dialog.get_by_role("listitem").all_inner_texts() == [
        "score 0.55 · area 21 %",
        "score 0.52 · area 1.3 %",
        "score 0.45 · area 5.3 %",
    ]
    page.keyboard.press("ArrowDown")
    page.keyboard.press("ArrowDown")
    lit = page.locator("#closer-image path.lit")
    assert [lit.count(), lit.get_attribute("data-score")] == [1, "520"]
    page.keyboard.press("ArrowRight")
    assert page.locator("#closer-name").inner_text() == "c.png"
    page.select_option("#closer-view", "2")
    assert page.locator("#closer-masks li").all_inner_texts() == ["area 21 %"]
    page.locator("#close").focus()
    page.keyboard.press("Escape")
    assert not page.locator("#closer").is_visible()
    # A dialog tells the page that it has closed a moment after it has.
    page.locator("article h3 button:focus", has_text="c.png").wait_for()
    assert live.complaints == []


def test_masks_light_up_under_the_pointer(live: Live) -> None:
    opacity = "one => getComputedStyle(one).fillOpacity"
    live.page.emulate_media(reduced_motion="reduce")
    first, second = (
        live.page.locator("#image-0 figure[data-column='0'] .masks path").nth(n) for n in (0, 1)
    )
    before = float(first.evaluate(opacity))
    first.hover()
    assert float(first.evaluate(opacity)) > before > float(second.evaluate(opacity))
    assert live.page.locator(".tip").inner_text() == "score 0.9 · area 21 %"
    live.page.check("#true-outlines")
    assert live.page.locator("#image-0 use.true-outlines").first.is_visible()


@pytest.mark.parametrize(("system", "other"), [("light", "dark"), ("dark", "light")])
def test_the_page_is_light_or_dark_as_the_system_or_the_reader_wants(
    live: Live, system: str, other: str
) -> None:
    brightness = (
        "() => getComputedStyle(document.body).backgroundColor.match(/\\d+/g)"
        ".reduce((sum, one) => sum + Number(one), 0)"
    )

    def shown() -> str:
        return "light" if live.page.evaluate(brightness) > 380 else "dark"

    live.page.emulate_media(color_scheme=system)
    assert shown() == system
    button = live.page.locator("#theme")
    assert json.loads(button.get_attribute("aria-pressed")) == (system == "dark")
    button.click()
    assert shown() == other


def test_without_a_script_the_best_masks_of_all_stages_are_there(
    browser_page: Any, report: Path
) -> None:
    page = browser_page.context.browser.new_context(java_script_enabled=False).new_page()
    page.goto(report.as_uri())
    assert page.locator("article:visible").count() == 4
    assert page.locator(".masks path:visible").count() == 15
    assert not page.locator("form").is_visible()
    assert not page.locator("#theme").is_visible()
