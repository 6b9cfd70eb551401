"""Options of what the method is: features, Free Mask, network, losses, views, inference, rounds."""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Literal

from soloist.config.checks import Compat, above_zero, at_least, at_most, check, share


@dataclass(frozen=True)
class BackboneConfig:
    """Which network gives the features."""

    name: str = "resnet50"
    """timm model name (section 4: ResNet-50 and ResNet-101)."""
    weights: str = "none"
    """`bundled`, `none` (random), `timm` (its own), `densecl-r50`, `densecl-r101`, a file or run
    folder, or `hf:owner/repo/file@revision#sha256` (section 4: DenseCL's)."""
    output_stride: Literal[8, 16, 32] = 32
    """Stride of the last stage (released); 8 and 16 dilate it (where timm supports that)."""
    feature_stride: int = 32
    """Stride of the level Free Mask reads (released: the last stage); a plain transformer's one
    map is read whatever its stride."""

    def __post_init__(self) -> None:
        at_least(1, self, "backbone", "feature_stride")

    stages: int = 4
    """Stages in use (released: all); 3 leaves out the last, a ResNet's heaviest. Of a plain
    transformer: levels of the pyramid SOLO reads."""


@dataclass(frozen=True)
class FreeMaskConfig:
    """Free Mask (paper section 3.2); the defaults are the paper preset."""

    query_scales: tuple[float, ...] = (1.0, 0.5, 0.25)
    """Sizes of the query maps relative to the feature map (section 3.2)."""
    mask_threshold: float = 0.5
    """A cell or pixel is foreground when its soft value is at least this (section 3.2)."""
    min_cells: int = 2
    """Masks of fewer feature cells are dropped (released: more than one)."""
    nms_sigma: float = 2.0
    """Width of Matrix NMS' Gaussian kernel (released)."""
    max_masks: int = 20
    """Best masks kept after Matrix NMS (released)."""
    score_threshold: float = 0.7
    """Least maskness after decay (released)."""
    max_box_width: float = 0.95
    """A box must be narrower than this share of the image's width (released)."""
    max_box_height: float = float("inf")
    """A box must be lower than this share of the image's height (ours; released: no limit)."""
    min_center_height: float = 0.2
    """A mask's centre must lie lower than this share of the image's height (released)."""
    largest_part: bool = False
    """Keep only the largest connected part of each mask (ours)."""
    outline_radius: float = 0.0
    """Outlines follow the image's colours by a guided filter of this radius, as a share of the
    short side; 0 leaves them as they are (ours)."""
    embedding_size: int = 128
    """Queries are interpolated over channels to this many values (released)."""
    compat: Compat = "none"
    """`released`: its boxes, and no mask on an image with a zero feature (docs/fidelity.md)."""

    def __post_init__(self) -> None:
        check(
            bool(self.query_scales) and all(0 < s <= 1 for s in self.query_scales),
            f"free_mask.query_scales must be shares in (0, 1], got {self.query_scales}",
        )
        check(
            0 < self.mask_threshold < 1,
            f"free_mask.mask_threshold must lie in (0, 1), got {self.mask_threshold}",
        )
        at_least(1, self, "free_mask", "min_cells", "max_masks", "embedding_size")
        above_zero(self, "free_mask", "nms_sigma")
        share(self, "free_mask", "outline_radius")


@dataclass(frozen=True)
class RegionConfig:
    """Masks from hierarchies of regions (ours; chosen on photographs)."""

    nms_threshold: float = 0.5
    """A region that overlaps (IoU) a better one by more is dropped, from 0.5 on (ours)."""
    score_threshold: float = 0.1
    """Least score (ours)."""
    max_masks: int = 400
    """Best masks kept (ours)."""
    embedding_size: int = 128
    """Features are interpolated over channels to this many values (ours)."""

    def __post_init__(self) -> None:
        at_least(1, self, "regions", "max_masks", "embedding_size")
        check(
            0.5 <= self.nms_threshold < 1,
            f"regions.nms_threshold must be in [0.5, 1), got {self.nms_threshold}",
        )


@dataclass(frozen=True)
class ExtractConfig:
    """How images are prepared for mask proposals, and who makes these."""

    proposals: Literal["free-mask", "regions"] = "free-mask"
    """`free-mask`: the paper's; `regions`: nodes of hierarchies of regions (ours)."""
    short_side: int = 800
    """Images are resized to this short side, in pixels (released)."""
    max_side: int = 1333
    """Upper bound of the long side after resizing, in pixels (released)."""
    margin: int = 0
    """Pixels of mirrored border added before the backbone and cut off its feature map (ours)."""

    def __post_init__(self) -> None:
        at_least(1, self, "extract", "short_side", "max_side")
        at_least(0, self, "extract", "margin")


