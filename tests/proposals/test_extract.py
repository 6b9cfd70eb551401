"""From an image to the features Free Mask reads: sizes, whole cells, the mirrored border."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from soloist.config import Config
from soloist.config.presets import override
from soloist.errors import ConfigError
from soloist.proposals.extract import FreeMaskExtractor, mirrored_border
from soloist.runtime.device import Runtime


@pytest.fixture
def config(tiny_config: Config) -> Config:
    return override(tiny_config, {"extract": {"margin": 0}}, where="test")


@pytest.mark.parametrize(
    ("size", "stride", "cells"),
    [
        pytest.param((96, 144), 16, (6, 9), id="whole-cells"),
        pytest.param((100, 130), 16, (6, 8), id="rounded-to-whole-cells"),
        pytest.param((50, 65), 32, (3, 4), id="coarser"),
        pytest.param((300, 30), 16, (12, 1), id="bounded-by-the-long-side"),
        pytest.param((1, 1), 16, (6, 6), id="one-pixel"),
    ],
)
@pytest.mark.parametrize("margin", [0, 32])
def test_features_have_whole_cells_with_and_without_a_margin(
    config: Config,
    runtime: Runtime,
    size: tuple[int, int],
    stride: int,
    cells: tuple[int, int],
    margin: int,
) -> None:
    options = {
        "backbone": {"feature_stride": stride, "stages": 4},
        "extract": {"margin": margin},
    }
    extractor = FreeMaskExtractor(override(config, options, where="test"), runtime)
    image = torch.zeros((3, *size), dtype=torch.uint8)
    with torch.inference_mode():
        assert extractor.features(image).shape[1:] == cells


def test_both_parts_together_give_what_a_call_gives(config: Config, runtime: Runtime) -> None:
    regions = override(config, {"extract": {"proposals": "regions"}}, where="test")
    extractor = FreeMaskExtractor(regions, runtime)
    assert extractor.prepares
    assert not FreeMaskExtractor(config, runtime).prepares
    pixels = np.random.default_rng(0).integers(0, 99, (90, 70, 3), dtype=np.uint8)
    pixels[20:60, 10:40] = (200, 40, 30)
    whole = extractor(pixels, (180, 140))
    found = extractor.finish(pixels, extractor.prepare(pixels, (180, 140)))
    assert len(found) == len(whole) > 0
    assert np.array_equal(np.asarray(found.masks), whole.masks.numpy())
    torch.testing.assert_close(found.embeddings, whole.embeddings)


def test_a_margin_must_be_whole_cells(config: Config, runtime: Runtime) -> None:
    odd = override(config, {"extract": {"margin": 24}}, where="test")
    with pytest.raises(ConfigError, match=r"multiple of backbone\.feature_stride 16, got 24"):
        FreeMaskExtractor(odd, runtime)


def test_masks_have_the_size_that_is_asked_for(config: Config, runtime: Runtime) -> None:
    pixels = np.random.default_rng(0).integers(0, 255, (90, 70, 3), dtype=np.uint8)
    found = FreeMaskExtractor(config, runtime)(pixels, (180, 140))
    assert len(found) >= 1
    assert found.masks.shape[1:] == (180, 140)


@pytest.mark.parametrize(
    ("margin", "expected"),
    [
        pytest.param(0, [0, 1, 2], id="none"),
        pytest.param(2, [2, 1, 0, 1, 2, 1, 0], id="mirrored"),
        pytest.param(4, [2, 2, 2, 1, 0, 1, 2, 1, 0, 0, 0], id="mirrored-then-repeated"),
    ],
)
def test_the_border_is_mirrored(margin: int, expected: list[int]) -> None:
    images = torch.arange(3.0).expand(1, 1, 3, 3)
    padded = mirrored_border(images, margin)
    assert padded.shape == (1, 1, 3 + 2 * margin, 3 + 2 * margin)
    assert padded[0, 0, 0].tolist() == expected
    turned = mirrored_border(images.transpose(2, 3), margin)
    assert torch.equal(turned, padded.transpose(2, 3))
