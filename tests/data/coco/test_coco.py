from __future__ import annotations

import json
import logging
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from pycocotools import mask as coco_mask
from pycocotools.coco import COCO

from soloist.data.coco.faults import Gate
from soloist.data.coco.read import load_coco
from soloist.data.coco.rle import decode_mask, decode_masks, encode_masks, rle_iou, to_rle
from soloist.data.coco.types import CocoImage
from soloist.data.coco.write import (
    annotation_records,
    instances_to_annotations,
    write_categories,
    write_coco,
)
from soloist.errors import DataError, RunError
from soloist.structures import Instances

IMAGE = CocoImage(id=7, file_name="sub/ä b.jpg", height=4, width=6)
# Column by column: 5 background, 2 foreground, 2 background, 2 foreground, 13 background.
PLAIN = {"size": [4, 6], "counts": [5, 2, 2, 2, 13]}
SQUARE = np.zeros((4, 6), dtype=np.bool_)
SQUARE[1:3, 1:3] = True


def random_masks(count: int, height: int, width: int, seed: int = 0) -> NDArray[np.bool_]:
    return np.random.default_rng(seed).random((count, height, width)) > 0.7


def make_instances(masks: NDArray[np.bool_], scores: list[float]) -> Instances:
    n = len(masks)
    return Instances(
        image_size=(masks.shape[1], masks.shape[2]),
        masks=torch.from_numpy(masks),
        scores=torch.tensor(scores),
        boxes=torch.zeros(n, 4),
        embeddings=torch.arange(3 * n, dtype=torch.float32).reshape(n, 3),
    )


def coco_text(**changes: Any) -> str:
    """A valid file of one image and one annotation, with entries of the annotation changed."""
    annotation = {"id": 1, "image_id": 7, "segmentation": PLAIN, "score": 0.5} | changes
    image = {"id": 7, "file_name": "a.jpg", "height": 4, "width": 6}
    return json.dumps({"images": [image], "annotations": [annotation]})


# Run lengths


@pytest.mark.parametrize(
    "masks",
    [
        pytest.param(random_masks(5, 7, 11), id="random"),
        pytest.param(np.zeros((2, 3, 4), dtype=np.bool_), id="empty-masks"),
        pytest.param(np.ones((2, 3, 4), dtype=np.bool_), id="full-masks"),
        pytest.param(np.ones((1, 1, 1), dtype=np.bool_), id="one-pixel"),
        pytest.param(random_masks(2, 300, 500)[:, ::2, ::-1], id="strided-view"),
    ],
)
def test_masks_survive_a_round_trip(masks: NDArray[np.bool_]) -> None:
    encoded = encode_masks(masks)
    assert json.loads(json.dumps(encoded)) == encoded
    np.testing.assert_array_equal(decode_masks(encoded, masks.shape[1:]), masks)
    reference = coco_mask.encode(np.asfortranarray(masks.transpose(1, 2, 0).astype(np.uint8)))
    assert [rle["counts"] for rle in encoded] == [rle["counts"].decode() for rle in reference]


def test_a_tensor_is_encoded_like_an_array() -> None:
    masks = random_masks(3, 5, 9)
    assert encode_masks(torch.from_numpy(masks)) == encode_masks(masks)


def test_no_masks_give_no_run_lengths() -> None:
    assert encode_masks(torch.zeros((0, 4, 6), dtype=torch.bool)) == []
    assert decode_masks([], (4, 6)).shape == (0, 4, 6)


@pytest.mark.parametrize(
    "masks",
    [
        pytest.param(np.zeros((4, 6), dtype=np.bool_), id="two-dimensions"),
        pytest.param(np.zeros((1, 4, 6), dtype=np.uint8), id="not-bool"),
    ],
)
def test_what_is_no_stack_of_masks_is_refused(masks: NDArray[Any]) -> None:
    with pytest.raises(ValueError, match=r"must be \(N, H, W\) bool"):
        encode_masks(masks)


