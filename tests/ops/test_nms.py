from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any, Literal

import pytest
import torch
from torch import Tensor

from soloist.ops import nms
from soloist.ops.masks import intersections, mask_areas, mask_iou
from soloist.ops.nms import mask_nms, matrix_nms, point_nms

Golden = Callable[[str], Mapping[str, Any]]
Kernel = Literal["gaussian", "linear"]


def random_masks(n: int, seed: int = 0) -> Tensor:
    """Rectangles (N, 8, 8), so that overlaps of every size occur."""
    generator = torch.Generator().manual_seed(seed)
    masks = torch.zeros(n, 8, 8, dtype=torch.bool)
    for mask in masks:
        top, left, height, width = torch.randint(1, 6, (4,), generator=generator).tolist()
        mask[top - 1 : top - 1 + height, left - 1 : left - 1 + width] = True
    return masks


def random_scores(n: int, seed: int = 0) -> Tensor:
    return torch.rand(n, generator=torch.Generator().manual_seed(seed))


def matrix_nms_by_loops(
    masks: Tensor, scores: Tensor, labels: Tensor, kernel: Kernel, sigma: float
) -> Tensor:
    """Equations 4 and 5 of SOLOv2, literally; the scores are descending."""
    iou = mask_iou(masks, masks)

    def f(overlap: float) -> float:
        return math.exp(-sigma * overlap**2) if kernel == "gaussian" else 1 - overlap

    n = len(masks)
    decayed = scores.clone()
    for j in range(n):
        decay = 1.0
        for i in range(j):
            if labels[i] != labels[j]:
                continue
            rivals = [float(iou[k, i]) for k in range(i) if labels[k] == labels[i]]
            compensation = max(rivals, default=0.0)
            if compensation < 1:
                decay = min(decay, f(float(iou[i, j])) / f(compensation))
        decayed[j] *= decay
    return decayed


@pytest.mark.parametrize("kernel", ["gaussian", "linear"])
@pytest.mark.parametrize("sigma", [0.5, 2.0])
def test_matrix_nms_equals_its_equations(kernel: Kernel, sigma: float) -> None:
    masks = random_masks(30)
    scores = random_scores(30).sort(descending=True).values
    labels = torch.arange(30) % 2
    torch.testing.assert_close(
        matrix_nms(masks, scores, labels, kernel, sigma),
        matrix_nms_by_loops(masks, scores, labels, kernel, sigma),
    )


