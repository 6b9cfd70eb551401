"""COCO's matching and accumulation, by pycocotools or by a faster library that equals it."""

from __future__ import annotations

import contextlib
import importlib.metadata
import importlib.util
import io
import logging
from collections.abc import Mapping, Sequence
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from soloist.data.coco.rle import mask_area
from soloist.data.coco.types import CocoAnnotation, CocoFile
from soloist.errors import ConfigError, near_names

logger = logging.getLogger(__name__)

Backend = Literal["pycocotools", "faster-coco-eval"]
IouType = Literal["segm", "bbox"]

REFERENCE: Backend = "pycocotools"
FASTER: Backend = "faster-coco-eval"


def choose_backend(name: str) -> Backend:
    """The library that does the matching.

    Args:
        name: `pycocotools`, `faster-coco-eval`, or `auto`: the faster one where it is installed.

    Raises:
        ConfigError: If there is no such library, or it is not installed.
    """
    installed = importlib.util.find_spec("faster_coco_eval") is not None
    if name == "auto":
        return FASTER if installed else REFERENCE
    if name == REFERENCE:
        return REFERENCE
    if name != FASTER:
        names = ("auto", REFERENCE, FASTER)
        raise ConfigError(f"no backend named {name!r}; {near_names(name, names)}")
    if not installed:
        raise ConfigError(
            "wanted the backend faster-coco-eval, which is not installed; "
            "pip install '.[fast]', or use --backend pycocotools"
        )
    return FASTER


def backend_version(backend: Backend) -> str:
    """Name and version, as reports state them."""
    return f"{backend} {importlib.metadata.version(backend)}"


def accumulate(
    predicted: CocoFile,
    truth: CocoFile,
    true_ids: Mapping[int, int],
    iou_type: IouType,
    max_dets: Sequence[int],
    backend: Backend = REFERENCE,
    *,
    classes: bool = False,
) -> dict[str, NDArray[np.float64]]:
    """Precision and recall, of each class or with all taken as one (`useCats` 1 or 0).

    Args:
        predicted: The predictions.
        truth: The ground truth.
        true_ids: Ids of the ground truth's images by those of the predictions.
        iou_type: What is compared: masks or boxes.
        max_dets: M numbers of predictions an image that count, rising; by class, of each class.
        backend: Who does it.
        classes: Each of the K classes of the true objects by itself; else K is 1.

    Returns:
        `precision` (10 IoUs, 101 recalls, K, 4 sizes, M) and `recall` (10 IoUs, K, 4 sizes, M)
        in [0, 1]; -1 where there is no object.
    """
    masked = iou_type == "segm"
    # Libraries take ids for floats, 64-bit integers or false values: each gets numbers from 1.
    images = {image.id: number for number, image in enumerate(truth.images, start=1)}
    keys = {one.category_id for ones in truth.annotations.values() for one in ones}
    category_ids = {key: number for number, key in enumerate(sorted(keys), start=1)}
    true_records = [
        _record(annotation, images[image.id], annotation.area, masked)
        | {"category_id": category_ids[annotation.category_id] if classes else 1}
        for image in truth.images
        for annotation in truth.annotations[image.id]
    ]
    records = []
    for image_id, true_id in true_ids.items():
        for annotation in predicted.annotations[image_id]:
            if classes and annotation.category_id not in category_ids:
                continue
            box_area = annotation.box_xywh[2] * annotation.box_xywh[3]
            area = mask_area(annotation.rle) if masked else box_area
            record = _record(annotation, images[true_id], area, masked)
            own = category_ids[annotation.category_id] if classes else 1
            records.append(record | {"category_id": own, "iscrowd": 0})
    ids = list(category_ids.values()) if classes else [1]
    sizes = [(images[one.id], one.height, one.width) for one in truth.images]
    files = [_dataset(sizes, ids, entries) for entries in (true_records, records)]
    evaluation = _faster(files, iou_type) if backend == FASTER else _reference(files, iou_type)
    evaluation.params.useCats = int(classes)
    evaluation.params.maxDets = list(max_dets)
    with contextlib.redirect_stdout(io.StringIO()):  # pycocotools prints its progress.
        evaluation.evaluate()
        evaluation.accumulate()
    return {name: np.asarray(evaluation.eval[name]) for name in ("precision", "recall")}


def _reference(files: Sequence[dict[str, Any]], iou_type: IouType) -> Any:
    indexed = []
    with contextlib.redirect_stdout(io.StringIO()):  # It prints its progress.
        for file in files:
            coco = COCO()
            coco.dataset = file
            coco.createIndex()
            indexed.append(coco)
    return COCOeval(*indexed, iouType=iou_type)


def _faster(files: Sequence[dict[str, Any]], iou_type: IouType) -> Any:
    from faster_coco_eval import COCO as FasterCOCO
    from faster_coco_eval import COCOeval_faster

    indexed = [FasterCOCO(file) for file in files]
    return COCOeval_faster(*indexed, iouType=iou_type, print_function=logger.debug)


def _dataset(
    images: Sequence[tuple[int, int, int]],
    categories: Sequence[int],
    records: Sequence[dict[str, Any]],
) -> dict[str, Any]:
    return {
        "images": [{"id": key, "height": height, "width": width} for key, height, width in images],
        "categories": [{"id": key, "name": str(key)} for key in categories],
        "annotations": [{**record, "id": index} for index, record in enumerate(records, start=1)],
    }


def _record(
    annotation: CocoAnnotation, image_number: int, area: float, masked: bool
) -> dict[str, Any]:
    record = {
        "image_id": image_number,
        "bbox": list(annotation.box_xywh),
        "area": area,
        "score": annotation.score,
        "iscrowd": int(annotation.iscrowd),
    }
    return record | ({"segmentation": annotation.rle} if masked else {})
