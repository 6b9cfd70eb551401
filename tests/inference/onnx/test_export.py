"""`soloist export`: what the file holds, and that it does what torch does."""

from __future__ import annotations

import json
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import soloist
from soloist.data.scenes import make_scene
from soloist.errors import ConfigError, RunError
from soloist.inference.onnx import export as onnx_export
from soloist.inference.onnx import runtime as onnx_runtime
from soloist.inference.onnx.export import Comparison, compare, export_onnx
from soloist.inference.onnx.runtime import OnnxSegmenter
from soloist.inference.segmenter import Segmenter
from soloist.models.build import build_solo
from soloist.runtime.device import Runtime

onnx = pytest.importorskip("onnx")
pytest.importorskip("onnxscript")
pytest.importorskip("onnxruntime")

IMAGES = 8


@pytest.fixture(scope="module")
def segmenter(classes_folder: Path) -> Segmenter:
    return soloist.load(classes_folder, device="cpu", precision="fp32")


@pytest.fixture(scope="module")
def exported(exported_file: Path) -> OnnxSegmenter:
    return onnx_runtime.load(exported_file, threads=1)


def raw_difference(segmenter: Segmenter, exported: OnnxSegmenter, batch: Any) -> float:
    """Largest difference of any output on a (B, 3, H, W) uint8 batch, of its largest value."""
    with torch.inference_mode():
        wanted = onnx_export._raw_network(segmenter)(torch.from_numpy(batch))
    outputs = exported.session.run(list(onnx_runtime.OUTPUTS), {onnx_runtime.INPUT: batch})
    return max(
        float(np.abs(ours.numpy() - theirs).max() / np.abs(theirs).max())
        for ours, theirs in zip(wanted, outputs, strict=True)
    )


@pytest.mark.parametrize(
    ("batch", "height", "width"),
    [
        pytest.param(1, 32, 64, id="small"),
        pytest.param(1, 64, 64, id="levels-as-large-as-their-grids"),
        pytest.param(1, 32, 320, id="flat"),
        pytest.param(1, 288, 192, id="upright"),
        pytest.param(3, 96, 64, id="several"),
    ],
)
def test_images_of_any_size_and_number(
    segmenter: Segmenter, exported: OnnxSegmenter, batch: int, height: int, width: int
) -> None:
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (batch, 3, height, width), dtype=np.uint8)
    assert raw_difference(segmenter, exported, images) < 1e-4


def test_the_same_objects_are_found(segmenter: Segmenter, exported: OnnxSegmenter) -> None:
    images = [make_scene(index, long_side=96).image for index in range(6)]
    comparison = compare(segmenter, exported, images)
    assert (comparison.images, comparison.same_count) == (6, 6)
    assert len(comparison.scores) > 6
    assert np.median(comparison.scores) < 1e-4
    assert np.median(comparison.overlaps) > 0.99


def test_the_file_is_complete_and_tells_nothing_of_this_machine(exported_file: Path) -> None:
    assert [path.name for path in exported_file.parent.iterdir()] == [exported_file.name]
    model = onnx.load(exported_file)
    onnx.checker.check_model(model, full_check=True)
    assert [(one.domain, one.version) for one in model.opset_import] == [("", onnx_export.OPSET)]
    (record,) = (json.loads(one.value) for one in model.metadata_props)
    assert record["backbone"]["name"] == "resnet10t"
    assert record["inference"]["short_side"] == 64
    assert record["soloist"] == soloist.__version__
    content = exported_file.read_bytes()
    for trace in ("site-packages", ".py", str(Path.home()), str(Path(soloist.__file__).parents[1])):
        assert trace.encode() not in content, trace


def test_a_file_is_replaced_only_if_asked(segmenter: Segmenter, tmp_path: Path) -> None:
    out = tmp_path / "model.onnx"
    out.write_text("mine")
    with pytest.raises(RunError, match="exists; add --overwrite"):
        export_onnx(segmenter, out)
    assert out.read_text() == "mine"


