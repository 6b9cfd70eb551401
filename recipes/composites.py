"""Composites: objects cut from photographs, laid over others, with exact masks.

    soloist predict photos/ --out regions.json
    python recipes/composites.py regions.json OUT

Writes OUT/images and OUT/annotations.json (COCO), which `soloist finetune OUT/annotations.json
--learn network` takes. No label is read: an object is a region of `regions.json`, or several that
touch, or several laid one over another, so that what is inside an outline differs in colour and
texture. Seams are blended in three ways and some objects cast shadows, so that neither is a cue.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Annotated, Any

import numpy as np
from cyclopts import App, Parameter
from numpy.typing import NDArray
from PIL import Image
from scipy import ndimage

from soloist.data.coco.rle import decode_mask, encode_masks, mask_box_xywh
from soloist.ops.parts import largest_components_of_arrays
from soloist.runtime.progress import track

Floats = NDArray[np.float64]
Mask = NDArray[np.bool_]

SIZES = ((256, 341), (341, 256), (320, 320), (256, 384))
"""(height, width) of composites."""
CANDIDATES, MIN_AREA = 60, 400
"""Objects are made of the best N regions of a photograph of at least this area in pixels."""
TRIES = 12
"""Regions that are looked at for one that touches another."""
SMALLEST = 16.0
"""Square root of the smallest object's area, in pixels."""
VISIBLE, LEAST_VISIBLE = 0.3, 60
"""Share of an object, and pixels, that are to be seen for it to count."""

app = App(help=__doc__, result_action="return_value")


@dataclass(frozen=True)
class Options:
    """What composites are like; each can be switched off for a comparison.

    Attributes:
        parts: Share of the objects that are several touching regions; half as many are several laid
            one over another.
        objects: Fewest and most objects.
        largest: Square root of the largest object's area over that of the composite's, where there
            are up to five objects and where there are more.
        shaded: Share of the objects that are lit from a side.
        shadows: Share of the objects that cast a shadow.
        blend: Whether seams are blended in several ways.
    """

    parts: float = 0.6
    objects: tuple[int, int] = (3, 18)
    largest: tuple[float, float] = (0.95, 0.6)
    shaded: float = 0.6
    shadows: float = 0.35
    blend: bool = True


