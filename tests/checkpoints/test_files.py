"""Files of weights: permissions, full disks and states that do not fit."""

from __future__ import annotations

import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch

from soloist.checkpoints.files import load_tensors, resumed_from, save_state, save_tensors
from soloist.errors import CheckpointError, RunError


@pytest.mark.skipif(sys.platform == "win32", reason="POSIX permissions")
def test_weights_may_be_read_by_whoever_may_read_other_new_files(tmp_path: Path) -> None:
    plain, weights = tmp_path / "plain", tmp_path / "a.safetensors"
    plain.touch()
    save_tensors(weights, {"x": torch.arange(3.0)}, metadata={"made": "here"})
    assert weights.stat().st_mode == plain.stat().st_mode
    assert load_tensors(weights)["x"].tolist() == [0, 1, 2]


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="a device that is always full")
@pytest.mark.parametrize("save", [save_state, partial(save_tensors, metadata={})])
def test_a_full_disk_is_reported(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, save: Callable[..., None]
) -> None:
    original = Path.write_bytes
    monkeypatch.setattr(Path, "write_bytes", lambda _, data: original(Path("/dev/full"), data))
    with pytest.raises(RunError, match="No space left on device; free some space"):
        save(tmp_path / "a.pt", {"x": torch.arange(3.0)})
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    "state",
    [
        pytest.param({}, id="nothing"),
        pytest.param({"model": {"weight": torch.zeros(3)}}, id="other-names"),
        pytest.param({"model": {"weight": torch.zeros(2), "bias": torch.zeros(1)}}, id="shapes"),
        pytest.param({"model": 3}, id="no-state"),
        pytest.param([], id="no-dictionary"),
    ],
)
def test_a_state_of_something_else_is_reported_in_one_line(tmp_path: Path, state: Any) -> None:
    with pytest.raises(CheckpointError) as caught, resumed_from(tmp_path / "last.pt"):
        torch.nn.Linear(3, 1).load_state_dict(state["model"])
    assert "last.pt does not fit this training (" in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("suffix", [".pth", ".safetensors", ".pkl"])
def test_a_git_lfs_pointer_is_named(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"weights{suffix}"
    path.write_text("version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 9\n")
    with pytest.raises(CheckpointError, match=r"a Git LFS pointer.*git lfs pull"):
        load_tensors(path)


def test_nobody_is_advised_to_run_what_a_file_holds(tmp_path: Path) -> None:
    path = tmp_path / "weights.pth"
    path.write_text("no weights")
    with pytest.raises(CheckpointError) as caught:
        load_tensors(path)
    assert "weights_only" not in str(caught.value)