def test_a_file_that_differs_from_torch_does_not_appear(
    segmenter: Segmenter, exported_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(onnx_export, "_exported", lambda raw, name: onnx.load(exported_file))
    other = Segmenter(
        build_solo(segmenter.config.backbone, segmenter.config.model),
        segmenter.config,
        Runtime(torch.device("cpu"), "fp32"),
    )
    with pytest.raises(ConfigError, match=r"must do what torch does.*: nothing is written"):
        export_onnx(other, tmp_path / "model.onnx")
    assert list(tmp_path.iterdir()) == []


def test_what_torch_cannot_export_is_reported(
    segmenter: Segmenter, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*arguments: Any, **options: Any) -> Any:
        raise torch.onnx.OnnxExporterError("no such operator\nat all")

    monkeypatch.setattr(torch.onnx, "export", refuse)
    with pytest.raises(ConfigError, match=r"'resnet10t' cannot be .*\(no such operator at all\)"):
        export_onnx(segmenter, tmp_path / "model.onnx")
    assert list(tmp_path.iterdir()) == []


def test_a_network_too_large_for_one_file_is_reported(
    segmenter: Segmenter, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(onnx_export, "MAX_BYTES", 10**6)
    with pytest.raises(ConfigError, match=r"at most 0\.0 GB .* that of backbone 'resnet10t' has"):
        export_onnx(segmenter, tmp_path / "model.onnx")


@pytest.mark.parametrize("package", ["onnx", "onnxscript", "onnxruntime"])
def test_a_missing_package_is_named(
    segmenter: Segmenter, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, package: str
) -> None:
    monkeypatch.setattr(
        "soloist.errors.find_spec", lambda name: None if name == package else find_spec(name)
    )
    with pytest.raises(ConfigError, match=rf"needs {package}; pip install '\.\[onnx\]'"):
        export_onnx(segmenter, tmp_path / "model.onnx")


def test_classes_and_their_names_are_kept(segmenter: Segmenter, exported: OnnxSegmenter) -> None:
    image = make_scene(0, long_side=96).image
    (ours,), (theirs,) = segmenter.predict(image), exported.predict(image)
    assert ours.labels is not None
    assert theirs.labels is not None
    assert len(set(theirs.labels.tolist())) > 1
    assert theirs.labels.tolist() == ours.labels.tolist()
    written, wanted = theirs.to_coco(), ours.to_coco()
    assert written["categories"] == wanted["categories"]
    assert [one["category_id"] for one in written["annotations"]] == [
        one["category_id"] for one in wanted["annotations"]
    ]


def test_a_summary_without_objects_says_so() -> None:
    nothing = np.zeros(0, dtype=np.float32)
    assert (
        "0 objects on 2 images, as many in both on 2; the network"
        in Comparison(2, 2, nothing, nothing, 1e-6).summary()
    )


@pytest.mark.slow
def test_the_bundled_segmenter_finds_the_same(tmp_path: Path) -> None:
    segmenter = soloist.load(device="cpu", precision="fp32")
    assert segmenter.config.inference.masks == "reranked"
    export_onnx(segmenter, tmp_path / "model.onnx")
    exported = onnx_runtime.load(tmp_path / "model.onnx", threads=1)
    images = (make_scene(index, seed=5, split="val").image for index in range(IMAGES))
    assert exported.config.masks == "network"
    comparison = compare(segmenter, exported, images)
    assert (comparison.images, comparison.same_count) == (IMAGES, IMAGES)
    assert len(comparison.scores) > 20 * IMAGES
    assert comparison.raw < 1e-3
    if "AVX" in torch.backends.cpu.get_cpu_capability():
        # A pixel at stride 4 may lie on either side of the threshold, which moves a score.
        assert np.quantile(comparison.scores, 0.995) < 1e-5
        assert comparison.scores.max() < 1e-3
        assert comparison.overlaps.min() > 0.99
    else:  # There torchvision resizes the pixels in another way (`numpy_resize`).
        assert np.quantile(comparison.scores, 0.95) < 1e-2
        assert np.median(comparison.overlaps) > 0.99
