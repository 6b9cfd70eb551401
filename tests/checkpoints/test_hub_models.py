"""Segmenters and backbones through the hub: saved, pushed, fetched, loaded, used."""

from __future__ import annotations

import hashlib
import logging
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import soloist
from soloist.checkpoints.hub_reference import HubReference
from soloist.checkpoints.published import PUBLISHED
from soloist.cli import run_command
from soloist.errors import CheckpointError, ConfigError
from soloist.inference.segmenter import Segmenter
from soloist.models.backbones import create_backbone
from soloist.models.build import half_precision

FILES = {"model.safetensors", "config.json", "README.md"}
NAME = "resnet10t"


@pytest.fixture(scope="module")
def segmenter(model_folder: Path) -> Segmenter:
    return soloist.load(model_folder, device="cpu", precision="fp32")


@pytest.fixture
def published(hub: Any, model_folder: Path) -> Any:
    hub.repos["me/net"] = {path.name: path.read_bytes() for path in model_folder.iterdir()}
    return hub


def assert_same(left: Segmenter, right: Segmenter) -> None:
    other = right.network.state_dict()
    for name, value in left.network.state_dict().items():
        assert torch.equal(value, other[name]), name
    assert left.config.model == right.config.model
    assert left.config.inference == right.config.inference


# Segmenters


def test_a_segmenter_is_saved_and_comes_back(segmenter: Segmenter, tmp_path: Path) -> None:
    segmenter.save_pretrained(tmp_path / "mine")
    assert {path.name for path in (tmp_path / "mine").iterdir()} == FILES
    again = Segmenter.from_pretrained(tmp_path / "mine", device="cpu", precision="fp32")
    assert_same(again, segmenter)
    assert again.runtime.precision == "fp32"
    pixels = np.random.default_rng(0).integers(0, 255, (60, 80, 3), dtype=np.uint8)
    assert torch.equal(again.predict(pixels)[0].masks, segmenter.predict(pixels)[0].masks)
    card = (tmp_path / "mine" / "README.md").read_text()
    assert "library_name: soloist" in card
    assert "soloist.load(" in card


@pytest.mark.slow
def test_a_segmenter_is_pushed_and_fetched(hub: Any, segmenter: Segmenter) -> None:
    segmenter.push_to_hub("me/mine", token="hf_token_of_a_test")
    assert hub.repos["me/mine"].keys() >= FILES
    assert_same(soloist.load("me/mine", device="cpu"), segmenter)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["me/net", "hf:me/net", "hf:me/net@main"])
@pytest.mark.usefixtures("published")
def test_a_segmenter_is_loaded_by_its_name_on_the_hub(name: str, segmenter: Segmenter) -> None:
    assert_same(soloist.load(name, device="cpu", precision="fp32"), segmenter)


def test_a_revision_and_a_cache_may_be_given(
    published: Any, segmenter: Segmenter, tmp_path: Path
) -> None:
    how: dict[str, Any] = {"cache_dir": tmp_path / "cache", "revision": published.commit}
    again = Segmenter.from_pretrained("me/net", device="cpu", **how)
    assert_same(again, segmenter)
    assert list((tmp_path / "cache").glob("models--me--net/snapshots/*")) != []
    with pytest.raises(CheckpointError, match="has no revision 'v9'"):
        Segmenter.from_pretrained("me/net", revision="v9")


@pytest.mark.usefixtures("published")
def test_a_path_that_exists_wins_over_the_hub(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "me" / "net").mkdir(parents=True)
    monkeypatch.chdir(tmp_path)
    with pytest.raises(CheckpointError, match="no trained model in me/net"):
        soloist.load("me/net")


def test_a_model_that_is_not_the_one_wanted_is_not_loaded(published: Any) -> None:
    weights = published.repos["me/net"]["model.safetensors"]
    sha256 = hashlib.sha256(weights).hexdigest()
    assert soloist.load(f"hf:me/net#{sha256}", device="cpu").network is not None
    with pytest.raises(CheckpointError, match=f"must have the sha256 {'0' * 64}, got {sha256}"):
        soloist.load(f"hf:me/net#{'0' * 64}")


def test_a_name_that_is_neither_here_nor_there_is_reported(
    hub: Any, capsys: pytest.CaptureFixture[str], tmp_path: Path, scenes: Path
) -> None:
    out = tmp_path / "p.json"
    images = str(scenes / "images")
    assert run_command(["predict", images, "--model", "me/typo", "--out", str(out)]) == 2
    printed = capsys.readouterr().err
    assert f"no repository at {hub.url}/me/typo" in printed
    assert printed.count("\n") == 1


