"""Files as people have them: each row is a kind of public report, with the right value.

Two images of one pattern, two objects each; predictions find all of them exactly, so that every
figure is 1 unless the row says why it is not.
"""

from __future__ import annotations

import copy
import json
import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from soloist.cli import run_command
from soloist.cli.runs import DONE, USER_ERROR
from soloist.data.coco.faults import Fault, FaultLog
from soloist.data.coco.read import load_coco
from soloist.data.datasets.check import check_dataset
from soloist.data.datasets.find import find_dataset
from soloist.data.datasets.frames import check_stated
from soloist.data.datasets.image_paths import image_paths
from soloist.data.datasets.labels import Reading, read_labels
from soloist.data.sources import find_images
from soloist.errors import DataError
from soloist.evaluation.evaluate import measure
from soloist.training.data.masks_file import read_masks
from soloist.training.finetuning import choose_labelled

HEIGHT, WIDTH = 60, 80
BOXES = ((10, 10, 20, 15), (45, 30, 25, 20))  # xywh of both objects of each image.
Content = dict[str, Any]
Change = Callable[[Content], object]


def outline(box: tuple[int, int, int, int]) -> list[int]:
    x, y, width, height = box
    return [x, y, x + width, y, x + width, y + height, x, y + height]


def labels() -> Content:
    return {
        "images": [
            {"id": key, "file_name": f"{key:04}.png", "height": HEIGHT, "width": WIDTH}
            for key in (1, 2)
        ],
        "annotations": [
            {
                "id": 2 * key + place,
                "image_id": key,
                "category_id": place,
                "segmentation": [outline(box)],
                "bbox": list(box),
                "area": box[2] * box[3],
                "iscrowd": 0,
            }
            for key in (1, 2)
            for place, box in enumerate(BOXES)
        ],
        "categories": [{"id": 0, "name": "cup"}, {"id": 1, "name": "plate"}],
    }


def scene() -> np.ndarray[Any, np.dtype[np.uint8]]:
    pixels = np.zeros((HEIGHT, WIDTH, 3), dtype=np.uint8)
    for x, y, width, height in BOXES:
        pixels[y : y + height, x : x + width] = 200
    return pixels


