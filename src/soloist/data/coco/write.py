"""Writing COCO files and the sidecar of their embeddings."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from types import MappingProxyType, SimpleNamespace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from soloist.data.coco.encoded import EncodedMasks
from soloist.data.coco.rle import encode_masks, mask_area, mask_box_xywh
from soloist.data.coco.types import CATEGORIES, NO_CLASS, CocoAnnotation, CocoFile, CocoImage
from soloist.runtime.files import atomic_path
from soloist.structures import STORED, Instances

_SCORE_DIGITS = 6  # More than float32 scores mean; keeps files small.


@dataclass(frozen=True)
class EmbeddingBlocks:
    """Embeddings that are not in memory all at once.

    Attributes:
        shape: (A, E) of all blocks together.
        blocks: (n, E) float32 each, in the order of the annotations.
    """

    shape: tuple[int, int]
    blocks: Iterable[NDArray[np.float32]]


def instances_to_annotations(
    instances: Instances[Any, Any],
    image_id: int,
    first_id: int,
    categories: Mapping[int, str] = CATEGORIES,
) -> list[dict[str, Any]]:
    """The objects of one image as entries of COCO's `annotations`.

    Args:
        instances: N objects.
        image_id: The image's id.
        first_id: Id of the first annotation; the others count up.
        categories: Names by id; label k is the k-th of them. The one category is that of all.

    Returns:
        N dicts ready for JSON; `bbox` is tight around the mask, `area` counts its pixels.
    """
    scores = instances.scores.tolist()
    outputs = {
        one.key: _written(values.tolist(), one.digits)
        for name, one in STORED.items()
        if (values := getattr(instances, name)) is not None
    }
    # The last, so that `NO_LABEL` chooses it.
    ids = [*categories, NO_CLASS]
    masks = instances.masks
    rles = masks.rles if isinstance(masks, EncodedMasks) else encode_masks(masks)
    # Of a network whose classes have no names the file tells none.
    labels = [0] * len(scores)
    if instances.labels is not None and len(categories) > 1:
        labels = instances.labels.tolist()
    return [
        annotation_entry(
            first_id + row,
            image_id,
            rle,
            area=mask_area(rle),
            box_xywh=mask_box_xywh(rle),
            score=round(score, _SCORE_DIGITS),
            category_id=ids[label],
            outputs={key: values[row] for key, values in outputs.items()},
        )
        for row, (rle, score, label) in enumerate(zip(rles, scores, labels, strict=True))
    ]


def annotation_records(
    annotations: Iterable[CocoAnnotation], first_id: int = 1
) -> list[dict[str, Any]]:
    """Annotations that were loaded as entries for `write_coco`, for instance after a filter.

    Args:
        annotations: N of them.
        first_id: Id of the first; the others count up.

    Returns:
        N dicts ready for JSON.
    """
    return [
        annotation_entry(
            first_id + row,
            annotation.image_id,
            annotation.rle,
            area=annotation.area,
            box_xywh=annotation.box_xywh,
            score=annotation.score,
            category_id=annotation.category_id,
            iscrowd=annotation.iscrowd,
            outputs=annotation.outputs,
        )
        for row, annotation in enumerate(annotations)
    ]


def annotation_entry(
    number: int,
    image_id: int,
    segmentation: Mapping[str, Any],
    *,
    area: float,
    box_xywh: Iterable[float],
    score: float,
    category_id: int = 1,
    iscrowd: bool = False,
    outputs: Mapping[str, Any] = MappingProxyType({}),
) -> dict[str, Any]:
    """One entry of COCO's `annotations`, ready for JSON; arguments as in `CocoAnnotation`."""
    return {
        "id": number,
        "image_id": image_id,
        "category_id": category_id,
        "segmentation": segmentation,
        "area": area,
        "bbox": list(box_xywh),
        "score": score,
        "iscrowd": int(iscrowd),
        **outputs,
    }


