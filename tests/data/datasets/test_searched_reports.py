"""More public reports, each with own data and the right value; docs/datasets.md lists them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from tests.data.datasets.test_public_reports import (
    BOXES,
    HEIGHT,
    WIDTH,
    Content,
    Files,
    labels,
    outline,
    scene,
)

from soloist.data.coco.faults import Fault, FaultLog
from soloist.data.coco.rle import encode_masks
from soloist.data.datasets.check import check_dataset
from soloist.data.datasets.find import find_dataset
from soloist.data.datasets.labels import Reading, read_labels
from soloist.data.sources import find_images
from soloist.errors import DataError
from soloist.evaluation.evaluate import measure

ONE = pytest.approx(1)


@pytest.fixture
def files(tmp_path: Path) -> Files:
    return Files(tmp_path)


def mask_of(box: tuple[int, int, int, int]) -> np.ndarray[Any, np.dtype[np.bool_]]:
    x, y, width, height = box
    mask = np.zeros((HEIGHT, WIDTH), dtype=np.bool_)
    mask[y : y + height, x : x + width] = True
    return mask


def counts_of(box: tuple[int, int, int, int]) -> list[int]:
    flat = mask_of(box).ravel(order="F")
    changes = np.flatnonzero(flat[1:] != flat[:-1]) + 1
    runs: list[int] = np.diff(np.concatenate(([0], changes, [flat.size]))).tolist()
    return runs


@pytest.mark.parametrize("nested", [False, True])
@pytest.mark.parametrize("box", [BOXES[0], (10, 10, 20, 50)], ids=["odd", "to-the-border"])
def test_run_lengths_in_the_place_of_polygons(
    files: Files, nested: bool, box: tuple[int, int, int, int]
) -> None:
    """cvat#6014: taken for a polygon where there is an even number of them."""
    counts = counts_of(box)
    change = {"segmentation": [counts] if nested else counts, "bbox": list(box)}
    files.change(lambda c: c["annotations"][0].update(change, area=box[2] * box[3]))
    assert files.faults() == {Fault.FIELD: 1}
    file, _ = read_labels(files.truth)
    np.testing.assert_array_equal(file.masks(file.images[0])[0], mask_of(box))


def test_a_mask_of_one_row_more_than_its_image(files: Files) -> None:
    """cvat#9316."""
    tall = np.vstack([mask_of(BOXES[0]), np.ones((1, WIDTH), dtype=np.bool_)])
    files.change(lambda c: c["annotations"][0].update(segmentation=encode_masks(tall[None])[0]))
    assert files.faults()[Fault.ONE_PIXEL] == 1
    assert files.figures() == (ONE, ONE)


def test_masks_that_are_all_crowds(files: Files) -> None:
    """detectron2#5027, from CVAT: run lengths get iscrowd 1."""
    files.change(
        lambda c: [
            one.update(iscrowd=1, segmentation={"size": [HEIGHT, WIDTH], "counts": counts_of(box)})
            for one, box in zip(c["annotations"], BOXES * 2, strict=True)
        ]
    )
    assert files.faults() == {Fault.ALL_CROWD: 1}


def test_an_export_that_lost_its_masks(files: Files) -> None:
    """label-studio#4475: brush masks are not in its COCO, `annotations` is empty."""
    files.change(lambda c: c.update(annotations=[]))
    assert files.faults() == {Fault.NO_OBJECTS: 1}
    with pytest.raises(DataError, match="wanted a ground truth with objects"):
        files.figures()


def test_ids_that_count_from_zero(files: Files) -> None:
    """cocoapi#507, #546: an annotation with the id 0 counts as not matched."""

    def from_zero(content: Content) -> None:
        for place, one in enumerate(content["annotations"]):
            one.update(id=place, image_id=one["image_id"] - 1)
        for one in content["images"]:
            one["id"] -= 1

    files.change(from_zero)
    assert files.faults() == {}
    for backend in ("pycocotools", "auto"):
        assert files.figures(backend=backend) == (ONE, ONE)
        assert files.figures(backend=backend, classes=True) == (ONE, ONE)


def test_annotation_ids_that_are_image_ids(files: Files) -> None:
    """PaddlePaddle/models#3710: readers that go by the id see one object an image."""
    files.change(lambda c: [one.update(id=one["image_id"]) for one in c["annotations"]])
    assert files.faults() == {Fault.DOUBLE_OBJECT_ID: 2}
    assert files.figures() == (ONE, ONE)


@pytest.mark.parametrize("masks", [True, False])
def test_predicted_boxes_by_their_corners(files: Files, masks: bool) -> None:
    """detectron2#1833, tide#42: figures of 0 for boxes, with good ones for masks."""

    def corners(one: dict[str, Any]) -> None:
        x, y, width, height = one["bbox"]
        one["bbox"] = [x, y, x + width, y + height]
        if not masks:
            del one["segmentation"]

    files.put_results(corners)
    evaluation = measure(files.predictions, files.truth)
    expected = ONE if masks else pytest.approx(0, abs=0.3)
    assert evaluation.metrics["box_ap"] == expected


