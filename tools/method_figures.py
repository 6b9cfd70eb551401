"""Draws the images of README.md, docs/method.md, docs/beyond-the-paper.md and the model card.

    python tools/method_figures.py [FOLDER]

They go into docs/images; weights are the bundled ones. Nothing is touched up. The photographs of
the first are samples that scikit-image has in its package, in the public domain. The others are of
generated scenes, of parts of photographs that the weights were not learned from. Which are shown
was chosen by eye, the mistakes left in. Those of the model card are everyday photographs, drawn by
a seed where ../shared/photos is.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import skimage.data
import torch
from numpy.typing import NDArray
from PIL import Image
from torch.nn import functional

from soloist import load
from soloist.config.presets import load_config
from soloist.data.drawing.rendering import draw_masks, draw_outlines, jpeg_bytes, resize_masks
from soloist.data.images import read_image
from soloist.data.scenes import Scene, make_scene
from soloist.ops.affinity import color_similarity, rgb_to_lab
from soloist.proposals.extract import FreeMaskExtractor, without_floor
from soloist.proposals.regions import region_candidates
from soloist.runtime.device import Runtime

Pixels = NDArray[np.uint8]

IMAGES = Path(__file__).parents[1] / "docs" / "images"
SEED = 201
QUERY_SCENES, COLOR_SCENES, REGION_SCENES = (8, 7, 4), (6, 10), (8, 7, 4, 12)
PHOTOGRAPHS = ("coins", "immunohistochemistry", "coffee", "astronaut")
HEIGHT = 300
"""Of the photographs, in pixels."""
EVERYDAY, EVERYDAY_COUNT = Path(__file__).parents[2] / "shared" / "photos" / "dev" / "coco", 5
FREE_LICENCES = (4, 7)
"""COCO's numbers of CC BY 2.0 and of no known copyright."""
MIN_SCORE = 0.2
_TILE = (180, 240)  # (height, width) of a tile, in pixels.
_GAP = 6
_RED = (255, 40, 40)
_STRIDE = 4
"""Of the pixels whose colours are compared, as in training."""
# From the least to the greatest value.
_RAMP = np.array([(20, 20, 60), (120, 40, 130), (230, 90, 60), (255, 240, 150)], dtype=np.float64)


@torch.inference_mode()
def free_mask_rows(scenes: Sequence[Scene]) -> list[list[Pixels]]:
    """Of each scene: a query's cell, its similarity, the cut of it, free masks, the network's."""
    config = load_config("tiny")
    runtime = Runtime(device=torch.device("cpu"), precision="fp32")
    extractor = FreeMaskExtractor(config, runtime)
    segmenter = load(device="cpu", precision="fp32")
    rows = []
    for scene in scenes:
        pixels, size = scene.image, scene.masks.shape[1:]
        image = torch.from_numpy(pixels).permute(2, 0, 1)
        features = extractor.features(image)
        y, x = inner_point(scene.masks)
        height, width = features.shape[1:]
        row, column = y * height // size[0], x * width // size[1]
        similarity = functional.cosine_similarity(features, features[:, row, column, None, None], 0)
        soft = (similarity - similarity.min()) / (similarity.max() - similarity.min())
        cut = soft >= config.free_mask.mask_threshold
        large = functional.interpolate(soft[None, None], size, mode="nearest")[0, 0]
        mask = functional.interpolate(cut[None, None].float(), size, mode="nearest")[0, 0] > 0
        coarse = extractor(pixels, (size[0], size[1]))
        (found,) = segmenter.predict(pixels)
        good = found[found.scores >= MIN_SCORE]
        rows.append(
            [
                with_point(pixels, (y, x)),
                with_point(ramp(large.numpy()), (y, x)),
                draw_masks(pixels, mask[None].numpy()),
                draw_masks(pixels, coarse.masks.numpy()),
                draw_masks(pixels, good.masks.numpy()),
            ]
        )
    return rows


def region_rows(scenes: Sequence[Scene]) -> list[list[Pixels]]:
    """Of each scene: its leaves, free masks, regions: as many masks as there are objects."""
    runtime = Runtime(device=torch.device("cpu"), precision="fp32")
    presets = [without_floor(load_config(name)) for name in ("tiny", "soloist")]
    extractors = [FreeMaskExtractor(config, runtime) for config in presets]
    rows = []
    for scene in scenes:
        pixels = scene.image
        found, _ = region_candidates(pixels, most=1)
        labels = found.trees[-1].partition.labels
        # An index into the image, since both may have been reduced.
        seams = np.zeros(labels.shape, dtype=np.bool_)
        seams[1:] |= labels[1:] != labels[:-1]
        seams[:, 1:] |= labels[:, 1:] != labels[:, :-1]
        cut = np.array(Image.fromarray(pixels).resize(labels.shape[::-1]))
        cut[seams] = 255
        size = (pixels.shape[0], pixels.shape[1])
        best = [one(pixels, size).masks[: len(scene.masks)].numpy() for one in extractors]
        rows.append([cut, *(draw_masks(pixels, masks) for masks in best)])
    return rows


def affinity_rows(scenes: Sequence[Scene]) -> list[list[Pixels]]:
    """Of each scene: itself, how many neighbours are of a like colour, the same with outlines."""
    threshold = load_config("paper").loss.color_threshold
    rows = []
    for scene in scenes:
        rgb = torch.from_numpy(scene.image).permute(2, 0, 1)[None].float() / 255
        lab = rgb_to_lab(functional.avg_pool2d(rgb, _STRIDE))
        valid = torch.ones(lab.shape[0], *lab.shape[2:])
        alike = (color_similarity(lab, valid) >= threshold).float().mean(dim=1)[0]
        shown = ramp(alike.numpy())
        masks = resize_masks(scene.masks, (shown.shape[0], shown.shape[1]))
        rows.append([scene.image, shown, draw_outlines(shown, masks, (60, 255, 60), line_width=1)])
    return rows


