"""Free Mask: coarse object masks from the features of a self-supervised backbone (section 3.2)."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional

from soloist.config import FreeMaskConfig
from soloist.ops.masks import extent_boxes, extents, masks_to_boxes
from soloist.ops.nms import matrix_nms
from soloist.ops.parts import largest_component
from soloist.ops.resize import linear_weights, resized_masks
from soloist.structures import Instances

_MIN_CONTRAST = 1e-5
"""Similarities that differ by less are equal up to float32 rounding: such a map has no mask."""
_MIN_SQUARE = 1e-6
"""A query's squared norm relative to its keys', under which float32 rounding decides it."""
_BLOCK = 128
"""Queries in work at a time."""
_ROWS = 256
"""Queries cut and scored at a time: few, so that their products stay in the cache."""


def free_masks(
    features: Tensor, image_size: tuple[int, int], config: FreeMaskConfig | None = None
) -> Instances:
    """Objects of one image from its feature map (paper section 3.2).

    Every position of the map, and of the map at smaller scales, is a query; the cosine of a query
    with all positions (the keys), stretched to [0, 1], is a soft mask. The confident and distinct
    ones are kept. A query or key that is all zero has similarity 0 to everything: as a query it
    gives no mask, as a key it is background. No query kept, or a map without contrast, gives no
    instances. Differs from the released code in that and in tight boxes; `config.compat` brings
    both back (docs/fidelity.md).
    Memory grows with (H * W) ** 2.

    Args:
        features: (C, H, W) float feature map of any dtype.
        image_size: (height, width) of the masks to make, in pixels.
        config: Options; None is the paper preset.

    Returns:
        At most `config.max_masks` instances, best first: scores are maskness after Matrix NMS,
        embeddings the (E,) normalised queries interpolated over channels.

    Raises:
        ValueError: If features is not 3-D, has an empty side or holds a value that is not finite.
    """
    config = config or FreeMaskConfig()
    if features.ndim != 3 or 0 in features.shape:
        raise ValueError(f"features must be (C, H, W), none of them 0, got {tuple(features.shape)}")
    # Half precision would reorder masks, whatever the caller runs its network in.
    with torch.no_grad(), torch.autocast(features.device.type, enabled=False):
        features = features.float()
        products, norms = _compare(features, config.query_scales)
        coarse = _coarse_masks(products, norms, config)
        scores = coarse.scores
        released = config.compat == "released"
        if released and _has_zero_location(features):
            scores = torch.zeros_like(scores)
        candidates = scores.ge(config.score_threshold).logical_and(scores.gt(0)).nonzero()[:, 0]
        # A mask below the threshold stays below it and decays none above it: leaving it out of
        # Matrix NMS is exact.
        candidates = candidates[torch.argsort(scores[candidates], descending=True, stable=True)]
        cells = features.shape[1:]
        masks = coarse.masks[candidates].view(-1, *cells)
        scores = matrix_nms(
            masks, scores[candidates], sigma=config.nms_sigma, least=config.score_threshold
        )
        best = torch.argsort(scores, descending=True, stable=True)[: config.max_masks]
        best = best[scores[best] >= config.score_threshold]
        soft = coarse.soft(products, candidates[best]).view(-1, *cells)
        masks = _upsample(soft, image_size, config.mask_threshold)
        if config.largest_part:
            masks = largest_component(masks)
        instances = Instances(
            image_size=image_size,
            masks=masks,
            scores=scores[best],
            boxes=extent_boxes(masks) if released else masks_to_boxes(masks),
            embeddings=_embeddings(features, norms, config)[candidates[best]],
        )
        return instances.filter(_looks_like_object(instances, config))


def _compare(features: Tensor, scales: tuple[float, ...]) -> tuple[Tensor, Tensor]:
    """Products (Q, H*W) of every query with every unit key, and the queries' norms (Q,).

    Divided by its query's norm a product is their cosine; a soft mask does not depend on it, so
    that division is left out. The norm of a zero query is infinite.
    Resizing is linear, so the products of the queries at all scales with the keys are the keys'
    Gram matrix, resized: half the multiplications of a product with every query.
    """
    height, width = features.shape[1:]
    keys = features.flatten(1)
    squares = keys.square().sum(dim=0)  # (H*W,)
    if not torch.isfinite(squares).all():
        raise ValueError("features must be finite, got NaN or infinity: check the backbone")
    key_norms = squares.sqrt()
    products = _products(keys, torch.where(squares > 0, 1 / key_norms, 0))
    parts, norms = [products.new_zeros((0, height * width))], [products.new_zeros(0)]
    for scale in scales:
        if scale == 1:
            queries, query_squares, largest = products, squares, squares
        else:
            positions = products.view(height, width, -1).permute(2, 0, 1)  # of the queries
            queries = _resize(positions, scale).T.contiguous()  # (q, H*W)
            by_keys = (queries * key_norms).view(-1, height, width)
            query_squares = _resize(by_keys, scale).diagonal()
            largest = _resize(squares.view(1, height, width), scale)[0]
        # Keys that cancel out leave only rounding: such a query is zero, like one of zero keys.
        nonzero = query_squares > _MIN_SQUARE * largest
        parts.append(queries)
        norms.append(torch.where(nonzero, query_squares.clamp(min=0).sqrt(), torch.inf))
    return torch.cat(parts), torch.cat(norms)


def _products(keys: Tensor, scales: Tensor) -> Tensor:
    """Products (n, n) of all columns of (C, n) with all columns times their `scales` (n,).

    The columns' own products are symmetric: one triangle is copied from the other.
    """
    n = keys.shape[1]
    products = keys.new_empty((n, n))
    for start in range(0, n, _BLOCK):
        stop = min(start + _BLOCK, n)
        block = keys[:, start:stop].T @ keys[:, start:]
        products[start:stop, start:] = block * scales[start:]
        products[stop:, start:stop] = block[:, stop - start :].T * scales[start:stop]
    return products


def _resize(maps: Tensor, scale: float) -> Tensor:
    """Maps (N, H, W) at a scale as rows (N, q); none if a side gets shorter than one cell."""
    n, height, width = maps.shape
    if min(height * scale, width * scale) < 1:
        return maps.new_zeros((n, 0))
    if scale == 1:
        return maps.flatten(1)
    # The scale, not the floored size, sets where to sample (released): the two differ on sides
    # that the scale does not divide.
    resized = functional.interpolate(
        maps[None], scale_factor=scale, mode="bilinear", align_corners=False
    )
    return resized[0].flatten(1)


class _CoarseMasks(NamedTuple):
    """What each query cuts out of the feature map.

    Attributes:
        masks: (Q, H*W) bool.
        scores: (Q,) float32 maskness; 0 where there is no mask.
        least: (Q, 1) float32 least product of the query.
        contrast: (Q, 1) float32 greatest product minus the least.
    """

    masks: Tensor
    scores: Tensor
    least: Tensor
    contrast: Tensor

    def soft(self, products: Tensor, queries: Tensor) -> Tensor:
        """Products of some queries (N,) stretched to [0, 1]: (N, H*W)."""
        return (products[queries] - self.least[queries]) / self.contrast[queries]


def _coarse_masks(products: Tensor, norms: Tensor, config: FreeMaskConfig) -> _CoarseMasks:
    """Cuts every query's products between the least and the greatest of them, and scores that."""
    blocks = zip(torch.split(products, _ROWS), torch.split(norms, _ROWS), strict=True)
    fields = zip(*(_coarse_block(*block, config) for block in blocks), strict=True)
    return _CoarseMasks(*map(torch.cat, fields))


