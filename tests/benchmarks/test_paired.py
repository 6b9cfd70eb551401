"""Two versions of the code, measured by turns."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest
from benchmarks.paired import Pairs, by_turns, checked_out


def git(folder: Path, *arguments: str) -> str:
    author = ["-c", "user.name=a", "-c", "user.email=a@example.org"]
    done = subprocess.run(
        ["git", "-C", str(folder), *author, *arguments], capture_output=True, text=True, check=True
    )
    return done.stdout


@pytest.fixture
def repository(tmp_path: Path) -> Path:
    """A file that says `old` in the first commit and `new` in the second."""
    folder = tmp_path / "repository"
    folder.mkdir()
    git(folder, "init", "--quiet")
    for text in ("old", "new"):
        (folder / "version").write_text(text)
        git(folder, "add", "version")
        git(folder, "commit", "--quiet", "--message", text)
    return folder


def test_both_are_measured_by_turns() -> None:
    asked: list[str] = []

    def measure(checkout: Path) -> float:
        asked.append(checkout.name)
        return {"here": 1.0, "there": 2.0}[checkout.name] * len(asked)

    pairs = by_turns(measure, Path("here"), Path("there"), 3)
    assert asked == ["here", "there"] * 3
    assert pairs == Pairs([1, 3, 5], [4, 8, 12])
    assert pairs.ratio == 3 / 8
    assert pairs.cells() == ["3000.0", "8000.0", "0.38", "0.25 to 0.42"]


def test_another_commit_is_there_for_a_while(repository: Path) -> None:
    with checked_out(repository, "HEAD~1") as there:
        assert (there / "version").read_text() == "old"
    assert not there.exists()
    assert len(git(repository, "worktree", "list").splitlines()) == 1
    assert (repository / "version").read_text() == "new"


def test_it_goes_when_the_measurement_fails(repository: Path) -> None:
    with pytest.raises(ZeroDivisionError), checked_out(repository, "HEAD"):
        raise ZeroDivisionError
    assert len(git(repository, "worktree", "list").splitlines()) == 1


@pytest.mark.parametrize("reference", ["absent", "--all", "HEAD:version"])
def test_what_is_no_commit_is_refused(repository: Path, reference: str) -> None:
    with pytest.raises(ValueError, match="wanted a commit, tag or branch"):
        checked_out(repository, reference).__enter__()
