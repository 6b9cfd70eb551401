"""What can be clicked on an image: its masks, and the arrays that the page finds them in."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from tests.cli.studio.conftest import DISCS, SIZE, disc, iou, item_of

from soloist.cli.studio.picture import COVERED, OpenPicture, open_picture
from soloist.data.sources import ImageRef
from soloist.errors import DataError
from soloist.inference.segmenter import Segmenter, load
from soloist.proposals.regions import candidate_masks


def unpacked(content: bytes) -> tuple[dict[str, Any], dict[str, np.ndarray[Any, Any]]]:
    """What the page reads, by the letter of the format."""
    (length,) = np.frombuffer(content[:4], "<u4")
    head = json.loads(content[4 : 4 + length])
    offset, arrays = 4 + int(length), {}
    for name, count in head["lengths"].items():
        kind = "<f4" if name == "scores" else "<u4"
        arrays[name] = np.frombuffer(content[offset : offset + 4 * count], kind)
        offset += 4 * count
    assert offset == len(content)
    return head, arrays


@pytest.mark.parametrize("name", DISCS)
def test_a_disc_is_an_item_whose_mask_is_the_disc(picture: OpenPicture, name: str) -> None:
    assert iou(picture.mask([item_of(picture, name)]), disc(name)) > 0.95


def test_masks_are_those_that_predict_makes(picture: OpenPicture) -> None:
    items = [item_of(picture, name) for name in DISCS]
    expected = candidate_masks(picture.found, picture.candidates.filter(np.array(items)), SIZE)[0]
    for item, mask in zip(items, expected.numpy(), strict=True):
        assert np.array_equal(picture.mask([item]), mask)


def test_several_items_are_one_mask(picture: OpenPicture) -> None:
    union = picture.mask([item_of(picture, "red"), item_of(picture, "blue")])
    assert iou(union, disc("red") | disc("blue")) > 0.95


def test_an_item_that_is_not_there_is_told(picture: OpenPicture) -> None:
    with pytest.raises(DataError, match="wanted an item from 0 to"):
        picture.mask([len(picture)])


def test_the_page_finds_every_pixel_of_every_item(picture: OpenPicture) -> None:
    head, arrays = unpacked(picture.packed())
    assert head["imageSize"] == list(SIZE)
    height, width = head["size"]
    ranks = arrays["ranks"].reshape(head["treeCount"], -1)
    for item in range(0, len(picture), 97):
        rank = ranks[arrays["trees"][item]][arrays["leaves"]]
        held = (rank >= arrays["firsts"][item]) & (rank < arrays["lasts"][item])
        assert np.array_equal(np.flatnonzero(held), np.sort(picture.pixels(item)))
        left, top, right, bottom = arrays["boxes"].reshape(-1, 4)[item]
        rows, columns = np.divmod(np.flatnonzero(held), width)
        assert (left, right) == (columns.min(), columns.max() + 1)
        assert (top, bottom) == (rows.min(), rows.max() + 1)
        assert arrays["areas"][item] == held.sum()
    assert len(arrays["leaves"]) == height * width


def test_what_is_offered_hardly_overlaps(picture: OpenPicture) -> None:
    taken = np.zeros(picture.found.size[0] * picture.found.size[1], dtype=bool)
    scores = picture.scores[picture.offered]
    assert (np.diff(scores) <= 0).all()
    for item in picture.offered.tolist():
        assert taken[picture.pixels(item)].mean() <= COVERED
        taken[picture.pixels(item)] = True
    assert len(picture.offered) >= len(DISCS)


def test_a_picture_of_one_colour_has_no_items(tmp_path: Path, segmenter: Segmenter) -> None:
    Image.new("RGB", (50, 40), (9, 9, 9)).save(tmp_path / "one.png")
    picture = open_picture(ImageRef(tmp_path / "one.png", "one.png"), segmenter)
    assert len(picture) == 0
    _, arrays = unpacked(picture.packed())
    assert len(arrays["scores"]) == len(arrays["offered"]) == 0


def test_masks_of_a_network_are_items_too(folder: Path, classes_folder: Path) -> None:
    network = load(classes_folder, device="cpu", precision="fp32")
    picture = open_picture(ImageRef(folder / "0.png", "0.png"), network)
    result = network.predict(folder / "0.png")[0]
    nodes = len(picture.candidates)
    assert len(picture) == nodes + len(result) > nodes
    assert np.array_equal(picture.mask([nodes]), result.masks[0].numpy())
    head, arrays = unpacked(picture.packed())
    for place in range(len(result)):
        first, last = arrays["ends"][place : place + 2].tolist()
        held = np.zeros(head["size"][0] * head["size"][1], dtype=bool)
        for start, stop in arrays["runs"].reshape(-1, 2)[first:last]:
            held[start:stop] = True
        assert np.array_equal(np.flatnonzero(held), picture.pixels(nodes + place))
    assert result.labels is not None
    assert arrays["labels"].tolist() == result.labels.tolist()