class Files:
    """A folder with labels, predictions and the images."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.truth = folder / "truth.json"
        self.predictions = folder / "predictions.json"
        self.put(labels())
        content = labels()
        for one in content["annotations"]:
            one["score"] = 0.9
        self.predictions.write_text(json.dumps(content))
        for key in (1, 2):
            Image.fromarray(scene()).save(folder / f"{key:04}.png")

    def put(self, content: Content) -> None:
        self.truth.write_text(json.dumps(content))

    def change(self, change: Change) -> None:
        content = labels()
        change(content)
        self.put(content)

    def put_results(self, change: Change = lambda one: None) -> None:
        """Predictions as a bare list, each entry changed."""
        records = copy.deepcopy(labels()["annotations"])
        for one in records:
            del one["id"], one["iscrowd"], one["area"]
            one["score"] = 0.9
            change(one)
        self.predictions.write_text(json.dumps(records))

    def faults(self) -> dict[Fault, int]:
        log = FaultLog()
        check_dataset(find_dataset(self.truth, report=log), log)
        return log.counts

    def figures(self, **options: Any) -> Any:
        metrics = measure(self.predictions, self.truth, **options).metrics
        return metrics["mask_ap"], metrics["box_ap"]


@pytest.fixture
def files(tmp_path: Path) -> Files:
    return Files(tmp_path)


# Ids


def renumbered(content: Content, ids: tuple[Any, Any]) -> None:
    new = dict(zip((1, 2), ids, strict=True))
    for image in content["images"]:
        image["id"] = new[image["id"]]
    for one in content["annotations"]:
        one["image_id"] = new[one["image_id"]]


@pytest.mark.parametrize("backend", ["pycocotools", "auto"])
@pytest.mark.parametrize(
    "ids",
    [
        pytest.param((2**53 + 1, 2**53 + 2), id="above-2^53"),
        pytest.param((2**64 + 1, 2**64 + 2), id="above-2^64"),
        pytest.param((1, 2**63 + 5), id="mixed"),
        pytest.param((-1, 2**60), id="negative"),
        pytest.param((0, -(2**63)), id="zero"),
        pytest.param(("9f86d081884c", "2c26b46b68ff"), id="hashes"),
        pytest.param(("1", 2.0), id="text-and-floats"),
    ],
)
def test_ids_of_any_kind_give_the_figures_of_small_ones(
    files: Files, ids: tuple[Any, Any], backend: str
) -> None:
    content = labels()
    # The second image has no object, and the better half of the predictions.
    del content["annotations"][2:]
    files.put(content)
    files.put_results(lambda one: one.update(score=one["image_id"] / 4))
    expected = files.figures(backend=backend)
    assert expected == (pytest.approx(0.5, abs=0.01), pytest.approx(0.5, abs=0.01))
    renumbered(content, ids)
    files.put(content)
    new = dict(zip((1, 2), ids, strict=True))
    files.put_results(
        lambda one: one.update(score=one["image_id"] / 4, image_id=new[one["image_id"]])
    )
    assert files.figures(backend=backend) == expected
    assert files.faults() == {}


def test_ids_of_categories_do_not_reach_a_library(files: Files) -> None:
    def big(content: Content) -> None:
        for one in (*content["annotations"], *content["categories"]):
            key = "category_id" if "category_id" in one else "id"
            one[key] += 2**63

    files.change(big)
    assert files.figures(classes=True) == (pytest.approx(1), pytest.approx(1))


# Objects


@pytest.mark.parametrize(
    ("change", "fault", "masks", "boxes"),
    [
        pytest.param({"iscrowd": "0"}, Fault.FIELD, 1, 1, id="crowd-as-text"),
        pytest.param({"iscrowd": None}, Fault.FIELD, 1, 1, id="crowd-null"),
        pytest.param({"iscrowd": 7}, Fault.CROWD, 1, 1, id="crowd-of-seven"),
        pytest.param({"bbox": [0, 0, 0, 0]}, Fault.BOX, 1, 1, id="zero-box"),
        pytest.param({"bbox": [10, 25, 20, -15]}, Fault.BOX, 1, 1, id="negative-height"),
        pytest.param({"bbox": [10, 10, 30, 25]}, Fault.CORNERS, 1, 1, id="corners"),
        pytest.param({"bbox": [30, 10, 20, 15]}, Fault.BOX, 1, 1, id="box-elsewhere"),
        pytest.param({"bbox": None}, None, 1, 1, id="null-box"),
        pytest.param({"bbox": ["10", "10", "20", "15"]}, Fault.FIELD, 1, 1, id="box-as-text"),
        pytest.param({"area": HEIGHT * WIDTH}, Fault.AREA, 1, 1, id="area-of-the-image"),
        pytest.param({"area": -300}, Fault.AREA, 1, 1, id="negative-area"),
        pytest.param({"area": "300"}, Fault.FIELD, 1, 1, id="area-as-text"),
        pytest.param({"category_id": None}, Fault.NO_CLASS, 1, 1, id="null-class"),
        pytest.param({"category_id": 9}, Fault.UNKNOWN_CLASS, 1, 1, id="unlisted-class"),
        pytest.param({"category_id": "0"}, Fault.FIELD, 1, 1, id="class-as-text"),
        pytest.param({"score": None}, Fault.FIELD, 1, 1, id="null-score"),
        pytest.param(
            {"segmentation": [10, 10, 30, 10, 30, 25, 10, 25]}, Fault.FIELD, 1, 1, id="flat"
        ),
        pytest.param(
            {"segmentation": [[[10, 10], [30, 10], [30, 25], [10, 25]]]}, Fault.FIELD, 1, 1,
            id="nested-points",
        ),
        pytest.param(
            {"segmentation": [outline(BOXES[0]), [50, 50]]}, Fault.SHORT_OUTLINE, 1, 1,
            id="a-point-beside-a-polygon",
        ),
        # Left out: three of four objects are left, one prediction of four is too many.
        pytest.param(
            {"segmentation": [], "bbox": [0, 0, 0, 0]}, Fault.EMPTY, 0.75, 0.75, id="empty"
        ),
        pytest.param(
            {"segmentation": [[10, 10, 20, 20, 30, 30]]}, Fault.EMPTY, 0.75, 0.75, id="line"
        ),
        pytest.param(
            {"segmentation": [[0.1, 0.1, 0.4, 0.1, 0.4, 0.4]]}, Fault.FRACTIONS, 0.75, 0.75,
            id="fractions",
        ),
        pytest.param(
            {"segmentation": [[200, 200, 230, 200, 230, 230]]}, Fault.BEYOND, 0.75, 0.75,
            id="outside",
        ),
        pytest.param(
            {"segmentation": [[10, 10, 30, 10, 30, 25, 10]]}, Fault.BROKEN_MASK, 0.75, 0.75,
            id="odd-number",
        ),
        pytest.param(
            {"segmentation": {"size": [9, 9], "counts": [0, 81]}}, Fault.MASK_SIZE, 0.75, 0.75,
            id="mask-of-another-size",
        ),
        pytest.param({"image_id": 99}, Fault.ORPHAN, 0.75, 0.75, id="orphan"),
        # A box alone counts among the boxes.
        pytest.param({"segmentation": []}, None, 0.75, 1, id="box-alone"),
        pytest.param({"segmentation": [[50, 50]]}, Fault.SHORT_OUTLINE, 0.75, 1, id="one-point"),
    ],
)  # fmt: skip
def test_an_odd_object_costs_that_object_alone(
    files: Files,
    change: dict[str, Any],
    fault: Fault | None,
    masks: float,
    boxes: float,
    caplog: pytest.LogCaptureFixture,
) -> None:
    # The first object's prediction is the best one: without the object it is one too many.
    files.change(lambda c: c["annotations"][0].update(change))
    assert files.faults() == ({} if fault is None else {fault: 1})
    with caplog.at_level(logging.WARNING):
        found = files.figures()
    for value, left in zip(found, (masks, boxes), strict=True):
        cleaned = 1 if left == 1 else _cleaned(files, masks_only=left != boxes or left == masks)
        assert value == pytest.approx(cleaned)
    if fault is not None:
        assert f"1 {fault.what}: {fault.effect.value}" in caplog.text
        with pytest.raises(DataError):
            measure(files.predictions, files.truth, how=Reading(strict=True))


def _cleaned(files: Files, *, masks_only: bool) -> float:
    """The figure of a file that never had the first object."""
    assert masks_only
    content = labels()
    del content["annotations"][0]
    clean = files.folder / "clean.json"
    clean.write_text(json.dumps(content))
    value = measure(files.predictions, clean).metrics["mask_ap"]
    assert value is not None
    return value


def test_sizes_in_text_or_absent_are_taken_from_the_file(files: Files) -> None:
    files.change(lambda c: [c["images"][0].update(height="60"), c["images"][1].pop("width")])
    assert files.faults() == {Fault.FIELD: 2}
    assert files.figures() == (pytest.approx(1), pytest.approx(1))


# Identity


def test_a_result_list_is_matched_by_its_file_names(files: Files) -> None:
    files.change(lambda c: [one.update(file_name=f"{3 - one['id']:04}.png") for one in c["images"]])
    # As ultralytics writes it: ids are the numbers of the names, which are ids of other images.
    files.put_results(lambda one: one.update(file_name=f"{one['image_id']:04}.jpg"))
    content = labels()
    del content["annotations"][3]
    content["images"] = [
        one | {"file_name": f"{3 - one['id']:04}.png"} for one in content["images"]
    ]
    files.put(content)
    evaluation = measure(files.predictions, files.truth)
    # Image 0001 has id 2, which has one object.
    assert {one.name: one.objects for one in evaluation.images_scored} == {
        "0002.png": 2,
        "0001.png": 1,
    }
    assert evaluation.predictions == 4


def test_ids_that_are_stems_are_matched_by_name(files: Files) -> None:
    files.put_results(lambda one: one.update(image_id=f"frame_{one['image_id']}"))
    files.change(lambda c: [one.update(file_name=f"frame_{one['id']}.png") for one in c["images"]])
    assert files.figures() == (pytest.approx(1), pytest.approx(1))


def test_a_list_of_other_images_is_refused(files: Files) -> None:
    files.put_results(lambda one: one.update(image_id=one["image_id"] + 70))
    with pytest.raises(DataError, match="0 of 2 image ids are one of theirs"):
        files.figures()
    files.put_results(lambda one: one.update(file_name="other.png"))
    with pytest.raises(DataError, match=r"file_name 'other\.png'"):
        files.figures()


@pytest.mark.parametrize("first", [0, 1])
@pytest.mark.parametrize("permuted", [True, False])
def test_a_list_whose_ids_are_places_is_reported(files: Files, first: int, permuted: bool) -> None:
    """sahi#298: ids count the images in the order of their names, which is not the file's."""
    names = ("d", "b", "c", "a")
    content: Content = {"images": [], "annotations": [], "categories": labels()["categories"]}
    results = []
    for key, name in enumerate(names, start=1):
        file_name = f"{name}.png"
        size = {"height": HEIGHT, "width": WIDTH}
        content["images"].append({"id": key, "file_name": file_name, **size})
        box = (15 * key, 10, 12, 15)
        one = {"image_id": key, "category_id": 0, "segmentation": [outline(box)], "bbox": box}
        content["annotations"].append({"id": key, **one})
        place = sorted(names).index(name) + first if permuted else key
        results.append({**one, "score": 0.9, "image_id": place})
    if first == 0:  # There must be an image with each of the ids.
        content["images"][-1]["id"] = content["annotations"][-1]["image_id"] = 0
        if not permuted:
            results[-1]["image_id"] = 0
    files.put(content)
    files.predictions.write_text(json.dumps(results))
    evaluation = measure(files.predictions, files.truth)
    notes = [note for note in evaluation.notes if "order of their names" in note]
    assert len(notes) == permuted
    if permuted:
        assert f"counted from {first}, they fit better (1.00)" in notes[0]
        assert any("note: image ids are taken for" in line for line in evaluation.protocol())
    else:
        assert evaluation.metrics["mask_ap"] == pytest.approx(1)


