"""Backbone features of masks: what embeddings are compared with."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from soloist.data.coco.rle import decode_mask
from soloist.data.coco.types import CocoFile
from soloist.data.images import read_image
from soloist.errors import DataError
from soloist.proposals.extract import FreeMaskExtractor
from soloist.runtime.error_log import ErrorLog
from soloist.runtime.progress import track


@torch.inference_mode()
def pool_features(
    file: CocoFile, paths: Mapping[int, Path], extractor: FreeMaskExtractor, errors: ErrorLog
) -> NDArray[np.float32]:
    """The mean feature under each mask of a file.

    Args:
        file: The masks.
        paths: Where the image of each id is.
        extractor: Gives the features.
        errors: Where images that cannot be read are listed; their masks' features are zero.

    Returns:
        (A, C) float32 in the order of the file's annotations, not normalised.

    Raises:
        DataError: If no image can be read.
    """
    rows: list[tuple[int, NDArray[np.float32]]] = []
    with track("features", len(file.images)) as tracker:
        for image in file.images:
            annotations = file.annotations[image.id]
            if annotations:
                try:
                    if image.id not in paths:
                        raise DataError("wanted the image beside its masks, got no such file")
                    read = read_image(paths[image.id], reading=file.reading)
                    pixels = torch.from_numpy(read).permute(2, 0, 1)
                except DataError as error:
                    errors.add(image.file_name, "features", error)
                else:
                    features = extractor.features(pixels)
                    for one in annotations:
                        mask = torch.from_numpy(decode_mask(one.segmentation))
                        pooled = mean_under(features, mask.to(features.device))
                        rows.append((one.index, pooled.cpu().numpy()))
            tracker.advance()
    if not rows:
        raise DataError(
            f"wanted masks on images that can be read, got none of the {len(file.images)} images; "
            f"see {errors.path or 'the log'}"
        )
    pooled_features = np.zeros((len(file), len(rows[0][1])), dtype=np.float32)
    for index, row in rows:
        pooled_features[index] = row
    return pooled_features


def mean_under(features: Tensor, mask: Tensor) -> Tensor:
    """Mean of the cells of a feature map, each weighed by how much of it a mask covers.

    Args:
        features: (C, h, w) float32.
        mask: (H, W) bool with at least one pixel, over the same image.

    Returns:
        (C,) float32; zero for an empty mask.
    """
    height, width = features.shape[1:]
    shares = functional.adaptive_avg_pool2d(mask.float()[None], (height, width))[0]  # (h, w)
    return (features * shares).sum(dim=(1, 2)) / shares.sum().clamp(min=torch.finfo().tiny)
