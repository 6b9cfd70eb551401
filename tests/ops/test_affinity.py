from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any

import pytest
import torch
from skimage.color import rgb2lab

from soloist.ops.affinity import color_similarity, neighbors, rgb_to_lab

Golden = Callable[[str], Mapping[str, Any]]


@pytest.mark.parametrize(
    ("rgb", "lab"),
    [
        pytest.param([0.0, 0.0, 0.0], [0.0, 0.0, 0.0], id="black"),
        pytest.param([1.0, 1.0, 1.0], [100.0, -0.0025, 0.0047], id="white"),
        pytest.param([1.0, 0.0, 0.0], [53.2406, 80.0923, 67.2028], id="red"),
        pytest.param([0.02, 0.02, 0.02], [1.3983, 0.0, 0.0], id="near-black-is-linear"),
    ],
)
def test_rgb_to_lab(rgb: list[float], lab: list[float]) -> None:
    converted = rgb_to_lab(torch.tensor(rgb).view(3, 1, 1)).flatten()
    torch.testing.assert_close(converted, torch.tensor(lab), rtol=0, atol=1e-2)


def test_rgb_to_lab_equals_skimage() -> None:
    rgb = torch.rand(2, 3, 16, 16, generator=torch.Generator().manual_seed(0))
    rgb[0] *= 0.06
    expected = torch.from_numpy(rgb2lab(rgb.double().numpy(), channel_axis=1))
    torch.testing.assert_close(rgb_to_lab(rgb), expected.float(), rtol=1e-4, atol=1e-3)


@pytest.mark.parametrize("image", [0, 1])
def test_rgb_to_lab_equals_the_released_code(golden: Golden, image: int) -> None:
    reference = golden("color_similarity")
    rgb = torch.from_numpy(reference[f"im{image}_avgpool_byte"]).permute(2, 0, 1) / 255
    expected = torch.from_numpy(reference[f"im{image}_lab_ds4"])
    torch.testing.assert_close(rgb_to_lab(rgb), expected, rtol=1e-4, atol=1e-3)


def test_rgb_to_lab_refuses_gray() -> None:
    with pytest.raises(ValueError, match="3, H, W"):
        rgb_to_lab(torch.zeros(1, 8, 8))


@pytest.mark.parametrize("dilation", [1, 2, 3])
def test_neighbors_equals_indexing_pixel_by_pixel(dilation: int) -> None:
    maps = torch.rand(1, 2, 5, 6, generator=torch.Generator().manual_seed(0))
    expected = torch.zeros(1, 2, 8, 5, 6)
    offsets = [(dy, dx) for dy in (-1, 0, 1) for dx in (-1, 0, 1) if (dy, dx) != (0, 0)]
    for k, (dy, dx) in enumerate(offsets):
        for y in range(5):
            for x in range(6):
                row, column = y + dy * dilation, x + dx * dilation
                if 0 <= row < 5 and 0 <= column < 6:
                    expected[:, :, k, y, x] = maps[:, :, row, column]
    assert torch.equal(neighbors(maps, dilation), expected)


def test_neighbors_equals_the_released_code(golden: Golden) -> None:
    reference = golden("color_similarity")
    dilation, size = (int(reference[f"const_pairwise_{name}"]) for name in ("dilation", "size"))
    unfolded = neighbors(torch.from_numpy(reference["raw_lab"])[None], dilation)[0]
    assert unfolded.shape[1] == size**2 - 1
    assert torch.equal(unfolded, torch.from_numpy(reference["raw_unfold"]))


@pytest.mark.parametrize(
    ("prefix", "lab_key", "valid_key"),
    [
        pytest.param("raw_", "lab", "mask", id="random-colours"),
        pytest.param("im0_", "lab_ds4", "image_mask_ds4", id="image-padded-below"),
        pytest.param("im1_", "lab_ds4", "image_mask_ds4", id="wide-image"),
    ],
)
def test_color_similarity_equals_the_released_code(
    golden: Golden, prefix: str, lab_key: str, valid_key: str
) -> None:
    reference = golden("color_similarity")
    similarity = color_similarity(
        torch.from_numpy(reference[prefix + lab_key])[None],
        torch.from_numpy(reference[prefix + valid_key])[None],
    )
    expected = torch.from_numpy(reference[prefix + "similarity"])
    torch.testing.assert_close(similarity[0], expected, rtol=0, atol=1e-6)


def test_color_similarity_of_two_pixels() -> None:
    lab = torch.zeros(1, 3, 1, 3)
    lab[0, :, 0, 2] = torch.tensor([2.0, 1.0, 2.0])
    similarity = color_similarity(lab, torch.ones(1, 1, 3, dtype=torch.bool))
    left, right = similarity[0, 3, 0], similarity[0, 4, 0]
    assert right.tolist() == pytest.approx([math.exp(-1.5), 0, 0])
    assert left.tolist() == pytest.approx([0, 0, math.exp(-1.5)])
    assert similarity.sum() == pytest.approx(2 * math.exp(-1.5))


def test_color_similarity_towards_invalid_pixels_is_zero() -> None:
    valid = torch.ones(1, 5, 5, dtype=torch.bool)
    valid[0, 2, 2] = False
    similarity = color_similarity(torch.zeros(1, 3, 5, 5), valid)
    assert similarity[0, 7, 0, 0] == 0
    assert similarity[0, 0, 2, 2] == 1


def test_batch_equals_single_images() -> None:
    lab = torch.rand(3, 3, 6, 7, generator=torch.Generator().manual_seed(0)) * 20
    valid = torch.ones(3, 6, 7)
    singles = torch.cat([color_similarity(lab[i : i + 1], valid[i : i + 1]) for i in range(3)])
    assert torch.equal(color_similarity(lab, valid), singles)


def test_no_images_give_an_empty_result() -> None:
    assert color_similarity(torch.zeros(0, 3, 4, 4), torch.zeros(0, 4, 4)).shape == (0, 8, 4, 4)
    assert rgb_to_lab(torch.zeros(0, 3, 4, 4)).shape == (0, 3, 4, 4)


def test_colours_stay_exact_under_autocast() -> None:
    rgb = torch.rand(3, 4, 4, generator=torch.Generator().manual_seed(0))
    with torch.autocast("cpu", torch.bfloat16):
        lab = rgb_to_lab(rgb)
    assert torch.equal(lab, rgb_to_lab(rgb))