def bundled_photographs() -> dict[str, Pixels]:
    """Those that scikit-image brings."""
    values = {name: getattr(skimage.data, name)() for name in PHOTOGRAPHS}
    return {
        name: one if one.ndim == 3 else np.stack([one] * 3, axis=2) for name, one in values.items()
    }


def everyday_photographs() -> dict[str, Pixels]:
    """Some of `photos/dev/coco`, drawn by a seed among those that may be shown by anyone."""
    record = json.loads((EVERYDAY / "annotations.json").read_text(encoding="utf-8"))
    free = [one["file_name"] for one in record["images"] if one["license"] in FREE_LICENCES]
    chosen = np.random.default_rng(SEED).choice(sorted(free), EVERYDAY_COUNT, replace=False)
    return {name: read_image(EVERYDAY / "images" / name) for name in chosen.tolist()}


def photograph_rows(photographs: Mapping[str, Pixels]) -> Pixels:
    """Photographs side by side, and below with the masks that `soloist predict` draws."""
    segmenter = load(device="cpu")
    plain: list[Pixels] = []
    drawn: list[Pixels] = []
    for name, pixels in photographs.items():
        result = segmenter.predict(pixels)[0].filter()
        print(f"{name}: {len(result)} masks")
        masks = result.masks.numpy()
        sizes = [round(pixels.shape[1] * HEIGHT / pixels.shape[0]), HEIGHT]
        for tiles, shown in ((plain, pixels), (drawn, draw_masks(pixels, masks))):
            small = Image.fromarray(shown).resize(sizes, Image.Resampling.LANCZOS)
            tiles.append(
                np.pad(np.asarray(small), ((0, 0), (0, _GAP), (0, 0)), constant_values=255)
            )
    above, below = (np.concatenate(row, axis=1)[:, :-_GAP] for row in (plain, drawn))
    line = np.full((_GAP, above.shape[1], 3), 255, dtype=np.uint8)
    return np.concatenate((above, line, below))


def inner_point(masks: NDArray[np.bool_]) -> tuple[int, int]:
    """(y, x) of the pixel of the largest mask that is nearest to its centre of mass."""
    largest = masks[masks.sum(axis=(1, 2)).argmax()]
    pixels = np.argwhere(largest)
    distances = ((pixels - pixels.mean(axis=0)) ** 2).sum(axis=1)
    y, x = pixels[distances.argmin()].tolist()
    return y, x


def ramp(values: NDArray[np.float32]) -> Pixels:
    """(H, W) in [0, 1] as colours."""
    places = np.linspace(0, 1, len(_RAMP))
    channels = [np.interp(values, places, _RAMP[:, channel]) for channel in range(3)]
    return np.stack(channels, axis=2).astype(np.uint8)


def with_point(pixels: Pixels, point: tuple[int, int]) -> Pixels:
    """An image with a red dot, ringed in white."""
    drawn = pixels.copy()
    rows, columns = np.ogrid[: pixels.shape[0], : pixels.shape[1]]
    distance = np.hypot(rows - point[0], columns - point[1])
    drawn[distance <= 8] = 255
    drawn[distance <= 5] = _RED
    return drawn


def sheet(rows: Sequence[Sequence[Pixels]]) -> Pixels:
    """Rows of images as one, each fitted into a white tile."""
    lines = []
    for row in rows:
        tiles = []
        for pixels in row:
            tile = Image.new("RGB", _TILE[::-1], "white")
            fitted = Image.fromarray(pixels)
            fitted.thumbnail(_TILE[::-1], Image.Resampling.LANCZOS)
            left, top = ((a - b) // 2 for a, b in zip(tile.size, fitted.size, strict=True))
            tile.paste(fitted, (left, top))
            tiles.append(
                np.pad(np.asarray(tile), ((0, _GAP), (0, _GAP), (0, 0)), constant_values=255)
            )
        lines.append(np.concatenate(tiles, axis=1))
    return np.ascontiguousarray(np.concatenate(lines)[:-_GAP, :-_GAP])


def main(folder: Path = IMAGES) -> None:
    """Writes the images."""
    shown = [make_scene(index, seed=SEED, split="val") for index in QUERY_SCENES]
    others = [make_scene(index, seed=SEED, split="val") for index in REGION_SCENES]
    large = [
        make_scene(index, seed=SEED, split="val", long_side=_STRIDE * _TILE[1])
        for index in COLOR_SCENES
    ]
    for name, rows in (
        ("free-mask.jpg", free_mask_rows(shown)),
        ("affinity.jpg", affinity_rows(large)),
        ("regions.jpg", region_rows(others)),
    ):
        (folder / name).write_bytes(jpeg_bytes(sheet(rows), quality=85))
    own = photograph_rows(bundled_photographs())
    (folder / "photographs.jpg").write_bytes(jpeg_bytes(own, quality=85))
    if EVERYDAY.is_dir():
        everyday = photograph_rows(everyday_photographs())
        (folder / "everyday.jpg").write_bytes(jpeg_bytes(everyday, quality=85))


if __name__ == "__main__":
    main(*map(Path, sys.argv[1:]))
