from __future__ import annotations

import json
import logging
import re
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

import soloist
from soloist import api
from soloist.data.coco.rle import encode_masks
from soloist.data.coco.types import CocoAnnotation, CocoFile, CocoImage
from soloist.data.images import read_image
from soloist.data.sources import ImageRef, find_images
from soloist.errors import ConfigError
from soloist.proposals.candidate_networks import Example
from soloist.proposals.hierarchy import normalised_lab
from soloist.proposals.pixels import learn_pixels, sample_pixels
from soloist.training.finetuning import Labelled, learns_regions
from soloist.training.judging import (
    MAX_CLASSES,
    MAX_IMAGES,
    example_of,
    judge_of,
    labelled_image,
)
from soloist.training.starts import Learner

# Most learn a judge, which takes seconds.
pytestmark = pytest.mark.slow

SIZE = (96, 128)
SQUARE = (slice(20, 60), slice(30, 80))


def image_of(color: tuple[int, int, int]) -> np.ndarray[tuple[int, ...], np.dtype[np.uint8]]:
    pixels = np.full((*SIZE, 3), 110, dtype=np.int64)
    pixels[SQUARE] = color
    pixels += np.random.default_rng(1).integers(-3, 4, pixels.shape)
    return pixels.clip(0, 255).astype(np.uint8)


def annotation() -> CocoAnnotation:
    mask = np.zeros((1, *SIZE), dtype=bool)
    mask[0][SQUARE] = True
    (rle,) = encode_masks(mask)
    return CocoAnnotation(1, rle, (30.0, 20.0, 50.0, 40.0), 2000.0, 1.0, 1, False, 0, 1)


def example(objects: list[CocoAnnotation]) -> Example:
    one = labelled_image(image_of((220, 40, 40)), objects, {1: 0})
    generator = np.random.default_rng(0)
    sample = sample_pixels(normalised_lab(one.pixels), one.masks, one.classes, 1, generator, 2000)
    return example_of(one, learn_pixels([sample]))


def test_an_object_is_among_the_candidates_of_its_image() -> None:
    found = example([annotation()])
    assert found.overlaps.max() > 0.9
    assert len(found.described) == len(found.prior) == len(found.overlaps)


def test_without_objects_nothing_overlaps() -> None:
    found = example([])
    assert len(found.overlaps) > 0
    assert (found.overlaps == 0).all()


def dots(count: int) -> tuple[NDArray[np.uint8], NDArray[np.bool_]]:
    """An image of twelve dots, and the masks of the first so many."""
    rows, columns = np.mgrid[:96, :128]
    masks = np.array(
        [(rows - y) ** 2 + (columns - x) ** 2 < 81 for y in (16, 48, 80) for x in (16, 48, 80, 112)]
    )
    pixels = np.full((*SIZE, 3), 110, dtype=np.int64)
    pixels[masks.any(axis=0)] = (170, 120, 90)
    pixels += np.random.default_rng(1).integers(-6, 7, pixels.shape)
    return pixels.clip(0, 255).astype(np.uint8), masks[:count]


def test_of_an_unfinished_image_only_what_is_near_its_objects_is_known() -> None:
    pixels, masks = dots(5)
    objects = [
        replace(annotation(), id=number, segmentation=rle)
        for number, rle in enumerate(encode_masks(masks), start=1)
    ]
    finished, unfinished = (
        labelled_image(pixels, objects, {1: 0}, finished=known) for known in (True, False)
    )
    assert finished.known is None
    assert unfinished.known is not None
    classifier = learn_pixels(
        [
            sample_pixels(
                normalised_lab(one.pixels),
                one.masks,
                one.classes,
                1,
                np.random.default_rng(0),
                4000,
                one.known,
            )
            for one in (finished, unfinished)
        ]
    )
    whole, near = (example_of(one, classifier) for one in (finished, unfinished))
    # The dots without a label are no background now, and nothing that was an object is gone.
    assert len(near.overlaps) < len(whole.overlaps)
    assert (near.overlaps > 0).all()
    assert (near.overlaps > 0.5).sum() == (whole.overlaps > 0.5).sum() >= 5


