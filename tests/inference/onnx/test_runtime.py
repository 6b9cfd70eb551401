"""Running an exported network, without torch and with files that are none."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from soloist.data.coco.read import load_coco
from soloist.errors import CheckpointError, DataError, SoloistError
from soloist.inference.onnx import runtime as onnx_runtime
from soloist.inference.onnx.runtime import OnnxSegmenter, Record

onnx = pytest.importorskip("onnx")


@pytest.fixture(scope="module")
def segmenter(exported_file: Path) -> OnnxSegmenter:
    return onnx_runtime.load(exported_file, threads=1)


WITHOUT_TORCH = """
import sys

for name in ("torch", "torchvision", "timm", "accelerate", "safetensors", "huggingface_hub"):
    sys.modules[name] = None
import soloist.inference.onnx.runtime

results = soloist.inference.onnx.runtime.load(sys.argv[1], threads=1).predict(sys.argv[2])
results[0].save(sys.argv[3] + "/masks.json")
results[0].save(sys.argv[3] + "/masks.png")
print(len(results), len(results[0]), *sorted(sys.modules))
"""


@pytest.mark.slow
def test_nothing_needs_torch(
    exported_file: Path, segmenter: OnnxSegmenter, scenes: Path, tmp_path: Path
) -> None:
    arguments = [str(exported_file), str(scenes / "images"), str(tmp_path)]
    done = subprocess.run(
        [sys.executable, "-c", WITHOUT_TORCH, *arguments],
        capture_output=True,
        text=True,
        check=True,
    )
    images, objects, *loaded = done.stdout.split()
    wanted = segmenter.predict(scenes / "images")
    assert (int(images), int(objects)) == (len(wanted), len(wanted[0]))
    assert not [name for name in loaded if name.startswith("torch.")]
    written = load_coco(tmp_path / "masks.json")
    np.testing.assert_array_equal(written.masks(written.images[0]), wanted[0].masks)
    assert written.embeddings is not None
    assert written.embeddings.shape == wanted[0].embeddings.shape
    with Image.open(tmp_path / "masks.png") as image:
        assert image.size == wanted[0].image_size[::-1]


def test_path_array_and_image_give_the_same(segmenter: OnnxSegmenter, tmp_path: Path) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (70, 90, 3), dtype=np.uint8)
    path = tmp_path / "image.png"
    Image.fromarray(pixels).save(path)
    (from_path,) = segmenter.predict(path)
    assert from_path.path == path
    assert len(from_path) > 0
    for source in (str(path), pixels, Image.fromarray(pixels), [path], pixels[:, ::-1][:, ::-1]):
        (result,) = segmenter.predict(source)
        assert result.image_size == (70, 90)
        for name in ("masks", "scores", "boxes", "embeddings"):
            np.testing.assert_array_equal(getattr(result, name), getattr(from_path, name))
    norms = np.linalg.norm(from_path.embeddings, axis=1)
    np.testing.assert_allclose(norms, 1, atol=1e-5)


def test_a_stream_comes_one_by_one(segmenter: OnnxSegmenter, scenes: Path) -> None:
    stream = segmenter.predict(scenes / "images", stream=True)
    assert next(stream).path == scenes / "images" / "000001.jpg"
    assert len(list(stream)) == 5


def test_a_result_can_be_filtered_and_drawn(segmenter: OnnxSegmenter) -> None:
    (result,) = segmenter.predict(np.zeros((40, 50, 3), dtype=np.uint8))
    some = result.filter(result.scores >= result.scores[1])
    assert 2 <= len(some) <= len(result)
    assert some.plot().size == (50, 40)
    assert len(some.to_coco()["annotations"]) == len(some)


@pytest.mark.parametrize(
    "pixels",
    [
        pytest.param(np.zeros((0, 4, 3), dtype=np.uint8), id="none"),
        pytest.param(np.zeros((4, 4, 7), dtype=np.uint8), id="channels"),
    ],
)
def test_wrong_pixels_are_refused(segmenter: OnnxSegmenter, pixels: Any) -> None:
    with pytest.raises(ValueError, match=r"pixels must be \(H, W\) or \(H, W, C\)"):
        segmenter.predict(pixels)


def test_sources_that_are_none_are_reported(segmenter: OnnxSegmenter, tmp_path: Path) -> None:
    with pytest.raises(DataError):
        segmenter.predict(tmp_path / "none.jpg")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        pytest.param(None, "no exported network at", id="missing"),
        pytest.param(b"", "cannot run", id="empty"),
        pytest.param(b"no network\n" * 40, "cannot run", id="text"),
        pytest.param("half", "cannot run", id="half-a-file"),
        pytest.param("bare", "without its record", id="of-another-program"),
        pytest.param({"soloist": "{"}, "damaged record", id="no-json"),
        pytest.param({"soloist": "[]"}, "damaged record", id="list"),
        pytest.param({"soloist": "{}"}, "damaged record", id="no-sections"),
    ],
)
def test_a_file_that_is_no_export_is_reported_in_one_line(
    exported_file: Path, tmp_path: Path, content: Any, message: str
) -> None:
    path = tmp_path / "model.onnx"
    if content == "half":
        path.write_bytes(exported_file.read_bytes()[: exported_file.stat().st_size // 2])
    elif isinstance(content, bytes):
        path.write_bytes(content)
    elif content is not None:
        model = onnx.load(exported_file)
        del model.metadata_props[:]
        onnx.helper.set_model_props(model, {} if content == "bare" else content)
        onnx.save(model, path)
    with pytest.raises(CheckpointError, match=message) as caught:
        onnx_runtime.load(path)
    assert "\n" not in str(caught.value)
    assert str(path) in str(caught.value)


@pytest.mark.parametrize(
    "content",
    [
        pytest.param({"inference": []}, id="list-for-a-section"),
        pytest.param({"inference": {"short_side": "far"}}, id="text-for-a-number"),
        pytest.param({"inference": {"short_side": 0}}, id="out-of-range"),
        pytest.param({"inference": {"nmss": "mask"}}, id="unknown-option"),
        pytest.param({"model": {"grids": [1, 2]}}, id="grids-without-strides"),
        pytest.param({"categories": [3]}, id="category-without-name"),
    ],
)
def test_a_record_is_checked(content: dict[str, Any]) -> None:
    text = json.dumps({"inference": {}, "model": {}, **content})
    with pytest.raises(SoloistError, match=r"m\.onnx has a damaged record"):
        Record.from_json(text, where="m.onnx")


def test_the_file_may_be_moved(
    exported_file: Path, tmp_path: Path, segmenter: OnnxSegmenter
) -> None:
    moved = shutil.copy(exported_file, tmp_path / "other.onnx")
    pixels = np.zeros((40, 50, 3), dtype=np.uint8)
    (here,), (there,) = segmenter.predict(pixels), onnx_runtime.load(moved).predict(pixels)
    np.testing.assert_array_equal(here.scores, there.scores)
