from __future__ import annotations

import json
import pickle
import warnings
from collections.abc import Iterator
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile
import torch
from numpy.typing import NDArray
from PIL import Image
from pycocotools import mask as coco_mask
from pycocotools.coco import COCO
from safetensors.torch import load_file, save_file

import soloist
from soloist.config import ReadingConfig, TileConfig
from soloist.config.presets import override
from soloist.data.coco.read import load_coco
from soloist.data.images import read_image
from soloist.errors import CheckpointError, ConfigError, DataError
from soloist.inference.results import Result
from soloist.inference.segmenter import Segmenter
from soloist.postprocess import CellMasks
from soloist.proposals.propose import confirmed
from soloist.proposals.refinement import refine_with_guided_filter
from soloist.proposals.regions import NodeMasks, Regions, chosen_nodes, drawn, region_masks


@pytest.fixture(scope="module")
def segmenter(model_folder: Path) -> Segmenter:
    return soloist.load(model_folder, device="cpu", precision="fp32")


@pytest.fixture(scope="module")
def pixels() -> NDArray[np.uint8]:
    """An image of 70 x 90 pixels with a bright square."""
    image = np.random.default_rng(0).integers(0, 60, (70, 90, 3), dtype=np.uint8)
    image[20:50, 30:60] += 150
    return image


@pytest.fixture
def image(tmp_path: Path, pixels: NDArray[np.uint8]) -> Path:
    path = tmp_path / "image.png"
    Image.fromarray(pixels).save(path)
    return path


@pytest.fixture
def result(segmenter: Segmenter, image: Path) -> Result:
    return segmenter.predict(image)[0]


def assert_same(one: Result, other: Result) -> None:
    assert one.image_size == other.image_size
    for name in ("masks", "scores", "boxes", "embeddings"):
        assert torch.equal(getattr(one, name), getattr(other, name)), name


# Sources


def test_a_result_has_what_design_promises(result: Result, image: Path) -> None:
    assert result.path == image
    assert result.image_size == (70, 90)
    assert len(result) > 0
    assert result.masks.shape == (len(result), 70, 90)
    assert result.masks.dtype == torch.bool
    assert bool((result.scores[:-1] >= result.scores[1:]).all())
    torch.testing.assert_close(result.embeddings.norm(dim=1), torch.ones(len(result)))
    for mask, box in zip(result.masks, result.boxes, strict=True):
        rows, columns = torch.nonzero(mask, as_tuple=True)
        tight = [columns.min(), rows.min(), columns.max() + 1, rows.max() + 1]
        assert box.tolist() == [int(value) for value in tight]


def test_path_text_array_and_image_give_the_same(
    segmenter: Segmenter, image: Path, pixels: NDArray[np.uint8]
) -> None:
    from_path = segmenter.predict(image)[0]
    with Image.open(image) as opened:
        others: list[Any] = [str(image), pixels, pixels[:, ::-1][:, ::-1], opened, [image]]
        results = [segmenter.predict(one) for one in others]
    assert [len(one) for one in results] == [1] * len(others)
    for one in results:
        assert_same(one[0], from_path)
    assert [one[0].path for one in results] == [image, None, None, None, image]


def test_several_arrays_and_images_give_one_result_each(
    segmenter: Segmenter, image: Path, pixels: NDArray[np.uint8]
) -> None:
    from_path = segmenter.predict(image)[0]
    for several in ([pixels, pixels], (pixels, image, Image.fromarray(pixels))):
        results = segmenter.predict(several)
        assert len(results) == len(several)
        for one in results:
            assert_same(one, from_path)


@pytest.mark.parametrize(
    ("mode", "color"),
    [
        pytest.param("RGBA", (10, 200, 30, 0), id="transparent"),
        pytest.param("L", 77, id="grey"),
        pytest.param("P", 3, id="palette"),
        pytest.param("1", 1, id="black-and-white"),
        pytest.param("I;16", 3000, id="16-bit-grey"),
    ],
)
def test_a_image_of_any_mode_is_seen_as_its_file(
    tmp_path: Path, segmenter: Segmenter, mode: str, color: Any
) -> None:
    image = Image.new(mode, (40, 30), color)
    image.save(tmp_path / "a.png")
    from_file, from_memory = segmenter.predict(tmp_path / "a.png")[0], segmenter.predict(image)[0]
    assert_same(from_memory, from_file)
    np.testing.assert_array_equal(np.asarray(from_memory.plot()), np.asarray(from_file.plot()))


