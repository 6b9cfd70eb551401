"""The post-processing without torch against the one with it."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn import functional

from soloist.config import InferenceConfig
from soloist.inference.onnx.numpy_postprocess import RawOutputs, cell_strides, select_objects
from soloist.inference.onnx.runtime import ArrayInstances
from soloist.postprocess import flat_candidates, postprocess
from soloist.structures import Instances, SOLOOutputs

GRIDS, STRIDES = (6, 4), (8, 16)
INPUT_SIZE = (60, 78)
MANY = InferenceConfig(category_threshold=0.2, score_threshold=0.05)


def random_outputs(classes: int = 1, seed: int = 0, *, ties: bool = False) -> SOLOOutputs:
    """Outputs of two levels for one image; with ties many scores and kernels are equal."""
    generator = torch.Generator().manual_seed(seed)

    def draw(*shape: int) -> Tensor:
        return torch.randn((1, *shape), generator=generator)

    def kernels(grid: int) -> Tensor:
        if not ties:
            return draw(8, grid, grid)
        few = draw(8, 6)
        return few[:, :, torch.randint(6, (grid, grid), generator=generator)]

    logits = [draw(classes, grid, grid) for grid in GRIDS]
    return SOLOOutputs(
        category_logits=tuple(level.round() if ties else level for level in logits),
        kernels=tuple(kernels(grid) for grid in GRIDS),
        semantic_embeddings=tuple(draw(5, grid, grid) for grid in GRIDS),
        mask_features=functional.interpolate(draw(8, 4, 5), (16, 20), mode="bilinear"),
    )


def both(
    outputs: SOLOOutputs, config: InferenceConfig, size: tuple[int, int] = (90, 117)
) -> tuple[Instances, ArrayInstances]:
    """What torch finds and what NumPy finds."""
    (wanted,) = postprocess(
        outputs, input_sizes=[INPUT_SIZE], original_sizes=[size], config=config, strides=STRIDES
    )
    raw = (*flat_candidates(outputs, config.compat), outputs.mask_features)
    found = select_objects(
        RawOutputs(*(part[0].numpy() for part in raw)),
        cell_strides(GRIDS, STRIDES),
        input_size=INPUT_SIZE,
        original_size=size,
        config=config,
    )
    return wanted, found


def assert_same(found: ArrayInstances, wanted: Instances) -> None:
    assert found.image_size == wanted.image_size
    assert len(found) == len(wanted)
    np.testing.assert_array_equal(found.masks, wanted.masks.numpy())
    for name in ("scores", "boxes", "embeddings"):
        ours, theirs = getattr(found, name), getattr(wanted, name).numpy()
        assert ours.dtype == np.float32
        np.testing.assert_allclose(ours, theirs, rtol=0, atol=1e-5, err_msg=name)
    if wanted.labels is None:
        assert found.labels is None
    else:
        assert found.labels is not None
        np.testing.assert_array_equal(found.labels, wanted.labels.numpy())


@pytest.mark.parametrize("classes", [1, 3])
@pytest.mark.parametrize(
    "config",
    [
        pytest.param(MANY, id="matrix-nms"),
        pytest.param(replace(MANY, nms_kernel="linear"), id="linear"),
        pytest.param(replace(MANY, nms="mask"), id="mask-nms"),
        pytest.param(replace(MANY, nms="mask", nms_threshold=0.2), id="strict-mask-nms"),
        pytest.param(replace(MANY, max_before_nms=9, max_per_image=4), id="few"),
        pytest.param(replace(MANY, score_threshold=0.3), id="sure-ones"),
        pytest.param(replace(MANY, mask_threshold=0.7), id="higher-mask-threshold"),
        pytest.param(replace(MANY, largest_part=True), id="largest-part"),
        pytest.param(replace(MANY, compat="released"), id="released"),
        pytest.param(replace(MANY, category_threshold=1.0), id="nothing"),
    ],
)
def test_numpy_finds_what_torch_finds(config: InferenceConfig, classes: int) -> None:
    wanted, found = both(random_outputs(classes), config)
    assert (len(found) > 0) == (config.category_threshold < 1)
    assert_same(found, wanted)


@pytest.mark.parametrize("nms", ["matrix", "mask"])
@pytest.mark.parametrize("seed", range(5))
def test_of_equal_scores_the_same_come_first(seed: int, nms: str) -> None:
    outputs = random_outputs(2, seed, ties=True)
    config = InferenceConfig(category_threshold=0.0, score_threshold=0.0, max_before_nms=40)
    config = replace(config, nms=nms, max_per_image=30)  # type: ignore[arg-type]  # a literal
    wanted, found = both(outputs, config)
    logits = outputs.category_logits[0].flatten().tolist()
    assert len(set(logits)) < len(logits) / 4
    assert_same(found, wanted)


@pytest.mark.parametrize(
    "size",
    [
        pytest.param((1, 1), id="one-pixel"),
        pytest.param((7, 300), id="flat"),
        pytest.param(INPUT_SIZE, id="as-it-was"),
        pytest.param((401, 203), id="larger"),
    ],
)
def test_masks_of_any_size(size: tuple[int, int]) -> None:
    wanted, found = both(random_outputs(), MANY, size)
    assert_same(found, wanted)


def test_no_candidate_is_an_empty_result() -> None:
    _, found = both(random_outputs(), replace(MANY, score_threshold=1.1))
    shapes = [part.shape for part in (found.masks, found.scores, found.boxes, found.embeddings)]
    assert shapes == [(0, 90, 117), (0,), (0, 4), (0, 5)]
    assert len(found.filter(np.zeros(0, dtype=np.bool_))) == 0


def test_objects_move_together() -> None:
    _, found = both(random_outputs(3), MANY)
    some = found.filter(np.array([2, 0]))
    assert some.labels is not None
    assert found.labels is not None
    assert some.scores.tolist() == found.scores[[2, 0]].tolist()
    assert some.labels.tolist() == found.labels[[2, 0]].tolist()
    np.testing.assert_array_equal(some.masks, found.masks[[2, 0]])
