"""What a result can be made into, of tensors and of arrays alike."""

from __future__ import annotations

import base64
import copy
import io
import json
import pickle
import re
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from numpy.typing import NDArray
from PIL import Image
from pycocotools import mask as coco_mask

from soloist.data.coco.encoded import EncodedMasks
from soloist.errors import ConfigError, DataError
from soloist.inference.results import Result

Either = Result[Any, Any]

SIZE = (48, 64)
COUNT = 5
ROWS = ("masks", "scores", "boxes", "embeddings", "labels")
NAMES = {7: "cat", 3: "dog"}


def squares(count: int = COUNT, size: tuple[int, int] = SIZE) -> NDArray[np.bool_]:
    """(N, H, W): squares that overlap, each of another size."""
    masks = np.zeros((count, *size), dtype=np.bool_)
    for row, mask in enumerate(masks):
        mask[3 * row : 3 * row + 12 + row, 5 * row : 5 * row + 10 + row] = True
    return masks


def fields_of(masks: NDArray[np.bool_]) -> dict[str, Any]:
    count = len(masks)
    boxes = [[0.0, 0.0, 0.0, 0.0]] * count
    for row, mask in enumerate(masks):
        if mask.any():
            ys, xs = np.nonzero(mask)
            boxes[row] = [float(v) for v in (xs.min(), ys.min(), xs.max() + 1, ys.max() + 1)]
    return {
        "masks": masks,
        "scores": np.linspace(0.9, 0.5, count, dtype=np.float32),
        "boxes": np.array(boxes, dtype=np.float32).reshape(count, 4),
        "embeddings": np.random.default_rng(0).normal(size=(count, 8)).astype(np.float32),
        "labels": np.arange(count, dtype=np.int64) % 2,
    }


def of_arrays(masks: NDArray[np.bool_], **more: Any) -> Either:
    return Result(image_size=masks.shape[1:], **fields_of(masks), **more)


def of_tensors(masks: NDArray[np.bool_], **more: Any) -> Either:
    rows: dict[str, Any] = {
        name: torch.from_numpy(value) for name, value in fields_of(masks).items()
    }
    return Result(image_size=masks.shape[1:], **rows, **more)


@pytest.fixture(params=[of_tensors, of_arrays])
def make(request: pytest.FixtureRequest) -> Callable[..., Either]:
    made: Callable[..., Either] = request.param
    return made


@pytest.fixture
def pixels() -> NDArray[np.uint8]:
    return np.random.default_rng(1).integers(0, 256, (*SIZE, 3), dtype=np.uint8)


@pytest.fixture
def result(make: Callable[..., Either], pixels: NDArray[np.uint8]) -> Either:
    return make(squares(), pixels=pixels, categories=NAMES)


def assert_same(one: Either, other: Either) -> None:
    assert type(one) is type(other)
    assert one.image_size == other.image_size
    assert one.categories == other.categories
    assert one.path == other.path
    for name in ROWS:
        mine, wanted = getattr(one, name), getattr(other, name)
        assert type(mine) is type(wanted)
        assert mine.dtype == wanted.dtype, name
        np.testing.assert_array_equal(np.asarray(mine), np.asarray(wanted), err_msg=name)


# Choosing