@pytest.mark.parametrize("unfinished", [["a.png"], []])
def test_without_a_finished_image_it_says_that_background_is_not_learned(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, unfinished: list[str]
) -> None:
    Image.fromarray(image_of((220, 40, 40))).save(tmp_path / "a.png")
    rle = {"size": list(SIZE), "counts": annotation().rle["counts"]}
    content = {
        "info": {"unfinished": unfinished},
        "images": [{"id": 1, "file_name": "a.png", "height": SIZE[0], "width": SIZE[1]}],
        "annotations": [{"id": 1, "image_id": 1, "category_id": 1, "segmentation": rle}],
        "categories": [{"id": 1, "name": "patch"}],
    }
    (tmp_path / "labels.json").write_text(json.dumps(content), encoding="utf-8")
    api.finetune(tmp_path / "labels.json", tmp_path / "run")
    said = "none of the labelled images is finished: what background looks like is not learned"
    assert (said in caplog.text) == bool(unfinished)


def test_objects_missing_on_an_unfinished_image_are_not_learned_as_background(
    tmp_path: Path,
) -> None:
    pixels, masks = dots(4)
    _, every = dots(12)
    for name in ("a.png", "b.png"):
        Image.fromarray(pixels).save(tmp_path / name)
    objects = {
        key: tuple(
            replace(annotation(), id=number, image_id=key, segmentation=rle)
            for number, rle in enumerate(encode_masks(shown), start=1)
        )
        for key, shown in ((1, every), (2, masks))
    }
    records = (CocoImage(1, "a.png", *SIZE), CocoImage(2, "b.png", *SIZE))
    labels = CocoFile(tmp_path / "labels.json", records, objects, {1: "dot"}, None)
    found = {}
    for info in ({}, {"unfinished": ["b.png"]}):
        judge = judge_of(find_images(tmp_path), replace(labels, info=info), seed=0)
        assert judge is not None
        maps = judge.pixels.maps(normalised_lab(pixels))
        size = maps.any_inside.shape
        unlabelled = Image.fromarray(np.asarray(every[4:].any(axis=0)))
        rest = np.asarray(unlabelled.resize(size[::-1]))
        found[bool(info)] = maps.any_inside[rest].mean()
    assert found[True] > 0.9 > 0.8 > found[False]


def test_images_of_one_colour_teach_nothing(tmp_path: Path) -> None:
    Image.new("RGB", (40, 30), (9, 9, 9)).save(tmp_path / "a.png")
    images = find_images(tmp_path)
    labels = CocoFile(tmp_path / "labels.json", (CocoImage(1, "a.png", 30, 40),), {1: ()}, {}, None)
    assert judge_of(images, labels, seed=0) is None


