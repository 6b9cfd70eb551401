from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, fields, is_dataclass, replace
from itertools import pairwise
from pathlib import Path
from typing import Any, get_type_hints

import pytest
import yaml

from soloist import config as config_module
from soloist.cli.options import field_docs, given, option_group
from soloist.config import Config, FreeMaskConfig, InferenceConfig, ModelConfig, TrainConfig
from soloist.config.idle import refuse_idle_inference
from soloist.config.presets import PRESETS, differences, load_config, load_config_file, override
from soloist.config.retired import RETIRED
from soloist.errors import ConfigError
from soloist.training.run_folder import open_run

SECTIONS = [kind for kind in get_type_hints(Config).values() if is_dataclass(kind)]


def write_yaml(folder: Path, text: str) -> Path:
    path = folder / "options.yaml"
    path.write_text(text, encoding="utf-8")
    return path


def nested(name: str, value: object) -> dict[str, Any]:
    """`{"train": {"steps": 5}}` from `train.steps` and 5."""
    section, _, field = name.partition(".")
    return {section: {field: value} if field else value}


# Presets


def test_the_paper_preset_is_the_defaults() -> None:
    assert load_config("paper") == Config()
    assert load_config("paper").free_mask == FreeMaskConfig()
    assert PRESETS["paper"] is PRESETS["paper-r50"]
    changed = differences(load_config("paper-r50"), load_config("paper-r101"))
    assert changed == ["backbone.name resnet50 -> resnet101"]


@pytest.mark.parametrize("name", sorted(PRESETS))
def test_each_preset_loads_and_is_consistent(name: str) -> None:
    config = load_config(name)
    assert config == PRESETS[name]
    low, high = config.augment.short_side
    assert low <= high <= config.augment.max_side
    assert config.extract.margin % config.backbone.feature_stride == 0
    assert config.inference.short_side <= config.inference.max_side
    # Without a hole between the ranges: every size of object is learned on some level.
    ranges = config.model.scale_ranges
    assert all(here[1] >= after[0] for here, after in pairwise(ranges))


@pytest.mark.parametrize("name", ["small", "tiny"])
def test_presets_for_photographs_do_not_assume_a_sky(name: str) -> None:
    assert load_config(name).free_mask.min_center_height == 0.0
    assert load_config("paper").free_mask.min_center_height == 0.2


# Values from files and options


@pytest.mark.parametrize(
    ("text", "name", "expected"),
    [
        pytest.param("train: {steps: 7}", "train.steps", 7, id="integer"),
        pytest.param("train: {learning_rate: 1e-4}", "train.learning_rate", 1e-4, id="1e-4"),
        pytest.param("train: {learning_rate: 1.0e-4}", "train.learning_rate", 1e-4, id="1.0e-4"),
        pytest.param("train: {clip_norm: 5}", "train.clip_norm", 5.0, id="integer-for-a-float"),
        pytest.param(
            "free_mask: {max_box_width: .inf}",
            "free_mask.max_box_width",
            float("inf"),
            id="infinite",
        ),
        pytest.param(
            "model: {grids: [5, 4, 3, 2, 1]}", "model.grids", (5, 4, 3, 2, 1), id="list-of-integers"
        ),
        pytest.param(
            "model: {scale_ranges: [[1, 2], [2, 3], [3, 4], [4, 5], [5, 6]]}",
            "model.scale_ranges",
            ((1, 2), (2, 3), (3, 4), (4, 5), (5, 6)),
            id="list-of-pairs",
        ),
        pytest.param("augment: {short_side: [64, 96]}", "augment.short_side", (64, 96), id="pair"),
        pytest.param("augment: {strong: false}", "augment.strong", False, id="switch"),
        pytest.param(
            "self_training: {start_from: previous}",
            "self_training.start_from",
            "previous",
            id="choice",
        ),
        pytest.param("seed: 3", "seed", 3, id="top-level"),
        pytest.param("", "seed", 0, id="empty-file"),
    ],
)
def test_a_file_changes_the_preset(tmp_path: Path, text: str, name: str, expected: object) -> None:
    value: Any = load_config("paper", write_yaml(tmp_path, text))
    for part in name.split("."):
        value = getattr(value, part)
    assert value == expected
    assert type(value) is type(expected)


def test_a_file_changes_nothing_else_and_options_win(tmp_path: Path) -> None:
    path = write_yaml(tmp_path, "train: {steps: 7, batch_size: 3}\nseed: 5")
    loaded = load_config("tiny", path, {"train": {"steps": 9}})
    tiny = PRESETS["tiny"]
    assert loaded == replace(tiny, train=replace(tiny.train, steps=9, batch_size=3), seed=5)
    assert PRESETS["tiny"] is tiny


