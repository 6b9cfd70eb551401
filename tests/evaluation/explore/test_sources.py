from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from soloist.data.coco.read import load_coco
from soloist.errors import DataError
from soloist.evaluation.explore.sources import embeddings_of, in_order

WriteMasks = Callable[..., Path]


def test_masks_are_in_the_order_of_their_embeddings(write_masks: WriteMasks) -> None:
    path = write_masks()
    content = json.loads(path.read_text())
    content["images"].reverse()
    path.write_text(json.dumps(content))
    assert [one.id for one in in_order(load_coco(path))] == list(range(101, 113))


def test_a_file_without_embeddings_is_one_line(write_masks: WriteMasks) -> None:
    with pytest.raises(DataError, match=r"wanted embeddings beside .*masks.json', got none"):
        embeddings_of(load_coco(write_masks(embedded=False)))


def test_a_file_without_masks_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "none.json").write_text('{"images": [], "annotations": []}')
    with pytest.raises(DataError, match="wanted masks to compare"):
        embeddings_of(load_coco(tmp_path / "none.json"))
