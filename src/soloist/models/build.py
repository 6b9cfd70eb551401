"""Networks from their sections of the configuration, and the files a trained one lives in."""

from __future__ import annotations

import hashlib
import json
import logging
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor, nn

from soloist.checkpoints.files import save_tensors
from soloist.checkpoints.official import OfficialWeights, is_counter, load_official
from soloist.config import (
    DEFAULT_READING,
    BackboneConfig,
    Config,
    InferenceConfig,
    ModelConfig,
    ReadingConfig,
    RegionConfig,
)
from soloist.config.presets import PRESETS, load_config, override
from soloist.data.coco.types import CATEGORIES
from soloist.errors import CheckpointError
from soloist.models.backbones import Backbone, create_backbone
from soloist.models.simple_pyramid import SimplePyramid
from soloist.models.solo import SOLO
from soloist.runtime.files import atomic_path, one_line, write_json

logger = logging.getLogger(__name__)

MODEL_FILE = "model.safetensors"
CONFIG_FILE = "config.json"
LAST_CATEGORY_LAYER = "category_branch.category"
FLOAT16_MAX = torch.finfo(torch.float16).max


def build_backbone(config: BackboneConfig) -> Backbone:
    """The backbone of a configuration, with its weights."""
    return create_backbone(
        config.name,
        weights=config.weights,
        output_stride=config.output_stride,
        stages=config.stages,
    )


def build_neck(network: Backbone, stages: int) -> SimplePyramid | None:
    """What makes several maps of a plain transformer's one; None for other networks."""
    if not network.is_plain:
        return None
    return SimplePyramid(network.channels[0], stride=network.strides[0], levels=stages)


