"""Backbones: any timm network that gives feature maps, with timm's weights or others."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import Any, Literal

import torch
from torch import Tensor, nn

from soloist.checkpoints.names import to_detectron2
from soloist.checkpoints.official import is_counter
from soloist.errors import ConfigError
from soloist.models.backbone_weights import check_architecture, load_weights, weights_file
from soloist.models.patch_features import PARTS, PatchFeatures
from soloist.models.timm_networks import (
    check_name,
    check_sizes,
    is_plain,
    takes_any_size,
    timm_network,
    timm_notice,
    timm_tensor_names,
)

logger = logging.getLogger(__name__)

NameFormat = Literal["torchvision", "timm", "detectron2"]

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)

FINEST_STRIDE = 4


class Backbone(nn.Module):
    """A network that gives one feature map per stage, with its pixel statistics.

    Attributes:
        channels: Channels of each map, finest first.
        strides: Stride of each map in pixels, finest first; maps finer than 4 are left out.
        modules_of_levels: Name of the child of the network each map comes out of.
        mean: (1, 3, 1, 1) mean of the pixels the weights were learned on, in [0, 1].
        std: (1, 3, 1, 1) standard deviation of these pixels.
    """

    mean: Tensor
    std: Tensor

    def __init__(
        self,
        network: nn.Module,
        *,
        channels: Sequence[int],
        strides: Sequence[int],
        modules_of_levels: Sequence[str],
        mean: Sequence[float] = IMAGENET_MEAN,
        std: Sequence[float] = IMAGENET_STD,
    ) -> None:
        super().__init__()
        self.network = network
        # Finer maps, such as a ResNet's stem, are left out: the pyramid starts at stride 4.
        self._first = sum(stride < FINEST_STRIDE for stride in strides)
        self.channels = tuple(channels)[self._first :]
        self.strides = tuple(strides)[self._first :]
        self.modules_of_levels = tuple(modules_of_levels)[self._first :]
        # On the processor also where a network is built without values.
        for name, values in (("mean", mean), ("std", std)):
            statistic = torch.tensor(values, device="cpu").view(1, 3, 1, 1)
            self.register_buffer(name, statistic, persistent=False)

    def normalize(self, images: Tensor) -> Tensor:
        """Scales pixels as the weights expect them.

        Args:
            images: (B, 3, H, W) uint8 RGB.

        Returns:
            (B, 3, H, W) float32, channels last in memory.
        """
        scaled = (images.float() / 255 - self.mean) / self.std
        return scaled.contiguous(memory_format=torch.channels_last)

    def forward(self, images: Tensor) -> list[Tensor]:
        """Feature maps of normalised images.

        Args:
            images: (B, 3, H, W) float, see `normalize`.

        Returns:
            One (B, C_i, H / stride_i, W / stride_i) float per stage, finest first.
        """
        features: list[Tensor] = self.network(images)
        return features[self._first :]

    def freeze(self, stages: int) -> None:
        """Stops training of the stem and the first stages: no gradients, fixed statistics.

        Args:
            stages: Feature maps whose layers are frozen, or quarters of a plain transformer's
                blocks; 0 freezes nothing.

        Raises:
            ConfigError: If the network is not a sequence of stages.
        """
        if stages == 0:
            return
        if isinstance(self.network, PatchFeatures):
            self.network.freeze(stages)
            return
        children = dict(self.network.named_children())
        last = self.modules_of_levels[min(stages, len(self.modules_of_levels)) - 1]
        if last not in children:
            raise ConfigError(
                "this backbone has no separate stages to freeze; set train.frozen_stages to 0"
            )
        for name, module in children.items():
            module.eval().requires_grad_(False)
            if name == last:
                return

    def named(self, format: NameFormat) -> dict[str, Tensor]:
        """Copies of the weights under the names another library gives them.

        Args:
            format: `torchvision` or `detectron2` (a ResNet's own names, such as
                `res2.0.conv1.weight`, without the batch counters that frozen norms lack), both for
                ResNets; or `timm`.

        Raises:
            ConfigError: If the library has no names for this network.
        """
        own: dict[str, Tensor] = self.network.state_dict()
        names = {name: to_detectron2(name) for name in own}
        strange = next((name for name, other in names.items() if other is None), None)
        if strange is not None and format != "timm":
            raise ConfigError(
                f"{format} must have a name for each tensor, but has none for {strange!r}, which "
                "no plain ResNet has; use the format timm"
            )
        if strange is not None:
            names = timm_tensor_names(self.network, own)
        elif format == "detectron2":
            own = {name: tensor for name, tensor in own.items() if not is_counter(name)}
        else:
            names = {name: name for name in own}
        return {
            str(names[name]): tensor.detach().cpu().clone(memory_format=torch.contiguous_format)
            for name, tensor in own.items()
        }

    @property
    def is_plain(self) -> bool:
        """Whether the network is a plain vision transformer: one map, of its patches' stride."""
        return isinstance(self.network, PatchFeatures)

    def level(self, stride: int) -> int:
        """Index of the last (most semantic) feature map of this stride.

        The one map of a plain transformer serves for any stride: presets ask for a ResNet's.

        Raises:
            ConfigError: If no map has it.
        """
        if self.is_plain:
            if stride != self.strides[0]:
                logger.info(
                    "the backbone's one feature map has stride %d, not %d; it is used as it is",
                    self.strides[0],
                    stride,
                )
            return 0
        if stride not in self.strides:
            raise ConfigError(
                f"no feature map of stride {stride}, only {sorted(set(self.strides))}; "
                "change backbone.feature_stride or backbone.output_stride"
            )
        return len(self.strides) - 1 - self.strides[::-1].index(stride)


