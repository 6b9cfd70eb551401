"""`soloist export` as it is typed."""

from __future__ import annotations

from pathlib import Path

import pytest

from soloist.cli import run_command
from soloist.cli.runs import DONE, USER_ERROR
from soloist.inference.onnx import export as onnx_export
from soloist.inference.onnx import runtime as onnx_runtime

onnx = pytest.importorskip("onnx")


def run(command: str, *more: str | Path) -> int:
    return run_command([*command.split(), *map(str, more)])


@pytest.mark.slow
def test_a_run_is_exported_with_other_options(
    classes_folder: Path,
    exported_file: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    # The same network: tracing it takes long.
    monkeypatch.setattr(onnx_export, "_exported", lambda raw, name: onnx.load(exported_file))
    out = tmp_path / "new" / "model.onnx"
    options = "--to onnx --inference.max-per-image 3"
    assert run(f"export {classes_folder} {options} --out {out}") == DONE
    printed = capsys.readouterr().out.splitlines()
    assert printed[0].startswith("compared with torch: 6 objects on 2 images")
    assert printed[1:] == [str(out)]
    assert onnx_runtime.load(out).config.max_per_image == 3
    assert run(f"export {classes_folder} --out {out}") == USER_ERROR
    assert "exists; add --overwrite" in capsys.readouterr().err
    assert run(f"export {classes_folder} --out {out} --overwrite") == DONE
    assert onnx_runtime.load(out).config.max_per_image == 8
    assert [path.name for path in out.parent.iterdir()] == ["model.onnx"]


@pytest.mark.parametrize(
    ("command", "message"),
    [
        pytest.param("export --to coreml --out m.onnx", "Choose from", id="format"),
        pytest.param("export", "--out", id="no-file"),
        pytest.param("export nowhere --out m.onnx", "nowhere", id="no-model"),
        pytest.param("export --out .", "is a folder", id="folder"),
    ],
)
def test_a_mistake_ends_in_one_line(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    command: str,
    message: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    assert run(command) == USER_ERROR
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1
    assert list(tmp_path.iterdir()) == []
