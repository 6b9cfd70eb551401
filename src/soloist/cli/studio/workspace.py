"""A folder of images in the studio: which is next, what is done to them, what is learned."""

from __future__ import annotations

import json
import logging
import threading
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

from soloist.cli.studio.acts import Act, Labelled, apply
from soloist.cli.studio.labels import LabelStore
from soloist.cli.studio.learning import Learning
from soloist.cli.studio.open_image import OpenImage, open_image
from soloist.data.coco.outlines import outline
from soloist.data.coco.read import read_json
from soloist.data.exports.export import export
from soloist.data.exports.formats import EXPORT_FORMATS
from soloist.data.exports.options import FormatName
from soloist.data.sources import ImageRef
from soloist.errors import ConfigError, DataError
from soloist.evaluation.agreement import image_estimate
from soloist.inference.segmenter import load
from soloist.runtime.files import shown, write_json

logger = logging.getLogger(__name__)

KEPT_OPEN = 3
"""Images whose trees stay in memory: the one that is shown and its neighbours."""
MAX_DOUBTED = 500
"""Images that are looked at ahead, to find those of most doubt."""
TOLERANCE = 2500
"""Outlines are drawn to one part in N of the long side of the image."""
MAX_OUTLINES = 5000
"""Outlines that are remembered."""
STATE = "studio.json"


@dataclass(frozen=True)
class Model:
    """What segments.

    Attributes:
        path: As for `soloist.load`; None for the bundled segmenter.
        device: As for `soloist.load`.
        precision: As for `soloist.load`.
    """

    path: str | None = None
    device: str = "auto"
    precision: str = "auto"


