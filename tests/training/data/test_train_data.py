from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor

from soloist.config import AugmentConfig, Config
from soloist.config.presets import override
from soloist.data.coco.read import load_coco
from soloist.data.images import read_image
from soloist.data.sources import ImageRef, find_images
from soloist.errors import DataError
from soloist.ops.affinity import color_similarity, rgb_to_lab
from soloist.training.data import cache
from soloist.training.data.train_data import (
    MASK_STRIDE,
    TrainBatches,
    collate,
    fit_embeddings,
    match_labels,
    pad_batch,
)
from soloist.training.data.views import RELEASED_BOTTOM, View, ViewMaker

Golden = Callable[[str], Mapping[str, NDArray[Any]]]
NONE = torch.zeros(0, 2)
NO_LABELS = torch.zeros(0, dtype=torch.int64)


@pytest.fixture
def batches(scenes: Path, tiny_config: Config) -> TrainBatches:
    return TrainBatches(
        find_images(scenes / "images"), load_coco(scenes / "annotations.json"), tiny_config, seed=0
    )


def view(height: int, width: int, objects: int, value: int = 9) -> View:
    image = torch.full((3, height, width), value, dtype=torch.uint8)
    masks = torch.ones((objects, height, width), dtype=torch.bool)
    return View(
        image,
        image + 1,
        masks,
        torch.full((objects, 2), float(value)),
        torch.full((objects,), value),
    )


# Padding and joining


def test_views_of_different_sizes_are_padded_to_whole_strides() -> None:
    batch = collate([view(40, 64, 1), view(33, 70, 2, value=20)], [("a.jpg", "broken")])
    assert batch.images.shape == (2, 3, 64, 96)
    assert bool((batch.images[0, :, :40, :64] == 9).all())
    assert not batch.images[0, :, 40:].any()
    assert not batch.images[0, :, :, 64:].any()
    assert batch.masks.shape == (3, 16, 24)
    # Of the four pixels in the middle of a block half must be foreground: of 33 rows the last is
    # lost, of 70 columns none.
    assert batch.masks.flatten(1).sum(1).tolist() == [10 * 16, 8 * 18, 8 * 18]
    assert batch.boxes.tolist() == [[0, 0, 64, 40], [0, 0, 70, 33], [0, 0, 70, 33]]
    assert batch.centers.tolist() == [[19.5, 31.5], [16, 34.5], [16, 34.5]]
    assert batch.counts == [1, 2]
    assert batch.embeddings.tolist() == [[9.0, 9.0], [20.0, 20.0], [20.0, 20.0]]
    assert batch.failures == [("a.jpg", "broken")]


def test_colours_are_means_of_the_undistorted_image() -> None:
    batch = collate([view(64, 64, 0)], [])
    assert batch.colors.shape == (1, 3, 16, 16)
    assert batch.colors.dtype == torch.uint8
    assert bool((batch.colors == 10).all())


@pytest.mark.parametrize(
    ("size", "rows", "columns"),
    [
        pytest.param((64, 64), 16, 16, id="no-padding"),
        pytest.param((40, 61), 10, 15, id="cells-partly-padded-do-not-count"),
        pytest.param((1, 1), 0, 0, id="one-pixel"),
    ],
)
def test_the_padding_is_not_valid(size: tuple[int, int], rows: int, columns: int) -> None:
    valid = collate([view(*size, 0), view(64, 64, 0)], []).valid[0]
    assert valid.shape == (16, 16)
    assert int(valid.sum()) == rows * columns
    assert bool(valid[:rows, :columns].all())


def test_colours_are_rounded_and_not_those_of_the_distorted_image() -> None:
    colors = torch.zeros((3, 32, 32), dtype=torch.uint8)
    colors[:, ::2] = 5  # 2.5 on average
    colors[:, :, ::4] += 1
    distorted = View(
        255 - colors,
        colors,
        torch.zeros((0, 32, 32), dtype=torch.bool),
        NONE,
        NO_LABELS,
    )
    assert collate([distorted], []).colors.flatten().tolist() == [3] * 192  # 2.75
    theirs = collate([distorted], [], released_colors=True)
    assert theirs.colors.flatten().tolist() == [252] * 192  # 252.25, of what the network gets


# Colours as the released code has them (docs/fidelity.md)


