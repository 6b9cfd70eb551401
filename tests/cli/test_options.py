"""`--backbone`: network and weights in one word, on the command line, in YAML and in Python."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from soloist.cli import run_command
from soloist.cli.options import given, option_group
from soloist.config.presets import load_config
from soloist.data.coco.read import load_coco

Options = option_group("backbone", "seed")
Backbone = type(Options().backbone)


@pytest.mark.parametrize(
    ("options", "values"),
    [
        pytest.param(Options(), {}, id="nothing"),
        pytest.param(
            Options(backbone_choice="densecl-r50"),
            {"backbone": {"name": "resnet50", "weights": "densecl-r50"}},
            id="short-name",
        ),
        pytest.param(
            Options(backbone_choice="resnet50", backbone=Backbone(weights="none", stages=3)),
            {"backbone": {"name": "resnet50", "weights": "none", "stages": 3}},
            id="options-win",
        ),
        pytest.param(
            Options(backbone=Backbone(name="resnet18"), seed=1),
            {"backbone": {"name": "resnet18"}, "seed": 1},
            id="only-the-options",
        ),
    ],
)
def test_one_word_becomes_name_and_weights(options: Any, values: dict[str, Any]) -> None:
    assert given(options) == values


def test_one_word_serves_in_yaml_and_in_python(tmp_path: Path) -> None:
    (tmp_path / "c.yaml").write_text("backbone: densecl-r101\n")
    config = load_config("tiny", tmp_path / "c.yaml")
    assert (config.backbone.name, config.backbone.weights) == ("resnet101", "densecl-r101")
    assert config.backbone.stages == 3
    config = load_config("tiny", tmp_path / "c.yaml", {"backbone": "convnext_atto"})
    assert (config.backbone.name, config.backbone.weights) == ("convnext_atto", "timm")


def test_the_command_takes_a_plain_transformer_with_the_values_of_a_preset(
    tmp_path: Path, scenes: Path
) -> None:
    out = tmp_path / "masks.json"
    how = ["--backbone", "test_vit", "--backbone.weights", "none", "--extract.short-side", "96"]
    assert run_command(["masks", str(scenes / "images"), "--out", str(out), *how]) == 0
    assert len(load_coco(out).images) == 6


def test_a_word_that_is_no_backbone_is_told(
    tmp_path: Path, scenes: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = str(tmp_path / "masks.json")
    command = ["masks", str(scenes / "images"), "--out", out, "--backbone", "vit_smal"]
    assert run_command(command) == 2
    told = capsys.readouterr().err
    assert "no backbone named 'vit_smal'; " in told
    assert told.count("\n") == 1