class Workspace:
    """What the page shows and does, without the page.

    Args:
        images: The images, at least one.
        folder: Where labels, models and exports go.
        sources: Where the images came from.
        model: What segments until something is learned.
        names: Names of classes, for a folder that has no labels yet.
        order: Estimates by name, the lowest of which comes first; None looks for doubt.

    Raises:
        DataError: If labels that are there cannot be read.
        CheckpointError: If the model cannot be had.
    """

    def __init__(
        self,
        images: Sequence[ImageRef],
        folder: Path,
        *,
        sources: Sequence[str],
        model: Model = Model(),  # immutable
        names: Sequence[str] = ("object",),
        order: Mapping[str, float] | None = None,
    ) -> None:
        self.images = images
        self.folder = folder
        self.labels = LabelStore(folder, images, sources, names)
        self._model = model
        self._learned = self._last_model()
        self.version = 0
        self._segmenter = self._load(self._learned or model.path)
        self._estimates: dict[str, float] = dict(order or {})
        self._guessed = order is None
        self._open: OrderedDict[tuple[int, int], Future[OpenImage]] = OrderedDict()
        self._lock = threading.RLock()
        self._pool = ThreadPoolExecutor(max_workers=1, thread_name_prefix="studio-open")
        self._ending = threading.Event()
        self._wanted = threading.Event()
        self.learning = Learning(self._use_learned)
        self._helper = threading.Thread(target=self._help, name="studio-help", daemon=True)
        self._helper.start()

    def close(self) -> None:
        """Writes the labels and ends what runs beside the page."""
        self._ending.set()
        self.learning.stop()
        self._pool.shutdown(cancel_futures=True)
        self._helper.join()
        self.labels.write()

    def image(self, index: int) -> OpenImage:
        """An image with its trees, from memory where it was open a moment ago.

        Raises:
            DataError: If it cannot be read.
        """
        return self._opened(index).result()

    def prefetch(self, index: int) -> None:
        """Opens an image that is likely to be asked for next."""
        self._opened(index)

    def overview(self) -> dict[str, Any]:
        """What the page shows beside the image."""
        estimates = self._estimates
        images = []
        for image in self.images:
            state = self.labels[image.name]
            images.append(
                {
                    "name": image.name,
                    "objects": len(state.objects),
                    "finished": state.finished,
                    "estimate": estimates.get(image.name),
                }
            )
        return {
            "images": images,
            "categories": [[key, name] for key, name in self.labels.categories.items()],
            "formats": list(EXPORT_FORMATS),
            "labels": str(self.labels.path),
            "model": self._learned or self._model.path or "bundled",
            "recommended": self._segmenter.config.inference.recommended_score,
            "version": self.version,
            "learning": self.learning.progress.to_json(),
        }

    def next_index(self, index: int) -> int:
        """The image to look at after one: of those not finished the one of least estimate.

        Images that have no estimate yet come after those that have one, in their own order. Where
        all are finished it is the next one.
        """
        name_of = [image.name for image in self.images]
        left = [
            at for at, name in enumerate(name_of) if at != index and not self.labels[name].finished
        ]
        if not left:
            return (index + 1) % len(name_of)
        return min(left, key=lambda at: (self._estimates.get(name_of[at], 1.0), at < index, at))

    def state(self, index: int) -> dict[str, Any]:
        """The objects of an image, for the page."""
        name = self._name(index)
        image = self.image(index)
        can_undo, can_redo = self.labels.can_undo(name)
        state = self.labels[name]
        tolerance = max(0.5, max(image.size) / TOLERANCE)
        return {
            "index": index,
            "name": name,
            "size": image.size,
            "finished": state.finished,
            "canUndo": can_undo,
            "canRedo": can_redo,
            "version": self.version,
            "next": self.next_index(index),
            "objects": [
                {
                    "number": one.number,
                    "category": one.category_id,
                    "rings": _rings(one.rle["counts"], image.size, tolerance),
                }
                for one in state.objects
            ],
        }

    def act(self, index: int, act: Act) -> dict[str, Any]:
        """Does something to an image; it is on the disk when this returns.

        Raises:
            DataError: If it cannot be done; one line for people.
            RunError: If it cannot be written.
        """
        name = self._name(index)
        if act.get("act") in ("undo", "redo"):
            self.labels.undo(name) if act["act"] == "undo" else self.labels.redo(name)
            return self.state(index)
        version = act.get("version", self.version)
        if not isinstance(version, int):
            raise DataError(f"wanted a version that is a number, got {version!r}")
        with self._lock:
            # What is shown may be older than the newest model.
            shown = self._open.get((index, version))
        if shown is None and act.get("items") and version != self.version:
            raise DataError("there are new masks since; load the page again")
        image = self.image(index) if shown is None else shown.result()
        with self._lock:
            before = self.labels[name]
            after = apply(image, before, act)
            self.labels.put(name, image.size, after)
        return {**self.state(index), "added": _added(before, after)}

    def learn(self) -> None:
        """Starts a training on the finished images, and on what is kept on the others.

        Raises:
            DataError: If there is nothing to learn from.
            RunError: If one is running, or the labels cannot be written.
        """
        states = [self.labels[image.name] for image in self.images]
        if not any(state.finished and state.objects for state in states):
            raise DataError(
                "wanted a finished image with objects, got none; finish one (F), then learn"
            )
        self.labels.write()
        run = self._folder_for_model()
        init = self._model.path or "bundled"
        arguments = [str(self.labels.path), "--init", init, "--out", str(run)]
        arguments += ["--device", self._model.device, "--precision", self._model.precision]
        self.learning.start(arguments, run, sum(bool(state.objects) for state in states))

    def export(self, format: str) -> dict[str, Any]:
        """Writes the labels in another tool's format.

        Raises:
            ConfigError: If there is no such format.
            DataError: If there is nothing to write.
            RunError: If it cannot be written.
        """
        if format not in EXPORT_FORMATS:
            raise ConfigError(f"wanted one of {', '.join(EXPORT_FORMATS)}, got {format!r}")
        self.labels.write()
        file = self.labels.to_coco()
        if not file.images:
            raise DataError("wanted an image with objects, got none yet")
        by_name = {image.name: image.path for image in self.images}
        paths = {
            image.id: by_name[image.file_name]
            for image in file.images
            if image.file_name in by_name
        }
        name: FormatName = next(one for one in EXPORT_FORMATS if one == format)
        folder = self.folder / f"export-{name}"
        summary = export(file, paths, folder, name, overwrite=True)
        return {"folder": str(folder), "images": summary.images, "masks": summary.masks}

    def _name(self, index: int) -> str:
        if not 0 <= index < len(self.images):
            raise DataError(f"wanted an image from 0 to {len(self.images) - 1}, got {index}")
        return self.images[index].name

    def _opened(self, index: int) -> Future[OpenImage]:
        self._name(index)
        with self._lock:
            key = (index, self.version)
            future = self._open.get(key)
            if future is None or (future.done() and future.exception() is not None):
                self._wanted.set()
                segmenter = self._segmenter
                future = self._pool.submit(open_image, self.images[index], segmenter)
                self._open[key] = future
            self._open.move_to_end(key)
            while len(self._open) > KEPT_OPEN:
                self._open.popitem(last=False)
            return future

    def _help(self) -> None:
        """Finds doubt, and writes the COCO file now and then; beside the page, and after it."""
        ahead = list(range(min(len(self.images), MAX_DOUBTED))) if self._guessed else []
        while not self._ending.wait(0.5 if ahead else 5.0):
            try:
                self.labels.write()
            except ValueError as error:
                logger.warning("%s", error)
            if self._wanted.is_set():
                # Somebody is at work; the processor is theirs for a while.
                self._wanted.clear()
                continue
            if ahead:
                self._find_doubt(ahead.pop(0))

    def _find_doubt(self, index: int) -> None:
        name = self._name(index)
        if self.labels[name].finished:
            return
        try:
            image = open_image(self.images[index], self._segmenter)
        except DataError as error:
            logger.warning("%s", error)
            return
        scores = image.scores[image.offered]
        self._estimates[name] = image_estimate(scores, scores)

    def _load(self, path: str | None) -> Any:
        return load(path, device=self._model.device, precision=self._model.precision)

    def _use_learned(self, run: Path) -> None:
        segmenter = self._load(str(run))
        write_json(self.folder / STATE, {"model": run.name})
        with self._lock:
            self._segmenter = segmenter
            self._learned = str(run)
            self.version += 1

    def _last_model(self) -> str | None:
        """The model that was learned in this folder last, if it is still there."""
        file = self.folder / STATE
        if not file.is_file():
            return None
        content = read_json(file)
        name = content.get("model") if isinstance(content, dict) else None
        run = self.folder / "models" / str(name)
        if not (run / "model").is_dir():
            logger.warning("%s names a model that is gone: %s", shown(file), shown(run))
            return None
        return str(run)

    def _folder_for_model(self) -> Path:
        models = self.folder / "models"
        taken = [int(one.name) for one in models.glob("*") if one.name.isdecimal()]
        return models / str(1 + max(taken, default=0))


