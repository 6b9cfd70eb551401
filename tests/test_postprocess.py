from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn import functional

from soloist import postprocess as postprocess_module
from soloist.config import InferenceConfig
from soloist.ops.masks import masks_to_boxes
from soloist.ops.nms import matrix_nms, point_nms
from soloist.postprocess import Candidates, postprocess, select_instances
from soloist.structures import Instances, SOLOOutputs

Golden = Callable[[str], Mapping[str, Any]]

RELEASED = InferenceConfig()
GRIDS, STRIDES = (6, 4), (8, 16)


def random_outputs(batch: int = 2, classes: int = 1, seed: int = 0) -> SOLOOutputs:
    """Outputs of two levels; the mask features are smooth, so that masks are larger than a cell."""
    generator = torch.Generator().manual_seed(seed)

    def draw(*shape: int) -> Tensor:
        return torch.randn(shape, generator=generator)

    coarse = draw(batch, 8, 4, 5)
    return SOLOOutputs(
        category_logits=tuple(draw(batch, classes, grid, grid) for grid in GRIDS),
        kernels=tuple(draw(batch, 8, grid, grid) for grid in GRIDS),
        semantic_embeddings=tuple(draw(batch, 5, grid, grid) for grid in GRIDS),
        mask_features=functional.interpolate(coarse, (16, 20), mode="bilinear"),
    )


def segment(
    outputs: SOLOOutputs, config: InferenceConfig = RELEASED, **sizes: Any
) -> list[Instances]:
    batch = len(outputs.mask_features)
    return postprocess(
        outputs,
        input_sizes=sizes.get("input_sizes", [(60, 78)] * batch),
        original_sizes=sizes.get("original_sizes", [(90, 117)] * batch),
        config=config,
        strides=STRIDES,
    )


def segment_by_loops(outputs: SOLOOutputs, index: int, config: InferenceConfig) -> Instances:
    """Section 3.3's inference of one image cell by cell; one class, sizes as in `segment`."""
    features = outputs.mask_features[index]
    soft_masks, scores, embeddings = [], [], []
    for level, stride in enumerate(STRIDES):
        objectness = point_nms(outputs.category_logits[level].sigmoid())[index, 0]
        for row, column in (objectness > config.category_threshold).nonzero().tolist():
            kernel = outputs.kernels[level][index, :, row, column]
            soft = torch.einsum("d,dhw->hw", kernel, features).sigmoid()
            mask = soft > config.mask_threshold
            if mask.sum() > stride:
                soft_masks.append(soft)
                scores.append(objectness[row, column] * soft[mask].mean())
                embedding = outputs.semantic_embeddings[level][index, :, row, column]
                embeddings.append(embedding / embedding.norm())
    order = torch.stack(scores).argsort(descending=True)[: config.max_before_nms]
    soft, score = torch.stack(soft_masks)[order], torch.stack(scores)[order]
    score = matrix_nms(
        soft > config.mask_threshold, score, None, config.nms_kernel, config.nms_sigma
    )
    best = score.argsort(descending=True)
    best = best[score[best] >= config.score_threshold][: config.max_per_image]
    full = functional.interpolate(soft[best][None], (64, 80), mode="bilinear")[..., :60, :78]
    masks = functional.interpolate(full, (90, 117), mode="bilinear")[0] > config.mask_threshold
    return Instances(
        image_size=(90, 117),
        masks=masks,
        scores=score[best],
        boxes=masks_to_boxes(masks),
        embeddings=torch.stack(embeddings)[order[best]],
    )


def assert_same(found: Instances, expected: Instances) -> None:
    assert len(found) == len(expected)
    assert torch.equal(found.masks, expected.masks)
    torch.testing.assert_close(found.scores, expected.scores, rtol=0, atol=1e-5)
    torch.testing.assert_close(found.boxes, expected.boxes)
    torch.testing.assert_close(found.embeddings, expected.embeddings, rtol=0, atol=1e-5)


def unpacked(packed: Any, width: int) -> Tensor:
    return torch.from_numpy(np.unpackbits(packed, axis=-1)[..., :width]).bool()


@pytest.mark.parametrize(
    "config",
    [
        pytest.param(RELEASED, id="released"),
        pytest.param(replace(RELEASED, nms_kernel="linear"), id="linear"),
        pytest.param(replace(RELEASED, max_before_nms=9, max_per_image=4), id="few"),
        pytest.param(replace(RELEASED, score_threshold=0.3), id="pseudo-labels"),
        pytest.param(replace(RELEASED, mask_threshold=0.7), id="higher-mask-threshold"),
    ],
)
def test_postprocess_equals_the_paper_cell_by_cell(config: InferenceConfig) -> None:
    outputs = random_outputs()
    for index, found in enumerate(segment(outputs, config)):
        assert len(found) >= 3
        assert_same(found, segment_by_loops(outputs, index, config))


