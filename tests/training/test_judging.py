from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from soloist.data.coco.rle import encode_masks
from soloist.data.coco.types import CocoAnnotation, CocoFile, CocoImage
from soloist.data.sources import find_images
from soloist.training.judging import example_of, judge_of

SIZE = (96, 128)
SQUARE = (slice(20, 60), slice(30, 80))


def image_of(color: tuple[int, int, int]) -> np.ndarray[tuple[int, ...], np.dtype[np.uint8]]:
    pixels = np.full((*SIZE, 3), 110, dtype=np.int64)
    pixels[SQUARE] = color
    pixels += np.random.default_rng(1).integers(-3, 4, pixels.shape)
    return pixels.clip(0, 255).astype(np.uint8)


def annotation() -> CocoAnnotation:
    mask = np.zeros((1, *SIZE), dtype=bool)
    mask[0][SQUARE] = True
    (rle,) = encode_masks(mask)
    return CocoAnnotation(1, rle, (30.0, 20.0, 50.0, 40.0), 2000.0, 1.0, 1, False, 0, 1)


def test_an_object_is_among_the_candidates_of_its_image() -> None:
    example = example_of(image_of((220, 40, 40)), [annotation()])
    assert example.overlaps.max() > 0.9
    assert len(example.described) == len(example.prior) == len(example.overlaps)


def test_without_objects_nothing_overlaps() -> None:
    example = example_of(image_of((220, 40, 40)), [])
    assert len(example.overlaps) > 0
    assert (example.overlaps == 0).all()


def test_images_of_one_colour_teach_nothing(tmp_path: Path) -> None:
    Image.new("RGB", (40, 30), (9, 9, 9)).save(tmp_path / "a.png")
    images = find_images(tmp_path)
    labels = CocoFile(tmp_path / "labels.json", (CocoImage(1, "a.png", 30, 40),), {1: ()}, {}, None)
    assert judge_of(images, labels, seed=0) is None


def test_an_unreadable_image_is_left_out(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    Image.fromarray(image_of((30, 200, 30))).save(tmp_path / "a.png")
    (tmp_path / "b.png").write_bytes(b"nothing")
    images = find_images(tmp_path)
    records = (CocoImage(1, "a.png", *SIZE), CocoImage(2, "b.png", *SIZE))
    labels = CocoFile(tmp_path / "labels.json", records, {1: (annotation(),), 2: ()}, {}, None)
    assert judge_of(images, labels, seed=0) is not None
    assert "left out: 'b.png'" in caplog.text
