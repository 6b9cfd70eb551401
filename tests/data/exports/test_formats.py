"""Each format: what is written is read back, and what it cannot hold is counted."""

from __future__ import annotations

import errno
import json
import os
from dataclasses import replace
from pathlib import Path
from typing import Any, get_args
from xml.etree import ElementTree

import numpy as np
import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from tests.data.exports.inputs import CATEGORIES, COPY, EMPTY, HARD, PLAIN, SIZE, WriteHard, iou
from tests.data.exports.readers import READERS, Found, Read, decoded_brush, pairs, read_label_maps

from soloist.data.coco.read import load_coco
from soloist.data.coco.rle import decode_mask
from soloist.data.coco.types import CocoFile, CocoImage
from soloist.data.datasets.find import find_dataset
from soloist.data.exports.export import ExportSummary, export
from soloist.data.exports.formats import EXPORT_FORMATS
from soloist.data.exports.label_maps import label_map
from soloist.data.exports.label_studio import brush_rle
from soloist.data.exports.options import ExportOptions, FormatName
from soloist.data.exports.source import places, read_source
from soloist.data.exports.target import Note
from soloist.errors import ConfigError, DataError, RunError

EXACT = ExportOptions(tolerance=0)
CASES: list[tuple[FormatName, ExportOptions]] = [
    (name, ExportOptions(segmentation=segmentation, tolerance=0))
    for name, known in EXPORT_FORMATS.items()
    if name in READERS
    for segmentation in known.segmentations
]
IDS = [f"{name}-{options.segmentation}" for name, options in CASES]


def write(
    source: Path, out: Path, name: FormatName, options: ExportOptions = EXACT, **more: Any
) -> ExportSummary:
    if (options.segmentation or EXPORT_FORMATS[name].segmentations[0]) != "polygon":
        # Masks have no tolerance, and are refused one.
        options = replace(options, tolerance=ExportOptions().tolerance)
    file, paths = read_source(source)
    return export(file, paths, out, name, options, **more)


def wanted_of(file: CocoFile) -> Read:
    return {
        image.file_name: [
            Found(decode_mask(one.rle), file.categories[one.category_id], one.id, one.score)
            for one in file.annotations[image.id]
        ]
        for image in file.images
    }


@pytest.mark.parametrize(("name", "options"), CASES, ids=IDS)
def test_masks_come_back(
    write_hard: WriteHard, tmp_path: Path, name: FormatName, options: ExportOptions
) -> None:
    source = write_hard()
    write(source, tmp_path / "out", name, options)
    wanted = wanted_of(load_coco(source))
    if name == "label-maps":  # They overlap: the better one keeps the pixel.
        for several in wanted.values():
            taken = np.zeros(SIZE, dtype=np.bool_)
            for place, one in enumerate(several):
                several[place] = one._replace(mask=one.mask & ~taken)
                taken |= one.mask
    # Pillow, which reads labelme's polygons, leaves out some pixels along cuts.
    least = 0.99 if name == "labelme" else 1
    for found, true in pairs(READERS[name](tmp_path / "out"), wanted):
        assert true.mask.any() == found.mask.any()
        assert not true.mask.any() or iou(found.mask, true.mask) >= least
        assert found.label == true.label
        assert found.id in (true.id, None)
        assert found.score in (true.score, None)
        if name != "yolo":
            assert None not in found[1:]


@pytest.mark.parametrize(
    "name",
    [
        name
        for name, known in EXPORT_FORMATS.items()
        if "polygon" in known.segmentations and name in READERS
    ],
)
def test_simplified_polygons_stay_close(
    write_hard: WriteHard, tmp_path: Path, name: FormatName
) -> None:
    source = write_hard()
    write(source, tmp_path / "out", name, ExportOptions(segmentation="polygon"))
    for found, true in pairs(READERS[name](tmp_path / "out"), wanted_of(load_coco(source))):
        assert iou(found.mask, true.mask) >= 0.95


