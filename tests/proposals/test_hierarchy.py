"""Trees of images against the enumeration of their nodes."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from skimage.color import rgb2lab
from tests.proposals.references import Pixels, iou, leaves_of, mask_of, noise

from soloist.proposals.hierarchy import (
    COARSE,
    FINE,
    Hierarchies,
    Tree,
    gradients,
    hierarchies,
    normalised_lab,
)

SCENE = noise(22, 30)
FOUND = hierarchies(SCENE)
TREES = pytest.mark.parametrize("tree", FOUND.trees, ids=["fine", "coarse", "colors"])
MADE = {
    "one colour": np.full((20, 30, 3), 90, dtype=np.uint8),
    "black": np.zeros((20, 30, 3), dtype=np.uint8),
    "one pixel": np.full((1, 1, 3), 7, dtype=np.uint8),
    "one row": noise(1, 50),
    "one column": noise(50, 1),
    "two pixels": np.array([[[0, 0, 0], [255, 255, 255]]], dtype=np.uint8),
    "very dark": (noise(30, 40) // 32).astype(np.uint8),
    "16 grey levels": noise(30, 40, levels=16)[:, :, :1].repeat(3, axis=2),
    "a ribbon": noise(3, 400),
    "two halves": np.repeat(np.array([0, 255], np.uint8), 20)[None, :, None].repeat(30, 0)
    * np.ones(3, np.uint8),
}
EDGES = pytest.mark.parametrize("pixels", MADE.values(), ids=MADE.keys())


def contour_pairs(tree: Tree, node: int) -> NDArray[np.bool_]:
    """(E,) whether exactly one of two touching leaves is in a node."""
    inside = np.isin(np.arange(tree.count), leaves_of(tree, node))
    graph = tree.partition.graph
    pairs: NDArray[np.bool_] = inside[graph.first] != inside[graph.second]
    return pairs


@TREES
def test_sums_minima_and_contours_are_those_of_the_leaves_of_each_node(tree: Tree) -> None:
    rng = np.random.default_rng(0)
    values = rng.normal(size=(tree.count, 2))
    along = rng.random(len(tree.partition.graph.first))
    sums, least, contours = tree.sums(values), tree.least(values), tree.along_contours(along)
    for node in range(len(tree)):
        leaves = leaves_of(tree, node)
        np.testing.assert_allclose(sums[node], values[leaves].sum(axis=0), atol=1e-9)
        np.testing.assert_array_equal(least[node], values[leaves].min(axis=0))
        assert contours[node] == pytest.approx(along[contour_pairs(tree, node)].sum(), abs=1e-6)


@TREES
def test_pixels_areas_lengths_and_strengths_are_those_of_masks(tree: Tree) -> None:
    graph = tree.partition.graph
    for node in range(len(tree)):
        mask = mask_of(tree, node)
        assert sorted(tree.pixels_of(node).tolist()) == np.flatnonzero(mask).tolist()
        assert tree.areas[node] == mask.sum()
        across = int((mask[1:] != mask[:-1]).sum() + (mask[:, 1:] != mask[:, :-1]).sum())
        assert tree.lengths[node] == pytest.approx(across, abs=1e-6)
        own = contour_pairs(tree, node)
        lengths = graph.lengths[own]
        wanted = (lengths @ graph.coarse[own]) / max(lengths.sum(), 1)
        assert tree.strengths[node] == pytest.approx(wanted, abs=1e-5)


@TREES
def test_a_parent_holds_its_children_which_do_not_share_a_pixel(tree: Tree) -> None:
    root = len(tree) - 1
    assert tree.parents[root] == root
    for node in range(len(tree)):
        children = tree.children(node)
        assert (tree.parents[children] == node).all()
        masks = [mask_of(tree, child) for child in children]
        assert (node < tree.count) == (not masks)
        if masks:
            assert np.array_equal(np.sum(masks, axis=0), mask_of(tree, node))


@TREES
def test_the_nodes_at_a_pixel_lead_from_the_leaf_to_the_root(tree: Tree) -> None:
    for row, column in ((0, 0), (11, 13), (21, 29)):
        holding = [node for node in range(len(tree)) if mask_of(tree, node)[row, column]]
        walked = tree.nodes_at(row, column)
        assert sorted(walked) == holding
        assert walked[0] == tree.partition.labels[row, column]
        assert all(tree.parents[a] == b for a, b in pairwise(walked))


def test_two_runs_are_equal() -> None:
    again = hierarchies(SCENE.copy())
    for one, other in zip(FOUND.trees, again.trees, strict=True):
        assert np.array_equal(one.parents, other.parents)
        assert np.array_equal(one.partition.labels, other.partition.labels)


def test_objects_are_nodes() -> None:
    """A dark, a red and a blue rectangle on noise."""
    pixels = np.full((60, 80, 3), 128, dtype=np.int64)
    places: dict[tuple[int, ...], tuple[int, ...]] = {
        (5, 25, 5, 30): (200, 40, 40),
        (30, 55, 40, 75): (30, 60, 200),
        (8, 16, 50, 58): (60, 60, 60),
    }
    for (top, bottom, left, right), color in places.items():
        pixels[top:bottom, left:right] = color
    pixels += np.random.default_rng(0).integers(-6, 7, pixels.shape)
    found = hierarchies(pixels.clip(0, 255).astype(np.uint8))
    for top, bottom, left, right in places:
        truth = np.zeros((60, 80), dtype=bool)
        truth[top:bottom, left:right] = True
        for tree in found.trees:
            nodes = tree.nodes_at((top + bottom) // 2, (left + right) // 2)
            assert max(iou(mask_of(tree, node), truth) for node in nodes) > 0.9


@EDGES
def test_any_image_has_trees_or_none(pixels: Pixels) -> None:
    found = hierarchies(pixels)
    assert found.size == pixels.shape[:2]
    assert np.isfinite(found.lab).all()
    for tree in found.trees:
        graph = tree.partition.graph
        for values in (graph.fine, graph.coarse, tree.partition.colors, tree.strengths):
            assert np.isfinite(values).all()
        assert tree.areas[-1] == pixels.shape[0] * pixels.shape[1]


def test_one_pixel_has_no_tree() -> None:
    assert hierarchies(MADE["one pixel"]).trees == ()
    assert isinstance(hierarchies(MADE["one colour"]), Hierarchies)


@pytest.mark.parametrize(
    "wrong", [np.zeros((4, 4), np.uint8), np.zeros((4, 4, 3), np.float32)], ids=["grey", "float"]
)
def test_wrong_input_is_told(wrong: NDArray[np.uint8]) -> None:
    with pytest.raises(ValueError, match=r"\(H, W, 3\) uint8"):
        hierarchies(wrong)


def test_colours_of_a_bright_image_over_the_whole_range_are_cie_lab() -> None:
    pixels = np.random.default_rng(3).integers(0, 256, (40, 50, 3), dtype=np.uint8)
    low, high = np.quantile(pixels, [0.005, 0.995])
    stretched = ((pixels - low) / (high - low)).clip(0, 1)
    # Quantiles of whole numbers may be off by one.
    np.testing.assert_allclose(
        normalised_lab(pixels), rgb2lab(stretched).transpose(2, 0, 1), atol=1.5
    )


def test_a_tenth_of_the_range_gives_about_the_same_colours() -> None:
    pixels = noise(40, 50)
    faint = (20 + pixels.astype(float) / 10).round().astype(np.uint8)
    assert np.abs(normalised_lab(faint) - normalised_lab(pixels)).mean() < 4


def test_what_is_dark_is_brightened_and_noise_of_one_level_is_not_stretched() -> None:
    dark = np.zeros((40, 50, 3), dtype=np.uint8)
    dark[10:15, 10:15] = 250
    dark[20:30, 20:30] = 25
    assert normalised_lab(dark)[0, 25, 25] > 30
    still = np.full((40, 50, 3), 100, dtype=np.uint8)
    still[::2] = 101
    assert np.ptp(normalised_lab(still)[0]) < 15


def slow_gradient(lab: NDArray[np.float32], deviation: float) -> NDArray[np.float64]:
    """Central differences of planes filtered with a whole Gaussian, a pixel at a time."""
    reach = int(3 * deviation + 0.5)
    steps = np.arange(-reach, reach + 1)
    kernel = np.exp(-(steps**2) / (2 * deviation**2))
    kernel /= kernel.sum()
    height, width = lab.shape[1:]
    edged = np.pad(lab, ((0, 0), (reach, reach), (reach, reach)), mode="symmetric")
    side = 2 * reach + 1
    smooth = np.zeros(lab.shape)
    for row in range(height):
        for column in range(width):
            window = edged[:, row : row + side, column : column + side]
            smooth[:, row, column] = np.einsum("chw,h,w->c", window, kernel, kernel)
    padded = np.pad(smooth, ((0, 0), (1, 1), (1, 1)), mode="edge")
    down = (padded[:, 2:, 1:-1] - padded[:, :-2, 1:-1]) / 2
    right = (padded[:, 1:-1, 2:] - padded[:, 1:-1, :-2]) / 2
    steep: NDArray[np.float64] = np.sqrt((down**2 + right**2).sum(axis=0))
    return steep


@pytest.mark.parametrize("size", [(24, 30), (25, 31)], ids=["even", "odd"])
def test_gradients_are_those_of_filtered_colours(size: tuple[int, int]) -> None:
    lab = normalised_lab(noise(*size))
    fine, coarse = gradients(lab)
    np.testing.assert_allclose(fine, slow_gradient(lab, FINE), atol=2e-3)
    slow = slow_gradient(lab, COARSE)
    # Of half the size: the same but for a pixel's place.
    assert np.corrcoef(coarse.ravel(), slow.ravel())[0, 1] > 0.9
    assert coarse.mean() == pytest.approx(slow.mean(), rel=0.1)


def test_the_gradient_of_a_ramp_is_its_slope() -> None:
    ramp = np.zeros((3, 20, 24), dtype=np.float32)
    ramp[0] = 3 * np.arange(24)
    ramp[1] = 4 * np.arange(20)[:, None]
    for steep in gradients(ramp):
        torch.testing.assert_close(
            torch.from_numpy(steep[8:12, 8:16]), torch.full((4, 8), 5.0), rtol=0.001, atol=0.001
        )
