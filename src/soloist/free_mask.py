"""Free Mask: coarse object masks from the features of a self-supervised backbone (section 3.2)."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

from soloist.config import FreeMaskConfig
from soloist.ops.masks import extent_boxes, extents, masks_to_boxes
from soloist.ops.nms import matrix_nms
from soloist.ops.parts import largest_parts
from soloist.structures import Instances

_LEAST_CONTRAST = 1e-5
"""Similarities that differ by less are equal up to float32 rounding: such a map has no mask."""
_LEAST_SQUARE = 1e-6
"""A query's squared norm relative to its keys', under which float32 rounding decides it."""
_GRAM_BLOCK = 256
"""Columns of the Gram matrix computed at a time."""
_PIXELS_PER_CHUNK = 2**24
"""Float pixels resized at a time, so that memory does not grow with the number of masks."""


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
        similarity, norms = _similarity(features, config.query_scales)
        soft_masks, scores = _soft_masks(similarity, config)
        released = config.compat == "released"
        if released and _has_zero_location(features):
            scores = torch.zeros_like(scores)
        candidates = scores.ge(config.score_threshold).logical_and(scores.gt(0)).nonzero()[:, 0]
        # A mask below the threshold stays below it and decays none above it: leaving it out of
        # Matrix NMS is exact.
        candidates = candidates[torch.argsort(scores[candidates], descending=True, stable=True)]
        soft_masks = soft_masks[candidates].view(-1, *features.shape[1:])
        scores = matrix_nms(
            soft_masks >= config.mask_threshold, scores[candidates], sigma=config.nms_sigma
        )
        best = torch.argsort(scores, descending=True, stable=True)[: config.max_masks]
        best = best[scores[best] >= config.score_threshold]
        masks = _upsample(soft_masks[best], image_size, config.mask_threshold)
        if config.largest_part:
            masks = largest_parts(masks)
        instances = Instances(
            image_size=image_size,
            masks=masks,
            scores=scores[best],
            boxes=extent_boxes(masks) if released else masks_to_boxes(masks),
            embeddings=_embeddings(features, norms, config)[candidates[best]],
        )
        return instances.filter(_looks_like_object(instances, config))


def _similarity(features: Tensor, scales: tuple[float, ...]) -> tuple[Tensor, Tensor]:
    """Cosine (Q, H*W) of every query with every key, and the queries' norms (Q,), inf for zeros.

    Resizing is linear, so the products of the queries at all scales with the keys are the keys'
    Gram matrix, resized: half the multiplications of a product with every query.
    """
    height, width = features.shape[1:]
    gram = _gram(features.flatten(1))  # (H*W, H*W)
    squares = gram.diagonal()
    if not torch.isfinite(squares).all():
        raise ValueError("features must be finite, got NaN or infinity: check the backbone")
    products, norms = [gram.new_zeros((0, height * width))], [gram.new_zeros(0)]
    for scale in scales:
        queries_by_keys = _resize(gram.view(-1, height, width), scale).T  # (q, H*W)
        query_squares = _resize(queries_by_keys.reshape(-1, height, width), scale).diagonal()
        largest = _resize(squares.view(1, height, width), scale)[0]
        # Keys that cancel out leave only rounding: such a query is zero, like one of zero keys.
        nonzero = query_squares > _LEAST_SQUARE * largest
        products.append(queries_by_keys)
        norms.append(torch.where(nonzero, query_squares.clamp(min=0).sqrt(), torch.inf))
    query_norms = torch.cat(norms)
    key_norms = torch.where(squares > 0, squares.sqrt(), torch.inf)
    similarity = torch.cat(products)
    return similarity.div_(query_norms[:, None]).div_(key_norms), query_norms


def _gram(vectors: Tensor) -> Tensor:
    """Products (n, n) of all pairs of columns of (C, n); one triangle is copied from the other."""
    n = vectors.shape[1]
    gram = vectors.new_empty((n, n))
    for start in range(0, n, _GRAM_BLOCK):
        stop = min(start + _GRAM_BLOCK, n)
        gram[start:stop, start:] = vectors[:, start:stop].T @ vectors[:, start:]
        gram[stop:, start:stop] = gram[start:stop, stop:].T
    return gram


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


def _soft_masks(similarity: Tensor, config: FreeMaskConfig) -> tuple[Tensor, Tensor]:
    """Similarity (Q, H*W) stretched to [0, 1] row by row, and maskness (Q,), 0 where no mask is."""
    least, most = similarity.aminmax(dim=1, keepdim=True)
    contrast = most - least
    soft_masks = similarity.sub(least).div_(contrast.clamp(min=_LEAST_CONTRAST))
    masks = (soft_masks >= config.mask_threshold).float()
    areas = masks.sum(dim=1)
    scores = torch.linalg.vecdot(soft_masks, masks) / areas.clamp(min=1)
    usable = (areas >= config.min_cells) & (contrast[:, 0] >= _LEAST_CONTRAST)
    return soft_masks, torch.where(usable, scores, 0)


def _upsample(soft_masks: Tensor, image_size: tuple[int, int], threshold: float) -> Tensor:
    """Masks (N, height, width) bool of soft masks (N, H, W), cut at the size of the image."""
    height, width = image_size
    masks = soft_masks.new_zeros((len(soft_masks), height, width), dtype=torch.bool)
    chunk = max(1, _PIXELS_PER_CHUNK // (height * width))
    for start in range(0, len(soft_masks), chunk):
        resized = functional.interpolate(
            soft_masks[None, start : start + chunk],
            image_size,
            mode="bilinear",
            align_corners=False,
        )
        torch.ge(resized[0], threshold, out=masks[start : start + chunk])
    return masks


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