@pytest.mark.parametrize(
    ("name", "options", "notes"),
    [
        pytest.param("coco", EXACT, {}, id="coco-mask"),
        pytest.param(
            "coco", ExportOptions(segmentation="polygon"), {Note.CUT_HOLES: 5}, id="coco-polygon"
        ),
        pytest.param(
            "yolo",
            EXACT,
            {Note.CUT_HOLES: 5, Note.JOINED_PARTS: 4, Note.NO_SCORE: 15},
            id="yolo",
        ),
        pytest.param("labelme", EXACT, {Note.CUT_HOLES: 5, Note.SPLIT_PARTS: 4}, id="labelme"),
        pytest.param("label-studio", EXACT, {Note.AT_ROOT: 2}, id="label-studio-mask"),
        pytest.param(
            "label-studio",
            ExportOptions(segmentation="polygon"),
            {Note.CUT_HOLES: 5, Note.SEPARATE_PARTS: 4, Note.AT_ROOT: 2},
            id="label-studio-polygon",
        ),
        pytest.param("via", EXACT, {Note.CUT_HOLES: 5, Note.PART_REGIONS: 4}, id="via"),
        pytest.param("label-maps", EXACT, {Note.OVERLAPPED: 7, Note.HIDDEN: 6}, id="label-maps"),
        pytest.param("geojson", EXACT, {Note.NO_GEOREFERENCE: 3}, id="geojson"),
        pytest.param("overlays", ExportOptions(), {}, id="overlays"),
    ],
)
def test_what_a_format_cannot_hold_is_counted(
    write_hard: WriteHard,
    tmp_path: Path,
    name: FormatName,
    options: ExportOptions,
    notes: dict[Note, int],
) -> None:
    summary = write(write_hard(), tmp_path / "out", name, options)
    assert (summary.images, summary.masks, summary.failed) == (3, 15, 0)
    assert {note: count for note, count in summary.notes.items() if count} == notes


def test_without_scores_none_is_lost(write_hard: WriteHard, tmp_path: Path) -> None:
    source = write_hard(scores=False)
    summary = write(source, tmp_path / "yolo", "yolo")
    assert summary.notes[Note.NO_SCORE] == 0
    write(source, tmp_path / "maps", "label-maps")
    read = read_label_maps(tmp_path / "maps")
    assert {one.score for found in read.values() for one in found} == {None}


def test_every_name_has_a_writer() -> None:
    assert set(get_args(FormatName)) == set(EXPORT_FORMATS)


# What is chosen


def masks_of(summary: ExportSummary, note: Note) -> tuple[int, int]:
    return summary.masks, summary.notes[note]


@pytest.mark.parametrize(
    ("options", "note", "kept"),
    [
        pytest.param(ExportOptions(min_score=0.9), Note.LOW_SCORE, 10, id="score-at-the-bound"),
        pytest.param(ExportOptions(min_area=70), Note.SMALL, 13, id="area-at-the-bound"),
        pytest.param(ExportOptions(max_per_image=4), Note.BEYOND_COUNT, 6, id="count"),
    ],
)
def test_masks_are_chosen(
    write_hard: WriteHard, tmp_path: Path, options: ExportOptions, note: Note, kept: int
) -> None:
    summary = write(write_hard(), tmp_path / "out", "coco", options)
    assert masks_of(summary, note) == (kept, 15 - kept)
    assert len(load_coco(tmp_path / "out" / "annotations" / "instances_default.json")) == kept


def test_the_best_are_kept_in_their_order(write_hard: WriteHard, tmp_path: Path) -> None:
    source = write_hard()
    content = json.loads(source.read_text())
    for record in content["annotations"]:
        record["score"] = 0.5 + record["id"] % 2 / 10
    source.write_text(json.dumps(content))
    write(source, tmp_path / "out", "coco", ExportOptions(max_per_image=3))
    file = load_coco(tmp_path / "out" / "annotations" / "instances_default.json")
    assert [one.id for one in file.annotations[1]] == [11, 13, 15]


