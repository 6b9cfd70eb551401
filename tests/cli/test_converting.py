"""`convert` and `predict --format`, through the command line."""

from __future__ import annotations

import json
import logging
import shutil
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import pytest

from soloist.cli import run_command
from soloist.cli.runs import DONE, SOME_FAILED, USER_ERROR
from soloist.data.coco.read import load_coco
from soloist.data.datasets.find import find_dataset
from soloist.data.exports import yolo
from soloist.data.exports.formats import EXPORT_FORMATS

KilledAt = Callable[[Any, str, int], AbstractContextManager[None]]
FAST = "--device cpu --precision fp32"


@pytest.fixture(autouse=True)
def _working_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, scenes: Path) -> None:
    monkeypatch.chdir(tmp_path)
    shutil.copytree(scenes / "images", "photos")
    shutil.copy(scenes / "annotations.json", "truth.json")


def run(command: str, *more: str | Path) -> int:
    return run_command([*command.split(), *map(str, more)])


@pytest.mark.parametrize("name", EXPORT_FORMATS)
def test_every_format_is_written(
    name: str, capsys: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, logger="soloist")
    command = f"convert truth.json --format {name} --out out --images photos"
    assert run(command) == DONE
    assert capsys.readouterr().out == "out\n"
    masks = len(load_coco(Path("truth.json")))
    assert f"{name}: {masks} masks on 6 images" in caplog.text
    assert len([path for path in Path("out").rglob("*") if path.is_file()]) >= 2
    assert not list(Path(".").glob("*.lock"))


def test_what_is_left_out_is_reported(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, logger="soloist")
    assert run("convert truth.json --format coco --out out --max-per-image 1") == DONE
    masks = len(load_coco(Path("truth.json")))
    assert f"  {masks - 6} masks beyond --max-per-image, left out" in caplog.text


def test_a_data_set_of_another_format_is_converted() -> None:
    command = "convert truth.json --format yolo --out yolo --images photos --tolerance 0"
    assert run(command) == DONE
    assert run("convert yolo --split train --format labelme --out labelme") == DONE
    assert run("convert yolo/data.yaml --split val --format coco --out coco") == DONE
    truth = find_dataset("truth.json").to_coco()
    back = load_coco("coco/annotations/instances_default.json")
    for image, same in zip(truth.images, back.images, strict=True):
        assert image.file_name == same.file_name
        rles = [[one.rle for one in file.annotations[number]]
                for file, number in ((truth, image.id), (back, same.id))]  # fmt: skip
        assert rles[0] == rles[1]
        content = json.loads(Path("labelme", image.file_name).with_suffix(".json").read_text())
        assert len({shape["group_id"] for shape in content["shapes"]}) == len(rles[0])


def test_a_packed_data_set_is_taken_as_its_folder(capsys: pytest.CaptureFixture[str]) -> None:
    assert run("convert truth.json --format yolo --out set --images photos --tolerance 0") == DONE
    packed = Path(shutil.make_archive("packed", "zip", "set"))
    shutil.rmtree("set")
    capsys.readouterr()
    assert run("data check --split val", packed) == DONE
    assert capsys.readouterr().out.startswith("yolo, val: ")
    assert run("convert --split val --format labelme --out labelme", packed) == DONE
    assert len(list(Path("labelme").glob("0*.json"))) == 6
    assert run("eval truth.json --split val", packed) == DONE


def test_predictions_are_written_in_a_format_too(
    model_folder: Path, caplog: pytest.LogCaptureFixture, capsys: pytest.CaptureFixture[str]
) -> None:
    caplog.set_level(logging.INFO, logger="soloist")
    command = f"predict photos --out masks.json --format yolo --max-per-image 3 {FAST}"
    assert run(command, "--model", model_folder) == DONE
    assert capsys.readouterr().out == "masks.json\nmasks-yolo\n"
    file = load_coco("masks.json")
    dataset = find_dataset("masks-yolo", split="val")
    assert [image.name for image in dataset.images] == [image.file_name for image in file.images]
    for image, same in zip(file.images, dataset.images, strict=True):
        assert len(dataset.objects(same)) == min(3, len(file.annotations[image.id]))
    assert any(len(objects) > 3 for objects in file.annotations.values())
    assert "masks beyond --max-per-image, left out" in caplog.text