# Mistakes


@pytest.mark.parametrize(
    ("preset", "hint"),
    [
        pytest.param("tinny", "did you mean tiny", id="near"),
        pytest.param("Paper", "did you mean paper", id="case"),
        pytest.param(
            "huge", "known: paper, paper-r101, paper-r50, released, small, soloist, tiny", id="far"
        ),
        pytest.param("", "paper-r50, released, small, soloist, tiny", id="empty"),
    ],
)
def test_an_unknown_preset_is_reported_with_near_names(preset: str, hint: str) -> None:
    with pytest.raises(ConfigError, match=hint) as caught:
        load_config(preset)
    assert repr(preset) in str(caught.value)


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        pytest.param("tran.steps", 5, "no option 'tran'; did you mean train or", id="section"),
        pytest.param("train.step", 5, "no option 'train.step'; did you mean steps?", id="field"),
        pytest.param("zzz", 5, "no option 'zzz'; known: augment, backbone", id="far-from-all"),
        pytest.param("train", 5, "train must be a group of options", id="value-for-a-section"),
        pytest.param("train", None, "train must be a group of options", id="empty-section"),
        pytest.param(
            "train.steps",
            "many",
            "train.steps must be of type int, got 'many'",
            id="text-for-an-integer",
        ),
        pytest.param(
            "train.steps",
            5.5,
            "train.steps must be of type int, got 5.5",
            id="float-for-an-integer",
        ),
        pytest.param(
            "train.steps",
            True,
            "train.steps must be of type int, got True",
            id="switch-for-an-integer",
        ),
        pytest.param(
            "train.clip_norm",
            True,
            "train.clip_norm must be of type float, got True",
            id="switch-for-a-float",
        ),
        pytest.param(
            "train.clip_norm",
            "big",
            "train.clip_norm must be of type float, got 'big'",
            id="text-for-a-float",
        ),
        pytest.param(
            "augment.strong",
            1,
            "augment.strong must be of type bool, got 1",
            id="integer-for-a-switch",
        ),
        pytest.param(
            "backbone.name", 18, "backbone.name must be of type str, got 18", id="integer-for-text"
        ),
        pytest.param(
            "train.optimizer",
            "adam",
            "must be one of ['sgd', 'adamw'], got 'adam'",
            id="unknown-choice",
        ),
        pytest.param(
            "free_mask.compat", "paper", "one of ['none', 'released']", id="unknown-compat"
        ),
        pytest.param(
            "backbone.output_stride", 4, "must be one of [8, 16, 32], got 4", id="unknown-number"
        ),
        pytest.param("model.grids", 5, "model.grids must be a list, got 5", id="not-a-list"),
        pytest.param(
            "augment.short_side",
            [1, 2, 3],
            "augment.short_side must have 2 values, got 3",
            id="too-many-values",
        ),
        pytest.param(
            "model.scale_ranges",
            [[1, 2], [3]],
            "must have 2 values, got 1",
            id="value-in-a-list-of-lists",
        ),
        pytest.param("model.grids", [1, 2], "need five entries each", id="too-few-levels"),
        pytest.param("free_mask.query_scales", [], "shares in (0, 1]", id="no-scale"),
        pytest.param("free_mask.query_scales", [2.0], "shares in (0, 1]", id="large-scale"),
        pytest.param(
            "free_mask.mask_threshold", 1.0, "must lie in (0, 1), got 1.0", id="threshold-of-one"
        ),
        pytest.param("train.steps", 0, "train.steps must be at least 1, got 0", id="no-steps"),
        pytest.param("train.batch_size", 0, "train.batch_size must be at least 1", id="no-batch"),
    ],
)
def test_a_mistake_is_reported_in_one_line(
    tmp_path: Path, name: str, value: object, message: str
) -> None:
    path = write_yaml(tmp_path, yaml.safe_dump(nested(name, value)))
    with pytest.raises(ConfigError) as caught:
        load_config("tiny", path)
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("backbone.feature_stride", 0),
        ("extract.short_side", 0),
        ("extract.max_side", -1),
        ("extract.margin", -16),
        ("free_mask.min_cells", 0),
        ("free_mask.max_masks", 0),
        ("free_mask.nms_sigma", 0),
        ("free_mask.embedding_size", 0),
        ("model.fpn_channels", 0),
        ("model.head_channels", 48),
        ("model.mask_channels", 0),
        ("model.tower_depth", 0),
        ("model.grids", [8, 6, 4, 2, 0]),
        ("model.level_strides", [8, 8, 16, 32, -32]),
        ("loss.semantic", -1),
        ("loss.category", float("nan")),
        ("augment.short_side", [300, 200]),
        ("augment.short_side", [0, 200]),
        ("augment.crop_size", -1),
        ("augment.flip", 1.5),
        ("augment.color_jitter", -0.1),
        ("augment.copy_paste", -1),
        ("train.learning_rate", -1),
        ("train.clip_norm", 0),
        ("train.ema_decay", 1.1),
        ("train.workers", -2),
        ("train.checkpoint_every", 0),
        ("inference.short_side", 0),
        ("inference.max_per_image", 0),
        ("inference.nms_threshold", 1.5),
        ("self_training.rounds", -1),
        ("pretrain.steps", 0),
        ("pretrain.crop_scale", [0.0, 1.0]),
        ("pretrain.queue_size", 8),
        ("pretrain.norm_groups", 0),
    ],
)
def test_a_value_no_run_could_use_is_refused(name: str, value: object) -> None:
    with pytest.raises(ConfigError) as caught:
        load_config("tiny", None, nested(name, value))
    assert str(caught.value).startswith(f"{name} must ")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("extract.margin", 0),
        ("train.learning_rate", 0.0),
        ("train.warmup_steps", 0),
        ("train.workers", -1),
        ("augment.crop_size", 0),
        ("augment.short_side", [1, 1]),
        ("self_training.rounds", 0),
        ("loss.pairwise_warmup_steps", 0),
        ("free_mask.score_threshold", 0.0),
        ("pretrain.crop_scale", [1.0, 1.0]),
    ],
)
def test_a_value_at_its_bound_is_taken(name: str, value: object) -> None:
    section, field = name.split(".")
    loaded = getattr(getattr(load_config("tiny", None, nested(name, value)), section), field)
    assert loaded == (tuple(value) if isinstance(value, list) else value)