def test_what_has_no_pixels_is_left_out(write_hard: WriteHard, tmp_path: Path) -> None:
    source = write_hard()
    content = json.loads(source.read_text())
    first, second, third, *_ = content["annotations"]
    first |= {"segmentation": [], "bbox": [1, 2, 3, 4]}
    second["segmentation"] = {"size": list(SIZE), "counts": [SIZE[0] * SIZE[1]]}
    third["iscrowd"] = 1
    source.write_text(json.dumps(content))
    summary = write(source, tmp_path / "yolo", "yolo")
    left_out = {note: summary.notes[note] for note in (Note.BOX_ALONE, Note.CROWD)}
    assert left_out == dict.fromkeys(left_out, 1)
    assert summary.masks == 12
    assert write(source, tmp_path / "coco", "coco").masks == 13
    file = load_coco(tmp_path / "coco" / "annotations" / "instances_default.json")
    assert [one.iscrowd for one in file.annotations[1]] == [True] + [False] * 10


def test_ids_that_are_given_twice_become_places(write_hard: WriteHard, tmp_path: Path) -> None:
    write(write_hard(), tmp_path / "once", "coco")
    write(write_hard(id=5), tmp_path / "twice", "coco")
    for folder, ids in (("once", range(11, 24)), ("twice", range(1, 14))):
        file = load_coco(tmp_path / folder / "annotations" / "instances_default.json")
        assert [one.id for one in file.annotations[1]] == list(ids)


def test_classes_without_a_name_get_one(write_hard: WriteHard, tmp_path: Path) -> None:
    source = write_hard()
    content = json.loads(source.read_text())
    content["categories"] = content["categories"][:1]
    source.write_text(json.dumps(content))
    write(source, tmp_path / "some", "yolo")
    assert yaml.safe_load((tmp_path / "some" / "data.yaml").read_text(encoding="utf-8"))[
        "names"
    ] == {0: "cat & dog", 1: "class 7"}
    source = write_hard(classes=False)
    content = json.loads(source.read_text())
    del content["categories"]
    source.write_text(json.dumps(content))
    write(source, tmp_path / "none", "yolo")
    assert "0: object" in (tmp_path / "none" / "data.yaml").read_text()


def test_a_single_class_can_be_named(write_hard: WriteHard, tmp_path: Path) -> None:
    named = ExportOptions(label="cell")
    write(write_hard(classes=False), tmp_path / "out", "labelme", named)
    content = json.loads((tmp_path / "out" / "a.json").read_text())
    assert {shape["label"] for shape in content["shapes"]} == {"cell"}
    with pytest.raises(ConfigError, match=r"has 2; leave it out"):
        write(write_hard(), tmp_path / "other", "labelme", named)


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        pytest.param("yolo", {"segmentation": "mask"}, "of yolo can be polygon, got mask",
                     id="yolo-mask"),
        pytest.param("label-maps", {"segmentation": "polygon"}, "can be mask", id="maps-polygon"),
        pytest.param("overlays", {"with_images": "copy"}, "can be none", id="overlays-copy"),
    ],
)  # fmt: skip
def test_a_format_refuses_what_it_does_not_know(
    write_hard: WriteHard, tmp_path: Path, name: FormatName, options: Any, message: str
) -> None:
    with pytest.raises(ConfigError, match=message):
        write(write_hard(), tmp_path / "out", name, ExportOptions(**options))
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    "wrong", [{"min_score": -1}, {"min_area": -1}, {"tolerance": -0.1}, {"max_per_image": 0},
              {"label": " "}]
)  # fmt: skip
def test_options_have_bounds(wrong: Any) -> None:
    with pytest.raises(ConfigError, match=f"export.{next(iter(wrong))} must"):
        ExportOptions(**wrong)


# Names and images


def test_names_stay_inside_and_apart() -> None:
    names = ["a.jpg", "a.png", "A.tif", "../up.jpg", "x/a.jpg", "a-png.gif", "b", "B", "a.jpg/"]
    images = [CocoImage(number, name, 2, 2) for number, name in enumerate(names)]
    found, renamed = places(images)
    stems = [str(place.with_suffix("")).lower() for place in found.values()]
    assert len(set(stems)) == len(stems)
    assert not any(place.is_absolute() or ".." in place.parts for place in found.values())
    assert [found[0], found[1], found[3], found[4]] == [
        Path("a.jpg"), Path("a-png.png"), Path("up.jpg"), Path("x/a.jpg"),
    ]  # fmt: skip
    assert renamed == 5