def test_predictions_of_another_split_are_refused(files: Files) -> None:
    files.change(lambda c: [one.update(file_name=f"valid/{one['id']}.png") for one in c["images"]])
    content = json.loads(files.predictions.read_text())
    for one in content["images"]:
        one["file_name"] = f"train/{one['id']}.png"
    files.predictions.write_text(json.dumps(content))
    with pytest.raises(DataError, match=r"'train/1\.png' is not taken for 'valid/1\.png'"):
        files.figures()


def test_predictions_on_other_files_of_the_same_names_are_reported(files: Files) -> None:
    """Two splits that number their images alike; the file of Soloist says what it was made on."""
    content = json.loads(files.predictions.read_text())
    for image in content["images"]:
        size = (files.folder / image["file_name"]).stat().st_size
        image["file_state"] = [size, 0]
    files.predictions.write_text(json.dumps(content))
    assert measure(files.predictions, files.truth).notes == []
    for image in content["images"]:
        image["file_state"][0] += 1
    files.predictions.write_text(json.dumps(content))
    (note,) = measure(files.predictions, files.truth).notes
    assert note.startswith("2 of 2 images were predicted on other files than those of the ground")
    # Copies of another kind are compared by what is in them.
    for image in content["images"]:
        image["file_name"] = image["file_name"].replace(".png", ".jpg")
    files.predictions.write_text(json.dumps(content))
    assert measure(files.predictions, files.truth).notes == []