@pytest.mark.parametrize(
    ("size", "unread", "rows", "columns"),
    [
        pytest.param((40, 61), 0, 10, 15, id="by-the-pixel-at-offset-2"),
        pytest.param((43, 63), 0, 11, 16, id="blocks-partly-padded-count"),
        pytest.param((40, 61), 2, 9, 15, id="bottom-left-out"),
        pytest.param((40, 61), 1, 10, 15, id="less-than-half-a-block"),
        pytest.param((40, 61), 40, 0, 15, id="nothing-left"),
    ],
)
def test_validity_of_the_released_code(
    size: tuple[int, int], unread: int, rows: int, columns: int
) -> None:
    some = replace(view(*size, 0), unread_rows=unread)
    valid = collate([some, view(64, 64, 0)], [], released_colors=True).valid
    assert valid[0].any(dim=1).sum() == rows
    assert bool(valid[0, :rows, :columns].all())
    assert int(valid[0].sum()) == rows * columns
    assert bool(valid[1].all())


def released_views(archive: Mapping[str, NDArray[Any]], prefix: str) -> list[View]:
    """Two images as they are, as weak views that leave their bottom rows unread."""
    views = []
    for number in range(2):
        image = torch.from_numpy(archive[f"{prefix}im{number}_rgb"]).permute(2, 0, 1)
        height, width = image.shape[1:]
        options = AugmentConfig(short_side=(min(height, width),) * 2, flip=0.0)
        views.append(
            ViewMaker(options).weak(
                image,
                torch.zeros((0, height, width), dtype=torch.bool),
                NONE,
                released_height=int(archive[f"{prefix}im{number}_ori_height"]),
            )
        )
        assert torch.equal(views[-1].image, image)
    return views


def test_released_colours_equal_the_released_code(golden: Golden) -> None:
    archive = golden("color_similarity")
    assert archive["const_bottom_pixels_removed"] == RELEASED_BOTTOM
    assert archive["const_stride"] == MASK_STRIDE
    batch = collate(released_views(archive, ""), [], released_colors=True)
    assert list(batch.images.shape[2:]) == archive["padded_hw"].tolist()
    for number in range(2):
        colors = torch.from_numpy(archive[f"im{number}_avgpool_byte"]).permute(2, 0, 1)
        assert torch.equal(batch.colors[number], colors)
        valid = torch.from_numpy(archive[f"im{number}_image_mask_ds4"])
        assert torch.equal(batch.valid[number].float(), valid)


@pytest.mark.parametrize(
    ("name", "prefix", "key"),
    [
        pytest.param("color_similarity", "", "similarity", id="color-similarity"),
        pytest.param("losses", "C_", "color_similarity", id="losses"),
    ],
)
def test_similarity_of_released_colours_equals_the_released_code(
    golden: Golden, name: str, prefix: str, key: str
) -> None:
    archive = golden(name)
    batch = collate(released_views(archive, prefix), [], released_colors=True)
    assert list(batch.images.shape[2:]) == archive[f"{prefix}padded_hw"].tolist()
    similarity = color_similarity(rgb_to_lab(batch.colors.float() / 255), batch.valid)
    for number in range(2):
        wanted = torch.from_numpy(archive[f"{prefix}im{number}_{key}"])
        torch.testing.assert_close(similarity[number], wanted, rtol=1e-4, atol=1e-5)


def test_the_option_leaves_the_bottom_of_each_image_out(scenes: Path, tiny_config: Config) -> None:
    options = {"loss": {"compat": "released"}, "augment": {"crop_size": 0, "short_side": [64, 64]}}
    config = override(tiny_config, options, where="test")
    found = find_images(scenes / "images")
    labels = load_coco(scenes / "annotations.json")
    ours, theirs = (
        TrainBatches(found, labels, some, seed=0)(0)
        for some in (override(config, {"loss": {"compat": "none"}}, where="test"), config)
    )
    assert torch.equal(ours.images, theirs.images)
    assert torch.equal(ours.masks, theirs.masks)
    assert int(theirs.valid.sum()) < int(ours.valid.sum())
    # Ten of 72 to 96 rows are two or three of the 16 to 24 blocks of rows.
    lost = ours.valid.any(dim=2).sum(dim=1) - theirs.valid.any(dim=2).sum(dim=1)
    assert set(lost.tolist()) <= {1, 2, 3}


# Embeddings


