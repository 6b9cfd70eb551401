"""Grid targets: against the released code, a loop over cells, and literal cases."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from soloist.structures import GridTargets
from soloist.targets import downsample_masks, grid_targets

Golden = Callable[[str], Mapping[str, npt.NDArray[Any]]]
RANGES = ((1, 96), (48, 192), (96, 384), (192, 768), (384, 2048))


def golden_masks(archive: Mapping[str, npt.NDArray[Any]], image: int) -> Tensor:
    width = archive[f"im{image}_gt_size"][1]
    bits = np.unpackbits(archive[f"im{image}_gt_masks"], axis=-1)[..., :width]
    return torch.from_numpy(bits.astype(bool))


def golden_targets(archive: Mapping[str, npt.NDArray[Any]], image: int) -> GridTargets:
    return grid_targets(
        torch.from_numpy(archive[f"im{image}_gt_boxes"]),
        golden_masks(archive, image),
        labels=torch.from_numpy(archive[f"im{image}_gt_classes"]),
        # Four times the mask features: the padded size.
        input_size=(256, 320),
        num_classes=int(archive["const_num_classes"]),
    )


def box_mask(box: tuple[int, int, int, int], size: tuple[int, int]) -> Tensor:
    mask = torch.zeros(size, dtype=torch.bool)
    mask[box[1] : box[3], box[0] : box[2]] = True
    return mask


@pytest.mark.parametrize("image", [0, 1, 2])
@pytest.mark.parametrize("level", range(5))
def test_cells_and_categories_equal_the_released_code(
    golden: Golden, image: int, level: int
) -> None:
    archive = golden("targets")
    target = golden_targets(archive, image)[level]
    key = f"im{image}_l{level}"
    assert target.cells.tolist() == archive[f"{key}_grid_order"].tolist()
    assert target.category.tolist() == archive[f"{key}_cate_label"].tolist()
    positive = torch.zeros(target.category.numel(), dtype=torch.bool)
    positive[target.cells] = True
    assert positive.tolist() == archive[f"{key}_ins_ind_label"].tolist()


@pytest.mark.parametrize("image", [0, 1, 2])
def test_cells_carry_the_embeddings_of_the_released_code(golden: Golden, image: int) -> None:
    """Of instances that share a cell it keeps the last one's; here each keeps its own."""
    archive = golden("targets")
    embeddings = torch.from_numpy(archive[f"im{image}_gt_embs"])
    for level, target in enumerate(golden_targets(archive, image)):
        wanted = torch.from_numpy(archive[f"im{image}_l{level}_emb_label"]).flatten(0, 1)
        own = torch.zeros_like(wanted)
        for cell, instance in zip(target.cells.tolist(), target.instances.tolist(), strict=True):
            own[cell] = embeddings[instance]
        assert torch.equal(own, wanted)


@pytest.mark.parametrize("image", [0, 1, 2])
def test_cells_learn_the_masks_of_the_released_code(golden: Golden, image: int) -> None:
    archive = golden("targets")
    masks = golden_masks(archive, image)
    height, width = masks.shape[1:]
    # The released code resizes the unpadded mask, then pads it.
    small = downsample_masks(masks, (int(height / 4 + 0.5), int(width / 4 + 0.5)))
    rows, columns = archive["mask_feat_size"].tolist()
    small = F.pad(small, (0, columns - small.shape[2], 0, rows - small.shape[1]))
    for level, target in enumerate(golden_targets(archive, image)):
        wanted = torch.from_numpy(archive[f"im{image}_l{level}_ins_label"]).bool()
        differing = (small[target.instances] != wanted).sum(dim=(1, 2))
        assert (differing <= 2).all()


def test_downsampling_equals_opencv_up_to_ties(golden: Golden) -> None:
    archive = golden("targets")
    wanted = torch.from_numpy(archive["im1_masks_imrescale"]).bool()
    small = downsample_masks(golden_masks(archive, 1), (63, 78))
    assert (small != wanted).sum(dim=(1, 2)).tolist() == [0, 2, 0, 1, 0]


def test_downsampling_the_padded_mask_moves_edges_by_less_than_a_cell(golden: Golden) -> None:
    archive = golden("targets")
    masks = golden_masks(archive, 1)
    padded = downsample_masks(F.pad(masks, (0, 10, 0, 6)), (64, 80))[:, :63, :78]
    shrunk = downsample_masks(masks, (63, 78))
    near = F.max_pool2d(shrunk.float(), 3, stride=1, padding=1).bool()
    assert not (padded & ~near).any()