def test_a_mistake_names_where_it_stands(tmp_path: Path) -> None:
    path = write_yaml(tmp_path, "train: {step: 1}")
    with pytest.raises(ConfigError, match=r"options\.yaml: no option 'train\.step'"):
        load_config("tiny", path)
    with pytest.raises(ConfigError, match=r"^options: no option 'train\.step'"):
        load_config("tiny", None, {"train": {"step": 1}})


@pytest.mark.parametrize(
    ("text", "message"),
    [
        pytest.param("train: [", "is not valid YAML", id="malformed"),
        pytest.param("- 1\n- 2\n", "must hold options by name, got list", id="list"),
        pytest.param("just words", "must hold options by name, got str", id="text"),
        pytest.param("a: !!python/object/apply:os.getcwd []", "is not valid YAML", id="code"),
    ],
)
def test_a_file_that_holds_no_options_is_reported_in_one_line(
    tmp_path: Path, text: str, message: str
) -> None:
    with pytest.raises(ConfigError) as caught:
        load_config("tiny", write_yaml(tmp_path, text))
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_missing_file_is_reported(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"cannot read .*none\.yaml \(No such file"):
        load_config("tiny", tmp_path / "none.yaml")


# Options of earlier versions

RETIRED_OPTIONS = [
    pytest.param(section, name, constant, id=f"{section.__name__}.{name}")
    for section, constants in RETIRED.items()
    for name, constant in constants.items()
]


@pytest.mark.parametrize(("section", "name", "constant"), RETIRED_OPTIONS)
def test_what_is_a_constant_now_is_passed_over(
    section: type[Any], name: str, constant: float
) -> None:
    assert name not in {item.name for item in fields(section)}
    assert override(section(), {name: constant}, where="config.json") == section()
    with pytest.raises(ConfigError, match=rf"^config\.json: {name} .* always {constant}$"):
        override(section(), {name: constant + 1}, where="config.json")


def test_a_file_of_an_earlier_version_is_read(tmp_path: Path) -> None:
    path = write_yaml(tmp_path, "loss: {focal_gamma: 2.0}\npretrain: {weight_decay: 0.0001}\n")
    assert load_config("tiny", path) == load_config("tiny")
    with pytest.raises(ConfigError, match=r"^options: loss\.focal_gamma is no option any more"):
        load_config("tiny", None, {"loss": {"focal_gamma": 1.0}})


# Round trip


