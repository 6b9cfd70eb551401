"""docs/quickstart.ipynb does what it says.

Its cells are run here, in their order and in one process, by a few lines that stand for IPython: no
kernel, no magic, and what a cell ends with is shown by `_repr_html_`, `_repr_png_` or `repr`. A
real kernel would bring thirty packages; the tests of the format below keep it a file that Jupyter
opens.
"""

from __future__ import annotations

import ast
import json
import re
from pathlib import Path
from typing import Any

import pytest
from tests.documents import DOCS

from soloist.data.coco.read import load_coco

pytestmark = pytest.mark.documents
NOTEBOOK = DOCS / "quickstart.ipynb"
CONTENT: dict[str, Any] = json.loads(NOTEBOOK.read_text(encoding="utf-8"))
CELLS: list[dict[str, Any]] = CONTENT["cells"]
CODE = [cell for cell in CELLS if cell["cell_type"] == "code"]


def run_cell(source: str, name: str, variables: dict[str, Any]) -> str:
    """Runs a cell and gives what IPython would show of its last line."""
    tree = ast.parse(source, filename=name)
    last = tree.body.pop() if isinstance(tree.body[-1], ast.Expr) else None
    exec(compile(tree, name, "exec"), variables)
    if not isinstance(last, ast.Expr):
        return ""
    value = eval(compile(ast.Expression(last.value), name, "eval"), variables)
    for kind in ("_repr_html_", "_repr_png_"):
        if hasattr(value, kind):
            return str(getattr(value, kind)())
    return "" if value is None else repr(value)


def test_jupyter_can_open_it() -> None:
    assert (CONTENT["nbformat"], CONTENT["nbformat_minor"]) == (4, 5)
    assert CONTENT["metadata"]["kernelspec"]["name"] == "python3"
    names = [cell["id"] for cell in CELLS]
    assert len(set(names)) == len(names)
    assert all(re.fullmatch(r"[a-zA-Z0-9_-]{1,64}", name) for name in names)
    for cell in CELLS:
        fields = {"cell_type", "id", "metadata", "source"}
        more = {"execution_count", "outputs"} if cell in CODE else set()
        assert set(cell) == fields | more
        assert all(line.endswith("\n") for line in cell["source"][:-1])


def test_it_holds_no_outputs_and_nothing_that_is_not_python() -> None:
    assert all(cell["outputs"] == [] and cell["execution_count"] is None for cell in CODE)
    lines = [line.lstrip() for cell in CODE for line in cell["source"]]
    assert [line for line in lines if line.startswith(("%", "!", "?", "await "))] == []
    assert NOTEBOOK.stat().st_size < 10_000


def test_its_cells_run_in_their_order(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("supervision")
    monkeypatch.chdir(tmp_path)
    variables: dict[str, Any] = {"__name__": "__main__"}
    shown = {cell["id"]: run_cell("".join(cell["source"]), cell["id"], variables) for cell in CODE}
    assert shown["predict-all"].count("<Result: ") == 4
    for cell in ("show-one", "choose-good"):
        assert 'src="data:image/jpeg;base64,' in shown[cell]
    assert 0 < len(variables["good"]) < len(variables["result"])
    assert capsys.readouterr().out.count("score 0.") == len(variables["good"])
    assert "'category': 'object'" in shown["save"]
    assert Path("quickstart/masks.png").is_file()
    assert len(load_coco(Path("quickstart/masks.json"))) == len(variables["good"])
    assert "PNG" in shown["supervision"]
