"""Finished images kept on disk while a COCO file is being made, so that a kill loses none.

Each finished image is a line of JSON and some rows of raw float32 embeddings. When all are there,
both are streamed into the COCO file and its sidecar; memory does not grow with their number.
"""

from __future__ import annotations

import json
import logging
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from soloist.data.coco import CocoImage, instances_to_annotations, write_coco
from soloist.errors import RunError
from soloist.files import shown, write_json
from soloist.structures import Instances

logger = logging.getLogger(__name__)


class Journal:
    """The unfinished results of one output file.

    Args:
        target: The COCO file to be made.
        settings: What the results depend on; results of other settings are not continued.

    Raises:
        RunError: If the journal cannot be read or written.
    """

    def __init__(self, target: Path, settings: Mapping[str, Any]) -> None:
        self._target = target
        self._lines = target.with_name(f"{target.stem}.partial.jsonl")
        self._rows = target.with_name(f"{target.stem}.partial.embeddings")
        self._head = target.with_name(f"{target.stem}.partial.json")
        self._done: dict[str, int] = {}
        self._annotations = 0
        self._embedding_size = 0
        try:
            self._open(_plain(settings))
        except OSError as error:
            raise RunError(
                f"cannot write beside {shown(target)} ({error.strerror}); choose another --out"
            ) from error

    @property
    def done(self) -> frozenset[str]:
        """Names of the images that are finished."""
        return frozenset(self._done)

    def __len__(self) -> int:
        """Annotations so far."""
        return self._annotations

    def add(self, image: CocoImage, instances: Instances) -> None:
        """Appends a finished image."""
        annotations = instances_to_annotations(instances, image.id, self._annotations + 1)
        rows = instances.embeddings.detach().cpu().numpy().astype(np.float32)
        record = {
            "image": [image.id, image.file_name, image.height, image.width],
            "annotations": annotations,
            "embedding_size": rows.shape[1],
        }
        # Rows first: a kill in between leaves rows without a line, which are cut off on resume.
        with self._rows.open("ab") as file:
            file.write(rows.tobytes())
        offset = self._lines.stat().st_size
        with self._lines.open("a", encoding="utf-8") as file:
            file.write(json.dumps(record) + "\n")
        self._note(record, offset)

    def finish(self, info: Mapping[str, Any], *, order: Mapping[str, int]) -> None:
        """Writes the COCO file and removes the journal.

        Args:
            info: Entries of the file's `info`.
            order: Place of each image name in the file.
        """
        names = sorted(self._done, key=lambda name: order.get(name, len(order)))
        offsets = [self._done[name] for name in names]
        embeddings = self._ordered_embeddings(offsets)
        images = (CocoImage(*record["image"]) for record in self._records(offsets))
        write_coco(
            self._target,
            images,
            self._renumbered(offsets),
            info=_plain(info),
            embeddings=embeddings,
        )
        for path in (self._lines, self._rows, self._head):
            path.unlink(missing_ok=True)

    def _open(self, settings: Mapping[str, Any]) -> None:
        self._target.parent.mkdir(parents=True, exist_ok=True)
        same = self._head.is_file() and json.loads(self._head.read_text("utf-8")) == settings
        if self._head.is_file() and not same:
            logger.warning("partial results of other settings are dropped: %s", self._lines.name)
        if not same:
            for path in (self._lines, self._rows):
                path.unlink(missing_ok=True)
            write_json(self._head, settings)
        self._lines.touch()
        self._rows.touch()
        self._read_back()

    def _read_back(self) -> None:
        """Counts what an earlier run finished, and cuts off what a kill left half-written."""
        end = 0
        with self._lines.open("rb") as file:
            for line in file:
                if not line.endswith(b"\n"):
                    break
                self._note(json.loads(line), end)
                end += len(line)
        os.truncate(self._lines, end)
        os.truncate(self._rows, self._annotations * self._embedding_size * 4)

    def _note(self, record: Mapping[str, Any], offset: int) -> None:
        self._done[record["image"][1]] = offset
        self._annotations += len(record["annotations"])
        if record["annotations"]:
            self._embedding_size = record["embedding_size"]

    def _records(self, offsets: list[int]) -> Iterator[dict[str, Any]]:
        with self._lines.open("rb") as file:
            for offset in offsets:
                file.seek(offset)
                yield json.loads(file.readline())

    def _renumbered(self, offsets: list[int]) -> Iterator[dict[str, Any]]:
        number = 0
        for record in self._records(offsets):
            for annotation in record["annotations"]:
                number += 1
                yield {**annotation, "id": number}

    def _ordered_embeddings(self, offsets: list[int]) -> NDArray[np.float32]:
        """Rows in the order of the file: annotation ids tell where each row was appended."""
        shape = (self._annotations, self._embedding_size)
        if 0 in shape:
            return np.zeros(shape, dtype=np.float32)
        stored = np.memmap(self._rows, dtype=np.float32, mode="r", shape=shape)
        rows = [a["id"] - 1 for record in self._records(offsets) for a in record["annotations"]]
        if rows == list(range(len(rows))):
            return stored
        return stored[rows]


def _plain(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Settings as JSON gives them back; `inf`, which JSON does not know, becomes a text."""
    plain: dict[str, Any] = json.loads(json.dumps(settings), parse_constant=str)
    return plain
