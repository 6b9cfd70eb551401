"""labelme's and VIA's files are read, and what is written for tools comes back."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from soloist.cli import run_command
from soloist.cli.runs import DONE, USER_ERROR
from soloist.data.coco.faults import Fault, FaultLog
from soloist.data.coco.rle import encode_masks
from soloist.data.coco.types import CocoImage
from soloist.data.coco.write import write_coco
from soloist.data.datasets.check import check_dataset
from soloist.data.datasets.find import find_dataset
from soloist.data.datasets.labels import Reading, read_labels
from soloist.data.exports.label_studio import brush_rle
from soloist.data.tools.label_studio import decode_brush
from soloist.errors import DataError
from soloist.evaluation.evaluate import measure

HEIGHT, WIDTH = 40, 60
SQUARE = [[10, 10], [30, 10], [30, 25], [10, 25]]


def put_image(folder: Path, name: str) -> None:
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (WIDTH, HEIGHT), (90, 60, 30)).save(path)


def shape(points: Any, label: str = "cup", **fields: Any) -> dict[str, Any]:
    return {"label": label, "points": points, "shape_type": "polygon", "group_id": None, **fields}


def put_labelme(folder: Path, *shapes: dict[str, Any]) -> None:
    put_image(folder, "a.png")
    content = {
        "version": "5.5.0",
        "shapes": shapes,
        "imagePath": "..\\elsewhere\\a.png",
        "imageData": None,
        "imageHeight": HEIGHT,
        "imageWidth": WIDTH,
    }
    (folder / "a.json").write_text(json.dumps(content))


@pytest.mark.parametrize(
    ("shapes", "boxes"),
    [
        pytest.param([shape(SQUARE)], [(10, 10, 20, 15)], id="polygon"),
        pytest.param(
            [shape([[10, 10], [30, 25]], shape_type="rectangle")], [(10, 10, 20, 15)],
            id="rectangle",
        ),
        pytest.param(
            [shape([[30, 25], [10, 10]], shape_type="rectangle")], [(10, 10, 20, 15)],
            id="rectangle-from-below",
        ),
        pytest.param(
            [shape([[20, 20], [20, 30]], shape_type="circle")], [(10, 10, 20, 20)], id="circle"
        ),
        pytest.param(
            [shape(SQUARE, group_id=3), shape([[40, 10], [50, 10], [50, 20]], group_id=3)],
            [(10, 10, 40, 15)], id="two-parts-of-a-group",
        ),
        pytest.param(
            [shape(SQUARE, group_id=3), shape(SQUARE, "plate", group_id=3)],
            [(10, 10, 20, 15), (10, 10, 20, 15)], id="two-labels-of-a-group",
        ),
    ],
)  # fmt: skip
def test_labelme_is_read(
    tmp_path: Path, shapes: list[dict[str, Any]], boxes: list[tuple[int, ...]]
) -> None:
    put_labelme(tmp_path, *shapes)
    file, paths = read_labels(tmp_path)
    assert [path.name for path in paths.values()] == ["a.png"]
    found = [one.box_xywh for one in file.annotations[1]]
    np.testing.assert_allclose(found, boxes, atol=1)


MARKS = [
    pytest.param({"unfinished": True}, True, id="ticked"),
    pytest.param({"unfinished": "yes"}, True, id="text"),
    pytest.param({"unfinished": {"here": True}}, True, id="one-of-several"),
    pytest.param({"unfinished": False, "blurred": True}, False, id="not-ticked"),
    pytest.param({"unfinished": "no"}, False, id="denied"),
    pytest.param({"unfinished": {}}, False, id="none-of-several"),
    pytest.param({}, False, id="no-flag"),
    pytest.param(None, False, id="no-flags"),
]


@pytest.mark.parametrize(("flags", "unfinished"), MARKS)
def test_unfinished_images_are_known_by_their_flag(
    tmp_path: Path, flags: Any, unfinished: bool
) -> None:
    put_labelme(tmp_path / "labelme", shape(SQUARE))
    path = tmp_path / "labelme" / "a.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"flags": flags}))
    put_image(tmp_path, "a.png")
    entry = {"filename": "a.png", "regions": [], "file_attributes": flags}
    via = tmp_path / "via.json"
    via.write_text(json.dumps({"_via_img_metadata": {"a": entry}}))
    for source in (tmp_path / "labelme", via):
        file, _ = read_labels(source)
        assert file.unfinished == ({"a.png"} if unfinished else set())


def test_shapes_without_an_area_are_counted(tmp_path: Path) -> None:
    put_labelme(tmp_path, shape([[3, 3]], shape_type="point"), shape(SQUARE))
    log = FaultLog()
    summary = check_dataset(find_dataset(tmp_path, report=log), log)
    assert summary.objects == 1
    assert log.counts == {Fault.SHORT_OUTLINE: 1, Fault.EMPTY: 1}


@pytest.mark.parametrize(
    ("attributes", "name"),
    [
        pytest.param({"name": "polygon", "all_points_x": [10, 30, 30, 10],
                      "all_points_y": [10, 10, 25, 25]}, "cup", id="polygon"),
        pytest.param({"name": "rect", "x": 10, "y": 10, "width": 20, "height": 15}, "cup",
                     id="rectangle"),
    ],
)  # fmt: skip
@pytest.mark.parametrize("project", [False, True])
@pytest.mark.parametrize("as_list", [False, True])
def test_via_is_read(
    tmp_path: Path, attributes: dict[str, Any], name: str, project: bool, as_list: bool
) -> None:
    put_image(tmp_path, "a.png")
    region = {"shape_attributes": attributes, "region_attributes": {"colour": "red", "class": name}}
    regions: Any = [region] if as_list else {"0": region}
    content: Any = {"a.png4000": {"filename": "a.png", "size": 4000, "regions": regions}}
    if project:
        content = {"_via_settings": {}, "_via_img_metadata": content}
    path = tmp_path / "via_region_data.json"
    path.write_text(json.dumps(content))
    for source in (tmp_path, path):
        file, paths = read_labels(source)
        assert file.categories == {1: name}
        assert [one.box_xywh for one in file.annotations[1]] == [(10, 10, 20, 15)]
        assert [one.name for one in paths.values()] == ["a.png"]


def test_files_that_several_images_share_are_refused(tmp_path: Path) -> None:
    put_labelme(tmp_path, shape(SQUARE))
    (tmp_path / "b.json").write_text((tmp_path / "a.json").read_text())
    with pytest.raises(DataError, match=r"listed twice: 'a\.png'"):
        read_labels(tmp_path)


def test_a_file_of_via_finds_its_images_elsewhere(tmp_path: Path) -> None:
    put_image(tmp_path, "photos/a.png")
    (tmp_path / "labels").mkdir()
    content = {"a.png9": {"filename": "a.png", "size": 9, "regions": []}}
    path = tmp_path / "labels/via.json"
    path.write_text(json.dumps(content))
    _, paths = read_labels(path, Reading(images=str(tmp_path / "photos")))
    assert [one.name for one in paths.values()] == ["a.png"]
    with pytest.raises(DataError, match=r"wanted the sizes of the 1 images .* add --images"):
        read_labels(path)


def test_a_project_that_soloist_wrote_needs_no_images(hard: Path) -> None:
    command = ["convert", str(hard / "truth.json"), "--format", "via", "--tolerance", "0"]
    assert run_command([*command, "--out", str(hard / "out")]) == DONE
    (hard / "photos").rename(hard / "away")
    predictions, out = str(hard / "predictions.json"), str(hard / "out")
    assert measure(predictions, out, classes=True).metrics["mask_ap"] == pytest.approx(1)
    command = ["eval", predictions, out, "--images", str(hard / "away")]
    assert run_command(command) == DONE
    assert run_command([*command[:-1], str(hard / "out")]) == USER_ERROR


# Label Studio


def region(kind: str, value: dict[str, Any], identity: str = "r1", **fields: Any) -> dict[str, Any]:
    size = {"original_width": WIDTH, "original_height": HEIGHT, "image_rotation": 0}
    return {"id": identity, "type": kind, "value": value, **size, **fields}


def percents(points: Any) -> list[list[float]]:
    return [[100 * x / WIDTH, 100 * y / HEIGHT] for x, y in points]


OUTLINED = region("polygonlabels", {"points": percents(SQUARE), "polygonlabels": ["cup"]})
BOXED = region(
    "rectanglelabels",
    {
        **{"x": 100 * 10 / WIDTH, "y": 100 * 10 / HEIGHT, "rotation": 0},
        **{"width": 100 * 20 / WIDTH, "height": 100 * 15 / HEIGHT},
        "rectanglelabels": ["cup"],
    },
)
ROUND = region(
    "ellipselabels",
    {
        **{"x": 100 * 20 / WIDTH, "y": 100 * 20 / HEIGHT, "rotation": 0},
        **{"radiusX": 100 * 10 / WIDTH, "radiusY": 100 * 5 / HEIGHT},
        "ellipselabels": ["cup"],
    },
)


def put_tasks(folder: Path, content: Any, name: str = "a.png") -> Path:
    put_image(folder, name)
    path = folder / "project-1.json"
    path.write_text(json.dumps(content))
    return path


def task(*results: dict[str, Any], image: str = "/data/local-files/?d=x/a.png") -> dict[str, Any]:
    return {"id": 1, "annotations": [{"result": list(results)}], "data": {"image": image}}


@pytest.mark.parametrize(
    ("result", "box"),
    [
        pytest.param(OUTLINED, (10, 10, 20, 15), id="polygon"),
        pytest.param(BOXED, (10, 10, 20, 15), id="rectangle"),
        pytest.param(
            BOXED | {"value": BOXED["value"] | {"rotation": 90, "x": 100 * 30 / WIDTH}},
            (15, 10, 15, 20), id="turned-rectangle",
        ),
        pytest.param(ROUND, (10, 15, 20, 10), id="ellipse"),
    ],
)  # fmt: skip
@pytest.mark.parametrize("minimal", [False, True])
def test_label_studio_is_read(
    tmp_path: Path, result: dict[str, Any], box: tuple[int, ...], minimal: bool
) -> None:
    content: Any = [task(result)]
    if minimal:
        size = {key: result[key] for key in ("original_width", "original_height")}
        content = [{"image": "/data/upload/a.png", "id": 1, "label": [result["value"] | size]}]
    path = put_tasks(tmp_path, content)
    for source in (tmp_path, path):
        file, paths = read_labels(source)
        assert file.categories == {1: "cup"}
        (one,) = file.annotations[1]
        np.testing.assert_allclose(one.box_xywh, box, atol=1)
        assert [one.name for one in paths.values()] == ["a.png"]
        assert (file.images[0].height, file.images[0].width) == (HEIGHT, WIDTH)


def test_the_label_may_be_a_result_of_its_own(tmp_path: Path) -> None:
    points = {"points": percents(SQUARE)}
    path = put_tasks(
        tmp_path, [task(region("polygon", points), region("labels", {"labels": ["cup"], **points}))]
    )
    file, _ = read_labels(path)
    assert [(file.categories[one.category_id], one.area) for one in file.annotations[1]] == [
        ("cup", 300)
    ]


@pytest.mark.parametrize(
    ("content", "faults", "objects"),
    [
        pytest.param(
            [{**task(OUTLINED), "annotations": [{"result": [OUTLINED]}, {"result": [BOXED] * 2}]}],
            {Fault.SEVERAL_ANNOTATIONS: 1}, 1, id="two-annotators",
        ),
        pytest.param(
            [
                {
                    **task(OUTLINED),
                    "annotations": [{"result": [], "was_cancelled": True}],
                    "predictions": [{"result": [OUTLINED]}],
                }
            ],
            {Fault.PREDICTED: 1}, 1, id="cancelled",
        ),
        pytest.param(
            [task(OUTLINED), {**task(OUTLINED), "annotations": [], "predictions": [
                {"result": [OUTLINED]}]}],
            {Fault.NOBODY_ANNOTATED: 1}, 1, id="predicted-alone",
        ),
        pytest.param(
            [task(region("keypointlabels", {"x": 3, "width": 0.5, "keypointlabels": ["a"]}))],
            {Fault.SHORT_OUTLINE: 1, Fault.EMPTY: 1}, 0, id="a-point",
        ),
        pytest.param(
            [task(OUTLINED | {"image_rotation": 90})], {Fault.BROKEN_ENTRY: 1}, 0, id="turned-view"
        ),
        pytest.param(
            [task(region("brushlabels", {"rle": [1, 2], "brushlabels": ["cup"]}))],
            {Fault.BROKEN_MASK: 1}, 0, id="broken-brush",
        ),
        pytest.param(
            [task(OUTLINED), {"data": {"text": "no image"}, "annotations": []}],
            {Fault.BROKEN_ENTRY: 1}, 1, id="no-image",
        ),
        pytest.param(
            [task(region("polygonlabels", {"points": percents(SQUARE)}))],
            {Fault.NO_CLASS: 1}, 1, id="no-label",
        ),
    ],
)  # fmt: skip
def test_what_label_studio_has_else_is_counted(
    tmp_path: Path, content: Any, faults: dict[Fault, int], objects: int
) -> None:
    log = FaultLog()
    dataset = find_dataset(put_tasks(tmp_path, content), report=log)
    summary = check_dataset(dataset, log)
    assert log.counts == faults
    assert summary.objects == objects


@pytest.mark.parametrize(
    ("address", "name", "there"),
    [
        pytest.param("/data/upload/4/cb0618f6-photo.jpg", "photo.jpg", True, id="uploaded"),
        pytest.param("/data/upload/4/cb0618f6-photo.jpg", "cb0618f6-photo.jpg", True, id="fetched"),
        pytest.param("s3://bucket/x/photo.jpg", "photo.jpg", True, id="storage"),
        # A date is not what an upload puts before a name.
        pytest.param("/data/upload/4/20240101-photo.jpg", "photo.jpg", False, id="date"),
    ],
)
def test_images_of_label_studio_are_found(
    tmp_path: Path, address: str, name: str, there: bool
) -> None:
    path = put_tasks(tmp_path, [task(OUTLINED, image=address)], name)
    _, paths = read_labels(path)
    assert [one.name for one in paths.values()] == ([name] if there else [])


@settings(deadline=None, max_examples=50)
@given(st.lists(st.booleans(), min_size=1, max_size=300))
def test_brushes_are_decoded(values: list[bool]) -> None:
    row = np.array([values])
    packed = bytes(brush_rle(row))
    np.testing.assert_array_equal(decode_brush(packed), np.repeat(row.ravel() * np.uint8(255), 4))
    with pytest.raises(ValueError, match="too early"):
        decode_brush(packed[: len(packed) // 2])


def test_values_that_do_not_repeat_are_decoded() -> None:
    # Two values of 8 bits, lengths of 1, 1, 1 and 1 bits: no run of one value.
    bits = f"{2:032b}{7:05b}" + "0000" * 4 + "0" + "00" + "1" + f"{7:08b}{255:08b}"
    bits += "0" * (-len(bits) % 8)
    packed = int(bits, 2).to_bytes(len(bits) // 8, "big")
    assert decode_brush(packed).tolist() == [7, 255]


# There and back


@pytest.fixture
def hard(tmp_path: Path) -> Path:
    """Three classes, a hole, an object of two parts, names that tools stumble over."""
    ring = np.zeros((HEIGHT, WIDTH), dtype=np.bool_)
    ring[5:25, 5:25] = True
    ring[10:18, 10:18] = False
    parts = np.zeros_like(ring)
    parts[2:8, 30:40] = parts[20:30, 45:55] = True
    plain = np.zeros_like(ring)
    plain[28:38, 3:20] = True
    images = [
        CocoImage(key, name, HEIGHT, WIDTH)
        for key, name in ((7, "ä b.png"), (9, "x/c.d.png"), (2**60, "x/100% #1 [2].png"))
    ]
    records = [
        {
            "id": 3 * place + row,
            "image_id": image.id,
            "category_id": row,
            "segmentation": encode_masks(mask[None])[0],
            "area": int(mask.sum()),
            "iscrowd": 0,
        }
        for place, image in enumerate(images)
        for row, mask in enumerate((ring, parts, plain), start=1)
    ]
    for image in images:
        put_image(tmp_path / "photos", image.file_name)
    names = {1: "ring, thin", 2: "pär", 3: "plain"}
    made_from = {"images": [str(tmp_path / "photos")]}
    write_coco(tmp_path / "truth.json", images, records, info=made_from, categories=names)
    scored = [one | {"score": 0.9} for one in records]
    write_coco(tmp_path / "predictions.json", images, scored, categories=names)
    return tmp_path


EXACT = ["--segmentation", "polygon", "--tolerance", "0"]


@pytest.mark.parametrize(
    ("format", "options", "split"),
    [
        pytest.param("coco", [], None, id="coco-and-cvat"),
        pytest.param("coco", EXACT, None, id="coco-and-cvat-polygons"),
        pytest.param("labelme", ["--segmentation", "mask"], None, id="labelme-masks"),
        pytest.param("labelme", EXACT, None, id="labelme"),
        pytest.param("via", EXACT, None, id="via"),
        pytest.param("label-studio", [], None, id="label-studio-brushes"),
        pytest.param("label-studio", EXACT, None, id="label-studio"),
        pytest.param("yolo", EXACT, "val", id="yolo"),
    ],
)
def test_what_is_written_comes_back(
    hard: Path, format: str, options: list[str], split: str | None
) -> None:
    out = hard / "out"
    command = ["convert", str(hard / "truth.json"), "--format", format, "--out", str(out)]
    images = None
    if format == "label-studio":  # Its images are in a storage.
        images = str(hard / "photos")
    else:
        command += ["--with-images", "copy"]
    assert run_command([*command, *options]) == DONE
    if images is None:
        (hard / "photos").rename(hard / "away")
    how = Reading(split=split, images=images)
    evaluation = measure(hard / "predictions.json", out, classes=True, how=how)
    assert evaluation.objects == 9
    assert evaluation.metrics["mask_ap"] == pytest.approx(1)
    assert evaluation.metrics["box_ap"] == pytest.approx(1)
    log = FaultLog()
    dataset = find_dataset(out, split=split, images=images, report=log)
    summary = check_dataset(dataset, log)
    # What is written for Label Studio is predictions, until somebody submits them.
    assert log.counts == ({Fault.PREDICTED: 3} if format == "label-studio" else {})
    assert summary.classes == {"ring, thin": 3, "pär": 3, "plain": 3}
    assert len(read_labels(out, how)[1]) == 3