@pytest.mark.parametrize(
    ("given", "size", "expected"),
    [
        pytest.param([[1.0, 2.0]], 2, [[1.0, 2.0]], id="as-they-are"),
        pytest.param([[0.0, 4.0]], 4, [[0.0, 1.0, 3.0, 4.0]], id="stretched"),
        pytest.param([[0.0, 2.0, 4.0, 6.0]], 2, [[1.0, 5.0]], id="shrunk"),
    ],
)
def test_embeddings_are_fitted(
    given: list[list[float]], size: int, expected: list[list[float]]
) -> None:
    assert fit_embeddings(torch.tensor(given), size).tolist() == expected


@pytest.mark.parametrize(
    ("given", "shape"),
    [
        pytest.param(torch.zeros(3, 0), (3, 16), id="file-without-embeddings"),
        pytest.param(torch.zeros(0, 0), (0, 16), id="no-object"),
        pytest.param(torch.zeros(0, 16), (0, 16), id="no-object-of-this-size"),
        pytest.param(torch.zeros(0, 8), (0, 16), id="no-object-of-another-size"),
    ],
)
def test_empty_embeddings_are_zeros(given: Tensor, shape: tuple[int, int]) -> None:
    fitted = fit_embeddings(given, 16)
    assert fitted.shape == shape
    assert not fitted.any()


# Pairing


def test_images_are_paired_by_name(scenes: Path) -> None:
    labels = load_coco(scenes / "annotations.json")
    elsewhere = [ImageRef(Path("/x/y.jpg"), "000004.jpg"), ImageRef(Path("/x/z.jpg"), "z.jpg")]
    pairs = match_labels(elsewhere, labels)
    assert [(image.path.name, record.file_name) for image, record in pairs] == [
        ("y.jpg", "000004.jpg")
    ]


@pytest.mark.parametrize("name", ["x/000004.jpg", "C:\\photos\\000004.JPG", "000004.png"])
def test_images_are_paired_by_the_rule_of_every_verb(
    scenes: Path, name: str, caplog: pytest.LogCaptureFixture
) -> None:
    labels = load_coco(scenes / "annotations.json")
    ((_, record),) = match_labels([ImageRef(Path("y.jpg"), name)], labels)
    assert record.file_name == "000004.jpg"
    assert "1 not letter by letter" in caplog.text
    twice = [ImageRef(Path(one), one) for one in ("a/000004.jpg", "b/000004.jpg")]
    with pytest.raises(DataError, match="could be"):
        match_labels(twice, labels)


def test_no_pair_is_told_with_what_to_do(scenes: Path) -> None:
    labels = load_coco(scenes / "annotations.json")
    with pytest.raises(DataError, match=r"none of the 1 images .*\(1 of them") as caught:
        match_labels([ImageRef(Path("z.jpg"), "z.jpg")], labels)
    assert "soloist masks" in str(caught.value)


# Batches


def test_weak_views_come_first_and_then_strong_ones(batches: TrainBatches) -> None:
    batch = batches(0)
    assert len(batches) == 6
    assert batch.images.shape == (4, 3, 64, 64)
    assert len(batch.counts) == 4
    assert sum(batch.counts) == len(batch.masks) == len(batch.embeddings)
    assert batch.embeddings.shape[1] == 16


def test_strong_views_are_an_option(scenes: Path, tiny_config: Config) -> None:
    config = override(tiny_config, {"augment": {"strong": False}}, where="test")
    labels = load_coco(scenes / "annotations.json")
    batch = TrainBatches(find_images(scenes / "images"), labels, config, seed=0)(0)
    assert len(batch.images) == 2


def test_a_batch_depends_on_its_step_alone(
    batches: TrainBatches, scenes: Path, tiny_config: Config
) -> None:
    forward = [batches(step) for step in range(4)]
    again = TrainBatches(
        find_images(scenes / "images"), load_coco(scenes / "annotations.json"), tiny_config, seed=0
    )
    for step in (3, 1, 0, 2):
        batch = again(step)
        for name in ("images", "colors", "valid", "masks", "embeddings"):
            assert torch.equal(getattr(forward[step], name), getattr(batch, name)), name
        assert forward[step].counts == batch.counts
    assert not torch.equal(forward[0].images, forward[1].images)