@pytest.mark.parametrize("name", sorted(PRESETS))
def test_config_yaml_gives_the_same_configuration_back(tmp_path: Path, name: str) -> None:
    config = load_config(name, None, {"free_mask": {"max_box_width": float("inf")}})
    run = open_run(tmp_path / "run", command="fit", inputs={}, config=config, overwrite=False)
    run.close()
    text = (run.path / "config.yaml").read_text(encoding="utf-8")
    assert "!!python" not in text
    assert load_config_file(run.path / "config.yaml") == config


def test_differences_name_fields_and_both_values() -> None:
    left = Config()
    assert differences(left, Config()) == []
    right = replace(left, train=TrainConfig(steps=5), model=ModelConfig(grids=(5, 4, 3, 2, 1)))
    assert differences(left, replace(right, seed=1)) == [
        "model.grids (40, 36, 24, 16, 12) -> (5, 4, 3, 2, 1)",
        "train.steps 30000 -> 5",
        "seed 0 -> 1",
    ]


def test_infinite_values_do_not_differ_from_themselves(tmp_path: Path) -> None:
    path = write_yaml(tmp_path, "free_mask: {max_box_height: .inf}")
    assert differences(Config(), load_config("paper", path)) == []


# Options of the command line


@pytest.mark.parametrize("section", [Config, *SECTIONS], ids=lambda kind: str(kind.__name__))
def test_every_field_is_described_for_help(section: type[Any]) -> None:
    plain = {
        item.name
        for item in fields(section)
        if not is_dataclass(get_type_hints(section)[item.name])
    }
    docs = field_docs(section)
    assert plain <= set(docs)
    assert all(text.endswith(".") or text.endswith(")") for text in docs.values())


def test_field_docs_are_those_under_the_fields() -> None:
    assert (
        field_docs(config_module.AugmentConfig)["flip"]
        == "Probability of a horizontal flip (ours)."
    )


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        pytest.param({}, {}, id="nothing"),
        pytest.param({"seed": 0}, {"seed": 0}, id="zero-is-given"),
        pytest.param({"train": {"steps": 4}}, {"train": {"steps": 4}}, id="one-field"),
        pytest.param(
            {"train": {"freeze_norm": False}}, {"train": {"freeze_norm": False}}, id="false"
        ),
    ],
)
def test_only_options_that_were_given_override(
    values: Mapping[str, Any], expected: Mapping[str, Any]
) -> None:
    options = option_group("train", "seed")
    train = type(options().train)
    made = options(
        **{
            name: train(**value) if isinstance(value, dict) else value
            for name, value in values.items()
        }
    )
    assert given(made) == expected


def test_option_groups_offer_each_field_of_their_sections() -> None:
    made = option_group("train", "augment")()
    for section in ("train", "augment"):
        assert asdict(made)[section].keys() == asdict(Config())[section].keys()


def test_override_checks_sections_that_are_not_whole() -> None:
    assert override(TrainConfig(), {"steps": 3}, where="here") == TrainConfig(steps=3)
    with pytest.raises(ConfigError, match="here: no option 'stepz'; did you mean steps"):
        override(TrainConfig(), {"stepz": 3}, where="here")


@pytest.mark.parametrize(
    "text",
    [pytest.param("1: 2\n", id="number"), pytest.param("on: 3\n", id="yaml-truth")],
)
def test_a_key_that_is_no_text_is_an_unknown_option(tmp_path: Path, text: str) -> None:
    file = tmp_path / "options.yaml"
    file.write_text(text)
    with pytest.raises(ConfigError, match="no option"):
        load_config("tiny", file)


@pytest.mark.parametrize(
    ("values", "masks", "judged", "message"),
    [
        ({"masks": "reranked"}, "reranked", True, "--inference.masks has no effect where a judge"),
        ({"nms_sigma": 1.0}, "reranked", False, "--inference.nms-sigma has no effect on regions"),
        ({"outline_radius": 0.1}, "regions", True, "--inference.outline-radius has no effect on"),
    ],
)
def test_options_that_shape_nothing_that_is_found_are_refused(
    values: dict[str, Any], masks: str, judged: bool, message: str
) -> None:
    config = override(InferenceConfig(), {"masks": masks}, where="test")
    with pytest.raises(ConfigError, match=message):
        refuse_idle_inference(values, config, judged=judged)
    refuse_idle_inference({"short_side": 64}, config, judged=judged)
    refuse_idle_inference({"nms_sigma": 1.0}, InferenceConfig(), judged=judged)
