"""Small data sets in each real format: two images, three squares, the same in all of them."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

HEIGHT, WIDTH = 40, 60


class Square(NamedTuple):
    """A true object: its image, place in pixels and class."""

    image: str
    top: int
    left: int
    side: int
    label: str


SQUARES = (
    Square("000012", 4, 6, 10, "cat"),
    Square("000012", 20, 30, 15, "dog"),
    Square("000034", 0, 0, 20, "cat"),
)
IMAGES = ("000012", "000034")


def mask(square: Square) -> NDArray[np.bool_]:
    array = np.zeros((HEIGHT, WIDTH), dtype=np.bool_)
    array[square.top : square.top + square.side, square.left : square.left + square.side] = True
    return array


def put_image(path: Path, size: tuple[int, int] = (HEIGHT, WIDTH)) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    noise = np.random.default_rng(1).integers(0, 256, (*size, 3), dtype=np.uint8)
    Image.fromarray(noise).save(path)


def put_text(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")


def put_map(path: Path, array: NDArray[np.integer[Any]]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(array).save(path)


def squares_on(image: str) -> list[Square]:
    return [square for square in SQUARES if square.image == image]


def outline(square: Square) -> list[float]:
    left, top, right, bottom = (
        float(side)
        for side in (
            square.left,
            square.top,
            square.left + square.side,
            square.top + square.side,
        )
    )
    return [left, top, right, top, right, bottom, left, bottom]


def coco_content() -> dict[str, Any]:
    labels = {"cat": 17, "dog": 18}
    return {
        "info": {},
        "images": [
            {"id": int(name), "file_name": f"{name}.jpg", "height": HEIGHT, "width": WIDTH}
            for name in IMAGES
        ],
        "annotations": [
            {
                "id": number,
                "image_id": int(square.image),
                "category_id": labels[square.label],
                "segmentation": [outline(square)],
                "bbox": [square.left, square.top, square.side, square.side],
                "area": square.side**2,
                "iscrowd": 0,
            }
            for number, square in enumerate(SQUARES, start=1)
        ],
        "categories": [{"id": number, "name": name} for name, number in labels.items()],
    }


def make_coco(root: Path) -> None:
    """As COCO comes: a folder of images a split, and `annotations`."""
    for name in IMAGES:
        put_image(root / "val2017" / f"{name}.jpg")
    put_text(root / "annotations" / "instances_val2017.json", json.dumps(coco_content()))
    put_text(root / "annotations" / "captions_val2017.json", '{"images": [], "annotations": []}')


def make_lvis(root: Path) -> None:
    """As LVIS comes: images by their address alone, no crowds, classes that are surely absent."""
    content = coco_content()
    for image in content["images"]:
        image["coco_url"] = f"http://images.cocodataset.org/val2017/{image.pop('file_name')}"
        image |= {"neg_category_ids": [3], "not_exhaustive_category_ids": []}
    for annotation in content["annotations"]:
        del annotation["iscrowd"]
    for name in IMAGES:
        put_image(root / "val2017" / f"{name}.jpg")
    put_text(root / "annotations" / "lvis_v1_val.json", json.dumps(content))


def make_uvo(root: Path) -> None:
    """As UVO's frames come: one class, frames in folders of videos."""
    content = coco_content()
    for image in content["images"]:
        image["file_name"] = f"video/{image['file_name']}"
    for annotation in content["annotations"]:
        annotation["category_id"] = 1
    content["categories"] = [{"id": 1, "name": "object"}]
    for name in IMAGES:
        put_image(root / "video" / f"{name}.jpg")
    put_text(root / "UVO_frame_val.json", json.dumps(content))


