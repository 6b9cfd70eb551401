"""The values of the presets: the paper's and the released configuration's, and ours."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import asdict, is_dataclass
from pathlib import Path
from typing import Any

import numpy.typing as npt
import pytest

from soloist.cli.options import field_docs
from soloist.config import Config
from soloist.config.presets import PRESETS, differences, released, user_options
from soloist.targets import CENTER_SIGMA

Golden = Callable[[str], Mapping[str, npt.NDArray[Any]]]
NO_LIMIT = float("inf")


def value(preset: str, name: str) -> Any:
    config: Any = PRESETS[preset]
    for part in name.split("."):
        config = getattr(config, part)
    return config


@pytest.mark.parametrize(
    ("name", "paper", "small", "tiny"),
    [
        ("backbone.name", "resnet50", "resnet18", "resnet18"),
        ("backbone.feature_stride", 32, 16, 16),
        ("extract.short_side", 800, 576, 576),
        ("extract.margin", 0, 32, 32),
        ("free_mask.query_scales", (1.0, 0.5, 0.25), (1.0, 0.5, 0.25), (1.0, 0.5, 0.25)),
        ("free_mask.mask_threshold", 0.5, 0.55, 0.55),
        ("free_mask.min_cells", 2, 2, 2),
        ("free_mask.max_masks", 20, 20, 20),
        ("free_mask.score_threshold", 0.7, 0.73, 0.73),
        ("free_mask.max_box_width", 0.95, 0.95, 0.95),
        ("free_mask.max_box_height", NO_LIMIT, 0.95, 0.95),
        ("free_mask.min_center_height", 0.2, 0.0, 0.0),
        ("free_mask.largest_part", False, True, True),
        ("free_mask.embedding_size", 128, 128, 128),
        ("loss.semantic", 4.0, 4.0, 4.0),
        ("loss.max_projection", 1.0, 1.0, 1.0),
        ("loss.avg_projection", 0.1, 1.0, 1.0),
        ("loss.pairwise_affinity", 1.0, 1.0, 1.0),
        ("loss.pairwise_warmup_steps", 1000, 500, 200),
        ("loss.color_threshold", 0.3, 0.3, 0.3),
        ("augment.short_side", (640, 800), (352, 448), (240, 320)),
        ("augment.crop_size", 0, 384, 256),
        ("train.freeze_norm", True, False, False),
        ("train.frozen_stages", 0, 0, 1),
        ("train.optimizer", "sgd", "adamw", "adamw"),
        ("train.schedule", "constant", "cosine", "cosine"),
        ("train.ema_decay", 0.0, 0.998, 0.995),
        ("inference.nms", "matrix", "matrix", "matrix"),
        ("inference.nms_kernel", "gaussian", "gaussian", "gaussian"),
        ("self_training.score_threshold", 0.3, 0.3, 0.3),
        ("self_training.max_per_image", 20, 20, 20),
        ("self_training.start_from", "backbone", "backbone", "previous"),
    ],
)
def test_presets_have_the_documented_values(name: str, paper: Any, small: Any, tiny: Any) -> None:
    assert value("paper", name) == paper
    assert value("small", name) == small
    assert value("tiny", name) == tiny


@pytest.mark.parametrize(
    ("archive", "constants"),
    [
        pytest.param(
            "color_similarity", {"color_thresh": "loss.color_threshold"}, id="color-similarity"
        ),
        pytest.param(
            "targets",
            {
                "scale_ranges": "model.scale_ranges",
                "num_grids": "model.grids",
                "strides": "model.level_strides",
            },
            id="targets",
        ),
        pytest.param(
            "losses",
            {
                "ins_loss_weight": "loss.max_projection",
                "loss_ins_max_factor": "loss.max_projection",
                "loss_ins_factor": "loss.avg_projection",
                "pairwise_factor": "loss.pairwise_affinity",
                "warmup_iters": "loss.pairwise_warmup_steps",
                "color_thresh": "loss.color_threshold",
                "focal_weight": "loss.category",
            },
            id="losses",
        ),
        pytest.param(
            "inference",
            {
                "score_thr": "inference.category_threshold",
                "update_thr": "inference.score_threshold",
                "mask_thr": "inference.mask_threshold",
                "nms_pre": "inference.max_before_nms",
                "max_per_img": "inference.max_per_image",
                "nms_sigma": "inference.nms_sigma",
                "instance_strides": "model.level_strides",
                "num_grids": "model.grids",
            },
            id="inference",
        ),
    ],
)
def test_paper_constants_equal_the_released_code(
    golden: Golden, archive: str, constants: dict[str, str]
) -> None:
    for key, name in constants.items():
        wanted = golden(archive)[f"const_{key}"].tolist()
        assert _as_lists(value("paper", name)) == wanted


def test_the_share_of_a_box_that_is_positive_is_the_released_codes(golden: Golden) -> None:
    assert golden("targets")["const_sigma"].tolist() == CENTER_SIGMA


# The released code's behaviour


def test_the_released_preset_is_the_paper_with_its_switches() -> None:
    assert differences(PRESETS["paper"], PRESETS["released"]) == [
        "free_mask.compat none -> released",
        "loss.semantic 4.0 -> 0.0",
        "loss.compat none -> released",
        "inference.compat none -> released",
    ]


@pytest.mark.parametrize("name", ["small", "tiny"])
def test_any_configuration_can_follow_the_released_code(name: str) -> None:
    config = released(PRESETS[name])
    changed = {change.split()[0] for change in differences(PRESETS[name], config)}
    assert changed == {"free_mask.compat", "loss.semantic", "loss.compat", "inference.compat"}
    # No section has a switch that is forgotten.
    assert {f"{section}.compat" for section in sections_with("compat")} < changed


def sections_with(option: str) -> set[str]:
    """Sections of the configuration that have this option."""
    return {
        section
        for section, values in asdict(Config()).items()
        if isinstance(values, dict) and option in values
    }


@pytest.mark.parametrize("name", ["paper", "small", "tiny"])
def test_no_other_preset_follows_it(name: str) -> None:
    config = PRESETS[name]
    assert {config.free_mask.compat, config.loss.compat, config.inference.compat} == {"none"}


def _as_lists(item: Any) -> Any:
    return [_as_lists(part) for part in item] if isinstance(item, tuple) else item


# Options of the machine, not of the method, and the switches that choose another source.
WITHOUT_SOURCE = {"log_every", "checkpoint_every", "workers", "cache_gb", "compat"}
SOURCE = re.compile(r"(released|section|table|ours|SOLOv2|MoCo|RetinaNet)[^()]*\)")


@pytest.mark.parametrize("section", [name for name in asdict(Config()) if name != "pretrain"])
def test_each_option_of_the_paper_preset_tells_its_source(section: str) -> None:
    options = getattr(PRESETS["paper-r50"], section)
    if not is_dataclass(options):
        return
    for name, text in field_docs(type(options)).items():
        assert name in WITHOUT_SOURCE or SOURCE.search(text), f"{section}.{name}: {text}"


def test_the_preset_soloist_is_tiny_with_what_is_not_in_the_paper() -> None:
    """docs/beyond-the-paper.md has what each is worth; the network and its training are equal."""
    changed = {change.split()[0] for change in differences(PRESETS["tiny"], PRESETS["soloist"])}
    assert changed == {
        "extract.proposals",
        "extract.short_side",
        "extract.max_side",
        "loss.max_projection",
        "loss.avg_projection",
        "loss.pairwise_affinity",
        "loss.full_mask_dice",
        "augment.weak",
        "augment.copy_paste",
        "augment.paste_scale",
        "augment.color_jitter",
        "augment.gray",
        "augment.blur",
        "augment.erase",
        "inference.masks",
        "inference.short_side",
        "inference.max_side",
        "inference.nms_sigma",
        "self_training.rounds",
    }
    assert PRESETS["soloist"].extract.proposals == "regions"


def test_what_a_user_gave_is_joined_and_the_command_line_wins(tmp_path: Path) -> None:
    file = tmp_path / "mine.yaml"
    file.write_text("train: {steps: 3, batch_size: 2}\nseed: 5\nbackbone: densecl-r50\n")
    given = user_options(file, {"train": {"steps": 9}, "inference": {"masks": "network"}})
    assert given["train"] == {"steps": 9, "batch_size": 2}
    assert (given["seed"], given["inference"]) == (5, {"masks": "network"})
    assert isinstance(given["backbone"], dict)
    assert user_options(None, {}) == {}
