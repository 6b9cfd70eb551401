"""What is wrong with masks: where objects are lost, and what the rest of the best masks are.

    python benchmarks/quality/errors.py VAL.json PREDICTIONS.json [MORE.json ...]

Of the objects, by the best mask among all: found (IoU >= 0.5), merged (one mask holds most of this
and of another object), poor outline (IoU >= 0.25), split (some mask is mostly inside it), missed.
Of as many best-scored masks as there are objects: right, a second time, and the like kinds.
Crowd regions are no objects.
"""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import numpy as np
from cyclopts import App
from numpy.typing import NDArray
from pycocotools import mask as coco_mask

from soloist.data.coco.read import load_coco
from soloist.data.coco.rle import mask_area
from soloist.data.coco.types import CocoFile

FOUND, POOR, MOSTLY = 0.5, 0.25, 0.7
OBJECT_KINDS = ("found", "merged", "poor outline", "split", "missed")
MASK_KINDS = ("right", "a second time", "merged", "poor outline", "part", "background")

app = App(help=__doc__)


@app.default
def main(truth: Path, *predictions: Path) -> None:
    """Prints two Markdown tables, in percent.

    Args:
        truth: COCO file of the true masks.
        predictions: COCO files of masks with scores, on the same images.
    """
    true = load_coco(truth)
    counted = {path: kinds(true, load_coco(path)) for path in predictions}
    for number, (title, names) in enumerate((("objects", OBJECT_KINDS), ("masks", MASK_KINDS))):
        print(f"| {title} | {' | '.join(names)} |")
        print("|---" * (len(names) + 1) + "|")
        for path, both in counted.items():
            total = max(1, both[number].total())
            shares = " | ".join(f"{100 * both[number][name] / total:.0f}" for name in names)
            print(f"| {path.stem} | {shares} |")
        print()


def kinds(truth: CocoFile, found: CocoFile) -> tuple[Counter[str], Counter[str]]:
    """Kinds of the objects, and of as many best-scored masks."""
    by_name = {image.file_name: image.id for image in found.images}
    objects: Counter[str] = Counter()
    masks: list[tuple[float, str]] = []
    for image in truth.images:
        true = [one.rle for one in truth.annotations[image.id] if not one.iscrowd]
        if image.file_name not in by_name or not true:
            objects["missed"] += len(true)
            continue
        own = sorted(found.annotations[by_name[image.file_name]], key=lambda one: -one.score)
        if not own:
            objects["missed"] += len(true)
            continue
        overlap = Overlap.of(true, [one.rle for one in own])
        objects.update(overlap.object_kind(number) for number in range(len(true)))
        taken: set[int] = set()
        for number, one in enumerate(own):
            kind, of = overlap.mask_kind(number)
            if kind == "right" and of in taken:
                kind = "a second time"
            elif kind == "right":
                taken.add(of)
            masks.append((one.score, kind))
    masks.sort(key=lambda one: -one[0])
    return objects, Counter(kind for _, kind in masks[: objects.total()])


class Overlap:
    """Overlaps of the (n) true and (m) found masks of an image.

    Attributes:
        iou: (n, m) in [0, 1].
        of_object: (n, m) share of an object that a mask holds.
        of_mask: (n, m) share of a mask that lies on an object.
    """

    def __init__(
        self, iou: NDArray[np.float64], areas: NDArray[np.float64], found: NDArray[np.float64]
    ) -> None:
        self.iou = iou
        shared = iou / (1 + iou) * (areas[:, None] + found)
        self.of_object = shared / areas[:, None]
        self.of_mask = shared / np.maximum(found, 1)

    @classmethod
    def of(cls, true: list[dict[str, object]], found: list[dict[str, object]]) -> Overlap:
        """From run lengths."""
        iou = np.asarray(coco_mask.iou(found, true, [0] * len(true)), dtype=np.float64).T
        # One by one: of more than 255 at a time pycocotools cannot tell the areas (numpy 2).
        areas, sizes = (np.maximum([mask_area(rle) for rle in rles], 1.0) for rles in (true, found))
        return cls(iou, areas, sizes)

    def object_kind(self, number: int) -> str:
        """Of an object, by the mask that fits it best."""
        if self.iou[number].max() >= FOUND:
            return "found"
        several = (self.of_object >= MOSTLY).sum(axis=0) >= 2
        # A mask of nearly the whole image holds everything and says nothing.
        if (several & (self.of_object[number] >= MOSTLY) & (self.iou[number] >= POOR)).any():
            return "merged"
        if self.iou[number].max() >= POOR:
            return "poor outline"
        return "split" if (self.of_mask[number] >= MOSTLY).any() else "missed"

    def mask_kind(self, number: int) -> tuple[str, int]:
        """Of a mask, and the object it fits best."""
        best = int(self.iou[:, number].argmax())
        if self.iou[best, number] >= FOUND:
            return "right", best
        if self.iou[best, number] >= POOR:
            several = (self.of_object[:, number] >= MOSTLY).sum() >= 2
            return ("merged" if several else "poor outline"), best
        inside = self.of_mask[best, number] >= MOSTLY
        return ("part" if inside else "background"), best


if __name__ == "__main__":
    app()
