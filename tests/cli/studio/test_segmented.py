from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from PIL import Image
from pycocotools import mask as coco_mask

from soloist.cli.studio import segmented as module
from soloist.cli.studio.segmented import Choice, Segmented, segment_file
from soloist.errors import DataError
from soloist.inference.results import Result
from soloist.inference.segmenter import Segmenter, load
from soloist.ops.masks import masks_to_boxes

SIZE = (10, 20)
# (rows, columns) of three masks of 10, 20 and 50 percent; the second overlaps the third.
WINDOWS = ((slice(0, 2), slice(0, 10)), (slice(2, 6), slice(0, 10)), (slice(0, 10), slice(5, 15)))
SCORES = (0.9, 0.5, 0.25)


def by_hand(folder: Path, *, scale: int = 1, preview_scale: int = 1) -> Segmented:
    """Three masks over a grey picture."""
    masks = torch.zeros((3, *SIZE), dtype=torch.bool)
    for mask, window in zip(masks, WINDOWS, strict=True):
        mask[window] = True
    full, preview = (
        masks.repeat_interleave(times, dim=1).repeat_interleave(times, dim=2)
        for times in (scale, preview_scale)
    )
    size = (full.shape[1], full.shape[2])
    return Segmented(
        result=Result(
            image_size=size,
            masks=full,
            scores=torch.tensor(SCORES),
            boxes=masks_to_boxes(full),
            embeddings=torch.zeros(3, 2),
            path=folder / "upload" / "my photo.jpg",
        ),
        pixels=np.full((*size, 3), 128, dtype=np.uint8),
        areas=torch.tensor([0.1, 0.2, 0.5]),
        preview=np.full((*preview.shape[1:], 3), 128, dtype=np.uint8),
        preview_masks=preview.numpy(),
    )


@pytest.fixture(scope="module")
def segmenter(model_folder: Path) -> Segmenter:
    return load(model_folder, device="cpu", precision="fp32")


@pytest.mark.parametrize(
    ("choice", "expected"),
    [
        pytest.param(Choice(), [0, 1, 2], id="all"),
        pytest.param(Choice(least_score=0.25), [0, 1, 2], id="equal-score"),
        pytest.param(Choice(least_score=0.26), [0, 1], id="score"),
        pytest.param(Choice(least_score=1), [], id="none"),
        pytest.param(Choice(least_area=0.2), [1, 2], id="equal-least-area"),
        pytest.param(Choice(most_area=0.2), [0, 1], id="equal-most-area"),
        pytest.param(Choice(0.5, 0.15, 0.3), [1], id="all-three"),
        pytest.param(Choice(least_area=0.3, most_area=0.1), [], id="crossed"),
    ],
)
def test_a_mask_meets_all_three_bounds(tmp_path: Path, choice: Choice, expected: list[int]) -> None:
    picture = by_hand(tmp_path)
    assert picture.chosen(choice).nonzero()[:, 0].tolist() == expected
    written = json.loads(picture.save_coco(choice, tmp_path).read_text())["annotations"]
    assert [one["score"] for one in written] == [SCORES[index] for index in expected]
    line = f"20 × 10 pixels: {len(expected)} of 3 masks shown."
    if choice.least_score > max(SCORES):
        line += " The best score is 0.90: lower the least score to see more."
    assert picture.summary(choice) == line


def test_a_mask_keeps_its_colour_whatever_else_is_shown(tmp_path: Path) -> None:
    picture = by_hand(tmp_path, preview_scale=10)
    every, second = picture.draw(Choice()), picture.draw(Choice(0.5, 0.15, 0.3))
    in_first, in_second, in_none = (5, 5), (25, 10), (95, 195)
    grey = [128, 128, 128]
    assert every[in_first].tolist() != grey
    assert every[in_first].tolist() != every[in_second].tolist()
    assert second[in_first].tolist() == grey
    assert second[in_second].tolist() == every[in_second].tolist() != grey
    assert every[in_none].tolist() == grey
    assert np.array_equal(picture.draw(Choice(least_score=1)), picture.preview)


def test_the_coco_file_is_decoded_by_pycocotools(tmp_path: Path) -> None:
    picture = by_hand(tmp_path, scale=3)
    path = picture.save_coco(Choice(least_score=0.5), tmp_path)
    assert path == tmp_path / "my photo.json"
    document = json.loads(path.read_text())
    assert document["images"] == [{"id": 1, "file_name": "my photo.jpg", "height": 30, "width": 60}]
    assert [one["id"] for one in document["annotations"]] == [1, 2]
    decoded = [coco_mask.decode(one["segmentation"]) for one in document["annotations"]]
    assert np.array_equal(np.stack(decoded), picture.result.masks[:2].numpy())


