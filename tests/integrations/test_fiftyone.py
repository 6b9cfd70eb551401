"""The model of FiftyOne's zoo, by its documented interface; with the package where it is there."""

from __future__ import annotations

import importlib.util
import json
import sys
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

import soloist
from soloist.errors import ConfigError

ZOO = Path(__file__).parents[2] / "recipes" / "fiftyone_zoo"


@dataclass
class Detection:
    """What FiftyOne documents of its class."""

    label: str
    confidence: float
    bounding_box: list[float]
    mask: NDArray[np.bool_]


@dataclass
class Detections:
    """A list of these."""

    detections: list[Any]


@pytest.fixture
def fiftyone(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """The integration, with stand-ins for what it takes from FiftyOne where that is absent."""
    if importlib.util.find_spec("fiftyone") is None:
        parts: dict[str, dict[str, Any]] = {"": {}, ".core": {}}
        parts[".core.labels"] = {"Detection": Detection, "Detections": Detections}
        parts[".core.models"] = {"Model": object}
        for name, content in parts.items():
            module = ModuleType(f"fiftyone{name}")
            vars(module).update(content)
            module.__spec__ = importlib.util.spec_from_loader(module.__name__, loader=None)
            monkeypatch.setitem(sys.modules, module.__name__, module)
    monkeypatch.delitem(sys.modules, "soloist.integrations.fiftyone", raising=False)
    from soloist.integrations import fiftyone

    return fiftyone


def squares() -> NDArray[np.uint8]:
    pixels = np.random.default_rng(0).integers(100, 115, (120, 160, 3), dtype=np.uint8)
    pixels[20:60, 30:70] = (200, 40, 30)
    pixels[70:110, 90:150] = (30, 60, 200)
    return pixels


def test_detections_are_the_objects_that_predict_finds(fiftyone: ModuleType) -> None:
    found = soloist.load(device="cpu").predict(squares())[0].filter()
    model = fiftyone.create(device="cpu")
    given = model.predict(squares()).detections
    assert len(given) == len(found) > 1
    for place, detection in enumerate(given):
        left, top, width, height = detection.bounding_box
        whole = np.zeros((120, 160), dtype=np.bool_)
        rows = slice(round(top * 120), round((top + height) * 120))
        columns = slice(round(left * 160), round((left + width) * 160))
        whole[rows, columns] = detection.mask
        np.testing.assert_array_equal(whole, found.masks[place].numpy())
        assert detection.confidence == pytest.approx(float(found.scores[place]))
        assert detection.label == "object"


def test_it_is_a_model_of_images_that_come_as_they_are(fiftyone: ModuleType) -> None:
    model = fiftyone.create(device="cpu", min_score=0.0)
    assert model.media_type == "image"
    assert model.ragged_batches
    assert model.transforms is None
    assert not model.preprocess
    few = fiftyone.create(device="cpu", min_score=1.0)
    assert len(model.predict(squares()).detections) > len(few.predict(squares()).detections) == 0


def test_the_zoo_lays_down_the_bundled_segmenter_and_loads_it(
    fiftyone: ModuleType, tmp_path: Path
) -> None:
    """As FiftyOne does it: the manifest names a model, the module beside it gets and loads it."""
    manifest = json.loads((ZOO / "manifest.json").read_text(encoding="utf-8"))
    (entry,) = manifest["models"]
    # Its module is called so: not as the package that it imports.
    assert manifest["name"] == "soloist-models"
    spec = importlib.util.spec_from_file_location("zoo", ZOO / "__init__.py")
    assert spec is not None
    assert spec.loader is not None
    zoo = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(zoo)
    path = tmp_path / entry["base_filename"]
    zoo.download_model(entry["base_name"], str(path))
    model = zoo.load_model(entry["base_name"], str(path), device="cpu", min_score=0.5)
    assert model.predict(squares()).detections


def test_without_fiftyone_it_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    if importlib.util.find_spec("fiftyone") is not None:
        pytest.skip("it is installed")
    monkeypatch.delitem(sys.modules, "soloist.integrations.fiftyone", raising=False)
    with pytest.raises(ConfigError, match=r"needs fiftyone; pip install '\.\[fiftyone\]'"):
        importlib.import_module("soloist.integrations.fiftyone")
