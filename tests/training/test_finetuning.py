"""`finetune`: what a network starts from, what it learns, what a run leaves."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

import soloist
from soloist.checkpoints.files import load_tensors
from soloist.config import Config
from soloist.data.coco.read import load_coco
from soloist.data.sources import find_images
from soloist.errors import CheckpointError, ConfigError, DataError
from soloist.losses import FreeSOLOCriterion
from soloist.models.build import build_solo, load_categories, normalize
from soloist.runtime.device import Runtime
from soloist.training import train as train_module
from soloist.training.data.batches import batch_indices
from soloist.training.data.step_targets import batch_targets
from soloist.training.data.train_data import TrainBatches
from soloist.training.finetuning import choose_labelled, finetune, finetune_config, with_classes
from soloist.training.run_folder import RunFolder, open_run, read_metrics

LAST = ("category_branch.category.weight", "category_branch.category.bias")
CATEGORIES = {3: "low", 7: "high", 20: "never seen"}
STILL = {"steps": 1, "learning_rate": 0.0, "freeze_norm": True, "ema_decay": 0.0}
SEEING = {"category_threshold": 0.0, "score_threshold": 0.0, "max_per_image": 8}
NAMES = {f"{kind}_{name}" for kind in ("mask", "box") for name in ("ap", "ap50", "ar100")}

Finetuned = Callable[..., RunFolder]


def edited(source: Path, target: Path, change: Callable[[dict[str, Any]], None]) -> Path:
    """A COCO file with something changed, beside another one's images."""
    content = json.loads(source.read_text(encoding="utf-8"))
    change(content)
    target.write_text(json.dumps(content), encoding="utf-8")
    return target


def classify(content: dict[str, Any]) -> None:
    """Names objects by their height; the categories are not in the order of their ids."""
    content["categories"] = [
        {"id": key, "name": CATEGORIES[key]} for key in sorted(CATEGORIES, reverse=True)
    ]
    for annotation in content["annotations"]:
        annotation["category_id"] = 7 if annotation["bbox"][3] > 20 else 3


@pytest.fixture(scope="module")
def truth(scenes: Path) -> Path:
    """The scenes with two classes, and a third one that no object has."""
    return edited(scenes / "annotations.json", scenes / "classes.json", classify)


@pytest.fixture
def finetuned(tmp_path: Path, truth: Path, tiny_options: dict[str, Any]) -> Finetuned:
    """Finetunes on the scenes, resuming where an earlier call of the name was killed."""

    def start(
        name: str,
        init: str | Path,
        *,
        labels: str = "100%",
        gt: Path | None = None,
        data: Path = truth,
        **options: Mapping[str, Any],
    ) -> RunFolder:
        values = {
            **tiny_options,
            **options,
            # Not that of the model folder.
            "seed": 5,
            "train": {**tiny_options["train"], **options.get("train", {})},
            "inference": {**tiny_options["inference"], **SEEING},
        }
        config = finetune_config("tiny", None, values, init=str(init))
        chosen = choose_labelled(data, labels, config.seed)
        config = with_classes(config, chosen.labels)
        run = open_run(
            tmp_path / name, command="finetune", inputs={}, config=config, overwrite=False
        )
        run.close()
        runtime = Runtime(device=torch.device("cpu"), precision="fp32")
        finetune(chosen, run, config, runtime, init=str(init), ground_truth=gt)
        return run

    return start


def weights_of(folder: Path) -> dict[str, Tensor]:
    return load_tensors(folder / "model.safetensors")


def same(name: str, one: Mapping[str, Tensor], other: Mapping[str, Tensor]) -> bool:
    return one[name].shape == other[name].shape and torch.equal(one[name], other[name])


# Which labels