@pytest.mark.parametrize("address", ["/data/local-files/?d=", "/data/local-files/?d=photos/"])
def test_images_in_the_document_root_of_label_studio_are_told(
    write_hard: WriteHard, tmp_path: Path, address: str
) -> None:
    summary = write(
        write_hard(), tmp_path / "out", "label-studio", ExportOptions(image_url=address)
    )
    assert summary.notes[Note.AT_ROOT] == (0 if "photos" in address else 2)


@pytest.mark.parametrize("how", ["link", "copy"])
@pytest.mark.parametrize(
    ("name", "place"),
    [
        ("coco", "images/default"),
        ("yolo", "images"),
        ("labelme", "."),
        ("label-maps", "images"),
        ("via", "images"),
    ],
)
def test_images_are_put_beside_the_labels(
    write_hard: WriteHard, tmp_path: Path, name: FormatName, place: str, how: Any
) -> None:
    source = write_hard()
    write(source, tmp_path / "out", name, ExportOptions(with_images=how))
    for file_name in (PLAIN, EMPTY, COPY):
        image = tmp_path / "out" / place / file_name
        assert image.samefile(tmp_path / "photos" / file_name) == (how == "link")
        assert image.read_bytes() == (tmp_path / "photos" / file_name).read_bytes()
    if name == "labelme":
        content = json.loads((tmp_path / "out" / COPY).with_suffix(".json").read_text())
        assert content["imagePath"] == Path(COPY).name
    else:
        dataset = find_dataset(tmp_path / "out", name, "train" if name == "yolo" else None)
        assert all(image.path.is_file() for image in dataset.images)
        assert sum(len(dataset.objects(image)) for image in dataset.images) == (
            9 if name == "label-maps" else 15
        )


