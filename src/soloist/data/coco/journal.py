"""Finished images kept on disk while a COCO file is being made, so that a kill loses none.

Each finished image is a line of JSON and some rows of raw float32 embeddings. When all are there,
both are streamed into the COCO file and its sidecar; memory does not grow with their number.
Processes that share the images write a part of the journal each.
"""

from __future__ import annotations

import json
import logging
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import asdict
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

import numpy as np
from numpy.typing import NDArray

from soloist.data.coco.encoded import EncodedInstances
from soloist.data.coco.types import CATEGORIES, CocoImage
from soloist.data.coco.write import (
    EmbeddingBlocks,
    embeddings_path,
    instances_to_annotations,
    write_coco,
)
from soloist.data.georeference import Georeference
from soloist.errors import RunError
from soloist.runtime.files import appending, plain_json, remove_leftovers, shown, write_json
from soloist.structures import Instances

logger = logging.getLogger(__name__)


class Journal:
    """The unfinished results of one output file.

    Results of earlier runs count whatever number of processes made them.

    Args:
        target: The COCO file to be made.
        settings: What the results depend on; results of other settings are not continued.
        part: Number of the process that adds images. Process 0 opens the journal before the
            others do: it drops what cannot be continued.
        categories: Names by id; see `instances_to_annotations`.
        resume: Go on with results of the same settings; else they are dropped too.

    Raises:
        RunError: If the journal cannot be read or written.
    """

    def __init__(
        self,
        target: Path,
        settings: Mapping[str, Any],
        *,
        part: int = 0,
        categories: Mapping[int, str] = CATEGORIES,
        resume: bool = True,
    ) -> None:
        self._target = target
        self._categories = categories
        self._head = _head(target)
        self._resume = resume
        try:
            self._open(plain_json(settings), part)
        except OSError as error:
            raise RunError(
                f"cannot write beside {shown(target)} ({error.strerror}); choose another --out"
            ) from error

    @property
    def done(self) -> frozenset[str]:
        """Names of the images that are finished."""
        return frozenset(name for part in self._parts for name in part.offsets)

    def __len__(self) -> int:
        """Annotations so far."""
        return sum(part.annotations for part in self._parts)

    def add(
        self,
        image: CocoImage,
        instances: Instances | EncodedInstances,
        *,
        track_ids: Sequence[int] = (),
    ) -> None:
        """Appends a finished image; of a video the objects have identities."""
        self._own.add(image, instances, self._categories, track_ids)

    def refresh(self, processes: int = 0) -> None:
        """Reads what others have added: these processes, and those of earlier runs."""
        numbers = {*self._numbers(), *range(processes)} - {self._own.number}
        others = [_Part(self._target, number) for number in sorted(numbers)]
        for part in others:
            part.read()
        self._parts = [self._own, *others]

    def finish(self, info: Mapping[str, Any], *, order: Mapping[str, int]) -> None:
        """Writes the COCO file and removes the journal.

        Args:
            info: Entries of the file's `info`.
            order: Place of each image name in the file.
        """
        places = [
            (order.get(name, len(order)), _Place(part, offset))
            for part in self._parts
            for name, offset in part.offsets.items()
        ]
        ordered = [place for _, place in sorted(places, key=lambda pair: pair[0])]
        images = (_image(record) for _, record in _records(ordered))
        write_coco(
            self._target,
            images,
            _renumbered(ordered),
            info=plain_json(info),
            embeddings=self._ordered_embeddings(ordered),
            categories=self._categories,
        )
        for path in (*(file for part in self._parts for file in part.files), self._head):
            path.unlink(missing_ok=True)

    def _open(self, settings: Mapping[str, Any], number: int) -> None:
        if number == 0:
            self._target.parent.mkdir(parents=True, exist_ok=True)
            for file in (self._target, embeddings_path(self._target), self._head):
                remove_leftovers(self._target.parent, of=file)
            self._drop_others(settings)
        self._own = _Part(self._target, number)
        self._own.cut()
        self.refresh()

    def _drop_others(self, settings: Mapping[str, Any]) -> None:
        """Removes results of other settings."""
        if self._head.is_file() and self._resume:
            if json.loads(self._head.read_text("utf-8")) == settings:
                return
            logger.warning(
                "partial results of other settings are dropped: %s", _Part(self._target, 0).lines
            )
        for number in self._numbers():
            for path in _Part(self._target, number).files:
                path.unlink(missing_ok=True)
        write_json(self._head, settings)

    def _numbers(self) -> set[int]:
        """Numbers of the parts that are there."""
        name = re.compile(rf"{re.escape(self._target.stem)}\.partial(?:-(\d+))?\.jsonl")
        found = (name.fullmatch(file) for file in os.listdir(self._target.parent))
        return {int(match[1] or 0) for match in found if match}

    def _ordered_embeddings(self, ordered: list[_Place]) -> EmbeddingBlocks:
        """Rows in the order of the file."""
        size = max(part.embedding_size for part in self._parts)
        return EmbeddingBlocks((len(self), size), self._ordered_rows(ordered))

    def _ordered_rows(self, ordered: list[_Place]) -> Iterator[NDArray[np.float32]]:
        with ExitStack() as stack:
            files = {part: stack.enter_context(part.files[1].open("rb")) for part in self._parts}
            for part, record in _records(ordered):
                annotations = record["annotations"]
                if annotations:
                    # Annotation ids tell where the rows were appended.
                    yield part.rows(files[part], annotations[0]["id"] - 1, len(annotations))


