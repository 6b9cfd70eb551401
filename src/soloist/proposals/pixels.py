"""What labels say of single pixels: inside an object of which class, or on an outline.

A small network reads smoothed colours, edges and blobs of several sizes around a pixel. It is
learned from a few labelled images in seconds, and what it draws on a new image gives two further
trees and tells objects from what only has their colours' contrast.
"""

from __future__ import annotations

import base64
import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import higra
import numpy as np
import torch
from numpy.typing import NDArray
from scipy import ndimage
from torch import Tensor, nn
from torch.nn import functional

from soloist.proposals.hierarchy import Hierarchies, PixelMaps, Tree, gradients
from soloist.proposals.partition import Floats, basins, partition, touching

SCALES = (0.7, 1.5, 3.0, 6.0, 12.0, 24.0)
"""Standard deviations of the filters, in pixels of the image the trees live on."""
PER_SCALE = 6
"""Values of a pixel at each: three colours, the gradient's length, two curvatures."""
COARSEST = 3.0
"""A filter of more pixels runs on an image of half the size."""
OUTLINE = 1
"""How far an outline reaches to either side, in pixels."""
HIDDEN = 64
"""Units of each of two hidden layers."""
STEPS, BATCH, LEARNING_RATE, WEIGHT_DECAY = 250, 8192, 5e-3, 1e-2
"""Of AdamW with a one-cycle schedule."""
NOISE = 0.15
"""Standard deviation of what is added to standardised values in training."""
LARGEST = 5.0
"""Standardised values are clipped to this."""
SAMPLES = 40_000
"""Pixels of an image that are learned from, half of them of outlines."""
MAX_SAMPLES = 640_000
"""Of all images."""
AT_ONCE = 2**17
"""Pixels that are judged together, which bounds memory."""
HEIGHT, DEPTH = 60.0, 5.0
"""Of outlines and of insides in the landscape that the trees of maps are cut from."""
SMOOTHING = 0.7
"""Standard deviation of the filter over maps, in pixels."""


def filter_bank(lab: NDArray[np.float32]) -> NDArray[np.float32]:
    """(D, H, W) float32 values of each pixel of (3, H, W) CIE-Lab colours: `PER_SCALE` a scale."""
    size = (lab.shape[1], lab.shape[2])
    planes, unit, done = lab, 1, 0.0
    found = []
    for scale in SCALES:
        while scale / unit >= COARSEST and min(planes.shape[1:]) > 8:
            planes, unit = _halved(planes), 2 * unit
        left = max(scale**2 - done**2, 0.01) ** 0.5 / unit
        planes = np.stack([ndimage.gaussian_filter(plane, left, truncate=3) for plane in planes])
        done = scale
        found.append(_enlarged(_described(planes, scale / unit), unit, size))
    return np.concatenate(found)


def _described(planes: NDArray[np.float32], scale: float) -> NDArray[np.float32]:
    """(6, H, W): smoothed colours, gradient, curvatures; derivatives times powers of the scale."""
    by_row, by_column = (_slope(planes, axis) for axis in (1, 2))
    slope = np.sqrt((by_row**2 + by_column**2).sum(axis=0)) * scale
    down, across = _slope(by_row[0], 0), _slope(by_column[0], 1)
    mixed = _slope(by_column[0], 0)
    mean, spread = (down + across) / 2, np.sqrt(((across - down) / 2) ** 2 + mixed**2)
    curved = (mean + spread) * scale**2, (mean - spread) * scale**2
    return np.concatenate((planes, slope[None], curved[0][None], curved[1][None]))


def _slope(values: NDArray[np.float32], axis: int) -> NDArray[np.float32]:
    """Central differences along an axis; 0 where it has one place."""
    if values.shape[axis] < 2:
        return np.zeros_like(values)
    slope: NDArray[np.float32] = np.asarray(np.gradient(values, axis=axis), dtype=np.float32)
    return slope