@pytest.mark.parametrize(
    ("chosen", "rows"),
    [
        pytest.param(2, [2], id="index"),
        pytest.param(-1, [4], id="from-the-end"),
        pytest.param(np.int64(3), [3], id="index-of-numpy"),
        pytest.param(torch.tensor(1), [1], id="index-of-torch"),
        pytest.param(slice(1, 3), [1, 2], id="slice"),
        pytest.param(slice(None, None, -2), [4, 2, 0], id="backwards"),
        pytest.param(slice(9, 12), [], id="slice-of-nothing"),
        pytest.param([4, 0, 4], [4, 0, 4], id="list"),
        pytest.param([], [], id="empty-list"),
        pytest.param([True, False, False, True, False], [0, 3], id="list-of-bools"),
        pytest.param(np.array([3, -5]), [3, 0], id="array"),
        pytest.param(np.arange(5) > 2, [3, 4], id="bools"),
        pytest.param(np.zeros(5, dtype=np.bool_), [], id="none-true"),
        pytest.param(torch.tensor([1, 0]), [1, 0], id="tensor"),
        pytest.param(torch.arange(5) < 1, [0], id="tensor-of-bools"),
    ],
)
def test_some_objects_are_a_result_of_the_same_image(
    result: Either, chosen: Any, rows: list[int]
) -> None:
    some = result[chosen]
    assert type(some) is type(result)
    assert len(some) == len(rows)
    assert some.pixels is result.pixels
    assert some.image_size == result.image_size
    for name in ROWS:
        kept = np.asarray(getattr(result, name))[rows]
        np.testing.assert_array_equal(np.asarray(getattr(some, name)), kept)


@pytest.mark.parametrize(
    ("keep", "count"),
    [
        pytest.param(None, 2, id="recommended"),
        pytest.param(0.6, 4, id="score"),
        pytest.param(np.float32(0.6), 4, id="score-of-numpy"),
        pytest.param(torch.tensor(0.6), 4, id="score-of-torch"),
        pytest.param(0, 5, id="all"),
        pytest.param(1.0, 0, id="none"),
        pytest.param([True, False, False, False, True], 2, id="bools"),
        pytest.param([3, 1], 2, id="indices"),
    ],
)
def test_filter_takes_a_score_or_places(make: Callable[..., Either], keep: Any, count: int) -> None:
    result = make(squares(), recommended_score=0.75)
    some = result.filter() if keep is None else result.filter(keep)
    assert len(some) == count
    assert type(some) is type(result)
    assert some.recommended_score == 0.75


@pytest.mark.parametrize("keep", [1.5, -0.1, 40, float("nan")])
def test_a_score_that_is_none_is_refused(result: Either, keep: float) -> None:
    with pytest.raises(DataError, match=r"a least score must be in \[0, 1\], got"):
        result.filter(keep)


def test_scores_choose(result: Either) -> None:
    assert len(result[result.scores > 0.6]) == 3


@pytest.mark.parametrize(
    ("chosen", "kind"),
    [
        pytest.param(5, IndexError, id="beyond"),
        pytest.param(-6, IndexError, id="before"),
        pytest.param([0, 9], IndexError, id="one-beyond"),
        pytest.param([True, False], IndexError, id="too-few-bools"),
        pytest.param("masks", TypeError, id="name"),
        pytest.param(1.0, TypeError, id="float"),
        pytest.param([0.5], TypeError, id="floats"),
        pytest.param(True, TypeError, id="one-bool"),
        pytest.param([[0], [1]], TypeError, id="table"),
        pytest.param(None, TypeError, id="none"),
    ],
)
def test_what_chooses_nothing_is_refused(
    result: Either, chosen: Any, kind: type[Exception]
) -> None:
    with pytest.raises(kind):
        result[chosen]


def test_iteration_gives_one_object_after_the_other(result: Either) -> None:
    each = list(result)
    assert [len(one) for one in each] == [1] * COUNT
    assert [float(one.scores[0]) for one in each] == [float(score) for score in result.scores]
    assert list(result[:0]) == []


# Looking


def test_its_text_says_what_was_found(result: Either, make: Callable[..., Either]) -> None:
    assert repr(result) == "<Result: 5 objects on image, 48 x 64 pixels, scores 0.90 to 0.50>"
    assert "1 object on" in repr(result[0])
    named = make(squares(0), path=Path("some/street.jpg"))
    assert repr(named) == "<Result: 0 objects on street.jpg, 48 x 64 pixels>"


def shown_image(page: str) -> Image.Image:
    (data,) = re.findall(r'src="data:image/jpeg;base64,([^"]+)"', page)
    return Image.open(io.BytesIO(base64.b64decode(data)))


