from __future__ import annotations

import errno
import json
import os
from pathlib import Path

import pytest

from soloist.errors import ConfigError, RunError, require
from soloist.runtime.files import (
    appending,
    atomic_path,
    disk_trouble,
    is_leftover,
    one_line,
    plain_json,
    remove_leftovers,
    shown,
    write_json,
    write_text,
)


def write_half(target: Path, error: Exception) -> None:
    with atomic_path(target) as temporary:
        temporary.write_text("half")
        raise error


def test_a_finished_block_leaves_only_the_file(tmp_path: Path) -> None:
    target = tmp_path / "new" / "masks.json"
    with atomic_path(target) as temporary:
        temporary.write_text("whole")
        assert temporary.parent == target.parent
        assert (temporary.suffix, temporary.name[0]) == (".json", ".")
        assert not target.exists()
    assert [file.name for file in target.parent.iterdir()] == ["masks.json"]
    assert target.read_text() == "whole"


def test_a_block_that_raises_leaves_the_old_file(tmp_path: Path) -> None:
    target = tmp_path / "masks.json"
    target.write_text("old")
    with pytest.raises(KeyError):
        write_half(target, KeyError())
    assert [file.name for file in tmp_path.iterdir()] == ["masks.json"]
    assert target.read_text() == "old"


def test_a_block_that_writes_nothing_leaves_the_old_file(tmp_path: Path) -> None:
    target = tmp_path / "masks.json"
    target.write_text("old")
    with atomic_path(target):
        pass
    assert target.read_text() == "old"


@pytest.mark.parametrize(
    ("number", "remedy"),
    [
        pytest.param(errno.ENOSPC, "free some space", id="full-disk"),
        pytest.param(errno.EROFS, "a folder you may write to", id="read-only-disk"),
        pytest.param(errno.EACCES, "a folder you may write to", id="no-permission"),
    ],
)
def test_a_disk_that_refuses_is_reported_in_one_line(
    tmp_path: Path, number: int, remedy: str
) -> None:
    target = tmp_path / "masks.json"
    with pytest.raises(RunError) as caught:
        write_half(target, OSError(number, os.strerror(number)))
    message = str(caught.value)
    assert all(part in message for part in ("masks.json", os.strerror(number), remedy))
    assert "\n" not in message
    assert list(tmp_path.iterdir()) == []


def test_a_parent_that_is_a_file_is_reported(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(RunError, match="cannot write"):
        write_text(tmp_path / "file" / "report.html", "x")


def test_a_target_that_is_a_folder_is_reported(tmp_path: Path) -> None:
    (tmp_path / "out.json" / "kept").mkdir(parents=True)
    with pytest.raises(RunError, match="cannot write"):
        write_json(tmp_path / "out.json", {})
    assert [file.name for file in tmp_path.iterdir()] == ["out.json"]


def test_a_file_the_block_fails_to_read_is_not_blamed_on_the_target(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError), atomic_path(tmp_path / "out.json"):
        (tmp_path / "elsewhere" / "absent.png").read_bytes()


def test_json_and_text_survive(tmp_path: Path) -> None:
    write_json(tmp_path / "a.json", {"näme": [1, None, 0.5], "broken": "\udcff"})
    assert json.loads((tmp_path / "a.json").read_bytes()) == {
        "näme": [1, None, 0.5],
        "broken": "\udcff",
    }
    write_text(tmp_path / "a.txt", "é\n\udcff")
    assert (tmp_path / "a.txt").read_bytes() == "é\n\\udcff".encode()


def test_json_refuses_nan_and_keeps_the_old_file(tmp_path: Path) -> None:
    write_json(tmp_path / "a.json", 1)
    with pytest.raises(ValueError, match="JSON compliant"):
        write_json(tmp_path / "a.json", float("nan"))
    assert (tmp_path / "a.json").read_text() == "1\n"


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        pytest.param("a b.jpg", "'a b.jpg'", id="space"),
        pytest.param("a\nb.jpg", r"'a\nb.jpg'", id="line-break"),
        pytest.param("café.jpg", "'café.jpg'", id="accent"),
        pytest.param("\udcff.jpg", r"'\udcff.jpg'", id="not-utf-8"),
    ],
)
def test_a_path_is_shown_on_one_line(text: str, expected: str) -> None:
    assert shown(text) == expected


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        pytest.param(ValueError("two\n  lines "), "two lines", id="lines"),
        pytest.param(MemoryError(), "MemoryError", id="no-message"),
    ],
)
def test_an_error_is_reported_on_one_line(error: Exception, expected: str) -> None:
    assert one_line(error) == expected


