"""`cluster` and `search`, through the command line."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from soloist.cli import run_command
from soloist.cli.runs import DONE, SOME_FAILED, USER_ERROR
from soloist.data.coco.read import load_coco

WriteMasks = Callable[..., Path]


def run(*arguments: str | Path | int) -> int:
    return run_command([str(argument) for argument in arguments])


def test_masks_are_grouped_compared_and_shown(
    write_masks: WriteMasks, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    masks, truth = write_masks(), write_masks("truth.json", embedded=False, classes=True)
    sheets = tmp_path / "sheets"
    assert run("cluster", masks, "--groups", 3, "--gt", truth, "--sheets", sheets) == DONE
    printed = capsys.readouterr().out
    assert "12 of 12 objects matched, 3 classes in 3 groups: NMI 1.000, adjusted" in printed
    assert printed.splitlines()[-2:] == [
        str(sheets / "overview.jpg"),
        str(tmp_path / "masks-groups.json"),
    ]
    assert len(list(sheets.iterdir())) == 4
    file = load_coco(tmp_path / "masks-groups.json")
    assert file.categories == {1: "group 1", 2: "group 2", 3: "group 3"}
    assert file.info["groups"]["scores"]["matched"] == 12
    assert file.embeddings is not None


def test_the_number_of_groups_can_be_left_to_it(write_masks: WriteMasks, tmp_path: Path) -> None:
    out = tmp_path / "out.json"
    assert run("cluster", write_masks(), "--groups", "auto", "--out", out) == DONE
    assert load_coco(out).info["groups"]["count"] == 3


def test_the_same_command_writes_the_same_file(write_masks: WriteMasks, tmp_path: Path) -> None:
    masks, outs = write_masks(), [tmp_path / "a.json", tmp_path / "b.json"]
    for out in outs:
        assert run("cluster", masks, "--groups", 5, "--out", out) == DONE
    first, second = (json.loads(out.read_text())["annotations"] for out in outs)
    assert first == second


def test_backbone_features_need_no_embeddings_but_the_images(
    write_masks: WriteMasks, tmp_path: Path, tiny_options: dict[str, Any]
) -> None:
    masks = write_masks(embedded=False)
    config = tmp_path / "tiny.yaml"
    config.write_text(yaml.safe_dump(tiny_options), encoding="utf-8")
    (tmp_path / "images" / "1.png").write_text("no image")
    command = ("cluster", masks, "--groups", 2, "--features", "backbone", "--config", config)
    assert run(*command, "--device", "cpu", "--precision", "fp32") == SOME_FAILED
    written = load_coco(tmp_path / "masks-groups.json")
    assert written.categories == {1: "group 1", 2: "group 2", 3: "no group"}
    assert {one.category_id for one in written.annotations[2]} == {3}
    (failed,) = (tmp_path / "masks-groups.errors.jsonl").read_text().splitlines()
    assert json.loads(failed)["image"] == "1.png"


@pytest.mark.parametrize(
    ("command", "message"),
    [
        pytest.param("cluster bare.json --groups 2", "wanted embeddings beside",
                     id="no-embeddings"),
        pytest.param("cluster masks.json --groups 99", "wanted at least 99 masks", id="few-masks"),
        pytest.param("cluster masks.json --groups 0", "must be auto, or 1 or more", id="no-groups"),
        pytest.param("cluster masks.json --groups some", "--groups", id="no-number"),
        pytest.param("cluster none.json --groups 2", "No such file", id="no-file"),
        pytest.param("cluster masks.json --groups 2 --out bare.json", "add --overwrite",
                     id="exists"),
        pytest.param("cluster masks.json --groups 2 --gt masks.json", "with one category", id="gt"),
        pytest.param("cluster masks.json --groups 2 --sheets s --images s", "which does not exist",
                     id="no-images"),
        pytest.param("cluster masks.json --like 7", "one of the 12 masks", id="no-such-mask"),
        pytest.param("cluster bare.json --like 101", "wanted embeddings beside", id="like-none"),
    ],
)  # fmt: skip
def test_mistakes_are_one_line_and_write_nothing(
    write_masks: WriteMasks,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    command: str,
    message: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    write_masks()
    write_masks("bare.json", embedded=False)
    before = sorted(tmp_path.rglob("*"))
    assert run(*command.split()) == USER_ERROR
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1
    assert sorted(tmp_path.rglob("*")) == before


def test_look_alikes_are_printed_and_shown(
    write_masks: WriteMasks, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    found = tmp_path / "found"
    assert run("cluster", write_masks(), "--like", 104, "--count", 3, "--sheets", found) == DONE
    printed = capsys.readouterr().out
    assert str(found / "search-104.jpg") in printed
    assert all(f" {number} " in printed for number in (101, 107, 110))
    assert " 104 " not in printed
    assert (found / "search-104.jpg").is_file()
