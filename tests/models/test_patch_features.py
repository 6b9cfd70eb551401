"""Plain vision transformers: maps of any size, freezing, files, the whole way into SOLO."""

from __future__ import annotations

import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any, cast

import pytest
import timm
import torch
from torch import Tensor

from soloist.checkpoints.files import save_tensors
from soloist.errors import CheckpointError, ConfigError
from soloist.models.backbones import Backbone, create_backbone
from soloist.models.patch_features import PatchFeatures, whole_patches

# Six blocks of 64 channels; some with registers; EVA is DINOv3's kind, here with patches of 14.
PLAIN = "test_vit"
REGISTERS = "test_vit2"
FOURTEEN = "eva02_tiny_patch14_224"


def seeded(name: str = PLAIN, **options: Any) -> Backbone:
    torch.manual_seed(0)
    return create_backbone(name, **options).eval()


def network_of(backbone: Backbone) -> PatchFeatures:
    return cast(PatchFeatures, backbone.network)


@pytest.fixture(scope="module")
def plain() -> Backbone:
    return seeded()


def learning(backbone: Backbone) -> set[str]:
    """First parts of the names of what is trained, blocks by number."""
    names = (n.split(".") for n, p in network_of(backbone).model.named_parameters()
             if p.requires_grad)  # fmt: skip
    return {".".join(name[:2]) if name[0] == "blocks" else name[0] for name in names}


@pytest.mark.parametrize(
    ("name", "stride"),
    [
        pytest.param(PLAIN, 16, id="class-token"),
        pytest.param(REGISTERS, 16, id="registers"),
        pytest.param(FOURTEEN, 14, id="patches-of-14"),
    ],
)
@pytest.mark.parametrize(
    "size",
    [
        pytest.param((96, 144), id="whole-patches-of-16"),
        pytest.param((100, 61), id="odd"),
        pytest.param((5, 1), id="smaller-than-a-patch"),
    ],
)
def test_one_map_covers_images_of_any_size(name: str, stride: int, size: tuple[int, int]) -> None:
    built = seeded(name)
    assert built.is_plain
    assert built.strides == (stride,)
    with torch.inference_mode():
        maps = built(torch.rand(2, 3, *size))
    rows, columns = (max(1, round(side / stride)) for side in size)
    assert [tuple(one.shape) for one in maps] == [(2, built.channels[0], rows, columns)]


def test_the_map_is_that_of_the_last_norm_without_prefix_tokens(plain: Backbone) -> None:
    images = torch.rand(1, 3, 160, 160)
    torch.manual_seed(0)
    whole: Any = timm.create_model(PLAIN, num_classes=0).eval()
    with torch.inference_mode():
        tokens: Tensor = whole.forward_features(images)
        (features,) = plain(images)
    patches = tokens[:, whole.num_prefix_tokens :].transpose(1, 2)
    assert whole.num_prefix_tokens >= 1
    torch.testing.assert_close(features, patches.reshape(1, -1, 10, 10))


def test_each_cell_sees_its_own_patch(plain: Backbone) -> None:
    image = torch.zeros(1, 3, 64, 96)
    other = image.clone()
    other[:, :, 16:32, 64:80] = 1.0
    with torch.inference_mode():
        change = (plain(other)[0] - plain(image)[0]).norm(dim=1)[0]
    assert divmod(int(change.argmax()), 6) == (1, 4)


def test_whole_patches_are_left_alone() -> None:
    images = torch.rand(1, 3, 28, 42)
    assert whole_patches(images, 14) is images
    assert whole_patches(images, 16).shape[2:] == (32, 48)


def test_pixel_statistics_are_those_of_the_record() -> None:
    name = "vit_pe_spatial_tiny_patch16_512.fb"
    record = timm.get_pretrained_cfg(name)
    assert record is not None
    built = seeded(name)
    assert built.mean.flatten().tolist() == pytest.approx(record.mean) == [0.5] * 3