def _halved(planes: NDArray[np.float32]) -> NDArray[np.float32]:
    height, width = planes.shape[1:]
    even = np.pad(planes, ((0, 0), (0, height % 2), (0, width % 2)), mode="edge")
    sums = even[:, ::2, ::2] + even[:, 1::2, ::2] + even[:, ::2, 1::2] + even[:, 1::2, 1::2]
    half: NDArray[np.float32] = np.divide(sums, 4, dtype=np.float32)
    return half


def _enlarged(planes: NDArray[np.float32], unit: int, size: tuple[int, int]) -> NDArray[np.float32]:
    if unit == 1:
        return planes
    whole = functional.interpolate(
        torch.from_numpy(planes)[None], scale_factor=unit, mode="bilinear", align_corners=False
    )
    enlarged: NDArray[np.float32] = whole[0, :, : size[0], : size[1]].numpy()
    return enlarged


@dataclass(frozen=True)
class PixelSample:
    """Pixels of a labelled image.

    Attributes:
        values: (n, D) float32 of `filter_bank`.
        wanted: (n, K + 1) bool: inside an object of each class, on an outline.
    """

    values: NDArray[np.float32]
    wanted: NDArray[np.bool_]


def sample_pixels(
    lab: NDArray[np.float32],
    masks: NDArray[np.bool_],
    labels: Sequence[int],
    classes: int,
    generator: np.random.Generator,
    count: int = SAMPLES,
    known: NDArray[np.bool_] | None = None,
) -> PixelSample:
    """Draws pixels of an image, half of them from outlines as far as there are.

    Args:
        lab: (3, H, W) CIE-Lab colours.
        masks: (n, H, W) bool of all objects there.
        labels: n classes, each in [0, classes).
        classes: K.
        generator: Draws them.
        count: How many at most.
        known: (H, W) the pixels that may be drawn; None: all of them.
    """
    wanted = np.zeros((classes + 1, *lab.shape[1:]), dtype=bool)
    for mask, label in zip(masks, labels, strict=True):
        wanted[label] |= mask
        wanted[-1] |= outline_of(mask)
    flat = wanted.reshape(classes + 1, -1)
    allowed = np.ones(flat.shape[1], dtype=bool) if known is None else known.ravel()
    outlines, others = np.flatnonzero(flat[-1] & allowed), np.flatnonzero(~flat[-1] & allowed)
    of_outlines = min(count // 2, len(outlines))
    chosen = np.concatenate(
        (
            generator.choice(outlines, of_outlines, replace=False),
            generator.choice(others, min(count - of_outlines, len(others)), replace=False),
        )
    )
    values = filter_bank(lab)
    return PixelSample(values.reshape(len(values), -1)[:, chosen].T, flat[:, chosen].T)


def outline_of(mask: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """(H, W) pixels within `OUTLINE` of the outline of a (H, W) mask; its box alone is looked at.

    The border of the image is no outline.
    """
    outline = np.zeros_like(mask)
    rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
    if len(rows) == 0:
        return outline
    part = tuple(
        slice(max(0, places[0] - OUTLINE - 1), places[-1] + OUTLINE + 2)
        for places in (rows, columns)
    )
    inner = mask[part]
    outline[part] = ndimage.binary_dilation(inner, iterations=OUTLINE) & ~ndimage.binary_erosion(
        inner, iterations=OUTLINE, border_value=1
    )
    return outline


@dataclass(frozen=True)
class PixelClassifier:
    """A small network on the values of a pixel.

    Attributes:
        mean: (D,) of the values learned from.
        deviation: (D,) their standard deviation.
        weights: Matrices of the layers, each (in, out); the last has K + 1 outputs.
        biases: Their (out,) biases.
    """

    mean: Tensor
    deviation: Tensor
    weights: tuple[Tensor, ...]
    biases: tuple[Tensor, ...]

    @property
    def classes(self) -> int:
        """How many classes it tells apart."""
        return len(self.biases[-1]) - 1

    @torch.inference_mode()
    def maps(self, lab: NDArray[np.float32]) -> PixelMaps:
        """What it says of all pixels of an image of (3, H, W) CIE-Lab colours."""
        values = filter_bank(lab)
        flat = torch.from_numpy(values.reshape(len(values), -1))
        parts = [
            self._logits(((part.T - self.mean) / self.deviation).clamp(-LARGEST, LARGEST))
            for part in torch.split(flat, AT_ONCE, dim=1)
        ]
        whole = torch.cat(parts).sigmoid().T.reshape(-1, *lab.shape[1:]).numpy()
        return PixelMaps(inside=whole[:-1], outline=whole[-1])

    def _logits(self, values: Tensor) -> Tensor:
        for weight, bias in zip(self.weights[:-1], self.biases[:-1], strict=True):
            values = functional.relu(torch.addmm(bias, values, weight))
        return torch.addmm(self.biases[-1], values, self.weights[-1])

    def record(self) -> dict[str, Any]:
        """Its values by name, for a model's record."""
        return {
            "mean": packed(self.mean),
            "deviation": packed(self.deviation),
            "weights": [packed(weight) for weight in self.weights],
            "biases": [packed(bias) for bias in self.biases],
        }

    @classmethod
    def of_record(cls, record: Mapping[str, Any]) -> PixelClassifier:
        """The classifier of such a record.

        Raises:
            KeyError: If a value is missing.
            TypeError: If one is of another type.
            ValueError: If its shapes do not fit each other.
        """
        found = cls(
            unpacked(record["mean"]),
            unpacked(record["deviation"]),
            tuple(unpacked(one) for one in record["weights"]),
            tuple(unpacked(one) for one in record["biases"]),
        )
        sizes = [len(SCALES) * PER_SCALE, *(len(bias) for bias in found.biases)]
        wanted = [(sizes[0],), (sizes[0],), *itertools.pairwise(sizes)]
        got = [tuple(one.shape) for one in (found.mean, found.deviation, *found.weights)]
        if got != wanted or sizes[-1] < 2:
            raise ValueError(f"layers must be {wanted}, got {got}")
        return found


def packed(values: Tensor) -> dict[str, Any]:
    """A tensor of float32 for JSON: its shape, and its bytes (little-endian) in base64."""
    array = values.numpy().astype("<f4")
    return {"shape": list(array.shape), "float32": base64.b64encode(array.tobytes()).decode()}


def unpacked(record: Mapping[str, Any]) -> Tensor:
    """The tensor of `packed`; raises as `PixelClassifier.of_record` does."""
    values = np.frombuffer(base64.b64decode(record["float32"]), dtype="<f4")
    return torch.from_numpy(values.astype(np.float32).reshape(record["shape"]))


def learn_pixels(samples: Sequence[PixelSample], *, seed: int = 0) -> PixelClassifier:
    """Learns from pixels of labelled images.

    Args:
        samples: One a labelled image, of the same classes, with at least one pixel in all.
        seed: Of the weights it starts from and of the batches.

    Raises:
        ValueError: If there is no pixel.
    """
    values = torch.from_numpy(np.concatenate([sample.values for sample in samples]))
    wanted = torch.from_numpy(np.concatenate([sample.wanted for sample in samples])).float()
    if len(values) == 0:
        raise ValueError("a classifier learns from pixels, got none")
    mean, deviation = values.mean(dim=0), values.std(dim=0, correction=0) + 1e-3
    values = ((values - mean) / deviation).clamp(-LARGEST, LARGEST)
    generator = torch.Generator().manual_seed(seed)
    sizes = (values.shape[1], HIDDEN, HIDDEN, wanted.shape[1])
    weights = [
        nn.init.kaiming_uniform_(
            torch.empty(into, out), a=5**0.5, mode="fan_out", generator=generator
        )
        for into, out in itertools.pairwise(sizes)
    ]
    biases = [torch.zeros(out) for out in sizes[1:]]
    learned = [parameter.requires_grad_() for parameter in (*weights, *biases)]
    optimizer = torch.optim.AdamW(learned, lr=LEARNING_RATE, weight_decay=WEIGHT_DECAY)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, LEARNING_RATE, total_steps=STEPS)
    classifier = PixelClassifier(mean, deviation, tuple(weights), tuple(biases))
    for _ in range(STEPS):
        drawn = torch.randint(len(values), (BATCH,), generator=generator)
        noise = NOISE * torch.randn((BATCH, sizes[0]), generator=generator)
        logits = classifier._logits(values[drawn] + noise)
        loss = functional.binary_cross_entropy_with_logits(logits, wanted[drawn])
        optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]  # untyped in torch
        optimizer.step()
        schedule.step()
    for parameter in learned:
        parameter.requires_grad_(False)
    return classifier