@pytest.mark.parametrize(
    "segmentation",
    [
        pytest.param(PLAIN, id="plain-run-lengths"),
        pytest.param(encode_masks(SQUARE[None])[0], id="compressed"),
        pytest.param(coco_mask.encode(np.asfortranarray(SQUARE.view(np.uint8))), id="bytes"),
        pytest.param([[1, 1, 3, 1, 3, 3, 1, 3]], id="polygon"),
        pytest.param([[1, 1, 3, 1, 3, 2, 1, 2], [1, 2, 3, 2, 3, 3, 1, 3]], id="two-polygons"),
        pytest.param([[1, 1, 3, 1, 3, 3, 1, 3], [0, 0, 5, 3]], id="two-points-cover-nothing"),
    ],
)
def test_every_kind_of_segmentation_is_decoded(segmentation: Any) -> None:
    decoded = decode_mask(segmentation, (4, 6))
    assert decoded.dtype == np.bool_
    np.testing.assert_array_equal(decoded, SQUARE)


def counts_of(*lengths: int) -> str:
    """COCO's compressed form, written slowly from its definition."""
    text = ""
    for index, length in enumerate(lengths):
        value = length - lengths[index - 2] if index > 2 else length
        more = True
        while more:
            bits = value & 0x1F
            value >>= 5
            more = value != (-1 if bits & 0x10 else 0)
            text += chr(48 + (bits | (0x20 if more else 0)))
    return text


def test_the_slow_form_of_counts_is_the_libraries() -> None:
    assert counts_of(5, 2, 2, 2, 13) == encode_masks(SQUARE[None])[0]["counts"]


@pytest.mark.parametrize(
    ("segmentation", "message"),
    [
        pytest.param({"size": [4, 6], "counts": [5, 2, 2]}, "sum to 4", id="sum-too-small"),
        pytest.param({"size": [4, 6], "counts": [20, 2, 9]}, "got 31", id="sum-too-large"),
        pytest.param({"size": [4, 6], "counts": [30, -6]}, "negative", id="negative-plain"),
        pytest.param(
            {"size": [4, 6], "counts": counts_of(30, -6)}, "negative", id="negative-compressed"
        ),
        pytest.param({"size": [4, 6], "counts": counts_of(25)}, "got 25", id="compressed-sum"),
        pytest.param({"size": [4, 6], "counts": "P"}, "damaged string", id="cut-off-string"),
        pytest.param({"size": [4, 6], "counts": "\x01"}, "damaged string", id="low-character"),
        pytest.param({"size": [4, 6], "counts": "é"}, "damaged string", id="not-ascii"),
        pytest.param({"size": [4, 6], "counts": "o" * 40 + "0"}, "endless", id="endless-number"),
        pytest.param({"size": [4, 6], "counts": ""}, "got 0", id="empty-string"),
        pytest.param({"size": [4, 6], "counts": [24.0]}, "list of integers", id="floats"),
        pytest.param({"size": [4, 6], "counts": None}, "list of integers", id="no-counts"),
        pytest.param({"size": [4, 6], "counts": [10**30]}, "got 1000", id="huge-number"),
        pytest.param({"size": [6, 4], "counts": [24]}, "of 4 x 6", id="other-size"),
        pytest.param({"size": [2**16, 2**16], "counts": [2**32]}, "at most", id="giant"),
        pytest.param({"size": [4], "counts": [24]}, "size", id="half-a-size"),
        pytest.param({"size": [0, 6], "counts": []}, "size", id="no-height"),
        pytest.param({"size": "46", "counts": [24]}, "size", id="text-size"),
        pytest.param({"counts": [24]}, "size", id="no-size"),
        pytest.param([], "at least one polygon", id="no-polygon"),
        pytest.param([[0, 0, 5, 3]], "at least one polygon", id="a-box-for-a-polygon"),
        pytest.param([[0, 0, 5, 3, 1]], "polygon 0", id="odd-number-of-coordinates"),
        pytest.param([[0, 0, 5, 3, 1, float("nan")]], "polygon 0", id="nan"),
        pytest.param([[0, 0, 5, 3, 1, 1e12]], "polygon 0", id="far-away"),
        pytest.param([[[0, 0], [5, 3], [1, 1]]], "polygon 0", id="nested-points"),
        pytest.param([["a", "b"]], "polygon 0", id="text-polygon"),
        pytest.param([None], "polygon 0", id="no-points"),
        pytest.param(None, "NoneType", id="none"),
        pytest.param("5,2", "str", id="text"),
    ],
)
def test_a_damaged_segmentation_is_refused(segmentation: Any, message: str) -> None:
    with pytest.raises(DataError, match=message):
        to_rle(segmentation, (4, 6))


