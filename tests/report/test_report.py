from __future__ import annotations

import base64
import hashlib
import json
import re
from dataclasses import replace
from html.parser import HTMLParser
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
from soloist.errors import DataError
from soloist.evaluation.stage_titles import stage_title
from soloist.report.columns import MAX_MASKS, score_range
from soloist.report.content import ImageVerdict, ReportContent, ReportStage
from soloist.report.html import render_report, shown_images, write_report
from soloist.report.run import moved

HOSTILE = "<script>alert('x')</script>\"&${title}"
BREAKING = "</script><img src=x onerror=alert(1)>'\"]]>--></style>"
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
) -> CocoFile:
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
    return load_coco(path)


def drawn(page: Page) -> list[str | None]:
    """What each image of the gallery is called, aloud."""
    named = [one.get("aria-label") for one in page.attributes("svg") if one.get("viewbox")]
    charts = {"Masks, stage by stage", "Scores of all masks", "Sum of the losses"}
    return [one for one in named if one not in charts | {"Category", "Learning rate"}]


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
            ReportStage("free_masks", "Free Mask", free),
            ReportStage("segmenter", "SOLO", found),
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


def test_images_are_named_and_their_pixels_stand_in_the_page_once(
    content: ReportContent,
) -> None:
    page = Page(render_report(content))
    assert drawn(page)[:3] == [
        "a.png: Free Mask, 4 of 8 masks",
        "a.png: SOLO, 3 masks",
        "a.png: Ground truth, 1 mask",
    ]
    assert len(drawn(page)) == 6
    images = page.attributes("image")
    assert [(one["id"], one["width"], one["height"]) for one in images] == [
        ("pixels-0", "64", "48"),
        ("pixels-1", "64", "48"),
    ]
    uses = [one["href"] for one in page.attributes("use")]
    assert uses == ["#pixels-0"] * 2 + ["#pixels-1"] * 2


def test_masks_carry_what_the_sliders_ask_for(content: ReportContent) -> None:
    paths = [one for one in Page(render_report(content)).attributes("path") if "data-score" in one]
    first = [(one["data-score"], one["class"]) for one in paths[:8]]
    assert first == [
        ("950", "c0"),
        ("940", "c1"),
        ("930", "c2"),
        ("920", "c3"),
        ("910", "c4 off"),
        ("900", "c5 off"),
        ("890", "c6 off"),
        ("880", "c7 off"),
    ]
    # 12 x 16 of 48 x 64 pixels, in millionths.
    assert {one["data-area"] for one in paths} == {"62500"}
    assert {one["d"] for one in paths} == {"M32 12l0 12-16 0 0-12z"}


def test_the_rule_of_what_is_shown_can_be_changed_and_is_reported(content: ReportContent) -> None:
    page = Page(render_report(replace(content, masks_per_image=1)))
    assert drawn(page)[:2] == ["a.png: Free Mask, 1 of 8 masks", "a.png: SOLO, 1 of 3 masks"]
    assert "its best masks, 1 an image on average" in page.text


def test_sure_images_show_more_masks_than_doubtful_ones(
    content: ReportContent, tmp_path: Path
) -> None:
    sure, doubtful = content.images
    path = write_masks(tmp_path / "unequal.json", [sure], [0.9, 0.8, 0.7]).path
    data = json.loads(path.read_text())
    data["images"].append({"id": 9, "file_name": doubtful.name, "height": 48, "width": 64})
    data["annotations"].append({**data["annotations"][0], "id": 9, "image_id": 9, "score": 0.1})
    path.write_text(json.dumps(data))
    stages = [ReportStage("segmenter", "SOLO", load_coco(path))]
    changed = replace(content, stages=stages, ground_truth=None, masks_per_image=1)
    names = drawn(Page(render_report(changed)))
    assert names == ["a.png: SOLO, 2 of 3 masks", "folder/b.png: SOLO, 0 of 1 mask"]


@pytest.mark.parametrize(
    ("scores", "wanted", "slider"),
    [
        pytest.param([], 4, None, id="no-masks"),
        pytest.param([0.5, 0.5], 4, None, id="ties-alone"),
        pytest.param([0.9, 0.3], 4, (300, 900, 5, 300), id="fewer-than-wanted"),
        pytest.param([0.9, 0.852, 0.801], 2, (801, 900, 1, 852), id="narrow"),
        pytest.param([0.903, 0.507, 0.001], 2, (0, 905, 5, 505), id="start-on-a-step-below"),
        pytest.param([80.0, 20.0], 1, (20000, 80000, 500, 80000), id="percent"),
        pytest.param([0.0, -1.0], 1, (-1000, 0, 5, 0), id="negative"),
    ],
)
def test_a_slider_spans_the_scores_and_begins_at_the_best(
    tmp_path: Path, scores: list[float], wanted: int, slider: tuple[int, ...] | None
) -> None:
    file = write_masks(tmp_path / "m.json", [ImageRef(tmp_path, "a.png", 1)], scores)
    found = score_range(file, wanted)
    assert (found and (found.low, found.high, found.step, found.start)) == slider


