from __future__ import annotations

import logging
from dataclasses import replace
from pathlib import Path

import pytest

from soloist.config import Config
from soloist.data.coco.read import load_coco
from soloist.data.sources import find_images
from soloist.runtime.device import Runtime
from soloist.training.prospects import (
    MIN_STEPS,
    least_steps,
    warn_of_few_masks,
    warn_of_few_steps,
)
from soloist.training.run_folder import open_run
from soloist.training.train import train


def test_steps_are_enough_for_a_network_and_for_a_pass() -> None:
    assert least_steps(40, 8) == MIN_STEPS
    assert least_steps(8001, 8) == 1001


def test_too_few_steps_are_warned_of(caplog: pytest.LogCaptureFixture) -> None:
    warn_of_few_steps(200, 200, 1.0)
    assert caplog.messages == []
    warn_of_few_steps(20, 200, 2.0)
    assert "20 steps are planned, with fewer than 200" in caplog.text
    assert "stop now and add 6 min to --budget" in caplog.text


def test_coarse_masks_on_few_images_are_warned_of(
    scenes: Path, caplog: pytest.LogCaptureFixture, tiny_config: Config
) -> None:
    images = find_images(scenes / "images")
    coarse = load_coco(scenes / "annotations.json")
    warn_of_few_masks(coarse, images, tiny_config)
    assert caplog.messages == []
    kept = [image.id for image in coarse.images][:2]
    few = {key: masks if key in kept else () for key, masks in coarse.annotations.items()}
    warn_of_few_masks(replace(coarse, annotations=few), images, tiny_config)
    assert "coarse masks on only 2 of 6 images" in caplog.text
    assert "use --preset soloist, or lower --free-mask.score-threshold" in caplog.text


@pytest.mark.slow
def test_the_warning_comes_before_the_steps_are_made(
    scenes: Path,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
    tiny_config: Config,
    runtime: Runtime,
) -> None:
    caplog.set_level(logging.INFO, logger="soloist")
    config = replace(tiny_config, train=replace(tiny_config.train, steps=100))
    images, coarse = find_images(scenes / "images"), load_coco(scenes / "annotations.json")
    with open_run(
        tmp_path / "run", command="fit", inputs={}, config=config, overwrite=False
    ) as run:
        train(
            images,
            coarse,
            run,
            config,
            runtime,
            model_folder=run.model,
            budget_seconds=1.0,
        )
    assert "the budget is too small: 20 steps are planned" in caplog.text
