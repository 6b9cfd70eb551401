"""Finished images of a COCO file that is being made, beside it, so that a kill loses none."""

from __future__ import annotations

import hashlib
import json
import logging
import os
import shutil
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray

from soloist.data.coco.read import read_json
from soloist.data.coco.shard_rows import ShardFacts, ShardRow
from soloist.data.coco.types import CocoImage
from soloist.data.coco.write import embeddings_path
from soloist.data.georeference import Georeference
from soloist.data.inputs import state_of
from soloist.data.sources import ImageRef
from soloist.errors import RunError
from soloist.runtime.files import (
    atomic_path,
    cannot_write,
    plain_json,
    remove_leftovers,
    shown,
    write_json,
)

logger = logging.getLogger(__name__)

MAX_FILES = 5_000
"""Shards beside an output; up to N images, each is one of its own."""


class PartialShards:
    """The finished shards of one output file, in the folder `NAME.partial` beside it.

    The file of a shard is two lines of JSON, its facts and its images, and the embeddings as raw
    float32. It is named by its images, so that a command with other images takes what fits.

    Args:
        target: The COCO file to be made.
        images: Its images in order; none where shards are written one after the other as they come.

    Attributes:
        folder: Where they are.
    """

    def __init__(self, target: Path, images: Sequence[ImageRef] = ()) -> None:
        self.folder = target.with_name(f"{target.stem}.partial")
        self._target = target
        numbered = [
            image if image.id is not None else replace(image, id=place)
            for place, image in enumerate(images, start=1)
        ]
        size = max(1, -(-len(numbered) // MAX_FILES))
        self._entries = [numbered[first : first + size] for first in range(0, len(images), size)]
        self._files = [self._name(shard) for shard in range(len(self._entries))]

    def open(self, settings: Mapping[str, Any], *, resume: bool = True) -> None:
        """Makes the folder; what an earlier command left there stays if it can be continued.

        Images that could not be read are tried again. Of several processes one calls this, before
        the others write.

        Args:
            settings: What the results depend on; those of other settings are dropped.
            resume: Keep results of the same settings; else they are dropped too.

        Raises:
            RunError: If the folder cannot be made or read.
        """
        try:
            self._target.parent.mkdir(parents=True, exist_ok=True)
            for file in (self._target, embeddings_path(self._target)):
                remove_leftovers(self._target.parent, of=file)
            self._drop_others(plain_json(settings), resume=resume)
        except OSError as error:
            raise RunError(
                f"cannot write beside {shown(self._target)} ({error.strerror}); choose another "
                "--out"
            ) from error

    def entries(self, shard: int) -> list[ImageRef]:
        """The images of one shard, all with an id."""
        return self._entries[shard]

    def adopt(self, finished: Path) -> None:
        """Takes what a finished file has of images that are the files they were.

        Args:
            finished: The file, made by the same settings; its ids may be others.

        Raises:
            DataError: If it cannot be read.
        """
        content = read_json(finished)
        sidecar = embeddings_path(finished)
        vectors = np.load(sidecar, mmap_mode="r") if sidecar.is_file() else None
        places: dict[int, list[int]] = {}
        for place, one in enumerate(content["annotations"]):
            places.setdefault(one["image_id"], []).append(place)
        known = {record["file_name"]: record for record in content["images"]}
        for shard in self.missing():
            records = [known.get(image.name) for image in self._entries[shard]]
            rows = [
                self._adopted(image, record, places.get(record["id"], []), content, vectors)
                for image, record in zip(self._entries[shard], records, strict=True)
                if record is not None and _is_same(record, image)
            ]
            if len(rows) == len(records):
                self.write(shard, rows)

    @staticmethod
    def _adopted(
        image: ImageRef,
        record: Mapping[str, Any],
        places: Sequence[int],
        content: Mapping[str, Any],
        vectors: NDArray[np.float32] | None,
    ) -> ShardRow:
        assert image.id is not None
        return ShardRow(
            image.name,
            replace(image_of(record), id=image.id),
            [
                {**content["annotations"][place], "id": number, "image_id": image.id}
                for number, place in enumerate(places, start=1)
            ],
            np.zeros((0, 0), np.float32) if vectors is None else vectors[places],
        )

    def finished(self) -> list[int]:
        """Numbers of the shards that are there, ascending."""
        there = set(os.listdir(self.folder))
        return [shard for shard, name in enumerate(self._files) if name in there]

    def missing(self) -> list[int]:
        """Numbers of the shards that are not, ascending."""
        return sorted(set(range(len(self._files))).difference(self.finished()))

    def add(self, rows: Sequence[ShardRow]) -> None:
        """Writes the next shard, where the images were not known before."""
        self._files.append(f"{len(self._files):06d}.rows")
        self.write(len(self._files) - 1, rows)

    def write(self, shard: int, rows: Sequence[ShardRow]) -> None:
        """Writes a shard, whole or not at all.

        Args:
            shard: Its number.
            rows: What became of its images, in their order.

        Raises:
            RunError: If the file cannot be written.
            ValueError: If the embeddings differ in size.
        """
        facts = ShardFacts.of(rows)
        records = [
            {
                "file_name": row.file_name,
                "image": row.image and asdict(row.image),
                "annotations": row.annotations,
                "error": row.error,
            }
            for row in rows
        ]
        with (
            atomic_path(self.folder / self._files[shard]) as temporary,
            temporary.open("wb") as file,
        ):
            for line in (asdict(facts), records):
                file.write(json.dumps(line, allow_nan=False).encode("ascii") + b"\n")
            for row in rows:
                file.write(np.ascontiguousarray(row.embeddings, dtype="<f4").tobytes())

    def facts(self, shard: int) -> ShardFacts:
        """What is in a finished shard."""
        with self._opened(shard) as file:
            return _facts(file)

    def images(self, shard: int) -> Iterator[CocoImage]:
        """The images of a finished shard that could be read."""
        for record in self._records(shard):
            if (image := record["image"]) is not None:
                yield image_of(image)

    def annotations(self, shard: int) -> Iterator[dict[str, Any]]:
        """The objects of a finished shard as COCO's; their ids count up in each image."""
        for record in self._records(shard):
            yield from record["annotations"]

    def embeddings(self, shard: int) -> NDArray[np.float32]:
        """(N, E) embeddings of the objects of a finished shard."""
        with self._opened(shard) as file:
            facts = _facts(file)
            file.readline()
            content = np.frombuffer(file.read(), dtype="<f4")
        return content.reshape(facts.instances, facts.embedding_size)

    def remove(self) -> None:
        """Removes the folder, which holds nothing that is not in the output.

        Raises:
            RunError: If it cannot be removed.
        """
        try:
            for file in self.folder.iterdir():
                if file != self._head:
                    file.unlink()
            # Last: what is left without it would be taken for finished.
            self._head.unlink()
            self.folder.rmdir()
        except OSError as error:
            raise cannot_write(self.folder, error) from error

    @property
    def _head(self) -> Path:
        return head_path(self._target)

    def _name(self, shard: int) -> str:
        images = [(image.name, image.id) for image in self._entries[shard]]
        digest = hashlib.sha256(json.dumps(images).encode("ascii")).hexdigest()
        return f"{digest[:20]}.rows"

    def _drop_others(self, settings: Mapping[str, Any], *, resume: bool) -> None:
        same = resume and self._head.is_file()
        if same and json.loads(self._head.read_text("utf-8")) != settings:
            logger.warning("partial results of other settings are dropped: %s", self.folder)
            same = False
        if not same and self.folder.exists():
            shutil.rmtree(self.folder)
        self.folder.mkdir(exist_ok=True)
        if not same:
            write_json(self._head, settings)
        remove_leftovers(self.folder)
        for shard in self.finished():
            if self._is_damaged(shard) or self.facts(shard).failed or self._is_old(shard):
                (self.folder / self._files[shard]).unlink()

    def _is_damaged(self, shard: int) -> bool:
        """Whether a file is cut off, as files may be when a machine fails."""
        try:
            self.embeddings(shard)
        except (ValueError, TypeError):
            return True
        return False

    def _is_old(self, shard: int) -> bool:
        """Whether an image is another file now."""
        if shard >= len(self._entries):
            return False
        states = [image.file_state for image in self.images(shard)]
        pairs = zip(states, self._entries[shard], strict=True)
        return any(state is not None and state != state_of(image.path) for state, image in pairs)

    def _records(self, shard: int) -> list[dict[str, Any]]:
        with self._opened(shard) as file:
            file.readline()
            records: list[dict[str, Any]] = json.loads(file.readline())
        return records

    def _opened(self, shard: int) -> BinaryIO:
        return (self.folder / self._files[shard]).open("rb")


def _is_same(record: Mapping[str, Any], image: ImageRef) -> bool:
    """Whether an image is the file that a finished result was made of."""
    state = record.get("file_state")
    return state is not None and tuple(state) == state_of(image.path)


def is_finished(target: Path) -> bool:
    """Whether an output file is there, and not by a process that was killed before it tidied up.

    That one left its shards, which began before the file. It is continued like any other.
    """
    if not target.exists():
        return False
    head = head_path(target)
    return not head.exists() or head.stat().st_mtime_ns > target.stat().st_mtime_ns


def head_path(target: Path) -> Path:
    """Where the settings of the unfinished results of an output file are."""
    return target.with_name(f"{target.stem}.partial") / "settings.json"


def image_of(record: Mapping[str, Any]) -> CocoImage:
    """An image as Soloist writes it."""
    place, state = record.get("georeference"), record.get("file_state")
    return CocoImage(
        record["id"],
        record["file_name"],
        record["height"],
        record["width"],
        place and Georeference.from_dict(place),
        file_state=state and (state[0], state[1]),
    )


def _facts(file: BinaryIO) -> ShardFacts:
    return ShardFacts(**json.loads(file.readline()))
