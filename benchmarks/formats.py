"""How well masks survive a conversion, read back by the tools themselves: a Markdown table.

    python benchmarks/formats.py MASKS.json

MASKS.json is a COCO file whose images Soloist finds. A tool that is not installed is left out:
`pip install supervision labelme label-studio-sdk datumaro ultralytics`, better not into the
environment of Soloist, since some want older versions of NumPy and Pillow.
"""

from __future__ import annotations

import json
import logging
import tempfile
from collections import defaultdict
from collections.abc import Callable, Iterator
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
from cyclopts import App
from numpy.typing import NDArray

from soloist.data.coco.rle import decode_mask
from soloist.data.coco.types import CocoFile
from soloist.data.exports.export import export
from soloist.data.exports.options import ExportOptions, FormatName
from soloist.data.exports.source import read_source

Mask = NDArray[np.bool_]
Read = Iterator[tuple[int, Mask]]
"""Id of a mask, and what a tool made of it or of a part of it."""

app = App(help=__doc__)


def pycocotools_reads(out: Path, file: CocoFile) -> Read:
    """COCO, as evaluations read it."""
    from pycocotools.coco import COCO

    coco = COCO(out / "annotations" / "instances_default.json")
    for one in coco.loadAnns(coco.getAnnIds()):
        yield one["id"], coco.annToMask(one).astype(np.bool_)


def datumaro_reads(out: Path, file: CocoFile) -> Read:
    """COCO, by what CVAT imports with."""
    import datumaro

    for item in datumaro.Dataset.import_from(str(out), "coco_instances"):
        for one in item.annotations:
            if isinstance(one, datumaro.Mask):
                yield one.id, np.asarray(one.image).astype(np.bool_)


def supervision_reads(out: Path, file: CocoFile) -> Read:
    """YOLO; corners are rounded, and the border is filled too."""
    import supervision

    read = supervision.DetectionDataset.from_yolo(
        images_directory_path=str(out / "images"),
        annotations_directory_path=str(out / "labels"),
        data_yaml_path=str(out / "data.yaml"),
    )
    for image in file.images:
        masks = read.annotations[str(out / "images" / image.file_name)].mask
        objects = file.annotations[image.id]
        yield from zip([one.id for one in objects], [] if masks is None else masks, strict=True)


def ultralytics_reads(out: Path, file: CocoFile) -> Read:
    """YOLO, as it is trained on."""
    from ultralytics.data.dataset import YOLODataset
    from ultralytics.data.utils import check_det_dataset, polygon2mask

    data = check_det_dataset(str(out / "data.yaml"), autodownload=False)
    dataset = YOLODataset(data["train"], data=data, task="segment", augment=False)
    segments = {Path(one["im_file"]).name: one["segments"] for one in dataset.labels}
    for image in file.images:
        size = (image.height, image.width)
        rings = segments[image.file_name]
        for one, ring in zip(file.annotations[image.id], rings, strict=True):
            corners = (ring * size[::-1]).ravel()
            yield one.id, polygon2mask(size, [corners], downsample_ratio=1).astype(np.bool_)


def labelme_reads(out: Path, file: CocoFile) -> Read:
    """Shapes of labelme."""
    from labelme import LabelFile
    from labelme.utils import shape_to_mask

    for image in file.images:
        size = (image.height, image.width)
        for shape in LabelFile(str((out / image.file_name).with_suffix(".json"))).shapes:
            mask = np.zeros(size, dtype=np.bool_)
            if shape["shape_type"] == "mask":
                (left, top), (right, bottom) = np.array(shape["points"], dtype=int).tolist()
                mask[top : bottom + 1, left : right + 1] = shape["mask"]
            else:
                mask = shape_to_mask(size, shape["points"], shape["shape_type"])
            yield shape["group_id"], mask


def label_studio_reads(out: Path, file: CocoFile) -> Read:
    """Regions of Label Studio."""
    from label_studio_sdk.converter.brush import decode_rle

    for task in json.loads((out / "tasks.json").read_text(encoding="utf-8")):
        for region in task["predictions"][0]["result"]:
            size = (region["original_height"], region["original_width"])
            value = region["value"]
            if "rle" in value:
                mask = decode_rle(value["rle"]).reshape(*size, 4)[:, :, 3] > 0
            else:  # It fills none by itself; its exports hand the corners on.
                corners = np.array(value["points"]) * (size[1] / 100, size[0] / 100)
                mask = decode_mask([corners.ravel().tolist()], size)
            yield int(region["id"].split("-")[0]), mask


def scikit_image_reads(out: Path, file: CocoFile) -> Read:
    """Label maps; of overlaps they keep the best mask alone."""
    from skimage.io import imread

    for image in file.images:
        numbers = imread((out / "masks" / image.file_name).with_suffix(".png"))
        ranked = sorted(file.annotations[image.id], key=lambda one: -one.score)
        for value, one in enumerate(ranked, start=1):
            yield one.id, numbers == value


READERS: tuple[tuple[FormatName, str, str, Callable[[Path, CocoFile], Read]], ...] = (
    ("coco", "mask", "pycocotools", pycocotools_reads),
    ("coco", "polygon", "pycocotools", pycocotools_reads),
    ("coco", "mask", "datumaro", datumaro_reads),
    ("yolo", "polygon", "ultralytics", ultralytics_reads),
    ("yolo", "polygon", "supervision", supervision_reads),
    ("label-studio", "mask", "label-studio-sdk", label_studio_reads),
    ("label-studio", "polygon", "label-studio-sdk", label_studio_reads),
    ("labelme", "polygon", "labelme", labelme_reads),
    ("labelme", "mask", "labelme", labelme_reads),
    ("label-maps", "mask", "scikit-image", scikit_image_reads),
)


@app.default
def main(masks: Path, *, tolerance: float = 1.0) -> None:
    """Prints the table.

    Args:
        masks: A COCO file.
        tolerance: As for `soloist convert`.
    """
    logging.disable(logging.INFO)
    file, paths = read_source(masks, None, None, [])
    print("| format | masks as | read by | least IoU | median IoU |")
    print("|---|---|---|---|---|")
    for name, segmentation, tool, read in READERS:
        with tempfile.TemporaryDirectory() as folder:
            chosen: dict[str, Any] = {"segmentation": segmentation, "tolerance": tolerance}
            if name in ("coco", "labelme"):
                chosen["with_images"] = "link"
            export(file, paths, Path(folder), name, ExportOptions(**chosen))
            try:
                overlaps = compare(read(Path(folder), file), file)
            except ImportError:
                continue
        row = [name, segmentation, f"{tool} {version(tool)}", f"{min(overlaps):.3f}"]
        print(f"| {' | '.join(row)} | {np.median(overlaps):.3f} |", flush=True)


def compare(read: Read, file: CocoFile) -> list[float]:
    """IoU of each mask of the file with what was read of all its parts; 0 if that is nothing."""
    true = {one.id: one for several in file.annotations.values() for one in several}
    found: dict[int, Mask] = defaultdict(lambda: np.zeros((), dtype=np.bool_))
    for number, mask in read:
        found[number] = found[number] | mask
    overlaps = []
    for number, one in true.items():
        mask = decode_mask(one.rle)
        overlaps.append(float((mask & found[number]).sum() / (mask | found[number]).sum()))
    return overlaps


if __name__ == "__main__":
    app()
