from __future__ import annotations

from pathlib import Path

import pytest

from soloist.errors import DataError
from soloist.runtime.error_log import ErrorLog, read_errors

WHOLE = '{"image": "a.jpg", "stage": "masks", "error": "broken"}\n'
ENTRY = {"image": "a.jpg", "stage": "masks", "error": "broken"}


def test_what_was_listed_is_read_back(tmp_path: Path) -> None:
    log = ErrorLog(tmp_path / "errors.jsonl")
    log.add("a.jpg", "masks", DataError("two\nlines"))
    log.add("ü\ud800.jpg", "train", KeyError())
    assert read_errors(tmp_path / "errors.jsonl") == [
        {"image": "a.jpg", "stage": "masks", "error": "two lines"},
        {"image": "ü\ud800.jpg", "stage": "train", "error": "KeyError"},
    ]


@pytest.mark.parametrize(
    ("text", "entries"),
    [
        pytest.param("", [], id="empty"),
        pytest.param(WHOLE, [ENTRY], id="whole"),
        pytest.param(WHOLE + WHOLE[:20], [ENTRY], id="cut-off"),
        pytest.param(WHOLE[:20] + "\n" + WHOLE, [ENTRY], id="cut-off-and-resumed"),
        pytest.param('[]\n3\n{"image": "b"}\n' + WHOLE, [ENTRY], id="other-json"),
        pytest.param(WHOLE + "\x00\x00", [ENTRY], id="zeros-at-the-end"),
    ],
)
def test_damaged_lines_are_left_out(
    tmp_path: Path, text: str, entries: list[dict[str, str]]
) -> None:
    path = tmp_path / "errors.jsonl"
    path.write_text(text)
    assert read_errors(path) == entries
    assert ErrorLog(path).images == {entry["image"] for entry in entries}


def test_no_file_is_no_entry(tmp_path: Path) -> None:
    assert read_errors(tmp_path / "errors.jsonl") == []