def create_backbone(
    name: str, *, weights: str = "none", output_stride: int = 32, stages: int = 4
) -> Backbone:
    """Builds a backbone and loads its weights.

    Args:
        name: timm model name, with or without the tag of its weights.
        weights: `bundled`, `none` (random), `timm` (the model's own pretrained weights), a short
            name of `checkpoints/published.py`, `hf:owner/repo/file@revision#sha256`, or the path of
            a weights file or of a run folder of `soloist pretrain`, `train` or `fit`.
        output_stride: Stride of the last stage: 8, 16 or 32.
        stages: Feature maps in use, finest first; what comes after them is not built. A plain
            vision transformer is built whole and gives one map.

    Raises:
        ConfigError: If timm does not know the name, or cannot give the stride or the stages.
        CheckpointError: If the weights are missing or do not fit.
    """
    check_name(name, weights)
    check_architecture(name, weights)
    check_sizes(name)
    if weights == "timm":
        logger.info(timm_notice(name))
    options: dict[str, Any] = {"pretrained": weights == "timm"}
    if is_plain(name):
        backbone = _plain_backbone(name, output_stride=output_stride, stages=stages, **options)
    else:
        backbone = _staged_backbone(name, output_stride=output_stride, stages=stages, **options)
    if weights not in ("none", "timm"):
        used = load_weights(backbone.network, weights_file(weights))
        if weights != "bundled":
            logger.info(used.summary())
    return backbone.to(memory_format=torch.channels_last)


def _staged_backbone(name: str, *, output_stride: int, stages: int, **options: Any) -> Backbone:
    if output_stride != 32:
        # timm takes an output stride only where its network can dilate.
        options["output_stride"] = output_stride
    network = timm_network(name, **options)
    finer = sum(stride < FINEST_STRIDE for stride in network.feature_info.reduction())
    available = len(network.feature_info.reduction()) - finer
    _check_stages(name, stages, available)
    if stages < available:
        network = timm_network(name, out_indices=tuple(range(finer + stages)), **options)
    pretrained = network.pretrained_cfg or {}
    return Backbone(
        network,
        channels=network.feature_info.channels(),
        strides=network.feature_info.reduction(),
        # timm joins the parts of a nested name by an underscore.
        modules_of_levels=[name.replace(".", "_") for name in network.feature_info.module_name()],
        mean=pretrained.get("mean", IMAGENET_MEAN),
        std=pretrained.get("std", IMAGENET_STD),
    )


def _plain_backbone(name: str, *, output_stride: int, stages: int, **options: Any) -> Backbone:
    _check_stages(name, stages, PARTS)
    if output_stride != 32:
        raise ConfigError(
            f"backbone {name!r} has one stride, that of its patches, got "
            f"backbone.output_stride {output_stride}; leave it at 32"
        )
    if takes_any_size(name):
        options["dynamic_img_size"] = True
    model = timm_network(name, features_only=False, num_classes=0, **options)
    info = model.feature_info[-1]
    model.prune_intermediate_layers(1, prune_norm=False, prune_head=True)
    pretrained = model.pretrained_cfg or {}
    return Backbone(
        PatchFeatures(model, patch=info["reduction"], pretrained_cfg=pretrained),
        channels=[info.get("num_chs_norm", info["num_chs"])],
        strides=[info["reduction"]],
        modules_of_levels=["model"],
        mean=pretrained.get("mean", IMAGENET_MEAN),
        std=pretrained.get("std", IMAGENET_STD),
    )


def _check_stages(name: str, stages: int, available: int) -> None:
    if not 1 <= stages <= available:
        raise ConfigError(f"backbone.stages must lie in 1..{available} for {name!r}, got {stages}")
