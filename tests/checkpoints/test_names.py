from __future__ import annotations

import pytest

from soloist.checkpoints.names import KINDS, NameTable, kind_of, our_name, to_detectron2

KIND = {kind.name: kind for kind in KINDS}


@pytest.mark.parametrize(
    ("row", "name", "expected"),
    [
        pytest.param(("a.{i}", "b{i}.c"), "a.12", "b12.c", id="number"),
        pytest.param(("a{i}", "b{i+2}"), "a3", "b5", id="plus"),
        pytest.param(("b{i+2}", "a{i}"), "b5", "a3", id="minus"),
        pytest.param(("b{i+2}", "a{i}"), "b1", None, id="below-zero"),
        pytest.param(("t.{3*i+1}", "t.{i}.1"), "t.10", "t.3.1", id="divided"),
        pytest.param(("t.{3*i+1}", "t.{i}.1"), "t.9", None, id="not-whole"),
        pytest.param(("t.{i}.1", "t.{3*i+1}"), "t.3.1", "t.10", id="multiplied"),
        pytest.param(("a.{affine}", "b.{affine}"), "a.bias", "b.bias", id="word"),
        pytest.param(("a.{affine}", "b.{affine}"), "a.running_mean", None, id="other-word"),
        pytest.param(("a.{i}.{j}", "{j}.{i}"), "a.1.2", "2.1", id="two-fields"),
        pytest.param(("a.b", "c"), "a.b", "c", id="no-field"),
        pytest.param(("a.b", "c"), "axb", None, id="a-dot-is-a-dot"),
        pytest.param(("a.b", "c"), "a.b.c", None, id="whole-names-only"),
    ],
)
def test_a_row_is_read_from_left_to_right(
    row: tuple[str, str], name: str, expected: str | None
) -> None:
    assert NameTable(row)(name) == expected


@pytest.mark.parametrize(
    ("kind", "name", "ours"),
    [
        ("freesolo", "backbone.bottom_up.stem.conv1.weight", "backbone.network.conv1.weight"),
        ("freesolo", "backbone.bottom_up.stem.conv1.norm.bias", "backbone.network.bn1.bias"),
        ("freesolo", "backbone.bottom_up.res2.0.shortcut.weight",
         "backbone.network.layer1.0.downsample.0.weight"),
        ("freesolo", "backbone.bottom_up.res5.2.conv3.norm.running_var",
         "backbone.network.layer4.2.bn3.running_var"),
        ("freesolo", "backbone.fpn_lateral2.bias", "fpn.lateral.0.bias"),
        ("freesolo", "backbone.fpn_output5.weight", "fpn.output.3.weight"),
        ("freesolo", "ins_head.cate_tower.9.weight", "category_branch.tower.3.0.weight"),
        ("freesolo", "ins_head.kernel_tower.10.bias", "kernel_branch.tower.3.1.bias"),
        ("freesolo", "ins_head.emb_pred.weight", "category_branch.embedding.weight"),
        ("freesolo", "mask_head.convs_all_levels.3.conv2.0.weight",
         "mask_feature_branch.levels.3.blocks.2.0.weight"),
        ("freesolo", "mask_head.conv_pred.1.weight", "mask_feature_branch.merge.1.weight"),
        ("freesolo", "_iter", None),
        ("detectron2", "stem.conv1.weight", "backbone.network.conv1.weight"),
        ("detectron2", "stem.fc.weight", None),
        ("detectron2", "backbone.res4.22.conv2.weight", "backbone.network.layer3.22.conv2.weight"),
        ("detectron2", "proposal_generator.rpn_head.conv.weight", None),
        ("moco", "module.encoder_q.conv1.weight", "backbone.network.conv1.weight"),
        ("moco", "encoder_q.0.layer1.0.bn1.bias", "backbone.network.layer1.0.bn1.bias"),
        ("moco", "module.encoder_q.fc.0.weight", None),
        ("moco", "encoder_q.1.mlp.0.weight", None),
        ("moco", "module.encoder_k.conv1.weight", None),
        ("moco", "module.queue", None),
        ("swav", "module.bn1.bias", "backbone.network.bn1.bias"),
        ("swav", "module.projection_head.0.weight", None),
        ("swav", "module.prototypes.weight", None),
        ("dino", "module.backbone.conv1.weight", "backbone.network.conv1.weight"),
        ("dino", "head.mlp.0.weight", None),
        ("openmmlab", "backbone.conv1.weight", "backbone.network.conv1.weight"),
        ("openmmlab", "neck.fc0.weight", None),
        ("torchvision", "fc.weight", None),
        ("timm", "stages.0.blocks.1.gamma", "backbone.network.stages.0.blocks.1.gamma"),
        ("soloist", "fpn.lateral.0.weight", "fpn.lateral.0.weight"),
    ],
)  # fmt: skip
def test_names_of_each_kind(kind: str, name: str, ours: str | None) -> None:
    assert our_name(name, KIND[kind]) == ours


@pytest.mark.parametrize(
    ("names", "kind"),
    [
        pytest.param(["fpn.lateral.0.bias", "backbone.network.conv1.weight"], "soloist", id="own"),
        pytest.param(["backbone.bottom_up.res2.0.conv1.weight", "ins_head.cate_pred.bias"],
                     "freesolo", id="freesolo"),
        pytest.param(["backbone.bottom_up.res2.0.conv1.weight"], "detectron2", id="pyramid"),
        pytest.param(["stem.conv1.weight", "res2.0.conv1.weight"], "detectron2", id="bare"),
        pytest.param(["stem.conv1.weight", "stages.0.0.weight"], "timm", id="stem-of-timm"),
        pytest.param(["module.encoder_k.conv1.weight", "module.encoder_q.conv1.weight"], "moco",
                     id="moco"),
        pytest.param(["backbone.conv1.weight", "encoder_q.0.conv1.weight"], "moco", id="densecl"),
        pytest.param(["module.conv1.weight", "module.prototypes.weight"], "swav", id="swav"),
        pytest.param(["backbone.conv1.weight", "head.last_layer.weight_g"], "dino", id="dino"),
        pytest.param(["backbone.conv1.weight", "neck.fc0.weight"], "openmmlab", id="openmmlab"),
        pytest.param(["layer1.0.conv1.weight", "fc.weight"], "torchvision", id="torchvision"),
        pytest.param(["anything"], "timm", id="anything"),
    ],
)  # fmt: skip
def test_names_decide_the_kind(names: list[str], kind: str) -> None:
    assert kind_of(dict.fromkeys(names)).name == kind


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("conv1.weight", "stem.conv1.weight"),
        ("layer3.22.bn2.weight", "res4.22.conv2.norm.weight"),
        ("conv1.0.weight", None),
    ],
)
def test_names_for_detectron2(name: str, expected: str | None) -> None:
    assert to_detectron2(name) == expected