@pytest.mark.usefixtures("published")
def test_the_command_segments_with_a_model_of_the_hub(tmp_path: Path, scenes: Path) -> None:
    out = tmp_path / "p.json"
    images = str(scenes / "images")
    assert run_command(["predict", images, "--model", "me/net", "--out", str(out)]) == 0
    assert out.is_file()


# Backbones


@pytest.fixture
def backbone_repo(hub: Any, tmp_path: Path) -> Any:
    """A repository with a backbone's weights, as others publish them."""
    torch.manual_seed(0)
    network = create_backbone(NAME).network
    torch.save({"state_dict": half_precision(network.state_dict())}, tmp_path / "w.pth")
    hub.repos["me/backbone"] = {"w.pth": (tmp_path / "w.pth").read_bytes()}
    return hub


def test_a_backbone_is_fetched_and_its_origin_logged(
    backbone_repo: Any, caplog: pytest.LogCaptureFixture
) -> None:
    sha256 = hashlib.sha256(backbone_repo.repos["me/backbone"]["w.pth"]).hexdigest()
    reference = f"hf:me/backbone/w.pth@main#{sha256}"
    torch.manual_seed(0)
    wanted = create_backbone(NAME).network.state_dict()
    with caplog.at_level(logging.INFO):
        loaded = create_backbone(NAME, weights=reference).network.state_dict()
    assert torch.equal(loaded["conv1.0.weight"], wanted["conv1.0.weight"].half().float())
    logged = caplog.text
    assert f"{reference}: licence: see its page on the hub; checksum given" in logged


@pytest.mark.usefixtures("backbone_repo")
def test_a_backbone_that_is_not_the_one_wanted_is_not_read(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def read(path: Path) -> None:
        raise AssertionError(f"{path} was read")

    monkeypatch.setattr("soloist.models.backbone_weights.load_official", read)
    with pytest.raises(CheckpointError, match="it is not used"):
        create_backbone(NAME, weights=f"hf:me/backbone/w.pth#{'0' * 64}")


def test_a_short_name_tells_its_licence_before_it_fetches(
    backbone_repo: Any, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    content = backbone_repo.repos["me/backbone"]["w.pth"]
    small = replace(
        PUBLISHED["densecl-r50"],
        architecture=NAME,
        reference=HubReference(
            "me/backbone", "w.pth", backbone_repo.commit, hashlib.sha256(content).hexdigest()
        ),
    )
    for module in ("soloist.models.backbone_weights", "soloist.checkpoints.published"):
        monkeypatch.setattr(f"{module}.PUBLISHED", {"densecl-r50": small})
    caplog.set_level(logging.INFO)
    create_backbone(NAME, weights="densecl-r50")
    first, used = [record.getMessage() for record in caplog.records if "soloist" in record.name]
    assert first == small.notice()
    assert "GPL-3.0" in first
    assert "0 missing" in used
    caplog.clear()
    gone = replace(small, reference=HubReference("me/gone", "w.pth"))
    monkeypatch.setattr("soloist.models.backbone_weights.PUBLISHED", {"densecl-r50": gone})
    with pytest.raises(CheckpointError, match="no repository"):
        create_backbone(NAME, weights="densecl-r50")
    assert gone.notice() in caplog.text


@pytest.mark.parametrize(
    ("name", "weights", "error", "message"),
    [
        pytest.param("resnet18", "densecl-r50", ConfigError,
                     "'densecl-r50' are for backbone 'resnet50', got 'resnet18'; use "
                     "--backbone.name resnet50", id="short-name-for-another"),
        pytest.param(NAME, "densecl-r05", CheckpointError,
                     "as a name: did you mean densecl-r", id="misspelt-short-name"),
        pytest.param(NAME, "dino-r50", CheckpointError,
                     "no file of weights at dino-r50; check the path; as a name", id="not-pinned"),
        pytest.param(NAME, "hf:backbone", ConfigError,
                     "must be named hf:owner/repo", id="half-a-reference"),
    ],
)  # fmt: skip
def test_mistakes_are_reported_before_anything_is_fetched(
    hub: Any, name: str, weights: str, error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message) as caught:
        create_backbone(name, weights=weights)
    assert "\n" not in str(caught.value)
    assert hub.asked == []