def test_links_to_another_disk_are_symbolic(
    write_hard: WriteHard, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refused(*paths: Path) -> None:
        raise OSError(errno.EXDEV, "Invalid cross-device link")

    source = write_hard()
    monkeypatch.setattr(os, "link", refused)
    write(source, tmp_path / "out", "yolo")
    assert (tmp_path / "out" / "images" / COPY).is_symlink()
    monkeypatch.setattr(os, "symlink", refused)
    with pytest.raises(RunError, match="cross-device link; add --with-images copy"):
        write(source, tmp_path / "other", "yolo")


def test_images_that_are_missing_are_counted(write_hard: WriteHard, tmp_path: Path) -> None:
    source = write_hard()
    (tmp_path / "photos" / EMPTY).unlink()
    assert write(source, tmp_path / "yolo", "yolo").notes[Note.NO_IMAGE] == 1
    assert write(source, tmp_path / "overlays", "overlays").notes[Note.NO_IMAGE] == 1
    (tmp_path / "photos").rename(tmp_path / "elsewhere")
    assert write(source, tmp_path / "labelme", "labelme").masks == 15
    content = json.loads((tmp_path / "labelme" / COPY).with_suffix(".json").read_text())
    assert content["imagePath"] == COPY
    with pytest.raises(DataError, match="found none of them; add --images"):
        write(source, tmp_path / "none", "overlays")


def test_images_are_drawn_and_broken_ones_listed(write_hard: WriteHard, tmp_path: Path) -> None:
    source = write_hard()
    (tmp_path / "photos" / PLAIN).write_text("no image")
    summary = write(source, tmp_path / "out", "overlays")
    assert summary.failed == 1
    (line,) = (tmp_path / "out" / "errors.jsonl").read_text().splitlines()
    assert json.loads(line)["image"] == PLAIN
    with (
        Image.open(tmp_path / "out" / f"{COPY}.overlay.jpg") as drawn,
        Image.open(tmp_path / "photos" / COPY) as original,
    ):
        change = np.abs(np.asarray(drawn).astype(int) - np.asarray(original).astype(int)).mean(2)
    # Noise changes by JPEG too, but not as much as under a colour.
    masks = HARD["square"] | HARD["ring"]
    assert change[masks].mean() > 1.3 * change[~masks].mean()


# Single formats


def test_yolo_has_an_empty_file_for_an_empty_image(write_hard: WriteHard, tmp_path: Path) -> None:
    write(write_hard(), tmp_path / "out", "yolo")
    assert (tmp_path / "out" / "labels" / "no masks.txt").read_text() == ""
    content = yaml.safe_load((tmp_path / "out" / "data.yaml").read_text(encoding="utf-8"))
    names = dict(enumerate(CATEGORIES.values()))
    assert content == {"train": "images", "val": "images", "nc": 2, "names": names}


def test_the_labelling_configuration_is_xml_with_every_class(
    write_hard: WriteHard, tmp_path: Path
) -> None:
    for segmentation, tag in (("mask", "BrushLabels"), ("polygon", "PolygonLabels")):
        out = tmp_path / segmentation
        write(write_hard(), out, "label-studio", ExportOptions(segmentation=segmentation))  # type: ignore[arg-type]  # of the table
        root = ElementTree.parse(out / "label_config.xml").getroot()
        (labels,) = root.findall(tag)
        assert [one.get("value") for one in labels] == list(CATEGORIES.values())
        regions = json.loads((out / "tasks.json").read_text())[0]["predictions"][0]["result"]
        assert {region["from_name"] for region in regions} == {labels.get("name")}
        assert {region["to_name"] for region in regions} == {root.find("Image").get("name")}  # type: ignore[union-attr]
        assert len({region["id"] for region in regions}) == len(regions)


@pytest.mark.parametrize(
    ("before", "address"),
    [
        pytest.param("/data/local-files/?d=set/", "/data/local-files/?d=set/Stra%C3%9Fe/gr%C3%B6",
                     id="local"),
        pytest.param("https://host/x/", "https://host/x/Stra%C3%9Fe/gr%C3%B6", id="web"),
        pytest.param("s3://bucket/", "s3://bucket/Straße/grö", id="storage"),
    ],
)  # fmt: skip
def test_the_address_of_an_image_is_quoted_for_the_web(
    write_hard: WriteHard, tmp_path: Path, before: str, address: str
) -> None:
    write(write_hard(), tmp_path / "out", "label-studio", ExportOptions(image_url=before))
    tasks = json.loads((tmp_path / "out" / "tasks.json").read_text())
    assert tasks[2]["data"]["image"].startswith(address)


@pytest.mark.parametrize("length", [1, 2, 4, 5, 63, 64, 65, 16383, 16384, 16385, 40000])
def test_brush_runs_of_any_length(length: int) -> None:
    row = np.zeros((1, length + 3), dtype=np.bool_)
    row[0, 2 : 2 + length] = True
    expected = np.repeat(row.ravel() * np.uint8(255), 4)
    assert (decoded_brush(brush_rle(row)) == expected).all()


@settings(deadline=None, max_examples=50)
@given(st.lists(st.booleans(), min_size=1, max_size=200))
def test_any_brush_mask_comes_back(values: list[bool]) -> None:
    row = np.array([values])
    assert (decoded_brush(brush_rle(row)) == np.repeat(row.ravel() * np.uint8(255), 4)).all()


def test_many_brushes_are_reported(write_hard: WriteHard, tmp_path: Path) -> None:
    source = write_hard()
    content = json.loads(source.read_text())
    for number in range(40):
        content["annotations"].append(content["annotations"][0] | {"id": 100 + number})
    source.write_text(json.dumps(content))
    assert write(source, tmp_path / "masks", "label-studio").notes[Note.MANY_BRUSHES] == 1
    polygons = ExportOptions(segmentation="polygon")
    notes = write(source, tmp_path / "polygons", "label-studio", polygons).notes
    assert notes[Note.MANY_BRUSHES] == 0


def test_coco_has_tight_boxes_and_scores_among_attributes(
    write_hard: WriteHard, tmp_path: Path
) -> None:
    write(write_hard(bbox=[0, 0, 90, 60]), tmp_path / "out", "coco")
    content = json.loads((tmp_path / "out/annotations/instances_default.json").read_text())
    first = content["annotations"][0]
    assert first["bbox"] == [12, 10, 20, 20]
    assert first["attributes"] == {"score": 0.99}


def test_label_maps_count_beyond_one_byte() -> None:
    masks = np.eye(300, dtype=bool)[:, None, :]
    assert label_map(masks, (1, 300)).tolist() == [list(range(1, 301))]
    assert label_map([], (2, 3)).tolist() == [[0, 0, 0]] * 2