def test_a_list_names_the_images_whose_labels_are_used(
    truth: Path, scenes: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    listed = tmp_path / "e.selected.txt"
    listed.write_text(f"{scenes / 'images' / '000003.jpg'}\nelsewhere/000001.jpg\nnone.jpg\n")
    chosen = choose_labelled(truth, str(listed), seed=0)
    assert sorted(Path(image.name).name for image in chosen.images) == ["000001.jpg", "000003.jpg"]
    assert "2 of 3 matched" in caplog.text
    listed.write_text("none.jpg\n")
    with pytest.raises(DataError, match=r"got 1 that have no labels, such as 'none\.jpg'"):
        choose_labelled(truth, str(listed), seed=0)


def test_a_split_keeps_the_order_and_only_its_own_objects(truth: Path) -> None:
    chosen = choose_labelled(truth, "50%", seed=1)
    names = [image.name for image in chosen.images]
    assert len(names) == 3
    assert names == sorted(names)
    assert {image.file_name for image in chosen.labels.images} == set(names)
    assert chosen.total == 6
    assert chosen.labels.categories == CATEGORIES
    assert list(chosen.labels.categories) == sorted(CATEGORIES)
    assert chosen.summary() == (
        f"labels: 3 of 6 labelled images, {len(chosen.labels)} objects of 2 of 3 classes"
    )
    more = choose_labelled(truth, "5", seed=1)
    assert {image.name for image in more.images} > set(names)


def test_crowds_and_images_without_objects_are_no_labels(truth: Path) -> None:
    def crowd(content: dict[str, Any]) -> None:
        first, second = (image["id"] for image in content["images"][:2])
        content["annotations"] = [
            {**one, "iscrowd": int(one["image_id"] == first)}
            for one in content["annotations"]
            if one["image_id"] != second
        ]

    path = edited(truth, truth.with_name("crowd.json"), crowd)
    chosen = choose_labelled(path, "100%", seed=0)
    assert chosen.total == len(chosen.images) == 4
    assert not [one for found in chosen.labels.annotations.values() for one in found if one.iscrowd]


def without_categories(content: dict[str, Any]) -> None:
    del content["categories"]


def without_objects(content: dict[str, Any]) -> None:
    content["annotations"] = []


def of_other_images(content: dict[str, Any]) -> None:
    for image in content["images"]:
        image["file_name"] = f"other-{image['file_name']}"


def test_a_network_learns_from_finished_images_alone(
    truth: Path, caplog: pytest.LogCaptureFixture
) -> None:
    everything = choose_labelled(truth, "100%", 0)
    assert everything.finished() is everything
    names = [image.name for image in everything.images]

    def mark(content: dict[str, Any]) -> None:
        content["info"] = {**content.get("info", {}), "unfinished": names[1:]}

    marked = choose_labelled(edited(truth, truth.with_name("marked.json"), mark), "100%", 0)
    assert marked.summary().endswith(
        f"; {len(names) - 1} unfinished, learned from near their objects alone"
    )
    caplog.set_level("INFO")
    left = marked.finished()
    assert [image.name for image in left.images] == names[:1]
    assert [image.file_name for image in left.labels.images] == names[:1]
    assert set(left.labels.annotations) == {left.labels.images[0].id}
    assert f"{len(names) - 1} unfinished images are left out" in caplog.text
    everyone = replace(marked, labels=replace(marked.labels, info={"unfinished": names}))
    with pytest.raises(DataError, match=r"wanted a finished image .* --learn regions"):
        everyone.finished()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        pytest.param(without_categories, "true labels with `categories`", id="no-categories"),
        pytest.param(without_objects, "of which 6 are there and none has an", id="no-object"),
        pytest.param(of_other_images, "of which 0 are there", id="unlabelled-images"),
    ],
)
def test_labels_that_teach_no_class_are_refused(
    truth: Path, change: Callable[[dict[str, Any]], None], message: str
) -> None:
    path = edited(truth, truth.with_name("wrong.json"), change)
    with pytest.raises(DataError, match=message) as caught:
        choose_labelled(path, "100%", seed=0)
    assert "\n" not in str(caught.value)


# Options


def test_weak_losses_are_off_and_given_values_win(tiny_options: dict[str, Any]) -> None:
    loss = finetune_config("tiny", None, tiny_options, init="scratch").loss
    assert (loss.semantic, loss.max_projection, loss.avg_projection) == (0, 0, 0)
    assert (loss.pairwise_affinity, loss.full_mask_dice, loss.category) == (0, 3, 1)
    values = {**tiny_options, "loss": {"full_mask_dice": 1.0, "max_projection": 0.5}}
    loss = finetune_config("tiny", None, values, init="scratch").loss
    assert (loss.full_mask_dice, loss.max_projection, loss.pairwise_affinity) == (1, 0.5, 0)


@pytest.mark.parametrize(
    ("init", "weights", "frozen_stages"),
    [
        pytest.param("scratch", "none", 0, id="scratch"),
        pytest.param("backbone", "bundled", 1, id="backbone"),
        pytest.param("runs/mine", "none", 1, id="run"),
    ],
)
def test_nothing_random_is_frozen_and_nothing_is_loaded_twice(
    init: str, weights: str, frozen_stages: int
) -> None:
    config = finetune_config("tiny", None, {}, init=init)
    assert (config.backbone.weights, config.train.frozen_stages) == (weights, frozen_stages)
    assert finetune_config("paper", None, {}, init="scratch").train.freeze_norm is False