def leftover_of(target: Path) -> Path:
    """The temporary file of a writer that was killed."""
    with atomic_path(target) as temporary:
        target.parent.mkdir(parents=True, exist_ok=True)
        kept = temporary
    kept.write_text("half")
    return kept


@pytest.mark.parametrize("name", ["a.json", "a.embeddings.npy", "no-suffix", "line\nbreak.json"])
def test_leftovers_of_killed_writers_are_known(tmp_path: Path, name: str) -> None:
    assert is_leftover(leftover_of(tmp_path / name))
    assert not is_leftover(tmp_path / name)


def test_leftovers_of_one_file_are_not_those_of_others(tmp_path: Path) -> None:
    leftover_of(tmp_path / "a.json")
    others = {
        leftover_of(tmp_path / name).name for name in ("b.json", "a.b.json", "a.npy", "aa.json")
    }
    remove_leftovers(tmp_path, of=tmp_path / "a.json")
    assert {path.name for path in tmp_path.iterdir()} == others


def test_all_leftovers_below_a_folder_go_and_nothing_else(tmp_path: Path) -> None:
    kept = {".gitignore", "a.json", ".a.0123.json", ".lock"}
    for name in kept:
        (tmp_path / name).write_text("x")
    leftover_of(tmp_path / "a.json")
    leftover_of(tmp_path / "rounds" / "0" / "model.safetensors")
    remove_leftovers(tmp_path)
    assert {path.name for path in tmp_path.rglob("*") if path.is_file()} == kept


def test_a_long_name_leaves_room_for_its_temporary_one(tmp_path: Path) -> None:
    write_text(tmp_path / ("\u00e9" * 120 + ".json"), "x")
    assert len(list(tmp_path.iterdir())) == 1


def test_a_line_that_cannot_be_added_is_reported(tmp_path: Path) -> None:
    message = "cannot write 'log': No space left on device; free some"
    with pytest.raises(RunError, match=message), appending("log"):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        pytest.param(OSError(errno.ENOSPC, "full", "a.pt"), "cannot use 'a.pt': full;", id="full"),
        pytest.param(OSError(errno.EROFS, "read-only"), "cannot use a file: read", id="read-only"),
        pytest.param(OSError(errno.EIO, "broken", "x"), "cannot use 'x': broken", id="broken"),
        pytest.param(FileNotFoundError(errno.ENOENT, "gone", "x"), None, id="not-the-disk"),
        pytest.param(OSError("odd"), None, id="no-number"),
    ],
)
def test_trouble_with_the_disk_is_not_other_trouble(error: OSError, expected: str | None) -> None:
    message = disk_trouble(error)
    assert (message is None) == (expected is None)
    assert expected is None or (message or "").startswith(expected)


def test_settings_as_json_has_them() -> None:
    plain = plain_json({"sizes": (1, 2), "limit": float("inf"), "deep": {"name": "\udcff"}})
    assert plain == {"sizes": [1, 2], "limit": "Infinity", "deep": {"name": "\udcff"}}


# Optional packages


def test_an_absent_package_is_reported_with_its_remedy() -> None:
    require("json", extra="none", wanted="this test")
    with pytest.raises(ConfigError, match=r"^it needs no_such; pip install '\.\[some\]' in"):
        require("no_such", extra="some", wanted="it")