def test_polygons_need_a_size() -> None:
    with pytest.raises(DataError, match="without the image's size"):
        to_rle([[1, 1, 3, 1, 3, 3]])


# Writing and reading


@pytest.mark.parametrize(
    ("labels", "categories", "ids"),
    [
        pytest.param(None, {1: "object"}, [1, 1, 1], id="no-classes"),
        pytest.param([2, 0, 2], {30: "a", 4: "b", 9: "c"}, [9, 30, 9], id="in-their-order"),
        pytest.param([1, 0, 1], {1: "object"}, [1, 1, 1], id="classes-without-names"),
        pytest.param(None, {5: "a"}, [5, 5, 5], id="one-class"),
    ],
)
def test_labels_become_categories(
    labels: list[int] | None, categories: dict[int, str], ids: list[int]
) -> None:
    instances = make_instances(random_masks(3, 4, 6), [0.5] * 3)
    labelled = replace(instances, labels=None if labels is None else torch.tensor(labels))
    records = instances_to_annotations(labelled, 7, 1, categories)
    assert [record["category_id"] for record in records] == ids


def test_a_file_without_categories_has_none(tmp_path: Path) -> None:
    (tmp_path / "a.json").write_text(coco_text())
    assert load_coco(tmp_path / "a.json").categories == {}


def test_instances_become_annotations_with_tight_boxes() -> None:
    masks = np.concatenate([SQUARE[None], random_masks(6, 4, 6), np.zeros((1, 4, 6), bool)])
    records = instances_to_annotations(make_instances(masks, [0.1234567] * 8), 7, first_id=3)
    assert [record["id"] for record in records] == list(range(3, 11))
    assert records[0] == {
        "id": 3,
        "image_id": 7,
        "category_id": 1,
        "segmentation": encode_masks(SQUARE[None])[0],
        "area": 4,
        "bbox": [1.0, 1.0, 2.0, 2.0],
        "score": 0.123457,
        "iscrowd": 0,
    }
    for mask, record in zip(masks[:-1], records, strict=False):
        rows, columns = np.nonzero(mask)
        left, top = columns.min(), rows.min()
        tight = [left, top, columns.max() + 1 - left, rows.max() + 1 - top]
        assert (record["bbox"], record["area"]) == (tight, mask.sum())
    assert (records[-1]["bbox"], records[-1]["area"]) == ([0.0, 0.0, 0.0, 0.0], 0)


@pytest.mark.parametrize("dtype", [np.float16, np.float32])
def test_a_file_survives_a_round_trip(tmp_path: Path, dtype: type[np.floating]) -> None:
    instances = make_instances(random_masks(2, 4, 6), [0.9, 0.5])
    path = tmp_path / "out" / "masks.json"
    write_coco(
        path,
        [IMAGE, CocoImage(8, "empty.png", 2, 3)],
        instances_to_annotations(instances, 7, 1),
        info={"version": "x"},
        embeddings=instances.embeddings.numpy().astype(dtype),
    )
    assert sorted(file.name for file in path.parent.iterdir()) == [
        "masks.embeddings.npy",
        "masks.json",
    ]
    assert np.load(path.with_name("masks.embeddings.npy")).dtype == dtype
    content = json.loads(path.read_text())
    assert content["info"] == {"version": "x", "embeddings": "masks.embeddings.npy"}
    assert content["categories"] == [{"id": 1, "name": "object"}]

    file = load_coco(path)
    assert (len(file), file.images[0], file.categories) == (2, IMAGE, {1: "object"})
    read = file.instances(IMAGE)
    assert torch.equal(read.masks, instances.masks)
    assert torch.equal(read.scores, instances.scores)
    assert torch.equal(read.embeddings, instances.embeddings)
    rows, columns = np.nonzero(instances.masks[1].numpy())
    box = [columns.min(), rows.min(), columns.max() + 1, rows.max() + 1]
    assert read.boxes[1].tolist() == box
    assert file.instances(file.images[1]).masks.shape == (0, 2, 3)
    assert file.instances(file.images[1]).embeddings.shape == (0, 3)
    assert annotation_records(file.annotations[7]) == content["annotations"]


