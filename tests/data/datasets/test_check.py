from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from soloist.cli import run_command
from soloist.cli.runs import DONE, SOME_FAILED, USER_ERROR
from soloist.data.coco.faults import Fault, FaultLog
from soloist.data.datasets.check import check_dataset
from soloist.data.datasets.find import find_dataset
from soloist.errors import DataError

ANNOTATIONS = Path("annotations/instances_val2017.json")
Change = Callable[[dict[str, Any]], None]


def faults_of(path: Path, split: str | None = None) -> dict[Fault, int]:
    log = FaultLog()
    check_dataset(find_dataset(path, split=split, report=log), log)
    return log.counts


def test_a_sound_data_set_has_no_faults(made: Any) -> None:
    log = FaultLog()
    seen: list[None] = []
    dataset = find_dataset(made.path, split=made.split, report=log)
    summary = check_dataset(dataset, log, lambda: seen.append(None))
    assert log.counts == {}
    assert len(seen) == summary.images == 2
    crowds = 2 if made.kind == "cityscapes" else 0
    assert (summary.objects, summary.masks) == (3 + crowds, 3 + crowds)
    assert summary.crowds == crowds
    assert summary.sizes == {(40, 60): 2}
    # 10² and 15² and 20² pixels: all below 32².
    assert summary.area_classes == {"small": 3}
    assert sum(summary.classes.values()) == 3


def entry(content: dict[str, Any], key: str = "annotations") -> dict[str, Any]:
    first: dict[str, Any] = content[key][0]
    return first


@pytest.mark.parametrize(
    ("change", "fault", "example"),
    [
        pytest.param(
            lambda c: entry(c, "images").update(file_name="none.jpg"),
            Fault.MISSING_IMAGE, "none.jpg", id="missing-image",
        ),
        pytest.param(
            lambda c: [one.update(height=43) for one in c["images"][:1]],
            Fault.OTHER_SIZE, "is 40 x 60, stated 43 x 60", id="size",
        ),
        pytest.param(
            lambda c: [one.update(height=41) for one in c["images"][:1]],
            Fault.ONE_PIXEL, "is 40 x 60, stated 41 x 60", id="one-pixel",
        ),
        pytest.param(
            lambda c: entry(c).update(segmentation={"size": [9, 9], "counts": [81]}),
            Fault.MASK_SIZE, "annotations[0]", id="mask-of-other-size",
        ),
        pytest.param(
            lambda c: entry(c).update(segmentation={"size": [40, 60], "counts": "zz"}),
            Fault.BROKEN_MASK, "annotations[0]", id="mask-damaged",
        ),
        pytest.param(
            lambda c: entry(c).update(segmentation=None, bbox=[55, 4, 10, 10]),
            Fault.OUTSIDE, "[55, 4, 10, 10] on '000012.jpg'", id="outside",
        ),
        pytest.param(
            lambda c: entry(c).update(segmentation={"size": [40, 60], "counts": [2400]}),
            Fault.EMPTY, "annotations[0]", id="empty-mask",
        ),
        pytest.param(
            lambda c: entry(c).update(segmentation=[], bbox=[5, 5, 0, 3]),
            Fault.EMPTY, "[5, 5, 0, 3]", id="empty-box",
        ),
        pytest.param(
            lambda c: entry(c).update(id=2),
            Fault.DOUBLE_OBJECT_ID, "annotations[1]", id="annotation-id",
        ),
        pytest.param(
            lambda c: c["images"].append(c["images"][0] | {"file_name": "x.jpg"}),
            Fault.DOUBLE_ID, "images[2]", id="image-id",
        ),
        pytest.param(
            lambda c: c["images"].append(c["images"][0] | {"id": 5}),
            Fault.DOUBLE_NAME, "images[2]", id="file-name",
        ),
        pytest.param(
            lambda c: entry(c).update(image_id=99), Fault.ORPHAN, "image_id 99", id="orphan"
        ),
        pytest.param(
            lambda c: entry(c).update(category_id=99), Fault.UNKNOWN_CLASS, "99", id="class"
        ),
        pytest.param(
            lambda c: entry(c).pop("image_id"), Fault.BROKEN_ENTRY, "image_id", id="no-image-id"
        ),
        pytest.param(
            lambda c: (entry(c).pop("segmentation"), entry(c).pop("bbox")),
            Fault.BROKEN_ENTRY, "bbox", id="neither-mask-nor-box",
        ),
        pytest.param(
            lambda c: entry(c, "images").update(height=0),
            Fault.FIELD, "size 0 x 60", id="image-without-size",
        ),
    ],
)  # fmt: skip
def test_each_fault_of_a_coco_file_is_found(
    make: Callable[[str], Any], change: Change, fault: Fault, example: str
) -> None:
    path = make("coco").path
    content = json.loads((path / ANNOTATIONS).read_text())
    change(content)
    (path / ANNOTATIONS).write_text(json.dumps(content))
    log = FaultLog()
    check_dataset(find_dataset(path, report=log), log)
    # An image that is left out leaves its annotations behind.
    assert set(log.counts) - {Fault.ORPHAN} == {fault} - {Fault.ORPHAN}
    assert log.counts[fault] == 1
    assert example in log.examples[fault][0]