def test_the_one_map_serves_for_any_stride(
    plain: Backbone, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    assert plain.level(16) == 0
    assert caplog.text == ""
    assert plain.level(32) == 0
    assert "one feature map has stride 16, not 32" in caplog.text


# Freezing


@pytest.mark.parametrize(
    ("parts", "trained"),
    [
        pytest.param(0, {"pos_embed", "cls_token", "patch_embed", "norm", *range(6)}, id="none"),
        pytest.param(1, {"norm", 2, 3, 4, 5}, id="a-quarter-rounded-up"),
        pytest.param(2, {"norm", 3, 4, 5}, id="half"),
        pytest.param(3, {"norm", 5}, id="three-quarters-rounded-up"),
        pytest.param(4, set(), id="all"),
        pytest.param(9, set(), id="more-than-there-is"),
    ],
)
def test_frozen_parts_do_not_learn(parts: int, trained: set[Any]) -> None:
    built = seeded().train()
    built.freeze(parts)
    assert learning(built) == {f"blocks.{n}" if isinstance(n, int) else n for n in trained}
    model: Any = network_of(built).model
    frozen = [block for block in model.blocks if not block.training]
    blocks = sum(isinstance(name, int) for name in trained)
    assert len(frozen) == 6 - blocks
    if trained:
        built(torch.rand(1, 3, 32, 32))[0].sum().backward()


def test_a_network_without_blocks_is_reported(
    plain: Backbone, monkeypatch: pytest.MonkeyPatch
) -> None:
    network = network_of(plain)
    monkeypatch.delattr(network.model, "blocks")
    with pytest.raises(
        ConfigError, match=r"no separate blocks to freeze; set train\.frozen_stages"
    ):
        plain.freeze(1)


# Weights


@pytest.mark.parametrize("names", ["ours", "timm"])
def test_weights_come_back(names: str, plain: Backbone, tmp_path: Path) -> None:
    wanted = network_of(plain).state_dict()
    named = wanted if names == "ours" else plain.named("timm")
    save_tensors(tmp_path / "w.safetensors", named, metadata={})
    torch.manual_seed(1)
    loaded = create_backbone(PLAIN, weights=str(tmp_path / "w.safetensors")).network.state_dict()
    assert all(torch.equal(loaded[name], value) for name, value in wanted.items())
    if names == "timm":
        assert set(named) <= set(timm.create_model(PLAIN).state_dict())


def test_weights_of_other_patches_are_reported(plain: Backbone, tmp_path: Path) -> None:
    named = plain.named("timm")
    named["pos_embed"] = named["pos_embed"][:, :-1]
    save_tensors(tmp_path / "w.safetensors", named, metadata={})
    with pytest.raises(CheckpointError, match=r"must be .* is it a file for another network"):
        create_backbone(PLAIN, weights=str(tmp_path / "w.safetensors"))


# Mistakes


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        pytest.param(PLAIN, {"output_stride": 16}, "has one stride, that of its patches, got "
                     "backbone.output_stride 16; leave it at 32", id="dilation"),
        pytest.param(PLAIN, {"stages": 5}, "backbone.stages must lie in 1..4", id="many-stages"),
        pytest.param(PLAIN, {"stages": 0}, "backbone.stages must lie in 1..4", id="no-stage"),
        pytest.param("beit_base_patch16_224", {}, "images of one size only .Input height .448. "
                     "doesn't match model .224..; choose another", id="plain-of-one-size"),
        pytest.param("swin_tiny_patch4_window7_224", {}, "images of one size only .Input height",
                     id="windows-of-one-size"),
        pytest.param("hiera_tiny_224.mae", {}, "images of one size only .the positions",
                     id="positions-of-one-size"),
        pytest.param("vit_small_patch14_dinov2.lvd142", {}, "timm has no weights named "
                     "'vit_small_patch14_dinov2.lvd142'; did you mean "
                     "vit_small_patch14_dinov2.lvd142m", id="unknown-tag"),
    ],
)  # fmt: skip
def test_a_mistake_is_reported_in_one_short_line(
    name: str, options: dict[str, Any], message: str
) -> None:
    with pytest.raises(ConfigError, match=message) as caught:
        create_backbone(name, **options)
    assert "\n" not in str(caught.value)


def test_a_network_timm_has_no_weights_for_is_reported() -> None:
    with pytest.raises(CheckpointError, match="timm has no weights for 'convnext_atto_rms'; use"):
        create_backbone("convnext_atto_rms", weights="timm")


def test_the_licence_of_timms_weights_is_reported_before_they_are_fetched(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    create: Callable[..., Any] = timm.create_model

    def offline(*arguments: Any, pretrained: bool = False, **options: Any) -> Any:
        if pretrained:
            raise OSError("no route to host")
        return create(*arguments, **options)

    monkeypatch.setattr(timm, "create_model", offline)
    caplog.set_level(logging.INFO)
    name = "vit_small_patch16_dinov3.lvd1689m"
    with pytest.raises(CheckpointError, match=f"'{name}' could not be fetched .no route to host."):
        create_backbone(name, weights="timm")
    assert caplog.messages == [f"{name}: timm's weights, from timm/{name}; licence: dinov3-license"]