@pytest.mark.parametrize(
    ("prefix", "config", "original_size"),
    [
        pytest.param("default_", RELEASED, (375, 465), id="default"),
        pytest.param(
            "pl_",
            replace(RELEASED, score_threshold=0.3, max_per_image=20),
            (375, 465),
            id="pseudo-labels",
        ),
        pytest.param("linear_", replace(RELEASED, nms_kernel="linear"), (375, 465), id="linear"),
        pytest.param(
            "pre10_", replace(RELEASED, max_before_nms=10, max_per_image=7), (375, 465), id="few"
        ),
        pytest.param("trainsize_", RELEASED, (250, 310), id="input-size"),
    ],
)
def test_select_instances_equals_the_released_code(
    golden: Golden, prefix: str, config: InferenceConfig, original_size: tuple[int, int]
) -> None:
    reference = golden("inference")
    found = select_released(reference, config, original_size)
    expected = {key: torch.from_numpy(reference[prefix + key]) for key in ("scores", "pred_embs")}
    torch.testing.assert_close(found.scores, expected["scores"], rtol=0, atol=1e-5)
    torch.testing.assert_close(found.embeddings, expected["pred_embs"], rtol=0, atol=1e-5)
    masks = unpacked(reference[prefix + "pred_masks_packed"], original_size[1])
    assert (found.masks != masks).sum(dim=(1, 2)).max() <= 3
    # A mask in one part fills the rows and columns of its box; only there are released boxes
    # the tight ones, half a pixel off.
    rows, columns = masks.any(dim=2).sum(dim=1), masks.any(dim=1).sum(dim=1)
    sides = found.boxes[:, 2:] - found.boxes[:, :2]
    solid = (sides == torch.stack((columns, rows), dim=1)).all(dim=1)
    boxes = torch.from_numpy(reference[prefix + "pred_boxes"]) + 0.5
    assert solid.sum() >= 5
    torch.testing.assert_close(found.boxes[solid], boxes[solid], rtol=0, atol=1)


def select_released(
    reference: Mapping[str, Any], config: InferenceConfig, original_size: tuple[int, int]
) -> Instances:
    """Our instances from the released code's candidates."""
    levels = zip(reference["const_instance_strides"], reference["const_num_grids"], strict=True)
    candidates = Candidates(
        scores=torch.from_numpy(reference["cate_preds"]),
        kernels=torch.from_numpy(reference["kernel_preds"]),
        embeddings=torch.from_numpy(reference["emb_preds"]),
        strides=torch.cat([torch.full((grid**2,), float(stride)) for stride, grid in levels]),
    )
    return select_instances(
        candidates,
        torch.from_numpy(reference["seg_preds"])[0],
        input_size=(250, 310),
        original_size=original_size,
        config=config,
    )


def test_no_candidate_gives_empty_shapes_unlike_the_released_code(golden: Golden) -> None:
    reference = golden("inference")
    found = select_released(reference, replace(RELEASED, category_threshold=0.99), (375, 465))
    assert reference["empty_n"] == 0
    assert found.masks.shape == (0, 375, 465)
    assert found.embeddings.shape == (0, 128)


def test_postprocess_of_the_head_equals_the_released_code(golden: Golden) -> None:
    head, reference = golden("head"), golden("inference")

    def levels(name: str) -> tuple[Tensor, ...]:
        return tuple(torch.from_numpy(head[f"{name}_l{level}"]) for level in range(5))

    # Two levels of the embeddings are not stored, and the released ones are scrambled.
    outputs = SOLOOutputs(
        levels("cate"), levels("kernel"), levels("kernel"), torch.from_numpy(head["mask_pred"])
    )
    (found,) = postprocess(
        outputs,
        input_sizes=[(128, 160)],
        original_sizes=[(200, 250)],
        config=replace(RELEASED, category_threshold=float(reference["full_score_thr"])),
        strides=(8, 8, 16, 32, 32),
    )
    scores = torch.from_numpy(reference["full_scores"])
    torch.testing.assert_close(found.scores, scores, rtol=0, atol=1e-5)
    masks = unpacked(reference["full_pred_masks_packed"], 250)
    assert (found.masks != masks).sum(dim=(1, 2)).max() <= 3


def test_batch_equals_single_images() -> None:
    outputs = random_outputs(batch=3)
    batch = segment(outputs)
    for index in range(3):
        one = slice(index, index + 1)
        single = SOLOOutputs(
            tuple(level[one] for level in outputs.category_logits),
            tuple(level[one] for level in outputs.kernels),
            tuple(level[one] for level in outputs.semantic_embeddings),
            outputs.mask_features[one],
        )
        assert_same(batch[index], segment(single)[0])


def test_each_image_has_its_own_sizes() -> None:
    sizes = [(33, 47), (64, 80)]
    found = segment(random_outputs(), input_sizes=[(30, 41), (64, 80)], original_sizes=sizes)
    assert [tuple(instances.masks.shape[1:]) for instances in found] == sizes
    assert min(len(instances) for instances in found) >= 1