def _coarse_block(products: Tensor, norms: Tensor, config: FreeMaskConfig) -> _CoarseMasks:
    """`_coarse_masks` of a few queries."""
    # Two passes: `aminmax` takes eight times as long as both on a processor.
    least, most = products.amin(dim=1, keepdim=True), products.amax(dim=1, keepdim=True)
    contrast = most - least
    masks = products >= least + config.mask_threshold * contrast
    inside = masks.float()
    areas = inside.sum(dim=1)
    means = torch.linalg.vecdot(products, inside) / areas.clamp(min=1)
    usable = (areas >= config.min_cells) & (contrast[:, 0] >= _MIN_CONTRAST * norms)
    scores = torch.where(usable, (means - least[:, 0]) / contrast[:, 0], 0)
    return _CoarseMasks(masks, scores, least, contrast)


def _upsample(soft_masks: Tensor, image_size: tuple[int, int], threshold: float) -> Tensor:
    """Masks (N, height, width) bool of soft masks (N, H, W), cut at the size of the image."""
    row_weights, column_weights = (
        linear_weights(cells, padded=pixels, cropped=pixels, target=pixels)
        for cells, pixels in zip(soft_masks.shape[1:], image_size, strict=True)
    )
    return resized_masks(soft_masks, row_weights, column_weights, threshold, inclusive=True)


def _embeddings(features: Tensor, norms: Tensor, config: FreeMaskConfig) -> Tensor:
    """Unit queries interpolated over channels (Q, E); zeros for a zero query."""
    channels, height, width = features.shape
    size = config.embedding_size
    if channels != size:
        # Resizing over channels first commutes with resizing over positions, and is cheaper.
        features = functional.interpolate(
            features.flatten(1)[None, None],
            (size, height * width),
            mode="bilinear",
            align_corners=False,
        ).reshape(size, height, width)
    queries = torch.cat([_resize(features, scale) for scale in config.query_scales], dim=1)
    return queries.T / norms[:, None]


def _has_zero_location(features: Tensor) -> bool:
    """Whether a position of (C, H, W) features is all zero.

    In the released code its cosines are NaN, and so is the least one of every query: no query
    gets a mask.
    """
    return not bool(features.any(dim=0).all())


def _looks_like_object(instances: Instances, config: FreeMaskConfig) -> Tensor:
    """Which masks (N,) bool are not empty and pass the filters of width, height and centre.

    Width and height count the columns and rows that hold foreground, and the centre is their mean
    row (released); of a mask in one part that is the extent and the centre of its box.
    """
    height, width = instances.image_size
    centers, sizes = extents(instances.masks)
    heights, widths = sizes.unbind(dim=1)
    return (
        (widths > 0)
        & (widths < config.max_box_width * width)
        & (heights < config.max_box_height * height)
        & (centers[:, 0] > config.min_center_height * height)
    )