def write_coco(
    path: str | Path,
    images: Iterable[CocoImage],
    annotations: Iterable[Mapping[str, Any]],
    *,
    info: Mapping[str, Any] | None = None,
    embeddings: NDArray[np.floating] | EmbeddingBlocks | None = None,
    categories: Mapping[int, str] = CATEGORIES,
) -> None:
    """Writes a COCO file and the sidecar of its embeddings, whole or not at all.

    Entries are written one by one, so generators keep the memory flat.

    Args:
        path: The JSON file; the sidecar is `FILE.embeddings.npy` beside it, named by the
            key `embeddings` of `info`.
        images: Entries of `images`.
        annotations: A entries of `annotations`, as from `instances_to_annotations`.
        info: Further keys of `info`.
        embeddings: (A, E) float16 or float32, row k for the k-th annotation, or blocks of them.
        categories: Names by id.

    Raises:
        RunError: If a file cannot be written.
        ValueError: If embeddings has another number of rows, or a number is not finite.
    """
    path = Path(path)
    sidecar = embeddings_path(path)
    info = {**(info or {})}
    if embeddings is not None:
        info["embeddings"] = sidecar.name
    named = [{"id": key, "name": name} for key, name in categories.items()]
    # The JSON file appears last: its presence says that both are whole.
    with atomic_path(path) as json_part, atomic_path(sidecar) as sidecar_part:
        with json_part.open("w", encoding="utf-8", newline="\n") as file:
            file.write(f'{{"info": {_dump(info)},\n"categories": {_dump(named)},\n"images": [')
            records = (
                {key: value for key, value in asdict(image).items() if value is not None}
                for image in images
            )
            for index, record in enumerate(records):
                file.write(f"{',' if index else ''}\n{_dump(record)}")
            file.write('],\n"annotations": [')
            count = 0
            for annotation in annotations:
                file.write(f"{',' if count else ''}\n{_dump(annotation)}")
                count += 1
            file.write("]}\n")
        if embeddings is not None:
            if len(embeddings.shape) != 2 or embeddings.shape[0] != count:
                raise ValueError(f"embeddings must be ({count}, E), got {embeddings.shape}")
            if isinstance(embeddings, EmbeddingBlocks):
                _save_blocks(sidecar_part, embeddings)
            else:
                _save(sidecar_part, embeddings)


def _save(path: Path, embeddings: NDArray[np.floating]) -> None:
    with path.open("wb") as file:
        # Given a real file, numpy writes by itself and says nothing of a full disk.
        np.lib.format.write_array(SimpleNamespace(write=file.write), embeddings, allow_pickle=False)


def _save_blocks(path: Path, embeddings: EmbeddingBlocks) -> None:
    """What `np.save` would write, block by block."""
    rows = 0
    with path.open("wb") as file:
        header = {"descr": "<f4", "fortran_order": False, "shape": embeddings.shape}
        np.lib.format.write_array_header_1_0(file, header)
        for block in embeddings.blocks:
            file.write(np.ascontiguousarray(block, dtype="<f4").data)
            rows += len(block)
    if rows != embeddings.shape[0]:
        raise ValueError(f"embeddings must be {embeddings.shape}, got {rows} rows")


def write_categories(
    source: CocoFile,
    path: str | Path,
    category_ids: Sequence[int],
    categories: Mapping[int, str],
    *,
    info: Mapping[str, Any],
) -> None:
    """Writes a COCO file once more with other categories; all else in it stays.

    Args:
        source: The file, no bare result list.
        path: The new JSON file; embeddings are copied beside it.
        category_ids: A ids, in the order of the source's annotations.
        categories: Names by id.
        info: Further keys of `info`.

    Raises:
        RunError: If a file cannot be written.
    """
    path = Path(path)
    sidecar = embeddings_path(path)
    # Read again: what is loaded leaves out the keys that Soloist does not use.
    content = json.loads(source.path.read_text(encoding="utf-8-sig"))
    content["info"] = {**source.info, **info}
    content["info"].pop("embeddings", None)
    if source.embeddings is not None:
        content["info"]["embeddings"] = sidecar.name
    content["categories"] = [{"id": key, "name": name} for key, name in categories.items()]
    for annotation, category_id in zip(content["annotations"], category_ids, strict=True):
        annotation["category_id"] = category_id
    with atomic_path(path) as json_part, atomic_path(sidecar) as sidecar_part:
        json_part.write_text(_dump(content) + "\n", encoding="utf-8", newline="\n")
        if source.embeddings is not None:
            _save(sidecar_part, source.embeddings)


def embeddings_path(path: Path) -> Path:
    """The file of embeddings beside a COCO file."""
    return path.with_name(f"{path.stem}.embeddings.npy")


def _written(rows: list[Any], digits: int | None) -> list[Any]:
    """The rows of an output as files have them; see `structures.Stored`."""
    if digits is None:
        return rows
    return [[round(value, digits) for value in row] for row in rows]


def _dump(obj: Any) -> str:
    return json.dumps(obj, allow_nan=False)
