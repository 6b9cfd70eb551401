"""The same measurement of two versions of the code, by turns on the same machine."""

from __future__ import annotations

import statistics
import subprocess
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Pairs:
    """Seconds of two versions; the n-th of both were measured one after the other.

    Attributes:
        here: Of this version.
        there: Of the other one.
    """

    here: Sequence[float]
    there: Sequence[float]

    @property
    def ratio(self) -> float:
        """Median of this version over that of the other: below 1 it is faster."""
        return statistics.median(self.here) / statistics.median(self.there)

    @property
    def ratios(self) -> list[float]:
        """The same of each pair, the least first."""
        return sorted(one / other for one, other in zip(self.here, self.there, strict=True))

    def cells(self) -> list[str]:
        """Both medians in ms, their ratio, and the least and largest of a pair."""
        ratios = self.ratios
        medians = [f"{1e3 * statistics.median(one):.1f}" for one in (self.here, self.there)]
        return [*medians, f"{self.ratio:.2f}", f"{ratios[0]:.2f} to {ratios[-1]:.2f}"]


def by_turns(measure: Callable[[Path], float], here: Path, there: Path, rounds: int) -> Pairs:
    """Measures both versions N times.

    Args:
        measure: Gives the seconds of the version in a checkout.
        here: The checkout of this version.
        there: That of the other one.
        rounds: How often each is measured.
    """
    seconds = [(measure(here), measure(there)) for _ in range(rounds)]
    return Pairs([one for one, _ in seconds], [other for _, other in seconds])


@contextmanager
def checked_out(repository: Path, reference: str) -> Iterator[Path]:
    """Another commit in a temporary worktree, which is removed afterwards.

    Raises:
        ValueError: If there is no such commit.
    """
    commit = f"{reference}^{{commit}}"
    try:
        found = _git(repository, "rev-parse", "--verify", "--quiet", "--end-of-options", commit)
    except subprocess.CalledProcessError:
        raise ValueError(
            f"wanted a commit, tag or branch of {repository}, got {reference!r}"
        ) from None
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "checkout"
        _git(repository, "worktree", "add", "--detach", "--quiet", str(path), found)
        try:
            yield path
        finally:
            _git(repository, "worktree", "remove", "--force", str(path))


def _git(repository: Path, *arguments: str) -> str:
    command = ["git", "-C", str(repository), *arguments]
    return subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True).stdout.strip()
