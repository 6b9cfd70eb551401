"""Inference on one image against the released code's values: each option set, and `compat`."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import torch
from torch import Tensor, nn

from soloist import postprocess as postprocess_module
from soloist.config import InferenceConfig
from soloist.models.heads import resize
from soloist.models.solo import split_levels, with_coordinates
from soloist.ops.masks import masks_to_boxes
from soloist.ops.nms import mask_nms, matrix_nms
from soloist.postprocess import Candidates, postprocess, select_instances
from soloist.structures import Instances, SOLOOutputs

Golden = Callable[[str], Mapping[str, npt.NDArray[Any]]]
Reference = Mapping[str, npt.NDArray[Any]]

PAPER = InferenceConfig()
FULL, CROPPED = (375, 465), (250, 310)


@dataclass(frozen=True)
class OptionSet:
    """Options the released code was run with, and the size of the masks."""

    config: InferenceConfig
    size: tuple[int, int] = FULL


OPTION_SETS = {
    "default_": OptionSet(PAPER),
    "pl_": OptionSet(replace(PAPER, score_threshold=0.3, max_per_image=20)),
    "linear_": OptionSet(replace(PAPER, nms_kernel="linear")),
    "masknms_": OptionSet(replace(PAPER, nms="mask")),
    "pre10_": OptionSet(replace(PAPER, max_before_nms=10, max_per_image=7)),
    "trainsize_": OptionSet(PAPER, CROPPED),
}
every_option_set = pytest.mark.parametrize("prefix", list(OPTION_SETS))


@pytest.fixture
def reference(golden: Golden) -> Reference:
    return golden("inference")


def tensor(reference: Reference, key: str) -> Tensor:
    return torch.from_numpy(np.asarray(reference[key]))


def masks(reference: Reference, prefix: str) -> Tensor:
    width = int(reference[f"{prefix}image_size"][1])
    bits = np.unpackbits(reference[f"{prefix}pred_masks_packed"], axis=-1)[..., :width]
    return torch.from_numpy(bits).bool()


def candidates(reference: Reference) -> Candidates:
    """The released code's cells, which come after the sigmoid and point NMS."""
    levels = zip(reference["const_instance_strides"], reference["const_num_grids"], strict=True)
    return Candidates(
        scores=tensor(reference, "cate_preds"),
        kernels=tensor(reference, "kernel_preds"),
        embeddings=tensor(reference, "emb_preds"),
        strides=torch.cat([torch.full((grid**2,), float(stride)) for stride, grid in levels]),
    )


def select(reference: Reference, options: OptionSet) -> Instances:
    height, width = reference["cur_size"].tolist()
    return select_instances(
        candidates(reference),
        tensor(reference, "seg_preds")[0],
        input_size=(height, width),
        original_size=options.size,
        config=options.config,
    )


def assert_near(got: Tensor, wanted: Tensor, rtol: float = 1e-5) -> None:
    torch.testing.assert_close(got, wanted, rtol=rtol, atol=rtol)


def assert_masks(got: Tensor, wanted: Tensor) -> None:
    assert got.shape == wanted.shape
    assert (got != wanted).sum(dim=(1, 2)).max() <= 3


@every_option_set
def test_select_instances_equals_the_released_code(reference: Reference, prefix: str) -> None:
    options = OPTION_SETS[prefix]
    found = select(reference, options)
    assert len(found) == reference[f"{prefix}n"]
    sizes = reference["cur_size" if prefix == "trainsize_" else "ori_size"]
    assert list(options.size) == reference[f"{prefix}image_size"].tolist() == sizes.tolist()
    assert_near(found.scores, tensor(reference, f"{prefix}scores"))
    assert_near(found.embeddings, tensor(reference, f"{prefix}pred_embs"))
    assert_masks(found.masks, masks(reference, prefix))
    assert torch.equal(found.boxes, masks_to_boxes(found.masks))


@every_option_set
def test_compat_boxes_equal_the_released_code(reference: Reference, prefix: str) -> None:
    options = OPTION_SETS[prefix]
    ours = select(reference, options)
    theirs = select(reference, replace(options, config=replace(options.config, compat="released")))
    assert torch.equal(theirs.boxes, tensor(reference, f"{prefix}pred_boxes"))
    assert torch.equal(theirs.masks, ours.masks)
    assert torch.equal(theirs.scores, ours.scores)


