"""What is segmented, and what a result can be made into, with torch or without."""

from __future__ import annotations

import os
from base64 import b64encode
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from html import escape
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from soloist.config import DEFAULT_READING, InferenceConfig, ReadingConfig
from soloist.data.coco.encoded import EncodedMasks
from soloist.data.coco.types import CATEGORIES, CocoImage
from soloist.data.coco.write import instances_to_annotations, write_coco
from soloist.data.drawing.rendering import (
    draw_large,
    draw_masks,
    jpeg_bytes,
    resize_masks,
    thumbnail,
)
from soloist.data.images import read_image, read_values
from soloist.errors import DataError, require
from soloist.runtime.files import inner_path, shown
from soloist.structures import Instances, Masks, Rows

if TYPE_CHECKING:
    from pandas import DataFrame
    from supervision import Detections
    from torch import Tensor

IMAGE_SUFFIXES = frozenset({".png", ".jpg", ".jpeg", ".webp", ".tif", ".tiff", ".bmp", ".gif"})
"""Kinds of images that are written; Pillow names others, some of which it cannot write."""
SHOWN_SIDE = 480
"""Pixels of the long side of an image in a notebook."""
_MAX_SCORES = 20  # More of them hide a small image.


@dataclass(frozen=True)
class Result(Instances[Rows, Masks]):
    """Objects found on one image, best first, and where the image is.

    `result.filter()` has those of the score that the model recommends, `result.filter(0.5)` those
    of another one; `result[0]`, `result[2:5]` and iteration choose by place. A pickle holds masks
    as run lengths, and `pixels` as they are: predict from paths to keep it small.

    The objects' own fields are those of `soloist.structures.Instances`. Of `predict(..., tile=...)`
    the masks stay compressed: `masks[k]` decodes the k-th one, and `plot` draws on a reduced
    image, without scores. Of an exported network all fields are arrays.

    Attributes:
        path: The image file; None when pixels were given.
        pixels: (H, W, 3) uint8 RGB; None when they are to be read from `path` when needed.
        name: The image's, different for each image of one `predict`: the path of a file within
            what was given, or `image`, `image-1`, `image-2`, ... when pixels were given. None
            takes the name of the file, or `image`.
        categories: Names of classes by category id; label k is the k-th of them.
        reading: How the file is read.
        recommended_score: What `filter()` keeps.
    """

    path: Path | None = None
    pixels: NDArray[np.uint8] | None = None
    name: str | None = None
    categories: Mapping[int, str] = field(default_factory=lambda: CATEGORIES)
    reading: ReadingConfig = DEFAULT_READING
    recommended_score: float = InferenceConfig().recommended_score

    @classmethod
    def of(cls, found: Instances[Rows, Masks], **image: Any) -> Result[Rows, Masks]:
        """Objects with their image: `path`, `pixels` and what else is no output of an object."""
        outputs = {name: getattr(found, name) for name in found.present()}
        return Result(image_size=found.image_size, **outputs, **image)

    def filter(self, keep: Any = None) -> Self:
        """Some of the objects, as a result of the same image.

        Args:
            keep: The least score, a number; (N,) bools; or (K,) indices in the order wanted. None
                takes the score that the model recommends.

        Raises:
            DataError: If a score is not in [0, 1].
        """
        if keep is None:
            keep = self.recommended_score
        if np.ndim(keep) == 0 and np.asarray(keep).dtype.kind in "iuf":
            if not 0 <= keep <= 1:
                raise DataError(
                    f"a least score must be in [0, 1], got {keep}; indices go in a list"
                )
            keep = np.asarray(self.scores) >= float(keep)
        return self._rows(keep)

    def __getitem__(
        self, chosen: int | slice | Sequence[int] | Sequence[bool] | NDArray[Any] | Tensor
    ) -> Self:
        """Some of the objects, as a result of the same image.

        Args:
            chosen: An index, a slice, K indices in the order wanted, or N bools.

        Raises:
            IndexError: If there is no such object, or the bools are not one for each.
            TypeError: If it is none of these.
        """
        if isinstance(chosen, slice):
            chosen = np.arange(*chosen.indices(len(self)))
        return self._rows(chosen)

    def _rows(self, chosen: Any) -> Self:
        """`__getitem__` without slices."""
        asked = np.asarray(chosen)
        if asked.ndim == 0 and asked.dtype.kind in "iu":
            asked = asked[None]
        if asked.size == 0 and asked.dtype.kind == "f":  # An empty list.
            asked = asked.astype(np.int64)
        if asked.ndim != 1 or asked.dtype.kind not in "biu":
            raise TypeError(
                "wanted an index, a slice, indices or one bool for each object, got "
                f"{asked.shape} {asked.dtype}"
            )
        return super().filter(np.arange(len(self))[asked])

    def __iter__(self) -> Iterator[Self]:
        """One result an object, in their order."""
        return (self[row] for row in range(len(self)))

    def __repr__(self) -> str:
        return f"<{type(self).__name__}: {self._summary()}>"

    def _repr_html_(self) -> str:
        """What a notebook shows: a small image with the masks, and a line about them."""
        lines = [f"<div>{escape(self._summary())}</div>"]
        try:
            data = b64encode(jpeg_bytes(self._small_image())).decode("ascii")
            lines.insert(0, f'<img alt="" src="data:image/jpeg;base64,{data}">')
        except DataError as error:
            lines.append(f"<div>{escape(str(error))}</div>")
        return "\n".join(lines)

    def __getstate__(self) -> dict[str, Any]:
        """What is pickled: masks as run lengths, a hundredth of their size and less."""
        if isinstance(self.masks, EncodedMasks):
            return {**vars(self)}
        rows = {name: np.asarray(getattr(self, name)) for name in self.present()}
        packed = {"masks": EncodedMasks.of(rows["masks"]), "kind": type(self.masks)}
        return {**vars(self), **rows, **packed}

    def __setstate__(self, state: dict[str, Any]) -> None:
        # Its fields cannot be set one by one: it is frozen.
        kind = state.pop("kind", None)
        vars(self).update(state)
        if kind is None:
            return
        rows: dict[str, Any] = {name: np.asarray(getattr(self, name)) for name in self.present()}
        if kind is not np.ndarray:
            import torch

            rows = {name: torch.from_numpy(values) for name, values in rows.items()}
        vars(self).update(rows)

    def plot(self) -> Image.Image:
        """The image with its masks drawn over it.

        One whose masks are compressed is reduced to at most 2048 pixels a side.

        Raises:
            DataError: If there are neither pixels nor a file that can be read.
        """
        pixels = self._image()
        if isinstance(self.masks, EncodedMasks):
            return Image.fromarray(draw_large(pixels, self.masks.largest_first()))
        drawn = draw_masks(pixels, np.asarray(self.masks), scores=self._listed(self.scores))
        return Image.fromarray(drawn)

    def save(self, path: str | Path) -> Path:
        """Writes `plot()` as an image, or, to a path that ends in `.json`, the COCO file.

        Args:
            path: Where to; its folder is made if needed. In a folder (one that is there, or whose
                name ends in a slash) the drawing is called `NAME.png`, such as `a.jpg.png`, in
                the image's own folders: images of one `predict` never take each other's place.

        Returns:
            The path of the file.

        Raises:
            DataError: If images of that suffix cannot be written, or as `plot`.
        """
        is_folder = str(path).endswith(("/", os.sep)) or Path(path).is_dir()
        path = Path(path, inner_path(self._name(), ending=".png")) if is_folder else Path(path)
        if path.suffix.lower() == ".json":
            image = CocoImage(1, self._name(), *self.image_size)
            write_coco(
                path,
                [image],
                instances_to_annotations(self, 1, 1, self.categories),
                embeddings=np.asarray(self.embeddings),
                categories=self.categories,
            )
            return path
        if path.suffix.lower() not in IMAGE_SUFFIXES:
            raise DataError(
                f"wanted an image such as masks.png, masks.json or a folder, got {shown(path)}; "
                "end its name in .png, .jpg or .json, or a folder's in a slash"
            )
        path.parent.mkdir(parents=True, exist_ok=True)
        self.plot().save(path)
        return path

    def to_coco(self, image_id: int = 1) -> dict[str, Any]:
        """A COCO dictionary of this one image, ready for JSON.

        Args:
            image_id: The id the image gets.
        """
        height, width = self.image_size
        return {
            "images": [
                {"id": image_id, "file_name": self._name(), "height": height, "width": width}
            ],
            "annotations": instances_to_annotations(self, image_id, 1, self.categories),
            "categories": [{"id": key, "name": name} for key, name in self.categories.items()],
        }

    def to_dict(self) -> dict[str, Any]:
        """Plain values ready for JSON, without the embeddings.

        Returns:
            `path` (None when pixels were given), `height` and `width` in pixels, and `objects`: a
            dict each of `category`, `category_id`, `score`, `box` (xyxy in pixels, exclusive
            end), `area` (pixels) and `mask`, COCO's compressed run lengths.
        """
        height, width = self.image_size
        objects = [
            {
                "category": self.categories[record["category_id"]],
                "category_id": record["category_id"],
                "score": record["score"],
                "box": box,
                "area": record["area"],
                "mask": record["segmentation"],
            }
            for record, box in zip(
                instances_to_annotations(self, 1, 1, self.categories),
                self._listed(self.boxes),
                strict=True,
            )
        ]
        path = None if self.path is None else self.path.as_posix()
        return {"path": path, "height": height, "width": width, "objects": objects}

    def to_pandas(self) -> DataFrame:
        """A table with a row an object, of what `soloist convert --format csv` writes.

        Returns:
            `image`, `id` (from 1 on in each image), `class`, `score`, `SHAPE_COLUMNS` of
            `soloist.data.exports.science` in pixels, and the mean and the sum of the image's
            values in each mask, a channel each; these are of the values that the file holds, and
            are left out where neither pixels nor the file are there.

        Raises:
            ConfigError: If pandas is absent.
            DataError: If the file cannot be read any more.
        """
        require("pandas", extra="science", wanted="to_pandas()")
        from pandas import DataFrame

        # scikit-image's measures are slow to load.
        from soloist.data.exports.science import SHAPE_COLUMNS, measure

        values = self.pixels
        if values is None and self.path is not None:
            values = read_values(self.path, reading=self.reading)
        rows = [
            {
                "image": self._name(),
                "id": record["id"],
                "class": self.categories[record["category_id"]],
                "score": record["score"],
                **measure(record["segmentation"], values),
            }
            for record in instances_to_annotations(self, 1, 1, self.categories)
        ]
        first = ["image", "id", "class", "score", *SHAPE_COLUMNS]
        return DataFrame(rows) if rows else DataFrame(columns=first)

    def show(self) -> None:
        """Opens `plot()` in the system's viewer of images; in a notebook name the result."""
        self.plot().show(title=self._name())

    def crops(self, *, margin: int = 0, cut: bool = True) -> list[Image.Image]:
        """The objects as images of their own.

        Args:
            margin: Pixels around each box, as far as the image goes.
            cut: Pixels outside of the mask are transparent; else the whole box is shown.

        Returns:
            An image an object in their order: RGBA if cut, else RGB.

        Raises:
            DataError: As `plot`.
        """
        pixels = self._image()
        height, width = pixels.shape[:2]
        images = []
        masks: Any = self.masks
        for mask, box in zip(masks, np.asarray(self.boxes).astype(int), strict=True):
            left, top = np.maximum(box[:2] - margin, 0)
            right, bottom = np.minimum(box[2:] + margin, (width, height))
            part = pixels[top:bottom, left:right]
            if cut:
                opaque = np.asarray(mask)[top:bottom, left:right].astype(np.uint8) * 255
                part = np.dstack((part, opaque))
            images.append(Image.fromarray(part))
        return images

    def to_supervision(self) -> Detections:
        """The same for the supervision library, whose annotators, zones and trackers take it.

        Returns:
            `Detections` with `xyxy`, `mask` (compact where the masks are compressed), `confidence`,
            `class_id` (the label, 0 where all are one class), `tracker_id` (the identity in a
            video) and `data["class_name"]`.

        Raises:
            ConfigError: If supervision is absent.
        """
        from soloist.inference.detections import to_detections

        return to_detections(self, self.categories)

    @staticmethod
    def from_supervision(
        detections: Detections,
        *,
        image: Any = None,
        categories: Mapping[int, str] | None = None,
    ) -> Result[Any, Any]:
        """What the supervision library filtered, tracked or merged, of any model, as a result.

        Args:
            detections: With masks; those without a confidence have a score of 1.
            image: What they were found on: a path, or pixels as `predict` takes them. Needed for
                images, and where there is no mask to tell the size.
            categories: Names by category id; class id k is the k-th of them. None takes the names
                that the detections have, with the class id plus one as category id.

        Returns:
            The objects as arrays, best first, their boxes tight; without embeddings, which
            supervision does not keep.

        Raises:
            DataError: If there are boxes without masks, the image has another size, a confidence
                is not in [0, 1], or a class id has no name or two.
        """
        from soloist.inference.detections import from_detections

        return from_detections(detections, image=image, categories=categories)

    @staticmethod
    def _listed(rows: Any) -> list[Any]:
        """Tensors and arrays alike as a list."""
        values: list[Any] = rows.tolist()
        return values

    def _name(self) -> str:
        if self.name is not None:
            return self.name
        return self.path.name if self.path is not None else "image"

    def _summary(self) -> str:
        count, (height, width) = len(self), self.image_size
        found = f"{count} {'object' if count == 1 else 'objects'}"
        where = f"{found} on {self._name()}, {height} x {width} pixels"
        if count == 0:
            return where
        scores = self._listed(self.scores)
        low, high = min(scores), max(scores)
        return f"{where}, scores {high:.2f} to {low:.2f}"

    def _image(self, short_side: int | None = None) -> NDArray[np.uint8]:
        """(H, W, 3) uint8; of a file smaller, but not below `short_side`."""
        if self.pixels is not None:
            return self.pixels
        if self.path is None:
            raise DataError("wanted a result with its image, got neither pixels nor a path")
        return read_image(self.path, reading=self.reading, short_side=short_side)

    def _small_image(self) -> NDArray[np.uint8]:
        if isinstance(self.masks, EncodedMasks):
            largest = self.masks.largest_first()
            return draw_large(self._image(), largest, max_side=SHOWN_SIDE)
        pixels = thumbnail(self._image(SHOWN_SIDE), SHOWN_SIDE)
        masks = resize_masks(np.asarray(self.masks), (pixels.shape[0], pixels.shape[1]))
        scores = self._listed(self.scores) if len(self) <= _MAX_SCORES else None
        return draw_masks(pixels, masks, scores=scores)
