from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional

from soloist import postprocess as postprocess_module
from soloist.config import InferenceConfig
from soloist.ops.masks import extent_boxes, masks_to_boxes
from soloist.ops.nms import mask_nms, matrix_nms, point_nms
from soloist.ops.parts import largest_component
from soloist.postprocess import Candidates, cell_masks, postprocess, select_instances
from soloist.structures import Instances, SOLOOutputs

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
    cut = soft > config.mask_threshold
    if config.nms == "mask":
        kept = mask_nms(cut, score, threshold=config.nms_threshold)
        soft, score, order = soft[kept], score[kept], order[kept]
    else:
        score = matrix_nms(cut, score, None, config.nms_kernel, config.nms_sigma)
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


@pytest.mark.parametrize(
    "config",
    [
        pytest.param(RELEASED, id="released"),
        pytest.param(replace(RELEASED, nms_kernel="linear"), id="linear"),
        pytest.param(replace(RELEASED, nms="mask"), id="mask-nms"),
        pytest.param(replace(RELEASED, nms="mask", nms_threshold=0.35), id="strict-mask-nms"),
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


def one_object() -> SOLOOutputs:
    """Outputs whose only candidate is row 2, column 3 of the second level."""
    outputs = random_outputs(batch=1)
    logits = [torch.full_like(level, -20) for level in outputs.category_logits]
    logits[1][0, 0, 2, 3] = 20
    outputs = replace(outputs, category_logits=tuple(logits))
    outputs.kernels[1][0, :, 2, 3] = outputs.mask_features[0, :, 8, 10]
    return outputs


def test_an_instance_carries_the_embedding_of_its_cell() -> None:
    outputs = one_object()
    (found,) = segment(outputs)
    expected = functional.normalize(outputs.semantic_embeddings[1][0, :, 2, 3], dim=0)
    torch.testing.assert_close(found.embeddings, expected[None])


def test_compat_scrambles_embeddings_and_loosens_boxes() -> None:
    outputs = one_object()
    (found,) = segment(outputs, replace(RELEASED, compat="released"))
    # The 5 values from place 5 * cell on, of the level with its channels first.
    cell = 2 * GRIDS[1] + 3
    scrambled = outputs.semantic_embeddings[1][0].flatten()[5 * cell : 5 * cell + 5]
    torch.testing.assert_close(found.embeddings, functional.normalize(scrambled, dim=0)[None])
    assert torch.equal(found.boxes, extent_boxes(found.masks))
    (ours,) = segment(outputs)
    assert torch.equal(found.masks, ours.masks)
    assert torch.equal(found.scores, ours.scores)
    assert not torch.equal(found.boxes, ours.boxes)


def test_compat_of_a_batch_equals_single_images() -> None:
    outputs = random_outputs(batch=2)
    config = replace(RELEASED, compat="released")
    second = SOLOOutputs(
        tuple(level[1:] for level in outputs.category_logits),
        tuple(level[1:] for level in outputs.kernels),
        tuple(level[1:] for level in outputs.semantic_embeddings),
        outputs.mask_features[1:],
    )
    assert_same(segment(outputs, config)[1], segment(second, config)[0])
    assert segment(random_outputs(batch=0), config) == []


def test_mask_nms_drops_what_matrix_nms_decays() -> None:
    outputs = random_outputs()
    for decayed, kept in zip(
        segment(outputs, replace(RELEASED, score_threshold=0)),
        segment(outputs, replace(RELEASED, nms="mask", score_threshold=0)),
        strict=True,
    ):
        assert 1 <= len(kept) < len(decayed)
        assert kept.scores[0] == decayed.scores[0]
        assert torch.isfinite(kept.scores).all()


def test_the_largest_part_is_an_option() -> None:
    outputs = random_outputs(batch=1)
    (whole,), (parts,) = (
        segment(outputs, replace(RELEASED, largest_part=switch)) for switch in (False, True)
    )
    assert torch.equal(parts.masks, largest_component(whole.masks))
    assert torch.equal(parts.boxes, masks_to_boxes(parts.masks))
    assert not torch.equal(parts.masks, whole.masks)


def test_nothing_found_has_every_shape() -> None:
    for found in segment(random_outputs(), replace(RELEASED, category_threshold=1.0)):
        assert found.masks.shape == (0, 90, 117)
        assert found.scores.shape == (0,)
        assert found.boxes.shape == (0, 4)
        assert found.embeddings.shape == (0, 5)


def test_classes_compete_only_among_themselves() -> None:
    one = random_outputs(batch=1)
    both = replace(one, category_logits=tuple(x.repeat(1, 2, 1, 1) for x in one.category_logits))
    (single,), (double,) = segment(one), segment(both)
    assert len(double) == 2 * len(single) >= 2
    torch.testing.assert_close(double.scores[::2], single.scores)
    torch.testing.assert_close(double.scores[1::2], single.scores)
    assert single.labels is None
    assert double.labels is not None
    assert double.labels.tolist() == [0, 1] * len(single)
    kept = double.filter(double.labels == 1)
    assert torch.equal(kept.masks, single.masks)
    assert kept.labels is not None
    assert kept.labels.tolist() == [1] * len(single)


def test_labels_are_the_channels_of_the_cells() -> None:
    outputs = random_outputs(batch=1, classes=3)
    silent = tuple(
        torch.cat([x[:, :1] - 50, x[:, 1:2], x[:, 2:] - 50], dim=1) for x in outputs.category_logits
    )
    (found,) = segment(replace(outputs, category_logits=silent))
    assert found.labels is not None
    assert len(found) > 0
    assert set(found.labels.tolist()) == {1}


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


# What is seen in the cells of a feature map


def test_masks_in_cells_are_those_of_candidates_with_duplicates() -> None:
    outputs = random_outputs(batch=1, classes=2)
    config = replace(RELEASED, category_threshold=0.6)
    # 60 x 78 pixels of 64 x 80: 15 x 20 (19.5) mask features, 3 x 4 cells of 2 x 2 pixels each.
    found = cell_masks(outputs, input_size=(60, 78), cells=(3, 4), config=config)
    pooled = functional.adaptive_avg_pool2d(outputs.mask_features[0, :, :15, :20], (6, 8))
    shares, scores, labels = [], [], []
    for level in range(len(GRIDS)):
        objectness = point_nms(outputs.category_logits[level].sigmoid())[0]
        kernels = outputs.kernels[level][0]
        for row, column, label in (objectness.permute(1, 2, 0) > 0.6).nonzero().tolist():
            soft = torch.einsum("d,dhw->hw", kernels[:, row, column], pooled).sigmoid()
            inside = soft > config.mask_threshold
            confidence = soft[inside].mean() if inside.any() else torch.tensor(0.0)
            shares.append(inside.float().view(3, 2, 4, 2).mean(dim=(1, 3)).flatten())
            scores.append(objectness[label, row, column] * confidence)
            labels.append(label)
    assert len(scores) > 10
    torch.testing.assert_close(found.shares, torch.stack(shares))
    torch.testing.assert_close(found.scores, torch.stack(scores))
    assert found.labels is not None
    assert found.labels.tolist() == labels


def test_nothing_is_seen_in_cells_where_no_candidate_is() -> None:
    config = replace(RELEASED, category_threshold=1.0)
    found = cell_masks(random_outputs(batch=1), input_size=(60, 78), cells=(3, 4), config=config)
    assert found.shares.shape == (0, 12)
    assert found.scores.shape == (0,)
    assert found.labels is None