def make_voc(root: Path) -> None:
    """As PASCAL VOC comes: boxes counted from 1, last pixel included; void borders of 255."""
    root = root / "VOCdevkit" / "VOC2012"
    for name in IMAGES:
        put_image(root / "JPEGImages" / f"{name}.jpg")
        objects = "".join(
            f"<object><name>{square.label}</name><difficult>{index % 2}</difficult>"
            f"<bndbox><xmin>{square.left + 1}</xmin><ymin>{square.top + 1}</ymin>"
            f"<xmax>{square.left + square.side}</xmax><ymax>{square.top + square.side}</ymax>"
            "</bndbox><part><name>head</name><bndbox><xmin>1</xmin></bndbox></part></object>"
            for index, square in enumerate(squares_on(name))
        )
        put_text(
            root / "Annotations" / f"{name}.xml",
            f"<annotation><filename>{name}.jpg</filename><size><width>{WIDTH}</width>"
            f"<height>{HEIGHT}</height><depth>3</depth></size>{objects}</annotation>",
        )
        numbers = np.zeros((HEIGHT, WIDTH), dtype=np.uint8)
        for number, square in enumerate(squares_on(name), start=1):
            numbers[mask(square)] = number
        numbers[-1, -1] = 255
        path = root / "SegmentationObject" / f"{name}.png"
        path.parent.mkdir(exist_ok=True)
        image = Image.fromarray(numbers).convert("P")
        image.putpalette([value for number in range(256) for value in (number, 0, 255 - number)])
        image.save(path)
    put_text(root / "ImageSets" / "Main" / "trainval.txt", "000012\n000034\n")
    put_text(root / "ImageSets" / "Main" / "val.txt", "000034\n")
    put_text(root / "ImageSets" / "Main" / "cat_val.txt", "000034  1\n")
    put_text(root / "ImageSets" / "Segmentation" / "val.txt", "000012\n")


def make_cityscapes(root: Path) -> None:
    """As Cityscapes comes: label ids, and 1000 times these plus a number for instances."""
    labels = {"cat": 24, "dog": 26}
    for name in IMAGES:
        stem = f"bonn_{name}_000019"
        put_image(root / "leftImg8bit" / "val" / "bonn" / f"{stem}_leftImg8bit.png")
        ids = np.full((HEIGHT, WIDTH), 7, dtype=np.uint16)  # Road.
        ids[35:, 50:] = 24  # A group of persons.
        for number, square in enumerate(squares_on(name)):
            ids[mask(square)] = 1000 * labels[square.label] + number
        put_map(root / "gtFine" / "val" / "bonn" / f"{stem}_gtFine_instanceIds.png", ids)


def make_yolo(root: Path) -> None:
    """As YOLO's segmentation sets come: an outline a line, as fractions."""
    labels = {"cat": 0, "dog": 1}
    for name in IMAGES:
        put_image(root / "images" / "val" / f"{name}.jpg")
        lines = [
            " ".join(
                [
                    str(labels[square.label]),
                    *(
                        f"{value / (HEIGHT if index % 2 else WIDTH):.6f}"
                        for index, value in enumerate(outline(square))
                    ),
                ]
            )
            for square in squares_on(name)
        ]
        put_text(root / "labels" / "val" / f"{name}.txt", "\n".join(lines) + "\n")
    put_text(root / "data.yaml", "path: /nowhere\nval: images/val\nnames: {0: cat, 1: dog}\n")


def make_label_maps(root: Path) -> None:
    """Images of a microscope and PNG files of 16 bits with a number a cell."""
    for name in IMAGES:
        put_image(root / "images" / f"{name}.jpg")
        numbers = np.zeros((HEIGHT, WIDTH), dtype=np.uint16)
        for number, square in enumerate(squares_on(name)):
            numbers[mask(square)] = 300 + number
        put_map(root / "masks" / f"{name}.png", numbers)


Maker = Callable[[Path], None]
MAKERS: dict[str, tuple[str, Maker]] = {
    # What it is, the name of its format, and who makes it.
    "coco": ("coco", make_coco),
    "lvis": ("coco", make_lvis),
    "uvo": ("coco", make_uvo),
    "voc": ("voc", make_voc),
    "cityscapes": ("cityscapes", make_cityscapes),
    "yolo": ("yolo", make_yolo),
    "label-maps": ("label-maps", make_label_maps),
}
SPLITS = {"voc": "trainval"}
"""Where there is more than one."""


class Made(NamedTuple):
    """A data set on disk."""

    kind: str
    format: str
    path: Path
    split: str | None


@pytest.fixture
def make(tmp_path: Path) -> Callable[[str], Made]:
    """Writes the data set of a kind to a folder `data`."""

    def make(kind: str) -> Made:
        name, maker = MAKERS[kind]
        maker(tmp_path / "data")
        return Made(kind, name, tmp_path / "data", SPLITS.get(kind))

    return make


@pytest.fixture(params=list(MAKERS))
def made(request: pytest.FixtureRequest, make: Callable[[str], Made]) -> Made:
    """The same objects in each format."""
    return make(request.param)