def test_pycocotools_reads_the_file(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    masks = random_masks(3, 4, 6)
    records = instances_to_annotations(make_instances(masks, [0.5] * 3), 7, 1)
    write_coco(tmp_path / "a.json", [IMAGE], records)
    coco = COCO(str(tmp_path / "a.json"))
    capsys.readouterr()
    decoded = [coco.annToMask(coco.anns[key]) for key in (1, 2, 3)]
    np.testing.assert_array_equal(np.stack(decoded), masks)


def test_a_file_without_objects_is_written_and_read(tmp_path: Path) -> None:
    write_coco(tmp_path / "a.json", [], iter(()), embeddings=np.zeros((0, 4), np.float32))
    file = load_coco(tmp_path / "a.json")
    assert (len(file), file.images) == (0, ())
    assert file.embeddings is not None
    assert file.embeddings.shape == (0, 4)


def test_embeddings_of_other_length_leave_the_old_files(tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    write_coco(path, [IMAGE], [], embeddings=np.zeros((0, 4), np.float32))
    old = path.read_text()
    records = instances_to_annotations(make_instances(SQUARE[None], [0.5]), 7, 1)
    with pytest.raises(ValueError, match=r"must be \(1, E\), got \(2, 4\)"):
        write_coco(path, [IMAGE], records, embeddings=np.zeros((2, 4), np.float32))
    assert path.read_text() == old
    assert len(np.load(tmp_path / "a.embeddings.npy")) == 0
    assert len(list(tmp_path.iterdir())) == 2


def test_a_place_that_cannot_be_written_is_reported(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(RunError, match="cannot write"):
        write_coco(tmp_path / "file" / "a.json", [IMAGE], [])


def test_missing_fields_are_computed_from_the_mask(tmp_path: Path) -> None:
    (tmp_path / "a.json").write_text(coco_text())
    annotation = load_coco(tmp_path / "a.json").annotations[7][0]
    assert (annotation.box_xywh, annotation.area) == ((1.0, 1.0, 2.0, 2.0), 4)
    assert (annotation.category_id, annotation.iscrowd) == (1, False)


def test_fields_of_the_file_are_kept(tmp_path: Path) -> None:
    text = coco_text(bbox=[0, 0, 5, 4], area=3.5, category_id=9, iscrowd=1)
    (tmp_path / "a.json").write_text(text)
    annotation = load_coco(tmp_path / "a.json").annotations[7][0]
    assert (annotation.box_xywh, annotation.area) == ((0, 0, 5, 4), 3.5)
    assert (annotation.category_id, annotation.iscrowd, annotation.score) == (9, True, 0.5)


def test_an_annotation_without_score_has_score_one(tmp_path: Path) -> None:
    content = json.loads(coco_text())
    del content["annotations"][0]["score"]
    (tmp_path / "a.json").write_text(json.dumps(content))
    assert load_coco(tmp_path / "a.json").annotations[7][0].score == 1.0


def test_a_result_list_is_read(tmp_path: Path) -> None:
    records = [
        {"image_id": 3, "segmentation": PLAIN, "score": 0.25},
        {"image_id": 3, "segmentation": encode_masks(~SQUARE[None])[0], "score": 0.5},
    ]
    (tmp_path / "a.json").write_text(json.dumps(records))
    file = load_coco(tmp_path / "a.json")
    assert (file.bare, file.images) == (True, (CocoImage(3, "", 4, 6),))
    np.testing.assert_array_equal(file.masks(file.images[0]), np.stack([SQUARE, ~SQUARE]))


def test_a_result_list_of_polygons_needs_the_images(tmp_path: Path) -> None:
    polygon = [[1, 1, 3, 1, 3, 3, 1, 3]]
    record = {"image_id": 7, "segmentation": polygon, "score": 0.5}
    (tmp_path / "a.json").write_text(json.dumps([record]))
    np.testing.assert_array_equal(
        load_coco(tmp_path / "a.json", images=[IMAGE]).masks(IMAGE), SQUARE[None]
    )
    with pytest.raises(DataError, match=r"\[0\] of .*without the image's size"):
        load_coco(tmp_path / "a.json")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        pytest.param("{", "not JSON", id="broken-json"),
        pytest.param("3", "without `images`", id="a-number"),
        pytest.param('{"annotations": []}', "without `images`", id="no-images"),
        pytest.param('{"images": []}', "`annotations`", id="no-annotations"),
        pytest.param('{"images": [3], "annotations": []}', r"images\[0\]", id="image-is-a-number"),
        pytest.param(
            '{"images": [{"id": 1, "file_name": "a"}], "annotations": []}',
            r"images\[0\] .*height and width of 1 or more",
            id="image-without-size",
        ),
        pytest.param(
            '{"images": [{"id": 1, "file_name": "a", "height": 0, "width": 2}], "annotations": []}',
            "got 0 x 2",
            id="image-of-no-height",
        ),
        pytest.param(
            json.dumps(
                {
                    "images": [{"id": 1, "file_name": n, "height": 1, "width": 1} for n in "ab"],
                    "annotations": [],
                }
            ),
            "ids that are given twice",
            id="id-twice",
        ),
        pytest.param(
            json.dumps(
                {
                    "images": [
                        {"id": i, "file_name": "a", "height": 1, "width": 1} for i in (1, 2)
                    ],
                    "annotations": [],
                }
            ),
            "names that are listed twice",
            id="name-twice",
        ),
        pytest.param('["a"]', r"\[0\] .*got str", id="result-is-text"),
        pytest.param(coco_text(image_id=8), r"annotations\[0\].*image_id 8", id="unknown-image"),
        pytest.param(coco_text(segmentation=None), r"annotations\[0\].*neither", id="no-mask"),
        pytest.param(
            coco_text(segmentation={"size": [4, 6], "counts": [3]}),
            r"annotations\[0\] of .*a\.json.*sum to",
            id="damaged-mask",
        ),
        pytest.param(coco_text(score="high"), "score, got 'high'", id="text-score"),
        pytest.param(coco_text(score=float("nan")), "finite number under score", id="nan-score"),
        pytest.param(coco_text(score=True), "number under score", id="bool-score"),
        pytest.param(coco_text(area=10**400), "area 1000", id="huge-area"),
        pytest.param(coco_text(bbox=[1, 2, 3]), "bbox", id="box-of-three"),
        pytest.param(coco_text(bbox=[1, 2, 3, None]), "bbox", id="box-with-null"),
    ],
)
def test_a_malformed_file_is_reported_in_one_line(tmp_path: Path, text: str, message: str) -> None:
    (tmp_path / "a.json").write_text(text)
    with pytest.raises(DataError, match=message) as caught:
        load_coco(tmp_path / "a.json", report=Gate(strict=True))
    assert "a.json" in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_missing_file_is_reported(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"gone\.json.*No such file"):
        load_coco(tmp_path / "gone.json")


def written_with_embeddings(folder: Path) -> Path:
    records = instances_to_annotations(make_instances(SQUARE[None], [0.5]), 7, 1)
    write_coco(folder / "a.json", [IMAGE], records, embeddings=np.zeros((1, 4), np.float32))
    return folder / "a.embeddings.npy"


def test_a_missing_sidecar_is_a_warning(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    written_with_embeddings(tmp_path).unlink()
    with caplog.at_level(logging.WARNING):
        file = load_coco(tmp_path / "a.json")
    assert file.embeddings is None
    assert "a.embeddings.npy" in caplog.text
    assert file.instances(IMAGE).embeddings.shape == (1, 0)


@pytest.mark.parametrize(
    ("array", "message"),
    [
        pytest.param(np.zeros((2, 4), np.float32), r"of shape \(2, 4\)", id="other-length"),
        pytest.param(np.zeros(1, np.float32), r"of shape \(1,\)", id="one-dimension"),
        pytest.param(np.zeros((1, 4), np.int64), "rows of embeddings", id="integers"),
        pytest.param(np.array([[None]]), "wanted an array", id="pickled-objects"),
    ],
)
def test_a_sidecar_that_does_not_fit_is_reported(
    tmp_path: Path, array: NDArray[Any], message: str
) -> None:
    np.save(written_with_embeddings(tmp_path), array)
    with pytest.raises(DataError, match=message):
        load_coco(tmp_path / "a.json")


def test_a_sidecar_cut_off_is_reported(tmp_path: Path) -> None:
    written_with_embeddings(tmp_path).write_bytes(b"\x93NUMPY")
    with pytest.raises(DataError, match=r"a\.embeddings\.npy"):
        load_coco(tmp_path / "a.json")


def test_a_sidecar_elsewhere_is_refused(tmp_path: Path) -> None:
    content = json.loads(coco_text()) | {"info": {"embeddings": "../a.npy"}}
    (tmp_path / "a.json").write_text(json.dumps(content))
    with pytest.raises(DataError, match="a file beside it"):
        load_coco(tmp_path / "a.json")


def test_ids_and_agreements_are_read_where_they_are_sound(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    mask = encode_masks(np.ones((1, 4, 4), dtype=np.bool_))[0]
    record = {"image_id": 1, "category_id": 1, "segmentation": mask}
    records = [{**record, "id": 7, "agreements": [0.5, 1]}, {**record, "id": "b"}, record]
    write_coco(tmp_path / "a.json", [CocoImage(1, "a.jpg", 4, 4)], records)
    read = load_coco(tmp_path / "a.json").annotations[1]
    assert [one.id for one in read] == [7, 2, 3]
    assert [one.agreements for one in read] == [(0.5, 1), (), ()]
    assert [record.get("agreements") for record in annotation_records(read)] == [
        [0.5, 1],
        None,
        None,
    ]
    records[0]["agreements"] = ["much"]
    write_coco(tmp_path / "a.json", [CocoImage(1, "a.jpg", 4, 4)], records)
    with caplog.at_level(logging.WARNING):
        assert len(load_coco(tmp_path / "a.json")) == 2
    assert "1 entries that cannot be understood: left out, such as annotations[0]" in caplog.text


def test_overlaps_of_compressed_masks_are_those_of_the_pixels() -> None:
    rng = np.random.default_rng(0)
    masks, others = rng.random((3, 9, 7)) > 0.5, rng.random((4, 9, 7)) > 0.3
    masks[2] = False
    expected = [[(a & b).sum() / max((a | b).sum(), 1) for b in others] for a in masks]
    np.testing.assert_allclose(rle_iou(encode_masks(masks), encode_masks(others)), expected)
    empty = encode_masks(np.zeros((1, 9, 7), dtype=np.bool_))
    assert rle_iou(empty, empty).tolist() == [[0]]
    assert rle_iou([], encode_masks(others)).shape == (0, 4)


def test_new_categories_leave_all_else_as_it_was(tmp_path: Path) -> None:
    mask = encode_masks(np.ones((1, 4, 4), dtype=np.bool_))[0]
    record = {"id": 3, "image_id": 1, "category_id": 1, "segmentation": mask, "mine": {"a": 1}}
    content = {
        "info": {"year": 2022, "embeddings": "gone.npy"},
        "licenses": [{"id": 1}],
        "images": [{"id": 1, "file_name": "a.jpg", "height": 4, "width": 4, "license": 1}],
        "annotations": [record],
    }
    (tmp_path / "a.json").write_text(json.dumps(content))
    source = load_coco(tmp_path / "a.json")
    write_categories(source, tmp_path / "b.json", [5], {5: "five"}, info={"by": "hand"})
    assert json.loads((tmp_path / "b.json").read_text()) == {
        **content,
        "info": {"year": 2022, "by": "hand"},
        "annotations": [{**record, "category_id": 5}],
        "categories": [{"id": 5, "name": "five"}],
    }
    assert not (tmp_path / "b.embeddings.npy").exists()