@pytest.mark.parametrize("shares", [1, 2, 4])
def test_shares_of_a_batch_make_the_whole(scenes: Path, tiny_config: Config, shares: int) -> None:
    """To the bit, sizes and pasted objects included, once padded alike."""
    config = override(
        tiny_config,
        {"train": {"batch_size": 4}, "augment": {"crop_size": 0, "copy_paste": 3}},
        where="test",
    )
    images, labels = find_images(scenes / "images"), load_coco(scenes / "annotations.json")
    whole = TrainBatches(images, labels, config, seed=0)(5)
    each = 4 // shares
    height, width = whole.images.shape[-2:]
    parts = [
        pad_batch(
            TrainBatches(images, labels, config, seed=0, places=range(first, first + each))(5),
            (height, width),
        )
        for first in range(0, 4, each)
    ]
    views = [
        (part, place + strong * each)
        for strong in range(2)
        for part in parts
        for place in range(each)
    ]
    for number, (part, place) in enumerate(views):
        for name in ("images", "colors", "valid"):
            assert torch.equal(getattr(part, name)[place], getattr(whole, name)[number]), name
        for name in ("masks", "boxes", "centers", "embeddings"):
            own = torch.split(getattr(part, name), part.counts)[place]
            assert torch.equal(own, torch.split(getattr(whole, name), whole.counts)[number]), name


def test_views_of_others_are_made_only_if_they_are_pasted(
    monkeypatch: pytest.MonkeyPatch, scenes: Path, tiny_config: Config
) -> None:
    paths: list[Path] = []

    def counting(path: Path, **_: object) -> NDArray[np.uint8]:
        paths.append(path)
        return read_image(path)

    monkeypatch.setattr(cache, "read_image", counting)
    images, labels = find_images(scenes / "images"), load_coco(scenes / "annotations.json")
    for most, decoded in ((0, {2}), (1, {2, 3})):
        config = override(
            tiny_config,
            {"train": {"batch_size": 6, "cache_gb": 0.0}, "augment": {"copy_paste": most}},
            where="test",
        )
        counts = set()
        for step in range(8):
            paths.clear()
            TrainBatches(images, labels, config, seed=0, places=range(2))(step)
            counts.add(len(paths))
        assert counts == decoded


def test_a_set_smaller_than_a_batch_fills_it(scenes: Path, tiny_config: Config) -> None:
    config = override(tiny_config, {"train": {"batch_size": 5}}, where="test")
    labels = load_coco(scenes / "annotations.json")
    batch = TrainBatches(find_images(scenes / "images")[:1], labels, config, seed=0)(0)
    assert len(batch.images) == 10


def test_failures_are_named_and_replaced(tmp_path: Path, scenes: Path, tiny_config: Config) -> None:
    images = find_images(scenes / "images")
    missing = [ImageRef(tmp_path / "gone.jpg", images[0].name), *images[1:2]]
    batch = TrainBatches(missing, load_coco(scenes / "annotations.json"), tiny_config, seed=0)(0)
    assert len(batch.images) == 4
    assert [name for name, _ in batch.failures] == [images[0].name]


@pytest.mark.parametrize(
    ("workers", "decoded"),
    [
        pytest.param(0, 1, id="none"),
        pytest.param(1, 1, id="one"),
        pytest.param(2, 3, id="half-of-it-is-too-little"),
    ],
)
def test_workers_share_the_memory_of_the_cache(
    monkeypatch: pytest.MonkeyPatch,
    scenes: Path,
    tiny_config: Config,
    workers: int,
    decoded: int,
) -> None:
    paths: list[Path] = []

    def counting(path: Path, **_: object) -> NDArray[np.uint8]:
        paths.append(path)
        return read_image(path)

    monkeypatch.setattr(cache, "read_image", counting)
    images = find_images(scenes / "images")[:1]
    enough = 1.5 * read_image(images[0].path).size
    config = override(
        tiny_config, {"train": {"cache_gb": enough / 1e9, "batch_size": 3}}, where="test"
    )
    labels = load_coco(scenes / "annotations.json")
    TrainBatches(images, labels, config, seed=0, workers=workers)(0)
    assert len(paths) == decoded


def test_boxes_of_the_file_are_never_read(scenes: Path, tiny_config: Config) -> None:
    """Such as the released ones, whose corners are read as sizes."""
    labels = load_coco(scenes / "annotations.json")
    wrong = replace(
        labels,
        annotations={
            image: tuple(replace(one, box_xywh=(0.0, 0.0, 9e3, 9e3)) for one in annotations)
            for image, annotations in labels.annotations.items()
        },
    )
    found = find_images(scenes / "images")
    first, second = (TrainBatches(found, file, tiny_config, seed=0)(0) for file in (labels, wrong))
    for name, ours in first.content.items():
        assert torch.equal(torch.as_tensor(ours), torch.as_tensor(second.content[name])), name
