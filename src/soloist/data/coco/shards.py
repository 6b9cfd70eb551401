"""Results of very large sets: a folder of Parquet files, one for each shard of a manifest.

Each row is an image; its objects are lists in the columns `counts` (run lengths in COCO's
compressed form), `score`, `category_id`, `bbox` (x, y, width, height), `area` and `embedding`, and
where they have these, `agreements` and `track_id`. An image that could not be read has a row with
an `error` and no size. `georeference` is JSON, of GeoTIFFs alone. Other tools read the files as
they are.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from soloist.data.coco.manifest import Manifest
from soloist.data.coco.shard_rows import ShardFacts, ShardRow
from soloist.data.coco.types import CocoImage
from soloist.data.coco.write import annotation_entry
from soloist.data.georeference import Georeference
from soloist.data.inputs import FileState
from soloist.errors import DataError
from soloist.runtime.files import atomic_path, one_line, shown
from soloist.structures import STORED

MANIFEST = "manifest.parquet"
SHARDS = "shards"

_KEY = b"soloist.shard"
_OUTPUTS = {
    one.key: pa.list_(pa.int64() if one.is_integer else pa.list_(pa.float64()))
    for one in STORED.values()
}
_SCHEMA = pa.schema(
    [
        ("index", pa.int64()),
        ("file_name", pa.string()),
        ("height", pa.int32()),
        ("width", pa.int32()),
        ("error", pa.string()),
        ("counts", pa.list_(pa.binary())),
        ("score", pa.list_(pa.float64())),
        ("category_id", pa.list_(pa.int64())),
        ("bbox", pa.list_(pa.list_(pa.float32()))),
        ("area", pa.list_(pa.int64())),
        ("embedding", pa.list_(pa.list_(pa.float32()))),
        ("georeference", pa.string()),
        *_OUTPUTS.items(),
        ("file_state", pa.list_(pa.int64())),
    ]
)
_OBJECTS = ("counts", "score", "category_id", "bbox", "area")


class ShardFolder:
    """A manifest and the shards that are finished; what is in one is read after `facts`.

    Args:
        path: The folder.

    Raises:
        DataError: If it has no manifest.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.manifest = Manifest(path / MANIFEST)

    def file(self, shard: int) -> Path:
        """Where a shard is, or will be."""
        return self.path / SHARDS / f"{shard:05d}.parquet"

    def finished(self) -> list[int]:
        """Numbers of the shards that are there, ascending."""
        folder = self.path / SHARDS
        names = (file.name for file in folder.iterdir()) if folder.is_dir() else ()
        found = (re.fullmatch(r"(\d{5})\.parquet", name) for name in names)
        return sorted(int(match[1]) for match in found if match)

    def missing(self) -> list[int]:
        """Numbers of the shards that are not, ascending."""
        return sorted(set(range(self.manifest.shards)).difference(self.finished()))

    def write(self, shard: int, rows: Sequence[ShardRow]) -> None:
        """Writes a shard, whole or not at all.

        Args:
            shard: Its number.
            rows: What became of its images, in the manifest's order.

        Raises:
            RunError: If it cannot be written.
        """
        counts = [len(row.annotations) for row in rows]
        embeddings = [row.embeddings for row in rows if len(row.embeddings)]
        facts = ShardFacts.of(rows)
        first = self.manifest.first(shard)
        columns = {
            "index": range(first, first + len(rows)),
            "file_name": [_printable(row.file_name) for row in rows],
            "height": [row.image and row.image.height for row in rows],
            "width": [row.image and row.image.width for row in rows],
            "error": [row.error and _printable(row.error) for row in rows],
            "counts": _lists(rows, lambda one: one["segmentation"]["counts"].encode("ascii")),
            **{name: _lists(rows, lambda one, name=name: one[name]) for name in _OBJECTS[1:]},
            "georeference": [_georeference_text(row.image) for row in rows],
            **{key: [_output(row, key) for row in rows] for key in _OUTPUTS},
            "file_state": [row.image and row.image.file_state for row in rows],
        }
        arrays = {name: pa.array(columns[name], _SCHEMA.field(name).type) for name in columns}
        arrays["embedding"] = _embedding_array(embeddings, counts, facts)
        table = pa.table(arrays, schema=_SCHEMA)
        head = {"fingerprint": self.manifest.fingerprint, "shard": shard, **asdict(facts)}
        with atomic_path(self.file(shard)) as temporary:
            pq.write_table(
                table.replace_schema_metadata({_KEY: json.dumps(head)}),
                temporary,
                compression="zstd",
                # Neither run lengths nor embeddings repeat.
                use_dictionary=False,
                write_statistics=False,
                write_page_checksum=True,
            )

    def facts(self, shard: int) -> ShardFacts:
        """Checks a finished shard by the end of its file.

        Raises:
            DataError: If it is damaged, or of another manifest.
        """
        path = self.file(shard)
        try:
            metadata = pq.read_metadata(path)
            head = json.loads(metadata.metadata[_KEY])
            own = (head.pop("fingerprint"), head.pop("shard"), metadata.num_rows)
        except (pa.ArrowException, OSError, ValueError, KeyError, TypeError) as error:
            raise _damaged(path, error) from error
        if own != (self.manifest.fingerprint, shard, self.manifest.size(shard)):
            raise DataError(
                f"shard {shown(path)} belongs to other images or settings; remove it and run the "
                "command that makes it again"
            )
        return ShardFacts(**head)

    def images(self, shard: int) -> Iterator[CocoImage]:
        """The images of a finished shard that could be read."""
        # Names as in the manifest: those in the shard are made printable.
        rows = self._read(shard, "height", "width", "georeference", "file_state")
        for entry, (height, width, place, state) in zip(
            self.manifest.entries(shard), rows, strict=True
        ):
            if height is not None:
                assert entry.id is not None
                georeference = place and Georeference.from_dict(json.loads(place))
                yield CocoImage(
                    entry.id,
                    entry.name,
                    height,
                    width,
                    georeference,
                    file_state=state and (state[0], state[1]),
                )

    def states(self, shard: int) -> Iterator[tuple[str, FileState | None]]:
        """Name and file state of the images of a finished shard, as far as that is known."""
        rows = zip(self.manifest.entries(shard), self._read(shard, "file_state"), strict=True)
        for entry, (state,) in rows:
            yield entry.name, state and (state[0], state[1])

    def annotations(self, shard: int) -> Iterator[dict[str, Any]]:
        """The objects of a finished shard as COCO's, all with the id 0."""
        rows = self._read(shard, "height", "width", *_OBJECTS, *_OUTPUTS)
        for entry, (height, width, *columns) in zip(
            self.manifest.entries(shard), rows, strict=True
        ):
            assert entry.id is not None
            objects = columns[: len(_OBJECTS)]
            more = dict(zip(_OUTPUTS, columns[len(_OBJECTS) :], strict=True))
            for row, (counts, score, category_id, box, area) in enumerate(
                zip(*objects, strict=True)
            ):
                yield annotation_entry(
                    0,
                    entry.id,
                    {"size": [height, width], "counts": counts.decode("ascii")},
                    area=area,
                    box_xywh=box,
                    score=score,
                    category_id=category_id,
                    outputs={key: values[row] for key, values in more.items() if values},
                )

    def embeddings(self, shard: int) -> NDArray[np.float32]:
        """(N, E) embeddings of the objects of a finished shard."""
        facts = self.facts(shard)
        column = self._table(shard, "embedding").column("embedding").combine_chunks()
        values = column.flatten().flatten().to_numpy(zero_copy_only=False)
        rows: NDArray[np.float32] = values.reshape(facts.instances, facts.embedding_size)
        return rows

    def errors(self, shard: int) -> list[tuple[str, str]]:
        """Name and reason of the images of a finished shard that could not be read."""
        rows = zip(self.manifest.entries(shard), self._read(shard, "error"), strict=True)
        return [(entry.name, error) for entry, (error,) in rows if error is not None]

    def _read(self, shard: int, *columns: str) -> Iterator[tuple[Any, ...]]:
        table = self._table(shard, *columns)
        # Shards of Soloist 0.1 have fewer columns.
        absent = [None] * table.num_rows
        return zip(
            *(
                table.column(name).to_pylist() if name in table.column_names else absent
                for name in columns
            ),
            strict=True,
        )

    def _table(self, shard: int, *columns: str) -> pa.Table:
        path = self.file(shard)
        try:
            with pq.ParquetFile(path, page_checksum_verification=True) as file:
                known = set(file.schema_arrow.names)
                return file.read(columns=[name for name in columns if name in known])
        except (pa.ArrowException, OSError) as error:
            raise _damaged(path, error) from error


