from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from pycocotools.coco import COCO

from soloist.data import scene_shapes, scene_textures
from soloist.data.scenes import make_scene, write_scenes

SIZES = {(213, 320), (320, 240), (256, 320), (320, 320), (320, 256), (240, 320)}


def test_equal_arguments_give_equal_scenes_in_any_order() -> None:
    first = [make_scene(index, seed=3) for index in (0, 1, 2)]
    again = [make_scene(index, seed=3) for index in (2, 0, 1)]
    for scene, other in zip(first, (again[1], again[2], again[0]), strict=True):
        np.testing.assert_array_equal(scene.image, other.image)
        np.testing.assert_array_equal(scene.masks, other.masks)


def test_index_seed_and_split_each_change_the_scene() -> None:
    scenes = [make_scene(0), make_scene(1), make_scene(0, seed=1), make_scene(0, split="val")]
    assert len({scene.image.tobytes() for scene in scenes}) == len(scenes)


def test_masks_are_disjoint_visible_and_fit_the_image() -> None:
    for index in range(12):
        scene = make_scene(index)
        assert scene.image.dtype == np.uint8
        assert scene.image.shape[:2] in SIZES
        assert scene.masks.dtype == np.bool_
        assert scene.masks.shape[1:] == scene.image.shape[:2]
        assert 1 <= len(scene.masks) <= 5
        assert scene.masks.sum(axis=0).max() == 1
        assert scene.masks.sum(axis=(1, 2)).min() >= 100


@pytest.mark.slow
def test_all_six_formats_occur() -> None:
    assert {make_scene(index, max_objects=1).image.shape[:2] for index in range(40)} == SIZES


@pytest.mark.parametrize("long_side", [64, 160, 448])
def test_long_side_scales_the_image(long_side: int) -> None:
    for index in range(3):
        scene = make_scene(index, long_side=long_side, max_objects=2)
        assert max(scene.image.shape[:2]) == long_side
        assert 1 <= len(scene.masks) <= 2


def test_objects_differ_from_their_surroundings() -> None:
    distances = []
    for index in range(10):
        scene = make_scene(index, max_objects=1)
        inside = scene.image[scene.masks[0]].mean(axis=0)
        outside = scene.image[~scene.masks[0]].mean(axis=0)
        distances.append(float(np.linalg.norm(inside - outside)))
    assert np.median(distances) > 30


@pytest.mark.parametrize("name", scene_textures.available(scene_textures.OBJECT_PHOTOS))
def test_splits_divide_each_photo(name: str) -> None:
    train, val = (scene_textures.photo_box(name, split) for split in ("train", "val"))
    axis = 0 if train[2] == val[0] else 1
    assert train[axis + 2] == val[axis]
    assert train[axis] == 0
    assert train[1 - axis] == val[1 - axis] == 0
    assert train[3 - axis] == val[3 - axis]


@pytest.mark.parametrize(
    ("index", "seed", "long_side", "max_objects"),
    [
        pytest.param(-1, 0, 320, 5, id="negative-index"),
        pytest.param(0, -1, 320, 5, id="negative-seed"),
        pytest.param(0, 0, 63, 5, id="small-side"),
        pytest.param(0, 0, 320, 0, id="no-objects"),
    ],
)
def test_arguments_out_of_range_are_refused(
    index: int, seed: int, long_side: int, max_objects: int
) -> None:
    with pytest.raises(ValueError, match="wanted long_side >= 64"):
        make_scene(index, seed=seed, long_side=long_side, max_objects=max_objects)


def test_unknown_split_is_refused() -> None:
    with pytest.raises(ValueError, match="split must be one of"):
        make_scene(0, split="test")  # type: ignore[arg-type]  # the wrong value is the case


@pytest.mark.parametrize("kind", scene_shapes.KINDS)
def test_outlines_have_the_wanted_area_centre_and_radius(kind: scene_shapes.Kind) -> None:
    for seed in range(5):
        shape = scene_shapes.draw_shape(np.random.default_rng(seed), kind)
        line = np.arange(200, dtype=np.float32)
        inside = scene_shapes.distance_inside(shape, line, line, (100.0, 100.0), 50.0) > 0
        rows, columns = np.nonzero(inside)
        assert inside.sum() == pytest.approx(2500, rel=0.1)
        assert (rows.mean(), columns.mean()) == pytest.approx((100.0, 100.0), abs=1.5)
        assert np.hypot(rows - 100.0, columns - 100.0).max() <= shape.radius * 50.0 + 1.5


def test_distance_is_in_pixels() -> None:
    shape = scene_shapes.Shape(field=lambda x, y: 0.5 - np.hypot(x, y), radius=0.5)
    line = np.arange(101, dtype=np.float32)
    distance = scene_shapes.distance_inside(shape, line, line, (50.0, 50.0), 80.0)
    np.testing.assert_allclose(distance[50, [5, 10, 20]], [-5.0, 0.0, 10.0], atol=0.05)


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_scenes(tmp_path_factory.mktemp("scenes"), 4, seed=5, split="val", long_side=160)


def test_pycocotools_reads_the_same_masks_areas_and_boxes(written: Path) -> None:
    coco = COCO(written)
    assert sorted(coco.imgs) == [1, 2, 3, 4]
    assert coco.dataset["categories"] == [{"id": 1, "name": "object"}]
    for image_id in coco.imgs:
        scene = make_scene(image_id - 1, seed=5, split="val", long_side=160)
        annotations = coco.loadAnns(coco.getAnnIds(imgIds=image_id))
        assert len(annotations) == len(scene.masks)
        for annotation, mask in zip(annotations, scene.masks, strict=True):
            np.testing.assert_array_equal(coco.annToMask(annotation), mask)
            rows, columns = np.nonzero(mask)
            left, top = int(columns.min()), int(rows.min())
            width, height = int(columns.max()) + 1 - left, int(rows.max()) + 1 - top
            assert annotation["bbox"] == [left, top, width, height]
            assert annotation["area"] == int(mask.sum())
            assert annotation["iscrowd"] == 0
            assert annotation["category_id"] == 1


def test_written_images_are_close_to_the_scenes(written: Path) -> None:
    for entry in json.loads(written.read_text(encoding="utf-8"))["images"]:
        scene = make_scene(entry["id"] - 1, seed=5, split="val", long_side=160)
        with Image.open(written.parent / "images" / entry["file_name"]) as file:
            pixels = np.asarray(file, dtype=np.float32)
        assert pixels.shape == (entry["height"], entry["width"], 3)
        assert np.abs(pixels - scene.image).mean() < 4


def test_only_images_and_annotations_are_left(written: Path) -> None:
    assert sorted(path.name for path in written.parent.iterdir()) == ["annotations.json", "images"]
    names = sorted(path.name for path in (written.parent / "images").iterdir())
    assert names == ["000001.jpg", "000002.jpg", "000003.jpg", "000004.jpg"]


def test_no_scenes_is_an_empty_set(tmp_path: Path) -> None:
    document = json.loads(write_scenes(tmp_path / "none", 0).read_text(encoding="utf-8"))
    assert document["images"] == document["annotations"] == []


def test_progress_counts_written_scenes(tmp_path: Path) -> None:
    counts: list[int] = []
    report: Callable[[int], None] = counts.append
    write_scenes(tmp_path, 2, long_side=64, progress=report)
    assert counts == [1, 2]