def test_the_overlay_has_the_size_of_the_file(tmp_path: Path) -> None:
    picture = by_hand(tmp_path, scale=3)
    path = picture.save_overlay(Choice(), tmp_path)
    assert path == tmp_path / "my photo.masks.png"
    with Image.open(path) as image:
        assert (image.format, image.size, image.mode) == ("PNG", (60, 30), "RGB")
    untouched = picture.save_overlay(Choice(least_score=1), tmp_path)
    with Image.open(untouched) as image:
        assert image.getextrema() == ((128, 128),) * 3


def test_the_label_map_numbers_masks_as_the_coco_file_does(tmp_path: Path) -> None:
    picture = by_hand(tmp_path)
    choice = Choice(least_area=0.2)  # The second and the third, which overlap.
    annotations = json.loads(picture.save_coco(choice, tmp_path).read_text())["annotations"]
    with Image.open(picture.save_labels(choice, tmp_path)) as image:
        assert image.mode == "I;16"
        labels = np.asarray(image)
    second, third = (coco_mask.decode(one["segmentation"]).view(bool) for one in annotations)
    assert (second & third).any()
    assert np.array_equal(labels == 1, second)
    assert np.array_equal(labels == 2, third & ~second)


def test_an_image_without_objects_has_its_files_too(tmp_path: Path) -> None:
    picture = by_hand(tmp_path)
    none = Segmented(
        result=picture.result.filter(torch.zeros(3, dtype=torch.bool)),
        pixels=picture.pixels,
        areas=torch.zeros(0),
        preview=picture.preview,
        preview_masks=np.zeros((0, *SIZE), dtype=bool),
    )
    assert np.array_equal(none.draw(Choice()), picture.preview)
    assert none.summary(Choice()) == "20 × 10 pixels: the network found nothing."
    assert json.loads(none.save_coco(Choice(), tmp_path).read_text())["annotations"] == []
    for path in (none.save_overlay(Choice(), tmp_path), none.save_labels(Choice(), tmp_path)):
        with Image.open(path) as image:
            assert image.size == (20, 10)


def test_a_file_is_segmented_as_predict_does_and_once(
    segmenter: Segmenter, scenes: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = scenes / "images" / "000001.jpg"
    expected = segmenter.predict(path)[0]
    runs: list[tuple[int, int]] = []
    original = Segmenter.__call__

    def counted(self: Segmenter, pixels: NDArray[np.uint8], size: tuple[int, int]) -> object:
        runs.append(size)
        return original(self, pixels, size)

    monkeypatch.setattr(Segmenter, "__call__", counted)
    monkeypatch.setattr(module, "PREVIEW_SIDE", 40)
    picture = segment_file(segmenter, path)
    for choice in (Choice(), Choice(least_score=0.5)):
        picture.draw(choice)
        for save in (picture.save_coco, picture.save_overlay, picture.save_labels):
            save(choice, tmp_path)
    assert runs == [expected.image_size]
    assert len(expected) > 1
    assert torch.equal(picture.result.masks, expected.masks)
    assert torch.equal(picture.result.scores, expected.scores)
    pixels = expected.masks.shape[1] * expected.masks.shape[2]
    assert picture.areas.tolist() == pytest.approx(
        [mask.sum().item() / pixels for mask in expected.masks]
    )
    assert max(picture.preview.shape[:2]) == 40
    assert picture.preview_masks.shape == (len(expected), *picture.preview.shape[:2])


@pytest.mark.parametrize(
    ("content", "told"),
    [
        pytest.param(b"no picture", "it is not an image", id="text"),
        pytest.param(b"", "the file is empty", id="empty"),
        pytest.param(None, "No such file", id="missing"),
    ],
)
def test_what_cannot_be_read_is_told_in_one_line(
    segmenter: Segmenter, tmp_path: Path, content: bytes | None, told: str
) -> None:
    path = tmp_path / "my photo.jpg"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(DataError, match=told) as caught:
        segment_file(segmenter, path)
    # The page's user knows the file's name, and nothing of a temporary folder.
    assert str(caught.value).startswith("cannot read image 'my photo.jpg': ")
    assert "\n" not in str(caught.value)


def test_a_huge_picture_is_refused_before_it_is_decoded(
    segmenter: Segmenter, tmp_path: Path
) -> None:
    path = tmp_path / "huge.png"
    Image.new("1", (6000, 5000)).save(path)
    with pytest.raises(DataError) as caught:
        segment_file(segmenter, path)
    assert str(caught.value) == (
        "wanted a picture of at most 25 million pixels, got 'huge.png' of 6000 x 5000; "
        "make it smaller, or use soloist predict"
    )