class Composer:
    """Makes composites of photographs and their regions.

    Args:
        photographs: Files, with the run lengths of the regions of each, best first.
        options: What composites are like.
        seed: Of all that is drawn.
    """

    def __init__(
        self,
        photographs: Sequence[tuple[Path, Sequence[Mapping[str, Any]]]],
        options: Options,
        seed: int,
    ) -> None:
        self.photographs = photographs
        self.options = options
        self.rng = np.random.default_rng(seed)

    def composite(self) -> tuple[NDArray[np.uint8], list[Mask]]:
        """(H, W, 3) uint8 RGB, and the visible part of each object, (H, W) bool."""
        rng, options = self.rng, self.options
        size = SIZES[rng.integers(len(SIZES))]
        canvas = self._tinted(self._background(size))
        few, many = options.objects
        count = int(np.exp(rng.uniform(np.log(few), np.log(many + 1))))
        share = options.largest[0] if count < 6 else options.largest[1]
        largest = np.log(np.sqrt(size[0] * size[1]) * share)
        sides = np.sort(np.exp(rng.uniform(np.log(SMALLEST), largest, count)))[::-1]
        owner = np.zeros(size, dtype=np.int64)
        areas: dict[int, int] = {}
        for number, side in enumerate(sides.tolist(), 1):
            assembled = rng.random() < options.parts / 2
            colors, alpha = self._assembled(side) if assembled else self._placed(side)
            colors = self._lit(self._tinted(colors), alpha)
            inside = self._pasted(canvas, colors, alpha, side)
            owner[inside] = number
            areas[number] = int((alpha > 0.5).sum())
        if rng.random() < 0.5:
            blur = rng.uniform(0.3, 0.9)
            canvas = ndimage.gaussian_filter(canvas, (blur, blur, 0))
        noise = rng.normal(0, rng.uniform(0, 4), canvas.shape)
        pixels = np.clip(canvas + noise, 0, 255).astype(np.uint8)
        masks = [
            _largest_part(owner == number)
            for number, area in areas.items()
            if (owner == number).sum() > max(LEAST_VISIBLE, VISIBLE * area)
        ]
        return pixels, masks

    def _cut(self) -> tuple[Floats, Mask]:
        """(h, w, 3) colours and (h, w) mask of one region, or of several that touch."""
        rng = self.rng
        while True:
            path, regions = self.photographs[int(rng.integers(len(self.photographs)))]
            pixels = _pixels(path)
            first = min(len(regions) - 1, int(rng.exponential(12)))
            mask = decode_mask(regions[first]).copy()
            if rng.random() < self.options.parts:
                mask = self._with_neighbours(mask, regions)
            smooth = ndimage.gaussian_filter(
                ndimage.binary_fill_holes(mask).astype(np.float64), rng.uniform(0.8, 2.5)
            )
            mask = _largest_part(smooth > 0.5)
            if not 300 <= mask.sum() <= 0.6 * mask.size:
                continue
            rows, columns = (np.flatnonzero(mask.any(axis=axis)) for axis in (1, 0))
            window = slice(rows[0], rows[-1] + 1), slice(columns[0], columns[-1] + 1)
            border = mask[0].sum() + mask[-1].sum() + mask[:, 0].sum() + mask[:, -1].sum()
            # Not what the photograph's border cuts off.
            if border <= 0.5 * (len(rows) + len(columns)):
                return pixels[window].astype(np.float64), mask[window]

    def _with_neighbours(self, mask: Mask, regions: Sequence[Mapping[str, Any]]) -> Mask:
        """A region with up to three others that touch it."""
        first, wanted = mask.sum(), int(self.rng.integers(1, 4))
        for place in self.rng.permutation(len(regions))[:TRIES]:
            other = decode_mask(regions[int(place)])
            near = ndimage.maximum_filter(mask.astype(np.uint8), 7) > 0
            adds = (other & ~mask).sum() > 0.15 * first and other.sum() < 3 * first
            if adds and (other & near).sum() > 30 and (other | mask).mean() < 0.5:
                mask = mask | other
                wanted -= 1
            if wanted == 0:
                break
        return mask

    def _placed(self, side: float) -> tuple[Floats, Floats]:
        """Something cut out, scaled, turned, perhaps mirrored: (h, w, 3) and (h, w) in [0, 1]."""
        colors, mask = self._cut()
        scale = side / float(np.sqrt(mask.sum()))
        size = (max(3, int(mask.shape[1] * scale)), max(3, int(mask.shape[0] * scale)))
        angle = self.rng.uniform(-25, 25)
        cutout = Image.fromarray(colors.astype(np.uint8)).resize(
            size, Image.Resampling.BICUBIC, reducing_gap=2.0
        )
        outline = Image.fromarray(mask.astype(np.uint8) * 255).resize(size)
        turned = [
            np.asarray(one.rotate(angle, Image.Resampling.BILINEAR, expand=True), np.float64)
            for one in (cutout, outline)
        ]
        if self.rng.random() < 0.5:
            turned = [one[:, ::-1] for one in turned]
        return turned[0], turned[1] / 255

    def _assembled(self, side: float) -> tuple[Floats, Floats]:
        """Two or three of these as one object, each a little farther out than the ones before."""
        rng = self.rng
        count = int(rng.integers(2, 4))
        each = side / np.sqrt(count)
        colors, alpha = self._placed(each * 1.1)
        colors = self._tinted(colors)
        for _ in range(count - 1):
            other, over = self._placed(each * rng.uniform(0.4, 1.1))
            rows, columns = np.nonzero(alpha > 0.5)
            if len(rows) == 0:
                break
            one = rng.integers(len(rows))
            row = int(rows[one] + 0.4 * (rows[one] - rows.mean()))
            column = int(columns[one] + 0.4 * (columns[one] - columns.mean()))
            (height, width), corner = over.shape, np.array([row, column])
            corner -= np.array([height, width]) // 2
            before = np.maximum(0, -corner)
            after = np.maximum(0, corner + over.shape - alpha.shape)
            padding = list(zip(before.tolist(), after.tolist(), strict=True))
            colors = np.pad(colors, [*padding, (0, 0)], mode="edge")
            alpha = np.pad(alpha, padding)
            top, left = (corner + before).tolist()
            window = slice(top, top + height), slice(left, left + width)
            new = over if rng.random() < 0.5 else over * (1 - alpha[window])
            mixed = colors[window] * (1 - new[..., None]) + self._tinted(other) * new[..., None]
            colors[window] = mixed
            alpha[window] = np.maximum(alpha[window], over)
        return colors, alpha

    def _background(self, size: tuple[int, int]) -> Floats:
        """A quarter to six tenths of each side of a photograph, enlarged: few whole objects."""
        pixels = _pixels(self.photographs[int(self.rng.integers(len(self.photographs)))][0])
        height, width = pixels.shape[:2]
        share = self.rng.uniform(0.25, 0.6) * min(height / size[0], width / size[1])
        rows, columns = int(share * size[0]), int(share * size[1])
        top, left = (
            int(self.rng.integers(whole - part + 1))
            for whole, part in ((height, rows), (width, columns))
        )
        part = Image.fromarray(pixels[top : top + rows, left : left + columns])
        return np.asarray(part.resize(size[::-1], Image.Resampling.BICUBIC), dtype=np.float64)

    def _tinted(self, colors: Floats) -> Floats:
        rng = self.rng
        changed = colors * rng.uniform(0.75, 1.25, 3) ** rng.uniform(0, 1)
        gamma = np.exp(rng.normal(0, 0.2))
        tinted: Floats = 255 * (np.clip(changed, 0, 255) / 255) ** gamma
        return tinted

    def _lit(self, colors: Floats, alpha: Floats) -> Floats:
        """Some brighter on one side and darker or brighter towards the outline."""
        rng = self.rng
        if rng.random() >= self.options.shaded:
            return colors
        height, width = alpha.shape
        rows, columns = np.mgrid[:height, :width]
        angle = rng.uniform(0, 2 * np.pi)
        slope = np.cos(angle) * (rows / height - 0.5) + np.sin(angle) * (columns / width - 0.5)
        depth = ndimage.distance_transform_edt(alpha > 0.5)
        depth = depth / max(depth.max(), 1)
        light = 1 + slope * rng.uniform(0, 0.7) + rng.uniform(-0.1, 0.35) * (depth - 0.5)
        lit: Floats = np.clip(colors * light[..., None], 0, 255)
        return lit

    def _pasted(self, canvas: Floats, colors: Floats, alpha: Floats, side: float) -> Mask:
        """Lays an object over the canvas, in place; where it is, (H, W)."""
        rng = self.rng
        (height, width), size = alpha.shape, canvas.shape[:2]
        top = int(-0.3 * height + rng.random() * (size[0] - 0.4 * height))
        left = int(-0.3 * width + rng.random() * (size[1] - 0.4 * width))
        inside = np.zeros(size, dtype=np.bool_)
        bottom, right = min(top + height, size[0]), min(left + width, size[1])
        if bottom - max(top, 0) < 3 or right - max(left, 0) < 3:
            return inside
        there = slice(max(top, 0), bottom), slice(max(left, 0), right)
        here = slice(there[0].start - top, bottom - top), slice(there[1].start - left, right - left)
        way = rng.integers(3) if self.options.blend else 0
        blur = (0.0, rng.uniform(0.5, 1.3), rng.uniform(0.3, 0.6))[way]
        soft = ndimage.gaussian_filter(alpha, blur)[here][..., None]
        if rng.random() < self.options.shadows:
            shadow = np.zeros(size)
            shadow[there] = alpha[here]
            away = (rng.uniform(-0.1, 0.15) * side, rng.uniform(-0.1, 0.1) * side)
            shadow = ndimage.gaussian_filter(shadow, side * 0.06 + 1)
            shadow = ndimage.shift(shadow, away, order=0)
            canvas *= 1 - rng.uniform(0.2, 0.5) * shadow[..., None]
        canvas[there] = canvas[there] * (1 - soft) + colors[here] * soft
        inside[there] = alpha[here] > 0.5
        return inside