@dataclass(frozen=True)
class ModelConfig:
    """The SOLO network (paper section 3.3; SOLOv2)."""

    fpn_channels: int = 256
    """Channels of P2..P6 (released)."""
    head_channels: int = 512
    """Channels of the category and kernel towers, a multiple of 32 (released)."""
    mask_channels: int = 128
    """Channels inside the mask feature branch, a multiple of 32 (released)."""
    kernel_channels: int = 256
    """Channels of the mask features and size of a dynamic kernel, D (released)."""
    tower_depth: int = 4
    """Convolutions in each tower (SOLOv2)."""
    embedding_size: int = 128
    """Size of the semantic embedding, E (released)."""
    num_classes: int = 1
    """Classes of the category branch (ours; released: 2, of which free masks use one)."""
    level_strides: tuple[int, ...] = (8, 8, 16, 32, 32)
    """Strides P2..P6 are resized to before the heads (released)."""
    grids: tuple[int, ...] = (40, 36, 24, 16, 12)
    """Grid side of each level (released)."""
    scale_ranges: tuple[tuple[float, float], ...] = (
        (1, 96),
        (48, 192),
        (96, 384),
        (192, 768),
        (384, 2048),
    )
    """Closed range of sqrt(box area) each level learns, in pixels of the input (released)."""

    def __post_init__(self) -> None:
        sides = {len(self.level_strides), len(self.grids), len(self.scale_ranges)}
        check(
            sides == {5},
            "model.level_strides, grids and scale_ranges need five entries each (P2..P6), got "
            f"{len(self.level_strides)}, {len(self.grids)} and {len(self.scale_ranges)}",
        )
        for name in ("level_strides", "grids"):
            values = getattr(self, name)
            check(min(values) >= 1, f"model.{name} must be at least 1 each, got {values}")
        for name in ("head_channels", "mask_channels"):
            value = getattr(self, name)
            # GroupNorm has 32 groups (SOLOv2).
            fits = value > 0 and value % 32 == 0
            check(fits, f"model.{name} must be a multiple of 32, got {value}")
        at_least(1, self, "model", "fpn_channels", "kernel_channels", "tower_depth")
        at_least(1, self, "model", "embedding_size", "num_classes")
        # A model's own record is read too: it must not ask for memory without end.
        at_most(1000, self, "model", "tower_depth", "grids")
        at_most(2**16, self, "model", "fpn_channels", "head_channels", "mask_channels")
        at_most(2**16, self, "model", "kernel_channels", "embedding_size", "num_classes")


@dataclass(frozen=True)
class LossConfig:
    """Weights of the loss terms (paper section 3.3)."""

    category: float = 1.0
    """Focal loss of the objectness (section 3.3)."""
    semantic: float = 4.0
    """Weight beta of the semantic term; 0 switches it off (the released code does)."""
    max_projection: float = 1.0
    """Dice of the maximum projections (section 3.3)."""
    avg_projection: float = 0.1
    """Weight alpha of the dice of the average projections (section 3.3)."""
    pairwise_affinity: float = 1.0
    """Colour affinity of neighbouring pixels (section 3.3)."""
    pairwise_warmup_steps: int = 1000
    """The affinity term grows linearly over these steps (released)."""
    color_threshold: float = 0.3
    """Pairs count when their colour similarity is at least this (released)."""
    full_mask_dice: float = 0.0
    """Ablation: imitates the coarse mask pixel by pixel (the paper's table 7d)."""
    compat: Compat = "none"
    """`released`: which colours the affinity reads, and how (docs/fidelity.md)."""

    def __post_init__(self) -> None:
        at_least(0, self, "loss", *(item.name for item in fields(self) if item.name != "compat"))


