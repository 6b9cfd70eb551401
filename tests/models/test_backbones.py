from __future__ import annotations

import os
import pickle
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
import torchvision
from torch import Tensor, nn

from soloist.checkpoints.files import load_state, load_tensors, save_state, save_tensors
from soloist.errors import CheckpointError, ConfigError
from soloist.models.backbones import Backbone, NameFormat, create_backbone
from soloist.models.build import half_precision

NAME = "resnet10t"


def seeded_backbone(seed: int, name: str = NAME, **options: Any) -> Backbone:
    torch.manual_seed(seed)
    return create_backbone(name, **options).eval()


def flat_backbone(strides: Sequence[int] = (4,), **options: Any) -> Backbone:
    """A backbone of given strides around a network that does nothing."""
    names = [f"stage{number}" for number in range(len(strides))]
    channels = [1] * len(strides)
    return Backbone(
        nn.Identity(), channels=channels, strides=strides, modules_of_levels=names, **options
    )


def weights_of(backbone: Backbone) -> dict[str, Tensor]:
    weights: dict[str, Tensor] = backbone.network.state_dict()
    return weights


@pytest.fixture(scope="module")
def backbone() -> Backbone:
    return seeded_backbone(0)


# Feature maps


@pytest.mark.parametrize(
    ("options", "strides", "channels"),
    [
        pytest.param({}, (4, 8, 16, 32), (64, 128, 256, 512), id="resnet"),
        pytest.param({"stages": 3}, (4, 8, 16), (64, 128, 256), id="without-the-last-stage"),
        pytest.param({"stages": 1}, (4,), (64,), id="first-stage-only"),
        pytest.param(
            {"output_stride": 16}, (4, 8, 16, 16), (64, 128, 256, 512), id="dilated-last-stage"
        ),
        pytest.param({"output_stride": 8}, (4, 8, 8, 8), (64, 128, 256, 512), id="dilated-twice"),
    ],
)
def test_levels(
    options: dict[str, Any], strides: tuple[int, ...], channels: tuple[int, ...]
) -> None:
    built = seeded_backbone(0, **options)
    assert (built.strides, built.channels) == (strides, channels)
    with torch.inference_mode():
        maps = built(torch.zeros(2, 3, 64, 96))
    assert [tuple(one.shape) for one in maps] == [
        (2, c, 64 // stride, 96 // stride) for stride, c in zip(strides, channels, strict=True)
    ]


@pytest.mark.parametrize("name", ["convnext_atto", "regnetx_002", "mobilenetv3_small_050"])
def test_other_families_give_levels_too(name: str) -> None:
    built = seeded_backbone(0, name)
    assert built.strides == (4, 8, 16, 32)
    with torch.inference_mode():
        maps = built(torch.zeros(1, 3, 64, 64))
    assert [one.shape[1] for one in maps] == list(built.channels)
    assert [one.shape[2] for one in maps] == [16, 8, 4, 2]


@pytest.mark.parametrize(
    ("strides", "stride", "level"),
    [
        pytest.param((4, 8, 16, 32), 16, 2, id="one-of-each"),
        pytest.param((4, 8, 16, 16), 16, 3, id="the-last-of-two"),
        pytest.param((2, 4, 8), 4, 0, id="finer-than-four-is-left-out"),
    ],
)
def test_a_level_is_found_by_its_stride(strides: tuple[int, ...], stride: int, level: int) -> None:
    assert flat_backbone(strides).level(stride) == level


def test_a_stride_no_level_has_is_reported(backbone: Backbone) -> None:
    with pytest.raises(ConfigError, match=r"no feature map of stride 64, only \[4, 8, 16, 32\]"):
        backbone.level(64)


def test_pixels_are_scaled_as_the_weights_expect() -> None:
    built = flat_backbone(mean=(0.5, 0.0, 1.0), std=(0.5, 1.0, 0.25))
    image = torch.tensor([0, 51, 255], dtype=torch.uint8).expand(1, 3, 1, 3)
    scaled = built.normalize(image)
    expected = torch.tensor([[[-1.0, -0.6, 1.0]], [[0.0, 0.2, 1.0]], [[-4.0, -3.2, 0.0]]])
    torch.testing.assert_close(scaled, expected[None])


def test_pixel_statistics_are_those_of_the_model() -> None:
    built = seeded_backbone(0)
    statistics = timm.get_pretrained_cfg(NAME)
    assert statistics is not None
    torch.testing.assert_close(built.mean.flatten(), torch.tensor(statistics.mean))
    torch.testing.assert_close(built.std.flatten(), torch.tensor(statistics.std))


@pytest.mark.parametrize(
    ("stages", "trained"),
    [
        pytest.param(0, {"conv1", "bn1", "layer1", "layer2", "layer3", "layer4"}, id="none"),
        pytest.param(1, {"layer2", "layer3", "layer4"}, id="stem-and-first-stage"),
        pytest.param(3, {"layer4"}, id="all-but-the-last"),
        pytest.param(9, set(), id="more-than-there-are"),
    ],
)
def test_frozen_stages_neither_learn_nor_count(stages: int, trained: set[str]) -> None:
    built = seeded_backbone(0).train()
    built.freeze(stages)
    learning = {name for name, value in built.network.named_parameters() if value.requires_grad}
    assert {name.split(".")[0] for name in learning} == trained
    before = {name: value.clone() for name, value in weights_of(built).items()}
    built(torch.rand(2, 3, 64, 64))
    moved = {name for name, value in weights_of(built).items() if not value.equal(before[name])}
    assert {name.split(".")[0] for name in moved} <= trained
    assert any("running_mean" in name for name in moved) == bool(trained)


# Mistakes


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        pytest.param(
            "resnet10", {}, "no backbone named 'resnet10'; did you mean", id="unknown-name"
        ),
        pytest.param("", {}, "no backbone named ''", id="empty-name"),
        pytest.param("densecl-r60", {}, "did you mean densecl-r50 or", id="near-a-short-name"),
        pytest.param("xyzzy", {}, "are known; `soloist backbones` lists some", id="far-name"),
        pytest.param(
            NAME,
            {"weights": "bundled"},
            "bundled weights are for backbone 'resnet18'",
            id="bundled-for-another",
        ),
        pytest.param(NAME, {"stages": 5}, "backbone.stages must lie in 1..4", id="many-stages"),
        pytest.param(NAME, {"stages": 0}, "backbone.stages must lie in 1..4", id="no-stage"),
        pytest.param("convnext_atto", {"output_stride": 4}, "convnext_atto", id="odd-stride"),
    ],
)
def test_a_mistake_is_reported_in_one_short_line(
    name: str, options: dict[str, Any], message: str
) -> None:
    with pytest.raises(ConfigError, match=message) as caught:
        create_backbone(name, **options)
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 800


