"""A walk over twenty photographs: somebody who knows the objects keeps them in the studio.

The player moves a real pointer over the page. For each object it points at its middle and keeps
what is lit if that is right; else it turns the wheel; else it keeps parts and joins them. What
comes out wrong it undoes and draws. Where more of what is offered is right than wrong, it first
keeps all of it and removes what is wrong.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from shutil import copyfile
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy import ndimage
from skimage.draw import polygon2mask
from tests.cli.studio.test_page import Studio, end, served

from soloist.cli.studio.open_image import OpenImage, open_image
from soloist.data.coco.outlines import outline
from soloist.data.coco.read import load_coco
from soloist.data.coco.rle import decode_mask, encode_masks, rle_iou, to_rle
from soloist.data.sources import ImageRef
from soloist.inference.segmenter import Segmenter
from soloist.proposals.ranking import overlaps_with

PHOTOS = Path(__file__).parents[4] / "shared" / "photos" / "dev"
WALKS = {"nuclei": 30, "coco": 32**2}
"""Sets, and the least pixels of an object that counts as clearly visible."""
IMAGES = 10
RIGHT = 0.7
"""Overlap (IoU) with the true mask from which on a mask is right."""
PART, MAX_PARTS = 0.8, 6
"""Share of a part that must lie within the object; parts of an object that are joined at most."""
DRAG = 30
"""Pixels of the screen that an outline extends at least when it is drawn."""
PIECE = 0.05
"""Share of an object that one of its parts has at least to be drawn."""
TOLERANCES = (8.0, 6.0, 4.0, 3.0, 2.0, 1.5, 1.0, 0.5)
POLYGON, DRAWN = 0.9, 0.85
"""Overlaps that a polygon drawn by hand is to have, and an outline that is drawn by one stroke."""


@dataclass
class Account:
    """What a walk over a set took."""

    objects: int = 0
    at_once: int = 0
    right: int = 0
    clicks: int = 0
    notches: int = 0
    drawn: int = 0
    corners: int = 0
    seconds: float = 0.0

    def summary(self, name: str) -> str:
        each = max(self.objects, 1)
        return (
            f"| {name} | {self.objects} | {self.at_once / each:.0%} | {self.right / each:.0%} | "
            f"{self.drawn / each:.0%} | {self.clicks / each:.1f} | {self.notches / each:.1f} | "
            f"{self.corners / each:.1f} | {self.seconds / each:.2f} |"
        )


def corners_of(mask: NDArray[np.bool_]) -> int:
    """Clicks that a polygon takes: the fewest corners that fit well enough."""
    return sum(map(len, rings_of(mask, POLYGON)))


def rings_of(mask: NDArray[np.bool_], least: float) -> list[NDArray[np.float64]]:
    """The outlines of a mask with the fewest corners that overlap it well enough."""
    rle = encode_masks(mask[None])[0]
    size = (mask.shape[0], mask.shape[1])
    for tolerance in TOLERANCES:
        rings = [part.outer for part in outline(rle, tolerance)]
        filled = to_rle([ring.ravel().tolist() for ring in rings], size)
        if rle_iou([filled], [rle])[0, 0] >= least:
            break
    return rings


def middle_of(mask: NDArray[np.bool_]) -> tuple[int, int]:
    """Row and column of the pixel that is farthest from the outline."""
    depth = ndimage.distance_transform_edt(np.pad(mask, 1))[1:-1, 1:-1]
    row, column = np.unravel_index(int(depth.argmax()), depth.shape)
    return int(row), int(column)


def area_of(ring: NDArray[np.float64]) -> float:
    """What a ring of (x, y) encloses, in pixels."""
    x, y = ring.T
    return float(abs(x @ np.roll(y, 1) - y @ np.roll(x, 1)) / 2)


def inside_of(ring: NDArray[np.float64], others: NDArray[np.bool_]) -> tuple[int, int]:
    """Row and column of a pixel far within a ring of (x, y), where no other object is."""
    within = polygon2mask(others.shape, ring[:, ::-1] - 0.5)
    return middle_of(within & ~others)


class Player:
    """Somebody who knows the true masks of an image."""

    def __init__(
        self, studio: Studio, opened: OpenImage, masks: Sequence[NDArray[np.bool_]]
    ) -> None:
        self.studio = studio
        self.opened = opened
        self.masks = masks
        small = np.stack([opened.reduced(mask) for mask in masks])
        self.ious = overlaps_with(opened.found, opened.candidates, small)
        sizes = small.sum(axis=(1, 2))
        areas = opened.candidates.areas
        shared = self.ious * (areas[:, None] + sizes) / (1 + self.ious)
        self.within = shared / areas[:, None]
        self.clicks = self.notches = self.drawn = 0

    def on_image(self, pixel: NDArray[np.int64]) -> tuple[float, float]:
        """Row and column in the image of the middle of some pixels of the arrays."""
        height, width = self.opened.found.size
        mask = np.zeros(height * width, dtype=np.bool_)
        mask[pixel] = True
        row, column = middle_of(mask.reshape(height, width))
        down, across = self.opened.size[0] / height, self.opened.size[1] / width
        return (row + 0.5) * down - 0.5, (column + 0.5) * across - 0.5

    def lit(self) -> tuple[int, list[int]]:
        """The item that is lit and its chain; -1 where none is."""
        found: Any = self.studio.page.evaluate(
            "() => { const {lit} = window.studio.stage; "
            "return lit && lit.item !== undefined ? [lit.item, lit.chain] : [-1, []]; }"
        )
        return found[0], found[1]

    def walk_to(self, item: int) -> None:
        """Turns the wheel until an item under the pointer is lit."""
        _, chain = self.lit()
        for _ in range(len(chain) + 2):
            at, chain = self.lit()
            if at == item:
                return
            down = chain.index(at) > chain.index(item) if at in chain else True
            self.studio.page.mouse.wheel(0, 100 if down else -100)
            self.notches += 1

    def click(self, place: tuple[float, float]) -> None:
        self.studio.acting(lambda: self.studio.page.mouse.click(*self.studio.on_screen(*place)))
        self.clicks += 1

    def keep(self, number: int) -> bool:
        """Keeps an object, looks at it, and draws it if it is wrong; whether it was lit at once."""
        before = self.acts()
        at_once = self.choose(number)
        if self.is_kept(number):
            return at_once
        for _ in range(self.acts() - before):
            self.studio.acting(lambda: self.studio.press("u"))
            self.clicks += 1
        self.draw(number)
        return False

    def acts(self) -> int:
        return int(self.studio.page.evaluate("window.studio.acts"))

    def is_kept(self, number: int) -> bool:
        """Whether one of the objects that the page shows is right."""
        shown = self.studio.page.evaluate("window.studio.stage.objects.map((one) => one.rings)")
        for rings in shown:
            within = [decode_mask(to_rle([ring], self.opened.size)) for ring in rings]
            kept = np.logical_xor.reduce(within)  # the others are its holes
            if (kept & self.masks[number]).sum() >= RIGHT * (kept | self.masks[number]).sum():
                return True
        return False

    def choose(self, number: int) -> bool:
        """Clicks an object or joins its parts, if that is right; whether it was lit at once."""
        place = middle_of(self.masks[number])
        self.studio.point(*place)
        item, chain = self.lit()
        if not chain:
            return False
        if self.ious[item, number] >= RIGHT:
            self.click(place)
            return True
        best = max(chain, key=lambda one: float(self.ious[one, number]))
        if self.ious[best, number] >= RIGHT:
            self.walk_to(best)
            self.click(place)
            return False
        parts = self.parts(number)
        joined = self.opened.mask(parts)
        overlap = (joined & self.masks[number]).sum() / (joined | self.masks[number]).sum()
        if len(parts) > 1 and overlap >= RIGHT:
            self.join(parts)
        return False

    def join(self, parts: Sequence[int]) -> None:
        """Marks items and makes one object of them, but for those that kept objects lie over."""
        marked = 0
        for part in parts:
            middle = self.on_image(self.opened.pixels(part))
            self.studio.point(*middle)
            if part in self.lit()[1]:
                self.walk_to(part)
                self.studio.press("m")
                marked += 1
        if marked > 0:
            self.clicks += marked
            self.click(middle)

    def draw(self, number: int) -> None:
        """Draws around an object: one stroke each around its parts, which are joined then."""
        rings = rings_of(self.masks[number], DRAWN)
        areas = [area_of(ring) for ring in rings]
        pieces = [
            ring for ring, area in zip(rings, areas, strict=True) if area > PIECE * sum(areas)
        ]
        for piece in pieces:
            self.trace(piece)
        self.drawn += 1
        if len(pieces) < 2:
            return
        others = np.any(np.delete(np.stack(self.masks), number, axis=0), axis=0)
        for piece in pieces:
            place = inside_of(piece, others)
            self.studio.point(*place)
            self.studio.press("m")
        self.clicks += len(pieces)
        self.click(place)

    def trace(self, ring: NDArray[np.float64]) -> None:
        """Draws an outline by one stroke; zooms in for that if it is too small to be drawn."""
        self.studio.point(*inside_of(ring, np.zeros(self.opened.size, dtype=np.bool_)))
        zoomed = 0
        while np.ptp([self.studio.on_screen(*point[::-1]) for point in ring], axis=0).max() < DRAG:
            self.zoom(1)
            zoomed += 1
        # Corners of pixels, a little within the image: the pointer goes down on it.
        corners = np.clip([*ring, ring[0]], 0.2, np.array(self.opened.size[::-1]) - 0.2) - 0.5
        points = [(row, column) for column, row in corners.tolist()]
        self.studio.press("l")
        self.studio.drag(points, steps=1)
        self.studio.press("Escape")
        self.clicks += 1
        for _ in range(zoomed):
            self.zoom(-1)
        self.notches += 2 * zoomed

    def zoom(self, step: int) -> None:
        """Zooms in (1) or out (-1) at the pointer."""
        self.studio.page.keyboard.down("Control")
        self.studio.page.mouse.wheel(0, -100 * step)
        self.studio.page.keyboard.up("Control")

    def parts(self, number: int) -> list[int]:
        """Items within an object that cover it together: each the one that adds most."""
        inside = np.flatnonzero(self.within[:, number] >= PART)
        rest = self.opened.reduced(self.masks[number]).ravel().copy()
        size = rest.sum()
        order = inside[np.argsort(-self.opened.candidates.areas[inside])]
        parts: list[int] = []
        for item in order[:200].tolist():
            pixels = self.opened.pixels(item)
            if rest[pixels].sum() > max(0.05 * size, 0.7 * len(pixels)):
                parts.append(item)
                rest[pixels] = False
            if len(parts) == MAX_PARTS:
                break
        return parts

    def keep_offered(self, score: float) -> set[int]:
        """Keeps all that is offered if more of it is right than wrong; the objects that are."""
        offered = [one for one in self.opened.offered.tolist() if self.opened.scores[one] >= score]
        right = [one for one in offered if self.ious[one].max() >= RIGHT]
        if len(right) <= len(offered) - len(right):
            return set()
        self.studio.acting(lambda: self.studio.press("a"))
        self.clicks += 1
        found = {int(self.ious[one].argmax()) for one in right}
        for place in reversed(range(len(offered))):
            if offered[place] not in right:
                button = f"Remove object {place + 1}"
                remove = self.studio.page.get_by_role("button", name=button, exact=True)
                self.studio.acting(remove.click)
                self.clicks += 1
        return found


@pytest.mark.documents
@pytest.mark.parametrize("name", WALKS)
def test_the_objects_of_photographs_are_kept(
    browser_page: Any, tmp_path: Path, segmenter: Segmenter, name: str
) -> None:
    if not PHOTOS.is_dir():
        pytest.skip("photographs are absent: ../shared/photos")
    truth = load_coco(PHOTOS / name / "annotations.json")
    chosen = [truth.images[place * len(truth.images) // IMAGES] for place in range(IMAGES)]
    (tmp_path / "images").mkdir()
    for image in chosen:
        file = Path(image.file_name).name
        copyfile(PHOTOS / name / "images" / image.file_name, tmp_path / "images" / file)
    account = Account()
    with served(tmp_path) as server:
        studio = Studio(browser_page, server.address)
        names = studio.page.evaluate("fetch('/api/overview').then((one) => one.json())")
        order = [one["name"] for one in names["images"]]
        wanted: dict[str, list[NDArray[np.bool_]]] = {}
        for image in chosen:
            file = Path(image.file_name).name
            masks = [
                decode_mask(one.rle)
                for one in truth.annotations[image.id]
                if not one.iscrowd and one.area >= WALKS[name]
            ]
            wanted[file] = masks
            path = tmp_path / "images" / file
            opened = open_image(ImageRef(path, file), segmenter)
            studio.size = opened.size
            button = studio.page.locator("nav li button").nth(order.index(file))
            button.click()
            studio.wait_for_image(file)
            account.objects += len(masks)
            if not masks:
                continue
            player = Player(studio, opened, masks)
            begun = time.monotonic()
            found = player.keep_offered(names["recommended"])
            account.at_once += len(found)
            for number in sorted(set(range(len(masks))) - found):
                account.at_once += player.keep(number)
            account.seconds += time.monotonic() - begun
            account.clicks += player.clicks
            account.notches += player.notches
            account.drawn += player.drawn
            account.corners += sum(map(corners_of, masks))
            print(file, len(masks), player.clicks, f"{account.seconds:.0f} s", flush=True)
            studio.page.mouse.move(5, 5)
            studio.page.screenshot(path=tmp_path / f"{name}-{file}.jpg", type="jpeg", quality=70)
        assert studio.complaints == []
        end(server)
    labels = load_coco(server.labels)
    for image in labels.images:
        kept = [one.rle for one in labels.annotations[image.id]]
        ious = rle_iou(kept, encode_masks(np.stack(wanted[image.file_name]))) if kept else None
        best = ious.max(axis=0) if ious is not None else np.zeros(len(wanted[image.file_name]))
        account.right += int((best >= RIGHT).sum())
    print(f"\n{account.summary(name)}\n{tmp_path}", flush=True)
    assert account.right == account.objects
    assert account.clicks < account.corners