def is_finished(target: Path) -> bool:
    """Whether an output file is there, and not by a process that was killed before it tidied up.

    That one left its journal, which began before the file. It is gone on with like any other.
    """
    if not target.exists():
        return False
    head = _head(target)
    return not head.exists() or head.stat().st_mtime_ns > target.stat().st_mtime_ns


def _head(target: Path) -> Path:
    return target.with_name(f"{target.stem}.partial.json")


class _Part:
    """What one process has finished: a file of lines and a file of embeddings."""

    def __init__(self, target: Path, number: int) -> None:
        self.number = number
        suffix = f"-{number}" if number else ""
        self.lines = target.with_name(f"{target.stem}.partial{suffix}.jsonl")
        self._rows = target.with_name(f"{target.stem}.partial{suffix}.embeddings")
        self.offsets: dict[str, int] = {}
        self.annotations = 0
        self.embedding_size = 0

    @property
    def files(self) -> tuple[Path, Path]:
        return self.lines, self._rows

    def add(
        self,
        image: CocoImage,
        instances: Instances | EncodedInstances,
        categories: Mapping[int, str],
        track_ids: Sequence[int],
    ) -> None:
        annotations = instances_to_annotations(
            instances, image.id, self.annotations + 1, categories, track_ids
        )
        rows = instances.embeddings.detach().cpu().numpy().astype(np.float32)
        record = {
            "image": [image.id, image.file_name, image.height, image.width],
            "georeference": image.georeference and asdict(image.georeference),
            "annotations": annotations,
            "embedding_size": rows.shape[1],
        }
        # Rows first: a kill in between leaves rows without a line, which are cut off on resume.
        with appending(self._rows), self._rows.open("ab") as file:
            file.write(rows.tobytes())
        with appending(self.lines):
            offset = self.lines.stat().st_size
            with self.lines.open("a", encoding="utf-8") as file:
                file.write(json.dumps(record) + "\n")
        self._note(record, offset)

    def read(self) -> int:
        """Counts what is finished, and gives where a line that a kill left half-written begins."""
        end = 0
        with self.lines.open("rb") as file:
            for line in file:
                if not line.endswith(b"\n"):
                    break
                self._note(json.loads(line), end)
                end += len(line)
        return end

    def cut(self) -> None:
        """Opens the part for additions, without what a kill left half-written."""
        self.lines.touch()
        self._rows.touch()
        os.truncate(self.lines, self.read())
        os.truncate(self._rows, self.annotations * self.embedding_size * 4)

    def rows(self, file: BinaryIO, first: int, count: int) -> NDArray[np.float32]:
        """(count, embedding_size) embeddings from the `first` on, in the order they were added.

        They are read, not mapped: what is mapped stays in memory as long as there is room.
        """
        file.seek(first * self.embedding_size * 4)
        content = file.read(count * self.embedding_size * 4)
        return np.frombuffer(content, dtype=np.float32).reshape(count, self.embedding_size)

    def _note(self, record: Mapping[str, Any], offset: int) -> None:
        self.offsets[record["image"][1]] = offset
        self.annotations += len(record["annotations"])
        if record["annotations"]:
            self.embedding_size = record["embedding_size"]


class _Place(NamedTuple):
    """Where an image's line begins."""

    part: _Part
    offset: int


def _records(ordered: list[_Place]) -> Iterator[tuple[_Part, dict[str, Any]]]:
    """The part and the content of each line."""
    with ExitStack() as stack:
        parts = {place.part for place in ordered}
        files = {part: stack.enter_context(part.lines.open("rb")) for part in parts}
        for part, offset in ordered:
            files[part].seek(offset)
            yield part, json.loads(files[part].readline())


def _image(record: Mapping[str, Any]) -> CocoImage:
    place = record.get("georeference")  # Older journals have none.
    if place is not None:
        place = Georeference(tuple(place["transform"]), place["crs"])
    number, name, height, width = record["image"]
    return CocoImage(number, name, height, width, place)


def _renumbered(ordered: list[_Place]) -> Iterator[dict[str, Any]]:
    number = 0
    for _, record in _records(ordered):
        for annotation in record["annotations"]:
            number += 1
            yield {**annotation, "id": number}
