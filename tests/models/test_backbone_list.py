from __future__ import annotations

import pytest
import timm

from soloist.checkpoints.published import PUBLISHED
from soloist.cli import run_command
from soloist.models import backbone_list
from soloist.models.backbone_list import KNOWN, list_backbones
from soloist.runtime.device import Runtime

FEW = {"bundled": "no download", "densecl-r50": "the paper's", "test_vit": "tests"}


def test_every_short_name_is_listed_and_every_other_one_is_timms() -> None:
    assert set(PUBLISHED) <= set(KNOWN)
    others = set(KNOWN) - set(PUBLISHED) - {"bundled"}
    assert others - set(timm.list_pretrained()) - set(timm.list_models()) == set()


@pytest.fixture
def few(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(backbone_list, "KNOWN", FEW)


@pytest.mark.slow
@pytest.mark.usefixtures("few")
def test_rows_tell_licence_strides_and_size(runtime: Runtime) -> None:
    bundled, densecl, vit = list_backbones()
    assert (bundled.licence, bundled.strides) == ("apache-2.0", (4, 8, 16))
    assert bundled.parameters == pytest.approx(2.8e6, rel=0.02)
    assert "GPL-3.0" in densecl.licence
    # A ResNet-50 without its classifier.
    assert densecl.parameters == 25_557_032 - 2_049_000
    assert (vit.licence, vit.strides, vit.good_for) == ("apache-2.0", (16,), "tests")
    assert [row.seconds for row in (bundled, densecl, vit)] == [None] * 3


@pytest.mark.usefixtures("few")
def test_a_forward_pass_is_timed_on_request(
    runtime: Runtime, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(backbone_list, "KNOWN", {"test_vit": "tests"})
    (row,) = list_backbones(runtime)
    assert row.seconds is not None
    assert 0 < row.seconds < 60


@pytest.mark.slow
@pytest.mark.usefixtures("few")
@pytest.mark.parametrize("measure", [False, True])
def test_the_table_is_printed(
    measure: bool, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(backbone_list, "MEASURED_SIDE", 32)
    assert run_command(["backbones", *(["--measure"] if measure else [])]) == 0
    printed = capsys.readouterr().out
    for choice, good_for in FEW.items():
        assert choice in printed
        assert good_for in printed
    assert ("here" in printed) == measure