def test_a_notebook_shows_the_masks(result: Either, pixels: NDArray[np.uint8]) -> None:
    page = result._repr_html_()
    assert "5 objects on image" in page
    drawn = shown_image(page)
    assert drawn.size == SIZE[::-1]
    assert shown_image(result[:0]._repr_html_()).tobytes() != drawn.tobytes()


@pytest.mark.slow
@pytest.mark.parametrize("count", [0, 3, 60])
def test_what_a_notebook_shows_is_small(make: Callable[..., Either], count: int) -> None:
    size = (1200, 1600)
    noise = np.random.default_rng(0).integers(0, 256, (*size, 3), dtype=np.uint8)
    page = make(squares(count, size), pixels=noise)._repr_html_()
    assert max(shown_image(page).size) == 480
    assert len(page) < 200_000


def test_names_cannot_write_the_page(make: Callable[..., Either], tmp_path: Path) -> None:
    path = tmp_path / "<script>&.png"
    Image.new("RGB", SIZE[::-1]).save(path)
    page = make(squares(), path=path)._repr_html_()
    assert "&lt;script&gt;&amp;.png" in page
    assert "<script" not in page


@pytest.mark.parametrize("name", [None, "gone.jpg", "<b>.jpg"])
def test_without_its_image_a_notebook_shows_the_text_and_why(
    make: Callable[..., Either], tmp_path: Path, name: str | None
) -> None:
    page = make(squares(), path=None if name is None else tmp_path / name)._repr_html_()
    assert "5 objects" in page
    assert ("neither pixels nor a path" if name is None else "No such file") in page
    assert "<img" not in page
    assert "<b>" not in page


def test_a_large_file_is_shown_reduced(make: Callable[..., Either], tmp_path: Path) -> None:
    path = tmp_path / "a.jpg"
    Image.new("RGB", (2000, 1000), (200, 30, 30)).save(path)
    page = make(squares(2, (1000, 2000)), path=path)._repr_html_()
    assert shown_image(page).size == (480, 240)


# Plain values


def test_a_dictionary_is_json_with_all_but_the_embeddings(result: Either) -> None:
    content = json.loads(json.dumps(result.to_dict(), allow_nan=False))
    assert (content["path"], content["height"], content["width"]) == (None, *SIZE)
    assert [one["category"] for one in content["objects"]] == ["cat", "dog", "cat", "dog", "cat"]
    assert [one["category_id"] for one in content["objects"]] == [7, 3, 7, 3, 7]
    for one, mask, box in zip(content["objects"], squares(), result.boxes, strict=True):
        np.testing.assert_array_equal(coco_mask.decode(one["mask"]).astype(np.bool_), mask)
        assert one["area"] == mask.sum()
        assert one["box"] == box.tolist()
    scores = [one["score"] for one in content["objects"]]
    assert scores == pytest.approx(result.scores.tolist(), abs=1e-6)


def test_a_dictionary_names_its_file(make: Callable[..., Either]) -> None:
    content = make(squares(0), path=Path("some") / "a.jpg").to_dict()
    assert content == {"path": "some/a.jpg", "height": 48, "width": 64, "objects": []}


@pytest.mark.parametrize("count", [0, 1, COUNT])
def test_supervision_takes_a_result(make: Callable[..., Either], count: int) -> None:
    supervision = pytest.importorskip("supervision")
    result = make(squares(count), categories=NAMES)
    detections = result.to_supervision()
    assert isinstance(detections, supervision.Detections)
    assert len(detections) == count
    np.testing.assert_array_equal(detections.mask, squares(count))
    np.testing.assert_array_equal(detections.xyxy, np.asarray(result.boxes))
    np.testing.assert_array_equal(detections.confidence, np.asarray(result.scores))
    assert detections.class_id is not None
    assert detections.class_id.tolist() == [0, 1, 0, 1, 0][:count]
    assert detections.data["class_name"].tolist() == ["cat", "dog", "cat", "dog", "cat"][:count]
    # What users do next.
    assert len(detections[detections.confidence > 0.6]) == min(count, 3)
    scene = np.zeros((*SIZE, 3), dtype=np.uint8)
    drawn = supervision.MaskAnnotator().annotate(scene.copy(), detections)
    assert (drawn != scene).any() == (count > 0)