@pytest.mark.parametrize("block", [1, 7, 30, 100])
def test_the_block_size_does_not_change_the_result(
    block: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    masks, scores = random_masks(30), random_scores(30)
    expected = matrix_nms(masks, scores)
    monkeypatch.setattr(nms, "_BLOCK", block)
    torch.testing.assert_close(matrix_nms(masks, scores), expected)


@pytest.mark.parametrize("kernel", ["gaussian", "linear"])
@pytest.mark.parametrize("labelled", [False, True])
@pytest.mark.parametrize("least", [1e-6, 0.3, 0.7, 0.98, 2.0])
@pytest.mark.parametrize("first_block", [1, 8])
def test_scores_from_the_least_on_are_those_of_the_whole_computation(
    kernel: Kernel,
    labelled: bool,
    least: float,
    first_block: int,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """To the bit, in any order, with equal scores, duplicates, nested and empty masks."""
    monkeypatch.setattr(nms, "_FIRST_BLOCK", first_block)
    for seed in range(12):
        n = 5 * seed
        masks = random_masks(n, seed)
        masks[1::7] = masks[::7][: len(masks[1::7])]
        masks[3::11] = False
        # Near each other as maskness is, and some equal.
        scores = 0.5 + (random_scores(n, seed) * 16).round() / 32
        labels = torch.arange(n) % 3 if labelled else None
        whole = matrix_nms(masks, scores, labels, kernel)
        some = matrix_nms(masks, scores, labels, kernel, least=least)
        assert torch.equal(some, torch.where(whole >= least, whole, 0))


def test_masks_that_cannot_pass_are_hardly_compared(monkeypatch: pytest.MonkeyPatch) -> None:
    """Else the computation above would be a longer way round."""
    compared = 0

    def counting(masks: Tensor, others: Tensor) -> Tensor:
        nonlocal compared
        compared += len(masks) * len(others)
        return intersections(masks, others)

    monkeypatch.setattr(nms, "intersections", counting)
    masks, scores = torch.ones(1000, 4, 4, dtype=torch.bool), torch.linspace(0.9, 0.8, 1000)
    masks[1::2, 0] = False
    matrix_nms(masks, scores)
    whole, compared = compared, 0
    kept = matrix_nms(masks, scores, least=0.75)
    assert (kept > 0).nonzero().flatten().tolist() == [0]
    assert compared < whole / 20


@pytest.mark.parametrize(
    ("key", "kernel", "sigma", "labelled"),
    [
        pytest.param("out_gaussian_sigma2", "gaussian", 2.0, True, id="gaussian"),
        pytest.param("out_gaussian_sigma0.5", "gaussian", 0.5, True, id="gaussian-narrow"),
        pytest.param("out_linear", "linear", 2.0, True, id="linear"),
        pytest.param("out_gaussian_sigma2_onelabel", "gaussian", 2.0, False, id="one-label"),
        pytest.param("out_linear_onelabel", "linear", 2.0, False, id="linear-one-label"),
    ],
)
def test_matrix_nms_equals_the_released_code(
    golden: Golden, key: str, kernel: Kernel, sigma: float, labelled: bool
) -> None:
    reference = {k: torch.from_numpy(v) for k, v in golden("matrix_nms").items()}
    labels = reference["labels"] if labelled else None
    decayed = matrix_nms(reference["masks"], reference["scores"], labels, kernel, sigma)
    torch.testing.assert_close(decayed, reference[key], rtol=0, atol=1e-6)


def test_duplicates_equal_the_released_code_where_that_is_a_number(golden: Golden) -> None:
    reference = {k: torch.from_numpy(v) for k, v in golden("matrix_nms").items()}
    masks, scores = reference["dup_masks"], reference["dup_scores"]
    torch.testing.assert_close(
        matrix_nms(masks, scores, reference["dup_labels"]), reference["dup_out_gaussian"]
    )
    linear = matrix_nms(masks, scores, reference["dup_labels"], "linear")
    torch.testing.assert_close(linear, reference["dup_out_linear"].nan_to_num(0))


def test_one_mask_and_empty_masks_and_the_released_code(golden: Golden) -> None:
    reference = {k: torch.from_numpy(v) for k, v in golden("matrix_nms").items()}
    assert torch.equal(mask_areas(reference["masks"]), reference["sum_masks"])
    single = matrix_nms(reference["masks"][:1], reference["scores"][:1], reference["labels"][:1])
    assert torch.equal(single, reference["single_out_gaussian"])
    masks, scores = reference["empty_masks"], reference["empty_scores"]
    # There two empty masks make every score NaN; here the others are as if alone.
    assert reference["empty_out_gaussian"].isnan().all()
    filled = masks.any(dim=(1, 2))
    decayed = matrix_nms(masks, scores)
    torch.testing.assert_close(decayed[filled], matrix_nms(masks[filled], scores[filled]))
    torch.testing.assert_close(decayed[~filled], scores[~filled])


def test_order_of_the_input_does_not_matter() -> None:
    masks, scores = random_masks(25), random_scores(25)
    order = torch.randperm(25, generator=torch.Generator().manual_seed(1))
    labels = torch.arange(25) % 3
    torch.testing.assert_close(
        matrix_nms(masks[order], scores[order], labels[order]),
        matrix_nms(masks, scores, labels)[order],
    )


def test_unsorted_input_is_sorted_unlike_in_the_released_code(golden: Golden) -> None:
    reference = {k: torch.from_numpy(v) for k, v in golden("matrix_nms").items()}
    order = reference["unsorted_perm"]
    decayed = matrix_nms(
        reference["masks"][order], reference["scores"][order], reference["labels"][order]
    )
    torch.testing.assert_close(decayed, reference["out_gaussian_sigma2"][order])
    assert not torch.allclose(decayed, reference["unsorted_out_gaussian"])


@pytest.mark.parametrize("kernel", ["gaussian", "linear"])
def test_decay_never_raises_a_score(kernel: Kernel) -> None:
    masks = random_masks(40)
    masks[10:15] = masks[3]
    masks[20] = False
    scores = random_scores(40)
    decayed = matrix_nms(masks, scores, kernel=kernel)
    assert torch.isfinite(decayed).all()
    assert (decayed <= scores).all()
    assert (decayed >= 0).all()
    assert decayed[scores.argmax()] == scores.max()


@pytest.mark.parametrize("kernel", ["gaussian", "linear"])
def test_empty_masks_keep_their_scores(kernel: Kernel) -> None:
    scores = torch.tensor([0.9, 0.8])
    decayed = matrix_nms(torch.zeros(2, 3, 3, dtype=torch.bool), scores, kernel=kernel)
    torch.testing.assert_close(decayed, scores)


@pytest.mark.parametrize("copies", [2, 3])
def test_linear_kernel_leaves_one_of_duplicates(copies: int) -> None:
    masks = torch.ones(copies, 3, 3, dtype=torch.bool)
    decayed = matrix_nms(masks, torch.linspace(0.9, 0.5, copies), kernel="linear")
    assert decayed.tolist() == pytest.approx([0.9] + [0.0] * (copies - 1))


def test_masks_of_other_labels_do_not_compete() -> None:
    masks, scores = torch.ones(2, 3, 3, dtype=torch.bool), torch.tensor([0.5, 0.9])
    torch.testing.assert_close(matrix_nms(masks, scores, torch.tensor([0, 1])), scores)


def test_matrix_nms_of_no_masks_is_empty() -> None:
    assert matrix_nms(torch.zeros(0, 4, 4, dtype=torch.bool), torch.zeros(0)).shape == (0,)


def test_wrong_input_is_refused() -> None:
    masks = torch.ones(2, 3, 3, dtype=torch.bool)
    with pytest.raises(ValueError, match=r"one length, got \[1, 2\]"):
        matrix_nms(masks, torch.ones(1))
    with pytest.raises(ValueError, match="kernel must be 'gaussian' or 'linear', got 'cosine'"):
        matrix_nms(masks, torch.ones(2), kernel="cosine")  # type: ignore[arg-type]  # on purpose


@pytest.mark.parametrize(
    ("scores", "expected"),
    [
        pytest.param([[1.0, 2.0], [3.0, 4.0]], [[1, 2], [3, 4]], id="rising-cells-all-stay"),
        pytest.param([[4.0, 3.0], [2.0, 1.0]], [[4, 0], [0, 0]], id="falling-cells-go"),
        pytest.param([[1.0, 1.0], [1.0, 1.0]], [[1, 1], [1, 1]], id="ties-stay"),
        pytest.param([[-2.0, -1.0], [-3.0, -4.0]], [[-2, -1], [0, 0]], id="negative"),
        pytest.param([[0.5]], [[0.5]], id="one-cell"),
    ],
)
def test_point_nms(scores: list[list[float]], expected: list[list[float]]) -> None:
    assert point_nms(torch.tensor(scores)[None, None])[0, 0].tolist() == expected


def test_point_nms_with_an_odd_window_is_centred() -> None:
    scores = torch.tensor([[1.0, 2.0, 1.0], [2.0, 5.0, 2.0], [1.0, 2.0, 1.0]])[None, None]
    assert point_nms(scores, kernel=3).flatten().tolist() == [0, 0, 0, 0, 5, 0, 0, 0, 0]


def test_point_nms_equals_the_released_code(golden: Golden) -> None:
    reference = golden("matrix_nms")
    scores = torch.from_numpy(reference["point_nms_in"])
    torch.testing.assert_close(point_nms(scores), torch.from_numpy(reference["point_nms_out"]))
    negated = torch.from_numpy(reference["point_nms_neg_out"])
    torch.testing.assert_close(point_nms(-scores), negated)


@pytest.mark.parametrize(
    ("key", "threshold", "labelled"),
    [
        pytest.param("mask_nms_keep_thr0.5", 0.5, True, id="half"),
        pytest.param("mask_nms_keep_thr0.3", 0.3, True, id="stricter"),
        pytest.param("mask_nms_keep_onelabel_thr0.5", 0.5, False, id="one-label"),
    ],
)
def test_mask_nms_equals_the_released_code(
    golden: Golden, key: str, threshold: float, labelled: bool
) -> None:
    reference = {k: torch.from_numpy(v) for k, v in golden("matrix_nms").items()}
    labels = reference["labels"] if labelled else None
    keep = mask_nms(reference["masks"], reference["scores"], labels, threshold)
    assert keep.tolist() == reference[key].tolist()


def test_mask_nms_of_empty_masks_equals_the_released_code_but_for_those(golden: Golden) -> None:
    reference = {k: torch.from_numpy(v) for k, v in golden("matrix_nms").items()}
    masks = reference["empty_masks"]
    wanted = reference["mask_nms_empty_keep"] & masks.any(dim=(1, 2))
    assert torch.equal(mask_nms(masks, reference["empty_scores"]), wanted)


def test_mask_nms_keeps_the_best_of_duplicates_in_any_order() -> None:
    masks = torch.ones(3, 2, 2, dtype=torch.bool)
    assert mask_nms(masks, torch.tensor([0.2, 0.9, 0.5])).tolist() == [False, True, False]


def test_mask_nms_drops_empty_masks() -> None:
    masks = torch.zeros(2, 2, 2, dtype=torch.bool)
    masks[1, 0, 0] = True
    assert mask_nms(masks, torch.tensor([0.9, 0.5])).tolist() == [False, True]


def test_a_suppressed_mask_suppresses_none() -> None:
    # The second overlaps both others by 2 of 4 pixels; those do not touch.
    masks = torch.tensor([[1, 1, 1, 0, 0, 0], [0, 1, 1, 1, 1, 0], [0, 0, 0, 1, 1, 1]]).bool()
    keep = mask_nms(masks[:, None], torch.tensor([0.9, 0.8, 0.7]), threshold=0.3)
    assert keep.tolist() == [True, False, True]


def test_mask_nms_of_no_masks_is_empty() -> None:
    assert mask_nms(torch.zeros(0, 4, 4, dtype=torch.bool), torch.zeros(0)).shape == (0,)