def reference_targets(
    boxes: Tensor, masks: Tensor, labels: Tensor, size: tuple[int, int], grid: int,
    scales: tuple[float, float], sigma: float, background: int,
) -> tuple[Tensor, list[tuple[int, int]]]:  # fmt: skip
    """The assignment cell by cell: a cell is positive if it meets the centre region."""
    category = torch.full((grid, grid), background)
    cells = []
    for n, (box, mask) in enumerate(zip(boxes.double(), masks, strict=True)):
        width, height = float(box[2] - box[0]), float(box[3] - box[1])
        if not mask.any() or not scales[0] <= (width * height) ** 0.5 <= scales[1]:
            continue
        center = mask.nonzero().double().mean(dim=0)
        for row in range(grid):
            for column in range(grid):
                meets = True
                for axis, index, extent in ((0, row, height), (1, column, width)):
                    cell = size[axis] / grid
                    low, high = center[axis] - sigma * extent / 2, center[axis] + sigma * extent / 2
                    meets &= bool(low < (index + 1) * cell) and bool(high >= index * cell)
                    meets &= abs(index - int(center[axis] / cell)) <= 1
                if meets:
                    category[row, column] = labels[n]
                    cells.append((row * grid + column, n))
    return category, cells


@pytest.mark.parametrize("seed", range(4))
def test_targets_equal_a_loop_over_cells(seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    size, n = (120, 90), 6
    corners = torch.rand(n, 2, generator=generator) * torch.tensor([60.0, 80.0])
    boxes = torch.cat([corners, corners + 7 + 20 * torch.rand(n, 2, generator=generator)], dim=1)
    masks = torch.stack(
        [
            box_mask((int(x1), int(y1), int(x2), int(y2)), size)
            & (torch.rand(size, generator=generator) > 0.4)
            for x1, y1, x2, y2 in boxes.tolist()
        ]
    )
    masks[2] = False
    labels = torch.randint(3, (n,), generator=generator)
    grids, ranges = (13, 7), ((1, 18), (14, 90))
    targets = grid_targets(
        boxes, masks, labels=labels, input_size=size, grids=grids, scale_ranges=ranges,
        center_sigma=0.5, num_classes=3,
    )  # fmt: skip
    for target, grid, scales in zip(targets, grids, ranges, strict=True):
        category, cells = reference_targets(boxes, masks, labels, size, grid, scales, 0.5, 3)
        assert target.category.tolist() == category.tolist()
        pairs = list(zip(target.cells.tolist(), target.instances.tolist(), strict=True))
        assert pairs == cells
        assert len(cells) > 0


@pytest.mark.parametrize(
    ("side", "levels"),
    [
        pytest.param(0.5, [], id="below-every-range"),
        pytest.param(1, [0], id="lower-end-is-inclusive"),
        pytest.param(47, [0], id="finest-only"),
        pytest.param(96, [0, 1, 2], id="both-ends-are-inclusive"),
        pytest.param(97, [1, 2], id="past-the-upper-end"),
        pytest.param(192, [1, 2, 3], id="three-levels"),
        pytest.param(2048, [4], id="coarsest-only"),
        pytest.param(2049, [], id="above-every-range"),
    ],
)
def test_size_chooses_levels(side: float, levels: list[int]) -> None:
    boxes = torch.tensor([[10.0, 10.0, 10 + side, 10 + side]])
    masks = box_mask((10, 10, 12, 12), (64, 64))[None]
    targets = grid_targets(boxes, masks, input_size=(64, 64), scale_ranges=RANGES)
    assert [i for i, target in enumerate(targets) if len(target.cells)] == levels


@pytest.mark.parametrize(
    ("side", "pixel", "cell"),
    [
        pytest.param(40, 8, 4, id="an-eighth-of-40"),
        pytest.param(36, 16, 8, id="a-quarter-of-36"),
        pytest.param(24, 8, 2, id="an-eighth-of-24"),
        pytest.param(12, 16, 2, id="a-quarter-of-12"),
        pytest.param(10, 32, 4, id="the-middle-of-10"),
        pytest.param(16, 32, 8, id="a-power-of-two-is-exact"),
    ],
)
def test_a_line_between_cells_belongs_where_floor_division_puts_it(
    side: int, pixel: int, cell: int
) -> None:
    """The floor of position * side would say one more, but for powers of two."""
    (target,) = grid_targets(
        torch.tensor([[pixel, pixel, pixel + 1.0, pixel + 1.0]]),
        box_mask((pixel, pixel, pixel + 1, pixel + 1), (64, 64))[None],
        input_size=(64, 64),
        grids=(side,),
        scale_ranges=((1, 96),),
        center_sigma=0.0,
    )
    assert target.cells.tolist() == [cell * side + cell]


def test_later_instance_gives_the_category_and_both_learn_their_mask() -> None:
    mask = box_mask((28, 28, 38, 38), (64, 64))
    targets = grid_targets(
        torch.tensor([[28.0, 28.0, 38.0, 38.0]] * 2),
        torch.stack([mask, mask]),
        labels=torch.tensor([1, 0]),
        input_size=(64, 64),
        grids=(4,),
        scale_ranges=((1, 64),),
        num_classes=2,
    )
    (target,) = targets
    assert target.cells.tolist() == [5, 6, 9, 10, 5, 6, 9, 10]
    assert target.instances.tolist() == [0, 0, 0, 0, 1, 1, 1, 1]
    assert target.category.tolist() == [[2, 2, 2, 2], [2, 0, 0, 2], [2, 0, 0, 2], [2, 2, 2, 2]]


def test_order_of_instances_only_renumbers_them() -> None:
    boxes = torch.tensor([[4.0, 4.0, 14.0, 14.0], [40.0, 44.0, 60.0, 56.0], [30, 2, 44, 30]])
    masks = torch.stack([box_mask((*map(int, box),), (64, 64)) for box in boxes.tolist()])  # type: ignore[arg-type]  # four numbers
    order = torch.tensor([2, 0, 1])
    kwargs: dict[str, Any] = {"input_size": (64, 64), "grids": (16,), "scale_ranges": ((1, 64),)}
    (plain,) = grid_targets(boxes, masks, **kwargs)
    (moved,) = grid_targets(boxes[order], masks[order], **kwargs)
    renumbered = order[moved.instances].tolist()
    assert sorted(zip(moved.cells.tolist(), renumbered, strict=True)) == sorted(
        zip(plain.cells.tolist(), plain.instances.tolist(), strict=True)
    )
    assert moved.category.tolist() == plain.category.tolist()


def test_padding_left_off_changes_nothing() -> None:
    boxes = torch.tensor([[5.0, 6.0, 30.0, 20.0]])
    mask = box_mask((5, 6, 30, 20), (40, 50))[None]
    padded = F.pad(mask, (0, 14, 0, 24))
    for a, b in zip(
        grid_targets(boxes, mask, input_size=(64, 64)),
        grid_targets(boxes, padded, input_size=(64, 64)),
        strict=True,
    ):
        assert a.cells.tolist() == b.cells.tolist()
        assert a.category.tolist() == b.category.tolist()


@pytest.mark.parametrize(
    "masks",
    [
        pytest.param(torch.zeros(0, 32, 32, dtype=torch.bool), id="no-instance"),
        pytest.param(torch.zeros(2, 32, 32, dtype=torch.bool), id="empty-masks"),
    ],
)
def test_nothing_to_learn_is_all_background(masks: Tensor) -> None:
    boxes = torch.tensor([[0.0, 0.0, 16.0, 16.0]]).expand(len(masks), 4)
    targets = grid_targets(boxes, masks, input_size=(32, 32), grids=(4, 2), scale_ranges=RANGES[:2])
    assert [tuple(target.category.shape) for target in targets] == [(4, 4), (2, 2)]
    for target in targets:
        assert (target.category == 1).all()
        assert target.cells.shape == target.instances.shape == (0,)
        assert target.cells.dtype == target.instances.dtype == torch.int64


def test_one_pixel_in_the_last_corner() -> None:
    masks = box_mask((31, 31, 32, 32), (32, 32))[None]
    boxes = torch.tensor([[31.0, 31.0, 32.0, 32.0]])
    targets = grid_targets(boxes, masks, input_size=(32, 32), grids=(4,), scale_ranges=((1, 96),))
    assert targets[0].cells.tolist() == [15]
    assert targets[0].category[3, 3] == 0


@pytest.mark.parametrize(
    ("boxes", "masks", "message"),
    [
        pytest.param(1, (2, 8, 8), "same instances, got 1, 2 and 2", id="counts"),
        pytest.param(2, (2, 9, 8), r"fit in input_size \(8, 8\), got \(9, 8\)", id="size"),
    ],
)
def test_wrong_input_is_an_error(boxes: int, masks: tuple[int, ...], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        grid_targets(torch.zeros(boxes, 4), torch.zeros(masks, dtype=torch.bool), input_size=(8, 8))


@pytest.mark.parametrize(
    ("corner", "expected"),
    [
        pytest.param(0, True, id="all-four-middle-pixels"),
        pytest.param(2, False, id="one-of-four"),
    ],
)
def test_downsampling_reads_the_middle_of_a_block(corner: int, expected: bool) -> None:
    masks = torch.zeros(1, 4, 4, dtype=torch.bool)
    masks[0, corner:3, corner:3] = True
    assert downsample_masks(masks, (1, 1)).tolist() == [[[expected]]]


def test_downsampling_half_covered_is_foreground() -> None:
    masks = torch.zeros(1, 4, 4, dtype=torch.bool)
    masks[0, :2] = True
    assert downsample_masks(masks, (1, 1)).tolist() == [[[True]]]


def test_downsampling_no_masks_is_empty() -> None:
    small = downsample_masks(torch.zeros(0, 8, 8, dtype=torch.bool), (2, 3))
    assert small.shape == (0, 2, 3)
    assert small.dtype == torch.bool