def test_without_classes_supervision_gets_one(make: Callable[..., Either]) -> None:
    pytest.importorskip("supervision")
    result = replace(make(squares(2)), labels=None)
    detections = result.to_supervision()
    assert detections.class_id is not None
    assert detections.class_id.tolist() == [0, 0]
    assert detections.data["class_name"].tolist() == ["object", "object"]


@pytest.mark.parametrize("count", [0, 1, COUNT])
def test_a_result_comes_back_from_supervision(make: Callable[..., Either], count: int) -> None:
    pytest.importorskip("supervision")
    tracks = np.arange(count, dtype=np.int64) + 10
    result = make(squares(count), categories=NAMES)
    tracked = replace(result, track_ids=as_rows(tracks, result.scores))
    back = Result.from_supervision(tracked.to_supervision(), categories=NAMES)
    assert back.image_size == SIZE
    assert back.categories == NAMES
    for name in ("masks", "scores", "boxes", "labels", "track_ids"):
        np.testing.assert_array_equal(getattr(back, name), np.asarray(getattr(tracked, name)))
    assert back.to_coco()["categories"] == result.to_coco()["categories"]


def as_rows(values: NDArray[Any], like: Any) -> Any:
    return torch.from_numpy(values) if isinstance(like, torch.Tensor) else values


def test_what_supervision_filtered_comes_back_best_first() -> None:
    supervision = pytest.importorskip("supervision")
    detections = supervision.Detections(
        xyxy=np.zeros((3, 4), dtype=np.float32),
        mask=squares(3),
        confidence=np.array([0.2, 0.9, 0.4]),
        class_id=np.array([7, 7, 2]),
        data={"class_name": np.array(["dog", "dog", "cat"])},
    )
    back = Result.from_supervision(detections[detections.confidence < 0.8])
    np.testing.assert_array_equal(back.masks, squares(3)[[2, 0]])
    np.testing.assert_allclose(back.scores, [0.4, 0.2])
    assert back.boxes.tolist() == [[10, 6, 22, 20], [0, 0, 10, 12]]
    assert back.categories == {3: "cat", 8: "dog"}
    assert [one["category"] for one in back.to_dict()["objects"]] == ["cat", "dog"]


def test_masks_stay_compressed_on_the_way_to_supervision_and_back() -> None:
    pytest.importorskip("supervision")
    compact = pytest.importorskip("supervision.detection.compact_mask")
    masks = squares(3)
    result = replace(of_arrays(masks), masks=EncodedMasks.of(masks))
    detections = result.to_supervision()
    assert isinstance(detections.mask, compact.CompactMask)
    np.testing.assert_array_equal(np.asarray(detections.mask), masks)
    back = Result.from_supervision(detections)
    assert isinstance(back.masks, EncodedMasks)
    assert back.masks.rles == result.masks.rles
    np.testing.assert_array_equal(back.boxes, result.boxes)


def test_detections_by_hand_are_certain(pixels: NDArray[np.uint8], tmp_path: Path) -> None:
    supervision = pytest.importorskip("supervision")
    Image.fromarray(pixels).save(tmp_path / "a.png")
    detections = supervision.Detections(xyxy=np.zeros((2, 4)), mask=squares(2))
    back = Result.from_supervision(detections, image=tmp_path / "a.png")
    assert (back.scores.tolist(), back.labels, back.path) == ([1, 1], None, tmp_path / "a.png")
    assert len(back.crops()) == 2
    nothing = Result.from_supervision(supervision.Detections.empty(), image=pixels)
    assert (len(nothing), nothing.image_size) == (0, SIZE)
    assert nothing.plot().size == (SIZE[1], SIZE[0])