def test_an_unreadable_image_is_left_out(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    Image.fromarray(image_of((30, 200, 30))).save(tmp_path / "a.png")
    (tmp_path / "b.png").write_bytes(b"nothing")
    images = find_images(tmp_path)
    records = (CocoImage(1, "a.png", *SIZE), CocoImage(2, "b.png", *SIZE))
    labels = CocoFile(tmp_path / "labels.json", records, {1: (annotation(),), 2: ()}, {}, None)
    assert judge_of(images, labels, seed=0) is not None
    assert "left out: 'b.png'" in caplog.text


TWO = CocoFile(Path("labels.json"), (), {}, {1: "ripe", 4: "green"}, None)


def chosen(images: int, categories: Mapping[int, str]) -> Labelled:
    refs = [ImageRef(Path(f"{number}.png"), f"{number}.png") for number in range(images)]
    return Labelled(refs, replace(TWO, categories=dict(categories)), images)


MANY = {key: f"class {key}" for key in range(MAX_CLASSES + 1)}


@pytest.mark.parametrize(
    ("learn", "images", "categories", "init", "options", "wanted"),
    [
        ("auto", 4, TWO.categories, "bundled", {}, True),
        ("auto", 4, TWO.categories, "bundled", {"seed": 3, "inference": {}}, True),
        ("auto", MAX_IMAGES + 1, TWO.categories, "bundled", {}, False),
        ("auto", 4, MANY, "bundled", {}, False),
        ("auto", 4, TWO.categories, "scratch", {}, False),
        ("auto", 4, TWO.categories, "bundled", {"train": {"steps": 9}}, False),
        ("auto", 4, TWO.categories, "bundled", {"inference": {"masks": "network"}}, False),
        ("regions", MAX_IMAGES + 1, TWO.categories, "runs/mine", {}, True),
        ("network", 4, TWO.categories, "bundled", {}, False),
    ],
)
def test_few_labels_of_few_classes_teach_regions(
    learn: Learner,
    images: int,
    categories: Mapping[int, str],
    init: str,
    options: Mapping[str, Any],
    wanted: bool,
) -> None:
    assert learns_regions(learn, chosen(images, categories), init=init, options=options) is wanted


@pytest.mark.parametrize(
    ("categories", "init", "options", "said"),
    [
        (TWO.categories, "backbone", {}, "--init backbone is no segmenter: use --init bundled"),
        (MANY, "bundled", {}, "up to 32 classes, got 33: use --learn network"),
        (TWO.categories, "bundled", {"train": {"steps": 9}}, "options of train have no effect"),
        (TWO.categories, "bundled", {"inference": {"masks": "network"}}, "masks network has no"),
    ],
)
def test_regions_that_cannot_learn_are_refused(
    categories: Mapping[int, str], init: str, options: Mapping[str, Any], said: str
) -> None:
    with pytest.raises(ConfigError, match=re.escape(said)):
        learns_regions("regions", chosen(2, categories), init=init, options=options)


def test_what_teaches_is_logged_where_it_is_not_obvious(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    assert not learns_regions("auto", chosen(65, TWO.categories), init="bundled", options={})
    assert "65 labelled images: the network is trained; --learn regions" in caplog.text
    assert not learns_regions("auto", chosen(4, MANY), init="bundled", options={})
    assert f"learn up to {MAX_CLASSES} classes, got {MAX_CLASSES + 1}" in caplog.text


def test_more_images_than_a_judge_sees_are_drawn_evenly(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("soloist.training.judging.MAX_IMAGES", 2)
    for name in "abcd":
        Image.fromarray(image_of((30, 200, 30))).save(tmp_path / f"{name}.png")
    read: list[str] = []

    def noted(path: Path, **arguments: Any) -> NDArray[np.uint8]:
        read.append(path.name)
        return read_image(path, **arguments)

    monkeypatch.setattr("soloist.training.judging.read_image", noted)
    records = tuple(CocoImage(at, f"{name}.png", *SIZE) for at, name in enumerate("abcd"))
    objects = {at: (annotation(),) for at in range(4)}
    labels = CocoFile(tmp_path / "labels.json", records, objects, {1: "square"}, None)
    assert judge_of(find_images(tmp_path), labels, seed=0) is not None
    assert read == ["a.png", "c.png"] * 2
    assert "regions are learned from 2 of 4 labelled images" in caplog.text


def test_a_model_of_two_labelled_images_finds_and_names_objects(tmp_path: Path) -> None:
    """The square of one image is ripe, that of the other green."""
    colors = {"a.png": (220, 40, 40), "b.png": (30, 200, 30)}
    objects = []
    for number, (name, color) in enumerate(colors.items(), start=1):
        Image.fromarray(image_of(color)).save(tmp_path / name)
        rle = {"size": list(SIZE), "counts": annotation().rle["counts"]}
        key = (1, 4)[number - 1]
        objects.append({"id": number, "image_id": number, "category_id": key, "segmentation": rle})
    content = {
        "images": [
            {"id": number, "file_name": name, "height": SIZE[0], "width": SIZE[1]}
            for number, name in enumerate(colors, start=1)
        ],
        "annotations": objects,
        "categories": [{"id": 4, "name": "green"}, {"id": 1, "name": "ripe"}],
    }
    (tmp_path / "labels.json").write_text(json.dumps(content), encoding="utf-8")
    (tmp_path / "few.yaml").write_text("inference: {recommended_score: 0.4}")
    segmenter = api.finetune(
        tmp_path / "labels.json",
        tmp_path / "run",
        file=tmp_path / "few.yaml",
        options={"inference": {"max_per_image": 7}},
    )
    shown = segmenter.config.inference
    assert (shown.masks, shown.recommended_score, shown.max_per_image) == ("regions", 0.4, 7)
    assert dict(segmenter.categories) == {1: "ripe", 4: "green"}
    truth = np.zeros(SIZE, dtype=bool)
    truth[SQUARE] = True
    for number, name in enumerate(colors):
        best = segmenter.predict(tmp_path / name)[0][0]
        mask = best.masks[0].numpy()
        assert (mask & truth).sum() / (mask | truth).sum() > 0.9
        assert best.labels is not None
        assert best.labels.tolist() == [number]
    # Other labels of the same images make another model, though its network is the same.
    content["annotations"] = objects[:1]
    (tmp_path / "labels.json").write_text(json.dumps(content), encoding="utf-8")
    other = api.finetune(tmp_path / "labels.json", tmp_path / "other")
    assert other.fingerprint != segmenter.fingerprint == soloist.load(tmp_path / "run").fingerprint