@pytest.mark.slow
def test_a_killed_conversion_goes_on_without_predicting_again(
    model_folder: Path, killed_at: KilledAt, capsys: pytest.CaptureFixture[str]
) -> None:
    command = f"predict photos --out masks.json --format yolo {FAST} --model {model_folder}"
    Path("photos/000003.jpg").write_text("no image")
    with killed_at(yolo, "write_text", 3):
        run(command)
    made = Path("masks.json").stat().st_mtime_ns
    assert run(command) == SOME_FAILED
    assert Path("masks.json").stat().st_mtime_ns == made
    assert len(list(Path("masks-yolo/labels").iterdir())) == 5
    capsys.readouterr()
    # Finished: nothing is left to do, and what other options would make is refused.
    before = {path: path.stat().st_mtime_ns for path in Path("masks-yolo").rglob("*")}
    assert run(command) == SOME_FAILED
    assert Path("masks.json").stat().st_mtime_ns == made
    assert {path: path.stat().st_mtime_ns for path in Path("masks-yolo").rglob("*")} == before
    assert run(command + " --inference.short-side 96") == USER_ERROR
    assert "'masks.json' exists; add --overwrite" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("command", "message"),
    [
        pytest.param("convert none.json --format yolo --out new", "does not exist", id="no-file"),
        pytest.param("convert truth.json --out new", "--format requires an argument",
                     id="no-format"),
        pytest.param("convert truth.json --format yolo", "--out requires an argument", id="no-out"),
        pytest.param("convert truth.json --format voc --out new", "Choose from", id="format"),
        pytest.param("convert photos --format yolo --out new", "with images alone", id="images"),
        pytest.param("convert bare.json --format yolo --out new", "a list of results", id="bare"),
        pytest.param("convert broken.json --format yolo --out new --strict", "annotations[0]",
                     id="broken"),
        pytest.param("convert truth.json --format yolo --out photos", "no export", id="foreign"),
        pytest.param("convert truth.json --format yolo --out truth.json", "is a file", id="file"),
        pytest.param("convert truth.json --format yolo --out new --segmentation mask",
                     "can be polygon, got mask", id="segmentation"),
        pytest.param("convert truth.json --format yolo --out new --tolerance -1",
                     "export.tolerance must be at least 0", id="tolerance"),
        pytest.param("convert truth.json --format yolo --out new --images none", "does not exist",
                     id="no-images"),
        pytest.param("convert truth.json --format overlays --out new --images other",
                     "found none of them; add --images FOLDER", id="other-images"),
        pytest.param("predict photos --format yolo --shard-size 5 --out new",
                     "leave out --shard-size", id="shards"),
        pytest.param("predict photos --format label-maps --segmentation polygon --out new.json",
                     "can be mask, got polygon", id="predict-segmentation"),
    ],
)  # fmt: skip
def test_a_mistake_ends_in_one_line(
    capsys: pytest.CaptureFixture[str], command: str, message: str
) -> None:
    result = {"image_id": 1, "segmentation": {"size": [2, 2], "counts": [4]}, "score": 1}
    Path("bare.json").write_text(json.dumps([result]))
    image = {"id": 1, "file_name": "a.jpg", "height": 4, "width": 4}
    broken = {"images": [image], "annotations": [result]}
    Path("broken.json").write_text(json.dumps(broken))
    Path("other").mkdir()
    shutil.copy("photos/000001.jpg", "other/elsewhere.jpg")
    assert run(command) == USER_ERROR
    err = capsys.readouterr().err
    assert message in err
    assert err.startswith("soloist: ")
    assert err.count("\n") == 1
    assert not Path("new").exists()


@pytest.mark.slow
def test_a_folder_that_grew_or_shrank_is_labelled_anew(
    model_folder: Path, capsys: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    first = f"predict photos --out masks.json {FAST} --model {model_folder}"
    assert run(f"{first} --format yolo") == DONE
    made = Path("masks.json").stat().st_mtime_ns
    # Nothing new: the same masks in another format.
    assert run(f"{first} --format labelme") == DONE
    assert Path("masks.json").stat().st_mtime_ns == made
    shutil.copy("photos/000001.jpg", "photos/new.jpg")
    Path("photos/000002.jpg").unlink()
    assert run(f"{first} --format coco") == DONE
    assert "1 new (such as 'new.jpg'), 1 vanished (such as '000002.jpg')" in caplog.text
    names = {image.file_name for image in load_coco("masks.json").images}
    assert "new.jpg" in names
    assert "000002.jpg" not in names