def test_every_control_has_a_label(content: ReportContent) -> None:
    page = Page(render_report(content))
    inputs = [*page.attributes("input"), *page.attributes("select")]
    assert len(inputs) == 4 + 3 + 3
    assert page.text.count("Least score, ") == 2
    for name in ("Show", "Sort by", "Least area", "Largest area", "True outlines"):
        assert name in page.text
    # Without a script they would do nothing.
    assert "hidden" in page.attributes("form")[0]


def test_orders_by_true_objects_are_offered_where_there_are_any(content: ReportContent) -> None:
    def orders(changed: ReportContent) -> set[str | None]:
        return {one["value"] for one in Page(render_report(changed)).attributes("option")}

    assert {"doubt", "score-high", "count-low"} < orders(content)
    assert orders(judged(content)) - orders(content) == {"worst", "best"}


def test_an_image_keeps_its_best_masks_only(content: ReportContent, tmp_path: Path) -> None:
    scores = [place / 100 for place in range(MAX_MASKS + 5)]
    file = write_masks(tmp_path / "many.json", list(content.images), scores)
    changed = replace(content, stages=[ReportStage("x", "X", file)], ground_truth=None)
    page = Page(render_report(changed))
    kept = [int(one["data-score"] or 0) for one in page.attributes("path") if "data-score" in one]
    assert len(kept) == 2 * MAX_MASKS
    assert min(kept) == 50
    assert "10 more are in the files" in page.text


def test_classes_are_reported_where_there_are_several(
    content: ReportContent, tmp_path: Path
) -> None:
    path = write_masks(tmp_path / "classes.json", list(content.images), [0.5]).path
    data = json.loads(path.read_text())
    data["categories"] = [{"id": 1, "name": BREAKING}, {"id": 2, "name": "cat"}]
    path.write_text(json.dumps(data))
    stages = [ReportStage("x", "X", load_coco(path))]
    page = Page(render_report(replace(content, stages=stages, ground_truth=None)))
    labels = [one["data-label"] for one in page.attributes("path") if "data-label" in one]
    assert labels == [BREAKING, BREAKING]


def test_only_so_many_images_are_shown(content: ReportContent) -> None:
    page = Page(render_report(replace(content, max_images=1)))
    assert len(page.attributes("image")) == 1
    assert "1 of 2 images" in page.text


@pytest.mark.parametrize("hostile", [HOSTILE, BREAKING])
def test_hostile_names_are_text_everywhere(hostile: str, tmp_path: Path) -> None:
    refs = write_images(tmp_path, [hostile])
    found = write_masks(tmp_path / "hostile.json", refs, [0.9])
    content = ReportContent(
        title=hostile,
        summary=hostile,
        results={hostile: {"mask_ap": 0.1}},
        stages=[ReportStage("segmenter", hostile, found)],
        images=refs,
        metrics=[{"step": 1, f"loss_{hostile}": 1.0}, {"step": 2, f"loss_{hostile}": 1.0}],
        timing=[(hostile, 1.0)],
        config={hostile: hostile},
        environment={hostile: {hostile: [hostile]}},
        errors=[{"image": hostile, "stage": hostile, "error": hostile}],
    )
    html = render_report(content)
    page = Page(html)
    # The page's own, which its policy knows by its hash.
    assert len(page.attributes("script")) == html.count("<script") == 1
    assert page.attributes("img") == []
    assert drawn(page)[0] == f"{hostile}: {hostile}, 1 mask"
    assert page.attributes("h3")[0]["title"] == hostile
    # Title, heading, summary, gallery, charts, tables: nothing was lost or filled in.
    assert page.text.count(hostile) >= 12


def test_a_name_utf8_cannot_hold_is_written(content: ReportContent, tmp_path: Path) -> None:
    write_report(tmp_path / "report.html", replace(content, title="broken \udcff name"))
    assert "broken \\udcff name" in (tmp_path / "report.html").read_text(encoding="utf-8")


def test_the_page_loads_nothing_and_runs_its_own_script_alone(content: ReportContent) -> None:
    html = render_report(judged(content))
    page = Page(html)
    for tag, attributes in page.tags:
        assert tag not in ("link", "iframe", "object", "embed", "base")
        assert [name for name in attributes if name.startswith("on")] == []
        for name in ("src", "href", "srcset", "poster", "data", "action"):
            address = attributes.get(name) or "#"
            assert address.startswith(("#", "data:image/jpeg;base64,", "https://arxiv.org/"))
    assert "url(" not in html
    assert "@import" not in html
    script = html.split("<script>")[1].split("</script>")[0]
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    assert page.attributes("meta")[3]["content"] == (
        "default-src 'none'; img-src data:; style-src 'unsafe-inline'; "
        f"script-src 'sha256-{digest}'; base-uri 'none'; form-action 'none'"
    )


def test_training_curves_have_one_line_per_round(content: ReportContent) -> None:
    html = render_report(content)
    assert html.count("<polyline") == 3 * 2  # Sum, category and learning rate; two rounds.
    once = replace(content, metrics=[row for row in content.metrics if row["round"] == 0])
    assert render_report(once).count("<polyline") == 3


