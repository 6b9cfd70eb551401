"""Resizing without torch against torch and torchvision."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torchvision.transforms import v2

from soloist.inference.onnx.numpy_resize import linear_weights, resize, resize_pixels
from soloist.ops import resize as with_torch


@pytest.mark.parametrize(
    ("size", "padded", "cropped", "target"),
    [
        pytest.param(5, 20, 17, 40, id="larger"),
        pytest.param(1, 4, 3, 9, id="one-cell"),
        pytest.param(50, 200, 190, 31, id="smaller"),
        pytest.param(8, 32, 32, 32, id="once"),
        pytest.param(3, 12, 12, 1, id="to-one-pixel"),
        pytest.param(40, 160, 150, 300, id="several-bands"),
    ],
)
def test_maps_are_resized_as_by_torch(size: int, padded: int, cropped: int, target: int) -> None:
    found = linear_weights(size, padded=padded, cropped=cropped, target=target)
    wanted = with_torch.linear_weights(size, padded=padded, cropped=cropped, target=target)
    np.testing.assert_allclose(found, wanted.numpy(), rtol=0, atol=1e-5)
    maps = np.random.default_rng(0).random((2, size, size), dtype=np.float32)
    resized = wanted.T @ torch.from_numpy(maps) @ wanted
    np.testing.assert_allclose(resize(maps, found, found), resized.numpy(), rtol=0, atol=1e-5)


@pytest.mark.parametrize(
    ("size", "target"),
    [
        pytest.param((213, 320), (288, 433), id="larger"),
        pytest.param((480, 640), (288, 384), id="smaller"),
        pytest.param((91, 1000), (52, 576), id="flat"),
        pytest.param((70, 90), (70, 45), id="one-axis"),
        pytest.param((70, 90), (70, 90), id="as-it-was"),
        pytest.param((1, 1), (5, 7), id="from-one-pixel"),
        pytest.param((33, 65), (1, 1), id="to-one-pixel"),
    ],
)
def test_pixels_are_resized_as_by_torchvision(
    size: tuple[int, int], target: tuple[int, int]
) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (*size, 3), dtype=np.uint8)
    tensor = torch.from_numpy(pixels).permute(2, 0, 1)
    wanted = v2.functional.resize(tensor, list(target), antialias=True).permute(1, 2, 0).numpy()
    found = resize_pixels(pixels, target)
    assert found.dtype == np.uint8
    assert found.shape == (*target, 3)
    if "AVX" in torch.backends.cpu.get_cpu_capability():
        np.testing.assert_array_equal(found, wanted)
    else:  # There torchvision computes in floating point.
        assert np.abs(found.astype(int) - wanted).max() <= 2