def test_weights_that_cannot_be_fetched_are_reported(monkeypatch: pytest.MonkeyPatch) -> None:
    def offline(*arguments: object, pretrained: bool, **options: object) -> None:
        assert pretrained
        raise OSError("no route to host\nmore")

    monkeypatch.setattr(timm, "create_model", offline)
    with pytest.raises(CheckpointError, match=r"'resnet10t' could not be fetched \(no route"):
        create_backbone(NAME, weights="timm")


# Files of weights


def save_half(backbone: Backbone, path: Path) -> None:
    save_tensors(path, half_precision(weights_of(backbone)), metadata={"soloist": "{}"})


@pytest.mark.parametrize(
    "place", ["backbone.safetensors", "model/backbone.safetensors", "w.safetensors"]
)
def test_half_precision_weights_come_back(tmp_path: Path, backbone: Backbone, place: str) -> None:
    save_half(backbone, tmp_path / place)
    given = tmp_path / place if place.startswith("w") else tmp_path
    loaded = weights_of(seeded_backbone(1, weights=str(given)))
    assert loaded.keys() == weights_of(backbone).keys()
    for name, tensor in weights_of(backbone).items():
        assert loaded[name].dtype == tensor.dtype
        rounded = tensor.half().to(tensor.dtype) if tensor.is_floating_point() else tensor
        assert torch.equal(loaded[name], rounded), name