def test_crowds_stay_and_a_border_may_be_rounded(make: Callable[[str], Any]) -> None:
    path = make("coco").path
    content = json.loads((path / ANNOTATIONS).read_text())
    content["annotations"][0] |= {
        "iscrowd": 1,
        "segmentation": {"size": [40, 60], "counts": [0, 2400]},
        "bbox": [0, 0, 60, 40],
        "area": 2400,
    }
    content["annotations"][2]["bbox"] = [-0.6, 0, 21, 21]
    (path / ANNOTATIONS).write_text(json.dumps(content))
    log = FaultLog()
    dataset = find_dataset(path, report=log)
    assert check_dataset(dataset, log).crowds == 1
    assert log.counts == {}
    assert [one.iscrowd for one in dataset.objects(dataset.images[0])] == [True, False]


def test_broken_images_are_found(make: Callable[[str], Any]) -> None:
    path = make("coco").path
    first, second = path / "val2017/000012.jpg", path / "val2017/000034.jpg"
    first.write_bytes(first.read_bytes()[:-300])
    second.write_text("no image")
    assert faults_of(path) == {Fault.UNREADABLE_IMAGE: 2}


@pytest.mark.parametrize(
    ("orientation", "faults"),
    [
        pytest.param(6, {Fault.TURNED: 1}, id="on-its-side"),
        # Nothing on a black image tells which way up it was labelled.
        pytest.param(3, {Fault.TURN_UNCLEAR: 1}, id="upside-down-keeps-its-size"),
    ],
)
def test_annotations_on_pixels_as_stored_are_found(
    make: Callable[[str], Any],
    orientation: int,
    faults: dict[Fault, int],
    capsys: pytest.CaptureFixture[str],
) -> None:
    path = make("coco").path
    exif = Image.Exif()
    exif[0x0112] = orientation
    Image.new("RGB", (60, 40)).save(path / "val2017/000012.jpg", exif=exif)
    assert faults_of(path) == faults
    assert run_command(["data", "check", str(path)]) == (SOME_FAILED if faults else DONE)
    assert "1 images have an EXIF orientation" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("kind", "remove", "faults"),
    [
        pytest.param(
            "voc", "VOCdevkit/VOC2012/JPEGImages/000012.jpg", {Fault.MISSING_IMAGE: 1}, id="voc"
        ),
        pytest.param(
            "cityscapes", "leftImg8bit/val/bonn/bonn_000012_000019_leftImg8bit.png",
            {Fault.MISSING_IMAGE: 1}, id="cityscapes",
        ),
        pytest.param(
            "label-maps", "images/000012.jpg", {Fault.ORPHAN: 1}, id="label-map-without-image"
        ),
        pytest.param(
            "label-maps", "masks/000012.png", {Fault.MISSING_ANNOTATION: 1},
            id="image-without-label-map",
        ),
        # An image without a file of labels shows nothing.
        pytest.param("yolo", "labels/val/000012.txt", {}, id="yolo"),
    ],
)  # fmt: skip
def test_a_missing_file_is_found(
    make: Callable[[str], Any], kind: str, remove: str, faults: dict[Fault, int]
) -> None:
    made = make(kind)
    (made.path / remove).unlink()
    assert faults_of(made.path, made.split) == faults