def test_pixels_that_may_not_be_written_are_no_trouble(
    segmenter: Segmenter, pixels: NDArray[np.uint8]
) -> None:
    frozen = pixels.copy()
    frozen.flags.writeable = False
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert len(segmenter.predict(frozen)) == 1
        assert len(segmenter.predict(Image.fromarray(pixels))) == 1
    np.testing.assert_array_equal(frozen, pixels)


def test_a_folder_gives_its_images_in_order(segmenter: Segmenter, scenes: Path) -> None:
    results = segmenter.predict(scenes / "images")
    names = [result.path.name for result in results if result.path is not None]
    assert names == [f"{number:06d}.jpg" for number in range(1, 7)]
    truth = load_coco(scenes / "annotations.json")
    assert [result.image_size for result in results] == [
        (image.height, image.width) for image in truth.images
    ]


def test_a_stream_gives_the_same_one_by_one(
    monkeypatch: pytest.MonkeyPatch, segmenter: Segmenter, scenes: Path
) -> None:
    whole = segmenter.predict(scenes / "images")
    read: list[str] = []
    original = Segmenter.predict_file

    def noting(self: Segmenter, image: Any) -> Result:
        read.append(image.name)
        return original(self, image)

    monkeypatch.setattr(Segmenter, "predict_file", noting)
    stream = segmenter.predict(scenes / "images", stream=True)
    assert isinstance(stream, Iterator)
    assert read == []
    assert_same(next(stream), whole[0])
    assert read == ["000001.jpg"]
    for one, other in zip(stream, whole[1:], strict=True):
        assert_same(one, other)


def test_the_same_image_gives_the_same_result_whatever_came_before(
    segmenter: Segmenter, model_folder: Path, image: Path, scenes: Path
) -> None:
    first = segmenter.predict(image)[0]
    segmenter.predict(scenes / "images")
    assert_same(segmenter.predict(image)[0], first)
    assert_same(soloist.load(model_folder, precision="fp32").predict(image)[0], first)


@pytest.mark.parametrize(
    "size",
    [
        pytest.param((1, 1), id="one-pixel"),
        pytest.param((1, 300), id="row"),
        pytest.param((500, 2), id="column"),
        pytest.param((31, 33), id="no-whole-stride"),
        pytest.param((64, 3000), id="panorama"),
    ],
)
def test_images_of_any_size_are_segmented(segmenter: Segmenter, size: tuple[int, int]) -> None:
    found = segmenter.predict(np.full((*size, 3), 90, dtype=np.uint8))[0]
    assert found.image_size == size
    assert found.masks.shape == (len(found), *size)
    assert found.boxes.isfinite().all()


def test_what_cannot_be_read_is_reported(tmp_path: Path, segmenter: Segmenter) -> None:
    (tmp_path / "a.jpg").write_text("no image")
    with pytest.raises(DataError, match="it is not an image"):
        segmenter.predict(tmp_path / "a.jpg")
    with pytest.raises(DataError, match="does not exist"):
        segmenter.predict(tmp_path / "none.jpg")


def test_bf16_finds_nearly_the_same(model_folder: Path, image: Path, result: Result) -> None:
    other = soloist.load(model_folder, device="cpu", precision="bf16").predict(image)[0]
    assert other.scores.dtype == torch.float32
    torch.testing.assert_close(other.scores[0], result.scores[0], rtol=0.2, atol=0.01)


# Results


