"""Groups of the masks of a COCO file."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from rich.table import Table

from soloist.data.coco.types import CocoAnnotation, CocoFile
from soloist.data.coco.write import write_categories
from soloist.data.drawing.contact_sheets import SHEET_COLUMNS, CutOut, contact_sheet, write_sheet
from soloist.errors import ConfigError, DataError
from soloist.evaluation.explore.clusters import (
    centered,
    choose_count,
    kmeans,
    mutual_information,
    nearest_groups,
    purity,
)
from soloist.evaluation.explore.sources import in_order
from soloist.evaluation.matching import overlaps, take_best
from soloist.ops.vectors import unit_vectors
from soloist.runtime.files import shown

logger = logging.getLogger(__name__)

CANDIDATES = (2, 3, 4, 6, 8, 12, 16, 24, 32, 48, 64)
"""Numbers of groups that `auto` chooses from."""
SHEET_MASKS = 40
"""Of a group's contact sheet."""
NO_GROUP = -1


@dataclass(frozen=True)
class MaskGroups:
    """Groups of the A masks of a file.

    Attributes:
        annotations: The masks, in the file's order.
        labels: (A,) int64 group, 0 the largest; `NO_GROUP` where a mask has no vector.
        similarities: (A,) float32 cosine with the centre of the group; 0 without one.
        learned: (A,) bool: the masks the groups were learned from.
        count: How many groups there are.
        silhouettes: Of each number that was tried; empty if the number was given.
    """

    annotations: tuple[CocoAnnotation, ...]
    labels: NDArray[np.int64]
    similarities: NDArray[np.float32]
    learned: NDArray[np.bool_]
    count: int
    silhouettes: Mapping[int, float]

    def members(self, group: int) -> NDArray[np.int64]:
        """Rows of the masks a group was learned from, the most typical first."""
        rows = np.flatnonzero(self.learned & (self.labels == group))
        return rows[np.argsort(-self.similarities[rows], kind="stable")]


def group_masks(
    file: CocoFile,
    vectors: NDArray[np.float32],
    count: int | None,
    *,
    min_score: float = 0.0,
    center: bool = True,
    seed: int = 0,
) -> MaskGroups:
    """Groups masks by the direction of their vectors.

    Args:
        file: The masks.
        vectors: (A, E) float32 in the file's order; zero where a mask has none.
        count: How many groups; None chooses among `CANDIDATES` by the silhouette.
        min_score: Masks below it do not shape the groups; they get the nearest one.
        center: Take off the direction that all vectors share; see `clusters.centered`.
        seed: Of k-means.

    Raises:
        ConfigError: If count is less than 1.
        DataError: If there are fewer masks than groups.
    """
    if count is not None and count < 1:
        raise ConfigError(f"groups must be auto, or 1 or more, got {count}")
    annotations = in_order(file)
    vectors = unit_vectors(vectors)
    known = vectors.any(axis=1)
    learned = known & np.array([one.score >= min_score for one in annotations], dtype=np.bool_)
    if center and learned.any():
        vectors = centered(vectors, vectors[learned])
    chosen = vectors[learned]
    wanted = 2 if count is None else count
    if len(chosen) < wanted:
        raise DataError(
            f"wanted at least {wanted} masks of score >= {min_score:g} to group, got "
            f"{len(chosen)} in {shown(file.path)}; ask for fewer groups or lower --min-score"
        )
    silhouettes: dict[int, float] = {}
    if count is None:
        candidates = [number for number in CANDIDATES if number <= len(chosen)]
        count, silhouettes = choose_count(chosen, candidates, seed=seed)
    centers = kmeans(chosen, count, seed=seed).centers
    if len(centers) < count:
        logger.warning("only %d groups: no more masks differ from each other", len(centers))
    groups = nearest_groups(vectors, centers)
    return MaskGroups(
        annotations=annotations,
        labels=np.where(known, groups.labels, NO_GROUP),
        similarities=groups.similarities,
        learned=learned,
        count=len(centers),
        silhouettes=silhouettes,
    )