@dataclass(frozen=True)
class AugmentConfig:
    """Weak and strong views (paper section 3.3)."""

    short_side: tuple[int, int] = (640, 800)
    """Range the short side is drawn from, in pixels (released)."""
    max_side: int = 1333
    """Upper bound of the long side, in pixels (released)."""
    crop_size: int = 0
    """Side of a random square crop after resizing, in pixels; 0 keeps the whole image (ours)."""
    flip: float = 0.5
    """Probability of a horizontal flip (ours)."""
    weak: bool = True
    """Train on the weak view too (released)."""
    strong: bool = True
    """Train on a strong view beside the weak one (released)."""
    copy_paste: int = 3
    """At most this many objects of other weak views are pasted into a strong one (ours)."""
    paste_scale: tuple[float, float] = (1.0, 1.0)
    """Range of the factor a pasted object is resized by (ours; Simple Copy-Paste)."""
    color_jitter: float = 0.8
    """Probability of jitter of brightness, contrast, saturation and hue (strong view; MoCo v2)."""
    gray: float = 0.2
    """Probability of a grey image (strong view; MoCo v2)."""
    blur: float = 0.5
    """Probability of a Gaussian blur (strong view; MoCo v2)."""
    erase: float = 0.3
    """Probability of an erased rectangle (strong view; ours)."""

    def __post_init__(self) -> None:
        low, high = self.short_side
        check(
            1 <= low <= high,
            f"augment.short_side must be a range of sides from 1 on, got {self.short_side}",
        )
        at_least(1, self, "augment", "max_side")
        at_least(0, self, "augment", "crop_size", "copy_paste")
        check(self.weak or self.strong, "augment.weak and augment.strong must not both be off")
        least, most = self.paste_scale
        check(
            0 < least <= most,
            f"augment.paste_scale must be a range of factors above 0, got {self.paste_scale}",
        )
        share(self, "augment", "flip", "color_jitter", "gray", "blur", "erase")


@dataclass(frozen=True)
class InferenceConfig:
    """From raw outputs to masks (released configuration)."""

    short_side: int = 800
    """Images are resized to this short side, in pixels (released)."""
    max_side: int = 1333
    """Upper bound of the long side after resizing, in pixels (released)."""
    category_threshold: float = 0.1
    """Least objectness of a candidate (released)."""
    mask_threshold: float = 0.5
    """A pixel is foreground when its soft value is above this (released)."""
    max_before_nms: int = 500
    """Candidates that enter the suppression of duplicates (released)."""
    nms: Literal["matrix", "mask"] = "matrix"
    """Matrix NMS (released) lowers the scores of duplicates; mask NMS drops them."""
    nms_kernel: Literal["gaussian", "linear"] = "gaussian"
    """Kernel of Matrix NMS (released)."""
    nms_sigma: float = 2.0
    """Width of the Gaussian kernel (released)."""
    nms_threshold: float = 0.5
    """Mask NMS drops masks whose overlap (IoU) with a better one exceeds this (released)."""
    score_threshold: float = 0.05
    """Least score after the suppression of duplicates (released)."""
    max_per_image: int = 100
    """Most masks per image (released)."""
    recommended_score: float = 0.3
    """Score from which masks are shown to people and written for other tools by default; files of
    masks have the others too (ours)."""
    largest_part: bool = False
    """Keep only the largest connected part of each mask (ours)."""
    masks: Literal["network", "regions", "reranked"] = "network"
    """`regions`: nodes of the image's hierarchies in their own order; `reranked`: what the network
    says of them counts, where few of them are alike (ours)."""
    outline_radius: float = 0.0
    """The network's masks follow the image's colours by a guided filter of this radius, as a
    share of the short side; 0 leaves them as they are (ours)."""
    compat: Compat = "none"
    """`released`: its boxes, and its embeddings, which are scrambled (docs/fidelity.md)."""

    def __post_init__(self) -> None:
        at_least(1, self, "inference", "short_side", "max_side")
        at_least(1, self, "inference", "max_before_nms", "max_per_image")
        at_most(20_000, self, "inference", "short_side", "max_side")
        above_zero(self, "inference", "nms_sigma")
        share(self, "inference", "nms_threshold", "outline_radius", "recommended_score")


@dataclass(frozen=True)
class SelfTrainingConfig:
    """Pseudo-labels and rounds (paper section 3.3; released configuration)."""

    rounds: int = 1
    """Rounds of self-training after the first segmenter (table 7c)."""
    score_threshold: float = 0.3
    """Least score of a pseudo-label (released)."""
    masks_per_image: float = 0.0
    """Estimate that least score anew in each round, so that an image has N pseudo-labels in
    the mean; 0 keeps `score_threshold` (ours)."""
    max_per_image: int = 20
    """Most pseudo-labels per image (released)."""
    max_box_width: float = 0.95
    """A box must be narrower than this share of the image's width (released)."""
    start_from: Literal["backbone", "previous"] = "backbone"
    """What a round starts from: the pretrained backbone (section 3.3), or the last segmenter."""

    def __post_init__(self) -> None:
        at_least(0, self, "self_training", "rounds", "masks_per_image")
        at_least(1, self, "self_training", "max_per_image")