@pytest.mark.parametrize(
    ("changes", "more", "message"),
    [
        pytest.param({"mask": None}, {}, "got 2 boxes alone", id="boxes"),
        pytest.param({"confidence": np.array([0.5, 7])}, {}, "got 0.5 to 7.0", id="score"),
        pytest.param({"confidence": np.array([0.5, np.nan])}, {}, "confidence", id="no-number"),
        pytest.param({}, {"image": np.zeros((9, 9), np.uint8)}, r"got \(9, 9\)", id="size"),
        pytest.param({}, {"categories": {1: "cat"}}, r"got \[0, 1\]", id="no-such-class"),
        pytest.param({"class_id": np.array([1, 1])}, {}, "'cat' and 'dog' for 1", id="two-names"),
    ],
)
def test_detections_that_are_no_result(
    changes: dict[str, Any], more: dict[str, Any], message: str
) -> None:
    pytest.importorskip("supervision")
    detections = replace(of_arrays(squares(2), categories=NAMES).to_supervision(), **changes)
    with pytest.raises(DataError, match=message):
        Result.from_supervision(detections, **more)


def test_no_detections_want_their_image() -> None:
    supervision = pytest.importorskip("supervision")
    with pytest.raises(DataError, match="image=PATH"):
        Result.from_supervision(supervision.Detections.empty())


def test_without_supervision_one_line_tells_how_to_get_it(
    result: Either, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "supervision", None)
    with pytest.raises(ConfigError, match=r"pip install '\.\[supervision\]'") as caught:
        result.to_supervision()
    assert "\n" not in str(caught.value)


# Pickles


@pytest.mark.parametrize("count", [0, 1, COUNT])
@pytest.mark.parametrize("copied", [lambda one: pickle.loads(pickle.dumps(one)), copy.deepcopy])
def test_a_copy_is_the_same(
    make: Callable[..., Either], count: int, copied: Callable[[Either], Either]
) -> None:
    result = make(squares(count), path=Path("a.jpg"), categories=NAMES)
    assert_same(copied(result), result)


def test_what_is_absent_stays_absent(make: Callable[..., Either]) -> None:
    result = replace(make(squares()), labels=None)
    copied = pickle.loads(pickle.dumps(result))
    assert copied.labels is None
    assert copied.agreements is None
    assert copied.pixels is None


def test_agreements_are_pickled_too() -> None:
    result = of_tensors(squares())
    agreements = torch.rand(COUNT, 4)
    copied = pickle.loads(pickle.dumps(replace(result, agreements=agreements)))
    assert torch.equal(copied.agreements, agreements)


@settings(max_examples=60, deadline=None)
@given(
    masks=hnp.arrays(
        np.bool_, st.tuples(st.integers(0, 4), st.integers(1, 17), st.integers(1, 17))
    ),
    tensors=st.booleans(),
)
def test_any_masks_survive_a_pickle_bit_by_bit(masks: NDArray[np.bool_], tensors: bool) -> None:
    result = (of_tensors if tensors else of_arrays)(masks)
    assert_same(pickle.loads(pickle.dumps(result)), result)


def test_a_pickle_is_a_hundredth_of_the_masks(make: Callable[..., Either]) -> None:
    masks = squares(40, (480, 640))
    result = make(masks, path=Path("a.jpg"))
    size = len(pickle.dumps(result))
    assert size < masks.nbytes / 100
    # A part of it does not drag the whole along.
    assert len(pickle.dumps(result[:4])) < size / 2


def test_a_copied_result_can_be_used_on(result: Either) -> None:
    copied = pickle.loads(pickle.dumps(result))
    assert np.array_equal(np.asarray(copied.plot()), np.asarray(result.plot()))
    assert copied[1:3].to_coco() == result[1:3].to_coco()


