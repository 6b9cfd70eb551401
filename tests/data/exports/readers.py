"""Reading formats back, as far as that needs none of the tools; written from their descriptions."""

from __future__ import annotations

import base64
import csv
import io
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import unquote

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw
from tests.data.exports.inputs import SIZE, Mask

from soloist.data.coco.read import load_coco
from soloist.data.coco.rle import decode_mask
from soloist.data.datasets.find import find_dataset


class Found(NamedTuple):
    """A mask that was read back; what the format does not hold is None."""

    mask: Mask
    label: str | None
    id: int | None
    score: float | None


Read = dict[str, list[Found]]
"""Masks by the names of their images, in the order of the format."""


def read_coco(folder: Path) -> Read:
    file = load_coco(folder / "annotations" / "instances_default.json")
    return {
        image.file_name: [
            Found(decode_mask(one.rle), file.categories[one.category_id], one.id, one.score)
            for one in file.annotations[image.id]
        ]
        for image in file.images
    }


def read_yolo(folder: Path) -> Read:
    dataset = find_dataset(folder, "yolo", "train")
    return {
        image.name: [
            Found(decode_mask(one.segmentation), dataset.categories[one.category_id], None, None)
            for one in dataset.objects(image)
        ]
        for image in dataset.images
    }


def read_geojson(folder: Path) -> Read:
    found: Read = {}
    for file in sorted(folder.rglob("*.geojson")):
        content = json.loads(file.read_text(encoding="utf-8"))
        assert content["type"] == "FeatureCollection"
        found[content["name"]] = []
        for feature in content["features"]:
            shape, properties = feature["geometry"], feature["properties"]
            several = shape["coordinates"]
            if shape["type"] == "Polygon":
                several = [several]
            mask = np.zeros(SIZE, dtype=np.bool_)
            for outer, *holes in several:
                assert outer[0] == outer[-1]
                filled, *missing = (
                    decode_mask([np.ravel(ring).tolist()], SIZE) for ring in (outer, *holes)
                )
                mask |= filled & ~np.any([np.zeros(SIZE, np.bool_), *missing], axis=0)
            found[content["name"]].append(
                Found(mask, properties["category"], feature["id"], properties.get("score"))
            )
    return found


def read_labelme(folder: Path) -> Read:
    found: Read = {}
    for file in sorted(folder.rglob("*.json")):
        content = json.loads(file.read_text(encoding="utf-8"))
        if "imagePath" not in content:
            continue
        assert content["imageData"] is None
        assert (content["imageHeight"], content["imageWidth"]) == SIZE
        path = (file.parent / content["imagePath"]).resolve()
        assert path.is_file()
        grouped: dict[int, list[dict[str, Any]]] = {}
        for shape in content["shapes"]:
            grouped.setdefault(shape["group_id"], []).append(shape)
        name = path.relative_to(next(one for one in path.parents if one.name == "photos"))
        found[name.as_posix()] = [
            Found(
                np.any([_labelme_mask(shape) for shape in shapes], axis=0),
                shapes[0]["label"],
                number,
                shapes[0]["score"],
            )
            for number, shapes in grouped.items()
        ]
    return found


def _labelme_mask(shape: dict[str, Any]) -> Mask:
    mask = np.zeros(SIZE, dtype=np.bool_)
    if shape["shape_type"] == "mask":
        (left, top), (right, bottom) = shape["points"]
        with Image.open(io.BytesIO(base64.b64decode(shape["mask"]))) as image:
            mask[top : bottom + 1, left : right + 1] = np.asarray(image).astype(np.bool_)
        return mask
    drawn = Image.new("1", SIZE[::-1])
    points = [(int(x), int(y)) for x, y in shape["points"]]
    ImageDraw.Draw(drawn).polygon(points, outline=1, fill=1)
    return np.asarray(drawn)


