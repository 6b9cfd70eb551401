from __future__ import annotations

import numpy as np
import pytest
import torch

from soloist.evaluation.agreement import (
    Floats,
    best_overlaps,
    expected_precision,
    image_ap50,
    image_estimate,
    kept_precision,
    mean_agreement,
    pearson,
    score_bins,
    spearman,
)


def values(*numbers: float) -> Floats:
    return np.array(numbers, dtype=np.float64)


def strips(*spans: tuple[int, int]) -> torch.Tensor:
    masks = torch.zeros((len(spans), 2, 10), dtype=torch.bool)
    for mask, (start, end) in zip(masks, spans, strict=True):
        mask[:, start:end] = True
    return masks


def test_a_mask_is_compared_with_the_one_that_fits_best() -> None:
    found = best_overlaps(strips((0, 4), (5, 10), (4, 5)), strips((0, 2), (1, 4), (5, 10)))
    torch.testing.assert_close(found, torch.tensor([0.75, 1.0, 0.0]))


def test_nothing_to_compare_with_is_no_agreement() -> None:
    assert best_overlaps(strips((0, 4)), strips()).tolist() == [0]
    assert best_overlaps(strips(), strips((0, 4))).shape == (0,)
    assert best_overlaps(strips(), strips()).shape == (0,)


def test_views_are_averaged_and_confirmed_masks_counted() -> None:
    agreement = mean_agreement(np.array([[1.0, 0.8], [0.2, 0.4], [0.9, 0.5]]))
    np.testing.assert_allclose(agreement, [0.9, 0.3, 0.7])
    assert expected_precision(agreement, threshold=0.3) == 1
    assert expected_precision(agreement, threshold=0.31) == pytest.approx(2 / 3)


def test_bins_hold_their_lower_edge_and_the_last_one_holds_one() -> None:
    scores = values(0.05, 0.1, 0.19, 0.3, 0.95, 1.0)
    bins = score_bins(scores, values(1, 0.9, 0.89, 0, 0, 1), values(0.5, 0, 0.6, 0.49, 1, 0.7))
    assert [(one.low, one.high, one.masks) for one in bins] == [
        (0.0, 0.1, 1),
        (0.1, 0.2, 2),
        (0.3, 0.4, 1),
        (0.9, 1.0, 2),
    ]
    assert [one.expected_precision for one in bins] == [1, 0.5, 0, 0.5]
    assert [one.precision for one in bins] == [1, 0.5, 0, 1]


def test_without_a_ground_truth_bins_have_no_precision() -> None:
    assert [one.precision for one in score_bins(values(0.5), values(1), None)] == [None]
    assert score_bins(values(), values(), None) == []


@pytest.mark.parametrize(
    ("scores", "agreement", "expected"),
    [
        pytest.param([0.2, 0.9, 0.5], [0, 1, 0.4], 0.7, id="mean-of-what-is-kept"),
        pytest.param([0.3], [0.8], 0.8, id="the-threshold-is-kept"),
        pytest.param([0.1, 0.2], [1, 0.9], 0.18, id="nothing-kept"),
        pytest.param([], [], 0, id="no-masks"),
    ],
)
def test_an_image_is_judged_by_the_masks_that_would_be_kept(
    scores: list[float], agreement: list[float], expected: float
) -> None:
    assert image_estimate(values(*scores), values(*agreement)) == pytest.approx(expected)


def test_what_the_estimate_of_an_image_stands_for() -> None:
    assert kept_precision(values(0.2, 0.3, 0.9, 0.5), values(1, 0.5, 0.49, 0.7)) == pytest.approx(
        2 / 3
    )
    assert kept_precision(values(0.2), values(1)) is None
    assert kept_precision(values(), values()) is None


HIT, MISS = 0.9, 0.1


@pytest.mark.parametrize(
    ("scores", "ious", "expected"),
    [
        pytest.param([0.9, 0.8], [[HIT, 0], [0, HIT]], 1, id="perfect"),
        pytest.param([0.9], [[MISS, 0]], 0, id="miss"),
        pytest.param([0.9], [[0.5, 0]], 0.5, id="one-of-two"),
        pytest.param([0.9, 0.8], [[0, 0], [HIT, 0]], 0.25, id="miss-then-hit"),
        # Hit, miss, hit: precision 1 at recall 1/2, then 2/3.
        pytest.param([0.9, 0.8, 0.7], [[HIT, 0], [0, 0], [0, HIT]], 5 / 6, id="hit-miss-hit"),
        pytest.param([0.7, 0.9], [[0, HIT], [0, 0]], 0.25, id="by-score-not-by-place"),
        pytest.param([0.9, 0.8], [[HIT], [HIT]], 1, id="a-double-after-the-hit"),
        # The first takes the object that fits best and leaves the other.
        pytest.param([0.9, 0.8], [[0.6, 0.7], [0.6, 0]], 1, id="the-better-object"),
        pytest.param([], np.zeros((0, 2)), 0, id="no-masks"),
        pytest.param([0.9], np.zeros((1, 0)), None, id="no-objects"),
    ],
)
def test_average_precision_by_hand(
    scores: list[float], ious: list[list[float]], expected: float | None
) -> None:
    found = image_ap50(values(*scores), np.array(ious))
    assert found == (None if expected is None else pytest.approx(expected))


def test_correlations() -> None:
    rising = values(1, 2, 3, 4)
    assert pearson(rising, 3 * rising + 1) == pytest.approx(1)
    assert pearson(rising, values(1, 4, 9, 16)) == pytest.approx(0.9843740)
    assert spearman(rising, values(1, 4, 9, 16)) == pytest.approx(1)
    assert spearman(rising, values(9, 4, 2, -5)) == pytest.approx(-1)
    # Ranks 1, 2.5, 2.5, 4 against 1, 2, 3, 4.
    assert spearman(values(0, 5, 5, 9), rising) == pytest.approx(4.5 / np.sqrt(4.5 * 5))


@pytest.mark.parametrize(
    ("one", "other"),
    [
        pytest.param(values(), values(), id="nothing"),
        pytest.param(values(1), values(2), id="one"),
        pytest.param(values(1, 1), values(1, 2), id="constant"),
    ],
)
def test_correlations_that_mean_nothing_are_none(one: Floats, other: Floats) -> None:
    assert pearson(one, other) is None
    assert spearman(one, other) is None