# Files


@pytest.mark.parametrize("there", [True, False])
def test_a_folder_gets_a_image_of_the_images_name(
    make: Callable[..., Either], pixels: NDArray[np.uint8], tmp_path: Path, there: bool
) -> None:
    result = make(squares(), pixels=pixels, path=tmp_path / "photo 1.jpg")
    folder = tmp_path / "out"
    if there:
        folder.mkdir()
    written = result.save(folder if there else f"{folder}/")
    assert written == folder / "photo 1.jpg.png"
    with Image.open(written) as drawn:
        assert drawn.size == SIZE[::-1]


def test_a_name_keeps_its_folders_within_the_one_it_is_put_in(
    make: Callable[..., Either], pixels: NDArray[np.uint8], tmp_path: Path
) -> None:
    result = make(squares(), pixels=pixels, name="../b/1.jpg")
    assert result.save(f"{tmp_path}/") == tmp_path / "b" / "1.jpg.png"
    assert result.to_coco()["images"][0]["file_name"] == "../b/1.jpg"


@pytest.mark.parametrize("name", ["masks", "masks.foo", "masks.hdf"])
def test_a_image_of_no_kind_is_refused(result: Either, tmp_path: Path, name: str) -> None:
    with pytest.raises(DataError, match=r"wanted an image such as masks.png, masks.json or a"):
        result.save(tmp_path / name)
    assert list(tmp_path.iterdir()) == []


# Tables and single objects


def test_a_table_has_a_row_an_object(
    make: Callable[..., Either], pixels: NDArray[np.uint8]
) -> None:
    pytest.importorskip("pandas", reason="wants pandas: pip install '.[science]'")
    masks = squares()
    table = make(masks, pixels=pixels, categories=NAMES).to_pandas()
    assert table["class"].tolist() == ["cat", "dog", "cat", "dog", "cat"]
    assert table["score"].tolist() == pytest.approx(np.linspace(0.9, 0.5, COUNT).tolist())
    assert table["area"].tolist() == masks.sum(axis=(1, 2)).tolist()
    for row, mask in zip(table.to_dict("records"), masks, strict=True):
        for channel in range(3):
            inside = pixels[..., channel][mask].astype(int)
            assert row[f"mean_{channel}"] == pytest.approx(inside.mean())
            assert row[f"sum_{channel}"] == inside.sum()
    empty = make(squares(0), pixels=pixels).to_pandas()
    assert len(empty) == 0
    assert "centroid_x" in empty.columns


@pytest.mark.parametrize("margin", [0, 4])
def test_objects_are_cut_out(
    make: Callable[..., Either], pixels: NDArray[np.uint8], margin: int
) -> None:
    masks = squares()
    result = make(masks, pixels=pixels)
    whole, cut = result.crops(margin=margin, cut=False), result.crops(margin=margin)
    for mask, box, one, other in zip(masks, result.boxes.tolist(), whole, cut, strict=True):
        left, top = (max(0, int(side) - margin) for side in box[:2])
        right, bottom = min(SIZE[1], int(box[2]) + margin), min(SIZE[0], int(box[3]) + margin)
        expected = pixels[top:bottom, left:right]
        assert np.array_equal(np.asarray(one), expected)
        assert np.array_equal(np.asarray(other)[..., :3], expected)
        assert np.array_equal(np.asarray(other)[..., 3] == 255, mask[top:bottom, left:right])


def test_a_result_is_shown_in_a_viewer(
    make: Callable[..., Either], pixels: NDArray[np.uint8], monkeypatch: pytest.MonkeyPatch
) -> None:
    shown: list[NDArray[np.uint8]] = []
    monkeypatch.setattr(Image.Image, "show", lambda image, title: shown.append(np.asarray(image)))
    result = make(squares(), pixels=pixels)
    result.show()
    (image,) = shown
    assert np.array_equal(image, np.asarray(result.plot()))
