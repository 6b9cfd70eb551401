"""Identities from frame to frame, of squares whose ways are known."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from soloist.config import TrackConfig
from soloist.data.coco.rle import encode_masks
from soloist.errors import ConfigError
from soloist.inference.video.tracking import Linker

SIZE = (60, 120)
RED, BLUE = np.array([1.0, 0.2]), np.array([0.2, 1.0])


def square(left: int, top: int = 20, side: int = 12) -> dict[str, object]:
    mask = np.zeros(SIZE, dtype=np.bool_)
    mask[top : top + side, left : left + side] = True
    return encode_masks(mask[None])[0]


def looks(*rows: NDArray[np.float64]) -> NDArray[np.float64]:
    return np.stack(rows) if rows else np.zeros((0, 2))


def test_identities_survive_a_crossing() -> None:
    """Two squares run through each other; in the middle one hides the other."""
    linker = Linker(TrackConfig())
    for step in range(20):
        red, blue = 5 * step, 95 - 5 * step
        if abs(red - blue) < 6:
            assert linker([square(red)], looks(RED)) == [1], step
        else:
            # The order within a frame says nothing.
            seen = [(square(red), RED, 1), (square(blue), BLUE, 2)]
            if step % 2:
                seen.reverse()
            masks, embeddings, wanted = zip(*seen, strict=True)
            assert linker(masks, looks(*embeddings)) == list(wanted), step


def test_by_overlap_alone_the_two_change_places_and_by_looks_they_do_not() -> None:
    """Both jump to where the other was: only the embeddings can tell."""
    for weight, expected in ((1.0, [1, 2]), (0.3, [2, 1])):
        linker = Linker(TrackConfig(overlap_weight=weight))
        assert linker([square(20), square(26)], looks(RED, BLUE)) == [1, 2]
        assert linker([square(20), square(26)], looks(BLUE, RED)) == expected


@pytest.mark.parametrize(("hidden", "expected"), [(0, 1), (3, 1), (4, 2)])
def test_an_identity_is_waited_for(hidden: int, expected: int) -> None:
    linker = Linker(TrackConfig(gap=3))
    assert linker([square(20)], looks(RED)) == [1]
    for _ in range(hidden):
        assert linker([], looks()) == []
    assert linker([square(22)], looks(RED)) == [expected]


def test_far_away_is_another_object_whatever_it_looks_like() -> None:
    linker = Linker(TrackConfig())
    assert linker([square(5)], looks(RED)) == [1]
    assert linker([square(100)], looks(RED)) == [2]


def test_classes_are_never_mixed() -> None:
    linker = Linker(TrackConfig())
    assert linker([square(20), square(60)], looks(RED, BLUE), [0, 1]) == [1, 2]
    assert linker([square(20), square(60)], looks(RED, BLUE), [1, 1]) == [3, 2]


def test_without_embeddings_the_overlap_tells() -> None:
    linker = Linker(TrackConfig())
    nothing = np.zeros((2, 0))
    assert linker([square(20), square(60)], nothing) == [1, 2]
    assert linker([square(61), square(21)], nothing) == [2, 1]


@settings(deadline=None, max_examples=40)
@given(st.lists(st.lists(st.integers(0, 100), unique=True, max_size=5), max_size=6))
def test_numbers_differ_within_a_frame_and_follow_the_masks(
    frames: list[list[int]],
) -> None:
    linker, shuffled = Linker(TrackConfig()), Linker(TrackConfig())
    rng = np.random.default_rng(0)
    names: dict[int, int] = {}
    for lefts in frames:
        embeddings = rng.random((len(lefts), 2)) + 0.1
        ids = linker([square(left) for left in lefts], embeddings)
        assert len(set(ids)) == len(lefts)
        order = rng.permutation(len(lefts))
        others = shuffled([square(lefts[k]) for k in order], embeddings[order])
        for place, other in zip(order.tolist(), others, strict=True):
            # New ones are numbered in another order, nothing else differs.
            assert names.setdefault(ids[place], other) == other


@pytest.mark.parametrize(
    "options", [{"every": 0}, {"gap": -1}, {"overlap_weight": 1.1}, {"least": 0.0}]
)
def test_options_out_of_range_are_reported(options: dict[str, float]) -> None:
    with pytest.raises(ConfigError, match=rf"track\.{next(iter(options))}"):
        TrackConfig(**options)  # type: ignore[arg-type]
