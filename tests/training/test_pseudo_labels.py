from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from soloist.config import Config, SelfTrainingConfig
from soloist.config.presets import override
from soloist.data.coco.read import load_coco
from soloist.data.sources import find_images
from soloist.errors import DataError
from soloist.inference.segmenter import load
from soloist.runtime.device import Runtime
from soloist.structures import Instances
from soloist.training.pseudo_labels import PseudoLabeler, estimated_threshold, least_score
from soloist.training.run_folder import open_run
from soloist.training.self_training import fit

RUNTIME = Runtime(device=torch.device("cpu"), precision="fp32")


class FakeLabeler:
    """Finds boxes of 10 to 100 columns on an image of 100."""

    def __call__(self, pixels: NDArray[np.uint8], size: tuple[int, int]) -> Instances:
        widths = torch.tensor([10, 50, 95, 100])
        masks = torch.arange(size[1])[None, None] < widths[:, None, None]
        zeros = torch.zeros(4)
        return Instances(
            image_size=size,
            masks=masks.expand(4, *size),
            scores=torch.tensor([0.9, 0.8, 0.7, 0.6]),
            boxes=torch.stack([zeros, zeros, widths.float(), zeros + size[0]], dim=1),
            embeddings=torch.eye(4),
        )


@pytest.mark.parametrize(
    ("limit", "kept"),
    [
        pytest.param(0.95, [0.9, 0.8], id="released"),
        pytest.param(2.0, [0.9, 0.8, 0.7, 0.6], id="no-limit"),
        pytest.param(0.1, [], id="narrow"),
    ],
)
def test_wide_masks_are_no_pseudo_labels(limit: float, kept: list[float]) -> None:
    options = SelfTrainingConfig(max_box_width=limit)
    labeler = PseudoLabeler(FakeLabeler(), options)  # type: ignore[arg-type]  # a stand-in
    found = labeler(np.zeros((20, 100, 3), dtype=np.uint8), (20, 100))
    assert found.scores.tolist() == pytest.approx(kept)
    # Each keeps the embedding the network predicted for it.
    assert torch.equal(found.embeddings, torch.eye(4)[: len(kept)])


# Thresholds


@pytest.mark.parametrize(
    ("scores", "count", "least"),
    [
        pytest.param([0.1, 0.9, 0.5], 2, 0.5, id="some"),
        pytest.param([0.1, 0.9, 0.5], 7, 0.1, id="all"),
        pytest.param([0.1, 0.9, 0.5], 0, 0.9, id="at-least-one"),
        pytest.param([], 3, 0.0, id="none"),
    ],
)
def test_the_least_of_the_best_scores(scores: list[float], count: int, least: float) -> None:
    assert least_score(scores, count) == least


def test_an_estimated_threshold_leaves_so_many_masks_an_image(
    model_folder: Path, scenes: Path
) -> None:
    segmenter = load(model_folder, device="cpu", precision="fp32")
    images = find_images(scenes / "images")
    results = segmenter.predict(scenes / "images")
    found = sorted((float(score) for one in results for score in one.scores), reverse=True)
    assert len(found) > 12
    options = SelfTrainingConfig(masks_per_image=2.0, max_box_width=2.0)
    assert estimated_threshold(segmenter, images, options) == pytest.approx(found[11])


def test_an_estimate_needs_one_image_that_can_be_read(
    model_folder: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "1.jpg").write_text("no image")
    segmenter = load(model_folder, device="cpu", precision="fp32")
    with pytest.raises(DataError, match="none of the 1 images that the threshold"):
        estimated_threshold(segmenter, find_images(tmp_path), SelfTrainingConfig())
    assert "left out of the estimate: '1.jpg'" in caplog.text


# In a run


@pytest.mark.slow
def test_a_round_with_an_estimated_threshold(
    tmp_path: Path, tiny_config: Config, scenes: Path
) -> None:
    estimated = {"masks_per_image": 1.0, "max_box_width": 2.0}
    sure_of_all = {"category_threshold": 0.0, "score_threshold": 0.0}
    options = {"inference": sure_of_all, "self_training": estimated}
    config = override(tiny_config, options, where="test")
    with open_run(tmp_path, command="fit", inputs={}, config=config, overwrite=False) as run:
        fit(find_images(scenes / "images"), run, config, RUNTIME)
    assert len(load_coco(run.path / "pseudo_labels_1.json")) == 6
