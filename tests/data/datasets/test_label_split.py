"""Splits of labelled images: their size, that they are nested, and that no class is forgotten."""

from __future__ import annotations

import random
from collections.abc import Mapping

import pytest

from soloist.data.datasets.label_split import label_count, labelled_order
from soloist.errors import ConfigError


@pytest.mark.parametrize(
    ("share", "total", "count"),
    [
        pytest.param("2%", 2400, 48, id="percent"),
        pytest.param("100%", 7, 7, id="all"),
        pytest.param("0.5%", 2400, 12, id="fraction-of-a-percent"),
        pytest.param("50%", 5, 3, id="half-goes-up"),
        pytest.param("1%", 20, 1, id="at-least-one"),
        pytest.param(" 5% ", 100, 5, id="spaces"),
        pytest.param("3", 2400, 3, id="number"),
        pytest.param("2400", 2400, 2400, id="number-of-all"),
    ],
)
def test_how_many_images_keep_their_labels(share: str, total: int, count: int) -> None:
    assert label_count(share, total) == count


@pytest.mark.parametrize(
    "share", ["0%", "-5%", "101%", "nan%", "inf%", "%", "", "five", "0", "11", "-1", "2.5", "5 %5"]
)
def test_what_is_no_share_is_refused(share: str) -> None:
    with pytest.raises(ConfigError, match=r"percentage in \(0%, 100%\].*from 1 to 10, got"):
        label_count(share, 10)


def random_classes(seed: int, images: int = 60, classes: int = 8) -> dict[str, set[int]]:
    """Classes of very different frequency, one to three an image."""
    draw = random.Random(seed)
    weights = [2.0**-label for label in range(classes)]
    return {
        f"{number:03d}.jpg": set(draw.choices(range(classes), weights, k=draw.randint(1, 3)))
        for number in range(images)
    }


def shown(names: list[str], classes: Mapping[str, set[int]]) -> set[int]:
    return set().union(*(classes[name] for name in names))


@pytest.mark.parametrize("seed", range(5))
def test_every_image_has_its_place_once(seed: int) -> None:
    classes = random_classes(seed)
    order = labelled_order(classes, seed)
    assert len(order) == len(classes)
    assert set(order) == set(classes)


@pytest.mark.parametrize("seed", range(20))
def test_as_many_images_as_classes_show_every_class(seed: int) -> None:
    classes = random_classes(seed)
    everything = shown(list(classes), classes)
    order = labelled_order(classes, seed)
    assert shown(order[: len(everything)], classes) == everything


def test_a_smaller_split_shows_as_many_classes_as_its_first_images_can() -> None:
    classes = {"a": {1}, "b": {2}, "c": {3, 4, 5}, "d": {1}, "e": {2}}
    for seed in range(10):
        order = labelled_order(classes, seed)
        assert order[0] == "c"
        assert shown(order[:3], classes) == {1, 2, 3, 4, 5}


def test_seeds_draw_different_splits_and_one_seed_always_the_same() -> None:
    classes = random_classes(0)
    order = labelled_order(classes, 3)
    backwards = dict(reversed(classes.items()))
    assert labelled_order(backwards, 3) == order
    halves = {frozenset(labelled_order(classes, seed)[:30]) for seed in range(4)}
    assert len(halves) == 4


def test_a_common_class_is_not_taken_more_often_than_it_comes() -> None:
    """Beyond the few images that show every class the draw is even."""
    classes = {f"{number:04d}": {number % 2} for number in range(1000)}
    split = labelled_order(classes, 1)[:200]
    assert 75 <= sum(classes[name] == {0} for name in split) <= 125


def test_one_image_and_none() -> None:
    assert labelled_order({"a": {1}}, 0) == ["a"]
    assert labelled_order({}, 0) == []