def test_corners_of_boxes_alone_are_reported(files: Files) -> None:
    def corners(one: dict[str, Any]) -> None:
        del one["segmentation"]
        one["bbox"] = [45, 30, 70, 50]

    files.put_results(corners)
    (note,) = [one for one in measure(files.predictions, files.truth).notes if "corners" in one]
    assert note.startswith("4 of 4 predicted boxes reach out of their image")
    files.put_results(lambda one: one.pop("segmentation"))
    assert not any("corners" in one for one in measure(files.predictions, files.truth).notes)


@pytest.mark.parametrize(
    "change",
    [
        pytest.param({"segmentation": [[0.1, 0.1, 0.4, 0.1, 0.4, 0.4]]}, id="polygon"),
        pytest.param({"segmentation": None, "bbox": [0.1, 0.1, 0.3, 0.3]}, id="box"),
    ],
)
def test_predictions_as_fractions(
    files: Files, change: dict[str, Any], caplog: pytest.LogCaptureFixture
) -> None:
    """PaddleDetection#627: predictions of 0 to 1 score 0."""
    files.put_results(lambda one: one.update(change) if one["category_id"] else None)
    assert measure(files.predictions, files.truth).predictions == 2
    assert f"2 {Fault.FRACTIONS.what}: left out" in caplog.text


def test_predicted_boxes_of_negative_height(files: Files, caplog: pytest.LogCaptureFixture) -> None:
    """detectron2#2957, CenterNet#86."""
    turned = {"segmentation": None, "bbox": [10, 25, 20, -15]}
    files.put_results(lambda one: one.update(turned) if one["category_id"] else None)
    assert measure(files.predictions, files.truth).predictions == 2
    assert f"2 {Fault.EMPTY.what}: left out" in caplog.text
    files.put_results(lambda one: one.update(turned))
    with pytest.raises(DataError, match=f"none of whose 4 .* can be used .4 {Fault.EMPTY.what}"):
        files.figures()


@pytest.mark.parametrize(
    ("quality", "refused"),
    [pytest.param(None, False, id="sharp"), pytest.param(60, True, id="jpeg")],
)
def test_label_maps_with_smoothed_edges(tmp_path: Path, quality: int | None, refused: bool) -> None:
    """image-to-coco-json-converter#6: each shade of grey becomes an object."""
    for folder in ("images", "masks"):
        (tmp_path / folder).mkdir()
    Image.fromarray(scene()).save(tmp_path / "images/a.png")
    mask = Image.fromarray((255 * mask_of(BOXES[1])).astype(np.uint8))
    if quality is not None:
        mask.save(tmp_path / "mask.jpg", quality=quality)
        mask = Image.open(tmp_path / "mask.jpg")
    mask.save(tmp_path / "masks/a.png")
    log = FaultLog()
    check_dataset(find_dataset(tmp_path, report=log), log)
    assert (Fault.SHADES in log.counts) == refused
    assert (Fault.BLACK_AND_WHITE in log.counts) != refused


def test_many_objects_of_a_label_map_are_no_shades(tmp_path: Path) -> None:
    for folder in ("images", "masks"):
        (tmp_path / folder).mkdir()
    Image.fromarray(scene()).save(tmp_path / "images/a.png")
    numbers = np.zeros((HEIGHT, WIDTH), dtype=np.uint8)
    numbers[:50, :75] = np.arange(1, 251).reshape(10, 25).repeat(5, 0).repeat(3, 1)
    numbers[55:57] = 255  # Void.
    Image.fromarray(numbers).save(tmp_path / "masks/a.png")
    assert len(read_labels(tmp_path)[0]) == 251


def put_yolo(folder: Path, lines: list[str], **more: Any) -> Path:
    for name in ("images", "labels"):
        (folder / name).mkdir()
    Image.fromarray(scene()).save(folder / "images/a.png")
    (folder / "labels/a.txt").write_bytes("\n".join(lines).encode("utf-8-sig"))
    content = {"train": "images", "names": ["cup", "plate"], **more}
    (folder / "data.yaml").write_text(json.dumps(content))
    return folder


def fractions(box: tuple[int, int, int, int]) -> list[float]:
    return (np.reshape(outline(box), (-1, 2)) / (WIDTH, HEIGHT)).ravel().tolist()


def line(number: int, values: list[float]) -> str:
    return " ".join([str(number), *(f"{value:.6f}" for value in values)])


