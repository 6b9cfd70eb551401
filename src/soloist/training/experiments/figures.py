"""Figures of several seeds, as a table shows them."""

from __future__ import annotations

import statistics
from collections.abc import Sequence


def mean_and_spread(values: Sequence[float | None]) -> tuple[float, float | None] | None:
    """Mean and sample standard deviation; no deviation of one value, nothing of none."""
    known = [value for value in values if value is not None]
    if not known:
        return None
    return statistics.fmean(known), statistics.stdev(known) if len(known) > 1 else None


def in_percent(values: Sequence[float | None]) -> str:
    """`12.3 ± 0.4`, `12.3` of one value, a dash of none."""
    both = mean_and_spread(values)
    if both is None:
        return "–"
    mean, spread = both
    return f"{100 * mean:.1f}" + ("" if spread is None else f" ± {100 * spread:.1f}")
