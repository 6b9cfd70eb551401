"""Backbones: any timm network that gives feature maps, or a file of weights for one."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Sequence
from importlib.resources import files
from pathlib import Path
from typing import Any, Literal

import timm
import torch
from torch import Tensor, nn

from soloist.checkpoints import OfficialWeights, load_official
from soloist.checkpoints.names import BACKBONE, flat_name, to_detectron2
from soloist.checkpoints.official import is_counter
from soloist.errors import CheckpointError, ConfigError, near_names

logger = logging.getLogger(__name__)

NameFormat = Literal["torchvision", "timm", "detectron2"]

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)

FINEST_STRIDE = 4

# What the bundled file holds; its recipe stands beside it.
BUNDLED_NAME = "resnet18"
BUNDLED_FILE = "weights/resnet18-densecl.safetensors"


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
        self.register_buffer("mean", torch.tensor(mean).view(1, 3, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(std).view(1, 3, 1, 1), persistent=False)

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
            stages: Feature maps whose layers are frozen; 0 freezes nothing.

        Raises:
            ConfigError: If the network is not a sequence of stages.
        """
        if stages == 0:
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
            names = _timm_tensor_names(self.network, own)
        elif format == "detectron2":
            own = {name: tensor for name, tensor in own.items() if not is_counter(name)}
        else:
            names = {name: name for name in own}
        return {
            str(names[name]): tensor.detach().cpu().clone(memory_format=torch.contiguous_format)
            for name, tensor in own.items()
        }

    def level(self, stride: int) -> int:
        """Index of the last (most semantic) feature map of this stride.

        Raises:
            ConfigError: If no map has it.
        """
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
        name: timm model name.
        weights: `bundled`, `none` (random), `timm` (the model's own pretrained weights), or the
            path of a weights file or of a run folder of `soloist pretrain`, `train` or `fit`.
        output_stride: Stride of the last stage: 8, 16 or 32.
        stages: Feature maps in use, finest first; what comes after them is not built.

    Raises:
        ConfigError: If timm does not know the name, or cannot give the stride or the stages.
        CheckpointError: If the weights are missing or do not fit.
    """
    if not timm.is_model(name):
        raise ConfigError(f"no backbone named {name!r} in timm; {near_names(name, _timm_names())}")
    if weights == "bundled" and name != BUNDLED_NAME:
        raise ConfigError(
            f"the bundled weights are for backbone {BUNDLED_NAME!r}, got {name!r}; "
            "use --backbone.weights none, timm or a file"
        )
    options: dict[str, Any] = {"pretrained": weights == "timm"}
    if output_stride != 32:
        # timm takes an output stride only where its network can dilate.
        options["output_stride"] = output_stride
    network = _timm_network(name, **options)
    finer = sum(stride < FINEST_STRIDE for stride in network.feature_info.reduction())
    available = len(network.feature_info.reduction()) - finer
    if not 1 <= stages <= available:
        raise ConfigError(f"backbone.stages must lie in 1..{available} for {name!r}, got {stages}")
    if stages < available:
        network = _timm_network(name, out_indices=tuple(range(finer + stages)), **options)
    pretrained = network.pretrained_cfg or {}
    backbone = Backbone(
        network,
        channels=network.feature_info.channels(),
        strides=network.feature_info.reduction(),
        # timm joins the parts of a nested name by an underscore.
        modules_of_levels=[name.replace(".", "_") for name in network.feature_info.module_name()],
        mean=pretrained.get("mean", IMAGENET_MEAN),
        std=pretrained.get("std", IMAGENET_STD),
    )
    if weights not in ("none", "timm"):
        used = load_backbone_weights(backbone, _weights_file(weights))
        if weights != "bundled":
            logger.info(used.summary())
    return backbone.to(memory_format=torch.channels_last)


def _timm_tensor_names(network: Any, own: Iterable[str]) -> dict[str, str | None]:
    """The names that tensors of a feature extractor have in the whole timm model."""
    whole = timm.create_model(network.pretrained_cfg["architecture"]).state_dict()
    names = {flat_name(BACKBONE + name): name for name in whole}
    return {name: names[flat_name(BACKBONE + name)] for name in own}


def _timm_network(name: str, **options: Any) -> Any:
    """Builds a feature extractor; untyped, since timm's own types do not name its attributes."""
    try:
        return timm.create_model(name, features_only=True, **options)
    except (TypeError, NotImplementedError, AssertionError) as error:
        raise ConfigError(
            f"backbone {name!r} gives no features with {options} ({error}); try "
            "--backbone.output-stride 32 or another backbone"
        ) from error
    except (OSError, RuntimeError) as error:
        reason = str(error).splitlines()[0]
        raise CheckpointError(
            f"the pretrained weights of {name!r} could not be fetched ({reason}); "
            "give --backbone.weights bundled, none or a file"
        ) from error


def load_backbone_weights(backbone: Backbone, path: Path) -> OfficialWeights:
    """Loads a file of weights, of any kind that `load_official` knows.

    Returns:
        What was used of the file, and what was left over.

    Raises:
        CheckpointError: If a tensor of the network is missing in the file or differs in shape.
    """
    own = {f"{BACKBONE}{name}": value for name, value in backbone.network.state_dict().items()}
    weights = load_official(path).fitted(own)
    if weights.missing:
        raise CheckpointError(
            f"{path.name} lacks {len(weights.missing)} of the backbone's {len(own)} tensors, first "
            f"{weights.missing[0].removeprefix(BACKBONE)!r}; is it a file for another network?"
        )
    backbone.network.load_state_dict(
        {name.removeprefix(BACKBONE): tensor for name, tensor in weights.tensors.items()}
    )
    return weights


def _weights_file(weights: str) -> Path:
    if weights == "bundled":
        return Path(str(files("soloist") / BUNDLED_FILE))
    path = Path(weights)
    for folder in (path / "model", path):
        for name in ("backbone.safetensors", "model.safetensors"):
            if (folder / name).is_file():
                return folder / name
    return path


def _timm_names() -> list[str]:
    names: list[str] = timm.list_models()
    return names
