"""The account of images that failed."""

from __future__ import annotations

import json
import logging
from pathlib import Path

from soloist.errors import RunError
from soloist.runtime.files import one_line, shown

logger = logging.getLogger(__name__)


def read_errors(path: Path) -> list[dict[str, str]]:
    """The entries of an `errors.jsonl`: image, stage and error; none if there is no file."""
    if not path.is_file():
        return []
    return _entries(path.read_text(encoding="utf-8", errors="replace"), path)


def error_line(image: str, stage: str, message: str) -> str:
    """The line of an `errors.jsonl` about one image."""
    return json.dumps({"image": image, "stage": stage, "error": message}) + "\n"


class ErrorLog:
    """Images that failed, one JSON line each, written at once so that a crash loses none.

    An image is listed once, with its first failure, also when a run resumes with the same file.

    Args:
        path: The file, which may exist; None keeps the account in memory only.

    Raises:
        RunError: If the file exists and cannot be read.
    """

    def __init__(self, path: Path | None) -> None:
        self.path = path
        self._images: set[str] = set()
        if path is not None and path.exists():
            self._resume(path)

    @property
    def count(self) -> int:
        """Images listed, those of earlier sessions included."""
        return len(self._images)

    @property
    def images(self) -> frozenset[str]:
        """Names of the images listed."""
        return frozenset(self._images)

    def add(self, image: str, stage: str, error: Exception | str) -> None:
        """Lists an image that failed, unless it is listed already.

        Args:
            image: Its name.
            stage: What was done with it, such as `masks`.
            error: What went wrong.

        Raises:
            RunError: If the file cannot be written.
        """
        if image in self._images:
            return
        self._images.add(image)
        message = error if isinstance(error, str) else one_line(error)
        logger.warning("%s: %s failed: %s", stage, shown(image), message)
        if self.path is None:
            return
        line = error_line(image, stage, message)
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            with self.path.open("a", encoding="utf-8", newline="\n") as file:
                file.write(line)
        except OSError as problem:
            raise RunError(
                f"cannot write {shown(self.path)}: {problem.strerror}; "
                "free some space or choose a folder you may write to"
            ) from problem

    def _resume(self, path: Path) -> None:
        try:
            text = path.read_text(encoding="utf-8", errors="replace")
            self._images.update(entry["image"] for entry in _entries(text, path))
            if text and not text.endswith("\n"):
                with path.open("a", encoding="utf-8", newline="\n") as file:
                    file.write("\n")
        except OSError as problem:
            raise RunError(
                f"cannot read {shown(path)}: {problem.strerror}; "
                "remove it or choose another run folder"
            ) from problem


def _entries(text: str, path: Path) -> list[dict[str, str]]:
    entries = []
    for line in text.splitlines():
        try:
            entry = json.loads(line)
            entries.append({key: str(entry[key]) for key in ("image", "stage", "error")})
        except (ValueError, KeyError, TypeError):
            # Cut off by a crash: its image fails again and is listed then.
            logger.warning("%s: a malformed line was skipped", shown(path))
    return entries