def read_label_studio(folder: Path) -> Read:
    found: Read = {}
    for task in json.loads((folder / "tasks.json").read_text(encoding="utf-8")):
        name = task["data"]["file_name"]
        assert unquote(task["data"]["image"]) == f"/data/local-files/?d={name}"
        (prediction,) = task["predictions"]
        grouped: dict[int, list[dict[str, Any]]] = {}
        for region in prediction["result"]:
            assert (region["original_height"], region["original_width"]) == SIZE
            grouped.setdefault(int(region["id"].split("-")[0]), []).append(region)
        found[name] = [
            Found(
                np.any([_region_mask(region["value"]) for region in regions], axis=0),
                regions[0]["value"][regions[0]["type"]][0],
                number,
                regions[0].get("score"),
            )
            for number, regions in grouped.items()
        ]
    return found


def _region_mask(value: dict[str, Any]) -> Mask:
    if "rle" in value:
        return decoded_brush(value["rle"]).reshape(*SIZE, 4)[:, :, 3] > 0
    points = np.array(value["points"]) * (SIZE[1] / 100, SIZE[0] / 100)
    return decode_mask([points.ravel().tolist()], SIZE)


def decoded_brush(numbers: list[int]) -> NDArray[np.uint8]:
    """Bit by bit: length, bits of a value, four sizes; then runs of one value, or of several."""
    bits = iter("".join(f"{number:08b}" for number in numbers))

    def take(count: int) -> int:
        return int("".join(next(bits) for _ in range(count)), 2)

    length, value_bits = take(32), take(5) + 1
    sizes = [take(4) + 1 for _ in range(4)]
    values: list[int] = []
    while len(values) < length:
        same = take(1)
        count = take(sizes[take(2)]) + 1
        values += [take(value_bits)] * count if same else [take(value_bits) for _ in range(count)]
    assert len(list(bits)) < 8
    return np.array(values, dtype=np.uint8)


def read_via(folder: Path) -> Read:
    content = json.loads((folder / "via_project.json").read_text(encoding="utf-8"))
    assert set(content["_via_attributes"]["region"]) >= {"class", "object"}
    found: Read = {}
    for key, entry in content["_via_img_metadata"].items():
        assert key == f"{entry['filename']}{entry['size']}"
        grouped: dict[int, list[dict[str, Any]]] = {}
        for region in entry["regions"]:
            assert region["shape_attributes"]["name"] == "polygon"
            grouped.setdefault(int(region["region_attributes"]["object"]), []).append(region)
        found[entry["filename"]] = [
            Found(
                np.any([_via_mask(region["shape_attributes"]) for region in regions], axis=0),
                regions[0]["region_attributes"]["class"],
                number,
                float(regions[0]["region_attributes"]["score"]),
            )
            for number, regions in grouped.items()
        ]
    return found


def _via_mask(shape: dict[str, Any]) -> Mask:
    points = np.stack([shape["all_points_x"], shape["all_points_y"]], axis=1)
    return decode_mask([points.ravel().tolist()], SIZE)


def read_label_maps(folder: Path) -> Read:
    with (folder / "objects.csv").open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    found: Read = {}
    for path in sorted((folder / "masks").rglob("*.png")):
        with Image.open(path) as image:
            assert image.mode == "I;16"
            numbers = np.asarray(image)
        name = path.relative_to(folder / "masks").with_suffix(".png").as_posix()
        found[name] = [
            Found(
                numbers == int(row["value"]),
                row["class"],
                int(row["id"]),
                float(row["score"]) if row["score"] else None,
            )
            for row in rows
            if row["image"] == name
        ]
    return found


READERS: dict[str, Callable[[Path], Read]] = {
    "coco": read_coco,
    "yolo": read_yolo,
    "geojson": read_geojson,
    "labelme": read_labelme,
    "label-studio": read_label_studio,
    "via": read_via,
    "label-maps": read_label_maps,
}


def pairs(found: Read, wanted: Read) -> Iterator[tuple[Found, Found]]:
    """The masks of all images side by side; there must be as many."""
    assert found.keys() == wanted.keys()
    for name in wanted:
        yield from zip(found[name], wanted[name], strict=True)
