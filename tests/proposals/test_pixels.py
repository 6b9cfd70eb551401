from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from scipy import ndimage

from soloist.proposals.hierarchy import PixelMaps, Tree, hierarchies
from soloist.proposals.pixels import (
    PER_SCALE,
    SCALES,
    PixelClassifier,
    agreement,
    filter_bank,
    learn_pixels,
    outline_of,
    packed,
    sample_pixels,
    unpacked,
    with_maps,
)
from soloist.proposals.ranking import Candidates, attributes
from soloist.proposals.regions import candidate_masks

SIZE = (48, 64)


def noise(seed: int = 0) -> np.ndarray[tuple[int, ...], np.dtype[np.float32]]:
    return np.random.default_rng(seed).normal(0, 20, (3, *SIZE)).astype(np.float32)


def blocks() -> np.ndarray[tuple[int, ...], np.dtype[np.bool_]]:
    """Two squares, one of them at the border."""
    masks = np.zeros((2, *SIZE), dtype=bool)
    masks[0, 10:30, 10:30] = True
    masks[1, 20:40, 44:] = True
    return masks


def test_the_finest_values_are_smoothed_colours_and_the_length_of_their_gradient() -> None:
    lab = noise()
    values = filter_bank(lab)
    assert values.shape == (len(SCALES) * PER_SCALE, *SIZE)
    smooth = np.stack([ndimage.gaussian_filter(plane, SCALES[0], truncate=3) for plane in lab])
    assert np.allclose(values[:3], smooth, atol=1e-4)
    slopes = np.stack([np.stack(np.gradient(plane)) for plane in smooth])
    assert np.allclose(values[3], np.sqrt((slopes**2).sum(axis=(0, 1))) * SCALES[0], atol=1e-3)
    hessian = np.stack([np.stack(np.gradient(slope)) for slope in slopes[0]])
    curvatures = np.linalg.eigvalsh(
        np.moveaxis((hessian + hessian.transpose(1, 0, 2, 3)) / 2, (0, 1), (2, 3))
    )
    assert np.allclose(values[4], curvatures[..., 1] * SCALES[0] ** 2, atol=1e-2)
    assert np.allclose(values[5], curvatures[..., 0] * SCALES[0] ** 2, atol=1e-2)


def test_coarse_values_are_smoother() -> None:
    values = filter_bank(noise())
    spreads = values[::PER_SCALE].std(axis=(1, 2))
    assert (np.diff(spreads) < 0).all()


@pytest.mark.parametrize("size", [(1, 1), (1, 40), (7, 5), (33, 17)])
def test_images_of_any_size_have_values(size: tuple[int, int]) -> None:
    values = filter_bank(np.full((3, *size), 7, dtype=np.float32))
    assert values.shape[1:] == size
    assert np.isfinite(values).all()


def test_an_outline_is_what_dilation_adds_and_erosion_takes_but_not_the_border() -> None:
    for mask in blocks():
        wanted = ndimage.binary_dilation(mask) & ~ndimage.binary_erosion(mask, border_value=1)
        assert np.array_equal(outline_of(mask), wanted)
    assert not outline_of(blocks()[1])[25:35, -1].any()
    assert not outline_of(np.zeros(SIZE, dtype=bool)).any()


def test_half_of_the_drawn_pixels_are_of_outlines() -> None:
    sample = sample_pixels(noise(), blocks(), [0, 1], 2, np.random.default_rng(0), 100)
    assert sample.values.shape == (100, len(SCALES) * PER_SCALE)
    assert sample.wanted.shape == (100, 3)
    assert sample.wanted[:, 2].sum() == 50
    everything = sample_pixels(noise(), blocks(), [0, 1], 2, np.random.default_rng(0), 10**6)
    assert np.array_equal(
        everything.wanted.sum(axis=0), [400, 400, sum(outline_of(mask).sum() for mask in blocks())]
    )


def test_only_what_is_known_of_an_image_is_drawn() -> None:
    known = np.zeros(SIZE, dtype=bool)
    known[:20] = True
    drawn = sample_pixels(noise(), blocks(), [0, 1], 2, np.random.default_rng(0), 10**6, known)
    inside = (blocks() & known).sum(axis=(1, 2))
    outlines = (outline_of(blocks()[0]) | outline_of(blocks()[1])) & known
    assert len(drawn.values) == known.sum()
    assert np.array_equal(drawn.wanted.sum(axis=0), [*inside, outlines.sum()])


