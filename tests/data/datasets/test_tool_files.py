"""labelme's and VIA's files are read, and what is written for tools comes back."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from soloist.cli import run_command
from soloist.cli.runs import DONE
from soloist.data.coco.faults import Fault, FaultLog
from soloist.data.coco.rle import encode_masks
from soloist.data.coco.types import CocoImage
from soloist.data.coco.write import write_coco
from soloist.data.datasets.check import check_dataset
from soloist.data.datasets.find import find_dataset
from soloist.data.datasets.labels import Reading, read_labels
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
    images = [CocoImage(7, "ä b.png", HEIGHT, WIDTH), CocoImage(9, "x/c.d.png", HEIGHT, WIDTH)]
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
        put_image(tmp_path, image.file_name)
    names = {1: "ring, thin", 2: "pär", 3: "plain"}
    write_coco(tmp_path / "truth.json", images, records, categories=names)
    scored = [one | {"score": 0.9} for one in records]
    write_coco(tmp_path / "predictions.json", images, scored, categories=names)
    return tmp_path


@pytest.mark.parametrize(
    ("format", "options", "split"),
    [
        pytest.param("coco", [], None, id="coco-and-cvat"),
        pytest.param("labelme", ["--segmentation", "mask"], None, id="labelme-masks"),
        pytest.param("yolo", ["--tolerance", "0"], "val", id="yolo"),
    ],
)
def test_what_is_written_comes_back(
    hard: Path, format: str, options: list[str], split: str | None
) -> None:
    out = hard / "out"
    command = ["convert", str(hard / "truth.json"), "--format", format, "--out", str(out)]
    assert run_command([*command, *options, "--with-images", "copy"]) == DONE
    for name in ("ä b.png", "x/c.d.png"):
        (hard / name).unlink()
    evaluation = measure(hard / "predictions.json", out, classes=True, how=Reading(split=split))
    assert evaluation.objects == 6
    assert evaluation.metrics["mask_ap"] == pytest.approx(1)
