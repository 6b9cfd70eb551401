from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from soloist.ops.masks import mask_iou
from soloist.proposals.candidate_networks import (
    LIKE,
    PRIOR_IMAGES,
    Example,
    NodeRanker,
    learn_classes,
    learn_nodes,
    look_of,
)
from soloist.proposals.descriptions import DESCRIBED, class_shares, draw_candidates
from soloist.proposals.hierarchy import PixelMaps
from soloist.proposals.judge import JUDGED_OVERLAP, Judge
from soloist.proposals.partition import Floats
from soloist.proposals.pixels import learn_pixels, sample_pixels, with_maps
from soloist.proposals.ranking import overlaps_with
from soloist.proposals.regions import candidate_masks, region_candidates
from soloist.proposals.scale import image_hierarchies

# Most learn a judge, which takes seconds.
pytestmark = pytest.mark.slow

SIZE = (96, 128)


def truth() -> np.ndarray[tuple[int, ...], np.dtype[np.bool_]]:
    """The masks of the red discs and of the blue square of `image`."""
    rows, columns = np.mgrid[: SIZE[0], : SIZE[1]]
    square = (rows >= 60) & (rows < 84) & (columns >= 20) & (columns < 44)
    discs = [
        (rows - row) ** 2 + (columns - column) ** 2 < square_radius
        for row, column, square_radius in ((30, 30, 200), (60, 90, 300))
    ]
    return np.stack((*discs, square))


def image() -> np.ndarray[tuple[int, ...], np.dtype[np.uint8]]:
    """Two discs and a square on grey, with a little noise."""
    rows, columns = np.mgrid[: SIZE[0], : SIZE[1]]
    pixels = np.full((*SIZE, 3), 120, dtype=np.int64)
    pixels[(rows - 30) ** 2 + (columns - 30) ** 2 < 200] = (200, 60, 60)
    pixels[(rows - 60) ** 2 + (columns - 90) ** 2 < 300] = (200, 70, 60)
    pixels[60:84, 20:44] = (60, 60, 200)
    pixels += np.random.default_rng(0).integers(-3, 4, pixels.shape)
    return pixels.clip(0, 255).astype(np.uint8)


LOOK = np.array([50, 0, 0, 10, 5, 5], dtype=np.float32)
OTHER_LOOK = LOOK + np.array([0, 3 * LIKE, 0, 0, 0, 0], dtype=np.float32)


def example(seed: int, count: int = 200) -> Example:
    """What is large in the first value is an object, whatever the prior says."""
    generator = np.random.default_rng(seed)
    described = generator.normal(size=(count, 5)).astype(np.float32)
    overlaps = np.where(described[:, 0] > 1, 0.9, 0.1)
    return one_class(described, generator.uniform(0.1, 0.5, count), overlaps)


def one_class(described: NDArray[np.float32], prior: Floats, overlaps: Floats) -> Example:
    count = len(prior)
    classes, means = np.zeros(count, dtype=np.int64), np.ones((count, 1), dtype=np.float32)
    return Example(described, prior, overlaps, classes, means, LOOK)


def test_networks_learn_what_the_prior_does_not_know() -> None:
    judge = learn_nodes([example(seed) for seed in range(8)])
    new = example(99)
    scores = judge.scores(new.described, new.prior, new.look)
    right = new.overlaps > 0.5
    assert scores[right].mean() > 3 * scores[~right].mean()
    assert new.prior[right].mean() < 1.2 * new.prior[~right].mean()


def test_few_images_count_less_than_the_prior() -> None:
    one, many = (learn_nodes([example(seed) for seed in range(n)]) for n in (1, 30))
    assert one.trust(LOOK) == pytest.approx(1 / (1 + PRIOR_IMAGES))
    assert many.trust(LOOK) == pytest.approx(30 / (30 + PRIOR_IMAGES))


