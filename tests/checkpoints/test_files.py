"""Files of weights: permissions."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
import torch

from soloist.checkpoints import load_tensors, save_tensors


@pytest.mark.skipif(sys.platform == "win32", reason="POSIX permissions")
def test_weights_may_be_read_by_whoever_may_read_other_new_files(tmp_path: Path) -> None:
    plain, weights = tmp_path / "plain", tmp_path / "a.safetensors"
    plain.touch()
    save_tensors(weights, {"x": torch.arange(3.0)}, metadata={"made": "here"})
    assert weights.stat().st_mode == plain.stat().st_mode
    assert load_tensors(weights)["x"].tolist() == [0, 1, 2]
