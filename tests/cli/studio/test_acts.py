"""What is done to objects, without page and server."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from tests.cli.studio.conftest import disc, iou, item_of

from soloist.cli.studio.acts import Labelled, apply
from soloist.cli.studio.open_image import COVERED, OpenImage
from soloist.data.coco.rle import decode_mask
from soloist.errors import DataError

EMPTY = Labelled()


def masks_of(state: Labelled) -> list[Any]:
    return [decode_mask(one.rle) for one in state.objects]


def kept(image: OpenImage, *names: str) -> Labelled:
    """Each of several discs kept by itself, as objects 1, 2, ..."""
    state = EMPTY
    for name in names:
        items = [item_of(image, name)]
        state = apply(image, state, {"act": "join", "items": items, "objects": [], "category": 1})
    return state


def test_an_item_is_kept_and_removed(image: OpenImage) -> None:
    state = kept(image, "red")
    assert iou(masks_of(state)[0], disc("red")) > 0.95
    assert apply(image, state, {"act": "remove", "objects": [1]}) == EMPTY


def test_what_is_kept_is_left_out_of_what_is_lit_unless_it_is_enclosed(image: OpenImage) -> None:
    item = item_of(image, "red")
    whole = image.mask([item])
    rows, columns = np.flatnonzero(whole.any(axis=1)), np.flatnonzero(whole.any(axis=0))
    left, right, top, bottom = columns[0], columns[-1] + 1, rows[0], rows[-1] + 1
    middle, height = (left + right) // 2, (top + bottom) // 2

    def after(first: list[list[int]]) -> Any:
        drawn = {"act": "draw", "outline": first, "category": 1}
        state = apply(image, EMPTY, drawn)
        return masks_of(apply(image, state, {"act": "keep", "item": item, "category": 1}))

    half, other = after(
        [[left - 2, top - 2], [middle, top - 2], [middle, bottom + 2], [left - 2, bottom + 2]]
    )
    assert not (half & other).any()
    assert (other == (whole & ~half)).all()
    part, all_of_it = after(
        [
            [middle - 4, height - 4],
            [middle + 4, height - 4],
            [middle + 4, height + 4],
            [middle - 4, height + 4],
        ]
    )
    assert (all_of_it == whole).all()
    assert part.sum() < all_of_it.sum()
    with pytest.raises(DataError, match="all of that is kept already"):
        apply(image, kept(image, "red"), {"act": "keep", "item": item, "category": 1})


def test_items_and_objects_become_one(image: OpenImage) -> None:
    state = kept(image, "red", "green")
    items = [item_of(image, "blue")]
    act = {"act": "join", "items": items, "objects": [1], "category": 2}
    joined = apply(image, state, act)
    assert [(one.number, one.category_id) for one in joined.objects] == [(2, 1), (3, 2)]
    assert iou(masks_of(joined)[1], disc("red") | disc("blue")) > 0.95


def test_what_is_taken_away_is_gone(image: OpenImage) -> None:
    items = [item_of(image, "red"), item_of(image, "blue")]
    act = {"act": "join", "items": items, "objects": [], "category": 1}
    state = apply(image, EMPTY, act)
    less = apply(image, state, {"act": "subtract", "objects": [1], "items": items[1:]})
    assert iou(masks_of(less)[0], disc("red")) > 0.95
    # All of it: nothing is left to keep.
    assert apply(image, less, {"act": "subtract", "objects": [2], "items": items[:1]}) == EMPTY


def test_a_stroke_splits_in_halves(image: OpenImage) -> None:
    state = kept(image, "green")
    stroke = [[230, 90], [230, 150], [230, 210]]
    act = {"act": "split", "objects": [1], "items": [], "stroke": stroke}
    parts = masks_of(apply(image, state, act))
    assert len(parts) == 2
    assert not (parts[0] & parts[1]).any()
    assert np.array_equal(parts[0] | parts[1], masks_of(state)[0])
    sizes = sorted(int(part.sum()) for part in parts)
    assert sizes[0] > 0.35 * sum(sizes)
    left = disc("green")
    left[:, 230:] = False
    assert max(iou(part, left) for part in parts) > 0.8


def test_a_stroke_through_two_discs_parts_them_along_their_edge(image: OpenImage) -> None:
    """The stroke is beside the edge; the cut follows the edge."""
    items = [item_of(image, "red"), item_of(image, "blue")]
    state = apply(image, EMPTY, {"act": "join", "items": items, "objects": [], "category": 1})
    act = {"act": "split", "objects": [1], "items": [], "stroke": [[20, 130], [140, 130]]}
    # The discs do not touch: the stroke runs between them and crosses neither.
    with pytest.raises(DataError, match="crosses"):
        apply(image, kept(image, "red"), {**act, "objects": [1]})
    parts = masks_of(apply(image, state, act))
    assert sorted(
        round(max(iou(part, disc(name)) for part in parts), 1) for name in ("red", "blue")
    ) == [1, 1]


def test_an_item_is_split_without_being_kept_first(image: OpenImage) -> None:
    act = {
        "act": "split",
        "objects": [],
        "items": [item_of(image, "green")],
        "stroke": [[170, 150], [290, 150]],
        "category": 1,
    }
    assert len(apply(image, EMPTY, act).objects) == 2


def test_an_outline_is_kept_as_it_was_drawn(image: OpenImage) -> None:
    act = {"act": "draw", "outline": [[10, 20], [30, 20], [30, 60], [10, 60]], "category": 2}
    state = apply(image, kept(image, "red"), act)
    (drawn,) = masks_of(state)[1:]
    wanted = np.zeros(image.size, dtype=np.bool_)
    wanted[20:60, 10:30] = True
    assert np.array_equal(drawn, wanted)
    assert state.objects[1].category_id == 2
    # What is outside of the image is left out.
    beyond = {**act, "outline": [[-50, 20], [30, 20], [30, 60], [-50, 60]]}
    wanted[20:60, :10] = True
    assert np.array_equal(masks_of(apply(image, EMPTY, beyond))[0], wanted)


def test_all_that_is_offered_is_kept_but_for_what_is_there(image: OpenImage) -> None:
    act = {"act": "keep-all", "score": 0.1, "items": [], "category": 1, "categories": [1]}
    every = apply(image, EMPTY, act)
    for name in ("red", "green", "blue"):
        assert max(iou(mask, disc(name)) for mask in masks_of(every)) > 0.9
    assert apply(image, every, act) == every
    some = apply(image, kept(image, "red"), act)
    assert sum(iou(mask, disc("red")) > COVERED for mask in masks_of(some)) == 1
    assert apply(image, EMPTY, {**act, "score": 1.01}) == EMPTY


def test_classes_and_the_end_of_the_work(image: OpenImage) -> None:
    state = kept(image, "red", "blue")
    state = apply(image, state, {"act": "classify", "objects": [2], "category": 7})
    assert [one.category_id for one in state.objects] == [1, 7]
    done = apply(image, state, {"act": "finish", "finished": True})
    assert done.finished
    assert done.objects == state.objects


@pytest.mark.parametrize(
    ("act", "message"),
    [
        pytest.param({"act": "paint"}, "wanted one of keep, join, remove", id="unknown"),
        pytest.param({"act": "join"}, "join wants other values", id="nothing-said"),
        pytest.param({"act": "join", "objects": 3, "items": []}, "other values", id="no-list"),
        pytest.param({"act": "remove", "objects": [9]}, "no object 9 any more", id="gone"),
        pytest.param(
            {"act": "split", "objects": [], "items": [0], "stroke": [[1, 1]], "category": 1},
            "wants 2 points",
            id="short-stroke",
        ),
        pytest.param(
            {"act": "draw", "outline": [[1, 1], [9, 9]], "category": 1},
            "wants 3 points",
            id="open-outline",
        ),
        pytest.param(
            {"act": "draw", "outline": [[1, 1], [9, 9], [1, 1]], "category": 1},
            "encloses something",
            id="nothing-inside",
        ),
        pytest.param(
            {"act": "draw", "outline": [[1, 1], [9, float("nan")], [1, 9]], "category": 1},
            "that are numbers",
            id="no-place",
        ),
        pytest.param(
            {"act": "draw", "outline": [[1, 1], [9], [1, 9]], "category": 1},
            "that are numbers",
            id="half-a-point",
        ),
    ],
)
def test_what_cannot_be_done_is_reported(
    image: OpenImage, act: dict[str, Any], message: str
) -> None:
    with pytest.raises(DataError, match=message):
        apply(image, EMPTY, act)