@pytest.mark.parametrize(
    "keep",
    [
        pytest.param([True, False, True, False, False, False, False, False], id="mask"),
        pytest.param([2, 0], id="indices"),
        pytest.param([], id="none"),
    ],
)
def test_filter_moves_all_fields_together(result: Result, keep: list[Any]) -> None:
    assert len(result) == 8
    result = replace(result, labels=torch.arange(8), categories={4: "a"})
    chosen = torch.tensor(keep, dtype=torch.bool if True in keep else torch.int64)
    assert result.filter(chosen).agreements is None
    result = replace(result, agreements=torch.rand(8, 4))
    filtered = result.filter(chosen)
    assert isinstance(filtered, Result)
    for name in ("path", "pixels", "categories"):
        assert getattr(filtered, name) is getattr(result, name)
    for name in ("masks", "scores", "boxes", "embeddings", "labels", "agreements"):
        assert torch.equal(getattr(filtered, name), getattr(result, name)[chosen])


def test_filter_carries_every_field() -> None:
    assert {field.name for field in fields(Result)} == {
        "image_size",
        "masks",
        "scores",
        "boxes",
        "embeddings",
        "labels",
        "agreements",
        "track_ids",
        "path",
        "pixels",
        "name",
        "categories",
        "reading",
        "recommended_score",
    }


def test_the_best_k_keep_their_image(result: Result) -> None:
    best = result.top_k(2)
    assert isinstance(best, Result)
    assert best.path == result.path
    assert torch.equal(best.scores, result.scores[:2])


def test_plot_draws_over_the_image(result: Result, pixels: NDArray[np.uint8]) -> None:
    plain = np.asarray(result.filter(torch.zeros(0, dtype=torch.int64)).plot())
    np.testing.assert_array_equal(plain, pixels)
    drawn = np.asarray(result.plot())
    assert drawn.shape == pixels.shape
    inside = result.masks.any(dim=0).numpy()
    assert (drawn != pixels).any(axis=2)[inside].mean() > 0.5


def test_plot_needs_an_image(result: Result) -> None:
    with pytest.raises(ValueError, match="neither pixels nor a path"):
        replace(result, path=None).plot()


@pytest.mark.parametrize("name", ["new/drawn.png", "drawn.jpg", "DRAWN.PNG"])
def test_save_writes_a_image(tmp_path: Path, result: Result, name: str) -> None:
    path = result.save(tmp_path / name)
    assert path == tmp_path / name
    with Image.open(path) as saved:
        assert saved.size == (90, 70)


def test_save_writes_a_coco_file(tmp_path: Path, result: Result) -> None:
    coco = load_coco(result.save(tmp_path / "new" / "result.json"))
    assert [image.file_name for image in coco.images] == ["image.png"]
    read = coco.instances(coco.images[0])
    assert torch.equal(read.masks, result.masks)
    assert torch.equal(read.boxes, result.boxes)
    assert torch.equal(read.embeddings, result.embeddings)
    torch.testing.assert_close(read.scores, result.scores, atol=1e-6, rtol=0)


def test_to_coco_is_json_that_pycocotools_reads(result: Result) -> None:
    document = json.loads(json.dumps(result.to_coco(image_id=7), allow_nan=False))
    coco = COCO()
    coco.dataset = document
    coco.createIndex()
    assert list(coco.imgs) == [7]
    assert document["categories"] == [{"id": 1, "name": "object"}]
    for annotation, mask in zip(coco.loadAnns(coco.getAnnIds()), result.masks, strict=True):
        np.testing.assert_array_equal(coco.annToMask(annotation), mask.numpy())
        assert annotation["area"] == coco_mask.area(annotation["segmentation"])
        assert annotation["image_id"] == 7


def test_a_result_survives_pickling(segmenter: Segmenter, result: Result, pixels: Any) -> None:
    for original in (result, segmenter.predict(pixels)[0]):
        copied = pickle.loads(pickle.dumps(original))
        assert_same(copied, original)
        assert copied.path == original.path
        assert np.array_equal(np.asarray(copied.plot()), np.asarray(original.plot()))