@lru_cache(MAX_OUTLINES)
def _rings(counts: str, size: tuple[int, int], tolerance: float) -> list[list[float]]:
    """The outlines of a mask as x, y, x, y, ... in pixels, holes too."""
    return [
        ring.round(1).ravel().tolist()
        for part in outline({"size": list(size), "counts": counts}, tolerance)
        for ring in (part.outer, *part.holes)
    ]


def _added(before: Labelled, after: Labelled) -> list[int]:
    known = {one.number for one in before.objects}
    return [one.number for one in after.objects if one.number not in known]


def read_order(path: Path) -> dict[str, float]:
    """Estimates by name, of a file of `soloist estimate`; what it selected comes before all others.

    Raises:
        DataError: If it is none.
    """
    content = read_json(path)
    rows = content.get("images") if isinstance(content, dict) else None
    try:
        estimates = {str(row["file_name"]): float(row["estimate"]) for row in rows or ()}
        selected = content.get("selected", ()) if isinstance(content, dict) else ()
        first = {str(name): float(at - len(selected)) for at, name in enumerate(selected)}
        return {**estimates, **first}
    except (KeyError, TypeError, ValueError, json.JSONDecodeError) as error:
        raise DataError(
            f"wanted a file of `soloist estimate`, got {shown(path)}, whose images have no "
            "estimate; make one with soloist estimate IMAGES --out FILE.json"
        ) from error
