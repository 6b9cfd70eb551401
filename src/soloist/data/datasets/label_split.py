"""Which images keep their labels when only a few are to be used."""

from __future__ import annotations

import math
from collections.abc import Mapping, Set

import torch

from soloist.errors import ConfigError


def label_count(share: str, total: int) -> int:
    """How many of the labelled images a user's `--labels` asks for.

    Args:
        share: A percentage such as `5%` or `0.5%`, or a number of images such as `120`.
        total: Labelled images there are.

    Returns:
        A number in [1, total]; a percentage is rounded to the nearest, half upwards.

    Raises:
        ConfigError: If the text is neither, or asks for none or for more than there are.
    """
    number, percent = share.strip().removesuffix("%"), share.strip().endswith("%")
    try:
        value = float(number) if percent else float(int(number))
    except ValueError:
        value = math.nan
    if not 0 < value <= (100 if percent else total):
        raise ConfigError(
            f"--labels must be a percentage in (0%, 100%] such as 5%, or a number of images from 1 "
            f"to {total}, got {share!r}"
        )
    return max(1, math.floor(total * value / 100 + 0.5)) if percent else int(value)


def labelled_order(classes: Mapping[str, Set[int]], seed: int) -> list[str]:
    """The order in which images get their labels: those of a split are its first ones.

    So a smaller split of the same seed is part of every larger one. The order is drawn at random,
    but a few images that together show every class come first, those with most new classes
    before others: a split with as many images as there are classes shows each of them, and as a
    rule a smaller one does too.

    Args:
        classes: The classes on each image, by its name; the order of the mapping is of no
            consequence.
        seed: Of the draw.

    Returns:
        All names.
    """
    names = sorted(classes)
    generator = torch.Generator().manual_seed(seed)
    drawn = [names[i] for i in torch.randperm(len(names), generator=generator).tolist()]
    first = _most_new_first(_one_of_each(drawn, classes), classes)
    early = set(first)
    return [*first, *(name for name in drawn if name not in early)]


def _one_of_each(drawn: list[str], classes: Mapping[str, Set[int]]) -> list[str]:
    """Images that together show every class: for each, the rarest first, the first one drawn."""
    holders: dict[int, list[str]] = {}
    for name in drawn:
        for label in classes[name]:
            holders.setdefault(label, []).append(name)
    chosen: list[str] = []
    shown: set[int] = set()
    for label in sorted(holders, key=lambda label: (len(holders[label]), label)):
        if label not in shown:
            chosen.append(holders[label][0])
            shown |= classes[chosen[-1]]
    return chosen


def _most_new_first(names: list[str], classes: Mapping[str, Set[int]]) -> list[str]:
    """The names, each the one with most classes that those before it do not show."""
    left, ordered = list(names), []
    shown: set[int] = set()
    while left:
        # Of equal ones the first.
        best = max(left, key=lambda name: len(classes[name] - shown))
        left.remove(best)
        ordered.append(best)
        shown |= classes[best]
    return ordered