def test_an_empty_result_does_everything(tmp_path: Path, segmenter: Segmenter) -> None:
    inference = replace(segmenter.config.inference, category_threshold=1.0)
    strict = Segmenter(
        segmenter.network, replace(segmenter.config, inference=inference), segmenter.runtime
    )
    nothing = strict.predict(np.zeros((20, 30, 3), dtype=np.uint8))[0]
    assert len(nothing) == 0
    assert nothing.masks.shape == (0, 20, 30)
    assert nothing.to_coco()["annotations"] == []
    assert nothing.plot().size == (30, 20)
    assert len(load_coco(nothing.save(tmp_path / "nothing.json"))) == 0


# Loading


def test_a_run_folder_and_its_model_folder_load_the_same(
    model_folder: Path, image: Path, result: Result
) -> None:
    assert_same(soloist.load(model_folder.parent, precision="fp32").predict(image)[0], result)


def copied_model(source: Path, target: Path) -> Path:
    target.mkdir()
    for file in source.iterdir():
        (target / file.name).write_bytes(file.read_bytes())
    return target


@pytest.mark.parametrize("name", ["config.json", "model.safetensors"])
def test_a_model_that_is_not_complete_is_reported(
    tmp_path: Path, model_folder: Path, name: str
) -> None:
    folder = copied_model(model_folder, tmp_path / "model")
    (folder / name).unlink()
    for place in (folder, tmp_path, tmp_path / "elsewhere"):
        with pytest.raises(CheckpointError, match=r"no trained model in .*; wanted the --out"):
            soloist.load(place)


@pytest.mark.parametrize(
    "text",
    [
        pytest.param("", id="empty"),
        pytest.param("{", id="no-json"),
        pytest.param("[]", id="list"),
        pytest.param("{}", id="no-sections"),
        pytest.param('{"backbone": {}, "model": 3, "inference": {}}', id="no-section"),
        pytest.param('{"name": "resnet18", "method": "DenseCL"}', id="of-a-backbone"),
    ],
)
def test_a_record_that_cannot_be_used_is_reported_in_one_line(
    tmp_path: Path, model_folder: Path, text: str
) -> None:
    folder = copied_model(model_folder, tmp_path / "model")
    (folder / "config.json").write_text(text)
    with pytest.raises((CheckpointError, ConfigError)) as caught:
        soloist.load(folder)
    assert str(folder) in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("change", ["missing", "extra", "shape"])
def test_weights_that_do_not_fit_are_reported(
    tmp_path: Path, model_folder: Path, change: str
) -> None:
    folder = copied_model(model_folder, tmp_path / "model")
    weights = load_file(folder / "model.safetensors")
    if change == "missing":
        del weights["category_branch.category.bias"]
    elif change == "extra":
        weights["category_branch.more"] = torch.zeros(1)
    else:
        weights["category_branch.category.bias"] = torch.zeros(5)
    save_file(weights, folder / "model.safetensors")
    with pytest.raises(CheckpointError, match="1 tensors are missing, left over or of another"):
        soloist.load(folder)


def test_the_names_of_the_package_are_there() -> None:
    assert {"Result", "Segmenter", "evaluate", "extract_masks", "fit", "load"} <= set(dir(soloist))
    assert soloist.Segmenter is Segmenter
    with pytest.raises(AttributeError, match="no attribute 'lod'"):
        _ = soloist.lod


# Tiles


def test_a_image_that_fits_into_a_tile_is_segmented_as_without(
    segmenter: Segmenter, image: Path, pixels: NDArray[np.uint8]
) -> None:
    wanted = segmenter.predict(image)[0]
    for source in (image, pixels):
        (found,) = segmenter.predict(source, tile=128)
        np.testing.assert_array_equal([*found.masks], wanted.masks.numpy())
        for name in ("scores", "boxes", "embeddings"):
            assert torch.equal(getattr(found, name), getattr(wanted, name)), name
        assert found.to_coco()["annotations"] == wanted.to_coco()["annotations"]