def test_every_chart_is_named(content: ReportContent) -> None:
    charts = Page(render_report(replace(content, images=()))).attributes("svg")
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
    assert len(page.attributes("image")) == 2
    assert "2 of 3 images" in page.text
    assert page.cells.count("gone.png") == 1


def test_an_image_a_stage_does_not_know_is_said_so(content: ReportContent, tmp_path: Path) -> None:
    other = write_images(tmp_path, ["unknown.png"])
    page = Page(render_report(replace(content, images=other)))
    assert [name and name.split(", ")[1] for name in drawn(page)] == ["not in this file"] * 3


def test_images_alone_are_shown_as_they_are(content: ReportContent) -> None:
    page = Page(render_report(replace(content, stages=(), ground_truth=None)))
    assert drawn(page) == ["a.png", "folder/b.png"]


@pytest.mark.parametrize(
    ("name", "message"),
    [
        pytest.param("b.png", "4 of 8 masks", id="file"),
        pytest.param("above/folder/b.png", "4 of 8 masks", id="more-folders"),
        pytest.param("C:\\above\\folder\\b.PNG", "4 of 8 masks", id="windows"),
        # It may be another split's.
        pytest.param("elsewhere/b.png", "not in this file", id="another-folder"),
    ],
)
def test_images_are_matched_by_the_rule_of_every_verb(
    content: ReportContent, name: str, message: str
) -> None:
    moved = replace(content.images[1], name=name)
    page = Page(render_report(replace(content, images=[moved])))
    assert drawn(page)[0] == f"{name}: Free Mask, {message}"


def test_moved_images_are_matched_by_the_same_rule(content: ReportContent, tmp_path: Path) -> None:
    first, second = content.images

    def put(*names: str) -> None:
        for name in names:
            (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
            Image.new("RGB", (64, 48)).save(tmp_path / name)

    put("away/x/a.png", "away/folder/b.png", "other/valid/b.png")
    found = moved([first, second], [str(tmp_path / "away")])
    assert [one.path for one in found] == [
        tmp_path / "away" / name for name in ("x/a.png", "folder/b.png")
    ]
    assert [one.name for one in found] == ["a.png", "folder/b.png"]
    put("away/y/a.png")
    with pytest.raises(DataError, match=r"'a\.png', which could be"):
        moved([first, second], [str(tmp_path / "away")])
    with pytest.raises(DataError, match=r"found none of them .*'folder/b\.png' is not taken for"):
        moved([second], [str(tmp_path / "other")])


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


def judged(content: ReportContent) -> ReportContent:
    """The content with a bad and a good image in its last stage."""
    first, second = content.images
    verdicts = {first.name: ImageVerdict(3, 3, 0.8), second.name: ImageVerdict(0, 1, 0.1)}
    last = replace(content.stages[-1], verdicts=verdicts)
    return replace(content, stages=(*content.stages[:-1], last))


def test_the_worst_and_the_best_images_are_drawn(content: ReportContent) -> None:
    page = Page(render_report(judged(content)))
    assert page.sections.index("cases") == page.sections.index("gallery") + 1
    assert drawn(page)[-2:] == [
        "folder/b.png: Worst, found 0 of 1, mean best IoU 0.10",
        "a.png: Best, found 3 of 3, mean best IoU 0.80",
    ]
    assert "Where SOLO found the smallest" in page.text
    assert {"href": "#image-1"} in page.attributes("a")


def test_a_table_of_all_images_is_linked(content: ReportContent) -> None:
    page = Page(render_report(replace(judged(content), per_image="evaluation/t.csv")))
    assert {"href": "evaluation/t.csv"} in page.attributes("a")


def test_worst_and_best_images_are_shown_though_others_are_not(content: ReportContent) -> None:
    names = [one.name for one in shown_images(replace(judged(content), max_images=1))]
    assert names == ["a.png", "folder/b.png"]


def test_a_worst_image_that_is_gone_is_listed(content: ReportContent, tmp_path: Path) -> None:
    first, second = judged(content).images
    gone = [first, replace(second, path=tmp_path / "gone.png")]
    page = Page(render_report(replace(judged(content), images=gone)))
    assert [name for name in drawn(page) if name and ": Worst, " in name] == []
    assert any("gone.png" in cell for cell in page.cells)


@pytest.mark.parametrize(
    ("worse", "better"),
    [
        pytest.param(ImageVerdict(0, 2, 0.4), ImageVerdict(1, 2, 0.3), id="recall-first"),
        pytest.param(ImageVerdict(1, 2, 0.3), ImageVerdict(2, 4, 0.4), id="then-overlap"),
        pytest.param(ImageVerdict(2, 4, 0.4), ImageVerdict(1, 2, 0.4), id="then-more-objects"),
    ],
)
def test_verdicts_are_ordered(worse: ImageVerdict, better: ImageVerdict) -> None:
    assert worse.order < better.order