def test_yolo_without_any_labels_is_reported(make: Callable[[str], Any]) -> None:
    path = make("yolo").path
    for file in path.glob("labels/val/*.txt"):
        file.unlink()
    assert faults_of(path) == {Fault.MISSING_ANNOTATION: 1}


def test_an_object_without_pixels_in_a_voc_map_is_found(make: Callable[[str], Any]) -> None:
    path = make("voc").path
    Image.new("P", (60, 40)).save(path / "VOCdevkit/VOC2012/SegmentationObject/000034.png")
    assert faults_of(path, "all") == {Fault.EMPTY: 1}
    Image.new("P", (61, 40)).save(path / "VOCdevkit/VOC2012/SegmentationObject/000034.png")
    assert faults_of(path, "all") == {Fault.BROKEN_MASK: 1}


def test_nothing_at_all_is_no_data_set(make: Callable[[str], Any]) -> None:
    path = make("coco").path
    (path / ANNOTATIONS).write_text('{"images": [], "annotations": []}')
    with pytest.raises(DataError, match=r"with images, got .* with none"):
        faults_of(path)


# The command


def test_the_command_tells_what_is_there(made: Any, capsys: pytest.CaptureFixture[str]) -> None:
    assert run_command(["data", "check", str(made.path)]) == DONE
    printed = capsys.readouterr().out
    assert printed.startswith(made.format)
    assert "2 images" in printed
    assert "40 x 60 (2)" in printed
    assert "nothing is wrong" in printed
    if made.kind == "voc":
        assert "splits: trainval, val, Segmentation/val" in printed
    if made.kind == "lvis":
        assert "classes are not used" in printed


def test_the_command_tells_what_is_wrong_and_the_remedy(
    make: Callable[[str], Any], capsys: pytest.CaptureFixture[str]
) -> None:
    path = make("coco").path
    for file in path.glob("val2017/*.jpg"):
        file.unlink()
    assert run_command(["data", "check", str(path)]) == SOME_FAILED
    printed = capsys.readouterr().out
    assert "wrong: 2 images that are not there" in printed
    assert "000012.jpg" in printed
    assert "remedy: put them where" in printed
    assert "nothing is wrong" not in printed


def test_every_file_of_a_folder_is_checked(
    make: Callable[[str], Any], capsys: pytest.CaptureFixture[str]
) -> None:
    path = make("coco").path
    content = json.loads((path / ANNOTATIONS).read_text())
    content["annotations"][0]["image_id"] = 99
    (path / "annotations/instances_train2017.json").write_text(json.dumps(content))
    assert run_command(["data", "check", str(path)]) == SOME_FAILED
    printed = capsys.readouterr().out
    assert "coco, train2017" in printed
    assert "coco, val2017" in printed
    assert run_command(["data", "check", str(path), "--split", "val2017"]) == DONE
    assert "train2017" not in capsys.readouterr().out.replace("splits: train2017", "")


@pytest.mark.parametrize("kind", ["coco", "voc", "cityscapes", "yolo", "label-maps"])
def test_a_folder_that_is_no_data_set_ends_in_one_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], kind: str
) -> None:
    for arguments in ([], ["--format", kind]):
        assert run_command(["data", "check", str(tmp_path), *arguments]) == USER_ERROR
        printed = capsys.readouterr()
        assert printed.out == ""
        assert printed.err.startswith("soloist: wanted")
        assert printed.err.count("\n") == 1
