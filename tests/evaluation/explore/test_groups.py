from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from soloist.data.coco.read import load_coco
from soloist.data.coco.types import CocoFile
from soloist.data.datasets.image_paths import image_paths
from soloist.errors import DataError
from soloist.evaluation.explore.groups import (
    NO_GROUP,
    MaskGroups,
    draw_groups,
    group_masks,
    score_groups,
    write_groups,
)
from soloist.evaluation.explore.sources import embeddings_of

WriteMasks = Callable[..., Path]


@pytest.fixture
def file(write_masks: WriteMasks) -> CocoFile:
    return load_coco(write_masks())


def grouped(file: CocoFile, count: int | None = 3, **options: float) -> MaskGroups:
    return group_masks(file, embeddings_of(file), count, **options)  # type: ignore[arg-type]


@pytest.mark.parametrize("count", [3, None])
def test_kinds_are_found_given_their_number_or_not(file: CocoFile, count: int | None) -> None:
    groups = grouped(file, count)
    assert groups.count == 3
    kinds = groups.labels.reshape(4, 3)
    assert (kinds == kinds[0]).all()
    assert sorted(kinds[0]) == [0, 1, 2]
    assert max(groups.silhouettes.values(), default=0) == groups.silhouettes.get(3, 0)


def test_members_come_the_most_typical_first(file: CocoFile) -> None:
    groups = grouped(file)
    rows = groups.members(1)
    assert len(rows) == 4
    assert (np.diff(groups.similarities[rows]) <= 0).all()


def test_masks_of_low_score_do_not_shape_groups_but_get_one(file: CocoFile) -> None:
    groups = grouped(file, min_score=0.65)  # Six of twelve.
    assert groups.learned.sum() == 6
    assert sorted(groups.labels) == [0] * 4 + [1] * 4 + [2] * 4
    assert all(len(groups.members(number)) == 2 for number in range(3))


def test_a_mask_without_a_vector_has_no_group(file: CocoFile, tmp_path: Path) -> None:
    vectors = embeddings_of(file).copy()
    vectors[5] = 0
    groups = group_masks(file, vectors, 3)
    assert groups.labels[5] == NO_GROUP
    assert (np.delete(groups.labels, 5) >= 0).all()
    write_groups(groups, file, tmp_path / "out.json", {})
    written = load_coco(tmp_path / "out.json")
    assert written.categories[4] == "no group"
    assert written.annotations[2][2].category_id == 4


@pytest.mark.parametrize(
    ("count", "min_score", "message"),
    [
        pytest.param(13, 0.0, "at least 13 masks of score >= 0 to group, got 12", id="few"),
        pytest.param(3, 0.85, "at least 3 masks of score >= 0.85 to group, got 2", id="low"),
        pytest.param(None, 0.99, "at least 2 masks of score >= 0.99 to group, got 0", id="auto"),
    ],
)
def test_too_few_masks_are_one_line(
    file: CocoFile, count: int | None, min_score: float, message: str
) -> None:
    with pytest.raises(DataError, match=message):
        grouped(file, count, min_score=min_score)


def test_groups_become_categories_and_all_else_stays(file: CocoFile, tmp_path: Path) -> None:
    groups = grouped(file)
    out = tmp_path / "other" / "out.json"
    write_groups(groups, file, out, {"seed": 0})
    before, after = (json.loads(path.read_text()) for path in (file.path, out))
    assert after["categories"] == [{"id": n, "name": f"group {n}"} for n in (1, 2, 3)]
    assert after["info"]["made"] == "by hand"
    assert after["info"]["groups"] == {"seed": 0, "count": 3, "silhouettes": {}}
    assert after["images"] == before["images"]
    for old, new, label in zip(
        before["annotations"], after["annotations"], groups.labels, strict=True
    ):
        assert new == {**old, "category_id": label + 1}
    np.testing.assert_array_equal(load_coco(out).embeddings, file.embeddings)


def test_the_file_itself_may_be_replaced(file: CocoFile) -> None:
    before = np.array(file.embeddings)
    write_groups(grouped(file), file, file.path, {})
    written = load_coco(file.path)
    assert written.categories == {1: "group 1", 2: "group 2", 3: "group 3"}
    np.testing.assert_array_equal(written.embeddings, before)


def test_groups_are_compared_with_classes(file: CocoFile, write_masks: WriteMasks) -> None:
    truth = load_coco(write_masks("truth.json", embedded=False, classes=True))
    scores = score_groups(grouped(file), file, truth)
    counts = {"objects": 12, "matched": 12, "classes": 3, "groups": 3}
    assert {key: scores[key] for key in counts} == counts
    assert scores["nmi"] == pytest.approx(1)
    assert scores["purity"] == 1
    assert scores["ami"] == pytest.approx(1)


def test_only_the_masks_groups_were_learned_from_are_compared(
    file: CocoFile, write_masks: WriteMasks
) -> None:
    truth = load_coco(write_masks("truth.json", embedded=False, classes=True))
    scores = score_groups(grouped(file, min_score=0.65), file, truth)
    assert (scores["objects"], scores["matched"]) == (12, 6)


def test_a_ground_truth_without_classes_is_one_line(file: CocoFile) -> None:
    with pytest.raises(DataError, match="with one category"):
        score_groups(grouped(file), file, file)


def test_sheets_show_every_group(file: CocoFile, tmp_path: Path) -> None:
    folder = tmp_path / "sheets"
    paths = image_paths(file, [str(tmp_path / "images")])
    drawn = draw_groups(grouped(file), paths, folder)
    assert [path.name for path in drawn] == [
        "overview.jpg",
        "group-1.jpg",
        "group-2.jpg",
        "group-3.jpg",
    ]
    overview, one = (np.asarray(Image.open(path).convert("RGB")) for path in drawn[:2])
    assert overview.shape[1] == one.shape[1]
    assert overview.shape[0] > 2.5 * one.shape[0]
