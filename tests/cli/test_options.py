"""`--backbone`: network and weights in one word, on the command line, in YAML and in Python."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from soloist.cli import run_command
from soloist.cli.options import given, option_group
from soloist.cli.runs import USER_ERROR
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


def test_a_word_that_is_no_backbone_is_reported(
    tmp_path: Path, scenes: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = str(tmp_path / "masks.json")
    command = ["masks", str(scenes / "images"), "--out", out, "--backbone", "vit_smal"]
    assert run_command(command) == 2
    printed = capsys.readouterr().err
    assert "no backbone named 'vit_smal'; " in printed
    assert printed.count("\n") == 1


# Options without effect


@pytest.mark.parametrize(
    ("command", "message"),
    [
        ("predict a --min-area 5", "--min-area has no effect without --format"),
        ("predict a --tolerance 0", "--tolerance has no effect without --format"),
        ("predict a --label cat", "--label has no effect without --format"),
        ("predict a --out b.json --overlay-score 0.5", "--overlay-score has no effect without --o"),
        ("predict a --min-score 0.5 --inference.score-threshold 0.4", "beside --min-score"),
        ("predict a --preset tiny", "--preset has no effect without --model"),
        ("predict a --model {model} --preset tiny", "has its own record; leave out the preset"),
        ("predict a --track-score 0.5", "--track-score is for a video"),
        ("predict a.mp4 --min-score 0.5", "--min-score is for images"),
        ("predict a.mp4 --json", "--json is for images"),
        ("predict a --json --format coco", "--json has no effect beside --format"),
        ("predict a --json --shard-size 5", "--json has no effect with --shard-size"),
        ("predict a --ray-workers 2", "--ray-workers has no effect without --engine ray"),
        ("predict a --inference.nms-threshold 0.4", "--inference.nms-threshold has no effect on"),
        (
            "predict a --inference.masks network --inference.nms-threshold 0.4",
            "--inference.nms-threshold has no effect with",
        ),
        ("predict a --format coco --tolerance 2", "--tolerance is for polygons"),
        ("predict a --format yolo --image-url /x", "--image-url is for label-studio"),
        ("convert a.json --format label-maps --out b --tolerance 2", "--tolerance is for polygons"),
        ("masks a --out b.json --regions.max-masks 5", "--regions.max-masks has no effect where"),
        (
            "fit a --out b --preset soloist --free-mask.max-masks 5",
            "--free-mask.max-masks has no effect where masks are merged regions",
        ),
        ("fit a --out b --budget 5m --train.steps 9", "--train.steps has no effect with --budget"),
        ("fit a --out b --rounds 1 --self-training.rounds 2", "beside --rounds"),
        (
            "fit a --out b --rounds 0 --self-training.max-per-image 5",
            "--self-training.max-per-image has no effect without a round",
        ),
        ("train a --masks b --out c --init d --backbone.weights none", "--backbone.weights has no"),
        ("train a --masks b --out c --augment.no-strong --augment.blur 0", "--augment.blur has no"),
        ("cluster a.json --device cpu", "--device has no effect on embeddings"),
        ("cluster a.json --preset tiny", "--preset has no effect on embeddings"),
        ("cluster a.json --extract.margin 8", "--extract.margin has no effect on embeddings"),
        ("cluster a.json --images b", "--images has no effect without --sheets"),
        ("cluster a.json --count 3", "--count has no effect without --like"),
        ("cluster a.json --like 3 --groups 4", "--groups has no effect with --like"),
    ],
)
def test_an_option_without_effect_is_refused_at_once(
    command: str,
    message: str,
    model_folder: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    assert run_command(command.format(model=model_folder).split()) == USER_ERROR
    line = capsys.readouterr().err
    assert message in line
    assert line.endswith("leave it out\n") or "leave out" in line
    assert line.count("\n") == 1
    assert list(tmp_path.iterdir()) == []


# Help


def test_help_shows_the_defaults_of_presets(capsys: pytest.CaptureFixture[str]) -> None:
    pages = {}
    for verb in ("fit", "predict", "convert", "finetune"):
        run_command([verb, "--help"])
        pages[verb] = " ".join(capsys.readouterr().out.replace("│", " ").split())
    assert "[default: 0.7 (paper, paper-r101); 0.73 (small, tiny, soloist)]" in pages["fit"]
    assert "Seed of everything that draws random numbers. [default: 0]" in pages["fit"]
    assert "[default: the model's]" in pages["predict"]
    assert "[default: 1]" in pages["convert"]
    # Of true masks the semantic loss has no weight, whatever the preset.
    section = pages["finetune"].partition("--loss.semantic")[2]
    assert section.partition("--loss")[0].strip().endswith("[default: 0]")


def test_help_names_all_that_images_and_models_can_be(capsys: pytest.CaptureFixture[str]) -> None:
    run_command(["predict", "--help"])
    page = " ".join(capsys.readouterr().out.replace("│", " ").split())
    assert "lists, COCO files, tar or zip files, https addresses." in page
    assert "Run folder of fit, finetune, train or demo, a file such as" in page.replace("`", "")
