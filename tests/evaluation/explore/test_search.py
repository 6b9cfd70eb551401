from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from soloist.data.coco.read import load_coco
from soloist.data.coco.types import CocoFile
from soloist.data.datasets.image_paths import image_paths
from soloist.errors import DataError
from soloist.evaluation.explore.search import draw_look_alikes, look_alikes
from soloist.evaluation.explore.sources import embeddings_of

WriteMasks = Callable[..., Path]


@pytest.fixture
def file(write_masks: WriteMasks) -> CocoFile:
    return load_coco(write_masks())


def test_the_nearest_are_of_the_same_kind(file: CocoFile) -> None:
    query, found = look_alikes(file, embeddings_of(file), 105, count=4)
    assert (query.annotation.id, query.file_name) == (105, "1.png")
    assert {one.annotation.id for one in found[:3]} == {102, 108, 111}
    assert found[2].similarity > 0.9 > found[3].similarity
    similarities = [one.similarity for one in found]
    assert similarities == sorted(similarities, reverse=True)


@pytest.mark.parametrize(
    ("elsewhere", "count", "number"),
    [
        pytest.param(False, 50, 11, id="all-but-itself"),
        pytest.param(True, 50, 9, id="other-images"),
        pytest.param(False, 1, 1, id="one"),
    ],
)
def test_how_many_are_found(file: CocoFile, elsewhere: bool, count: int, number: int) -> None:
    _, found = look_alikes(file, embeddings_of(file), 105, count=count, elsewhere=elsewhere)
    assert len(found) == number
    assert 105 not in {one.annotation.id for one in found}
    assert not elsewhere or all(one.file_name != "1.png" for one in found)


def test_a_lone_mask_has_no_look_alikes(file: CocoFile) -> None:
    alone = CocoFile(
        file.path,
        file.images[:1],
        {1: file.annotations[1][:1]},
        file.categories,
        np.array(file.embeddings[:1]) if file.embeddings is not None else None,
    )
    assert look_alikes(alone, embeddings_of(alone), 101)[1] == []


def test_an_unknown_id_is_one_line(file: CocoFile) -> None:
    with pytest.raises(DataError, match=r"one of the 12 masks of .* \(101 to 112\), got 7"):
        look_alikes(file, embeddings_of(file), 7)


def test_the_sheet_has_the_query_first(file: CocoFile, tmp_path: Path) -> None:
    query, found = look_alikes(file, embeddings_of(file), 101, count=3)
    paths = image_paths(file, [str(tmp_path / "images")])
    path = draw_look_alikes(query, found, paths, tmp_path / "found")
    assert path == tmp_path / "found" / "search-101.jpg"
    first = np.asarray(Image.open(path).convert("RGB"))[85:95, 55:65].reshape(-1, 3).mean(axis=0)
    assert first[0] > 180 > 80 > first[1:].max()  # Kind 0 is red.
