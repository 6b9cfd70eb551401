"""Finished images before they are in a COCO file, and the merge that puts them there.

Results are kept in shards, each a file that is written whole: `shards.ShardFolder` for very large
sets, `partial.PartialShards` beside a file that is being made.
"""

from __future__ import annotations

from array import array
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from soloist.data.coco.types import CocoImage
from soloist.data.coco.write import EmbeddingBlocks, write_coco
from soloist.runtime.stopping import stop_if_asked


@dataclass(frozen=True)
class ShardRow:
    """What became of one image.

    Attributes:
        file_name: Its name.
        image: Its entry in the COCO file; None if it could not be read.
        annotations: Its N objects, as from `instances_to_annotations`.
        embeddings: (N, E) float32.
        error: Why it could not be read.
    """

    file_name: str
    image: CocoImage | None
    annotations: Sequence[Mapping[str, Any]]
    embeddings: NDArray[np.float32]
    error: str | None = None


@dataclass(frozen=True)
class ShardFacts:
    """What a shard's file tells about it without being read whole.

    Attributes:
        images: Images that were read.
        instances: Objects on them.
        failed: Images that could not be read.
        embedding_size: Numbers of an embedding; 0 without objects.
    """

    images: int
    instances: int
    failed: int
    embedding_size: int

    @classmethod
    def of(cls, rows: Sequence[ShardRow]) -> ShardFacts:
        """The facts of a shard that is to be written.

        Raises:
            ValueError: If the embeddings differ in size.
        """
        failed = sum(row.image is None for row in rows)
        sizes = {row.embeddings.shape[1] for row in rows if len(row.annotations)}
        if len(sizes) > 1:
            raise ValueError(f"embeddings must be of one size, got {sorted(sizes)}")
        return cls(
            images=len(rows) - failed,
            instances=sum(len(row.annotations) for row in rows),
            failed=failed,
            embedding_size=max(sizes, default=0),
        )


class Shards(Protocol):
    """Finished shards by their numbers, in the order of the images."""

    def finished(self) -> list[int]:
        """Numbers of the shards that are there, ascending."""

    def facts(self, shard: int) -> ShardFacts:
        """What is in a finished shard."""

    def images(self, shard: int) -> Iterator[CocoImage]:
        """The images of a finished shard that could be read."""

    def annotations(self, shard: int) -> Iterator[dict[str, Any]]:
        """The objects of a finished shard as COCO's, with ids of any kind."""

    def embeddings(self, shard: int) -> NDArray[np.float32]:
        """(N, E) embeddings of the objects of a finished shard."""


def facts_of_all(shards: Shards, numbers: Sequence[int]) -> ShardFacts:
    """What several shards hold together."""
    facts = [shards.facts(number) for number in numbers]
    return ShardFacts(
        images=sum(one.images for one in facts),
        instances=sum(one.instances for one in facts),
        failed=sum(one.failed for one in facts),
        embedding_size=max((one.embedding_size for one in facts), default=0),
    )


def write_shards(
    out: Path,
    shards: Shards,
    numbers: Sequence[int],
    facts: ShardFacts,
    *,
    info: Mapping[str, Any],
    categories: Mapping[int, str],
    advance: Callable[[], None] = lambda: None,
) -> NDArray[np.float32]:
    """Writes shards as one COCO file, in memory that hardly grows with them.

    Args:
        out: The file; its embeddings go beside it.
        shards: The shards.
        numbers: Which of them.
        facts: What these hold together.
        info: Entries of the file's `info`.
        categories: Names by id.
        advance: Called three times a shard: images, objects and embeddings are read one by one.

    Returns:
        (N,) scores of all objects.

    Raises:
        RunError: If a file cannot be written.
        DataError: If a shard is damaged.
        StoppedError: If the process was asked to stop; nothing is written.
    """

    def each(read: Callable[[int], Any]) -> Iterator[Any]:
        for number in numbers:
            stop_if_asked()
            yield read(number)
            advance()

    scores = array("f")
    write_coco(
        out,
        chain.from_iterable(each(shards.images)),
        _numbered(chain.from_iterable(each(shards.annotations)), scores),
        info=info,
        embeddings=EmbeddingBlocks(
            (facts.instances, facts.embedding_size), each(shards.embeddings)
        ),
        categories=categories,
    )
    return np.array(scores, dtype=np.float32)


def _numbered(
    annotations: Iterator[dict[str, Any]], scores: array[float]
) -> Iterator[dict[str, Any]]:
    """The annotations with ids from 1 on; their scores are noted."""
    for number, annotation in enumerate(annotations, start=1):
        annotation["id"] = number
        scores.append(annotation["score"])
        yield annotation
