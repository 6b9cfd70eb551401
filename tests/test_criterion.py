"""The whole criterion: against the paper mask by mask, and against the released code."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import torch
from torch import Tensor

from soloist.config import Config, LossConfig
from soloist.config.presets import override, supervised
from soloist.losses import FreeSOLOCriterion
from soloist.ops.affinity import neighbors
from soloist.structures import GridTargets, LevelTargets, SOLOOutputs
from soloist.targets import grid_targets

Golden = Callable[[str], Mapping[str, npt.NDArray[Any]]]
GRIDS = (6, 4, 3)
EMBEDDING = 5
NAMES = (
    "loss_category",
    "loss_semantic",
    "loss_max_projection",
    "loss_avg_projection",
    "loss_pairwise_affinity",
)
RELEASED = {
    "cate": "category",
    "ins": "avg_projection",
    "ins_max": "max_projection",
    "pairwise": "pairwise_affinity",
}


@dataclass
class Batch:
    """What the criterion takes, apart from the step."""

    outputs: SOLOOutputs
    targets: list[GridTargets]
    masks: list[Tensor]
    embeddings: list[Tensor]
    color_similarity: Tensor

    def losses(self, step: int = 10_000, config: LossConfig | None = None) -> dict[str, Tensor]:
        return FreeSOLOCriterion(config)(
            self.outputs, self.targets, self.masks, self.embeddings, self.color_similarity, step
        )

    def pick(self, images: Sequence[int]) -> Batch:
        """The same images in another order, or some of them."""
        chosen = list(images)
        maps = {
            field.name: tuple(level[chosen] for level in getattr(self.outputs, field.name))
            for field in fields(SOLOOutputs)
            if field.name != "mask_features"
        }
        return Batch(
            outputs=SOLOOutputs(**maps, mask_features=self.outputs.mask_features[chosen]),
            targets=[self.targets[i] for i in chosen],
            masks=[self.masks[i] for i in chosen],
            embeddings=[self.embeddings[i] for i in chosen],
            color_similarity=self.color_similarity[chosen],
        )


def random_targets(counts: Sequence[int], generator: torch.Generator) -> GridTargets:
    """One image with 2 instances and counts[l] positive cells on level l, some shared."""
    levels = []
    for side, count in zip(GRIDS, counts, strict=True):
        cells = torch.randint(side * side, (count,), generator=generator)
        category = torch.full((side * side,), 1)
        category[cells] = 0
        instances = torch.randint(2, (count,), generator=generator)
        levels.append(LevelTargets(category.view(side, side), cells, instances))
    return tuple(levels)


def random_batch(positives: Sequence[Sequence[int]], seed: int = 0) -> Batch:
    """One image per entry of positives; no instances where it has no positive cell."""
    generator = torch.Generator().manual_seed(seed)
    batch = len(positives)

    def draw(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator).requires_grad_()

    targets = [random_targets(counts, generator) for counts in positives]
    numbers = [2 if any(counts) else 0 for counts in positives]
    masks = [torch.rand(n, 8, 9, generator=generator) > 0.8 for n in numbers]
    return Batch(
        outputs=SOLOOutputs(
            category_logits=tuple(draw(batch, 1, s, s) for s in GRIDS),
            kernels=tuple(draw(batch, 4, s, s) for s in GRIDS),
            semantic_embeddings=tuple(draw(batch, EMBEDDING, s, s) for s in GRIDS),
            mask_features=draw(batch, 4, 8, 9),
        ),
        targets=targets,
        masks=masks,
        embeddings=[torch.randn(n, EMBEDDING, generator=generator) for n in numbers],
        color_similarity=torch.rand(batch, 8, 8, 9, generator=generator),
    )


def reference_losses(batch: Batch, warmup: float) -> dict[str, Tensor]:
    """Paper section 3.3, mask by mask, level by level, with all 8 neighbours, in float64."""
    outputs = batch.outputs
    focal, positives = torch.zeros((), dtype=torch.float64), 0
    cosines: list[Tensor] = []
    levels: list[dict[str, Tensor]] = []
    for number, side in enumerate(GRIDS):
        highest, mean, full = [], [], []
        pairs, pair_count = torch.zeros((), dtype=torch.float64), 0.0
        for b, image in enumerate(batch.targets):
            target = image[number]
            for cell in range(side * side):
                row, column = divmod(cell, side)
                p = outputs.category_logits[number][b, 0, row, column].double().sigmoid()
                if target.category[row, column] == 0:
                    focal = focal - 0.25 * (1 - p) ** 2 * p.log()
                    positives += 1
                else:
                    focal = focal - 0.75 * p**2 * (1 - p).log()
            for cell, instance in zip(
                target.cells.tolist(), target.instances.tolist(), strict=True
            ):
                row, column = divmod(cell, side)
                kernel = outputs.kernels[number][b, :, row, column].double()
                logits = torch.einsum("d,dhw->hw", kernel, outputs.mask_features[b].double())
                p, mask = logits.sigmoid(), batch.masks[b][instance]
                y = mask.double()
                dice = []
                for axis in (0, 1):
                    for a, c in ((p.amax(axis), y.amax(axis)), (p.mean(axis), y.mean(axis))):
                        dice.append(1 - 2 * (a * c).sum() / ((a * a).sum() + (c * c).sum() + 1e-5))
                highest.append(dice[0] + dice[2])
                mean.append(dice[1] + dice[3])
                full.append(1 - 2 * (p * y).sum() / ((p * p).sum() + (y * y).sum() + 1e-5))
                neighbor = neighbors(p[None, None])[0, 0]  # (8, h, w)
                term = -(p * neighbor + (1 - p) * (1 - neighbor)).log()
                rows, columns = mask.nonzero(as_tuple=True)
                box = torch.zeros_like(mask)
                box[rows.min() : rows.max() + 1, columns.min() : columns.max() + 1] = True
                inside = neighbors(torch.ones(1, 1, *mask.shape))[0, 0] > 0
                counted = (batch.color_similarity[b] >= 0.3) & box & inside
                pairs = pairs + term[counted].sum()
                pair_count += counted.sum().item()
                said = outputs.semantic_embeddings[number][b, :, row, column].double()
                wanted = batch.embeddings[b][instance].double()
                cosines.append(said @ wanted / said.norm() / wanted.norm())
        if highest:
            levels.append(
                {
                    "max": torch.stack(highest).mean(),
                    "avg": torch.stack(mean).mean(),
                    "full": torch.stack(full).mean(),
                    "pairs": pairs / max(pair_count, 1),
                }
            )
    over_levels = {k: torch.stack([x[k] for x in levels]).mean() for k in levels[0]}
    return {
        "loss_category": focal / (positives + 1),
        "loss_semantic": 4 * (1 - torch.stack(cosines)).mean(),
        "loss_max_projection": over_levels["max"],
        "loss_avg_projection": 0.1 * over_levels["avg"],
        "loss_pairwise_affinity": warmup * over_levels["pairs"],
        "loss_full_mask_dice": 2 * over_levels["full"],
    }


def leaves(outputs: SOLOOutputs) -> list[Tensor]:
    return [
        *outputs.category_logits,
        *outputs.kernels,
        *outputs.semantic_embeddings,
        outputs.mask_features,
    ]


@pytest.mark.parametrize(
    "positives",
    [
        pytest.param([(3, 2, 2), (1, 4, 1)], id="every-level"),
        pytest.param([(3, 0, 2), (0, 0, 1)], id="a-level-without"),
        pytest.param([(2, 1, 1), (0, 0, 0), (2, 2, 2)], id="an-image-without"),
        pytest.param([(0, 1, 0)], id="one-positive-cell"),
    ],
)
def test_criterion_equals_the_paper_mask_by_mask(positives: list[tuple[int, ...]]) -> None:
    batch = random_batch(positives)
    losses = batch.losses(step=499, config=LossConfig(full_mask_dice=2.0))
    wanted = reference_losses(batch, warmup=0.5)
    assert losses.keys() == wanted.keys()
    inputs = leaves(batch.outputs)
    for name, loss in losses.items():
        assert loss.dtype == torch.float32
        torch.testing.assert_close(loss.double(), wanted[name], rtol=1e-5, atol=1e-6)
        got, expected = (
            torch.autograd.grad(value, inputs, retain_graph=True, materialize_grads=True)
            for value in (loss, wanted[name])
        )
        for own, reference in zip(got, expected, strict=True):
            torch.testing.assert_close(own, reference, rtol=1e-4, atol=1e-6)


def released_batch(archive: Mapping[str, npt.NDArray[Any]], *, instances: bool) -> Batch:
    """The batch `C_` (or `D_`, without instances); embeddings are all ones there."""

    def read(name: str) -> Tensor:
        return torch.from_numpy(archive[name])

    categories = tuple(read(f"C_cate_pred_l{i}").requires_grad_() for i in range(5))
    targets, masks = [], []
    for image in range(2):
        width = archive[f"C_im{image}_gt_size"][1]
        bits = np.unpackbits(archive[f"C_im{image}_gt_masks"], axis=-1)[..., :width]
        large = torch.from_numpy(bits.astype(bool))
        count = len(large) if instances else 0
        target = grid_targets(
            read(f"C_im{image}_gt_boxes")[:count],
            large[:count],
            labels=read(f"C_im{image}_gt_classes")[:count],
            input_size=(128, 160),
            num_classes=2,
        )
        small = torch.zeros(count, 32, 40, dtype=torch.bool)
        if instances:
            for i, level in enumerate(target):
                key = f"C_im{image}_l{i}"
                assert level.cells.tolist() == archive[f"{key}_grid_order"].tolist()
                assert level.category.tolist() == archive[f"{key}_cate_label"].tolist()
                small[level.instances] = read(f"{key}_ins_label").bool()
        targets.append(target)
        masks.append(small)
    return Batch(
        outputs=SOLOOutputs(
            category_logits=categories,
            kernels=tuple(read(f"C_kernel_pred_l{i}").requires_grad_() for i in range(5)),
            semantic_embeddings=tuple(torch.ones(2, 128, *x.shape[2:]) for x in categories),
            mask_features=read("C_ins_pred").requires_grad_(),
        ),
        targets=targets,
        masks=masks,
        embeddings=[torch.ones(len(mask), 128) for mask in masks],
        color_similarity=torch.stack([read(f"C_im{i}_color_similarity") for i in range(2)]),
    )


@pytest.mark.parametrize("step", [0, 499, 999])
def test_criterion_equals_the_released_code(golden: Golden, step: int) -> None:
    archive = golden("losses")
    losses = released_batch(archive, instances=True).losses(step)
    for theirs, name in RELEASED.items():
        wanted = torch.tensor(archive[f"C_iter{step}_loss_{theirs}"])
        torch.testing.assert_close(losses[f"loss_{name}"], wanted, rtol=1e-5, atol=0)
    wanted = torch.tensor(archive[f"C_iter{step}_loss_emb"])
    torch.testing.assert_close(losses["loss_semantic"], wanted, rtol=0, atol=1e-5)


def test_gradients_of_all_losses_equal_the_released_code(golden: Golden) -> None:
    archive = golden("losses")
    batch = released_batch(archive, instances=True)
    losses = batch.losses(step=999)
    # The embeddings of the reference are constants.
    torch.autograd.backward([losses[name] for name in NAMES if name != "loss_semantic"])
    outputs = batch.outputs
    gradients = {"ins_pred": outputs.mask_features.grad}
    for level in range(5):
        gradients[f"cate_l{level}"] = outputs.category_logits[level].grad
        gradients[f"kernel_l{level}"] = outputs.kernels[level].grad
    for name, gradient in gradients.items():
        assert gradient is not None
        wanted = torch.from_numpy(archive[f"C_grad_total_{name}"])
        # Two pixels whose sigmoid is 1 in float32 tie for one maximum: the released code takes
        # the first, we take the higher logit. That moves 3e-7 of a gradient.
        torch.testing.assert_close(gradient, wanted, rtol=1e-4, atol=1e-6)


def test_no_instances_equal_the_released_code(golden: Golden) -> None:
    archive = golden("losses")
    losses = released_batch(archive, instances=False).losses(0)
    wanted = torch.tensor(archive["D_loss_cate"])
    torch.testing.assert_close(losses["loss_category"], wanted, rtol=1e-5, atol=0)
    assert [losses[name].item() for name in NAMES[1:]] == [0.0] * 4
    assert [archive[f"D_loss_{name}"] for name in ("emb", "ins", "ins_max", "pairwise")] == [0] * 4


def test_no_positives_give_zeros_tied_to_the_graph() -> None:
    batch = random_batch([(0, 0, 0), (0, 0, 0)])
    losses = batch.losses()
    assert tuple(losses) == NAMES
    for name in NAMES[1:]:
        assert losses[name].item() == 0
        assert losses[name].requires_grad
    torch.autograd.backward(list(losses.values()))
    for tensor in leaves(batch.outputs):
        assert tensor.grad is not None
        assert torch.isfinite(tensor.grad).all()


@pytest.mark.parametrize(
    ("step", "warmup_steps", "share"),
    [
        pytest.param(0, 1000, 0.001, id="first-step"),
        pytest.param(499, 1000, 0.5, id="half-way"),
        pytest.param(999, 1000, 1.0, id="end"),
        pytest.param(5000, 1000, 1.0, id="after"),
        pytest.param(0, 0, 1.0, id="no-warm-up"),
    ],
)
def test_only_the_affinity_term_warms_up(step: int, warmup_steps: int, share: float) -> None:
    batch = random_batch([(2, 1, 0)])
    config = LossConfig(pairwise_warmup_steps=warmup_steps)
    full, early = batch.losses(10_000), batch.losses(step, config)
    for name in NAMES:
        expected = full[name] * (share if name == "loss_pairwise_affinity" else 1)
        torch.testing.assert_close(early[name], expected)


def test_the_same_step_twice_gives_the_same() -> None:
    batch = random_batch([(2, 1, 0)])
    criterion = FreeSOLOCriterion()
    inputs = (batch.outputs, batch.targets, batch.masks, batch.embeddings, batch.color_similarity)
    first, second = criterion(*inputs, 7), criterion(*inputs, 7)
    assert all(torch.equal(first[name], second[name]) for name in NAMES)


@pytest.mark.parametrize(
    ("field", "name"),
    [
        ("category", "loss_category"),
        ("semantic", "loss_semantic"),
        ("max_projection", "loss_max_projection"),
        ("avg_projection", "loss_avg_projection"),
        ("pairwise_affinity", "loss_pairwise_affinity"),
    ],
)
def test_a_weight_scales_its_own_term_only(field: str, name: str) -> None:
    batch = random_batch([(2, 1, 2), (1, 1, 1)])
    config = LossConfig(semantic=1, avg_projection=1)
    plain = batch.losses(config=config)
    scaled = batch.losses(config=override(config, {field: 3}, where="test"))
    for other in NAMES:
        expected = plain[other] * (3 if other == name else 1)
        torch.testing.assert_close(scaled[other], expected)


def test_full_mask_dice_only_where_it_is_asked_for() -> None:
    batch = random_batch([(2, 1, 0)])
    assert "loss_full_mask_dice" not in batch.losses()
    assert "loss_full_mask_dice" in batch.losses(config=LossConfig(full_mask_dice=1.0))


@pytest.mark.parametrize(
    "off", ["max_projection", "avg_projection", "pairwise_affinity", "full_mask_dice"]
)
def test_a_mask_term_of_weight_zero_is_left_out_and_changes_no_other(off: str) -> None:
    batch = random_batch([[2, 1, 0], [0, 3, 1]])
    config = LossConfig(full_mask_dice=2.0)
    whole = batch.losses(config=config)
    without = batch.losses(config=override(config, {off: 0.0}, where="test"))
    assert without.keys() == whole.keys() - {f"loss_{off}"}
    assert all(torch.equal(without[name], whole[name]) for name in without)


def test_supervised_losses_reach_the_whole_network_also_without_an_object() -> None:
    config = supervised(Config()).loss
    for positives in ([[2, 1, 0]], [[0, 0, 0]]):
        batch = random_batch(positives)
        losses = batch.losses(config=config)
        assert set(losses) == {"loss_category", "loss_semantic", "loss_full_mask_dice"}
        torch.autograd.backward(list(losses.values()))
        tensors = [*batch.outputs.category_logits, *batch.outputs.kernels]
        assert all(tensor.grad is not None for tensor in [*tensors, batch.outputs.mask_features])


def test_each_class_has_its_own_focal_loss() -> None:
    """Two classes of alike logits: twice the loss of a background cell, once that of a positive."""
    batch = random_batch([[0, 0, 0]])
    one = batch.losses()["loss_category"]
    batch.outputs = replace(
        batch.outputs,
        category_logits=tuple(x.repeat(1, 2, 1, 1) for x in batch.outputs.category_logits),
    )
    background = [
        tuple(replace(level, category=torch.full_like(level.category, 2)) for level in image)
        for image in batch.targets
    ]
    two = replace(batch, targets=background).losses()["loss_category"]
    torch.testing.assert_close(two, 2 * one)
    cell = background[0][0].category.clone()
    cell[1, 2] = 1
    first = replace(background[0][0], category=cell)
    batch.targets = [(first, *background[0][1:])]
    logit = batch.outputs.category_logits[0][0, 1, 1, 2]
    positive = 0.25 * torch.sigmoid(-logit) ** 2 * -torch.nn.functional.logsigmoid(logit)
    negative = 0.75 * torch.sigmoid(logit) ** 2 * -torch.nn.functional.logsigmoid(-logit)
    torch.testing.assert_close(batch.losses()["loss_category"], (two + positive - negative) / 2)


def test_order_of_the_images_does_not_matter() -> None:
    batch = random_batch([(2, 1, 0), (0, 0, 0), (1, 3, 2)])
    plain, moved = batch.losses(), batch.pick([2, 0, 1]).losses()
    for name in NAMES:
        torch.testing.assert_close(moved[name], plain[name])


def test_an_image_without_instances_changes_the_category_loss_only() -> None:
    batch = random_batch([(2, 1, 0), (0, 0, 0), (1, 3, 2)])
    plain, without = batch.losses(), batch.pick([0, 2]).losses()
    for name in NAMES[1:]:
        torch.testing.assert_close(without[name], plain[name])
    assert plain["loss_category"] > without["loss_category"]


def test_an_instance_that_vanished_at_stride_4_is_finite() -> None:
    batch = random_batch([(2, 1, 0)])
    batch.masks[0][:] = False
    losses = batch.losses()
    assert losses["loss_pairwise_affinity"].item() == 0
    torch.autograd.backward(list(losses.values()))
    assert all(torch.isfinite(x.grad).all() for x in leaves(batch.outputs) if x.grad is not None)


@pytest.mark.parametrize("inside", [True, False])
def test_bfloat16_outputs_give_float32_losses_in_and_out_of_autocast(inside: bool) -> None:
    batch = random_batch([(2, 1, 2), (1, 1, 1)])
    exact = batch.losses()
    rounded = replace(
        batch,
        outputs=SOLOOutputs(
            category_logits=tuple(x.bfloat16() for x in batch.outputs.category_logits),
            kernels=tuple(x.bfloat16() for x in batch.outputs.kernels),
            semantic_embeddings=tuple(x.bfloat16() for x in batch.outputs.semantic_embeddings),
            mask_features=batch.outputs.mask_features.bfloat16(),
        ),
    )
    with torch.autocast("cpu", dtype=torch.bfloat16, enabled=inside):
        losses = rounded.losses()
    for name in NAMES:
        assert losses[name].dtype == torch.float32
        torch.testing.assert_close(losses[name], exact[name], rtol=0.03, atol=0.01)


# Several processes


@pytest.mark.parametrize(
    "positives",
    [
        pytest.param([(3, 2, 1), (0, 4, 0), (1, 0, 0), (2, 2, 2)], id="uneven"),
        pytest.param([(3, 2, 1), (0, 4, 0), (0, 0, 0), (0, 0, 0)], id="one-without-any"),
        pytest.param([(0, 0, 0)] * 4, id="none"),
    ],
)
def test_the_mean_over_shares_is_the_loss_of_the_whole_batch(
    positives: list[tuple[int, ...]],
) -> None:
    """Its gradient too: the mean over processes is what distributed training takes."""
    batch = random_batch(positives)
    config = LossConfig(full_mask_dice=2.0)
    expected = batch.losses(config=config)
    inputs = leaves(batch.outputs)
    wanted = torch.autograd.grad(torch.stack(list(expected.values())).sum(), inputs)
    shares = [batch.pick((0, 1)), batch.pick((2, 3))]
    counts: list[list[Tensor]] = [[], []]

    def run(share: int, sum_over_ranks: Callable[[Tensor], Tensor]) -> dict[str, Tensor]:
        one = shares[share]
        return FreeSOLOCriterion(config, sum_over_ranks=sum_over_ranks, processes=2)(
            one.outputs, one.targets, one.masks, one.embeddings, one.color_similarity, 10_000
        )

    def noting(share: int) -> Callable[[Tensor], Tensor]:
        def note(values: Tensor) -> Tensor:
            counts[share].append(values)
            return values

        return note

    for share in range(2):
        run(share, noting(share))
    # The same number of sums on each process, or they would wait for each other for ever.
    sums = [one + other for one, other in zip(*counts, strict=True)]
    assert not any(values.requires_grad for values in sums)
    parts = []
    for share in range(2):
        replayed = iter(sums)
        parts.append(run(share, lambda _, replayed=replayed: next(replayed)))  # type: ignore[misc]
    for name, value in expected.items():
        torch.testing.assert_close((parts[0][name] + parts[1][name]) / 2, value)
    total = torch.stack([value for part in parts for value in part.values()]).sum() / 2
    for gradient, whole in zip(torch.autograd.grad(total, inputs), wanted, strict=True):
        torch.testing.assert_close(gradient, whole)
