from __future__ import annotations

import errno
import logging
import os
import platform
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from filelock import FileLock

from soloist.errors import RunError
from soloist.runtime import lock as lock_module
from soloist.runtime.files import atomic_path
from soloist.runtime.lock import Lock, claimed, locked_output


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "run.lock"


@pytest.fixture
def held(file: Path) -> Iterator[FileLock]:
    """A lock that somebody else holds."""
    with FileLock(file) as lock:
        yield lock


def refusal(file: Path) -> str:
    with pytest.raises(RunError) as caught:
        Lock(file, file.with_name("run"))
    assert "\n" not in str(caught.value)
    return str(caught.value)


def leftover_of(target: Path) -> Path:
    """The temporary file of a writer that was killed."""
    with atomic_path(target) as temporary:
        kept = temporary
    kept.write_text("half")
    return kept


def ended_process() -> int:
    """Number of a process that is no more."""
    with subprocess.Popen([sys.executable, "-c", ""]) as process:
        process.wait()
    return process.pid


def test_the_second_learns_who_has_it(file: Path) -> None:
    first = Lock(file, file.with_name("run"))
    by = f"is being written by process {os.getpid()} on {platform.node()}; wait until"
    assert by in refusal(file)
    first.release()
    Lock(file, file.with_name("run")).release()


def test_nothing_is_left_of_it(file: Path) -> None:
    lock = Lock(file, file.with_name("run"))
    assert file.is_file()
    lock.release()
    lock.release()
    assert not file.exists()


@pytest.mark.slow
def test_a_lock_of_a_process_that_died_is_taken_over(file: Path) -> None:
    code = (
        "import os, sys; from pathlib import Path; from soloist.runtime.lock import Lock\n"
        "lock = Lock(Path(sys.argv[1]), Path('run')); os._exit(9)"
    )
    subprocess.run([sys.executable, "-c", code, file], check=False)
    assert file.is_file()
    Lock(file, file.with_name("run")).release()


def test_workers_of_a_process_that_died_are_waited_for(
    file: Path, held: FileLock, monkeypatch: pytest.MonkeyPatch
) -> None:
    file.write_text(f"{ended_process()}\n{platform.node()}\n")
    monkeypatch.setattr(lock_module, "SECONDS_FOR_ORPHANS", 0.2)
    assert "is being written by process" in refusal(file)
    waited: list[float] = []
    original = FileLock.acquire

    def acquire(self: FileLock, timeout: float) -> object:
        waited.append(timeout)
        if timeout:
            held.release()
        return original(self, timeout=timeout)

    monkeypatch.setattr(FileLock, "acquire", acquire)
    Lock(file, file.with_name("run")).release()
    assert waited == [0, 0.2]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        pytest.param(f"{os.getpid()}\n{platform.node()}\n", "process", id="alive-here"),
        pytest.param("1234\nelsewhere\n", "by process 1234 on elsewhere;", id="elsewhere"),
        pytest.param("", "by another process;", id="silent"),
        pytest.param("who\nknows\n", "by another process;", id="not-ours"),
    ],
)
@pytest.mark.usefixtures("held")
def test_who_may_be_alive_is_not_waited_for(
    file: Path, monkeypatch: pytest.MonkeyPatch, text: str, message: str
) -> None:
    file.write_text(text)
    monkeypatch.setattr(lock_module, "SECONDS_FOR_ORPHANS", 1e6)
    assert message in refusal(file)


def test_an_output_is_locked_beside_it(tmp_path: Path) -> None:
    out = tmp_path / "new" / "masks.json"
    with locked_output(out):
        assert [path.name for path in out.parent.iterdir()] == ["masks.partial.lock"]
        with pytest.raises(RunError, match=r"masks.json' is being written by"), locked_output(out):
            pass
        with locked_output(out.with_name("other.json")):
            pass
    assert list(out.parent.iterdir()) == []


def test_who_has_an_output_removes_what_killed_writers_left_of_it(tmp_path: Path) -> None:
    token = "0123456789abcdef"
    for name in ("out.json", "out.embeddings.npy", "other.json"):
        stem, suffix = name.rsplit(".", 1)
        (tmp_path / f".{stem}.{token}.{suffix}").write_text("half")
    sidecar = tmp_path / "out.embeddings.npy"
    with locked_output(tmp_path / "out.json", sidecars=[sidecar]):
        assert [path.name for path in tmp_path.glob(".*")] == [f".other.{token}.json"]


def test_a_place_that_takes_no_lock_is_reported(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(RunError, match="cannot write"), locked_output(tmp_path / "file" / "a.json"):
        pass


def test_a_system_without_locks_is_no_obstacle(
    file: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def refuse(self: FileLock, timeout: float) -> None:
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(FileLock, "acquire", refuse)
    Lock(file, file.with_name("run")).release()
    assert "nothing keeps two commands apart here" in caplog.text


# Claims


def test_a_claim_is_granted_once_at_a_time(tmp_path: Path) -> None:
    lock = tmp_path / "locks" / "00000"
    with claimed(lock) as first:
        with claimed(lock) as second, claimed(tmp_path / "locks" / "00001") as other:
            assert (first, second, other) == (True, False, True)
        # What was not granted leaves the claim as it is.
        with claimed(lock) as third:
            assert not third
    assert list(lock.parent.iterdir()) == []
    with claimed(lock) as again:
        assert again


def test_a_claim_is_free_after_an_error(tmp_path: Path) -> None:
    with pytest.raises(KeyError), claimed(tmp_path / "lock"):
        raise KeyError
    with claimed(tmp_path / "lock") as again:
        assert again


def test_a_claim_is_waited_for(tmp_path: Path) -> None:
    order: list[str] = []
    started = threading.Event()

    def wait() -> None:
        started.set()
        with claimed(tmp_path / "lock", wait=True):
            order.append("second")

    with claimed(tmp_path / "lock"):
        thread = threading.Thread(target=wait)
        thread.start()
        started.wait()
        order.append("first")
    thread.join()
    assert order == ["first", "second"]


def test_who_has_the_claim_removes_what_killed_writers_left(tmp_path: Path) -> None:
    target = tmp_path / "1.parquet"
    stale, other = leftover_of(target), leftover_of(tmp_path / "2.parquet")
    with claimed(tmp_path / "lock", of=target) as mine:
        assert mine
        assert not stale.exists()
        running = leftover_of(target)
        with claimed(tmp_path / "lock", of=target) as second:
            assert not second
        assert running.exists()
    assert other.exists()


@pytest.mark.parametrize("reason", [errno.ENOSYS, errno.ENOLCK, errno.EOPNOTSUPP])
def test_a_file_system_without_locks_grants_every_claim_and_tells(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    reason: int,
) -> None:
    def refuse(self: FileLock, timeout: float) -> None:
        raise OSError(reason, os.strerror(reason))

    caplog.set_level(logging.WARNING, logger="soloist")
    monkeypatch.setattr(FileLock, "acquire", refuse)
    target = tmp_path / "1.parquet"
    running = leftover_of(target)
    with claimed(tmp_path / "lock") as first, claimed(tmp_path / "lock", of=target) as second:
        assert first
        assert second
    assert running.exists()
    assert "no locks here" in caplog.text


def test_a_claim_where_nothing_can_be_written_is_reported(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("mine")
    with pytest.raises(RunError, match="a folder you may write to"):
        claimed(tmp_path / "file" / "lock").__enter__()
