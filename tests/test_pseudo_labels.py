from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from tests.conftest import KilledAt

from soloist import pseudo_labels
from soloist.config import Config, SelfTrainingConfig
from soloist.data.coco import (
    CocoImage,
    instances_to_annotations,
    load_coco,
    write_coco,
)
from soloist.data.sources import find_images
from soloist.engine.run_folder import RunFolder, open_run
from soloist.engine.runtime import Runtime
from soloist.errors import DataError
from soloist.presets import override
from soloist.pseudo_labels import (
    PseudoLabeler,
    estimated_threshold,
    least_score,
    rescored,
    write_rescored,
)
from soloist.segmenter import load
from soloist.self_training import fit
from soloist.structures import Instances

RUNTIME = Runtime(device=torch.device("cpu"), precision="fp32")


class FakeSegmenter:
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
    labeler = PseudoLabeler(FakeSegmenter(), options)  # type: ignore[arg-type]  # a stand-in
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
    (tmp_path / "1.jpg").write_text("no picture")
    segmenter = load(model_folder, device="cpu", precision="fp32")
    with pytest.raises(DataError, match="none of the 1 images that the threshold"):
        estimated_threshold(segmenter, find_images(tmp_path), SelfTrainingConfig())
    assert "left out of the estimate: '1.jpg'" in caplog.text


# Rescored proposals

IMAGES = [CocoImage(1, "a.jpg", 4, 100), CocoImage(2, "b.jpg", 4, 100)]


def columns(image: CocoImage, spans: Sequence[tuple[int, int, float]], first: int) -> list[dict]:  # type: ignore[type-arg]
    """Entries of masks that span columns, with scores."""
    numbers = torch.arange(image.width)
    masks = torch.stack(
        [
            ((numbers >= left) & (numbers < right)).expand(image.height, -1)
            for left, right, _ in spans
        ]
    )
    instances = Instances(
        image_size=(image.height, image.width),
        masks=masks,
        scores=torch.tensor([score for *_, score in spans]),
        boxes=torch.zeros(len(spans), 4),
        embeddings=torch.zeros(len(spans), 0),
    )
    return instances_to_annotations(instances, image.id, first)


@pytest.fixture
def files(tmp_path: Path) -> tuple[Path, Path]:
    """Three proposals and two predictions on the first image, a proposal alone on the second."""
    proposals, predictions = tmp_path / "proposals.json", tmp_path / "predictions.json"
    entries = columns(IMAGES[0], [(0, 10, 0.9), (20, 40, 0.4), (60, 100, 0.6)], 1)
    entries += columns(IMAGES[1], [(0, 50, 0.8)], 4)
    rows = np.arange(8, dtype=np.float32).reshape(4, 2)
    write_coco(proposals, IMAGES, entries, embeddings=rows)
    # The files number and order their images as they like.
    others = [replace(IMAGES[1], id=7), replace(IMAGES[0], id=9)]
    seen = columns(others[1], [(20, 40, 0.9), (60, 80, 0.5)], 1)
    write_coco(predictions, others, seen)
    return proposals, predictions


def test_a_proposal_scores_by_itself_and_by_what_the_network_sees(
    files: tuple[Path, Path],
) -> None:
    proposals, predictions = (load_coco(path) for path in files)
    records = {record.file_name: record for record in predictions.images}
    found = rescored(proposals, IMAGES[0], predictions, records["a.jpg"])
    assert [one.index for one in found] == [1, 2, 0]
    wanted = [(0.4**2 * 0.9) ** (1 / 3), (0.6**2 * 0.5 * 0.5) ** (1 / 3), 0.0]
    assert [one.score for one in found] == pytest.approx(wanted)
    assert [one.score for one in rescored(proposals, IMAGES[1], predictions, records["b.jpg"])] == [
        0.0
    ]


@pytest.mark.parametrize(
    ("options", "rows"),
    [
        pytest.param(SelfTrainingConfig(), [1, 2], id="threshold"),
        pytest.param(SelfTrainingConfig(score_threshold=0.5), [1], id="higher"),
        pytest.param(SelfTrainingConfig(score_threshold=0.0, max_per_image=2), [1, 2, 3], id="two"),
        pytest.param(SelfTrainingConfig(masks_per_image=0.5), [1], id="half-a-mask-an-image"),
        pytest.param(SelfTrainingConfig(max_box_width=0.3), [1], id="narrow"),
    ],
)
def test_which_proposals_become_labels(
    tmp_path: Path, files: tuple[Path, Path], options: SelfTrainingConfig, rows: list[int]
) -> None:
    out = tmp_path / "labels.json"
    write_rescored(*files, out, options, {"stage": "x"})
    labels = load_coco(out)
    assert [image.file_name for image in labels.images] == ["a.jpg", "b.jpg"]
    assert labels.info["stage"] == "x"
    assert labels.embeddings is not None
    assert (labels.embeddings[:, 0] / 2).tolist() == rows
    original = load_coco(files[0])
    kept = [one.rle for found in labels.annotations.values() for one in found]
    all_of_them = [one.rle for found in original.annotations.values() for one in found]
    assert kept == [all_of_them[row] for row in rows]


def test_proposals_without_embeddings_are_rescored_too(tmp_path: Path) -> None:
    write_coco(tmp_path / "p.json", IMAGES, columns(IMAGES[0], [(0, 10, 0.9)], 1))
    write_rescored(
        tmp_path / "p.json", tmp_path / "p.json", tmp_path / "out.json", SelfTrainingConfig(), {}
    )
    labels = load_coco(tmp_path / "out.json")
    assert (len(labels), labels.embeddings) == (1, None)


# In a run

ROUND = {
    "inference": {"category_threshold": 0.0, "score_threshold": 0.0},
    "self_training": {"labels": "proposals", "score_threshold": 0.0, "max_per_image": 2},
}


def fit_in(path: Path, config: Config, images: Path) -> RunFolder:
    with open_run(path, command="fit", inputs={}, config=config, overwrite=False) as run:
        fit(find_images(images), run, config, RUNTIME)
        return run


def test_a_round_on_rescored_proposals_goes_on_after_a_kill(
    tmp_path: Path, tiny_config: Config, scenes: Path, killed_at: KilledAt
) -> None:
    config = override(tiny_config, ROUND, where="test")
    whole = fit_in(tmp_path / "whole", config, scenes / "images")
    labels = load_coco(whole.path / "pseudo_labels_1.json")
    masks = {
        json.dumps(one.rle)
        for found in load_coco(whole.path / "free_masks.json").annotations.values()
        for one in found
    }
    chosen = [one for found in labels.annotations.values() for one in found]
    assert 0 < len(chosen) < len(masks)
    assert {json.dumps(one.rle) for one in chosen} <= masks
    assert max(len(found) for found in labels.annotations.values()) == 2
    with killed_at(pseudo_labels, "write_rescored", 1):
        fit_in(tmp_path / "killed", config, scenes / "images")
    resumed = fit_in(tmp_path / "killed", config, scenes / "images")
    for name in ("pseudo_labels_1.json", "model/model.safetensors"):
        assert (resumed.path / name).read_bytes() == (whole.path / name).read_bytes()


def test_a_round_with_an_estimated_threshold(
    tmp_path: Path, tiny_config: Config, scenes: Path
) -> None:
    estimated = {"masks_per_image": 1.0, "max_box_width": 2.0}
    options = {"inference": ROUND["inference"], "self_training": estimated}
    run = fit_in(tmp_path / "run", override(tiny_config, options, where="test"), scenes / "images")
    assert len(load_coco(run.path / "pseudo_labels_1.json")) == 6