def score_groups(groups: MaskGroups, file: CocoFile, truth: CocoFile) -> dict[str, Any]:
    """How well groups agree with the classes of a ground truth, which they were made without.

    Masks the groups were learned from are paired with true objects as COCO does: the best score
    first, each takes the free one that fits best; an IoU of 0.5 or more counts.

    Args:
        groups: Groups of the file's masks.
        file: The masks.
        truth: A ground truth with classes.

    Returns:
        objects, matched, classes and groups (counts among the matched objects), nmi, ami (adjusted
        for chance) and purity.

    Raises:
        DataError: If the ground truth has one class, or matches no image or mask.
    """
    if len(truth.categories) < 2:
        raise DataError(
            f"wanted classes to compare groups with, got {shown(truth.path)} with one category; "
            "give a COCO file that tells kinds of objects apart"
        )
    labels: list[int] = []
    classes: list[int] = []
    objects = 0
    for overlap in overlaps(file, truth).values():
        objects += len(overlap.objects)
        rows = [row for row, one in enumerate(overlap.predicted) if groups.learned[one.index]]
        rows.sort(key=lambda row: -overlap.predicted[row].score)  # used at once
        for row, column in zip(rows, take_best(overlap.ious[rows]).tolist(), strict=True):
            if column >= 0:
                labels.append(int(groups.labels[overlap.predicted[row].index]))
                classes.append(overlap.objects[column].category_id)
    if not labels:
        raise DataError(
            f"wanted masks on the objects of {shown(truth.path)}, got none that overlaps one by "
            "half; lower --min-score or check that the files belong together"
        )
    group_of = np.unique(labels, return_inverse=True)[1].astype(np.int64)
    class_of = np.unique(classes, return_inverse=True)[1].astype(np.int64)
    normalized, adjusted = mutual_information(group_of, class_of)
    return {
        "objects": objects,
        "matched": len(labels),
        "classes": len(set(classes)),
        "groups": len(set(labels)),
        "nmi": normalized,
        "ami": adjusted,
        "purity": purity(group_of, class_of),
    }


def write_groups(groups: MaskGroups, file: CocoFile, out: Path, info: Mapping[str, Any]) -> None:
    """Writes a COCO file whose categories are the groups; all else in it stays.

    Args:
        groups: Groups of the file's masks.
        file: The masks.
        out: The file to write; embeddings go beside it.
        info: What the groups were made with, for the key `groups` of the file's `info`.
    """
    names = {number + 1: f"group {number + 1}" for number in range(groups.count)}
    ids = groups.labels + 1
    if (groups.labels == NO_GROUP).any():
        ids = np.where(groups.labels == NO_GROUP, groups.count + 1, ids)
        names[groups.count + 1] = "no group"
    silhouettes = {str(count): round(one, 4) for count, one in groups.silhouettes.items()}
    record = {**info, "count": groups.count, "silhouettes": silhouettes}
    write_categories(file, out, ids.tolist(), names, info={"groups": record})


def group_table(groups: MaskGroups) -> Table:
    """Size and density of each group."""
    table = Table()
    for name in ("group", "masks", "images", "mean similarity"):
        table.add_column(name, justify="right")
    for number in range(groups.count):
        rows = groups.members(number)
        images = {groups.annotations[row].image_id for row in rows}
        mean = f"{_mean(groups.similarities[rows]):.3f}"
        table.add_row(str(number + 1), str(len(rows)), str(len(images)), mean)
    return table


def draw_groups(groups: MaskGroups, paths: Mapping[int, Path], folder: Path) -> list[Path]:
    """Writes `overview.jpg`, a line for each group, and a contact sheet for each group.

    Sheets show the most typical masks, of different images as far as there are.

    Args:
        groups: The groups.
        paths: Where the image of each id is.
        folder: Where to; made if needed.

    Returns:
        Paths of the images, the overview first.
    """
    digits = len(str(groups.count))
    lines: list[tuple[str, list[CutOut]]] = []
    sheets: list[Path] = []
    for number in range(groups.count):
        rows = groups.members(number)
        title = (
            f"group {number + 1}: {len(rows)} masks, "
            f"mean similarity {_mean(groups.similarities[rows]):.2f}"
        )
        members = [
            groups.annotations[row] for row in rows if groups.annotations[row].image_id in paths
        ]
        cut_outs = [
            CutOut(paths[one.image_id], one.rle)
            for one in _one_an_image_first(members)[:SHEET_MASKS]
        ]
        lines.append((title, cut_outs[:SHEET_COLUMNS]))
        path = folder / f"group-{number + 1:0{digits}d}.jpg"
        sheets.append(write_sheet(path, contact_sheet([(title, cut_outs)])))
    overview = write_sheet(folder / "overview.jpg", contact_sheet(lines))
    return [overview, *sheets]


def _one_an_image_first(annotations: Sequence[CocoAnnotation]) -> list[CocoAnnotation]:
    """The first mask of each image, then the others, both in their order."""
    seen: set[int] = set()
    first: list[CocoAnnotation] = []
    rest: list[CocoAnnotation] = []
    for one in annotations:
        (rest if one.image_id in seen else first).append(one)
        seen.add(one.image_id)
    return first + rest


def _mean(values: NDArray[np.float32]) -> float:
    return float(values.mean()) if len(values) else 0.0
