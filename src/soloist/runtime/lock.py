"""One command at a time on a run folder or an output file, one process at a time on a shard.

The system drops a lock when its process ends, however it ends: nothing has to be tidied up by hand.
`locked_output` keeps commands apart and tells who is in the way; `claimed` shares work out.
"""

from __future__ import annotations

import errno
import logging
import os
import platform
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from filelock import FileLock, Timeout

from soloist.errors import RunError
from soloist.runtime.distributed import on_main
from soloist.runtime.files import cannot_write, remove_leftovers, shown

logger = logging.getLogger(__name__)

# What a file system says that has no locks.
_NO_LOCKS = {errno.ENOSYS, errno.ENOLCK, errno.EOPNOTSUPP, errno.ENOTSUP, errno.EINVAL}
# A killed process may leave workers, which hold its lock until they notice.
SECONDS_FOR_ORPHANS = 15.0


class Lock:
    """A lock that is held from the start; the file that stands for it is gone afterwards.

    Args:
        file: The file that stands for it; its folder must be there.
        what: What it keeps to one command, for messages.

    Raises:
        RunError: If another process holds it, or the file cannot be written.
    """

    def __init__(self, file: Path, what: Path) -> None:
        self._file = file
        self._lock = FileLock(file)
        try:
            self._acquire(what)
            # Where the system knows no locks, the library keeps its own notes in the file.
            if type(self._lock) is FileLock:
                file.write_text(f"{os.getpid()}\n{platform.node()}\n", encoding="utf-8")
        except OSError as error:
            self._lock.release(force=True)
            if error.errno not in _NO_LOCKS:
                raise cannot_write(file, error) from error
            logger.warning("%s: nothing keeps two commands apart here (%s)", shown(what), error)

    def release(self) -> None:
        """Lets others have it; a second call does nothing."""
        if self._lock.is_locked:
            _remove(self._file)
            self._lock.release(force=True)

    def _acquire(self, what: Path) -> None:
        try:
            self._lock.acquire(timeout=0)
        except Timeout:
            process, machine = _holder(self._file)
            if machine != platform.node() or process is None or _is_alive(process):
                raise self._taken(what) from None
            try:
                self._lock.acquire(timeout=SECONDS_FOR_ORPHANS)
            except Timeout:
                raise self._taken(what) from None

    def _taken(self, what: Path) -> RunError:
        process, machine = _holder(self._file)
        by = f"process {process} on {machine}" if process is not None else "another process"
        return RunError(
            f"{shown(what)} is being written by {by}; wait until it has ended, or choose another "
            "--out"
        )


@contextmanager
def locked_output(out: Path, *, sidecars: Iterable[Path] = ()) -> Iterator[None]:
    """Keeps an output file to the processes of this launch; its folder is made if needed.

    What killed writers of it left is removed.

    Args:
        out: The file.
        sidecars: Files beside it that the same command writes.

    Raises:
        RunError: On every process, if others hold it.
    """
    held: list[Lock] = []

    def take() -> None:
        try:
            out.parent.mkdir(parents=True, exist_ok=True)
        except FileExistsError as error:
            raise RunError(
                f"cannot write {shown(out)}: {shown(out.parent)} is a file; choose another --out"
            ) from error
        except OSError as error:
            raise cannot_write(out, error) from error
        held.append(Lock(out.with_name(f"{out.stem}.partial.lock"), out))
        for file in (out, *sidecars):
            remove_leftovers(out.parent, of=file)

    on_main(take)
    try:
        yield
    finally:
        for lock in held:
            lock.release()


@contextmanager
def claimed(file: Path, *, wait: bool = False, of: Path | None = None) -> Iterator[bool]:
    """Claims a piece of work among processes, also of other machines.

    Where a file system has no locks every claim is granted, so what is claimed must come out right,
    if late, when it is done twice.

    Args:
        file: The file that stands for it; made if needed, and gone afterwards.
        wait: Wait until the claim is free.
        of: The file that only who has the claim writes: what killed writers left of it is
            removed, where the lock says that nobody is writing it.

    Yields:
        Whether it is this process's.

    Raises:
        RunError: If the file cannot be made, or a leftover not be removed.
    """
    lock = FileLock(file)
    mine = True
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        lock.acquire(timeout=-1 if wait else 0)
    except Timeout:
        mine = False
    except OSError as error:
        if error.errno not in _NO_LOCKS:
            raise cannot_write(file, error) from error
        logger.warning("no locks here (%s): processes may do the same twice", error.strerror)
    try:
        if lock.is_locked and of is not None:
            remove_leftovers(of.parent, of=of)
        yield mine
    finally:
        if lock.is_locked:
            _remove(file)
            lock.release()


def _remove(file: Path) -> None:
    """Removes the file of a lock that is held: who waits for it then looks for a new one.

    Windows keeps open files; there it stays.
    """
    with suppress(OSError):
        file.unlink(missing_ok=True)


def _holder(file: Path) -> tuple[int | None, str]:
    """Process and machine that wrote a lock's file; None where it does not say."""
    try:
        process, machine, *_ = file.read_text(encoding="utf-8").split("\n")
        return int(process), machine
    except (OSError, ValueError):
        return None, ""


def _is_alive(process: int) -> bool:
    if os.name != "posix":
        return True  # Signal 0 is something else there.
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True