@pytest.mark.parametrize(
    ("prefix", "around"),
    [
        pytest.param("", None, id="plain"),
        pytest.param("", "state_dict", id="state-dict"),
        pytest.param("", "model", id="model"),
        pytest.param("module.encoder_q.", "state_dict", id="moco-and-densecl"),
        pytest.param("backbone.", None, id="detectors"),
    ],
)
def test_public_checkpoints_load(
    tmp_path: Path, backbone: Backbone, prefix: str, around: str | None
) -> None:
    content: dict[str, Any] = {f"{prefix}{k}": v for k, v in weights_of(backbone).items()}
    content["fc.weight"] = torch.zeros(3)
    content = content if around is None else {around: content, "epoch": 200}
    torch.save(content, tmp_path / "public.pth")
    loaded = weights_of(seeded_backbone(1, weights=str(tmp_path / "public.pth")))
    assert all(torch.equal(loaded[k], v) for k, v in weights_of(backbone).items())


@pytest.mark.slow
def test_the_backbone_of_a_segmenter_serves_another(model_folder: Path) -> None:
    saved = load_tensors(model_folder / "model.safetensors")
    for place in (model_folder.parent, model_folder, model_folder / "model.safetensors"):
        loaded = weights_of(seeded_backbone(1, weights=str(place), stages=3))
        for name, value in loaded.items():
            assert torch.equal(saved[f"backbone.network.{name}"].to(value.dtype), value), name


# Names of other libraries


# torchvision's and detectron2's names of a ResNet-50: stem, first block, last block.
DETECTRON2 = {
    "conv1.weight": "stem.conv1.weight",
    "bn1.weight": "stem.conv1.norm.weight",
    "bn1.bias": "stem.conv1.norm.bias",
    "bn1.running_mean": "stem.conv1.norm.running_mean",
    "bn1.running_var": "stem.conv1.norm.running_var",
    "layer1.0.conv1.weight": "res2.0.conv1.weight",
    "layer1.0.bn1.weight": "res2.0.conv1.norm.weight",
    "layer1.0.bn1.bias": "res2.0.conv1.norm.bias",
    "layer1.0.bn1.running_mean": "res2.0.conv1.norm.running_mean",
    "layer1.0.bn1.running_var": "res2.0.conv1.norm.running_var",
    "layer1.0.conv2.weight": "res2.0.conv2.weight",
    "layer1.0.bn2.running_mean": "res2.0.conv2.norm.running_mean",
    "layer1.0.conv3.weight": "res2.0.conv3.weight",
    "layer1.0.bn3.running_var": "res2.0.conv3.norm.running_var",
    "layer1.0.downsample.0.weight": "res2.0.shortcut.weight",
    "layer1.0.downsample.1.weight": "res2.0.shortcut.norm.weight",
    "layer1.0.downsample.1.bias": "res2.0.shortcut.norm.bias",
    "layer1.0.downsample.1.running_mean": "res2.0.shortcut.norm.running_mean",
    "layer1.0.downsample.1.running_var": "res2.0.shortcut.norm.running_var",
    "layer4.2.conv1.weight": "res5.2.conv1.weight",
    "layer4.2.conv2.weight": "res5.2.conv2.weight",
    "layer4.2.conv3.weight": "res5.2.conv3.weight",
    "layer4.2.bn3.bias": "res5.2.conv3.norm.bias",
}