@pytest.mark.parametrize(
    ("preset", "init", "options", "message"),
    [
        pytest.param("paper", "backbone", {}, "needs the backbone's weights", id="no-weights"),
        pytest.param(
            "tiny",
            "scratch",
            {"backbone": {"weights": "bundled"}},
            "scratch takes no weights",
            id="scratch-with-weights",
        ),
        pytest.param(
            "tiny",
            "runs/mine",
            {"backbone": {"weights": "bundled"}},
            "runs/mine takes no weights",
            id="run-with-weights",
        ),
    ],
)
def test_a_start_that_contradicts_the_options_is_refused(
    preset: str, init: str, options: dict[str, Any], message: str
) -> None:
    with pytest.raises(ConfigError, match=message):
        finetune_config(preset, None, options, init=init)


def test_the_number_of_classes_is_that_of_the_labels(truth: Path) -> None:
    labels = load_coco(truth)
    assert with_classes(Config(), labels).model.num_classes == 3
    wrong = finetune_config("tiny", None, {"model": {"num_classes": 2}}, init="scratch")
    with pytest.raises(ConfigError, match="must be that of the labels, 3, got 2"):
        with_classes(wrong, labels)


# Starts: nothing moves in these trainings of one step, but batch norms, which are frozen.


def test_a_segmenter_is_carried_over_but_for_its_last_category_layer(
    finetuned: Finetuned, model_folder: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level("INFO", "soloist"):
        run = finetuned("run", model_folder.parent, train=STILL)
    before, after = weights_of(model_folder), weights_of(run.model)
    assert {name for name in after if not same(name, before, after)} == set(LAST)
    weight, bias = (after[name].float() for name in LAST)
    assert weight.shape == (3, 32, 3, 3)
    assert 0.005 < weight.std() < 0.02
    torch.testing.assert_close(bias, torch.full((3,), math.log(0.01 / 0.99)), rtol=1e-3, atol=0)
    (line,) = (one for one in caplog.messages if one.startswith("carried over"))
    assert f"{len(after) - 2} tensors" in line
    assert line.endswith("; new: category_branch.category for 3 classes")


@pytest.mark.slow
def test_the_same_classes_are_carried_over_whole(finetuned: Finetuned, model_folder: Path) -> None:
    first = finetuned("first", model_folder, train={"steps": 2})
    second = finetuned("second", first.path, train=STILL)
    before, after = weights_of(first.model), weights_of(second.model)
    assert all(same(name, before, after) for name in after)


def test_a_backbone_is_carried_over_alone(finetuned: Finetuned, model_folder: Path) -> None:
    backbone = {"name": "resnet10t", "weights": str(model_folder)}
    run = finetuned("run", "backbone", train=STILL, backbone=backbone)
    before, after = weights_of(model_folder), weights_of(run.model)
    drawn = {name.split(".")[0] for name in after if not same(name, before, after)}
    assert drawn == {"fpn", "category_branch", "kernel_branch", "mask_feature_branch"}


def test_scratch_has_nothing_of_a_segmenter(finetuned: Finetuned, model_folder: Path) -> None:
    before = weights_of(model_folder)
    after = weights_of(finetuned("run", "scratch", train=STILL).model)
    assert not {name for name in after if after[name].ndim == 4 and same(name, before, after)}


@pytest.mark.slow
def test_another_architecture_is_refused_in_one_line(
    finetuned: Finetuned, model_folder: Path
) -> None:
    with pytest.raises(CheckpointError, match="of another architecture than the network") as caught:
        finetuned("run", model_folder, model={"fpn_channels": 64})
    assert "\n" not in str(caught.value)
    with pytest.raises(CheckpointError, match="no trained model in nowhere"):
        finetuned("run", "nowhere")


# Training and what it leaves


@pytest.mark.slow
def test_a_run_tells_its_labels_its_classes_and_its_figures(
    finetuned: Finetuned, truth: Path, model_folder: Path
) -> None:
    run = finetuned("run", model_folder, labels="4", gt=truth)
    names = (run.path / "labelled_images.txt").read_text().splitlines()
    assert len(names) == 4
    rows = read_metrics(run.path / "metrics.jsonl")
    terms = {name for name in rows[-1] if name.startswith("loss_")}
    assert terms == {"loss_category", "loss_semantic", "loss_full_mask_dice"}
    assert all(row["loss_semantic"] == 0 for row in rows)
    results = json.loads((run.path / "results.json").read_text())
    assert results.keys() == {"finetuned", "finetuned_by_class"}
    assert all(results[stage].keys() >= NAMES for stage in results)
    predicted = load_coco(run.path / "evaluation" / "finetuned.json")
    assert predicted.categories == CATEGORIES
    found = {one.category_id for each in predicted.annotations.values() for one in each}
    assert found <= set(CATEGORIES)
    assert len(found) > 1
    # Embeddings are kept, and not trained.
    before, after = weights_of(model_folder), weights_of(run.model)
    assert same("category_branch.embedding.weight", before, after)
    assert not same("category_branch.tower.0.0.weight", before, after)


@pytest.mark.slow
def test_a_model_keeps_its_classes_wherever_it_goes(
    tmp_path: Path, finetuned: Finetuned, truth: Path
) -> None:
    run = finetuned("run", "scratch")
    assert load_categories(run.path) == CATEGORIES
    segmenter = soloist.load(run.path)
    segmenter.save_pretrained(tmp_path / "copy")
    assert load_categories(tmp_path / "copy") == CATEGORIES
    result = segmenter.predict(find_images(truth)[0].path)[0]
    assert result.labels is not None
    assert result.labels.dtype == torch.int64
    written = result.to_coco()
    assert {one["id"]: one["name"] for one in written["categories"]} == CATEGORIES
    ids = sorted(CATEGORIES)
    assert [one["category_id"] for one in written["annotations"]] == [
        ids[label] for label in result.labels.tolist()
    ]
    kept = result.filter(result.labels == 1)
    assert {one["category_id"] for one in kept.to_coco()["annotations"]} <= {7}
    kept.save(tmp_path / "kept.json")
    assert load_coco(tmp_path / "kept.json").categories == CATEGORIES


@pytest.mark.slow
@pytest.mark.parametrize(
    ("owner", "call"),
    [
        pytest.param("batch_losses", 4, id="in-training"),
        pytest.param("save_solo", 1, id="before-the-model"),
    ],
)
def test_a_killed_run_ends_as_an_unbroken_one(
    killed_at: Callable[[Any, str, int], AbstractContextManager[None]],
    finetuned: Finetuned,
    truth: Path,
    model_folder: Path,
    owner: str,
    call: int,
) -> None:
    whole = finetuned("whole", model_folder, labels="50%", gt=truth)
    with killed_at(train_module, owner, call):
        finetuned("killed", model_folder, labels="50%", gt=truth)
    killed = finetuned("killed", model_folder, labels="50%", gt=truth)
    for name in ("model/model.safetensors", "labelled_images.txt", "results.json"):
        assert (killed.path / name).read_bytes() == (whole.path / name).read_bytes(), name


@pytest.mark.parametrize(
    ("change", "message"),
    [
        pytest.param(without_objects, "ground truth with objects", id="no-objects"),
        pytest.param(without_categories, "a name for each category", id="no-categories"),
        pytest.param(
            lambda content: content["categories"][-1].update(name="else"),
            "without 'else', which the former has objects of",
            id="other-names",
        ),
    ],
)
def test_a_validation_set_of_other_classes_is_refused_before_the_training(
    finetuned: Finetuned,
    truth: Path,
    change: Callable[[dict[str, Any]], None],
    message: str,
) -> None:
    wrong = edited(truth, truth.with_name("val.json"), change)
    with pytest.raises(DataError, match=message):
        finetuned("run", "scratch", gt=wrong)


def test_objects_teach_their_own_class(
    truth: Path, tiny_options: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    plain = {"crop_size": 0, "strong": False, "flip": 0.0, "short_side": [96, 96]}
    tiny_options["augment"] |= plain
    config = finetune_config("tiny", None, tiny_options, init="scratch")
    chosen = choose_labelled(truth, "100%", 0)
    labels = chosen.labels
    config = with_classes(config, labels)
    batches = TrainBatches(chosen.images, labels, config, seed=0, categories=labels.categories)
    batch = batches(0)
    ids = [
        one.category_id
        for number in batch_indices(0, batch_size=2, length=6, seed=0)
        for one in labels.annotations[labels.images[number].id]
    ]
    # Whole images of the size they have: no object is lost.
    assert batch.labels.tolist() == [list(CATEGORIES).index(key) for key in ids]
    seen: list[Tensor] = []

    def listening(*arguments: Any, **options: Any) -> Any:
        targets = batch_targets(*arguments, **options)
        seen.extend(level.category.flatten() for image in targets for level in image)
        return targets

    monkeypatch.setattr(train_module, "batch_targets", listening)
    network = build_solo(config.backbone, config.model)
    outputs = network(normalize(network, batch.images))
    train_module.batch_losses(FreeSOLOCriterion(config.loss), outputs, batch, config, 0)
    # 3 is background.
    assert set(torch.cat(seen).tolist()) == {*batch.labels.tolist(), 3}