def test_images_that_look_otherwise_are_left_to_the_prior() -> None:
    others = [replace(example(seed), look=OTHER_LOOK) for seed in range(30)]
    mixed = learn_nodes([*others, example(99)])
    assert mixed.trust(LOOK) == pytest.approx(1 / (1 + PRIOR_IMAGES), rel=0.4)
    assert mixed.trust(OTHER_LOOK) == pytest.approx(30 / (30 + PRIOR_IMAGES), rel=0.01)
    apart, new = learn_nodes(others), example(100)
    scores = apart.scores(new.described, new.prior, LOOK + 20 * LIKE)
    assert np.allclose(scores, new.prior)
    assert not np.allclose(apart.scores(new.described, new.prior, OTHER_LOOK), new.prior, atol=0.1)


def of_two_sizes(seed: int, count: int = 200) -> Example:
    """Objects whose second value is their class; their pixels say it of some."""
    made = example(seed, count)
    classes = (made.described[:, 1] > 0).astype(np.int64)
    means = np.full((count, 2), 0.5, dtype=np.float32)
    means[::4] = np.eye(2, dtype=np.float32)[classes[::4]]
    return replace(made, classes=classes, means=means)


def test_classes_are_told_by_what_the_pixels_do_not_know() -> None:
    kinds = learn_classes([of_two_sizes(seed) for seed in range(4)])
    assert kinds is not None
    new = of_two_sizes(99)
    right = kinds.classes(new.described, new.means) == new.classes
    assert right.mean() > 0.9
    assert (new.means.argmax(axis=1) == new.classes).mean() < 0.7


def test_of_images_without_an_object_no_class_is_learned() -> None:
    made = of_two_sizes(0)
    assert learn_classes([replace(made, overlaps=np.zeros(len(made.prior)))]) is None


def test_what_cannot_be_an_object_stays_none() -> None:
    new = example(1)
    prior = new.prior.copy()
    prior[:50] = 0
    scores = learn_nodes([new]).scores(new.described, prior, LOOK)
    assert (scores[:50] == 0).all()
    assert ((scores[50:] > 0) & (scores[50:] < 1)).all()


def test_two_learn_the_same_and_a_record_keeps_it() -> None:
    first, second = (learn_nodes([example(3)], seed=5) for _ in range(2))
    read = NodeRanker.of_record(json.loads(json.dumps(first.record())))
    new = example(4)
    wanted = first.scores(new.described, new.prior, LOOK)
    assert np.array_equal(second.scores(new.described, new.prior, LOOK), wanted)
    assert np.allclose(read.scores(new.described, new.prior, LOOK), wanted, atol=1e-6)


def test_without_a_candidate_there_is_nothing_to_learn_from() -> None:
    nothing = one_class(np.zeros((0, 5), dtype=np.float32), np.zeros(0), np.zeros(0))
    with pytest.raises(ValueError, match="got none"):
        learn_nodes([nothing])


def test_a_record_whose_shapes_do_not_fit_is_refused() -> None:
    record = learn_nodes([example(3)]).record()
    with pytest.raises(ValueError, match=r"hidden must be \(4, 5, 32\)"):
        NodeRanker.of_record({**record, "hidden": record["output"]})
    with pytest.raises(ValueError, match=r"looks must be \(n, 6\)"):
        NodeRanker.of_record({**record, "looks": record["output_bias"]})
    with pytest.raises(KeyError):
        NodeRanker.of_record({name: value for name, value in record.items() if name != "mean"})