def test_a_tiled_result_is_drawn_and_written(
    segmenter: Segmenter, tmp_path: Path, pixels: NDArray[np.uint8]
) -> None:
    large = np.tile(pixels, (3, 3, 1))
    config = TileConfig(size=128, overlap=32)
    (found,) = segmenter.predict(large, tile=config)
    assert len(found) > 0
    assert found.plot().size == (270, 210)
    assert (np.asarray(found.plot()) != large).any()
    file = load_coco(found.save(tmp_path / "masks.json"))
    assert len(file) == len(found)
    np.testing.assert_array_equal(file.masks(file.images[0]), [*found.masks])
    assert [one.masks.rles for one in found] == [(rle,) for rle in found.masks.rles]
    assert found[::-1].scores.tolist() == found.scores.tolist()[::-1]
    assert pickle.loads(pickle.dumps(found)).masks == found.masks
    assert repr(found) == f"<Result: {found._summary()}>"
    assert "<img " in found._repr_html_()
    stream = segmenter.predict(large, tile=config, stream=True)
    assert isinstance(stream, Iterator)
    assert next(stream).masks == found.masks


def test_tiles_that_are_too_small_are_reported(segmenter: Segmenter, image: Path) -> None:
    with pytest.raises(ConfigError, match=r"tile\.size must be at least 64"):
        segmenter.predict(image, tile=10)


# Reading


@pytest.mark.slow
def test_a_model_reads_as_it_was_trained(tmp_path: Path, model_folder: Path) -> None:
    values = np.random.default_rng(0).integers(0, 4000, (70, 90, 5), dtype=np.uint16)
    tifffile.imwrite(tmp_path / "a.tif", values, photometric="minisblack", planarconfig="contig")
    segmenter = soloist.load(model_folder, device="cpu", precision="fp32")
    with pytest.raises(DataError, match="5 channels; choose"):
        segmenter.predict(tmp_path / "a.tif")
    reading = ReadingConfig(channels=(4, 2, 0), stretch="percentile")
    segmenter.config = replace(segmenter.config, reading=reading)
    segmenter.save_pretrained(tmp_path / "model")
    again = soloist.load(tmp_path / "model", device="cpu", precision="fp32")
    assert again.config.reading == reading
    (result,) = again.predict(tmp_path / "a.tif")
    assert_same(result, again.predict(read_image(tmp_path / "a.tif", reading=reading))[0])
    assert result.plot().size == (90, 70)
    (large,) = again.predict(tmp_path / "a.tif", tile=128)
    assert large.plot().size == (90, 70)


# Regions


@pytest.fixture
def ranking(model_folder: Path, monkeypatch: pytest.MonkeyPatch) -> Segmenter:
    """A segmenter that ranks regions; it has learned hardly anything, so any mask confirms one."""
    monkeypatch.setattr("soloist.proposals.propose.HEARD", 90.0)
    monkeypatch.setattr("soloist.proposals.propose.UNHEARD", 91.0)
    segmenter = soloist.load(model_folder, device="cpu", precision="fp32")
    options = {
        "inference": {"masks": "reranked", "category_threshold": 0.0, "score_threshold": 0.0},
        "regions": {"max_masks": 40},
    }
    segmenter.config = override(segmenter.config, options, where="test")
    return segmenter


def test_masks_are_regions_in_the_order_the_network_gives_them(
    ranking: Segmenter, pixels: NDArray[np.uint8], monkeypatch: pytest.MonkeyPatch
) -> None:
    calls: list[tuple[Regions[NodeMasks], CellMasks]] = []

    def noted(
        regions: Regions[NodeMasks], seen: CellMasks, most: int, threshold: float
    ) -> Regions[NodeMasks]:
        calls.append((regions, seen))
        return confirmed(regions, seen, most, threshold)

    monkeypatch.setattr("soloist.inference.image_segmenter.confirmed", noted)
    # Of 70 x 90 pixels the network reads more, padded to 96 x 128: 6 x 8 cells.
    options = {"inference": {"short_side": 70, "max_side": 90}}
    ranking.config = override(ranking.config, options, where="test")
    found = ranking(pixels, (70, 90))
    ((regions, seen),) = calls
    assert regions.pixels.shape == (4, 6)
    assert seen.shares.shape == (len(seen.scores), 4 * 6)
    assert len(seen.scores) > 0
    best = confirmed(regions, seen)
    assert len(found) == min(len(best.scores), ranking.config.inference.max_per_image)
    best = best.filter(np.arange(len(found)))
    assert torch.equal(found.masks, drawn(best).masks)
    assert found.scores.tolist() == pytest.approx(best.scores.tolist())
    assert best.scores.tolist() != regions.scores.tolist()
    torch.testing.assert_close(found.embeddings.norm(dim=1), torch.ones(len(found)))
    encoded = ranking.labeler(pixels, (70, 90))
    assert encoded.scores.tolist() == pytest.approx(found.scores.tolist())