@pytest.mark.slow
def test_names_are_those_of_the_other_libraries() -> None:
    built = seeded_backbone(0, "resnet50")
    with torch.device("meta"):
        whole = set(torchvision.models.resnet50().state_dict())
        assert whole == set(timm.create_model("resnet50").state_dict())
    torchvision_weights = built.named("torchvision")
    assert set(torchvision_weights) == whole - {"fc.weight", "fc.bias"}
    assert set(built.named("timm")) == set(torchvision_weights)
    detectron2_weights = built.named("detectron2")
    # 53 convolutions, each with a frozen norm of four tensors.
    assert len(detectron2_weights) == 53 * 5
    for name, other in DETECTRON2.items():
        assert torch.equal(detectron2_weights[other], torchvision_weights[name]), name


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "format"),
    [
        ("resnet18", "torchvision"),
        ("resnet18", "timm"),
        ("resnet18", "detectron2"),
        (NAME, "timm"),
        ("convnext_atto", "timm"),
        ("regnetx_002", "timm"),
    ],
)
def test_weights_under_other_names_come_back(tmp_path: Path, name: str, format: NameFormat) -> None:
    built = seeded_backbone(0, name)
    for value in weights_of(built).values():
        if value.is_floating_point() and value.ndim == 1:
            value.uniform_(0.1, 1.0)
    named = built.named(format)
    assert set(named) == {key for key in named if torch.isfinite(named[key]).all()}
    torch.save(named, tmp_path / "w.pth")
    loaded = weights_of(seeded_backbone(1, name, weights=str(tmp_path / "w.pth")))
    for key, value in weights_of(built).items():
        assert torch.equal(loaded[key], value), key
    if name != "resnet18":
        assert set(named) <= set(timm.create_model(name).state_dict())


@pytest.mark.parametrize("format", ["torchvision", "detectron2"])
def test_a_network_another_library_does_not_know_is_reported(
    backbone: Backbone, format: NameFormat
) -> None:
    with pytest.raises(ConfigError, match=f"{format} must have .* none for 'conv1.0.weight'"):
        backbone.named(format)


def test_a_file_for_all_stages_serves_the_first_ones(tmp_path: Path, backbone: Backbone) -> None:
    save_half(backbone, tmp_path / "backbone.safetensors")
    loaded = weights_of(seeded_backbone(1, weights=str(tmp_path), stages=3))
    assert 0 < len(loaded) < len(weights_of(backbone))
    assert torch.equal(
        loaded["conv1.0.weight"], weights_of(backbone)["conv1.0.weight"].half().float()
    )


@pytest.mark.parametrize(
    ("change", "message"),
    [
        pytest.param("missing", "lacks 1 of the backbone's .* first 'bn1.bias'", id="missing"),
        pytest.param("shape", "'bn1.bias' must be .64,., got .7,.", id="wrong-shape"),
        pytest.param("other", "lacks .* is it a file for another network", id="other-network"),
    ],
)
def test_a_file_that_does_not_fit_is_reported(
    tmp_path: Path, backbone: Backbone, change: str, message: str
) -> None:
    weights = dict(weights_of(backbone))
    if change == "missing":
        del weights["bn1.bias"]
    elif change == "shape":
        weights["bn1.bias"] = torch.zeros(7)
    else:
        weights = {"conv1.weight": torch.zeros(3)}
    save_tensors(tmp_path / "w.safetensors", weights, metadata={})
    with pytest.raises(CheckpointError, match=message) as caught:
        create_backbone(NAME, weights=str(tmp_path / "w.safetensors"))
    assert "w.safetensors" in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("suffix", ["safetensors", "pth", "pt"])
