from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from soloist.data.coco.read import load_coco
from soloist.data.datasets.image_paths import image_paths
from soloist.errors import DataError

WriteMasks = Callable[..., Path]


@pytest.mark.parametrize("recorded", [True, False])
def test_images_are_found_where_the_file_says_or_beside_it(
    write_masks: WriteMasks, tmp_path: Path, recorded: bool
) -> None:
    path = write_masks()
    if recorded:
        (tmp_path / "images").rename(tmp_path / "away")
        content = json.loads(path.read_text())
        content["info"]["images"] = [str(tmp_path / "away")]
        path.write_text(json.dumps(content))
    folder = tmp_path / ("away" if recorded else "images")
    assert image_paths(load_coco(path), []) == {n + 1: folder / f"{n}.png" for n in range(4)}


def test_a_recorded_folder_that_is_gone_does_not_matter(
    write_masks: WriteMasks, tmp_path: Path
) -> None:
    path = write_masks()
    content = json.loads(path.read_text())
    content["info"]["images"] = [str(tmp_path / "gone")]
    path.write_text(json.dumps(content))
    assert len(image_paths(load_coco(path), [])) == 4


def test_images_that_are_named_are_taken_by_the_last_part_of_their_names(
    write_masks: WriteMasks, tmp_path: Path
) -> None:
    path = write_masks()
    (tmp_path / "images").rename(tmp_path / "more")
    (tmp_path / "deep").mkdir()
    (tmp_path / "more").rename(tmp_path / "deep" / "more")
    (tmp_path / "deep" / "more" / "0.png").unlink()
    assert set(image_paths(load_coco(path), [str(tmp_path / "deep")])) == {2, 3, 4}


def test_no_image_at_all_is_one_line(write_masks: WriteMasks, tmp_path: Path) -> None:
    path = write_masks()
    (tmp_path / "images").rename(tmp_path / "away")
    with pytest.raises(DataError, match=r"the 4 images of .* found none .*; add --images"):
        image_paths(load_coco(path), [])
