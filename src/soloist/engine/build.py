"""Networks from their sections of the configuration, and the files a trained one lives in."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor

from soloist.checkpoints import load_tensors, save_tensors
from soloist.config import BackboneConfig, Config, InferenceConfig, ModelConfig
from soloist.errors import CheckpointError
from soloist.files import one_line, write_json
from soloist.models.backbones import Backbone, create_backbone
from soloist.models.solo import SOLO
from soloist.presets import override

MODEL_FILE = "model.safetensors"
CONFIG_FILE = "config.json"


def build_backbone(config: BackboneConfig) -> Backbone:
    """The backbone of a configuration, with its weights."""
    return create_backbone(
        config.name,
        weights=config.weights,
        output_stride=config.output_stride,
        stages=config.stages,
    )


def build_solo(backbone: BackboneConfig, model: ModelConfig) -> SOLO:
    """The SOLO network of a configuration; only its backbone may be pretrained."""
    network = build_backbone(backbone)
    solo = SOLO(
        network,
        backbone_channels=network.channels,
        fpn_channels=model.fpn_channels,
        head_channels=model.head_channels,
        mask_channels=model.mask_channels,
        kernel_channels=model.kernel_channels,
        tower_depth=model.tower_depth,
        embedding_size=model.embedding_size,
        num_classes=model.num_classes,
        level_strides=model.level_strides,
        grids=model.grids,
    )
    return solo.to(memory_format=torch.channels_last)


def save_solo(folder: Path, weights: Mapping[str, Tensor], config: Config) -> None:
    """Writes a trained network: float16 weights and what is needed to build and run it.

    Args:
        folder: Where to; made if needed.
        weights: State of the SOLO network.
        config: The run's configuration.
    """
    record = {
        "backbone": {**asdict(config.backbone), "weights": "none"},
        "model": asdict(config.model),
        "inference": asdict(config.inference),
    }
    save_tensors(
        folder / MODEL_FILE, half_precision(weights), metadata={"soloist": json.dumps(record)}
    )
    # Last: its presence says that the model is complete.
    write_json(folder / CONFIG_FILE, record, indent=2)


def normalize(network: SOLO, images: Tensor) -> Tensor:
    """(B, 3, H, W) uint8 RGB images as the network's backbone expects them."""
    return cast(Backbone, network.backbone).normalize(images)


def half_precision(weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Float weights as float16; integers (counters of batch norms) stay."""
    return {
        name: tensor.half() if tensor.is_floating_point() else tensor
        for name, tensor in weights.items()
    }


def model_folder(path: Path) -> Path:
    """The folder of a complete model, given it or the run folder around it.

    Raises:
        CheckpointError: If there is none.
    """
    folder = path / "model" if (path / "model").is_dir() else path
    if not (folder / CONFIG_FILE).is_file() or not (folder / MODEL_FILE).is_file():
        raise CheckpointError(
            f"no trained model in {path}; wanted the --out folder of a finished `soloist train`, "
            "`fit` or `demo`"
        )
    return folder


def load_solo(path: Path) -> tuple[SOLO, Config]:
    """Builds the network that `save_solo` wrote, in evaluation mode.

    Args:
        path: A run folder or the model folder inside it.

    Raises:
        CheckpointError: If there is no complete model, or it does not fit its own record.
    """
    folder = model_folder(path)
    try:
        record: Any = json.loads((folder / CONFIG_FILE).read_text(encoding="utf-8"))
        backbone = override(BackboneConfig(), record["backbone"], where=str(folder))
        model = override(ModelConfig(), record["model"], where=str(folder))
        inference = override(InferenceConfig(), record["inference"], where=str(folder))
    except (json.JSONDecodeError, KeyError, TypeError, AttributeError) as error:
        raise CheckpointError(
            f"{folder / CONFIG_FILE} is not the record of a segmenter ({one_line(error)}); "
            "copy the whole run again, or train again"
        ) from error
    network = build_solo(backbone, model)
    load_solo_weights(network, folder)
    return network.eval(), Config(backbone=backbone, model=model, inference=inference)


def load_solo_weights(network: SOLO, folder: Path) -> None:
    """Fills a network with the weights of a model folder.

    Raises:
        CheckpointError: If names or shapes differ.
    """
    tensors = load_tensors(folder / MODEL_FILE)
    own = network.state_dict()
    wrong = set(own) ^ set(tensors) or {
        name for name in own if own[name].shape != tensors[name].shape
    }
    if wrong:
        raise CheckpointError(
            f"{folder / MODEL_FILE} does not fit its network: {len(wrong)} tensors are missing, "
            f"left over or of another shape, first {min(wrong)!r}"
        )
    network.load_state_dict({name: tensors[name].to(own[name].dtype) for name in own})