def test_instances_are_ordered_boxed_and_their_embeddings_unit_vectors() -> None:
    for found in segment(random_outputs()):
        assert torch.equal(found.scores, found.scores.sort(descending=True).values)
        assert torch.equal(found.boxes, masks_to_boxes(found.masks))
        torch.testing.assert_close(found.embeddings.norm(dim=1), torch.ones(len(found)))


def test_an_instance_carries_the_embedding_of_its_cell() -> None:
    outputs = random_outputs(batch=1)
    logits = [torch.full_like(level, -20) for level in outputs.category_logits]
    logits[1][0, 0, 2, 3] = 20
    outputs = replace(outputs, category_logits=tuple(logits))
    outputs.kernels[1][0, :, 2, 3] = outputs.mask_features[0, :, 8, 10]
    (found,) = segment(outputs)
    expected = functional.normalize(outputs.semantic_embeddings[1][0, :, 2, 3], dim=0)
    torch.testing.assert_close(found.embeddings, expected[None])


def test_classes_compete_only_among_themselves() -> None:
    one = random_outputs(batch=1)
    both = replace(one, category_logits=tuple(x.repeat(1, 2, 1, 1) for x in one.category_logits))
    (single,), (double,) = segment(one), segment(both)
    assert len(double) == 2 * len(single) >= 2
    torch.testing.assert_close(double.scores[::2], single.scores)
    torch.testing.assert_close(double.scores[1::2], single.scores)


def test_masks_not_larger_than_the_stride_are_dropped() -> None:
    features = torch.full((1, 8, 8), -9.0)
    features[0, :2, :4] = 9.0
    candidates = Candidates(
        scores=torch.tensor([[0.9], [0.9]]),
        kernels=torch.ones(2, 1),
        embeddings=torch.tensor([[1.0, 0.0], [0.0, 1.0]]),
        strides=torch.tensor([8.0, 7.0]),
    )
    found = select_instances(
        candidates, features, input_size=(32, 32), original_size=(32, 32), config=RELEASED
    )
    assert found.embeddings.tolist() == [[0.0, 1.0]]
    assert found.boxes.tolist() == [[0.0, 0.0, 16.0, 8.0]]
    assert found.scores.tolist() == pytest.approx([0.9], abs=1e-3)


def test_a_soft_value_at_the_threshold_is_background() -> None:
    candidates = Candidates(
        torch.ones(1, 1), torch.zeros(1, 4), torch.ones(1, 2), torch.tensor([8.0])
    )
    found = select_instances(
        candidates,
        torch.ones(4, 8, 8),
        input_size=(32, 32),
        original_size=(32, 32),
        config=RELEASED,
    )
    assert len(found) == 0


def test_masks_that_vanish_at_the_original_size_are_dropped() -> None:
    features = torch.full((1, 16, 16), -9.0)
    features[0, 0, :9] = 9.0
    candidates = Candidates(
        torch.ones(1, 1), torch.ones(1, 1), torch.ones(1, 2), torch.tensor([8.0])
    )
    small = select_instances(
        candidates, features, input_size=(64, 64), original_size=(2, 2), config=RELEASED
    )
    large = select_instances(
        candidates, features, input_size=(64, 64), original_size=(64, 64), config=RELEASED
    )
    assert (len(small), len(large)) == (0, 1)


def test_chunks_do_not_change_the_result(monkeypatch: pytest.MonkeyPatch) -> None:
    outputs = random_outputs()
    expected = segment(outputs)
    monkeypatch.setattr(postprocess_module, "_CHUNK", 3)
    monkeypatch.setattr(postprocess_module, "_PIXELS_PER_CHUNK", 64 * 80 * 2)
    for found, wanted in zip(segment(outputs), expected, strict=True):
        assert_same(found, wanted)


def test_half_precision_outputs_give_float32_results() -> None:
    outputs = random_outputs(batch=1)
    half = SOLOOutputs(
        tuple(level.bfloat16() for level in outputs.category_logits),
        tuple(level.bfloat16() for level in outputs.kernels),
        tuple(level.bfloat16() for level in outputs.semantic_embeddings),
        outputs.mask_features.bfloat16(),
    )
    (found,) = segment(half)
    assert len(found) >= 1
    assert {found.scores.dtype, found.boxes.dtype, found.embeddings.dtype} == {torch.float32}


def test_autocast_and_gradients_around_the_call_change_nothing() -> None:
    outputs = random_outputs(batch=1)
    (expected,) = segment(outputs)
    outputs.mask_features.requires_grad_()
    outputs.kernels[0].requires_grad_()
    with torch.autocast("cpu", torch.bfloat16):
        (found,) = segment(outputs)
    assert_same(found, expected)


def test_no_images_give_no_results() -> None:
    assert segment(random_outputs(batch=0)) == []


def test_missing_sizes_are_refused() -> None:
    with pytest.raises(ValueError, match="wanted 2 input sizes, 2 original sizes and 2 strides"):
        segment(random_outputs(), input_sizes=[(60, 78)])