def with_maps(found: Hierarchies, maps: PixelMaps) -> Hierarchies:
    """Hierarchies with what was learned of each pixel, and with two trees that are cut from it.

    Watersheds by area and by volume of a landscape whose ridges are outlines and whose valleys are
    insides.
    """
    outline, inside = (
        ndimage.gaussian_filter(plane, SMOOTHING) for plane in (maps.outline, maps.any_inside)
    )
    labels = basins(HEIGHT * outline - DEPTH * (inside - outline))
    if not labels.any():
        return replace(found, maps=maps)
    leaves = partition(labels, found.lab, outline, gradients(found.lab)[1])
    edges = leaves.edges
    trees = tuple(
        Tree(leaves, hierarchy(edges, leaves.graph.fine, leaves.sizes)[0])
        for hierarchy in (
            higra.watershed_hierarchy_by_area,
            higra.watershed_hierarchy_by_volume,
        )
    )
    return replace(found, trees=found.trees + trees, maps=maps, trees_of_maps=len(trees))


@dataclass(frozen=True)
class Agreement:
    """How the N nodes of a tree agree with what was learned of each pixel.

    Attributes:
        inside: (N,) mean probability of being inside an object.
        around: (N,) that of the rest of its parent.
        outline: (N,) mean probability of an outline along its own.
        within: (N,) the same of all its pixels.
        classes: (N, K) mean probability of being inside an object of each class.
    """

    inside: Floats
    around: Floats
    outline: Floats
    within: Floats
    classes: Floats

    @property
    def scores(self) -> Floats:
        """(N,) in [0, 1]: inside within, an outline along the outline, neither elsewhere."""
        product: Floats = (
            np.clip(self.inside, 0, 1) ** 2
            * np.clip(1 - self.around, 0.02, 1) ** 0.5
            * np.clip(self.outline, 0.01, 1)
            * np.clip(1 - self.within, 0.05, 1) ** 0.5
        )
        return product

    @property
    def described(self) -> Floats:
        """(N, 4) the same for a network."""
        return np.log(
            np.column_stack(
                (
                    self.inside + 0.02,
                    1.02 - self.around,
                    self.outline + 0.02,
                    1.05 - self.within,
                )
            )
        )


def agreement(tree: Tree, maps: PixelMaps) -> Agreement:
    """What the maps of its image say of the nodes of a tree."""
    leaves = tree.partition
    flat = leaves.labels.ravel()
    planes = (maps.any_inside, maps.outline, *maps.inside)
    sums = tree.sums(
        np.stack(
            [np.bincount(flat, weights=plane.ravel(), minlength=leaves.count) for plane in planes],
            axis=1,
        )
    )
    inside, outline, parents, areas = sums[:, 0], sums[:, 1], tree.parents, tree.areas
    rest = np.maximum(areas[parents] - areas, 1)
    graph = leaves.graph
    ridges = touching(leaves.labels, maps.outline, maps.outline).fine
    return Agreement(
        inside=inside / areas,
        around=np.where(areas[parents] > areas, (inside[parents] - inside) / rest, 1.0),
        outline=tree.along_contours(graph.lengths * ridges) / np.maximum(tree.lengths, 1),
        within=outline / areas,
        classes=sums[:, 2:] / areas[:, None],
    )