@lru_cache(maxsize=400)
def _pixels(path: Path) -> NDArray[np.uint8]:
    with Image.open(path) as image:
        return np.asarray(image.convert("RGB"))


def _largest_part(mask: Mask) -> Mask:
    largest: Mask = largest_components_of_arrays(mask[None])[0]
    return largest


@app.default
def make(
    regions: Path,
    out: Path,
    *,
    images: Path = Path(),
    count: int = 1000,
    seed: int = 0,
    options: Annotated[Options, Parameter(name="*")] = Options(),
) -> None:
    """Makes composites.

    Args:
        regions: What `soloist predict` wrote for a folder of photographs.
        out: Folder for images and annotations.
        images: What the file names of `regions` are relative to.
        count: How many composites.
        seed: Of all that is drawn.
        options: What they are like.
    """
    file = json.loads(regions.read_text(encoding="utf-8"))
    best: dict[int, list[dict[str, Any]]] = {}
    for one in sorted(file["annotations"], key=lambda one: -float(one["score"])):
        best.setdefault(one["image_id"], []).append(one)
    photographs = []
    for image in file["images"]:
        own = best.get(image["id"], [])[:CANDIDATES]
        large = [one["segmentation"] for one in own if one["area"] > MIN_AREA]
        if len(large) > 2:
            photographs.append((images / image["file_name"], large))
    if not photographs:
        raise SystemExit(f"{regions}: wanted photographs with at least three regions, found none")
    composer = Composer(photographs, options, seed)
    (out / "images").mkdir(parents=True, exist_ok=True)
    entries: list[dict[str, Any]] = []
    annotations: list[dict[str, Any]] = []
    with track("composites", count) as tracker:
        for number in range(1, count + 1):
            pixels, masks = composer.composite()
            name = f"{number:05d}.jpg"
            quality = int(composer.rng.integers(75, 96))
            Image.fromarray(pixels).save(out / "images" / name, quality=quality)
            height, width = pixels.shape[:2]
            entries.append({"id": number, "file_name": name, "height": height, "width": width})
            for mask in masks:
                rle = encode_masks(mask[None])[0]
                annotations.append(
                    {
                        "id": len(annotations) + 1,
                        "image_id": number,
                        "category_id": 1,
                        "segmentation": rle,
                        "area": int(mask.sum()),
                        "bbox": mask_box_xywh(rle),
                        "iscrowd": 0,
                    }
                )
            tracker.advance(1)
    truth = {
        "images": entries,
        "annotations": annotations,
        "categories": [{"id": 1, "name": "object"}],
    }
    (out / "annotations.json").write_text(json.dumps(truth), encoding="utf-8")
    print(f"{len(entries)} composites, {len(annotations)} objects: {out / 'annotations.json'}")


if __name__ == "__main__":
    app()