@pytest.fixture(scope="module")
def learned() -> tuple[np.ndarray[tuple[int, ...], np.dtype[np.float32]], PixelClassifier]:
    """An image whose objects are bright, and what is learned from it."""
    lab = noise() * np.float32(0.1)
    lab[0, blocks().any(axis=0)] += 60
    sample = sample_pixels(lab, blocks(), [0, 0], 1, np.random.default_rng(0))
    return lab, learn_pixels([sample])


@pytest.mark.slow
def test_insides_and_outlines_are_learned_and_kept_by_a_record(
    learned: tuple[np.ndarray[tuple[int, ...], np.dtype[np.float32]], PixelClassifier],
) -> None:
    lab, classifier = learned
    maps = classifier.maps(lab)
    assert classifier.classes == 1
    assert ((maps.inside[0] > 0.5) == blocks().any(axis=0)).mean() > 0.97
    outlines = outline_of(blocks()[0]) | outline_of(blocks()[1])
    assert maps.outline[outlines].mean() > 0.6 > 0.2 > maps.outline[~outlines].mean()
    read = PixelClassifier.of_record(json.loads(json.dumps(classifier.record())))
    assert np.array_equal(read.maps(lab).inside, maps.inside)


def test_a_record_whose_shapes_do_not_fit_is_refused(
    learned: tuple[np.ndarray[tuple[int, ...], np.dtype[np.float32]], PixelClassifier],
) -> None:
    record = learned[1].record()
    with pytest.raises(ValueError, match="layers must be"):
        PixelClassifier.of_record({**record, "weights": record["weights"][::-1]})
    with pytest.raises(KeyError):
        PixelClassifier.of_record({})


def test_a_packed_tensor_is_the_same() -> None:
    values = torch.randn(2, 3)
    assert torch.equal(unpacked(json.loads(json.dumps(packed(values)))), values)
    assert unpacked(packed(torch.tensor(0.5))).shape == ()


def test_without_a_pixel_there_is_nothing_to_learn_from() -> None:
    sample = sample_pixels(noise(), blocks(), [0, 0], 1, np.random.default_rng(0), 0)
    with pytest.raises(ValueError, match="got none"):
        learn_pixels([sample])


def test_the_trees_of_perfect_maps_hold_the_objects_and_agree_with_them() -> None:
    masks = blocks()
    outline = (outline_of(masks[0]) | outline_of(masks[1])).astype(np.float32)
    maps = PixelMaps(np.stack((masks[0], masks[1])).astype(np.float32), outline)
    flat = hierarchies(np.full((*SIZE, 3), 90, dtype=np.uint8))
    found = with_maps(flat, maps)
    assert found.trees_of_maps == len(found.trees) - len(flat.trees) == 2
    for number, tree in enumerate(found.trees[-2:], start=len(flat.trees)):
        agreed = agreement(tree, maps)
        slow = _slow_agreement(tree, maps)
        assert np.allclose(agreed.inside, slow[0], atol=1e-6)
        assert np.allclose(agreed.within, slow[1], atol=1e-6)
        best = int(agreed.scores.argmax())
        chosen = Candidates(
            np.array([number]),
            np.array([best]),
            tree.areas[[best]],
            attributes(tree).boxes[[best]],
            np.ones(1),
        )
        mask = candidate_masks(found, chosen, SIZE)[0][0].numpy()
        overlap = max((mask & one).sum() / (mask | one).sum() for one in masks)
        assert overlap > 0.75
        assert agreed.classes[best].max() > 0.75


def _slow_agreement(tree: Tree, maps: PixelMaps) -> tuple[list[float], list[float]]:
    """Means of both maps over the pixels of each node, node by node."""
    inside, within = [], []
    for node in range(len(tree)):
        pixels = tree.pixels_of(node)
        inside.append(float(maps.any_inside.ravel()[pixels].mean()))
        within.append(float(maps.outline.ravel()[pixels].mean()))
    return inside, within


def test_maps_that_say_nothing_agree_with_no_node() -> None:
    nothing = np.zeros(SIZE, dtype=np.float32)
    maps = PixelMaps(nothing[None], nothing)
    found = with_maps(hierarchies(np.full((*SIZE, 3), 90, dtype=np.uint8)), maps)
    for tree in found.trees:
        assert agreement(tree, maps).scores.max() == 0