def test_classes_are_paired_by_name(files: Files) -> None:
    files.change(
        lambda c: [
            c.update(categories=[{"id": 7, "name": "plate "}, {"id": 3, "name": "Cup"}]),
            *[one.update(category_id=(3, 7)[one["category_id"]]) for one in c["annotations"]],
        ]
    )
    assert files.figures(classes=True) == (pytest.approx(1), pytest.approx(1))


@pytest.mark.parametrize("shift", [1, 5])
def test_a_list_with_other_classes_is_refused(files: Files, shift: int) -> None:
    files.put_results(lambda one: one.update(category_id=one["category_id"] + shift))
    with pytest.raises(DataError, match="as if counted from another number"):
        files.figures(classes=True)


@pytest.mark.parametrize(
    ("folder", "images"),
    [
        pytest.param("x", "x", id="named"),
        pytest.param("images", None, id="beside"),
        pytest.param("images", ".", id="above"),
    ],
)
@pytest.mark.parametrize(
    "name",
    [
        "{}.png",
        "images\\{}.png",
        "C:\\data\\{}.png",
        "/home/someone/x/{}.png",
        "x/{}.png",
        "{}.PNG",
        "..\\..\\label-studio\\media\\upload\\4\\{}.png",
        "images\\1/{}.png",
        "/data/local-files/?d=images/{}.png",
        "https://host/bucket/{}.png?signature=1",
    ],
)
def test_every_verb_finds_the_images_by_one_rule(
    files: Files, name: str, folder: str, images: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(files.folder)
    Path(folder).mkdir()
    for key in (1, 2):
        Path(f"{key:04}.png").rename(Path(folder, f"{key:04}.png"))
    files.change(
        lambda c: [one.update(file_name=name.format(f"{one['id']:04}")) for one in c["images"]]
    )
    expected = {key: Path(folder, f"{key:04}.png").resolve() for key in (1, 2)}

    def same(paths: dict[int, Path]) -> bool:
        return {key: path.resolve() for key, path in paths.items()} == expected

    log = FaultLog()
    dataset = find_dataset("truth.json", images=images, report=log)
    check_dataset(dataset, log)
    assert log.counts == {}
    assert same({one.id: one.path for one in dataset.images})
    how = Reading(images=images)
    chosen = choose_labelled("truth.json", "100%", 0, how)
    assert same({one.id: one.path for one in chosen.images if one.id is not None})
    assert same(read_labels("truth.json", how)[1])
    sources = [] if images is None else [images]
    assert same(image_paths(load_coco("truth.json"), sources))
    if images is None:
        assert same({one.id: one.path for one in find_images("truth.json") if one.id is not None})
    more = [] if images is None else ["--images", images]
    command = ["convert", "truth.json", "--format", "yolo", "--out", "out", *more]
    assert run_command(command) == DONE
    assert len([one for one in Path("out/images").rglob("*") if one.is_file()]) == 2


def test_labels_beside_a_folder_of_images_are_found(files: Files) -> None:
    for folder in ("annotations", "images"):
        (files.folder / folder).mkdir()
    for key in (1, 2):
        (files.folder / f"{key:04}.png").rename(files.folder / "images" / f"{key:04}.png")
    moved = files.truth.rename(files.folder / "annotations" / "instances_default.json")
    assert len(read_labels(moved)[1]) == 2


# Sizes


def test_one_pixel_is_forgiven_and_said(files: Files, caplog: pytest.LogCaptureFixture) -> None:
    files.change(lambda c: c["images"][1].update(height=HEIGHT + 1))
    assert files.faults() == {Fault.ONE_PIXEL: 1}
    assert files.figures() == (pytest.approx(1), pytest.approx(1))
    assert "is 60 x 80, stated 61 x 80" in caplog.text
    for path in files.folder.glob("*.png"):
        path.unlink()
    assert files.figures() == (pytest.approx(1), pytest.approx(1))
    assert "1 images are one pixel larger or smaller" in caplog.text


def test_exchanged_sides_are_refused(files: Files) -> None:
    files.change(lambda c: c["images"][0].update(height=WIDTH, width=HEIGHT))
    assert files.faults() == {Fault.EXCHANGED: 1}
    with pytest.raises(DataError, match="exchange width and height"):
        read_labels(files.truth)
    with pytest.raises(DataError, match="exchange width and height"):
        files.figures()


@pytest.mark.parametrize("orientation", [2, 3, 4, 5, 6, 7, 8])
def test_labels_made_on_images_as_stored_are_asked_about_and_turned(
    tmp_path: Path, orientation: int
) -> None:
    files = Files(tmp_path)
    exif = Image.Exif()
    exif[0x0112] = orientation
    Image.fromarray(scene()).save(tmp_path / "0001.png", exif=exif)
    assert files.faults() == {Fault.TURNED: 1}
    with pytest.raises(DataError, match="--exif stored"):
        read_labels(files.truth)
    file, _ = read_labels(files.truth, Reading(exif="stored"))
    first = file.images[0]
    assert (first.height, first.width) == ((WIDTH, HEIGHT) if orientation >= 5 else (HEIGHT, WIDTH))
    with Image.open(tmp_path / "0001.png") as stored:
        turned = np.asarray(_upright(stored)).max(axis=2)
    np.testing.assert_array_equal(file.masks(first).any(axis=0), turned > 100)
    for one in file.annotations[first.id]:
        left, top, width, height = (int(side) for side in one.box_xywh)
        assert (turned[top : top + height, left : left + width] > 100).all()
        assert width * height == one.area


def _upright(image: Image.Image) -> Image.Image:
    from PIL import ImageOps

    return ImageOps.exif_transpose(image)


def test_upright_labels_of_turned_images_are_left_alone(files: Files) -> None:
    exif = Image.Exif()
    exif[0x0112] = 3
    Image.fromarray(scene()[::-1, ::-1]).save(files.folder / "0001.png", exif=exif)
    assert files.faults() == {}
    Image.fromarray(np.zeros((HEIGHT, WIDTH, 3), np.uint8)).save(
        files.folder / "0001.png", exif=exif
    )
    assert files.faults() == {Fault.TURN_UNCLEAR: 1}
    with pytest.raises(DataError, match="--exif stored or --exif upright"):
        read_labels(files.truth)
    assert len(read_labels(files.truth, Reading(exif="upright"))[0]) == 4


def test_fractions_of_images_as_stored_are_asked_about(tmp_path: Path) -> None:
    """YOLO's labels state no size that could tell."""
    exif = Image.Exif()
    exif[0x0112] = 6
    (tmp_path / "images").mkdir()
    (tmp_path / "labels").mkdir()
    Image.fromarray(scene()).save(tmp_path / "images/a.png", exif=exif)
    lines = []
    for box in BOXES:
        points = np.reshape(outline(box), (-1, 2)) / (WIDTH, HEIGHT)
        lines.append("0 " + " ".join(f"{side:.6f}" for side in points.ravel()))
    (tmp_path / "labels/a.txt").write_text("\n".join(lines))
    with pytest.raises(DataError, match="--exif stored"):
        read_labels(tmp_path)
    file, _ = read_labels(tmp_path, Reading(exif="stored"))
    assert (file.images[0].height, file.images[0].width) == (WIDTH, HEIGHT)
    assert [one.area for one in file.annotations[1]] == [300, 500]


STATED = {
    "one-pixel": ((HEIGHT + 1, WIDTH), "sizes one pixel off the image's"),
    "as-stored": ((WIDTH, HEIGHT), "as they are stored, while EXIF turns them"),
}


def turn(files: Files) -> None:
    """Stores the first image on its side; shown it is as ever."""
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.fromarray(np.rot90(scene())).save(files.folder / "0001.png", exif=exif)


@pytest.mark.parametrize("stated", STATED)
def test_stated_sizes_are_compared_before_predicting(
    files: Files, stated: str, caplog: pytest.LogCaptureFixture
) -> None:
    size, message = STATED[stated]
    if stated == "as-stored":
        turn(files)
    files.change(lambda c: c["images"][0].update(height=size[0], width=size[1]))
    check_stated(find_images(files.truth), "truth.json")
    assert message in caplog.text
    assert "'0001.png' is 60 x 80" in caplog.text


@pytest.mark.parametrize(
    ("size", "message"),
    [
        pytest.param((WIDTH, HEIGHT), "stated 80 x 60, exchanged;", id="exchanged"),
        pytest.param((2 * HEIGHT, 2 * WIDTH), "stated 120 x 160;", id="resized"),
    ],
)
def test_other_sizes_end_a_prediction_before_it_begins(
    files: Files, size: tuple[int, int], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    files.change(lambda c: c["images"][0].update(height=size[0], width=size[1]))
    out = files.folder / "out"
    for command in (["predict", "--dry-run"], ["predict"], ["predict", "--shard-size", "2"]):
        assert run_command([*command, str(files.truth), "--out", str(out)]) == USER_ERROR
        error = capsys.readouterr().err.splitlines()[-1]
        assert message in error
        assert "name their folder instead" in error
        assert not out.exists()


def test_right_sizes_and_images_that_are_gone_are_no_obstacle(
    files: Files, caplog: pytest.LogCaptureFixture
) -> None:
    turn(files)
    (files.folder / "0002.png").unlink()
    check_stated(find_images(files.truth), "truth.json")
    assert [one.message for one in caplog.records if "stated" in one.message] == []


@pytest.mark.parametrize("verb", ["train", "finetune", "convert", "eval", "report"])
def test_masks_of_turned_images_are_refused_by_every_verb(
    files: Files, verb: str, capsys: pytest.CaptureFixture[str]
) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.fromarray(scene()).save(files.folder / "0001.png", exif=exif)
    truth, folder, out = str(files.truth), str(files.folder), str(files.folder / "out.html")
    predictions = str(files.predictions)
    commands = {
        "train": ["train", folder, "--masks", truth, "--out", out, "--dry-run"],
        "finetune": ["finetune", truth, "--init", "scratch", "--out", out, "--dry-run"],
        "convert": ["convert", truth, "--format", "coco", "--out", out],
        "eval": ["eval", predictions, truth],
        "report": ["report", truth, "--out", out],
    }
    assert run_command(commands[verb]) == USER_ERROR
    assert "--exif stored" in capsys.readouterr().err
    if verb != "eval":
        assert run_command([*commands[verb], "--exif", "stored"]) == DONE
    assert (files.folder / "out.html").exists() == (verb in ("convert", "report"))


def test_a_file_without_images_is_named_as_that(
    files: Files, capsys: pytest.CaptureFixture[str]
) -> None:
    files.put({"images": [], "annotations": [], "categories": []})
    for command in (
        ["report", str(files.truth)],
        ["convert", str(files.truth), "--format", "coco", "--out", str(files.folder / "out")],
    ):
        assert run_command(command) == USER_ERROR
        assert "whose `images` are none" in capsys.readouterr().err


# Duplicates


@pytest.mark.parametrize(
    ("change", "fault"),
    [
        pytest.param(
            lambda c: c["categories"].append({"id": 0, "name": "fork"}), Fault.DOUBLE_CLASS,
            id="category-id",
        ),
        pytest.param(
            lambda c: c["images"].append(c["images"][0] | {"file_name": "x"}), Fault.DOUBLE_ID,
            id="image-id",
        ),
        pytest.param(
            lambda c: c["images"].append(c["images"][0] | {"id": 9}), Fault.DOUBLE_NAME,
            id="file-name",
        ),
    ],
)  # fmt: skip
def test_what_stands_for_two_things_is_refused(files: Files, change: Change, fault: Fault) -> None:
    files.change(change)
    assert files.faults()[fault] == 1
    with pytest.raises(DataError, match=fault.what):
        files.figures()
    command = ["convert", str(files.truth), "--format", "yolo", "--out", str(files.folder / "out")]
    assert run_command(command) == USER_ERROR
    assert not (files.folder / "out").exists()


@pytest.mark.parametrize(
    ("change", "fault"),
    [
        pytest.param(
            lambda c: c["annotations"].append(c["annotations"][0] | {"id": 99}),
            Fault.DOUBLE_OBJECT, id="object",
        ),
        pytest.param(
            lambda c: c["annotations"][0].update(id=3), Fault.DOUBLE_OBJECT_ID, id="annotation-id"
        ),
        pytest.param(
            lambda c: c["categories"].append({"id": 5, "name": "cup"}), Fault.DOUBLE_CLASS_NAME,
            id="class-name",
        ),
    ],
)  # fmt: skip
def test_harmless_duplicates_are_said(files: Files, change: Change, fault: Fault) -> None:
    files.change(change)
    assert files.faults() == {fault: 1}
    assert len(read_labels(files.truth)[0]) >= 4


def test_more_objects_than_count_hint_at_the_option(files: Files) -> None:
    evaluation = measure(files.predictions, files.truth, max_dets=11)
    assert evaluation.notes == []
    files.change(lambda c: c["annotations"].extend([c["annotations"][0]] * 12))
    evaluation = measure(files.predictions, files.truth, max_dets=11)
    assert "--max-dets 100 counts more" in evaluation.notes[0]


def test_crowds_alone_are_named(files: Files) -> None:
    files.change(lambda c: [one.update(iscrowd=1) for one in c["annotations"]])
    assert files.faults() == {Fault.ALL_CROWD: 1}
    with pytest.raises(DataError, match="whose 4 objects are all crowd regions"):
        files.figures()


@pytest.mark.parametrize("count", [4, 1])
def test_crowds_are_named_by_those_who_learn(
    files: Files, count: int, caplog: pytest.LogCaptureFixture
) -> None:
    files.change(lambda c: [one.update(iscrowd=1) for one in c["annotations"][:count]])
    images = find_images(str(files.folder / "*.png"))
    if count == 4:
        assert len(read_labels(files.truth)[0]) == 4
        assert Fault.ALL_CROWD.what in caplog.text
        with pytest.raises(DataError, match="none has an object to learn from"):
            choose_labelled(files.truth, "100%", 0)
        with pytest.raises(DataError, match="none of the 2 images has a mask"):
            read_masks(files.truth, images, Reading())
    else:
        assert len(choose_labelled(files.truth, "100%", 0).labels) == 3
        assert len(read_masks(files.truth, images, Reading())) == 3
    assert f"not learned from, of 4 objects: {count} crowd regions" in caplog.text
    assert f"{count} of 4 objects are boxes alone or crowd regions: left out" in caplog.text


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        pytest.param((255, 255), 1, id="black-and-white"),
        pytest.param((1, 255), 0, id="numbers"),
        pytest.param((1, 1), 0, id="one-object"),
    ],
)
def test_black_and_white_masks_are_one_object_and_said(
    tmp_path: Path, values: tuple[int, int], expected: int, caplog: pytest.LogCaptureFixture
) -> None:
    for folder in ("images", "masks"):
        (tmp_path / folder).mkdir()
    numbers = np.zeros((HEIGHT, WIDTH), dtype=np.uint8)
    for (x, y, width, height), value in zip(BOXES, values, strict=True):
        numbers[y : y + height, x : x + width] = value
    Image.fromarray(scene()).save(tmp_path / "images/a.jpg")
    Image.fromarray(numbers).save(tmp_path / "masks/a.png")
    log = FaultLog()
    summary = check_dataset(find_dataset(tmp_path, report=log), log)
    assert summary.objects == len(set(values))
    assert log.counts.get(Fault.BLACK_AND_WHITE, 0) == expected
    assert len(read_labels(tmp_path)[0]) == len(set(values))
    assert caplog.text.count(Fault.BLACK_AND_WHITE.what) == expected


def test_few_images_with_predictions_are_said(files: Files) -> None:
    def more(content: Content) -> None:
        content["images"] += [
            {"id": key, "file_name": f"{key}.png", "height": 9, "width": 9} for key in range(3, 9)
        ]

    files.change(more)
    files.put_results(lambda one: one.update(image_id=1))
    notes = measure(files.predictions, files.truth).notes
    assert notes == ["1 of 8 images have predictions"]
