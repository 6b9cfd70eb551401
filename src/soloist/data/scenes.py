"""Generated photographic scenes with exact masks, for the demo and for pretraining.

Objects with random outlines are cut from the photographs that ship inside scikit-image, recoloured,
shaded and laid over a crop of another of these photographs. Nothing is downloaded, and a scene is
a function of its seed, split and index alone. The two splits cut from disjoint parts of each photo.
"""

from __future__ import annotations

import json
import math
import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from pycocotools import mask as coco_mask

from soloist.data import scene_shapes, scene_textures
from soloist.data.scene_shapes import KINDS, Floats, Kind, Shape
from soloist.data.scene_textures import Split

_SPLIT_NUMBERS: dict[Split, int] = {"train": 0, "val": 1}

_RELATIVE_SIZES = ((213, 320), (320, 240), (256, 320), (320, 320), (320, 256), (240, 320))
"""(height, width) of the six formats, for a long side of 320."""

_OBJECT_SIDES = (24.0, 65.0, 170.0)
"""Smallest, median and largest square root of an object's area, for a long side of 320."""

_MIN_VISIBLE_AREA = 100
_MIN_VISIBLE_FRACTION = 0.3
_MIN_INSIDE_FRACTION = 0.55
"""Of an object's whole area, how much at least lies within the image."""

_MAX_REPAINTS = 4
_MIN_CONTRAST = 0.17
"""Wanted distance of mean colours, of an object and what it covers, RGB in [0, 1]."""


@dataclass(frozen=True)
class Scene:
    """One image and the visible part of each of its objects.

    Attributes:
        image: (H, W, 3) uint8, RGB.
        masks: (N, H, W) bool, disjoint; the front-most object is last.
    """

    image: NDArray[np.uint8]
    masks: NDArray[np.bool_]


@dataclass(frozen=True)
class _Placement:
    """Where an object lies: its window of the image and the distance field in it."""

    kind: Kind
    window: tuple[slice, slice]
    distance: Floats
    side: float

    @property
    def inside(self) -> NDArray[np.bool_]:
        """(h, w) of the window."""
        return self.distance > 0


def make_scene(
    index: int,
    *,
    seed: int = 0,
    split: Split = "train",
    long_side: int = 320,
    max_objects: int = 5,
) -> Scene:
    """Make one scene; equal arguments give equal scenes, whatever was made before.

    Args:
        index: Number of the scene, at least 0.
        seed: Number of the whole set, at least 0.
        split: Which parts of the photographs to cut from.
        long_side: Longer side of the image in pixels, at least 64.
        max_objects: The scene has 1 to this many objects.

    Returns:
        The scene.

    Raises:
        ValueError: If an argument is out of its range.
    """
    if split not in _SPLIT_NUMBERS:
        raise ValueError(f"split must be one of {sorted(_SPLIT_NUMBERS)}, got {split!r}")
    if long_side < 64 or max_objects < 1 or index < 0 or seed < 0:
        raise ValueError(
            "wanted long_side >= 64, max_objects >= 1, index >= 0 and seed >= 0, got "
            f"long_side={long_side}, max_objects={max_objects}, index={index}, seed={seed}"
        )
    rng = np.random.default_rng([seed, _SPLIT_NUMBERS[split], index])
    relative = _RELATIVE_SIZES[rng.integers(len(_RELATIVE_SIZES))]
    height, width = (round(side * long_side / 320) for side in relative)
    behind = scene_textures.available(scene_textures.BACKGROUND_PHOTOS)
    upper, lower = rng.permutation(len(behind))[:2]
    backgrounds = (behind[upper], behind[lower])
    canvas = scene_textures.background(rng, split, backgrounds, (height, width))
    placements, masks = _place_objects(rng, (height, width), max_objects, long_side / 320)
    photos = scene_textures.available(scene_textures.OBJECT_PHOTOS)
    photos = tuple(name for name in photos if name not in backgrounds)
    for placement in placements:
        _paint(rng, split, canvas, placement, photos)
    return Scene(image=_develop(rng, canvas), masks=masks)


