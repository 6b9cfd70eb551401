"""An estimate of how good a segmenter's masks are, without labels: do its views agree?"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from rich.table import Table
from torch import Tensor
from torchvision.transforms import v2

from soloist.data.coco.encoded import EncodedMasks
from soloist.data.coco.read import load_coco
from soloist.data.coco.types import CocoAnnotation, CocoFile
from soloist.data.drawing.rendering import resize_masks
from soloist.data.sources import ImageRef
from soloist.evaluation.agreement import (
    AGREED,
    KEPT,
    Floats,
    best_overlaps,
    expected_precision,
    image_ap50,
    image_estimate,
    kept_precision,
    mean_agreement,
    pearson,
    score_bins,
    spearman,
)
from soloist.evaluation.matching import overlaps
from soloist.inference.label import label_images
from soloist.inference.output_file import changes_since
from soloist.inference.reading_ahead import Objects
from soloist.inference.segmenter import Segmenter
from soloist.proposals.regions import Regions
from soloist.runtime.error_log import ErrorLog

logger = logging.getLogger(__name__)

Pixels = NDArray[np.uint8]

SCALES = (0.8, 1.25)
"""How much smaller and larger an image is seen in two of the views."""
COLOURS = {"brightness": 1.2, "contrast": 0.8, "saturation": 1.3, "hue": 0.05}
"""What is done, in this order, to the colours of another: half of what training draws at most."""
MAX_PIXELS = 2**18
"""Masks of views are compared at no more, so that memory does not grow with the image."""


@dataclass(frozen=True)
class View:
    """A changed image and the network that looks at it.

    Attributes:
        name: What is changed.
        segmenter: The network.
        change: Makes (H, W, 3) uint8 pixels of the same.
        mirrored: Its masks are to be mirrored back.
    """

    name: str
    segmenter: Segmenter
    change: Callable[[Pixels], Pixels] = np.asarray
    mirrored: bool = False

    def masks(self, pixels: Pixels, size: tuple[int, int], most: int | None = None) -> Tensor:
        """(M, H, W) bool masks on the image as it was, the `most` best or all."""
        masks = self.segmenter.masks(self.change(pixels), size, most)
        return masks.flip(2) if self.mirrored else masks


class ViewLabeler:
    """A segmenter that notes for each mask how well other views of the image confirm it.

    Args:
        segmenter: Gives the masks.
        against: A second segmenter, such as that of the round before: its masks on the image as
            it is are one more view.

    Attributes:
        views: The other views of an image.
        categories: Names of the segmenter's classes by category id.
    """

    def __init__(self, segmenter: Segmenter, against: Segmenter | None = None) -> None:
        self._segmenter = segmenter
        self.categories = segmenter.categories
        self.views = [
            View("mirrored", segmenter, _mirror, mirrored=True),
            *scaled_views(segmenter),
            View("colours", segmenter, _recolour),
        ]
        if against is not None:
            self.views.append(View("other segmenter", against))

    @property
    def prepares(self) -> bool:
        """Whether no network is needed to compare the views; see `SplitLabeler`."""
        return all(view.segmenter.labeler.prepares for view in self.views)

    def __call__(self, pixels: Pixels, size: tuple[int, int]) -> Objects:
        """Objects of one image with their agreements; see `Segmenter.labeler`."""
        if self.prepares:
            return self.finish(pixels, self.prepare(pixels, size))
        found = self._segmenter.labeler(pixels, size)
        return replace(found, agreements=self._agreements(found.masks, pixels, size))

    def prepare(self, pixels: Pixels, size: tuple[int, int]) -> Regions[EncodedMasks]:
        """The regions, with their agreements."""
        regions = self._segmenter.labeler.prepare(pixels, size)
        return replace(regions, agreements=self._agreements(regions.masks, pixels, size).numpy())

    def finish(self, pixels: Pixels, prepared: Regions[EncodedMasks]) -> Objects:
        """The objects that these are."""
        return self._segmenter.labeler.finish(pixels, prepared)

    def _agreements(self, masks: EncodedMasks, pixels: Pixels, size: tuple[int, int]) -> Tensor:
        """(N, V) best overlap of each mask with those of each view."""
        small = bounded_size(size)
        # One by one: all of a large image would not fit into memory.
        reduced = [resize_masks(mask[None], small)[0] for mask in masks]
        own = torch.from_numpy(np.stack(reduced) if reduced else np.zeros((0, *small), np.bool_))
        columns = [best_overlaps(own, view.masks(pixels, small)) for view in self.views]
        return torch.stack(columns, dim=1)


def scaled_views(segmenter: Segmenter) -> list[View]:
    """Views of an image at each of `SCALES`."""
    # A region's outline comes from the pixels, whatever the network's input is.
    by_pixels = segmenter.config.inference.masks != "network"
    return [
        View(
            f"scale {scale}",
            _scaled(segmenter, scale),
            partial(_resize, scale=scale) if by_pixels else np.asarray,
        )
        for scale in SCALES
    ]


def label_views(
    images: Sequence[ImageRef],
    labeler: ViewLabeler,
    out: Path,
    *,
    short_side: int | None,
    settings: Mapping[str, Any],
    errors: ErrorLog,
    overwrite: bool = False,
) -> CocoFile:
    """Labels images with agreements into a COCO file; a finished one of the same settings is kept.

    Args:
        images: The images.
        labeler: Gives masks and agreements.
        out: The COCO file.
        short_side: As in `label_images`.
        settings: What the result depends on.
        errors: Where unreadable images are listed.
        overwrite: Begin anew.

    Raises:
        RunError: If there is a file of other settings.
        DataError: If none of the images can be read.
    """
    settings = {**settings, "views": [view.name for view in labeler.views]}
    changes = None if overwrite else changes_since(out, settings, images)
    keep = changes is not None
    if keep and not changes:
        logger.info("masks of an earlier run are taken: %s", out)
        return load_coco(out)
    if keep:
        logger.warning("masks of an earlier run are taken: %s, but of its images %s", out, changes)
    label_images(
        images,
        labeler,
        out,
        title="estimate",
        short_side=short_side,
        settings=settings,
        errors=errors,
        categories=labeler.categories,
        existing="keep" if keep else "replace" if overwrite else "refuse",
    )
    return load_coco(out)


def estimate_quality(file: CocoFile, truth: CocoFile | None = None) -> dict[str, Any]:
    """The estimates for a file of masks with agreements.

    Args:
        file: Masks as of `label_views`.
        truth: A ground truth to compare the estimates with; they are made without it. Images it
            does not have are left out.

    Returns:
        confirmed_from, kept_from, masks and expected_precision; `bins`, one for each range of
        scores; `images`, the ones that need a look first; and with a ground truth `comparison`:
        correlations.

    Raises:
        DataError: If no image of the two matches, or images that match differ in size.
    """
    true_overlaps = None if truth is None else overlaps(file, truth)
    rows: list[dict[str, Any]] = []
    scores: list[Floats] = []
    agreement: list[Floats] = []
    best_ious: list[Floats] = []
    for image in file.images:
        masks = file.annotations[image.id]
        own_scores = np.array([one.score for one in masks])
        own_agreement = _agreement(masks)
        row: dict[str, Any] = {
            "file_name": image.file_name,
            "masks": len(masks),
            "kept": int((own_scores >= KEPT).sum()),
            "estimate": image_estimate(own_scores, own_agreement),
            "score": image_estimate(own_scores, own_scores),
            "best_score": float(own_scores.max(initial=0)),
        }
        if true_overlaps is not None:
            if image.id not in true_overlaps:
                continue
            ious = true_overlaps[image.id].ious
            best_ious.append(ious.max(axis=1, initial=0))
            row |= {
                "objects": ious.shape[1],
                "precision": kept_precision(own_scores, best_ious[-1]),
                "ap50": image_ap50(own_scores, ious),
            }
        rows.append(row)
        scores.append(own_scores)
        agreement.append(own_agreement)
    rows.sort(key=lambda row: row["estimate"])
    every_score, every_agreement = np.concatenate(scores), np.concatenate(agreement)
    every_iou = np.concatenate(best_ious) if best_ious else None
    bins = score_bins(every_score, every_agreement, every_iou)
    report: dict[str, Any] = {
        "confirmed_from": AGREED,
        "kept_from": KEPT,
        "masks": len(every_score),
        "expected_precision": expected_precision(every_agreement) if len(every_score) else None,
        "bins": [asdict(one) for one in bins],
        "images": rows,
    }
    if every_iou is not None:
        report["comparison"] = _comparison(every_score, every_agreement, every_iou, rows)
    return report


def bin_table(report: Mapping[str, Any]) -> Table:
    """Expected precision by score, beside the true one where it is known."""
    compared = "comparison" in report
    table = Table()
    for name in ("score", "masks", "expected precision", *(["precision"] if compared else [])):
        table.add_column(name, justify="right")
    for one in report["bins"]:
        known = [f"{one['precision']:.2f}"] if compared else []
        expected = f"{one['expected_precision']:.2f}"
        table.add_row(f"{one['low']:.1f} to {one['high']:.1f}", str(one["masks"]), expected, *known)
    return table


def image_table(report: Mapping[str, Any], count: int) -> Table:
    """The images that need a look first."""
    compared = "comparison" in report
    table = Table(title="to look at first")
    for name in ("estimate", "masks", "kept", *(["precision", "AP50"] if compared else [])):
        table.add_column(name, justify="right")
    table.add_column("image", overflow="fold")
    for row in report["images"][:count]:
        known = [_shown(row["precision"]), _shown(row["ap50"])] if compared else []
        counts = (str(row["masks"]), str(row["kept"]))
        table.add_row(f"{row['estimate']:.2f}", *counts, *known, row["file_name"])
    return table


def comparison_lines(comparison: Mapping[str, Any]) -> list[str]:
    """The correlations as text."""
    return [
        f"{what}: Spearman {_shown(comparison[key]['spearman'])}, "
        f"Pearson {_shown(comparison[key]['pearson'])} ({comparison[key]['count']})"
        for key, what in (
            ("agreement_iou", "agreement and true overlap of masks"),
            ("score_iou", "score and true overlap of masks"),
            ("estimate_precision", "estimate and precision of images"),
            ("score_precision", "score and precision of images"),
            ("estimate_ap50", "estimate and AP50 of images"),
            ("score_ap50", "best score and AP50 of images"),
        )
    ]


def _comparison(
    scores: Floats, agreement: Floats, best_ious: Floats, rows: Sequence[Mapping[str, Any]]
) -> dict[str, Any]:
    """Correlations of the estimates, and of the scores alone, with what is true."""

    def of_images(estimate: str, true: str) -> dict[str, float | int | None]:
        known = [row for row in rows if row[true] is not None]
        return _correlations(
            np.array([row[estimate] for row in known]), np.array([row[true] for row in known])
        )

    return {
        "agreement_iou": _correlations(agreement, best_ious),
        "score_iou": _correlations(scores, best_ious),
        "estimate_precision": of_images("estimate", "precision"),
        "score_precision": of_images("score", "precision"),
        "estimate_ap50": of_images("estimate", "ap50"),
        "score_ap50": of_images("best_score", "ap50"),
    }


def _correlations(one: Floats, other: Floats) -> dict[str, float | int | None]:
    return {"count": len(one), "spearman": spearman(one, other), "pearson": pearson(one, other)}


def _agreement(masks: Sequence[CocoAnnotation]) -> Floats:
    """(N,) mean agreement of the masks of one image."""
    return mean_agreement(np.array([one.agreements for one in masks])) if masks else np.zeros(0)


def _mirror(pixels: Pixels) -> Pixels:
    return np.ascontiguousarray(pixels[:, ::-1])


def _resize(pixels: Pixels, scale: float) -> Pixels:
    image = torch.from_numpy(np.ascontiguousarray(pixels)).permute(2, 0, 1)
    size = [max(1, round(side * scale)) for side in pixels.shape[:2]]
    resized: Pixels = v2.functional.resize(image, size, antialias=True).permute(1, 2, 0).numpy()
    return resized


def _recolour(pixels: Pixels) -> Pixels:
    image = torch.from_numpy(pixels).permute(2, 0, 1)
    for name, amount in COLOURS.items():
        image = getattr(v2.functional, f"adjust_{name}")(image, amount)
    recoloured: Pixels = image.permute(1, 2, 0).contiguous().numpy()
    return recoloured


def _scaled(segmenter: Segmenter, scale: float) -> Segmenter:
    """The same network, fed larger or smaller images."""
    options = segmenter.config.inference
    inference = replace(
        options,
        short_side=max(1, round(options.short_side * scale)),
        max_side=max(1, round(options.max_side * scale)),
    )
    config = replace(segmenter.config, inference=inference)
    return Segmenter(
        segmenter.network, config, segmenter.runtime, segmenter.categories, segmenter.judge
    )


def bounded_size(size: tuple[int, int]) -> tuple[int, int]:
    """The size, or a smaller one of the same proportions and at most `MAX_PIXELS`."""
    scale = min(1.0, (MAX_PIXELS / (size[0] * size[1])) ** 0.5)
    return max(1, int(size[0] * scale)), max(1, int(size[1] * scale))


def _shown(value: float | None) -> str:
    return "–" if value is None else f"{value:.2f}"
