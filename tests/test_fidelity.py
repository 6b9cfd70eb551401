"""docs/fidelity.md names tests and options that exist: evidence must not rot."""

from __future__ import annotations

import ast
import re
from functools import cache
from pathlib import Path
from typing import NamedTuple

import pytest

from soloist.config import Config

pytestmark = pytest.mark.documents
ROOT = Path(__file__).parents[1]
KINDS = {"fix", "ours", "same", "kept"}
# Fixtures that skip a test where the released code's values are absent.
REFERENCES = {"golden", "reference", "case", "head_outputs", "released_branches", "pyramid"}

NODE = re.compile(r"`(tests/[\w/]+\.py)::(test_\w+)`")
OPTION = re.compile(r"`([a-z_]+)\.([a-z_]+)`")


class Row(NamedTuple):
    """A row of one of the tables, cell by cell."""

    number: int
    kind: str
    released: str
    ours: str
    why: str
    switch: str
    evidence: str

    @property
    def tests(self) -> list[tuple[str, str]]:
        return NODE.findall(self.evidence)


def read_rows() -> list[Row]:
    rows = []
    for line in (ROOT / "docs" / "fidelity.md").read_text(encoding="utf-8").splitlines():
        if re.match(r"\|\s*\d+\s*\|", line):
            number, *cells = (cell.strip() for cell in line.strip().strip("|").split("|"))
            assert len(cells) == 6, f"row {number} has {len(cells) + 1} cells, wanted 7"
            rows.append(Row(int(number), *cells))
    return rows


ROWS = read_rows()
each_row = pytest.mark.parametrize("row", ROWS, ids=lambda row: str(row.number))


@cache
def functions(file: str) -> dict[str, ast.FunctionDef]:
    """The functions of a test file by name; none if there is no such file."""
    path = ROOT / file
    if not path.is_file():
        return {}
    tree = ast.parse(path.read_text(encoding="utf-8"), filename=file)
    return {node.name: node for node in tree.body if isinstance(node, ast.FunctionDef)}


def runs_everywhere(function: ast.FunctionDef) -> bool:
    """Whether a test needs none of the released code's values."""
    return not REFERENCES & {argument.arg for argument in function.args.args}


def test_rows_are_numbered_without_gaps() -> None:
    assert [row.number for row in ROWS] == list(range(1, len(ROWS) + 1))
    assert len(ROWS) >= 65


@each_row
def test_every_cell_of_a_row_says_something(row: Row) -> None:
    assert row.kind in KINDS
    assert all(row[2:])


@each_row
def test_every_row_has_evidence_that_exists(row: Row) -> None:
    assert row.tests, "no test is named"
    # Nothing but tests: a misspelt one would pass unseen.
    assert NODE.sub("", row.evidence).strip(" ;") == ""
    missing = [f"{file}::{name}" for file, name in row.tests if name not in functions(file)]
    assert missing == []


@each_row
def test_every_row_has_a_test_that_needs_no_reference(row: Row) -> None:
    assert any(runs_everywhere(functions(file)[name]) for file, name in row.tests)


@each_row
def test_every_switch_is_an_option_or_a_reason(row: Row) -> None:
    options = OPTION.findall(row.switch)
    config = Config()
    assert [name for name in options if not hasattr(getattr(config, name[0], None), name[1])] == []
    if row.kind in {"fix", "ours"}:
        assert options or row.switch.startswith("no switch: ")


def test_each_compat_option_has_a_row() -> None:
    named = {f"{section}.{name}" for row in ROWS for section, name in OPTION.findall(row.switch)}
    assert {"free_mask.compat", "loss.compat", "inference.compat"} <= named


def test_tests_of_released_values_are_distinguished() -> None:
    file = "tests/test_targets.py"
    found = functions(file)
    assert runs_everywhere(found["test_size_chooses_levels"])
    assert not runs_everywhere(found["test_cells_and_categories_equal_the_released_code"])
    assert functions("tests/test_nothing.py") == {}
