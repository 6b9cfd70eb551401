"""The commands of docs/datasets.md run on small data sets laid out as the page says."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from tests.documents import DOCS, soloist_commands

from soloist.cli import run_command
from soloist.cli.runs import DONE
from soloist.data.coco.write import annotation_records, write_coco
from soloist.data.datasets.find import find_dataset

pytestmark = pytest.mark.documents
COMMANDS = soloist_commands(DOCS / "datasets.md")
LISTED = "coco/coco_20k_filenames.txt"


@pytest.fixture
def laid_out(
    make: Callable[[str], Any], tmp_path: Path, model_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> Path:
    def put(kind: str, place: str) -> None:
        made = make(kind)
        shutil.copytree(made.path, tmp_path / place, dirs_exist_ok=True)
        shutil.rmtree(made.path)

    for kind, place in (("lvis", "coco"), ("coco", "coco"), ("uvo", "uvo"), ("voc", "")):
        put(kind, place)
    put("cityscapes", "cityscapes")
    (tmp_path / "uvo/video").rename(tmp_path / "uvo/frames")
    shutil.copytree(tmp_path / "VOCdevkit/VOC2012", tmp_path / "VOCdevkit/VOC2007")
    shutil.copytree(model_folder, tmp_path / "runs/coco")
    truth = find_dataset(tmp_path / "coco/annotations/instances_val2017.json").to_coco()
    records = annotation_records(
        one for image in truth.images for one in truth.annotations[image.id]
    )
    for name in ("predictions", "val2017", "uvo", "voc07", "coco20k", "voc12", "lvis"):
        write_coco(tmp_path / f"{name}.json", truth.images, records)
    streets = find_dataset(tmp_path / "cityscapes").to_coco()
    objects = (
        one for image in streets.images for one in streets.annotations[image.id] if not one.iscrowd
    )
    write_coco(tmp_path / "cityscapes.json", streets.images, annotation_records(objects))
    # The list of 20k images leaves one of them out.
    content = json.loads((tmp_path / "coco/annotations/instances_val2017.json").read_text())
    (tmp_path / "coco/annotations/instances_train2014.json").write_text(json.dumps(content))
    shutil.copytree(tmp_path / "coco/val2017", tmp_path / "coco/train2014")
    shutil.copytree(tmp_path / "coco/val2017", tmp_path / "coco/train2017")
    (tmp_path / LISTED).write_text("train2014/000034.jpg\n")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_the_page_has_the_commands_of_each_protocol() -> None:
    assert [arguments[0] for arguments in COMMANDS] == [
        *("data", "data", "eval"),
        *(("predict", "eval") * 7),
    ]


def test_each_command_of_the_page_works(laid_out: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for arguments in COMMANDS:
        dry = ["--dry-run", "--overwrite", "--device", "cpu"] if arguments[0] == "predict" else []
        assert run_command([*arguments, *dry]) == DONE, capsys.readouterr().err
        printed = capsys.readouterr().out
        if arguments[0] == "eval":
            assert "CorLoc 100.0" in printed
            images = 1 if {"--only", "Segmentation/val"} & set(arguments) else 2
            assert printed.count(f"\n{images} images, " if images > 1 else "\n1 images, ") == 1
    figures = json.loads(Path("figures.json").read_text())
    assert figures["mask_ap"] == pytest.approx(1)
    assert len(Path("images.csv").read_text().splitlines()) == 3
