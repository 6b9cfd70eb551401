"""The manifest of a very large set: which images it has, in which order, in one file.

It is a Parquet file whose row group k holds the images of shard k. Who labels a shard reads its
entries alone, so no process ever holds the paths of a million images.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import accumulate, islice
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from soloist.data.coco.types import CATEGORIES
from soloist.data.sources import ImageRef
from soloist.errors import ConfigError, DataError
from soloist.runtime.files import atomic_path, one_line, plain_json, shown

MAX_SHARD_SIZE = 10_000
"""Images a shard may have: its results wait in memory until it is written."""
MAX_SHARDS = 100_000
"""Shards a set may have: each is a file, and an entry of the manifest's index."""

_KEY = b"soloist.manifest"
# Names of files are bytes: what is no UTF-8 must come back as it was.
_SCHEMA = pa.schema([("file_name", pa.binary()), ("path", pa.binary()), ("id", pa.int64())])


class Manifest:
    """A manifest that is written; made by `write_manifest`.

    Args:
        path: The file.

    Attributes:
        path: The file.
        settings: What the results depend on: entries of the merged file's `info`.
        categories: Names of the classes of objects by category id, in the order of labels.
        fingerprint: Tells images, settings, categories and shard size apart from all others.
        shard_size: Images in every shard but the last.
        images: How many there are.

    Raises:
        DataError: If it is missing, damaged or another kind of file.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        try:
            self._file = pq.ParquetFile(path)
            head = json.loads(self._file.metadata.metadata[_KEY])
            self.settings: Mapping[str, Any] = head["settings"]
            self.categories: Mapping[int, str] = dict(head["categories"])
            self.fingerprint: str = head["fingerprint"]
            self.shard_size: int = head["shard_size"]
        except FileNotFoundError as error:
            raise DataError(
                f"wanted a folder made by `masks` or `predict` with --shard-size, got "
                f"{shown(path.parent)} without {path.name}"
            ) from error
        except (pa.ArrowException, OSError, ValueError, KeyError, TypeError) as error:
            raise DataError(
                f"cannot read the manifest {shown(path)}: {one_line(error)}; begin anew with "
                "--overwrite"
            ) from error
        self.images: int = self._file.metadata.num_rows
        metadata = self._file.metadata
        counts = (metadata.row_group(group).num_rows for group in range(metadata.num_row_groups))
        self._ends: list[int] = list(accumulate(counts))

    @property
    def shards(self) -> int:
        """How many shards the images make."""
        return len(self._ends)

    def size(self, shard: int) -> int:
        """Images of one shard."""
        return self._ends[shard] - self.first(shard)

    def first(self, shard: int) -> int:
        """The place of the first image of one shard among all, from 0."""
        return self._ends[shard - 1] if shard else 0

    def entries(self, shard: int) -> list[ImageRef]:
        """The images of one shard; those without an id of their own have their place from 1.

        Raises:
            DataError: If the file is damaged.
        """
        table = self.table(shard)
        columns = (table.column(name).to_pylist() for name in _SCHEMA.names)
        first = self.first(shard) + 1
        return [
            ImageRef(Path(_text(path)), _text(name), place if number is None else number)
            for place, (name, path, number) in enumerate(zip(*columns, strict=True), first)
        ]

    def table(self, shard: int) -> pa.Table:
        """The rows of one shard.

        Raises:
            DataError: If the file is damaged.
        """
        try:
            return self._file.read_row_group(shard)
        except (pa.ArrowException, OSError) as error:
            raise DataError(
                f"cannot read the manifest {shown(self.path)}: {one_line(error)}; begin anew "
                "with --overwrite"
            ) from error

    @property
    def head(self) -> bytes:
        """What it says of itself, as it is in the file."""
        head: bytes = self._file.metadata.metadata[_KEY]
        return head


def check_shard_size(shard_size: int) -> None:
    """Checks how many images a shard shall have.

    Raises:
        ConfigError: If it is out of range.
    """
    if not 1 <= shard_size <= MAX_SHARD_SIZE:
        raise ConfigError(f"--shard-size must be from 1 to {MAX_SHARD_SIZE:,}, got {shard_size}")


def write_manifest(
    path: Path,
    images: Iterable[ImageRef],
    settings: Mapping[str, Any],
    *,
    shard_size: int,
    categories: Mapping[int, str] = CATEGORIES,
) -> None:
    """Writes a manifest, whole or not at all.

    Args:
        path: The file.
        images: At least one, taken one shard at a time, so that a generator keeps memory flat.
        settings: What the results depend on.
        shard_size: Images a shard, 1 to `MAX_SHARD_SIZE`.
        categories: Names of the classes of objects by category id, in the order of labels.

    Raises:
        ConfigError: If the shard size is out of range or makes too many shards.
        RunError: If the file cannot be written.
    """
    check_shard_size(shard_size)
    head: dict[str, Any] = {
        "settings": plain_json(settings),
        # Pairs: JSON would make the ids text.
        "categories": list(categories.items()),
        "shard_size": shard_size,
    }
    digest = hashlib.sha256(json.dumps(head, sort_keys=True).encode())
    with (
        atomic_path(path) as temporary,
        pq.ParquetWriter(temporary, _SCHEMA, compression="zstd", write_statistics=False) as writer,
    ):
        for shard, batch in enumerate(_batches(images, shard_size)):
            _check_count(shard, shard_size)
            table = _table_of(batch)
            names = b"\0".join(table.column("file_name").to_pylist())
            digest.update(names + json.dumps([image.id for image in batch]).encode())
            writer.write_table(table, row_group_size=shard_size)
        head["fingerprint"] = digest.hexdigest()
        writer.add_key_value_metadata({_KEY: json.dumps(head)})


def extend_manifest(path: Path, images: Iterable[ImageRef]) -> None:
    """Adds images to a manifest as further shards, whole or not at all.

    What is there stays as it is, its fingerprint too, so that finished shards remain those of it.

    Args:
        path: The file.
        images: At least one.

    Raises:
        ConfigError: If there are too many shards.
        DataError: If the file is damaged.
        RunError: If it cannot be written.
    """
    old = Manifest(path)
    size = old.shard_size
    with (
        atomic_path(path) as temporary,
        pq.ParquetWriter(temporary, _SCHEMA, compression="zstd", write_statistics=False) as writer,
    ):
        for shard in range(old.shards):
            writer.write_table(old.table(shard), row_group_size=size)
        for shard, batch in enumerate(_batches(images, size), start=old.shards):
            _check_count(shard, size)
            writer.write_table(_table_of(batch), row_group_size=size)
        writer.add_key_value_metadata({_KEY: old.head})


def _check_count(shard: int, shard_size: int) -> None:
    if shard == MAX_SHARDS:
        raise ConfigError(
            f"--shard-size {shard_size} makes more than {MAX_SHARDS:,} shards; raise it"
        )


def _table_of(images: Sequence[ImageRef]) -> pa.Table:
    columns = [
        [_bytes(image.name) for image in images],
        [_bytes(str(image.path.absolute())) for image in images],
        pa.array([image.id for image in images], pa.int64()),
    ]
    return pa.table(columns, schema=_SCHEMA)


def _batches(images: Iterable[ImageRef], size: int) -> Iterator[list[ImageRef]]:
    rest = iter(images)
    while batch := list(islice(rest, size)):
        yield batch


def _bytes(text: str) -> bytes:
    return text.encode("utf-8", "surrogatepass")


def _text(name: bytes) -> str:
    return name.decode("utf-8", "surrogatepass")
