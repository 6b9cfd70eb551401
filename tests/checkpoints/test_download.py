"""Real downloads from a hub on loopback."""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
from pathlib import Path
from typing import Any
from urllib.error import URLError

import huggingface_hub.constants
import pytest

from soloist.checkpoints.download import fetch, fetch_model
from soloist.checkpoints.hub_reference import HubReference
from soloist.errors import CheckpointError

CONTENT = b"weights"
SHA = hashlib.sha256(CONTENT).hexdigest()
OTHER = "0" * 64


@pytest.fixture
def repo(hub: Any) -> Any:
    hub.repos["me/net"] = {"w.pth": CONTENT, "model.safetensors": CONTENT, "config.json": b"{}"}
    return hub


def test_a_file_is_fetched_once(repo: Any) -> None:
    reference = HubReference("me/net", "w.pth", repo.commit, SHA)
    path = fetch(reference)
    assert path.read_bytes() == CONTENT
    downloads = [line for line in repo.asked if line.startswith("GET") and "w.pth" in line]
    assert len(downloads) == 1
    repo.asked.clear()
    # A commit never changes: the cache need not ask again.
    assert fetch(reference) == path
    assert repo.asked == []


def test_the_main_branch_is_asked_for_again(repo: Any) -> None:
    assert fetch(HubReference("me/net", "w.pth")).read_bytes() == CONTENT
    repo.repos["me/net"]["w.pth"] = b"newer"
    repo.commit = "beef" * 10
    assert fetch(HubReference("me/net", "w.pth")).read_bytes() == b"newer"


def test_a_model_is_a_folder_of_one_commit(repo: Any) -> None:
    folder = fetch_model(HubReference("me/net", sha256=SHA))
    assert sorted(path.name for path in folder.iterdir()) == ["config.json", "model.safetensors"]
    assert folder.name == repo.commit
    assert fetch_model(HubReference("me/net", "w.pth")).read_bytes() == CONTENT


@pytest.mark.parametrize(
    ("reference", "message"),
    [
        pytest.param(
            HubReference("me/net", "w.pth", None, OTHER),
            f"w.pth must have the sha256 {OTHER}, got {SHA}; it is not used: delete it",
            id="other-checksum",
        ),
        pytest.param(
            HubReference("me/nothing", "w.pth"),
            "no repository at http://127.0.0.1:[0-9]+/me/nothing, or a private one; check the name",
            id="unknown-repository",
        ),
        pytest.param(
            HubReference("me/net", "w.pth", "v9"),
            "me/net has no revision 'v9'; check the text after @",
            id="unknown-revision",
        ),
        pytest.param(
            HubReference("me/net", "v.pth"),
            "me/net has no file 'v.pth' at main; check the reference",
            id="unknown-file",
        ),
        pytest.param(
            HubReference("me/" + "n" * 200, "v.pth"), "could not be fetched", id="impossible-name"
        ),
    ],
)
@pytest.mark.usefixtures("repo")
def test_what_cannot_be_had_is_reported_in_one_line(reference: HubReference, message: str) -> None:
    with pytest.raises(CheckpointError, match=message) as caught:
        fetch(reference)
    assert "\n" not in str(caught.value)


def test_a_model_without_its_record_is_reported(repo: Any) -> None:
    del repo.repos["me/net"]["config.json"]
    with pytest.raises(CheckpointError, match=r"me/net has no file 'config\.json'"):
        fetch_model(HubReference("me/net"))


@pytest.mark.parametrize("offline", [True, False], ids=["asked-to-stay-offline", "no-network"])
def test_without_a_network_the_cache_serves_and_the_rest_is_reported(
    repo: Any, monkeypatch: pytest.MonkeyPatch, offline: bool
) -> None:
    pinned = HubReference("me/net", "w.pth", repo.commit, SHA)
    path = fetch(pinned)
    repo.shutdown()
    repo.server_close()
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", offline)
    # The library tries again after 1, 2, 4 and 8 seconds.
    monkeypatch.setattr("time.sleep", lambda seconds: None)
    assert fetch(pinned) == path
    remedy = "unset HF_HUB_OFFLINE" if offline else "check the network"
    with pytest.raises(CheckpointError, match=f"not in the hub's cache .*; {remedy}, or") as caught:
        fetch(HubReference("me/net"))
    assert "\n" not in str(caught.value)


def test_the_hub_s_own_settings_hold(repo: Any, tmp_path: Path) -> None:
    environment = {**os.environ, "HF_ENDPOINT": repo.url, "HF_HOME": str(tmp_path / "home")}
    for name in ("HF_HUB_CACHE", "HF_HUB_OFFLINE"):
        environment.pop(name, None)
    code = (
        "from soloist.checkpoints.download import HubReference, fetch; "
        "print(fetch(HubReference.parse('hf:me/net/w.pth')))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, env=environment
    )
    path = Path(done.stdout.strip())
    assert path.is_relative_to(tmp_path / "home")
    assert path.read_bytes() == CONTENT


def test_a_hub_that_cannot_be_reached_is_asked_once(
    hub: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[str] = []

    def refuse(request: Any, timeout: float) -> None:
        asked.append(request.full_url)
        raise URLError(ConnectionRefusedError("refused"))

    monkeypatch.setattr("soloist.checkpoints.download.request.urlopen", refuse)
    with pytest.raises(CheckpointError, match=r"no folder or file me/net here, and .* cannot"):
        fetch(HubReference("me/net"))
    assert asked == [hub.url]
    assert hub.asked == []
