"""Public segmenters by a preset."""

from __future__ import annotations

import json
import logging
import pickle
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

import soloist
from soloist.config import Config
from soloist.errors import CheckpointError, ConfigError
from soloist.models import SOLO
from soloist.models.backbones import Backbone
from soloist.models.build import build_solo, copy_solo, load_categories, load_solo, save_solo


def test_an_official_file_gives_the_outputs_it_was_saved_with(
    official_narrow: tuple[Path, SOLO], narrow: Config, caplog: pytest.LogCaptureFixture
) -> None:
    path, network = official_narrow
    with caplog.at_level(logging.INFO, "soloist"):
        loaded, config = load_solo(path, "narrow")
    used = len([name for name in network.state_dict() if "tracked" not in name])
    assert caplog.messages == [
        f"{path}: FreeSOLO segmenter (detectron2 names); {used} tensors used, 0 missing, "
        "1 left over (_iter)"
    ]
    assert not loaded.training
    assert config.model.num_classes == 2
    assert config.inference == narrow.inference
    image = torch.randn(1, 3, 64, 96, generator=torch.Generator().manual_seed(1))
    with torch.inference_mode():
        outputs, expected = loaded(image), network(image)
    assert torch.equal(outputs.mask_features, expected.mask_features)
    for name in ("category_logits", "kernels", "semantic_embeddings"):
        for got, wanted in zip(getattr(outputs, name), getattr(expected, name), strict=True):
            assert torch.equal(got, wanted), name
    assert outputs.category_logits[0].shape[1] == 2


@pytest.mark.slow
@pytest.mark.usefixtures("narrow")
def test_a_pickled_segmenter_is_the_same(
    tmp_path: Path, official_narrow: tuple[Path, SOLO]
) -> None:
    saved = torch.load(official_narrow[0], weights_only=True)["model"]
    arrays = {name: tensor.numpy() for name, tensor in saved.items()}
    content = {"model": arrays, "__author__": "FreeSOLO", "matching_heuristics": True}
    (tmp_path / "model_final.pkl").write_bytes(pickle.dumps(content, protocol=2))
    loaded, _ = load_solo(tmp_path / "model_final.pkl", "narrow")
    for name, tensor in official_narrow[1].state_dict().items():
        assert torch.equal(loaded.state_dict()[name], tensor), name


@pytest.mark.usefixtures("narrow")
def test_a_segmenter_of_two_classes_predicts_and_is_saved(
    tmp_path: Path, official_narrow: tuple[Path, SOLO]
) -> None:
    """All classes are candidates; the result has one category."""
    segmenter = soloist.load(official_narrow[0], preset="narrow", device="cpu", precision="fp32")
    pixels = np.random.default_rng(0).integers(0, 256, (50, 70, 3), dtype=np.uint8)
    result = segmenter.predict(pixels)[0]
    assert len(result) > 0
    categories = {annotation["category_id"] for annotation in result.to_coco()["annotations"]}
    assert categories == {1}
    save_solo(tmp_path / "model", segmenter.network.state_dict(), segmenter.config)
    again, config = load_solo(tmp_path)
    assert config.model.num_classes == 2
    assert again.category_branch.category.out_channels == 2


@pytest.mark.parametrize(
    "name", ["resnet18", pytest.param("vit_small_patch16_dinov3", marks=pytest.mark.slow)]
)
def test_a_loaded_network_is_the_saved_one(tmp_path: Path, tiny_config: Config, name: str) -> None:
    """Also one that computes tensors which no file has: the frequencies of rotary positions."""
    backbone = replace(tiny_config.backbone, name=name, weights="none", stages=4)
    config = replace(tiny_config, backbone=backbone)
    network = build_solo(config.backbone, config.model).eval()
    halves = {
        name: tensor.half().float() if tensor.is_floating_point() else tensor
        for name, tensor in network.state_dict().items()
    }
    network.load_state_dict(halves)
    save_solo(tmp_path, halves, config)
    loaded, _ = load_solo(tmp_path)
    assert all(parameter.requires_grad for parameter in loaded.parameters())
    image = torch.randn(1, 3, 64, 96, generator=torch.Generator().manual_seed(1))
    with torch.inference_mode():
        outputs, expected = loaded(image), network(image)
    assert torch.equal(outputs.mask_features, expected.mask_features)


