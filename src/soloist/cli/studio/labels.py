"""The labels of a folder: one COCO file, and a journal so that a kill loses nothing.

What is done to an image is in the journal, on the disk, before the page hears that it is done.
The COCO file is written now and then, which empties the journal.
"""

from __future__ import annotations

import errno
import json
import os
import threading
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from soloist.cli.studio.acts import Drawn, Labelled
from soloist.data.coco.read import load_coco
from soloist.data.coco.rle import mask_area, mask_box_xywh
from soloist.data.coco.types import CocoAnnotation, CocoFile, CocoImage
from soloist.data.coco.write import annotation_records, write_coco
from soloist.data.sources import ImageRef
from soloist.errors import DataError
from soloist.runtime.files import appending, shown

LABELS, JOURNAL = "labels.json", "journal.jsonl"
MAX_UNDONE = 200
"""Steps of an image that can be taken back."""


@dataclass
class _History:
    """The states of an image: those before, the one that holds, those that were taken back."""

    now: Labelled = field(default_factory=Labelled)
    past: list[Labelled] = field(default_factory=list)
    future: list[Labelled] = field(default_factory=list)


class LabelStore:
    """The objects of all images, on the disk as soon as they change.

    Args:
        folder: Where the files are; what is there already is read.
        images: The images.
        sources: Where they came from, for the file.
        names: Names of classes for a new file.

    Attributes:
        categories: Names of classes by id.

    Raises:
        DataError: If the files that are there cannot be read.
    """

    def __init__(
        self,
        folder: Path,
        images: Sequence[ImageRef],
        sources: Sequence[str],
        names: Sequence[str] = ("object",),
    ) -> None:
        self.path = folder / LABELS
        self._journal = folder / JOURNAL
        self._sources = [str(Path(one).expanduser().absolute()) for one in sources]
        self._lock = threading.RLock()
        self._histories: dict[str, _History] = {}
        self._sizes: dict[str, tuple[int, int]] = {}
        self._unwritten = False
        self.categories = dict(enumerate(names, start=1))
        folder.mkdir(parents=True, exist_ok=True)
        self._order = {image.name: place for place, image in enumerate(images)}
        self._read()

    def __getitem__(self, name: str) -> Labelled:
        return self._of(name).now

    def can_undo(self, name: str) -> tuple[bool, bool]:
        """Whether there is a step to take back, and one to do again."""
        history = self._of(name)
        return bool(history.past), bool(history.future)

    def put(self, name: str, size: tuple[int, int], state: Labelled) -> None:
        """The new objects of an image; they are on the disk when this returns.

        Raises:
            RunError: If they cannot be written; then nothing has changed.
        """
        with self._lock:
            history = self._of(name)
            if state == history.now:
                return
            self._note(name, size, state)
            history.past = [*history.past, history.now][-MAX_UNDONE:]
            history.now, history.future = state, []

    def undo(self, name: str) -> None:
        """Takes the last step back, if there is one."""
        with self._lock:
            history = self._of(name)
            if history.past:
                self._note(name, self._sizes[name], history.past[-1])
                history.future.append(history.now)
                history.now = history.past.pop()

    def redo(self, name: str) -> None:
        """Does again what was taken back last, if nothing else was done since."""
        with self._lock:
            history = self._of(name)
            if history.future:
                self._note(name, self._sizes[name], history.future[-1])
                history.past.append(history.now)
                history.now = history.future.pop()

    def set_categories(self, categories: Mapping[int, str]) -> None:
        """Names the classes anew.

        Raises:
            DataError: If there is none, two are called alike, or one is gone that objects have.
        """
        names = [name.strip() for name in categories.values()]
        if not names or not all(names):
            raise DataError("wanted a name for each class, got an empty one")
        if len(set(names)) < len(names):
            raise DataError("wanted different names of classes, got one twice")
        with self._lock:
            used = {
                one.category_id for each in self._histories.values() for one in each.now.objects
            }
            if used - {*categories}:
                raise DataError(
                    f"class {self.categories[min(used - {*categories})]!r} has objects; give them "
                    "another class first"
                )
            self._append({"categories": [[key, name] for key, name in categories.items()]})
            self.categories = dict(zip(categories, names, strict=True))

    def write(self) -> None:
        """Writes the COCO file, if anything changed since, and empties the journal.

        Raises:
            RunError: If it cannot be written.
        """
        with self._lock:
            if not self._unwritten and self.path.is_file():
                return
            file = self.to_coco()
            write_coco(
                self.path,
                file.images,
                annotation_records(
                    one for image in file.images for one in file.annotations[image.id]
                ),
                info=file.info,
                categories=file.categories,
            )
            self._journal.unlink(missing_ok=True)
            self._unwritten = False

    def to_coco(self, names: Iterable[str] | None = None) -> CocoFile:
        """The labels as a COCO file in memory.

        Args:
            names: Of the images wanted; None for all that anything was done to.
        """
        with self._lock:
            known = [name for name in self._histories if name in self._sizes]
            wanted = [name for name in known if names is None or name in set(names)]
            # Images that are not in the folder any more keep their labels.
            wanted.sort(key=lambda name: self._order.get(name, len(self._order)))
            images: list[CocoImage] = []
            annotations: dict[int, tuple[CocoAnnotation, ...]] = {}
            count = 0
            for number, name in enumerate(wanted, start=1):
                images.append(CocoImage(number, name, *self._sizes[name]))
                objects = self._histories[name].now.objects
                annotations[number] = tuple(
                    CocoAnnotation(
                        image_id=number,
                        segmentation=dict(one.rle),
                        box_xywh=_box(one),
                        area=mask_area(one.rle),
                        score=1.0,
                        category_id=one.category_id,
                        iscrowd=False,
                        index=count + at,
                        id=count + at + 1,
                    )
                    for at, one in enumerate(objects)
                )
                count += len(objects)
            unfinished = [name for name in wanted if not self._histories[name].now.finished]
            return CocoFile(
                path=self.path,
                images=tuple(images),
                annotations=annotations,
                categories=dict(self.categories),
                embeddings=None,
                info={"command": "studio", "images": self._sources, "unfinished": unfinished},
            )

    def _of(self, name: str) -> _History:
        return self._histories.setdefault(name, _History())

    def _note(self, name: str, size: tuple[int, int], state: Labelled) -> None:
        objects = [[one.number, one.rle["counts"], one.category_id] for one in state.objects]
        self._append({"image": name, "size": size, "finished": state.finished, "objects": objects})
        self._sizes[name] = size

    def _append(self, entry: Mapping[str, Any]) -> None:
        line = json.dumps(entry).encode("ascii") + b"\n"
        with appending(self._journal), self._journal.open("ab", buffering=0) as file:
            before = file.tell()
            try:
                if file.write(line) < len(line):
                    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
                os.fsync(file.fileno())
            except OSError:
                # A part of a line would spoil the next one.
                file.truncate(before)
                raise
        self._unwritten = True

    def _read(self) -> None:
        if self.path.is_file():
            file = load_coco(self.path)
            self.categories = dict(file.categories) or self.categories
            unfinished = file.unfinished
            for image in file.images:
                objects = tuple(
                    Drawn(number, one.rle, one.category_id)
                    for number, one in enumerate(file.annotations[image.id], start=1)
                )
                self._sizes[image.file_name] = (image.height, image.width)
                finished = image.file_name not in unfinished
                self._histories[image.file_name] = _History(Labelled(objects, finished))
        if not self._journal.is_file():
            return
        lines = self._journal.read_bytes().split(b"\n")
        # What follows the last line break was cut off by a kill; it was never reported as done.
        for number, line in enumerate(lines[:-1], start=1):
            try:
                self._replay(json.loads(line))
            except (ValueError, KeyError, TypeError) as error:
                raise DataError(
                    f"line {number} of {shown(self._journal)} is damaged; remove that line, or the "
                    f"file, whose changes since the last write of {LABELS} are then lost"
                ) from error
        self._unwritten = True
        self.write()

    def _replay(self, entry: Mapping[str, Any]) -> None:
        if "categories" in entry:
            self.categories = {int(key): str(name) for key, name in entry["categories"]}
            return
        height, width = entry["size"]
        self._sizes[entry["image"]] = (height, width)
        objects = tuple(
            Drawn(number, {"size": [height, width], "counts": counts}, category_id)
            for number, counts, category_id in entry["objects"]
        )
        self._histories[entry["image"]] = _History(Labelled(objects, entry["finished"]))


def _box(one: Drawn) -> tuple[float, float, float, float]:
    left, top, width, height = mask_box_xywh(one.rle)
    return left, top, width, height