def write_scenes(
    folder: Path,
    count: int,
    *,
    seed: int = 0,
    split: Split = "train",
    long_side: int = 320,
    progress: Callable[[int], None] | None = None,
) -> Path:
    """Write scenes as JPEG files with COCO annotations.

    Args:
        folder: Receives `images/000001.jpg` and on, and `annotations.json`.
        count: Number of scenes, 0 allowed.
        seed: Number of the whole set.
        split: Which parts of the photographs to cut from.
        long_side: Longer side of each image in pixels.
        progress: Called after each scene with the number of scenes written so far.

    Returns:
        Path of `annotations.json`.
    """
    (folder / "images").mkdir(parents=True, exist_ok=True)
    images: list[dict[str, object]] = []
    annotations: list[dict[str, object]] = []
    for index in range(count):
        scene = make_scene(index, seed=seed, split=split, long_side=long_side)
        image_id, name = index + 1, f"{index + 1:06d}.jpg"
        Image.fromarray(scene.image).save(folder / "images" / name, quality=92, subsampling=0)
        height, width = scene.image.shape[:2]
        images.append({"id": image_id, "file_name": name, "height": height, "width": width})
        for rle in coco_mask.encode(np.asfortranarray(scene.masks.transpose(1, 2, 0), np.uint8)):
            annotations.append(
                {
                    "id": len(annotations) + 1,
                    "image_id": image_id,
                    "category_id": 1,
                    "segmentation": {"size": rle["size"], "counts": rle["counts"].decode("ascii")},
                    "area": int(coco_mask.area(rle)),
                    "bbox": [int(value) for value in coco_mask.toBbox(rle)],
                    "iscrowd": 0,
                }
            )
        if progress is not None:
            progress(index + 1)
    document = {
        "info": {"description": "Soloist generated scenes", "seed": seed, "split": split},
        "images": images,
        "annotations": annotations,
        "categories": [{"id": 1, "name": "object"}],
    }
    path = folder / "annotations.json"
    partial = path.with_suffix(".json.partial")
    partial.write_text(json.dumps(document), encoding="utf-8")
    os.replace(partial, path)
    return path


def _place_objects(
    rng: np.random.Generator, size: tuple[int, int], max_objects: int, scale: float
) -> tuple[list[_Placement], NDArray[np.bool_]]:
    """Choose outlines and positions from back to front.

    A position that hides too much of an earlier object is drawn anew; after a few the object is
    left out.

    Returns:
        The placements and their (N, H, W) bool visible masks.
    """
    placements: list[_Placement] = []
    owner = np.full(size, -1, dtype=np.int64)
    areas: list[int] = []
    smallest, median, largest = _OBJECT_SIDES
    for _ in range(int(rng.integers(1, max_objects + 1))):
        kind = KINDS[rng.integers(len(KINDS))]
        shape = scene_shapes.draw_shape(rng, kind)
        drawn = np.clip(median * np.exp(rng.normal(0.0, 0.5)), smallest, largest) * scale
        side = float(max(min(drawn, 0.5 * max(size) / shape.radius), 16.0))
        for attempt in range(8):
            centre = (rng.uniform(0.06, 0.94) * size[0], rng.uniform(0.06, 0.94) * size[1])
            if not placements and attempt == 7:
                centre = (size[0] / 2, size[1] / 2)
            placement = _placement(kind, shape, centre, side, size)
            area = int(placement.inside.sum())
            if area < _MIN_INSIDE_FRACTION * side**2:
                continue
            candidate = owner.copy()
            candidate[placement.window][placement.inside] = len(placements)
            visible = np.bincount(candidate.ravel() + 1, minlength=len(placements) + 2)[1:]
            floors = np.maximum(
                np.array([*areas, area]) * _MIN_VISIBLE_FRACTION, float(_MIN_VISIBLE_AREA)
            )
            if np.all(visible >= floors):
                owner = candidate
                placements.append(placement)
                areas.append(area)
                break
    return placements, owner == np.arange(len(placements))[:, None, None]


def _placement(
    kind: Kind, shape: Shape, centre: tuple[float, float], side: float, size: tuple[int, int]
) -> _Placement:
    # The window leaves room for a shadow.
    reach = shape.radius * side + 6.0 + 0.2 * side
    bounds = [
        (max(int(middle - reach), 0), min(int(middle + reach) + 1, limit))
        for middle, limit in zip(centre, size, strict=True)
    ]
    rows, columns = (np.arange(start, stop, dtype=np.float32) for start, stop in bounds)
    return _Placement(
        kind=kind,
        window=(slice(*bounds[0]), slice(*bounds[1])),
        distance=scene_shapes.distance_inside(shape, rows, columns, centre, side),
        side=side,
    )