@pytest.mark.parametrize(
    ("names", "got"),
    [
        pytest.param([(1, "a"), (2, "b")], 2, id="more"),
        pytest.param([], 0, id="fewer"),
    ],
)
def test_a_record_that_names_other_classes_than_the_network_has_is_refused(
    tmp_path: Path, model_folder: Path, names: list[tuple[int, str]], got: int
) -> None:
    copy_solo(model_folder, tmp_path)
    record = json.loads((tmp_path / "config.json").read_text())
    record["categories"] = [{"id": key, "name": name} for key, name in names]
    (tmp_path / "config.json").write_text(json.dumps(record))
    for load in (load_solo, load_categories):
        with pytest.raises(
            CheckpointError, match=rf"config.json must name each .* 1 classes .* got {got};"
        ) as caught:
            load(tmp_path)
        assert "\n" not in str(caught.value)


def test_classes_of_one_number_are_too_few(tmp_path: Path, tiny_config: Config) -> None:
    config = replace(tiny_config, model=replace(tiny_config.model, num_classes=2))
    network = build_solo(config.backbone, config.model)
    save_solo(tmp_path, network.state_dict(), config, {1: "a", 2: "b"})
    assert load_categories(tmp_path) == {1: "a", 2: "b"}
    text = (tmp_path / "config.json").read_text()
    (tmp_path / "config.json").write_text(text.replace('"id": 2', '"id": 1'))
    with pytest.raises(CheckpointError, match=r"each of the model's 2 classes once .* got 1;"):
        load_solo(tmp_path)


@pytest.mark.usefixtures("narrow")
def test_the_backbone_of_a_segmenter_is_given_under_other_names(
    official_narrow: tuple[Path, SOLO],
) -> None:
    path, network = official_narrow
    segmenter = soloist.load(path, preset="narrow", device="cpu")
    assert isinstance(network.backbone, Backbone)
    for format in ("torchvision", "timm", "detectron2"):
        given = segmenter.backbone_state_dict(format=format)
        wanted = network.backbone.named(format)
        assert given.keys() == wanted.keys()
        assert all(torch.equal(given[name], wanted[name]) for name in wanted)
    given["stem.conv1.weight"].zero_()
    assert segmenter.backbone_state_dict()["conv1.weight"].abs().sum() > 0


@pytest.mark.slow
@pytest.mark.parametrize(
    ("preset", "message"),
    [
        pytest.param(None, "does not tell its architecture: add a preset; use the preset "
                     "paper-r101", id="no-preset"),
        pytest.param("paper-r50", "must fit the preset 'paper-r50', but 255 tensors are missing, "
                     "left over or of another shape, first 'backbone.network.layer3.10.bn1.bias'; "
                     "use the preset paper-r101", id="shallow-preset"),
        pytest.param("small", "must fit the preset 'small', but .*; use the preset paper-r101",
                     id="narrow-preset"),
    ],
)  # fmt: skip
def test_a_preset_that_does_not_fit_is_reported_with_one_that_does(
    official_r101: Path, preset: str | None, message: str
) -> None:
    with pytest.raises(CheckpointError, match=message) as caught:
        soloist.load(official_r101, preset=preset)
    assert str(official_r101) in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.slow
def test_mistakes_without_a_remedy_in_the_presets(
    tmp_path: Path, official_narrow: tuple[Path, SOLO]
) -> None:
    path = official_narrow[0]
    with pytest.raises(CheckpointError, match="add a preset; no preset fits it"):
        soloist.load(path)
    with pytest.raises(ConfigError, match="no preset named 'paper-r11'; did you mean paper-r101"):
        soloist.load(path, preset="paper-r11")
    torch.save({"layer1.0.conv1.weight": torch.zeros(1)}, tmp_path / "backbone.pth")
    with pytest.raises(CheckpointError, match=r"got a ResNet \(torch.*: --backbone.weights"):
        soloist.load(tmp_path / "backbone.pth", preset="paper")