@pytest.mark.parametrize(
    "content",
    [
        pytest.param(b"", id="empty"),
        pytest.param(b"just text\n", id="text"),
        pytest.param(b"\x89PNG\r\n\x1a\n" + bytes(100), id="image"),
        pytest.param(b"PK\x03\x04" + bytes(60), id="broken-archive"),
        pytest.param(b"\x80\x02}q\x00.", id="empty-pickle"),
        pytest.param(b"\x80\x02cno.such\nthing\nq\x00.", id="unknown-class"),
        pytest.param(bytes(range(256)) * 4, id="every-byte"),
        pytest.param(b"\x80\x02K\x01.", id="a-number"),
    ],
)
def test_a_file_that_holds_no_weights_is_reported_in_one_line(
    tmp_path: Path, suffix: str, content: bytes
) -> None:
    path = tmp_path / f"weights.{suffix}"
    path.write_bytes(content)
    with pytest.raises(CheckpointError) as caught:
        load_tensors(path)
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("name", ["none.safetensors", "none.pth", "."])
def test_a_file_that_is_not_there_is_reported(tmp_path: Path, name: str) -> None:
    with pytest.raises(CheckpointError, match=r"no file of weights at .*; check the path"):
        create_backbone(NAME, weights=str(tmp_path / name))


class Hostile:
    """Makes a folder when it is unpickled without care."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, tuple[str]]:
        return os.mkdir, (str(self.path),)


@pytest.mark.parametrize("zipped", [True, False], ids=["torch-archive", "plain-pickle"])
@pytest.mark.parametrize("suffix", ["pth", "pt", "bin"])
def test_a_hostile_file_is_refused_before_its_code_runs(
    tmp_path: Path, zipped: bool, suffix: str
) -> None:
    target = tmp_path / "made-by-the-file"
    path = tmp_path / f"weights.{suffix}"
    content = {"state_dict": {"conv1.weight": torch.zeros(1)}, "extra": Hostile(target)}
    if zipped:
        torch.save(content, path)
    else:
        path.write_bytes(pickle.dumps({"extra": Hostile(target)}, protocol=2))
    with pytest.raises(CheckpointError, match="damaged or holds more than tensors"):
        create_backbone(NAME, weights=str(path))
    assert not target.exists()
    # The file would have done it: read without care, it does.
    if zipped:
        torch.load(path, weights_only=False)
    else:
        pickle.loads(path.read_bytes())
    assert target.is_dir()


def test_a_state_comes_back(tmp_path: Path) -> None:
    state = {"step": 3, "model": {"w": torch.arange(4.0)}, "note": "x", "list": [1, (2, 3)]}
    save_state(tmp_path / "state.pt", state)
    loaded = load_state(tmp_path / "state.pt")
    assert torch.equal(loaded["model"].pop("w"), state["model"].pop("w"))  # type: ignore[attr-defined]
    assert loaded == state


@pytest.mark.filterwarnings("ignore:Detected pickle protocol")
@pytest.mark.parametrize("zipped", [True, False], ids=["torch-archive", "plain-pickle"])
def test_a_damaged_state_is_reported(tmp_path: Path, zipped: bool) -> None:
    path = tmp_path / "state.pt"
    state = {"w": torch.arange(10.0), "note": {"a": 1}}
    torch.save(state, path, _use_new_zipfile_serialization=zipped)
    whole = path.read_bytes()
    generator = torch.Generator().manual_seed(0)
    refused = 0
    for length in range(0, len(whole), len(whole) // 40):
        path.write_bytes(whole[:length])
        with pytest.raises(CheckpointError, match="damaged or holds more"):
            load_state(path)
    for _ in range(60):
        damaged = bytearray(whole)
        for place in torch.randint(0, len(whole), (9,), generator=generator).tolist():
            damaged[place] ^= 0x55
        path.write_bytes(damaged)
        refused += isinstance(error_of(path), CheckpointError)
    assert refused > 20


def error_of(path: Path) -> CheckpointError | None:
    """The error a file gives; None where the damage hit bytes that do not matter."""
    try:
        load_state(path)
    except CheckpointError as error:
        return error
    return None
