"""Coverage-guided fuzzing of what reads files, by Atheris where it is installed."""

from __future__ import annotations

import io
import json
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import save
from tests.faults.test_hostile_labels import WHOLE

pytestmark = pytest.mark.faults
SECONDS = 20
ROOT = Path(__file__).parents[2]


def png() -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(np.zeros((4, 5, 3), dtype=np.uint8)).save(buffer, format="PNG")
    return buffer.getvalue()


@pytest.mark.parametrize(
    ("target", "seed"),
    [
        pytest.param("coco", json.dumps(WHOLE).encode(), id="coco"),
        pytest.param("run_lengths", b"\x04\x05\x01" + bytes(range(40)), id="run-lengths"),
        pytest.param("options", b"train: {steps: 4}\nseed: 1\n", id="options"),
        pytest.param("image", png(), id="image"),
        pytest.param("weights", save({"a": torch.zeros(2)}), id="weights"),
    ],
)
def test_fuzzed_files_are_read_or_refused(
    target: str, seed: bytes, tmp_path: Path, tried: Callable[[str, int], None]
) -> None:
    pytest.importorskip("atheris", reason="Atheris is not installed")
    corpus = tmp_path / "corpus"
    corpus.mkdir()
    (corpus / "seed").write_bytes(seed)
    limits = [f"-max_total_time={SECONDS}", "-max_len=4096", "-rss_limit_mb=3000", "-timeout=30"]
    done = subprocess.run(
        [sys.executable, "-m", "tests.faults.fuzzing", target, str(corpus), *limits,
         "-print_final_stats=1", f"-artifact_prefix={tmp_path}/"],
        cwd=ROOT, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]
    units = re.search(r"number_of_executed_units:\s*(\d+)", done.stderr)
    assert units is not None
    assert int(units[1]) > 100
    tried(f"{target}, guided by coverage", int(units[1]))
