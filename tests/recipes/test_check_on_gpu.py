"""The script for a CUDA machine, on a processor and tiny images."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from recipes import check_on_gpu
from soloist.structures import Instances


@pytest.mark.slow
def test_on_a_processor_all_is_equal(tmp_path: Path) -> None:
    code = check_on_gpu.main(
        tmp_path, device="cpu", batches=(1, 2), side=128, images=2, seconds=0.05
    )
    content = json.loads((tmp_path / "check.json").read_text(encoding="utf-8"))
    passed = {check["name"]: check["passed"] for check in content["checks"]}
    assert passed == {
        "device": True,
        "bfloat16": True,
        "batched prediction": True,
        "2 training steps": True,
        "torch.compile": None,
    }
    assert code == 0
    assert [rate["batch"] for rate in content["rates"]] == [1, 2, 1]
    assert all(rate["images_per_second"] > 0 for rate in content["rates"])
    assert "| batched prediction | yes |" in (tmp_path / "check.md").read_text(encoding="utf-8")


def test_a_missing_gpu_is_said_in_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert check_on_gpu.main(tmp_path / "out") == 2
    printed = capsys.readouterr().err.strip()
    assert "device 'cuda' is not available here; use --device auto or cpu" in printed
    assert "\n" not in printed
    assert not (tmp_path / "out").exists()


def test_masks_that_are_missing_are_no_equal_ones() -> None:
    masks = torch.zeros(2, 8, 8, dtype=torch.bool)
    masks[0, :4], masks[1, 4:] = True, True
    two = Instances((8, 8), masks, torch.ones(2), torch.zeros(2, 4), torch.zeros(2, 1))
    one = two.filter(torch.tensor([True, False]))
    assert check_on_gpu._least_overlap(two, two) == 1
    assert check_on_gpu._least_overlap(two, one) == 0


def test_a_failed_check_stands_out() -> None:
    checks = [check_on_gpu.Check("bfloat16", False, "9%", "at most 5%")]
    rates = [check_on_gpu.Rate("network", 4, 10.0, None)]
    table = check_on_gpu.markdown("a machine", checks, rates)
    assert "| bfloat16 | **no** | 9% | at most 5% |" in table
    assert "| network | 4 | 10.0 | – |" in table
