"""Writing files whole or not at all."""

from __future__ import annotations

import errno
import hashlib
import json
import logging
import os
import re
import secrets
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from functools import cache
from pathlib import Path
from typing import Any

from soloist.errors import RunError

logger = logging.getLogger(__name__)

_NO_ROOM = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}
_REFUSED = {errno.EACCES, errno.EPERM, errno.EROFS}
_TOKEN_BYTES = 8
# File systems take names of 255 bytes; a character has up to four.
_LONGEST_NAME = 255
_CHARACTERS_KEPT = 50
# What no file system takes, or some take for more than a name; names that are no UTF-8 are fine.
_NO_NAME = re.compile(r"[:\0\ud800-\udc7f\udd00-\udfff]")


def _temporary(stem: str) -> re.Pattern[str]:
    """What the temporary files of `atomic_path` are called."""
    return re.compile(rf"\.{stem}\.[0-9a-f]{{{2 * _TOKEN_BYTES}}}(\.\w+)?", re.DOTALL)


_TEMPORARY = _temporary(".*")


_LFS_HEAD = b"version https://git-lfs"
LFS_REMEDY = "it is a Git LFS pointer, not the file itself; fetch it with `git lfs pull`"


def shown(path: str | Path) -> str:
    """A path in quotes on one line: line breaks and broken characters are escaped."""
    return repr(str(path))


def is_lfs_pointer(path: str | Path) -> bool:
    """Whether a file is what Git LFS leaves in the place of one that was not fetched."""
    try:
        with Path(path).open("rb") as file:
            return file.read(len(_LFS_HEAD)) == _LFS_HEAD
    except OSError:
        return False


def one_line(error: BaseException) -> str:
    """An exception's message on one line; its type where it has none."""
    return re.sub(r"\s+", " ", str(error)).strip() or type(error).__name__


def inner_path(name: str, *, ending: str = "") -> Path:
    """A relative path for what is made of an image: never outside the folder it is put in.

    Args:
        name: The image's, with slashes of any system.
        ending: Put behind the name, its suffix included.
    """
    # Split by hand: a name of two leading slashes, or of Windows, would be a path of its own.
    plain = _NO_NAME.sub("_", name)
    parts = [part for part in re.split(r"[/\\]", plain) if part.strip(".")]
    *folders, last = parts or ["image"]
    if len(last.encode(errors="replace")) + len(ending) > _LONGEST_NAME:
        digest = hashlib.sha256(last.encode(errors="replace")).hexdigest()[:16]
        last = f"{last[:_CHARACTERS_KEPT]}-{digest}"
    return Path(*folders, last + ending)


@cache
def kept_folder(prefix: str) -> Path:
    """A temporary folder, the same for the same prefix, removed when the process ends."""
    folder = tempfile.TemporaryDirectory(prefix=prefix, ignore_cleanup_errors=True)
    _kept.append(folder)
    return Path(folder.name)


# A temporary folder is removed with its object: at the end of the process.
_kept: list[tempfile.TemporaryDirectory[str]] = []


@contextmanager
def atomic_path(path: str | Path) -> Iterator[Path]:
    """Yields a temporary path that becomes `path` when the block ends, whole or not at all.

    The temporary file lies in the same folder (renaming across file systems is not atomic),
    is hidden, and keeps the suffix, which many writers go by. The folder is made if needed. A
    block that raises, or writes nothing, leaves what was at `path` as it was.

    Args:
        path: Where the file shall be.

    Yields:
        The temporary path to write to.

    Raises:
        RunError: If the folder cannot be written to or the disk is full.
    """
    path = Path(path)
    token = secrets.token_hex(_TOKEN_BYTES)
    temporary = path.parent / f".{path.stem[:_CHARACTERS_KEPT]}.{token}{path.suffix}"
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        yield temporary
        if temporary.exists():
            os.replace(temporary, path)
    except OSError as error:
        # A file the block reads, or a decoder's own complaint, is not for this function.
        places = {None, str(temporary), *(str(folder) for folder in path.parents)}
        if error.errno is None or error.filename not in places:
            raise
        raise cannot_write(path, error) from error
    finally:
        # A parent that is a file, or a disk that went away, leaves nothing to remove.
        with suppress(OSError):
            temporary.unlink(missing_ok=True)


@contextmanager
def appending(path: str | Path) -> Iterator[None]:
    """Around writing at the end of a file, where a kill or a full disk leaves a part of a line.

    Raises:
        RunError: If the file cannot be written.
    """
    try:
        yield
    except OSError as error:
        raise cannot_write(path, error) from error


def cannot_write(path: str | Path, error: OSError) -> RunError:
    """What to tell when a file cannot be written."""
    remedy = (
        "free some space or choose another disk"
        if error.errno in _NO_ROOM
        else "choose a file in a folder you may write to"
    )
    return RunError(f"cannot write {shown(path)}: {error.strerror or one_line(error)}; {remedy}")


def disk_trouble(error: OSError) -> str | None:
    """One line about a disk that is full, read-only or broken; None for any other error."""
    if error.errno not in _NO_ROOM | _REFUSED | {errno.EIO}:
        return None
    where = "" if error.filename is None else f" {shown(error.filename)}"
    reason = f"cannot use{where or ' a file'}: {error.strerror}"
    return f"{reason}; check space and permissions, then give the same command again"


def is_leftover(file: Path) -> bool:
    """Whether a file is called like the temporary ones of `atomic_path`."""
    return _TEMPORARY.fullmatch(file.name) is not None


def remove_leftovers(folder: Path, *, of: Path | None = None) -> None:
    """Removes the temporary files that killed writers left.

    Args:
        folder: Where; nobody else may be writing there.
        of: Only those of this one file, in case others write in the folder. None removes all,
            below the folder too.

    Raises:
        RunError: If one cannot be removed.
    """
    pattern = _TEMPORARY if of is None else _temporary(re.escape(of.stem[:_CHARACTERS_KEPT]))
    for file in list(folder.rglob(".*") if of is None else folder.glob(".*")):
        if pattern.fullmatch(file.name) and (of is None or file.suffix == of.suffix):
            try:
                file.unlink(missing_ok=True)
            except OSError as error:
                raise cannot_write(file, error) from error


def write_text(path: str | Path, text: str) -> None:
    r"""Writes a UTF-8 text file with \n line ends, whole or not at all.

    Args:
        path: The file; its folder is made if needed.
        text: Characters UTF-8 cannot hold (from broken file names) are written as `\udcxx`.

    Raises:
        RunError: If the file cannot be written.
    """
    with atomic_path(path) as temporary:
        temporary.write_text(text, encoding="utf-8", errors="backslashreplace", newline="\n")


def write_json(path: str | Path, obj: Any, *, indent: int | None = None) -> None:
    """Writes an ASCII JSON file, whole or not at all.

    Args:
        path: The file; its folder is made if needed.
        obj: What json can write; numbers must be finite, since JSON knows no NaN.
        indent: Spaces per level; None writes one line.

    Raises:
        RunError: If the file cannot be written.
        ValueError: If a number is not finite.
    """
    write_text(path, json.dumps(obj, indent=indent, allow_nan=False) + "\n")


def plain_json(obj: Mapping[str, Any]) -> dict[str, Any]:
    """What JSON gives back of a mapping; `inf`, which JSON does not know, becomes a text."""
    plain: dict[str, Any] = json.loads(json.dumps(obj), parse_constant=str)
    return plain