def build_solo(backbone: BackboneConfig, model: ModelConfig) -> SOLO:
    """The SOLO network of a configuration; only its backbone may be pretrained."""
    network = build_backbone(backbone)
    solo = SOLO(
        network,
        backbone_channels=network.channels,
        neck=build_neck(network, backbone.stages),
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


def save_solo(
    folder: Path,
    weights: Mapping[str, Tensor],
    config: Config,
    categories: Mapping[int, str] | None = None,
    judge: Mapping[str, Any] | None = None,
) -> None:
    """Writes a trained network: float16 weights and what is needed to build and run it.

    Args:
        folder: Where to; made if needed.
        weights: State of the SOLO network.
        config: The run's configuration.
        categories: Names of its classes by category id, in their order; None for a network that
            knows objects only.
        judge: Record of a judge of candidates; None for a model without.
    """
    record = solo_record(config, categories, judge)
    save_tensors(
        folder / MODEL_FILE, half_precision(weights), metadata={"soloist": json.dumps(record)}
    )
    # Last: its presence says that the model is complete.
    write_json(folder / CONFIG_FILE, record, indent=2)


def solo_record(
    config: Config,
    categories: Mapping[int, str] | None,
    judge: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """What is needed to build and run a trained network, for JSON; arguments as `save_solo`'s."""
    record: dict[str, Any] = {
        "backbone": {**asdict(config.backbone), "weights": "none"},
        "model": asdict(config.model),
        "inference": asdict(config.inference),
    }
    if config.reading != ReadingConfig():
        record["reading"] = asdict(config.reading)
    if config.regions != RegionConfig():
        record["regions"] = asdict(config.regions)
    if categories is not None and categories != CATEGORIES:
        record["categories"] = [{"id": key, "name": name} for key, name in categories.items()]
    if judge is not None:
        record["judge"] = judge
    return record


def load_judge(path: Path) -> Mapping[str, Any] | None:
    """The record of a model's judge; None where it has none. `path` is as for `load_solo`."""
    if path.is_file():
        return None
    with _record_of(model_folder(path)) as record:
        judge: Mapping[str, Any] | None = record.get("judge")
    return judge


def copy_solo(source: Path, target: Path) -> None:
    """Copies a model folder, its record last."""
    for name in (MODEL_FILE, CONFIG_FILE):
        with atomic_path(target / name) as temporary:
            temporary.write_bytes((source / name).read_bytes())


def fingerprint(network: nn.Module, judge: Mapping[str, Any] | None = None) -> str:
    """What tells a model from others: 16 hexadecimal digits.

    Args:
        network: Its network.
        judge: Record of its judge of candidates, if it has one.
    """
    digest = hashlib.sha256()
    for name, tensor in sorted(network.state_dict().items()):
        digest.update(name.encode())
        digest.update(tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().data)
    if judge is not None:
        digest.update(json.dumps(judge, sort_keys=True).encode())
    return digest.hexdigest()[:16]


def normalize(network: SOLO, images: Tensor) -> Tensor:
    """(B, 3, H, W) uint8 RGB images as the network's backbone expects them."""
    return cast(Backbone, network.backbone).normalize(images)


def half_precision(weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Float weights as float16; integers (counters of batch norms) stay."""
    return {
        # Beyond its range float16 has infinity only, by which nothing is computed.
        name: tensor.clamp(-FLOAT16_MAX, FLOAT16_MAX).half()
        if tensor.is_floating_point()
        else tensor
        for name, tensor in weights.items()
    }


def model_folder(path: Path) -> Path:
    """The folder of a complete model, given it or the run folder around it.

    Raises:
        CheckpointError: If there is none.
    """
    folder = path / "model" if (path / "model").is_dir() else path
    if not (folder / CONFIG_FILE).is_file() or not (folder / MODEL_FILE).is_file():
        where = path if path.exists() else f"{path}, which does not exist"
        raise CheckpointError(
            f"no trained model in {where}; wanted the --out folder of a finished `soloist fit`, "
            "`finetune`, `train` or `demo`"
        )
    return folder


def load_solo(path: Path, preset: str | None = None) -> tuple[SOLO, Config]:
    """Builds a trained network with its weights, in evaluation mode.

    Args:
        path: A run folder, the model folder inside it, or a file of `load_official`'s kinds.
        preset: What tells the architecture of a file; a folder has its own record.

    Raises:
        CheckpointError: If there is no complete model, it does not fit its record or preset, or
            a folder is given a preset.
    """
    if path.is_file():
        return load_official_solo(path, preset)
    folder = model_folder(path)
    if preset is not None:
        raise CheckpointError(
            f"a preset tells the architecture of a file, {path} has its own record; leave out "
            f"the preset {preset!r}"
        )
    with _record_of(folder) as record:
        backbone = override(BackboneConfig(), record["backbone"], where=str(folder))
        model = override(ModelConfig(), record["model"], where=str(folder))
        inference = override(InferenceConfig(), record["inference"], where=str(folder))
        reading = override(DEFAULT_READING, record.get("reading", {}), where=str(folder))
        regions = override(RegionConfig(), record.get("regions", {}), where=str(folder))
        _categories(folder, record)
    # Its weights are in the folder: nothing else is read or fetched on its record's behalf.
    config = Config(
        reading=reading,
        backbone=replace(backbone, weights="none"),
        model=model,
        inference=inference,
        regions=regions,
    )
    weights = load_official(folder / MODEL_FILE)
    network = _without_values(config)
    # Before a network of whatever size the record says is made.
    _check_fit(weights, network.state_dict())
    return _filled(network, config, weights.tensors).eval(), config


def load_categories(path: Path) -> Mapping[int, str]:
    """Names of a trained network's classes by category id, in the order of its labels.

    Args:
        path: As for `load_solo`.

    Returns:
        The one category `object` where the network has no classes of its own.

    Raises:
        CheckpointError: If there is no complete model, or its record is damaged or names another
            number of classes than the network has.
    """
    if path.is_file():
        return CATEGORIES
    folder = model_folder(path)
    with _record_of(folder) as record:
        return _categories(folder, record)


def _categories(folder: Path, record: Mapping[str, Any]) -> Mapping[int, str]:
    """The classes that a record names; the one category where it names none."""
    if "categories" not in record:
        return CATEGORIES
    named = {entry["id"]: entry["name"] for entry in record["categories"]}
    if (judge := record.get("judge")) is not None:
        # Its last layer has an output for each class, and one for outlines.
        classes = judge["pixels"]["biases"][-1]["shape"][0] - 1
    else:
        classes = override(ModelConfig(), record["model"], where=str(folder)).num_classes
    if len(named) != classes:
        raise CheckpointError(
            f"{folder / CONFIG_FILE} must name each of the model's {classes} classes once in "
            f"`categories`, got {len(named)}; copy the whole run again, or train again"
        )
    return named


@contextmanager
def _record_of(folder: Path) -> Iterator[Any]:
    """The record of a model folder; what is wrong with it, also while it is read, is an error."""
    try:
        yield json.loads((folder / CONFIG_FILE).read_text(encoding="utf-8"))
    except (
        json.JSONDecodeError,
        UnicodeDecodeError,
        RecursionError,
        KeyError,
        TypeError,
        AttributeError,
    ) as error:
        raise CheckpointError(
            f"{folder / CONFIG_FILE} is not the record of a segmenter ({one_line(error)}); "
            "copy the whole run again, or train again"
        ) from error


def load_official_solo(path: Path, preset: str | None) -> tuple[SOLO, Config]:
    """Builds a preset's network with the weights of a public segmenter, such as FreeSOLO's.

    Only the number of classes is taken from the file: the released network has two.

    Raises:
        CheckpointError: If the file holds no segmenter, or not one of the preset's architecture.
    """
    weights = _load_whole(path)
    if preset is None:
        raise CheckpointError(
            f"{path} does not tell its architecture: add a preset; {_fitting_presets(weights)}"
        )
    config = _for_weights(load_config(preset), weights)
    network = _without_values(config)
    wrong = _misfits(weights, network.state_dict())
    if wrong:
        raise CheckpointError(
            f"{path} must fit the preset {preset!r}, but {len(wrong)} tensors are missing, left "
            f"over or of another shape, first {wrong[0]!r}; {_fitting_presets(weights)}"
        )
    used = weights.fitted(network.state_dict())
    logger.info(used.summary())
    return _filled(network, config, used.tensors).eval(), config


def load_solo_weights(network: SOLO, folder: Path) -> None:
    """Fills a network with the weights of a model folder.

    Raises:
        CheckpointError: If names or shapes differ.
    """
    weights = load_official(folder / MODEL_FILE)
    _check_fit(weights, network.state_dict())
    network.load_state_dict(weights.tensors)


def _check_fit(weights: OfficialWeights, own: Mapping[str, Tensor]) -> None:
    wrong = _misfits(weights, own)
    if wrong:
        raise CheckpointError(
            f"{weights.path} does not fit its network: {len(wrong)} tensors are missing, left over "
            f"or of another shape, first {wrong[0]!r}"
        )


def carry_over(network: SOLO, path: Path, categories: Mapping[int, str]) -> str:
    """Fills a network of true classes with the weights of a segmenter.

    The last layer of the category branch stays as it was made (small weights and RetinaNet's
    prior as bias), unless the segmenter has the same classes.

    Args:
        network: A new network.
        path: As for `load_solo`.
        categories: Names of the network's classes by category id.

    Returns:
        One line on what was carried over and what is new, for people.

    Raises:
        CheckpointError: If there is no complete model, or one of another architecture.
    """
    weights = _load_whole(path if path.is_file() else model_folder(path) / MODEL_FILE)
    same = list(load_categories(path).items()) == list(
        categories.items()
    ) and weights.num_classes == len(categories)
    own = network.state_dict()
    new = {name for name in own if name.startswith(LAST_CATEGORY_LAYER) and not same}
    found = {name: tensor for name, tensor in weights.tensors.items() if name not in new}
    wanted = {name: tensor for name, tensor in own.items() if name not in new}
    wrong = _misfits(replace(weights, tensors=found), wanted)
    if wrong:
        raise CheckpointError(
            f"{path} is of another architecture than the network to be trained: {len(wrong)} "
            f"tensors are missing, left over or of another shape, first {wrong[0]!r}; "
            f"{_fitting_presets(weights)}"
        )
    network.load_state_dict({**own, **found})
    parts = Counter(name.partition(".")[0] for name in found)
    carried = ", ".join(f"{part} {count}" for part, count in parts.items())
    made = f"; new: {LAST_CATEGORY_LAYER} for {len(categories)} classes" if new else ""
    return f"carried over from {path}: {len(found)} tensors ({carried}){made}"


def _load_whole(path: Path) -> OfficialWeights:
    """The weights of a file that holds a whole segmenter."""
    weights = load_official(path)
    if weights.num_classes is None:
        raise CheckpointError(
            f"{path} must hold a whole segmenter, got a {weights.kind.title} without heads; use it "
            f"as a backbone: --backbone.weights {path}"
        )
    return weights


def _misfits(weights: OfficialWeights, own: Mapping[str, Tensor]) -> list[str]:
    """Names that only one side has, or that differ in shape; counters of batch norms aside."""
    found = weights.tensors
    both = own.keys() & found.keys()
    alone = {name for name in own.keys() ^ found.keys() if not is_counter(name)}
    return sorted(alone | {name for name in both if own[name].shape != found[name].shape})


def _for_weights(config: Config, weights: OfficialWeights) -> Config:
    """A configuration whose network takes all its weights from a file, with its classes."""
    assert weights.num_classes is not None
    return replace(
        config,
        backbone=replace(config.backbone, weights="none"),
        model=replace(config.model, num_classes=weights.num_classes),
    )


def _without_values(config: Config) -> SOLO:
    """A configuration's network whose tensors have shapes alone, in a tenth of a second."""
    with torch.device("meta"):
        return build_solo(config.backbone, config.model)


def _filled(network: SOLO, config: Config, tensors: Mapping[str, Tensor]) -> SOLO:
    """A network of `_without_values` with its values; drawing those it starts from takes longer."""
    values = {
        name: tensor.float() if tensor.is_floating_point() else tensor
        for name, tensor in tensors.items()
    }
    network.load_state_dict(values, assign=True)
    if any(tensor.is_meta for tensor in (*network.parameters(), *network.buffers())):
        # Some transformers compute tensors that no file has.
        network = build_solo(config.backbone, config.model)
        network.load_state_dict(values)
    return network.to(memory_format=torch.channels_last)


def _fitting_presets(weights: OfficialWeights) -> str:
    """A hint that names the presets whose network has exactly these tensors."""
    fitting = [
        name
        for name, config in PRESETS.items()
        if not _misfits(weights, _without_values(_for_weights(config, weights)).state_dict())
    ]
    return f"use the preset {' or '.join(fitting)}" if fitting else "no preset fits it"