def _lists(rows: Sequence[ShardRow], value: Any) -> list[list[Any]]:
    return [[value(one) for one in row.annotations] for row in rows]


def _output(row: ShardRow, key: str) -> list[Any] | None:
    """An output of all objects of an image; None where they have none."""
    values = [one.get(key) for one in row.annotations]
    return None if not values or None in values else values


def _embedding_array(
    embeddings: Sequence[NDArray[np.float32]], counts: Sequence[int], facts: ShardFacts
) -> pa.Array:
    flat = np.concatenate([np.zeros(0, np.float32), *(part.ravel() for part in embeddings)])
    places = np.arange(facts.instances + 1, dtype=np.int32) * facts.embedding_size
    objects = pa.ListArray.from_arrays(places, flat)
    images = np.concatenate([[0], np.cumsum(counts)]).astype(np.int32)
    return pa.ListArray.from_arrays(images, objects)


def _georeference_text(image: CocoImage | None) -> str | None:
    if image is None or image.georeference is None:
        return None
    return json.dumps(asdict(image.georeference))


def _printable(text: str) -> str:
    r"""Text that UTF-8 can hold; parts of broken file names are written as `\udcxx`."""
    return text.encode("utf-8", "backslashreplace").decode("utf-8")


def _damaged(path: Path, error: Exception) -> DataError:
    return DataError(
        f"cannot read shard {shown(path)}: {one_line(error)}; remove it and run the command that "
        "makes it again"
    )
