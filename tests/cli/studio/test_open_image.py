"""What can be clicked on an image: its masks, and the arrays that the page finds them in."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from tests.cli.studio.conftest import DISCS, SIZE, disc, iou, item_of

from soloist.cli.studio.open_image import COVERED, OpenImage, open_image
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
def test_a_disc_is_an_item_whose_mask_is_the_disc(image: OpenImage, name: str) -> None:
    assert iou(image.mask([item_of(image, name)]), disc(name)) > 0.95


def test_masks_are_those_that_predict_makes(image: OpenImage) -> None:
    items = [item_of(image, name) for name in DISCS]
    expected = candidate_masks(image.found, image.candidates.filter(np.array(items)), SIZE)[0]
    for item, mask in zip(items, expected.numpy(), strict=True):
        assert np.array_equal(image.mask([item]), mask)


def test_several_items_are_one_mask(image: OpenImage) -> None:
    union = image.mask([item_of(image, "red"), item_of(image, "blue")])
    assert iou(union, disc("red") | disc("blue")) > 0.95


def test_an_item_that_is_not_there_is_told(image: OpenImage) -> None:
    with pytest.raises(DataError, match="wanted an item from 0 to"):
        image.mask([len(image)])


def test_the_page_finds_every_pixel_of_every_item(image: OpenImage) -> None:
    head, arrays = unpacked(image.packed())
    assert head["imageSize"] == list(SIZE)
    height, width = head["size"]
    ranks = arrays["ranks"].reshape(head["treeCount"], -1)
    for item in range(0, len(image), 97):
        rank = ranks[arrays["trees"][item]][arrays["leaves"]]
        held = (rank >= arrays["firsts"][item]) & (rank < arrays["lasts"][item])
        assert np.array_equal(np.flatnonzero(held), np.sort(image.pixels(item)))
        left, top, right, bottom = arrays["boxes"].reshape(-1, 4)[item]
        rows, columns = np.divmod(np.flatnonzero(held), width)
        assert (left, right) == (columns.min(), columns.max() + 1)
        assert (top, bottom) == (rows.min(), rows.max() + 1)
        assert arrays["areas"][item] == held.sum()
    assert len(arrays["leaves"]) == height * width


def test_what_is_offered_hardly_overlaps(image: OpenImage) -> None:
    taken = np.zeros(image.found.size[0] * image.found.size[1], dtype=bool)
    scores = image.scores[image.offered]
    assert (np.diff(scores) <= 0).all()
    for item in image.offered.tolist():
        assert taken[image.pixels(item)].mean() <= COVERED
        taken[image.pixels(item)] = True
    assert len(image.offered) >= len(DISCS)


def test_a_image_of_one_colour_has_no_items(tmp_path: Path, segmenter: Segmenter) -> None:
    Image.new("RGB", (50, 40), (9, 9, 9)).save(tmp_path / "one.png")
    image = open_image(ImageRef(tmp_path / "one.png", "one.png"), segmenter)
    assert len(image) == 0
    _, arrays = unpacked(image.packed())
    assert len(arrays["scores"]) == len(arrays["offered"]) == 0


def test_masks_of_a_network_are_items_too(folder: Path, classes_folder: Path) -> None:
    network = load(classes_folder, device="cpu", precision="fp32")
    image = open_image(ImageRef(folder / "0.png", "0.png"), network)
    result = network.predict(folder / "0.png")[0]
    nodes = len(image.candidates)
    assert len(image) == nodes + len(result) > nodes
    assert np.array_equal(image.mask([nodes]), result.masks[0].numpy())
    head, arrays = unpacked(image.packed())
    for place in range(len(result)):
        first, last = arrays["ends"][place : place + 2].tolist()
        held = np.zeros(head["size"][0] * head["size"][1], dtype=bool)
        for start, stop in arrays["runs"].reshape(-1, 2)[first:last]:
            held[start:stop] = True
        assert np.array_equal(np.flatnonzero(held), image.pixels(nodes + place))
    assert result.labels is not None
    assert arrays["labels"].tolist() == result.labels.tolist()