@every_option_set
def test_the_steps_of_inference_equal_the_released_code(reference: Reference, prefix: str) -> None:
    """Objectness, maskness, class and score of each object, before and after suppression."""
    config = OPTION_SETS[prefix].config
    cells = candidates(reference)
    places, labels = (cells.scores > config.category_threshold).nonzero(as_tuple=True)
    soft_masks = postprocess_module._SoftMasks(
        cells.kernels[places], tensor(reference, "seg_preds")[0]
    )
    small, areas, confidences = postprocess_module._masks_of(soft_masks, config.mask_threshold)
    objectness = cells.scores[places, labels]
    scores = objectness * confidences
    large = areas > cells.strides[places]
    order = postprocess_module._best_first(scores, large)[: config.max_before_nms]
    small, labels, scores = small[order], labels[order], scores[order]
    if config.nms == "mask":
        kept = mask_nms(small, scores, labels, config.nms_threshold)
        decayed = torch.where(kept, scores, -1)
    else:
        # The last set is the first but for the size of the masks: its scores are stored once.
        prefix_of_scores = "default_" if prefix == "trainsize_" else prefix
        assert torch.equal(areas[order], tensor(reference, f"{prefix_of_scores}sum_masks_at_nms"))
        assert_near(scores, tensor(reference, f"{prefix_of_scores}scores_before_nms"))
        decayed = matrix_nms(small, scores, labels, config.nms_kernel, config.nms_sigma)
        # The linear kernel gives NaN for duplicates there.
        assert_near(decayed, tensor(reference, f"{prefix_of_scores}scores_after_nms").nan_to_num(0))
    best = postprocess_module._best_first(decayed, decayed >= config.score_threshold)
    best = best[: config.max_per_image]
    assert_near(objectness[order][best], tensor(reference, f"{prefix}category_scores"))
    assert_near(confidences[order][best], tensor(reference, f"{prefix}maskness"))
    assert labels[best].tolist() == reference[f"{prefix}pred_classes"].tolist()


def test_no_candidate_gives_empty_shapes_unlike_the_released_code(reference: Reference) -> None:
    found = select(reference, OptionSet(replace(PAPER, category_threshold=0.99)))
    assert reference["empty_n"] == 0
    assert reference["empty_pred_masks_packed"].shape == (0,)
    assert reference["empty_pred_embs"].shape == (0,)
    for key in ("scores", "pred_classes", "category_scores", "maskness"):
        assert reference[f"empty_{key}"].shape == (0,)
    assert found.masks.shape == (0, *reference["empty_image_size"])
    assert found.boxes.shape == reference["empty_pred_boxes"].shape == (0, 4)
    assert found.embeddings.shape == (0, 128)


# From the pyramid on, with the weights of the reference


@pytest.fixture(scope="module")
def head_outputs(golden: Golden, released_branches: nn.ModuleDict) -> SOLOOutputs:
    """Raw outputs of our branches; not all of the released embeddings are stored."""
    pyramid = [torch.from_numpy(golden("head")[f"feat_p{i}"]) for i in range(2, 7)]
    levels = split_levels(pyramid, image_size=(128, 160), strides=(8, 8, 16, 32, 32))
    categories, kernels, embeddings = [], [], []
    with torch.no_grad():
        for level, side in zip(levels, golden("head")["const_num_grids"].tolist(), strict=True):
            cells = resize(level, (side, side))
            category, embedding = released_branches["category_branch"](cells)
            categories.append(category)
            embeddings.append(embedding)
            kernels.append(released_branches["kernel_branch"](with_coordinates(cells, level)))
        mask_features = released_branches["mask_feature_branch"](pyramid[:4])
    return SOLOOutputs(tuple(categories), tuple(kernels), tuple(embeddings), mask_features)


def segment(outputs: SOLOOutputs, reference: Reference, config: InferenceConfig) -> Instances:
    sizes = [tuple(reference[f"full_{name}_size"].tolist()) for name in ("cur", "ori")]
    config = replace(
        config,
        category_threshold=float(reference["full_score_thr"]),
        score_threshold=float(reference["full_update_thr"]),
    )
    (found,) = postprocess(
        outputs,
        input_sizes=[sizes[0]],
        original_sizes=[sizes[1]],
        config=config,
        strides=reference["const_instance_strides"].tolist(),
    )
    return found


def test_inference_from_the_pyramid_on_equals_the_released_code(
    reference: Reference, head_outputs: SOLOOutputs
) -> None:
    found = segment(head_outputs, reference, PAPER)
    assert len(found) == reference["full_n"]
    assert list(found.image_size) == reference["full_image_size"].tolist()
    assert_near(found.scores, tensor(reference, "full_scores"), rtol=1e-4)
    assert_masks(found.masks, masks(reference, "full_"))


def test_compat_brings_back_scrambled_embeddings_and_boxes(
    reference: Reference, head_outputs: SOLOOutputs
) -> None:
    wanted = tensor(reference, "full_pred_embs")
    scrambled = segment(head_outputs, reference, replace(PAPER, compat="released"))
    assert_near(scrambled.embeddings, wanted, rtol=1e-4)
    assert torch.equal(scrambled.boxes, tensor(reference, "full_pred_boxes"))
    own = segment(head_outputs, reference, PAPER).embeddings
    assert (own * wanted).sum(dim=1).max() < 0.9


def test_postprocess_of_the_stored_head_equals_the_released_code(
    golden: Golden, reference: Reference
) -> None:
    head = golden("head")

    def levels(name: str) -> tuple[Tensor, ...]:
        return tuple(torch.from_numpy(head[f"{name}_l{level}"]) for level in range(5))

    # Kernels stand in for the embeddings.
    outputs = SOLOOutputs(
        levels("cate"), levels("kernel"), levels("kernel"), torch.from_numpy(head["mask_pred"])
    )
    found = segment(outputs, reference, PAPER)
    assert len(found) == reference["full_n_at_nms"]
    assert_near(found.scores, tensor(reference, "full_scores"))
    assert_masks(found.masks, masks(reference, "full_"))
    assert reference["full_pred_classes"].shape == (len(found),)
    product = tensor(reference, "full_category_scores") * tensor(reference, "full_maskness")
    assert (found.scores <= product + 1e-5).all()