def _surface(rng: np.random.Generator, split: Split, name: str, placement: _Placement) -> Floats:
    """(h, w, 3) float32: the look of an object over its window, before shading."""
    height, width = placement.distance.shape
    photo = scene_textures.crop(rng, name, split, (height, width), (0.3, 1.0))
    if placement.kind.surface == "photo":
        pixels = scene_textures.recolour(rng, photo, math.pi, (0.4, 1.4))
    else:
        plain = placement.kind.surface == "plain"
        depth = rng.uniform(0.05, 0.25) if plain else rng.uniform(0.5, 1.1)
        pixels = scene_textures.duotone(rng, photo, (0.1, 0.9), depth)
    if rng.random() < placement.kind.two_tone:
        # A band or a cap of another colour: objects have parts.
        along = _ramp(rng.uniform(0.0, 2.0 * math.pi), (height, width))
        along = along - rng.uniform(-0.3, 0.3) * placement.side
        if rng.random() < 0.6:
            along = rng.uniform(0.12, 0.3) * placement.side - np.abs(along)
        part = np.clip(along + 0.5, 0.0, 1.0)[..., None]
        pixels = pixels + part * (scene_textures.duotone(rng, photo, (0.1, 0.8), 0.3) - pixels)
    return pixels


def _ramp(angle: float, size: tuple[int, ...]) -> Floats:
    """(H, W) float32 pixels from the middle of the window, counted along a direction."""
    rows, columns = (np.arange(side, dtype=np.float32) - side / 2 for side in size)
    return math.cos(angle) * columns + math.sin(angle) * rows[:, None]


def _paint(
    rng: np.random.Generator,
    split: Split,
    canvas: Floats,
    placement: _Placement,
    photos: tuple[str, ...],
) -> None:
    """Lay one object over the (H, W, 3) canvas, in place."""
    name = photos[rng.integers(len(photos))]
    covered = canvas[placement.window]
    some = placement.inside[::3, ::3]
    behind = covered[::3, ::3][some].mean(axis=0)
    for _ in range(_MAX_REPAINTS):
        pixels = _surface(rng, split, name, placement)
        mean = np.clip(pixels[::3, ::3][some], 0.0, 1.0).mean(axis=0)
        if np.linalg.norm(mean - behind) >= _MIN_CONTRAST:
            break
    alpha = np.clip(placement.distance / 1.2 + 0.5, 0.0, 1.0)
    angle = rng.uniform(0.0, 2.0 * math.pi)
    lit = _light(rng, pixels, placement, angle)
    if rng.random() < 0.6:
        shadow = _shadow(rng, alpha, placement.side, angle)
        covered *= 1.0 - rng.uniform(0.25, 0.6) * shadow[..., None]
    covered += alpha[..., None] * (lit - covered)


def _light(rng: np.random.Generator, pixels: Floats, placement: _Placement, angle: float) -> Floats:
    """Light a surface from one side, darken its rim, at times add a highlight."""
    side = placement.side
    along = _ramp(angle, placement.distance.shape)
    rim = np.exp(np.maximum(placement.distance, 0.0) / (-0.09 * side))
    light = 1.0 + rng.uniform(0.0, 0.45) / side * along - rng.uniform(0.05, 0.4) * rim
    lit = pixels * light[..., None]
    if rng.random() < 0.3:
        across = _ramp(angle + math.pi / 2, placement.distance.shape)
        squared = (along - rng.uniform(0.15, 0.35) * side) ** 2 + across**2
        lit += rng.uniform(0.15, 0.4) * np.exp(squared / -((0.12 * side) ** 2))[..., None]
    return np.clip(lit, 0.0, 1.0)


def _shadow(rng: np.random.Generator, alpha: Floats, side: float, angle: float) -> Floats:
    """(h, w) float32 in [0, 1]: the outline, moved away from the light and softened."""
    shift = 1.0 + rng.uniform(0.0, 0.08) * side
    matrix = (1, 0, shift * math.cos(angle), 0, 1, shift * math.sin(angle))
    outline = Image.fromarray((alpha * 255.0).astype(np.uint8))
    moved = outline.transform(outline.size, Image.Transform.AFFINE, matrix)
    return scene_textures.blur(
        np.asarray(moved, dtype=np.float32) / 255.0, 1.0 + rng.uniform(0.01, 0.06) * side
    )


def _develop(rng: np.random.Generator, canvas: Floats) -> NDArray[np.uint8]:
    """Uneven light, slight softness and sensor noise over the whole (H, W, 3) image."""
    height, width = canvas.shape[:2]
    field = scene_textures.smooth_field(rng, (height, width))
    light = 1.0 + rng.uniform(0.0, 0.35) * (field - 0.5)
    drawn = canvas * light[..., None] * rng.uniform(0.92, 1.08, 3).astype(np.float32)
    if rng.random() < 0.5:
        drawn = scene_textures.blur(drawn, rng.uniform(0.3, 0.6))
    noise = rng.standard_normal(drawn.shape, dtype=np.float32)
    noisy = drawn * 255.0 + rng.uniform(0.8, 4.0) * noise
    return np.clip(noisy, 0.0, 255.0).astype(np.uint8)
