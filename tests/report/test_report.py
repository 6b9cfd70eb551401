from __future__ import annotations

import json
import re
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from soloist.data.coco import CocoImage, encode_masks, write_coco
from soloist.data.images import ImageRef
from soloist.errors import DataError
from soloist.report import ReportContent, StageGallery, WorstImage, write_report
from soloist.report.content import stage_title
from soloist.report.gallery import evenly_spread
from soloist.report.html import render_report

HOSTILE = "<script>alert('x')</script>\"&${title}"
RESULTS = {
    "free_masks": {"mask_ap": 0.0524, "mask_ap50": 0.1591, "mask_ap_s": None, "box_ap": 0.031},
    "segmenter": {"mask_ap": 0.0601, "mask_ap50": 0.1632, "mask_ap_s": None, "box_ap": 0.048},
}


class Page(HTMLParser):
    """What the tests ask a page: tags, attributes, table cells and text."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.cells: list[str] = []
        self.text = ""
        self._in_cell = False
        self.feed(html)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag in ("td", "th"):
            self._in_cell = True
            self.cells.append("")

    def handle_endtag(self, tag: str) -> None:
        if tag in ("td", "th"):
            self._in_cell = False

    def handle_data(self, data: str) -> None:
        self.text += data
        if self._in_cell:
            self.cells[-1] += data

    def attributes(self, tag: str) -> list[dict[str, str | None]]:
        return [attributes for name, attributes in self.tags if name == tag]

    @property
    def sections(self) -> list[str | None]:
        return [attributes["id"] for attributes in self.attributes("section")]


def write_images(
    folder: Path, names: list[str], size: tuple[int, int] = (48, 64)
) -> list[ImageRef]:
    height, width = size
    refs = []
    for index, name in enumerate(names):
        path = folder / f"{index}.png"
        noise = np.random.default_rng(index).integers(0, 256, (height, width, 3), dtype=np.uint8)
        Image.fromarray(noise).save(path)
        refs.append(ImageRef(path, name, index + 1))
    return refs


def write_masks(
    path: Path, refs: list[ImageRef], scores: list[float], size: tuple[int, int] = (48, 64)
) -> Path:
    """The same masks, with these scores, on each image."""
    height, width = size
    mask = np.zeros((height, width), dtype=np.bool_)
    mask[height // 4 : height // 2, width // 4 : width // 2] = True
    rle = encode_masks(mask[None])[0]
    records = [
        {"image_id": ref.id, "segmentation": rle, "score": score, "category_id": 1}
        for ref in refs
        for score in scores
    ]
    images = [CocoImage(ref.id or 0, ref.name, height, width) for ref in refs]
    write_coco(path, images, [{"id": n + 1, **record} for n, record in enumerate(records)])
    return path


@pytest.fixture
def content(tmp_path: Path) -> ReportContent:
    refs = write_images(tmp_path, ["a.png", "folder/b.png"])
    free = write_masks(tmp_path / "free.json", refs, [0.95 - 0.01 * place for place in range(8)])
    found = write_masks(tmp_path / "found.json", refs, [0.9, 0.3, 0.29])
    return ReportContent(
        title="A run",
        summary="What happened.",
        results=RESULTS,
        stages=(
            StageGallery("free_masks", "Free Mask", free),
            StageGallery("segmenter", "SOLO", found),
        ),
        images=refs,
        ground_truth=write_masks(tmp_path / "truth.json", refs, [1.0]),
        metrics=[
            {"round": r, "step": s, "loss_category": 1.0 / s, "learning_rate": 0.01}
            for r in (0, 1)
            for s in (20, 40, 60)
        ],
        timing=[("Free masks", 30.0), ("Training", 90.0)],
        config={"train": {"steps": 77}, "seed": 3},
        environment={"python": "3.12.1"},
        errors=[{"image": "broken.jpg", "stage": "masks", "error": "truncated"}],
    )


def test_all_sections_stand_in_order(content: ReportContent) -> None:
    page = Page(render_report(content))
    names = ["results", "gallery", "scores", "training", "time", "failures", "settings", "citing"]
    assert page.sections == names
    nav = [a["href"] for a in page.attributes("a") if (a["href"] or "").startswith("#")]
    assert nav == ["#main", *(f"#{name}" for name in names)]


def test_a_report_of_nothing_has_its_title_and_the_citation_only() -> None:
    page = Page(render_report(ReportContent(title="Empty")))
    assert page.sections == ["citing"]
    assert "Empty" in page.text
    assert page.attributes("dl") == page.attributes("table") == page.attributes("svg") == []


@pytest.mark.parametrize(
    ("changes", "section"),
    [
        pytest.param({"results": {}}, "results", id="no-ground-truth"),
        pytest.param({"results": {"segmenter": {}}}, "results", id="stages-without-metrics"),
        pytest.param({"images": ()}, "gallery", id="no-images"),
        pytest.param({"metrics": ()}, "training", id="no-curves"),
        pytest.param({"timing": ()}, "time", id="no-times"),
        pytest.param({"errors": ()}, "failures", id="no-failures"),
        pytest.param({"config": {}, "environment": {}}, "settings", id="no-settings"),
    ],
)
def test_a_section_without_data_is_left_out(
    content: ReportContent, changes: dict[str, Any], section: str
) -> None:
    page = Page(render_report(replace(content, **changes)))
    assert section not in page.sections
    assert len(page.sections) == 7


def test_metrics_are_shown_in_percent_and_the_best_is_bold(content: ReportContent) -> None:
    html = render_report(content)
    cells = Page(html).cells
    start = cells.index("Free Mask")
    assert cells[start : start + 10] == ["Free Mask", "5.2", "15.9"] + 7 * ["–"]
    assert cells[start + 10 : start + 13] == ["SOLO", "6.0", "16.3"]
    assert cells[start + 20 : start + 40].count("3.1") == 1
    assert re.findall(r"<strong>(.*?)</strong>", html) == ["6.0", "16.3", "4.8"]


def test_pictures_count_and_alternative_texts(content: ReportContent) -> None:
    page = Page(render_report(content))
    images = page.attributes("img")
    assert [image["alt"] for image in images[:4]] == [
        "a.png",
        "a.png: Free Mask, 4 masks",
        "a.png: SOLO, 3 masks",
        "a.png: Ground truth, 1 mask",
    ]
    assert len(images) == 8
    assert {(image["width"], image["height"]) for image in images} == {("64", "48")}


def test_the_rule_of_what_is_shown_can_be_changed_and_is_told(content: ReportContent) -> None:
    page = Page(render_report(replace(content, masks_per_image=1)))
    alts = [image["alt"] for image in page.attributes("img")]
    assert alts[1:3] == ["a.png: Free Mask, 1 mask", "a.png: SOLO, 1 mask"]
    assert "each stage's best masks, 1 an image on average" in page.text


def test_sure_images_show_more_masks_than_doubtful_ones(
    content: ReportContent, tmp_path: Path
) -> None:
    sure, doubtful = content.images
    path = write_masks(tmp_path / "unequal.json", [sure], [0.9, 0.8, 0.7])
    data = json.loads(path.read_text())
    data["images"].append({"id": 9, "file_name": doubtful.name, "height": 48, "width": 64})
    data["annotations"].append({**data["annotations"][0], "id": 9, "image_id": 9, "score": 0.1})
    path.write_text(json.dumps(data))
    stages = [StageGallery("segmenter", "SOLO", path)]
    changed = replace(content, stages=stages, ground_truth=None, masks_per_image=1)
    alts = [image["alt"] for image in Page(render_report(changed)).attributes("img")]
    assert alts[1::2] == ["a.png: SOLO, 2 masks", "folder/b.png: SOLO, 0 masks"]


def test_only_so_many_images_are_shown(content: ReportContent) -> None:
    page = Page(render_report(replace(content, max_images=1)))
    assert len(page.attributes("img")) == 4
    assert "1 of 2 images" in page.text


def test_shown_images_are_spread_over_all() -> None:
    refs = [ImageRef(Path(f"{n}"), f"{n}") for n in range(10)]
    assert [ref.name for ref in evenly_spread(refs, 4)] == ["0", "2", "5", "7"]
    assert evenly_spread(refs, 99) == refs
    assert evenly_spread([], 4) == []


def test_hostile_names_are_text_everywhere(content: ReportContent, tmp_path: Path) -> None:
    refs = write_images(tmp_path, [HOSTILE])
    found = write_masks(tmp_path / "hostile.json", refs, [0.9])
    hostile = ReportContent(
        title=HOSTILE,
        summary=HOSTILE,
        results={HOSTILE: {"mask_ap": 0.1}},
        stages=[StageGallery("segmenter", HOSTILE, found)],
        images=refs,
        metrics=[{"step": 1, f"loss_{HOSTILE}": 1.0}, {"step": 2, f"loss_{HOSTILE}": 1.0}],
        timing=[(HOSTILE, 1.0)],
        config={HOSTILE: HOSTILE},
        environment={HOSTILE: {HOSTILE: [HOSTILE]}},
        errors=[{"image": HOSTILE, "stage": HOSTILE, "error": HOSTILE}],
    )
    html = render_report(hostile)
    page = Page(html)
    assert page.attributes("script") == []
    assert "<script" not in html
    assert page.attributes("img")[0]["alt"] == HOSTILE
    assert page.attributes("h3")[0]["title"] == HOSTILE
    # Title, heading, summary, gallery, charts, tables: nothing was lost or filled in.
    assert page.text.count(HOSTILE) >= 12


def test_a_name_utf8_cannot_hold_is_written(content: ReportContent, tmp_path: Path) -> None:
    write_report(tmp_path / "report.html", replace(content, title="broken \udcff name"))
    assert "broken \\udcff name" in (tmp_path / "report.html").read_text(encoding="utf-8")


def test_the_page_loads_nothing(content: ReportContent) -> None:
    html = render_report(content)
    page = Page(html)
    for tag, attributes in page.tags:
        assert tag not in ("link", "script", "iframe", "object", "embed")
        for name in ("src", "href", "srcset", "poster", "data", "action"):
            address = attributes.get(name) or "#"
            assert address.startswith(("#", "data:image/jpeg;base64,", "https://arxiv.org/"))
    assert "url(" not in html
    assert "@import" not in html
    policy = page.attributes("meta")[3]["content"]
    assert policy == "default-src 'none'; img-src data:; style-src 'unsafe-inline'"


def test_training_curves_have_one_line_per_round(content: ReportContent) -> None:
    html = render_report(content)
    assert html.count("<polyline") == 3 * 2  # Sum, category and learning rate; two rounds.
    once = replace(content, metrics=[row for row in content.metrics if row["round"] == 0])
    assert render_report(once).count("<polyline") == 3


def test_every_chart_is_named(content: ReportContent) -> None:
    charts = Page(render_report(content)).attributes("svg")
    assert [chart["aria-label"] for chart in charts] == [
        "Masks, stage by stage",
        "Scores of all masks",
        "Sum of the losses",
        "Category",
        "Learning rate",
    ]
    assert {chart["role"] for chart in charts} == {"img"}


def test_options_are_listed_by_their_dotted_name(content: ReportContent) -> None:
    cells = Page(render_report(content)).cells
    assert cells[cells.index("train.steps") + 1] == "77"
    assert cells[cells.index("python") + 1] == "3.12.1"


def test_times_are_summed(content: ReportContent) -> None:
    cells = Page(render_report(content)).cells
    start = cells.index("Free masks")
    assert cells[start : start + 3] == ["Free masks", "30.0 s", "25 %"]
    assert cells[cells.index("In all") + 1] == "2 min"


def test_an_unreadable_image_is_left_out_and_listed(content: ReportContent, tmp_path: Path) -> None:
    refs = [*content.images, ImageRef(tmp_path / "gone.png", "gone.png")]
    page = Page(render_report(replace(content, images=refs)))
    assert len(page.attributes("img")) == 8
    assert "2 images" in page.text
    assert page.cells.count("gone.png") == 1


def test_an_image_a_stage_does_not_know_is_said_so(content: ReportContent, tmp_path: Path) -> None:
    other = write_images(tmp_path, ["unknown.png"])
    page = Page(render_report(replace(content, images=other)))
    assert len(page.attributes("img")) == 1
    assert page.text.count("not in this file") == 3


def test_images_are_found_by_the_last_part_of_their_name(content: ReportContent) -> None:
    moved = replace(content.images[1], name="elsewhere/b.png")
    page = Page(render_report(replace(content, images=[moved])))
    assert page.attributes("img")[1]["alt"] == "elsewhere/b.png: Free Mask, 4 masks"


def test_large_images_become_thumbnails(tmp_path: Path) -> None:
    size = (1200, 1600)
    refs = write_images(tmp_path, ["large.png"], size)
    found = write_masks(tmp_path / "large.json", refs, [0.9], size)
    stages = [StageGallery("segmenter", "SOLO", found)]
    html = render_report(ReportContent(title="Large", images=refs, stages=stages))
    images = Page(html).attributes("img")
    assert [(image["width"], image["height"]) for image in images] == [("320", "240")] * 2
    # Noise is the worst case of JPEG; 24 rows of 5 such pictures stay below 30 MB.
    assert max(len(image["src"] or "") for image in images) < 30e6 / (24 * 5)


def test_a_missing_file_of_masks_is_an_error(content: ReportContent, tmp_path: Path) -> None:
    stages = [StageGallery("segmenter", "SOLO", tmp_path / "none.json")]
    with pytest.raises(DataError, match=r"none\.json"):
        write_report(tmp_path / "report.html", replace(content, stages=stages))
    assert not (tmp_path / "report.html").exists()


@pytest.mark.parametrize(
    ("key", "title"),
    [
        ("free_masks", "Free Mask"),
        ("self_trained", "Self-trained"),
        ("self_trained_2", "Self-trained, round 2"),
        ("upper_bound", "upper_bound"),
        ("other_2", "other_2"),
    ],
)
def test_stage_title(key: str, title: str) -> None:
    assert stage_title(key) == title


def test_the_worst_images_are_drawn_and_the_table_is_linked(content: ReportContent) -> None:
    first, second = content.images
    worst = [WorstImage(second, "found 0 of 1"), WorstImage(first, "found 1 of 3")]
    page = Page(render_report(replace(content, worst=worst, per_image="evaluation/t.csv")))
    assert page.sections.index("worst") == page.sections.index("gallery") + 1
    alts = [img["alt"] or "" for img in page.attributes("img")]
    drawn = [alt for alt in alts if ": Worst, " in alt]
    assert drawn == ["folder/b.png: Worst, found 0 of 1", "a.png: Worst, found 1 of 3"]
    assert {"href": "evaluation/t.csv"} in page.attributes("a")
    assert "Where SOLO found the smallest share" in page.text


def test_a_worst_image_that_is_gone_is_listed(content: ReportContent, tmp_path: Path) -> None:
    gone = WorstImage(ImageRef(tmp_path / "gone.png", "gone.png", 9), "found 0 of 1")
    page = Page(render_report(replace(content, worst=[gone])))
    assert "worst" not in page.sections
    assert any("gone.png" in cell for cell in page.cells)
