"""Every command of docs/reproduce-coco.md is planned on a small folder of COCO's shape."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch
from tests.documents import DOCS, soloist_commands
from torchvision.models import resnet101

from soloist.cli import run_command
from soloist.cli.runs import DONE
from soloist.data.coco.read import load_coco

pytestmark = pytest.mark.documents
COMMANDS = soloist_commands(DOCS / "reproduce-coco.md")


@pytest.fixture(scope="module")
def coco(tmp_path_factory: pytest.TempPathFactory, scenes: Path, model_folder: Path) -> Path:
    """Two images and their masks wherever the page expects images, masks, weights and runs."""
    root = tmp_path_factory.mktemp("coco")
    truth = json.loads((scenes / "annotations.json").read_text(encoding="utf-8"))
    chosen = truth["images"][:2]
    known = {image["id"] for image in chosen}
    annotations = [a for a in truth["annotations"] if a["image_id"] in known]
    content = {**truth, "images": chosen, "annotations": annotations}
    for folder in ("coco/train2017", "coco/unlabeled2017", "coco/val2017", "uvo/frames"):
        (root / folder).mkdir(parents=True)
        for image in chosen:
            shutil.copy(scenes / "images" / image["file_name"], root / folder)
    shutil.copytree(root / "uvo/frames", root / "voc/JPEGImages")
    scored = [{**a, "score": 0.9} for a in annotations]
    masks = json.dumps({**content, "annotations": scored})
    (root / "coco/annotations").mkdir()
    for name in (
        "coco/annotations/instances_val2017.json",
        "uvo/UVO_frame_val.json",
        "voc/pascal_trainval2007.json",
    ):
        (root / name).write_text(json.dumps(content), encoding="utf-8")
    for name in ("coco_val.json", "uvo_masks.json", "voc_masks.json"):
        (root / name).write_text(masks, encoding="utf-8")
    # Images of two folders keep the folder in their name.
    named = [{**i, "file_name": f"train2017/{i['file_name']}"} for i in chosen]
    for name in ("coco_free.json", "coco_pseudo.json"):
        (root / name).write_text(json.dumps({**json.loads(masks), "images": named}))
    for name in ("coco", "coco-0", "coco-1"):
        shutil.copytree(model_folder, root / "runs" / name)
    torch.save(resnet101(weights=None).state_dict(), root / "densecl_r101.pth")
    return root


def test_the_page_has_the_commands_from_images_to_the_table() -> None:
    assert [arguments[0] for arguments in COMMANDS] == [
        "fit",
        *("masks", "train", "predict", "train", "predict", "eval"),
        *("predict", "eval", "predict", "eval"),
    ]


@pytest.mark.parametrize("arguments", COMMANDS, ids=lambda a: f"{a[0]}-{a[-1].strip('-.')}")
def test_each_command_can_be_planned(
    coco: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    arguments: list[str],
) -> None:
    monkeypatch.chdir(coco)
    before = sorted(str(path) for path in coco.rglob("*"))
    dry = [] if arguments[0] == "eval" else ["--dry-run", "--overwrite", "--device", "cpu"]
    assert run_command([*arguments, *dry]) == DONE, capsys.readouterr().err
    out = capsys.readouterr().out
    if dry:
        assert out.startswith(f"dry run of {arguments[0]}: nothing is written to")
        images = 4 if "coco/train2017" in arguments else 2
        assert f"images: {images}, on cpu" in out
    else:
        assert "100.0" in out
    if arguments[0] in ("fit", "train"):
        assert "30,000 steps of 16 images" in out
        assert "backbone: resnet101, weights densecl_r101.pth" in out or "network: SOLO" in out
    assert sorted(str(path) for path in coco.rglob("*")) == before


def test_a_dry_run_finds_the_mistakes_of_a_run(
    coco: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(coco)
    (coco / "densecl_r50.pth").write_bytes((coco / "densecl_r101.pth").read_bytes()[:1000])
    how = ["masks", "coco/val2017", "--out", "m.json", "--dry-run", "--preset", "paper-r101"]
    assert run_command([*how, "--backbone.weights", "densecl_r50.pth"]) != DONE
    error = capsys.readouterr().err
    assert "densecl_r50.pth" in error
    assert error.count("\n") == 1


def test_the_names_of_the_two_folders_are_those_of_the_masks(coco: Path) -> None:
    from soloist.data.sources import find_images

    found = find_images([str(coco / "coco/train2017"), str(coco / "coco/unlabeled2017")])
    names = {image.name for image in found}
    assert {image.file_name for image in load_coco(coco / "coco_free.json").images} <= names
