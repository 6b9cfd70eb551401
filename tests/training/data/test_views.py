from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import Tensor

from soloist.config import AugmentConfig
from soloist.runtime.seeding import seeded
from soloist.training.data.augment import CropPair, color_distortion
from soloist.training.data.views import MIN_AREA, View, ViewMaker, paste_objects

# Whole images, no flip and nothing drawn for the colours.
PLAIN = AugmentConfig(
    short_side=(64, 64),
    max_side=200,
    crop_size=0,
    flip=0.0,
    copy_paste=0,
    color_jitter=0.0,
    gray=0.0,
    blur=0.0,
    erase=0.0,
)


def blobs(height: int, width: int) -> Tensor:
    """(2, H, W) bool: a rectangle at the top left and one at the right."""
    masks = torch.zeros((2, height, width), dtype=torch.bool)
    masks[0, height // 8 : height // 2, width // 8 : width // 2] = True
    masks[1, height // 2 : height - 4, 5 * width // 8 : width - 4] = True
    return masks


def image_of(masks: Tensor) -> Tensor:
    """A (3, H, W) uint8 image whose red channel is the first mask and green the second."""
    image = torch.zeros((3, *masks.shape[1:]), dtype=torch.uint8)
    image[: len(masks)] = masks.to(torch.uint8) * 255
    return image


def disagreement(image: Tensor, masks: Tensor) -> float:
    """Share of pixels where the channels of an image and the masks say different things."""
    return (masks != (image[: len(masks)] > 127)).float().mean().item()


@pytest.mark.parametrize(
    "options",
    [
        pytest.param(PLAIN, id="resize"),
        pytest.param(replace(PLAIN, short_side=(300, 300), max_side=900), id="enlarge"),
        pytest.param(replace(PLAIN, max_side=70), id="bounded-by-the-long-side"),
        pytest.param(replace(PLAIN, flip=1.0), id="flip"),
        pytest.param(replace(PLAIN, short_side=(100, 140), crop_size=64), id="crop"),
        pytest.param(
            replace(PLAIN, short_side=(80, 160), crop_size=72, flip=0.5), id="crop-and-flip"
        ),
        pytest.param(replace(PLAIN, crop_size=500), id="crop-larger-than-the-image"),
    ],
)
@pytest.mark.parametrize("shape", [(96, 128), (128, 96), (81, 113)])
def test_masks_follow_the_image(options: AugmentConfig, shape: tuple[int, int]) -> None:
    masks = blobs(*shape)
    maker = ViewMaker(options)
    kept = 0
    for number in range(8):
        with seeded(number):
            view = maker.weak(image_of(masks), masks, torch.eye(2))
        assert view.image.shape[1:] == view.masks.shape[1:]
        # Embeddings say which masks are left.
        for mask, embedding in zip(view.masks, view.embeddings, strict=True):
            channel = view.image[int(embedding.argmax())][None]
            assert disagreement(channel, mask[None]) < 0.002
            kept += 1
    assert kept >= 6


@pytest.mark.parametrize("factor", [2, 3])
def test_masks_of_another_resolution_follow_the_image(factor: int) -> None:
    masks = blobs(96, 128)
    large = masks.repeat_interleave(factor, 1).repeat_interleave(factor, 2)
    maker = ViewMaker(replace(PLAIN, short_side=(80, 120), crop_size=64, flip=0.5))
    kept = 0
    for number in range(8):
        with seeded(number):
            view = maker.weak(image_of(masks), large, torch.eye(2))
        for mask, embedding in zip(view.masks, view.embeddings, strict=True):
            channel = view.image[int(embedding.argmax())][None]
            # The two windows are cut on different pixel grids: up to a pixel along the border.
            assert disagreement(channel, mask[None]) < 0.03
            kept += 1
    assert kept >= 6


@pytest.mark.parametrize(
    ("options", "size"),
    [
        pytest.param(PLAIN, (64, 85), id="short-side"),
        pytest.param(replace(PLAIN, max_side=70), (53, 70), id="long-side"),
        pytest.param(replace(PLAIN, crop_size=48), (48, 48), id="crop"),
        pytest.param(replace(PLAIN, crop_size=80), (64, 80), id="crop-of-one-side"),
    ],
)
def test_the_size_of_a_weak_view(options: AugmentConfig, size: tuple[int, int]) -> None:
    masks = blobs(96, 128)
    view = ViewMaker(options).weak(image_of(masks), masks, torch.eye(2))
    assert view.image.shape == (3, *size)
    assert view.image.dtype == torch.uint8
    assert view.masks.dtype == torch.bool
    assert view.colors is view.image


@pytest.mark.parametrize(
    ("options", "original", "unread"),
    [
        pytest.param(PLAIN, None, 0, id="not-asked-for"),
        pytest.param(PLAIN, 96, 6, id="as-it-is"),
        pytest.param(PLAIN, 480, 1, id="image-read-at-a-fifth"),
        pytest.param(PLAIN, 960, 0, id="less-than-a-row"),
        pytest.param(PLAIN, 5, 64, id="never-more-than-all"),
        pytest.param(replace(PLAIN, short_side=(96, 96), crop_size=95), 96, 9, id="crop"),
    ],
)
def test_rows_the_released_code_does_not_read(
    options: AugmentConfig, original: int | None, unread: int
) -> None:
    """Ten rows of the original image, in rows of the view."""
    masks = blobs(96, 128)
    with seeded(1):
        view = ViewMaker(options).weak(
            image_of(masks), masks, torch.eye(2), released_height=original
        )
    # A crop of 95 of 96 rows begins at the first or the second.
    assert view.unread_rows in ({unread} if options.crop_size == 0 else {unread, unread + 1})
    if original is not None:
        with seeded(0):
            pasted = paste_objects(view, [view], at_most=3)
        assert pasted.unread_rows == view.unread_rows


def test_a_flip_mirrors_image_and_masks() -> None:
    masks = blobs(64, 80)
    image = image_of(masks)
    plain = ViewMaker(PLAIN).weak(image, masks, torch.eye(2))
    flipped = ViewMaker(replace(PLAIN, flip=1.0)).weak(image, masks, torch.eye(2))
    assert torch.equal(flipped.image, plain.image.flip(-1))
    assert torch.equal(flipped.masks, plain.masks.flip(-1))


def test_objects_cut_away_are_dropped_with_their_embeddings() -> None:
    masks = torch.zeros((3, 64, 64), dtype=torch.bool)
    masks[0, :20, :20] = True
    masks[1, 40, : MIN_AREA - 1] = True
    masks[2, 50, :MIN_AREA] = True
    view = ViewMaker(PLAIN).weak(image_of(masks), masks, torch.eye(3))
    assert view.embeddings.tolist() == [[1, 0, 0], [0, 0, 1]]
    assert view.masks.flatten(1).sum(1).tolist() == [400, MIN_AREA]


@pytest.mark.parametrize(
    "shape", [pytest.param((1, 1), id="one-pixel"), pytest.param((3, 200), id="strip")]
)
def test_odd_images_without_objects_make_views(shape: tuple[int, int]) -> None:
    image = torch.full((3, *shape), 9, dtype=torch.uint8)
    none = torch.zeros((0, *shape), dtype=torch.bool)
    maker = ViewMaker(replace(PLAIN, crop_size=32))
    weak = maker.weak(image, none, torch.zeros(0, 4))
    strong = maker.strong(weak, [weak])
    for view in (weak, strong):
        assert view.masks.shape == (0, *view.image.shape[1:])
        assert view.embeddings.shape == (0, 4)
        assert bool((view.image == 9).all())


# Pasting


def flat_view(color: int, masks: Tensor, mark: float) -> View:
    """A view of one colour; its embeddings are `mark`."""
    image = torch.full((3, *masks.shape[1:]), color, dtype=torch.uint8)
    return View(
        image,
        image,
        masks,
        torch.full((len(masks), 1), mark),
        torch.full((len(masks),), int(mark)),
    )


def pasted_views(view: View, donor: View, count: int) -> list[View]:
    views = []
    for number in range(count):
        with seeded(number):
            views.append(paste_objects(view, [donor], at_most=1))
    return views


def test_a_pasted_object_hides_what_is_below() -> None:
    below = flat_view(10, torch.ones((1, 48, 48), dtype=torch.bool), mark=1.0)
    square = torch.zeros((1, 48, 48), dtype=torch.bool)
    square[0, 12:36, 12:36] = True
    donor = flat_view(200, square, mark=2.0)
    pasted = [view for view in pasted_views(below, donor, 20) if len(view.masks) == 2]
    assert len(pasted) >= 5
    for view in pasted:
        under, over = view.masks
        assert not (under & over).any()
        assert (under | over).all()
        assert view.embeddings.flatten().tolist() == [1.0, 2.0]
        assert view.labels.tolist() == [1, 2]
        # The pixels tell the same as the masks, for the network and for the affinity loss.
        assert bool((view.image[:, over] == 200).all())
        assert bool((view.image[:, under] == 10).all())
        assert torch.equal(view.colors, view.image)
    assert torch.equal(below.masks, torch.ones((1, 48, 48), dtype=torch.bool))


def test_an_object_hidden_wholly_is_dropped() -> None:
    small = torch.zeros((1, 30, 30), dtype=torch.bool)
    small[0, 13:17, 13:17] = True
    below = flat_view(10, small, mark=1.0)
    donor = flat_view(200, torch.ones((1, 90, 90), dtype=torch.bool), mark=2.0)
    views = pasted_views(below, donor, 20)
    marks = [view.embeddings.flatten().tolist() for view in views]
    assert [view.labels.tolist() for view in views] == marks
    assert [2.0] in marks
    assert all(mark in ([1.0], [2.0], [1.0, 2.0]) for mark in marks)


@pytest.mark.parametrize("size", [(20, 30), (48, 48), (70, 40)])
def test_donors_of_another_size_are_cut_or_padded(size: tuple[int, int]) -> None:
    below = flat_view(10, torch.zeros((0, 48, 48), dtype=torch.bool), mark=1.0)
    donor = flat_view(200, torch.ones((1, *size), dtype=torch.bool), mark=2.0)
    for view in pasted_views(below, donor, 10):
        assert view.image.shape == (3, 48, 48)
        assert view.masks.shape[1:] == (48, 48)
        if len(view.masks):
            assert torch.equal(view.masks[0], view.image[0] == 200)


def test_the_number_of_pasted_objects_varies_up_to_its_bound() -> None:
    nothing = flat_view(10, torch.zeros((0, 60, 60), dtype=torch.bool), mark=0.0)
    square = torch.zeros((1, 60, 60), dtype=torch.bool)
    square[0, 27:33, 27:33] = True
    donor = flat_view(200, square, mark=2.0)
    counts = set()
    for number in range(40):
        with seeded(number):
            counts.add(len(paste_objects(nothing, [donor], at_most=3).masks))
    assert counts == {0, 1, 2, 3}


@pytest.mark.parametrize(
    ("donors", "at_most"),
    [
        pytest.param([], 3, id="no-donor"),
        pytest.param([torch.zeros((0, 48, 48), dtype=torch.bool)], 3, id="donor-without-object"),
        pytest.param([torch.ones((1, 48, 48), dtype=torch.bool)], 0, id="none-allowed"),
    ],
)
def test_nothing_to_paste_leaves_the_view(donors: list[Tensor], at_most: int) -> None:
    view = flat_view(10, torch.ones((1, 48, 48), dtype=torch.bool), mark=1.0)
    others = [flat_view(200, masks, mark=2.0) for masks in donors]
    for number in range(5):
        with seeded(number):
            assert paste_objects(view, others, at_most=at_most) is view


# Strong views


def test_a_strong_view_changes_colours_and_never_masks() -> None:
    masks = blobs(64, 80)
    generator = torch.Generator().manual_seed(0)
    image = torch.randint(0, 256, (3, 64, 80), dtype=torch.uint8, generator=generator)
    options = replace(PLAIN, color_jitter=1.0, blur=1.0, erase=1.0)
    maker = ViewMaker(options)
    weak = maker.weak(image, masks, torch.eye(2))
    with seeded(1):
        strong = maker.strong(weak, [])
    assert torch.equal(strong.masks, weak.masks)
    assert torch.equal(strong.colors, weak.colors)
    assert not torch.equal(strong.image, weak.image)
    assert strong.image.dtype == torch.uint8


def test_without_distortion_a_strong_view_is_the_weak_one() -> None:
    masks = blobs(64, 80)
    maker = ViewMaker(PLAIN)
    weak = maker.weak(image_of(masks), masks, torch.eye(2))
    assert torch.equal(maker.strong(weak, []).image, weak.image)


def test_erasing_hides_part_of_the_image_only() -> None:
    image = torch.full((3, 64, 64), 99, dtype=torch.uint8)
    whole = torch.ones((1, 64, 64), dtype=torch.bool)
    view = View(
        image,
        image,
        whole,
        torch.zeros(1, 1),
        torch.zeros(1, dtype=torch.int64),
    )
    with seeded(0):
        strong = ViewMaker(replace(PLAIN, erase=1.0)).strong(view, [])
    erased = (strong.image == 0).all(dim=0).float().mean().item()
    assert 0.01 < erased < 0.12
    assert strong.masks.all()


# Determinism


def everything(number: int) -> list[Tensor]:
    """Views of a batch with everything drawn."""
    maker = ViewMaker(AugmentConfig(short_side=(40, 80), max_side=120, crop_size=48))
    masks = blobs(60, 70)
    with seeded(7, number):
        weak = [maker.weak(image_of(masks), masks, torch.eye(2)) for _ in range(3)]
        strong = [maker.strong(view, weak) for view in weak]
    return [part for view in weak + strong for part in (view.image, view.colors, view.masks)]


def test_equal_seeds_give_equal_views_in_any_order() -> None:
    forward = [everything(number) for number in (0, 1)]
    backward = [everything(number) for number in (1, 0)]
    for one, other in zip(forward, reversed(backward), strict=True):
        assert all(torch.equal(a, b) for a, b in zip(one, other, strict=True))
    assert not all(a.shape == b.shape and torch.equal(a, b) for a, b in zip(*forward, strict=True))


def test_seeding_leaves_the_global_generator_alone() -> None:
    before = torch.get_rng_state()
    with seeded(3, 4):
        torch.rand(5)
    assert torch.equal(torch.get_rng_state(), before)


def test_seeds_depend_on_every_number_and_their_order() -> None:
    draws = set()
    for numbers in [(0,), (1,), (0, 0), (0, 1), (1, 0), (2, 10**12)]:
        with seeded(*numbers):
            draws.add(float(torch.rand(())))
    assert len(draws) == 6


# Colours and crops for contrastive learning


@pytest.mark.parametrize(
    ("jitter", "gray", "blur", "same"),
    [
        pytest.param(0.0, 0.0, 0.0, True, id="nothing"),
        pytest.param(1.0, 0.0, 0.0, False, id="jitter"),
        pytest.param(0.0, 1.0, 0.0, False, id="grey"),
        pytest.param(0.0, 0.0, 1.0, False, id="blur"),
    ],
)
def test_each_distortion_has_its_probability(
    jitter: float, gray: float, blur: float, same: bool
) -> None:
    generator = torch.Generator().manual_seed(0)
    image = torch.randint(0, 256, (3, 20, 20), dtype=torch.uint8, generator=generator)
    with seeded(0):
        changed = color_distortion(jitter=jitter, gray=gray, blur=blur)(image)
    assert torch.equal(changed, image) == same
    if gray == 1.0:
        assert torch.equal(changed[0], changed[1])


@pytest.mark.parametrize("shape", [(40, 90), (8, 8), (1, 1)])
def test_a_crop_pair_is_two_different_views_of_one_size(shape: tuple[int, int]) -> None:
    generator = torch.Generator().manual_seed(0)
    image = torch.randint(0, 256, (3, *shape), dtype=torch.uint8, generator=generator)
    crop = CropPair(size=32, scale=(0.2, 0.5))
    with seeded(0):
        first, second = crop(image)
    with seeded(0):
        again, _ = crop(image)
    assert first.shape == second.shape == (3, 32, 32)
    assert first.dtype == torch.uint8
    assert not torch.equal(first, second)
    assert torch.equal(first, again)


# Resized objects


def test_pasted_objects_are_resized_within_the_range() -> None:
    below = flat_view(10, torch.zeros((0, 64, 64), dtype=torch.bool), 1)
    donor = flat_view(200, blobs(64, 64)[:1], 2)
    area = int(donor.masks[0].sum())
    ratios = []
    for number in range(60):
        with seeded(number):
            view = paste_objects(below, [donor], at_most=1, scale=(0.5, 1.5))
        if len(view.masks):
            # What was cut off by the frame says nothing of the size.
            rows, columns = view.masks[0].nonzero(as_tuple=True)
            if rows.min() > 0 and rows.max() < 63 and columns.min() > 0 and columns.max() < 63:
                ratios.append(float(view.masks[0].sum() / area))
            assert torch.equal(view.image[0] == 200, view.masks[0])
    assert len(ratios) > 8
    assert 0.5**2 * 0.8 < min(ratios) < 0.5
    assert 1.2 < max(ratios) < 1.5**2 * 1.2