def test_nodes_are_scored_as_the_regions_that_they_become(
    ranking: Segmenter, pixels: NDArray[np.uint8], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("soloist.inference.image_segmenter.LEAST", 0.0)
    found = ranking(pixels, (70, 90))
    hierarchies, nodes = chosen_nodes(pixels, (70, 90), ranking._sure, None)
    scores = ranking.rescored(pixels, (70, 90), hierarchies, nodes).scores
    assert len(nodes) > len(found) > 3  # as many as an image may have
    wanted = np.sort(scores)[::-1][: len(found)]
    assert found.scores.tolist() == pytest.approx(wanted.tolist(), abs=1e-6)
    monkeypatch.setattr("soloist.inference.image_segmenter.LEAST", 2.0)
    doubted = ranking.rescored(pixels, (70, 90), hierarchies, nodes).scores
    assert (doubted < nodes.scores).all()
    own = {"inference": {"masks": "regions"}}
    ranking.config = override(ranking.config, own, where="test")
    assert ranking.rescored(pixels, (70, 90), hierarchies, nodes) is nodes


def test_outlines_follow_the_colors_if_wanted(
    ranking: Segmenter, pixels: NDArray[np.uint8], monkeypatch: pytest.MonkeyPatch
) -> None:
    own = {"inference": {"masks": "network", "max_per_image": 100}}
    ranking.config = override(ranking.config, own, where="test")
    plain = ranking(pixels, (70, 90))
    options = {"inference": {"outline_radius": 0.1}}
    ranking.config = override(ranking.config, options, where="test")
    wanted = refine_with_guided_filter(plain, pixels, 0.1)
    assert not torch.equal(plain.masks, wanted.masks)
    assert torch.equal(ranking(pixels, (70, 90)).masks, wanted.masks)


@pytest.mark.slow
def test_ranked_regions_keep_their_limits(ranking: Segmenter, pixels: NDArray[np.uint8]) -> None:
    everything = ranking(pixels, (70, 90))
    assert len(everything) > 3
    least = float(everything.scores[2]) - 1e-6  # scores are single precision
    for options, kept in (({"score_threshold": least}, 3), ({"max_per_image": 2}, 2)):
        ranking.config = override(
            ranking.config, {"inference": {"score_threshold": 0.0, **options}}, where="test"
        )
        found = ranking(pixels, (70, 90))
        assert len(found) == kept
        assert torch.equal(found.masks, everything.masks[:kept])


def test_a_saved_segmenter_keeps_its_regions(ranking: Segmenter, tmp_path: Path) -> None:
    ranking.save_pretrained(tmp_path)
    again = soloist.load(tmp_path, device="cpu", precision="fp32")
    assert again.config.regions == ranking.config.regions
    assert again.config.inference == ranking.config.inference


def test_regions_in_their_own_order_need_no_head(
    ranking: Segmenter, pixels: NDArray[np.uint8], monkeypatch: pytest.MonkeyPatch
) -> None:
    options = {"inference": {"masks": "regions", "max_per_image": 5}}
    ranking.config = override(ranking.config, options, where="test")
    monkeypatch.setattr(type(ranking._ready), "heads", None)
    found = ranking(pixels, (70, 90))
    wanted = region_masks(
        pixels, torch.ones(4, 2, 2), (70, 90), replace(ranking.config.regions, score_threshold=0.0)
    )
    assert torch.equal(found.masks, wanted.masks[:5])
    assert torch.equal(found.scores, wanted.scores[:5])
    assert found.embeddings.dtype == torch.float32
