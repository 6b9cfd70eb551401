"""An output of an object is defined in one place, and files keep it by that."""

from __future__ import annotations

import pickle
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from soloist.data.coco.encoded import EncodedMasks, encoded
from soloist.data.coco.manifest import write_manifest
from soloist.data.coco.read import load_coco
from soloist.data.coco.shard_rows import ShardRow
from soloist.data.coco.types import NO_CLASS, NO_LABEL, CocoImage
from soloist.data.coco.write import instances_to_annotations, write_coco
from soloist.data.sources import ImageRef
from soloist.inference.results import Result
from soloist.ops.masks import masks_to_boxes
from soloist.structures import OUTPUTS, STORED, Instances

SIZE = (6, 8)
IMAGE = CocoImage(1, "a.jpg", *SIZE)
CATEGORIES = {5: "cat", 3: "dog"}
VALUES: dict[str, Any] = {"agreements": [[0.5, 0.25], [1.0, 0.0]], "track_ids": [3, 8]}


def found(**more: Any) -> Instances:
    masks = torch.zeros((2, *SIZE), dtype=torch.bool)
    masks[0, 1:3, 2:5] = True
    masks[1, 3:, 4:] = True
    return Instances(
        SIZE, masks, torch.tensor([0.75, 0.5]), masks_to_boxes(masks), torch.eye(2, 4), **more
    )


def with_output(name: str) -> Instances:
    return found(**{name: torch.tensor(VALUES[name])})


def read_again(instances: Instances[Any, Any], path: Path) -> Instances:
    annotations = instances_to_annotations(instances, 1, 1, CATEGORIES)
    write_coco(path, [IMAGE], annotations, categories=CATEGORIES)
    return load_coco(path).instances(IMAGE)


def test_the_tests_below_know_every_stored_output() -> None:
    assert VALUES.keys() == STORED.keys() < set(OUTPUTS)
    assert {"image_size", *OUTPUTS} == {one.name for one in fields(Instances)}


@pytest.mark.parametrize("name", STORED)
def test_a_stored_output_is_in_files_and_read_from_them(name: str, tmp_path: Path) -> None:
    instances = with_output(name)
    both: list[Instances[Any, Any]] = [instances, encoded(instances)]
    for number, each in enumerate(both):
        read = read_again(each, tmp_path / f"{number}.json")
        assert getattr(read, name).tolist() == VALUES[name]
        others = {other: getattr(read, other) for other in STORED if other != name}
        assert set(others.values()) == {None}


@pytest.mark.parametrize("name", STORED)
def test_a_stored_output_is_kept_in_shards(name: str, tmp_path: Path) -> None:
    pytest.importorskip("pyarrow")
    from soloist.data.coco.shards import MANIFEST, ShardFolder

    instances = with_output(name)
    rows = [
        ShardRow(
            image,
            CocoImage(number, image, *SIZE),
            instances_to_annotations(one, number, 1, CATEGORIES),
            one.embeddings.numpy(),
        )
        for number, (image, one) in enumerate([("a.jpg", instances), ("b.jpg", found())], 1)
    ]
    images = [ImageRef(Path(row.file_name), row.file_name) for row in rows]
    write_manifest(tmp_path / MANIFEST, images, {}, shard_size=2)
    shards = ShardFolder(tmp_path)
    shards.write(0, rows)
    read = list(shards.annotations(0))
    assert read == [{**one, "id": 0} for row in rows for one in row.annotations]
    assert STORED[name].key in read[0]
    assert STORED[name].key not in read[2]


@pytest.mark.parametrize("name", STORED)
def test_a_stored_output_is_chosen_and_pickled_with_the_others(name: str) -> None:
    instances = with_output(name)
    chosen = instances.filter(torch.tensor([1]))
    assert getattr(chosen, name).tolist() == VALUES[name][1:]
    copied = pickle.loads(pickle.dumps(Result.of(instances, path=Path("a.jpg"))))
    assert torch.equal(getattr(copied[1], name), getattr(chosen, name))


def test_classes_are_kept_in_files(tmp_path: Path) -> None:
    labels = torch.tensor([1, 0])
    read = read_again(found(labels=labels), tmp_path / "a.json")
    assert read.labels is not None
    assert torch.equal(read.labels, labels)
    # Of a single class there are none.
    write_coco(tmp_path / "b.json", [IMAGE], instances_to_annotations(found(), 1, 1))
    assert load_coco(tmp_path / "b.json").instances(IMAGE).labels is None


def test_an_object_without_a_class_stays_without_one(tmp_path: Path) -> None:
    labels = torch.tensor([1, NO_LABEL])
    instances = found(labels=labels)
    annotations = instances_to_annotations(instances, 1, 1, CATEGORIES)
    assert [one["category_id"] for one in annotations] == [3, NO_CLASS]
    read = read_again(instances, tmp_path / "a.json")
    assert read.labels is not None
    assert torch.equal(read.labels, labels)


def test_masks_are_dense_or_encoded_and_the_rest_is_the_same() -> None:
    dense = found(labels=torch.tensor([1, 0]))
    compressed = encoded(dense)
    assert isinstance(compressed.masks, EncodedMasks)
    assert encoded(compressed).masks is compressed.masks
    np.testing.assert_array_equal(np.asarray(compressed.masks), dense.masks.numpy())
    for name in set(dense.present()) - {"masks"}:
        assert torch.equal(getattr(compressed, name), getattr(dense, name))


@pytest.mark.parametrize(
    ("name", "value"),
    [
        pytest.param("masks", torch.zeros(2, 6, 7, dtype=torch.bool), id="masks-of-another-size"),
        pytest.param("boxes", torch.zeros(3, 4), id="boxes-too-many"),
        pytest.param("embeddings", torch.zeros(2), id="embeddings-without-a-size"),
        pytest.param("labels", torch.zeros(2, 1), id="labels-of-two-dimensions"),
        pytest.param("track_ids", torch.zeros(1), id="identities-too-few"),
        pytest.param("agreements", torch.zeros(1, 3), id="agreements-too-few"),
    ],
)
def test_outputs_that_do_not_belong_together_are_refused(name: str, value: torch.Tensor) -> None:
    with pytest.raises(ValueError, match=rf"Instances\.{name} must be \(2,"):
        replace(found(), **{name: value})  # type: ignore[arg-type]  # no size of the image
