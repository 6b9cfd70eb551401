from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from soloist.config import Config
from soloist.data.coco.read import load_coco
from soloist.errors import DataError
from soloist.proposals.extract import FreeMaskExtractor
from soloist.proposals.pooling import mean_under, pool_features
from soloist.runtime.device import Runtime
from soloist.runtime.error_log import ErrorLog


def test_cells_are_weighed_by_how_much_of_them_is_covered() -> None:
    features = torch.tensor([[[1.0, 2.0], [3.0, 4.0]], [[0.0, 0.0], [0.0, 8.0]]])  # (2, 2, 2)
    mask = torch.zeros(8, 8, dtype=torch.bool)
    mask[0:4, 0:4] = True  # All of the first cell.
    mask[4:8, 6:8] = True  # Half of the last.
    torch.testing.assert_close(mean_under(features, mask), torch.tensor([2.0, 8 / 3]))


@pytest.mark.parametrize("size", [(1, 1), (3, 5), (7, 2)])
def test_masks_may_be_coarser_than_the_features(size: tuple[int, int]) -> None:
    features = torch.rand(3, 4, 4)
    whole = torch.ones(size, dtype=torch.bool)
    torch.testing.assert_close(mean_under(features, whole), features.mean(dim=(1, 2)))
    assert mean_under(features, torch.zeros(size, dtype=torch.bool)).tolist() == [0, 0, 0]


def test_every_mask_has_the_feature_under_it_and_failed_images_are_listed(
    write_masks: Callable[..., Path], tmp_path: Path, tiny_config: Config, runtime: Runtime
) -> None:
    file = load_coco(write_masks())
    paths = {number + 1: tmp_path / "images" / f"{number}.png" for number in range(4)}
    paths[2].write_text("no image")
    del paths[4]
    errors = ErrorLog(None)
    pooled = pool_features(file, paths, FreeMaskExtractor(tiny_config, runtime), errors)
    assert pooled.shape == (12, pooled.shape[1])
    assert np.flatnonzero(~pooled.any(axis=1)).tolist() == [3, 4, 5, 9, 10, 11]
    assert errors.images == {"1.png", "3.png"}


def test_no_readable_image_is_one_line(
    write_masks: Callable[..., Path], tiny_config: Config, runtime: Runtime
) -> None:
    file = load_coco(write_masks())
    with pytest.raises(DataError, match="none of the 4 images"):
        pool_features(file, {}, FreeMaskExtractor(tiny_config, runtime), ErrorLog(None))
