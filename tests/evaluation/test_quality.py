from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from soloist.cli import run_command
from soloist.cli.runs import DONE, SOME_FAILED, USER_ERROR
from soloist.data.coco.partial import PartialShards
from soloist.data.coco.read import load_coco
from soloist.data.coco.rle import encode_masks
from soloist.data.coco.types import CocoImage
from soloist.data.coco.write import write_coco
from soloist.data.images import read_image
from soloist.evaluation import quality
from soloist.evaluation.quality import View, ViewLabeler, estimate_quality
from soloist.inference.segmenter import Segmenter, load
from soloist.structures import Instances

Pixels = NDArray[np.uint8]


@pytest.fixture
def segmenter(model_folder: Path) -> Segmenter:
    return load(model_folder, device="cpu", precision="fp32")


def test_masks_of_a_mirrored_view_are_mirrored_back(
    segmenter: Segmenter, scenes: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A segmenter that marks where it is bright sees the same in every view."""

    def bright(self: Segmenter, pixels: Pixels, size: tuple[int, int]) -> Instances:
        assert pixels.shape[:2] == size
        mask = torch.from_numpy(pixels.mean(axis=2) > 100)[None]
        return Instances(
            image_size=size,
            masks=mask,
            scores=torch.ones(1),
            boxes=torch.zeros(1, 4),
            embeddings=torch.zeros(1, 128),
        )

    monkeypatch.setattr(Segmenter, "__call__", bright)
    pixels = np.zeros((20, 30, 3), dtype=np.uint8)
    pixels[3:9, 2:12] = 255
    found = ViewLabeler(segmenter)(pixels, (20, 30))
    assert found.agreements is not None
    assert found.agreements.tolist() == [[1, 1, 1, 1]]
    half = View("", segmenter, lambda pixels: pixels, mirrored=True)
    assert (half.masks(pixels, (20, 30))[0, 3:9, 18:28]).all()


def test_a_segmenter_agrees_with_itself_and_masks_are_those_of_predict(
    segmenter: Segmenter, scenes: Path
) -> None:
    pixels = read_image(scenes / "images" / "000001.jpg")
    size = (pixels.shape[0], pixels.shape[1])
    labeler = ViewLabeler(segmenter, segmenter)
    assert [view.name for view in labeler.views] == [
        "mirrored",
        "scale 0.8",
        "scale 1.25",
        "colours",
        "other segmenter",
    ]
    found, plain = labeler(pixels, size), segmenter(pixels, size)
    assert found.agreements is not None
    assert found.agreements.shape == (len(plain), 5)
    assert np.array_equal(np.asarray(found.masks), plain.masks.numpy())
    torch.testing.assert_close(found.agreements[:, 4], torch.ones(len(plain)))
    assert ((found.agreements >= 0) & (found.agreements <= 1)).all()
    assert found.agreements[:, :4].min() < 1
    assert found.filter(found.scores > 2).agreements is not None


def test_scaled_views_of_regions_see_other_pixels(segmenter: Segmenter, scenes: Path) -> None:
    """Regions do not depend on the size of the network's input: their image is resized."""
    inference = replace(segmenter.config.inference, masks="regions")
    config = replace(segmenter.config, inference=inference)
    of_regions = Segmenter(segmenter.network, config, segmenter.runtime, {1: "leaf"})
    labeler = ViewLabeler(of_regions)
    assert [view.segmenter.categories for view in labeler.views] == [{1: "leaf"}] * 4
    pixels = read_image(scenes / "images" / "000001.jpg")
    found = labeler(pixels, (pixels.shape[0], pixels.shape[1]))
    assert found.agreements is not None
    assert len(found) > 0
    assert (found.agreements[:, 1:3] < 1).any(dim=0).all()


def test_agreements_have_a_row_for_each_mask() -> None:
    nothing = Instances.empty((4, 5))
    assert dataclasses.replace(nothing, agreements=torch.zeros(0, 4)).agreements is not None
    with pytest.raises(ValueError, match=r"agreements must be \(0, 4\), got \(1, 4\)"):
        dataclasses.replace(nothing, agreements=torch.zeros(1, 4))


def test_views_of_a_large_image_are_compared_at_a_smaller_size(
    segmenter: Segmenter, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(quality, "MAX_PIXELS", 600)
    pixels = np.random.default_rng(0).integers(0, 255, (60, 90, 3), dtype=np.uint8)
    found = ViewLabeler(segmenter, segmenter)(pixels, (60, 90))
    assert found.masks.shape[1:] == (60, 90)
    assert found.agreements is not None
    # The same masks, shrunk in two ways: a few fall apart in one of them.
    assert found.agreements[:, 4].median() > 0.9


def test_recolouring_keeps_the_shape_and_changes_the_colours() -> None:
    pixels = np.random.default_rng(0).integers(0, 255, (6, 8, 3), dtype=np.uint8)
    changed = quality._recolour(pixels)
    assert changed.shape == pixels.shape
    assert changed.dtype == np.uint8
    assert np.abs(changed.astype(int) - pixels).mean() > 5


def strip(start: int, end: int) -> NDArray[np.bool_]:
    mask = np.zeros((4, 20), dtype=np.bool_)
    mask[:, start:end] = True
    return mask


@pytest.fixture
def judged(tmp_path: Path) -> Callable[..., Path]:
    """Three images: one right and sure, one wrong and unsure, one without masks."""

    def write(name: str, *, truth: bool = False) -> Path:
        masks = [(1, 0, 10, 0.9, 1.0), (2, 0, 10, 0.9, 0.3), (2, 15, 18, 0.25, 0.5)]
        if truth:
            masks = [(1, 0, 9, 1, 1), (2, 10, 20, 1, 1), (3, 0, 3, 1, 1)]
        records = [
            {
                "id": number,
                "image_id": image,
                "category_id": 1,
                "segmentation": encode_masks(strip(start, end)[None])[0],
                "score": score,
                "agreements": [agreement, agreement],
            }
            for number, (image, start, end, score, agreement) in enumerate(masks, start=1)
        ]
        images = [CocoImage(number, f"{number}.jpg", 4, 20) for number in (1, 2, 3)]
        write_coco(tmp_path / name, images, records)
        return tmp_path / name

    return write


def test_images_that_need_a_look_come_first(judged: Callable[..., Path]) -> None:
    report = estimate_quality(load_coco(judged("p.json")))
    assert [row["file_name"] for row in report["images"]] == ["3.jpg", "2.jpg", "1.jpg"]
    assert [row["estimate"] for row in report["images"]] == pytest.approx([0, 0.3, 1])
    assert report["expected_precision"] == pytest.approx(1 / 3)
    assert "comparison" not in report
    assert all(one["precision"] is None for one in report["bins"])


def test_estimates_are_compared_with_a_ground_truth_and_do_not_depend_on_it(
    judged: Callable[..., Path],
) -> None:
    file = load_coco(judged("p.json"))
    blind = estimate_quality(file)
    report = estimate_quality(file, load_coco(judged("t.json", truth=True)))
    assert [row["ap50"] for row in report["images"]] == [0, 0, 1]
    for one, other in zip(blind["images"], report["images"], strict=True):
        assert one["estimate"] == other["estimate"]
    assert [one["expected_precision"] for one in report["bins"]] == [
        one["expected_precision"] for one in blind["bins"]
    ]
    assert [one["precision"] for one in report["bins"]] == [0, 0.5]
    compared = report["comparison"]
    assert compared["agreement_iou"]["count"] == 3
    # Overlaps 0.9, 0 and 0.3 at agreements 1, 0.3 and 0.5.
    assert compared["agreement_iou"]["spearman"] == pytest.approx(1)
    assert [row["precision"] for row in report["images"]] == [None, 0, 1]
    assert [row["kept"] for row in report["images"]] == [0, 1, 1]
    assert compared["estimate_precision"]["count"] == 2
    assert compared["estimate_ap50"]["count"] == 3
    json.dumps(report, allow_nan=False)


def test_no_mask_anywhere_is_a_report_too(tmp_path: Path) -> None:
    write_coco(tmp_path / "p.json", [CocoImage(1, "1.jpg", 4, 20)], [])
    report = estimate_quality(load_coco(tmp_path / "p.json"))
    assert (report["masks"], report["expected_precision"], report["bins"]) == (0, None, [])
    assert report["images"][0]["estimate"] == 0


def run(*arguments: str | Path) -> int:
    return run_command([str(argument) for argument in arguments])


COMMON = ("--device", "cpu", "--precision", "fp32")


@pytest.mark.slow
def test_the_command_estimates_compares_and_lists_what_failed(
    scenes: Path, model_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    broken = tmp_path / "broken.jpg"
    broken.write_text("no image")
    out = tmp_path / "estimate.json"
    truth = scenes / "annotations.json"
    first, second = (scenes / "images" / f"00000{number}.jpg" for number in (1, 2))
    command = ("estimate", first, second, broken, "--model", model_folder, "--out", out, *COMMON)
    assert run(*command, "--against", model_folder, "--gt", truth) == SOME_FAILED
    printed = capsys.readouterr().out
    assert "expected precision" in printed
    assert "estimate and AP50 of images: Spearman" in printed
    assert printed.splitlines()[-1] == str(out)
    report = json.loads(out.read_text())
    assert {row["file_name"] for row in report["images"]} == {"000001.jpg", "000002.jpg"}
    masks = load_coco(tmp_path / "estimate.masks.json")
    assert len(masks) == report["masks"] > 0
    assert all(len(one.agreements) == 5 for one in masks.annotations[1])
    assert "broken.jpg" in (tmp_path / "estimate.errors.jsonl").read_text()
    # Masks that are there already are not made again, and what failed is reported again.
    out.unlink()
    before = (tmp_path / "estimate.masks.json").read_bytes()
    assert run(*command, "--against", model_folder) == SOME_FAILED
    assert (tmp_path / "estimate.masks.json").read_bytes() == before
    assert json.loads(out.read_text())["images"]
    # With another model they are another file's.
    out.unlink()
    capsys.readouterr()
    assert run(*command) == USER_ERROR
    assert "estimate.masks.json' exists" in capsys.readouterr().err
    assert run(*command, "--overwrite") == SOME_FAILED


@pytest.mark.slow
def test_a_killed_estimate_goes_on(
    scenes: Path, model_folder: Path, tmp_path: Path, killed_at: Callable[..., object]
) -> None:
    outs = [tmp_path / "one.json", tmp_path / "two.json"]
    command = ("estimate", scenes / "images", "--model", model_folder, *COMMON, "--out")
    with killed_at(PartialShards, "write", 3):  # type: ignore[attr-defined]
        run(*command, outs[0])
    assert not outs[0].exists()
    for out in outs:
        assert run(*command, out) == DONE
    assert outs[0].read_text() == outs[1].read_text()
