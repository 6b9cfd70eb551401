"""Each format read by the tool it is for, or by the library that speaks for it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tests.data.exports.inputs import (
    CATEGORIES,
    HARD,
    PLAIN,
    SIZE,
    USABLE,
    Mask,
    WriteHard,
    enlarged,
    iou,
)

from soloist.data.coco.read import load_coco
from soloist.data.coco.rle import decode_mask
from soloist.data.exports.export import export
from soloist.data.exports.options import ExportOptions, FormatName
from soloist.data.exports.source import read_source

CLOSE, SAME = 0.95, 0.999
COUNT = len(HARD)
LARGE = 4
"""How much all is enlarged for supervision, which rounds corners and then fills the border too."""


def write(source: Path, out: Path, name: FormatName, **options: Any) -> Path:
    file, paths = read_source(source)
    export(file, paths, out, name, ExportOptions(**options))
    return out


def check(found: list[Mask], least: float, scale: int = 1) -> None:
    """The hard masks in their order, those of usable size at least as like as promised."""
    overlaps = {
        name: round(iou(mask, enlarged(true, scale)), 3)
        for mask, (name, true) in zip(found, HARD.items(), strict=True)
    }
    wrong = {
        name: overlap
        for name, overlap in overlaps.items()
        if overlap < least and (name in USABLE or least == SAME)
    }
    assert wrong == {}


def test_pycocotools_reads_coco(write_hard: WriteHard, tmp_path: Path) -> None:
    from pycocotools.coco import COCO

    for segmentation, least in (("mask", SAME), ("polygon", CLOSE)):
        out = write(write_hard(), tmp_path / segmentation, "coco", segmentation=segmentation)
        coco = COCO(out / "annotations" / "instances_default.json")
        records = coco.loadAnns(coco.getAnnIds(imgIds=[1]))
        check([coco.annToMask(record).astype(np.bool_) for record in records], least)


@pytest.mark.parametrize(("segmentation", "least"), [("mask", SAME), ("polygon", CLOSE)])
def test_supervision_reads_coco(
    write_hard: WriteHard, tmp_path: Path, segmentation: str, least: float
) -> None:
    supervision = pytest.importorskip("supervision")
    source = write_hard(scale=LARGE)
    out = write(source, tmp_path / "out", "coco", segmentation=segmentation, with_images="link")
    read = supervision.DetectionDataset.from_coco(
        images_directory_path=str(out / "images" / "default"),
        annotations_path=str(out / "annotations" / "instances_default.json"),
        force_masks=True,
    )
    assert read.classes == list(CATEGORIES.values())
    check(list(read.annotations[str(out / "images" / "default" / PLAIN)].mask), least, LARGE)


def test_supervision_reads_yolo(write_hard: WriteHard, tmp_path: Path) -> None:
    supervision = pytest.importorskip("supervision")
    out = write(write_hard(scale=LARGE), tmp_path / "out", "yolo")
    read = supervision.DetectionDataset.from_yolo(
        images_directory_path=str(out / "images"),
        annotations_directory_path=str(out / "labels"),
        data_yaml_path=str(out / "data.yaml"),
    )
    assert read.classes == list(CATEGORIES.values())
    found = read.annotations[str(out / "images" / PLAIN)]
    assert found.class_id.tolist() == [number % 2 for number in range(COUNT)]
    check(list(found.mask), CLOSE, LARGE)


def test_ultralytics_reads_yolo(write_hard: WriteHard, tmp_path: Path) -> None:
    pytest.importorskip("ultralytics")
    from ultralytics.data.dataset import YOLODataset
    from ultralytics.data.utils import check_det_dataset, polygon2mask

    out = write(write_hard(), tmp_path / "out", "yolo")
    data = check_det_dataset(str(out / "data.yaml"), autodownload=False)
    dataset = YOLODataset(data["train"], data=data, task="segment", augment=False)
    assert dataset.data["names"] == dict(enumerate(CATEGORIES.values()))
    (label,) = (one for one in dataset.labels if Path(one["im_file"]).name == PLAIN)
    assert label["cls"].ravel().tolist() == [number % 2 for number in range(COUNT)]
    corners = [segment * (SIZE[1], SIZE[0]) for segment in label["segments"]]
    found = [polygon2mask(SIZE, [one.ravel()], downsample_ratio=1) for one in corners]
    check([mask.astype(np.bool_) for mask in found], CLOSE)


@pytest.mark.parametrize(("segmentation", "least"), [("polygon", CLOSE), ("mask", SAME)])
def test_labelme_reads_its_files(
    write_hard: WriteHard, tmp_path: Path, segmentation: str, least: float
) -> None:
    pytest.importorskip("labelme")
    from labelme import LabelFile

    out = write(write_hard(), tmp_path / "out", "labelme", segmentation=segmentation)
    file = LabelFile(str(out / "a.json"))
    assert file.image_data if hasattr(file, "image_data") else file.imageData  # It found the image.
    found: dict[int, Mask] = {}
    for shape in file.shapes:
        mask = labelme_mask(shape)
        found[shape["group_id"]] = found.get(shape["group_id"], False) | mask
    assert list(found) == list(range(11, 11 + COUNT))
    check(list(found.values()), least)


def labelme_mask(shape: Any) -> Mask:
    from labelme.utils import shape_to_mask

    if shape["shape_type"] != "mask":
        drawn: Mask = shape_to_mask(SIZE, shape["points"], shape["shape_type"])
        return drawn
    mask = np.zeros(SIZE, dtype=np.bool_)
    (left, top), (right, bottom) = np.array(shape["points"], dtype=int).tolist()
    mask[top : bottom + 1, left : right + 1] = shape["mask"]
    return mask


def test_label_studio_decodes_brushes(write_hard: WriteHard, tmp_path: Path) -> None:
    brush = pytest.importorskip("label_studio_sdk.converter.brush")
    out = write(write_hard(), tmp_path / "out", "label-studio")
    task = json.loads((out / "tasks.json").read_text())[0]
    regions = task["predictions"][0]["result"]
    check(
        [
            brush.decode_rle(region["value"]["rle"]).reshape(*SIZE, 4)[:, :, 3] > 0
            for region in regions
        ],
        SAME,
    )


@pytest.mark.parametrize("segmentation", ["mask", "polygon"])
def test_label_studio_knows_every_region_of_its_configuration(
    write_hard: WriteHard, tmp_path: Path, segmentation: str
) -> None:
    interface = pytest.importorskip("label_studio_sdk.label_interface")
    out = write(write_hard(), tmp_path / "out", "label-studio", segmentation=segmentation)
    config = interface.LabelInterface((out / "label_config.xml").read_text(encoding="utf-8"))
    for task in json.loads((out / "tasks.json").read_text()):
        assert config.validate_task({"data": task["data"]})
        for prediction in task["predictions"]:
            assert config.validate_prediction(prediction, return_errors=True) == []


def test_label_studio_exports_polygons_to_coco(write_hard: WriteHard, tmp_path: Path) -> None:
    converter = pytest.importorskip("label_studio_sdk.converter")
    out = write(write_hard(), tmp_path / "out", "label-studio", segmentation="polygon")
    tasks = json.loads((out / "tasks.json").read_text())
    # As the tool gives them back once somebody has accepted the predictions.
    for number, task in enumerate(tasks):
        accepted = {"id": number, "result": task.pop("predictions")[0]["result"]}
        task |= {"id": number, "annotations": [accepted]}
    given = tmp_path / "given.json"
    given.write_text(json.dumps(tasks))
    config = (out / "label_config.xml").read_text(encoding="utf-8")
    converter.Converter(config, str(tmp_path), download_resources=False).convert_to_coco(
        str(given), str(tmp_path / "coco"), is_dir=False
    )
    content = json.loads((tmp_path / "coco" / "result.json").read_text())
    parts = [one for one in content["annotations"] if one["image_id"] == 0]
    regions = [one["id"] for one in tasks[0]["annotations"][0]["result"]]
    found = {number: np.zeros(SIZE, dtype=np.bool_) for number in range(11, 11 + COUNT)}
    for region, part in zip(regions, parts, strict=True):
        found[int(region.split("-")[0])] |= decode_mask(part["segmentation"], SIZE)
    check(list(found.values()), CLOSE)


@pytest.mark.parametrize(("segmentation", "least"), [("mask", SAME), ("polygon", CLOSE)])
def test_datumaro_reads_coco(
    write_hard: WriteHard, tmp_path: Path, segmentation: str, least: float
) -> None:
    datumaro = pytest.importorskip("datumaro")
    out = write(
        write_hard(), tmp_path / "out", "coco", segmentation=segmentation, with_images="link"
    )
    read = datumaro.Dataset.import_from(str(out), "coco_instances", merge_instance_polygons=True)
    (item,) = (item for item in read if item.id == "a")
    assert item.media.data.shape[:2] == SIZE
    # Beside each mask it has the box.
    masks = {one.id: one for one in item.annotations if isinstance(one, datumaro.Mask)}
    assert masks[11].attributes["score"] == 0.99
    found = [masks[number].image for number in range(11, 11 + COUNT)]
    check([np.asarray(mask).astype(np.bool_) for mask in found], least)


def test_scikit_image_reads_label_maps(write_hard: WriteHard, tmp_path: Path) -> None:
    from skimage.io import imread
    from skimage.measure import regionprops

    source = write_hard()
    out = write(source, tmp_path / "out", "label-maps")
    numbers = imread(out / "masks" / PLAIN)
    assert numbers.dtype == np.uint16
    taken = np.zeros(SIZE, dtype=np.bool_)
    areas = {}
    for value, one in enumerate(load_coco(source).annotations[1], start=1):
        mask = decode_mask(one.rle)
        if (mask & ~taken).any():
            areas[value] = int((mask & ~taken).sum())
        taken |= mask
    assert {region.label: int(region.area) for region in regionprops(numbers)} == areas