def test_overlaps_are_those_of_the_masks() -> None:
    found, candidates = region_candidates(image(), most=60)
    truth = torch.zeros((2, *found.size), dtype=torch.bool)
    truth[0, : found.size[0] // 2] = True
    truth[1, :, : found.size[1] // 3] = True
    masks = candidate_masks(found, candidates, found.size)[0]
    got = overlaps_with(found, candidates, truth.numpy())
    assert np.allclose(got, mask_iou(masks, truth).numpy(), atol=1e-5)
    assert overlaps_with(found, candidates, truth[:0].numpy()).shape == (len(candidates), 0)


def test_descriptions_are_finite_and_tell_sizes_in_pixels_of_the_image() -> None:
    found = image_hierarchies(image())
    nothing = np.zeros(found.size, dtype=np.float32)
    found = with_maps(found, PixelMaps(nothing[None], nothing))
    small, large = (draw_candidates(found, size, 60).described for size in (SIZE, (960, 1280)))
    assert np.isfinite(small).all()
    assert small.shape == large.shape
    in_pixels = DESCRIBED - 1
    others = [np.delete(one, in_pixels, axis=1) for one in (small, large)]
    assert np.allclose(others[0], others[1], atol=1e-4)
    assert np.allclose(large[:, in_pixels] - small[:, in_pixels], np.log(100), atol=1e-4)


@pytest.fixture(scope="module")
def judge() -> Judge:
    """Learned from `image`, whose discs are of class 0 and whose square is of class 1."""
    found = image_hierarchies(image())
    rows, columns = (
        np.arange(own) * size // own for own, size in zip(found.size, SIZE, strict=True)
    )
    masks = truth()[:, rows[:, None], columns]
    sample = sample_pixels(found.lab, masks, [0, 0, 1], 2, np.random.default_rng(0), 4000)
    pixels = learn_pixels([sample])
    informed = with_maps(found, pixels.maps(found.lab))
    drawn = draw_candidates(informed, SIZE, 100)
    overlaps = overlaps_with(informed, drawn.candidates, masks)
    example = Example(
        drawn.described,
        drawn.candidates.scores,
        overlaps.max(axis=1),
        np.array([0, 0, 1])[overlaps.argmax(axis=1)],
        class_shares(informed, drawn.candidates),
        look_of(found.lab),
    )
    return Judge(pixels, learn_nodes([example]), learn_classes([example]))


def test_a_judge_finds_the_objects_it_was_shown_and_their_classes(judge: Judge) -> None:
    plain = image_hierarchies(image())
    found, candidates = judge.candidates(plain, SIZE, 100)
    assert len(found.trees) > len(plain.trees)
    best = candidates.filter(np.arange(3))
    overlaps = mask_iou(candidate_masks(found, best, SIZE)[0], torch.from_numpy(truth()))
    assert (overlaps.max(dim=0).values > 0.8).all()
    classes = judge.classes(found, best, SIZE)
    assert classes is not None
    assert classes.tolist() == [[0, 0, 1][int(which)] for which in overlaps.argmax(dim=1)]
    assert (np.diff(candidates.scores) <= 0).all()


def test_judged_candidates_do_not_overlap_much(judge: Judge) -> None:
    found, candidates = judge.candidates(image_hierarchies(image()), SIZE, 100)
    masks = candidate_masks(found, candidates, found.size)[0]
    apart = mask_iou(masks, masks).numpy() - np.eye(len(masks))
    # By boxes and areas, which overlap at least as much as the masks do where both are compact.
    assert apart[:3, :3].max() <= JUDGED_OVERLAP


def test_a_judge_is_kept_by_its_record(judge: Judge) -> None:
    read = Judge.of_record(json.loads(json.dumps(judge.record())))
    plain = image_hierarchies(image())
    _, wanted = judge.candidates(plain, SIZE, 100)
    _, got = read.candidates(plain, SIZE, 100)
    assert np.array_equal(got.nodes, wanted.nodes)
    assert np.array_equal(got.scores, wanted.scores)
    assert read.kinds is not None


def test_classes_are_kept_too_and_told_by_the_pixels_where_none_were_learned(judge: Judge) -> None:
    found, candidates = judge.candidates(image_hierarchies(image()), SIZE, 100)
    read = Judge.of_record(json.loads(json.dumps(judge.record())))
    plain = replace(judge, kinds=None)
    own, kept, by_pixels = (one.classes(found, candidates, SIZE) for one in (judge, read, plain))
    assert own is not None
    assert kept is not None
    assert by_pixels is not None
    assert np.array_equal(kept, own)
    assert np.array_equal(by_pixels[:3], own[:3])


def test_an_image_of_one_colour_has_no_object(judge: Judge) -> None:
    flat = np.full((*SIZE, 3), 90, dtype=np.uint8)
    _, candidates = judge.candidates(image_hierarchies(flat), SIZE, 100)
    assert len(candidates) == 0


def test_a_judge_of_another_version_is_refused(judge: Judge) -> None:
    record = judge.record()
    older = {name: value for name, value in record.items() if name != "described"}
    for other in ({**record, "described": 1}, older):
        with pytest.raises(ValueError, match="version 1 of the descriptions"):
            Judge.of_record(other)
