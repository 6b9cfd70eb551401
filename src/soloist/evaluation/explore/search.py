"""The masks of a COCO file that look most like one of them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from rich.table import Table

from soloist.data.coco.types import CocoAnnotation, CocoFile
from soloist.data.drawing.contact_sheets import CutOut, contact_sheet, write_sheet
from soloist.errors import DataError
from soloist.evaluation.explore.clusters import centered
from soloist.evaluation.explore.sources import in_order
from soloist.runtime.files import shown


@dataclass(frozen=True)
class Match:
    """A mask and its likeness to the one that was asked for.

    Attributes:
        annotation: The mask.
        file_name: Its image.
        similarity: Cosine of the two embeddings, less what all of the file share.
    """

    annotation: CocoAnnotation
    file_name: str
    similarity: float


def look_alikes(
    file: CocoFile,
    vectors: NDArray[np.float32],
    mask_id: int,
    *,
    count: int = 20,
    elsewhere: bool = False,
) -> tuple[Match, list[Match]]:
    """The masks nearest to one of a file, by the cosine of their centred vectors.

    Args:
        file: The masks.
        vectors: (A, E) float32 unit vectors in the file's order.
        mask_id: `id` of the annotation to compare with.
        count: How many, at most.
        elsewhere: Leave out the masks of the same image.

    Returns:
        The mask itself, and the others, the most similar first; of equals the earlier.

    Raises:
        DataError: If the file has no such id.
    """
    annotations = in_order(file)
    names = {image.id: image.file_name for image in file.images}
    row = next((row for row, one in enumerate(annotations) if one.id == mask_id), None)
    if row is None:
        ids = [one.id for one in annotations]
        raise DataError(
            f"wanted the id of one of the {len(ids)} masks of {shown(file.path)} "
            f"({min(ids)} to {max(ids)}), got {mask_id}"
        )
    vectors = centered(vectors, vectors)
    similarities = vectors @ vectors[row]
    allowed = np.array(
        [
            other != row and not (elsewhere and one.image_id == annotations[row].image_id)
            for other, one in enumerate(annotations)
        ]
    )
    order = np.argsort(np.where(allowed, -similarities, np.inf), kind="stable")
    found = [
        Match(annotations[place], names[annotations[place].image_id], float(similarities[place]))
        for place in order[: min(count, int(allowed.sum()))]
    ]
    return Match(annotations[row], names[annotations[row].image_id], 1.0), found


def match_table(matches: Sequence[Match]) -> Table:
    """Look-alikes as a table."""
    table = Table()
    for name in ("rank", "id", "similarity", "score"):
        table.add_column(name, justify="right")
    table.add_column("image", overflow="fold")
    for rank, match in enumerate(matches, start=1):
        numbers = (f"{match.similarity:.3f}", f"{match.annotation.score:.2f}")
        table.add_row(str(rank), str(match.annotation.id), *numbers, match.file_name)
    return table


def draw_look_alikes(
    query: Match, matches: Sequence[Match], paths: Mapping[int, Path], folder: Path
) -> Path:
    """Writes a contact sheet of a mask and its look-alikes, `search-ID.jpg`.

    Args:
        query: The mask that was asked for, shown first.
        matches: Its look-alikes.
        paths: Where the image of each id is.
        folder: Where to; made if needed.
    """
    cut_outs = [
        CutOut(
            paths[one.annotation.image_id],
            one.annotation.rle,
            f"{one.annotation.id}: {one.similarity:.2f}",
        )
        for one in (query, *matches)
        if one.annotation.image_id in paths
    ]
    title = f"mask {query.annotation.id} (first) and its {len(matches)} nearest"
    sheet = contact_sheet([(title, cut_outs)])
    return write_sheet(folder / f"search-{query.annotation.id}.jpg", sheet)