def test_boxes_among_the_polygons_of_yolo(tmp_path: Path) -> None:
    """ultralytics#1008: others drop all polygons, or all boxes."""
    x, y, width, height = BOXES[1]
    box = [(x + width / 2) / WIDTH, (y + height / 2) / HEIGHT, width / WIDTH, height / HEIGHT]
    put_yolo(tmp_path, [line(0, fractions(BOXES[0])), line(1, box)])
    file, _ = read_labels(tmp_path, Reading(split="train"))
    first, second = file.annotations[1]
    assert first.box_xywh == BOXES[0]
    assert first.segmentation is not None
    np.testing.assert_allclose(second.box_xywh, BOXES[1], atol=0.001)
    assert second.segmentation is None


def test_points_of_poses_are_no_outlines(tmp_path: Path) -> None:
    """A box, then points of the body: an even number of values looks like a polygon."""
    x, y, width, height = BOXES[0]
    box = [(x + width / 2) / WIDTH, (y + height / 2) / HEIGHT, width / WIDTH, height / HEIGHT]
    put_yolo(tmp_path, [line(0, [*box, 0.1, 0.2, 0.3, 0.4])], kpt_shape=[2, 2])
    (one,) = read_labels(tmp_path, Reading(split="train"))[0].annotations[1]
    assert one.segmentation is None
    np.testing.assert_allclose(one.box_xywh, BOXES[0], atol=0.001)


@pytest.mark.parametrize(
    ("values", "fault", "left"),
    [
        pytest.param([10, 10, 30, 10, 30, 25], Fault.PIXELS, 1, id="pixels"),
        pytest.param([0.5, 0.5, 1.1, 0.5, 1.1, 0.9, 0.5, 0.9], Fault.OUTSIDE, 2, id="cut"),
    ],
)
def test_numbers_of_yolo_that_are_no_fractions(
    tmp_path: Path, values: list[float], fault: Fault, left: int
) -> None:
    put_yolo(tmp_path, [line(0, values), line(1, fractions(BOXES[1]))])
    log = FaultLog()
    dataset = find_dataset(tmp_path, split="train", report=log)
    assert check_dataset(dataset, log).objects == left
    assert log.counts == {fault: 1}


def test_folders_in_capitals(files: Files) -> None:
    """datumaro#1630: Images and Annotations beside each other."""
    for name in ("Images", "Annotations"):
        (files.folder / name).mkdir()
    for key in (1, 2):
        (files.folder / f"{key:04}.png").rename(files.folder / f"Images/{key:04}.png")
    files.predictions.unlink()
    files.truth.rename(files.folder / "Annotations/DJI_2021.json")
    file, paths = read_labels(files.folder)
    assert len(file) == 4
    assert len(paths) == 2


def test_one_name_for_frames_of_two_videos(files: Files) -> None:
    """geti#7496: annotations of one video on the frames of another."""
    files.change(lambda c: [one.update(file_name="0001.png") for one in c["images"]])
    assert files.faults()[Fault.DOUBLE_NAME] == 1
    with pytest.raises(DataError, match="file names that are listed twice"):
        files.figures()


@pytest.mark.parametrize("orientation", [3, 6, 8])
def test_labelme_on_turned_images(tmp_path: Path, orientation: int) -> None:
    """labelme#1529: outlines on the image as shown, and readers that ignore EXIF."""
    exif = Image.Exif()
    exif[0x0112] = orientation
    back = {3: 2, 6: 1, 8: 3}[orientation]  # Quarter turns that EXIF undoes.
    Image.fromarray(np.rot90(scene(), back)).save(tmp_path / "a.png", exif=exif)
    shapes = [
        {"label": "cup", "points": np.reshape(outline(box), (-1, 2)).tolist(), "group_id": None}
        for box in BOXES
    ]
    content = {"version": "5", "shapes": shapes, "imagePath": "a.png"}
    (tmp_path / "a.json").write_text(
        json.dumps({**content, "imageHeight": HEIGHT, "imageWidth": WIDTH})
    )
    file, _ = read_labels(tmp_path)
    assert [one.box_xywh for one in file.annotations[1]] == [*BOXES]


def test_label_maps_among_images_are_reported(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """A data set's folder given for its images: label maps are learned from, too."""
    for folder in ("images", "masks"):
        (tmp_path / folder).mkdir()
        Image.fromarray(scene()).save(tmp_path / folder / "a.png")
    assert len(find_images(tmp_path)) == 2
    assert "1 of 2 images look like label maps (such as 'masks/a.png')" in caplog.text
    caplog.clear()
    find_images(tmp_path / "images")
    assert caplog.text == ""


def test_a_score_may_be_null_in_labels(files: Files) -> None:
    """X-AnyLabeling writes `score: null` on shapes that people drew."""
    content = labels()
    for one in content["annotations"]:
        one["score"] = None
    files.put(content)
    assert files.faults() == {Fault.FIELD: 4}
    assert files.figures() == (ONE, ONE)
