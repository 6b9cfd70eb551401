"""Figures of several seeds."""

from __future__ import annotations

import pytest

from soloist.training.experiments.figures import in_percent, mean_and_spread


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        pytest.param([0.1, 0.3], (0.2, 0.02**0.5), id="two"),
        pytest.param([0.1, None, 0.1], (0.1, 0.0), id="one-unknown"),
        pytest.param([0.25], (0.25, None), id="one"),
        pytest.param([None], None, id="none-known"),
        pytest.param([], None, id="none"),
    ],
)
def test_mean_and_spread(
    values: list[float | None], expected: tuple[float, float | None] | None
) -> None:
    got = mean_and_spread(values)
    assert got == (None if expected is None else pytest.approx(expected))


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        pytest.param([0.1, 0.3], "20.0 ± 14.1", id="two"),
        pytest.param([0.1234, None], "12.3", id="one-unknown"),
        pytest.param([None, None], "–", id="none-known"),
        pytest.param([], "–", id="none"),
    ],
)
def test_in_percent(values: list[float | None], expected: str) -> None:
    assert in_percent(values) == expected
