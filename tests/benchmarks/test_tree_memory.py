"""Peak memory of work that is done by several processes."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from benchmarks.tree_memory import peak_mb

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")

SIZE = 200
"""MB that one process takes in these tests; a Python alone takes some 10."""
TAKES = f"import time; kept = b'x' * ({SIZE} * 2**20); time.sleep(0.5)"
BEGIN = f"""
import multiprocessing, subprocess, sys, time
sys.path.insert(0, {str(Path(__file__).parents[2])!r})
from benchmarks.tree_memory import peak_mb
def started(code): subprocess.run([sys.executable, "-c", code], check=True)
"""


def peak_of(work: str, *, before: str = "", started_only: bool = False) -> float:
    """`peak_mb` of a statement, in a small process: this one has all that tests have imported."""
    code = f"{BEGIN}\n{before}\ndef work():\n    {work}\n"
    code += f"print(peak_mb(work, started_only={started_only}))"
    command = [sys.executable, "-c", code]
    return float(subprocess.run(command, check=True, capture_output=True, text=True).stdout)


def test_a_process_that_is_started_counts_alone() -> None:
    assert SIZE < peak_of(f"started({TAKES!r})", started_only=True) < SIZE + 50


def test_it_counts_beside_the_process_that_starts_it() -> None:
    before = f"kept = b'x' * ({SIZE} * 2**20)"
    assert 2 * SIZE < peak_of(f"started({TAKES!r})", before=before) < 2 * SIZE + 60


def test_two_processes_at_a_time_count_both() -> None:
    two = f"import subprocess, sys; child = subprocess.Popen([sys.executable, '-c', {TAKES!r}]); "
    two += f"{TAKES}; child.wait()"
    assert 2 * SIZE < peak_of(f"started({two!r})", started_only=True) < 2 * SIZE + 60


def test_what_this_process_takes_for_a_moment_counts() -> None:
    assert SIZE < peak_of(f"kept = b'x' * ({SIZE} * 2**20); time.sleep(0.3); del kept") < SIZE + 50


def test_pages_that_a_forked_process_shares_count_once() -> None:
    before = f"kept = b'x' * ({SIZE} * 2**20)"
    work = "child = multiprocessing.get_context('fork').Process(target=time.sleep, args=(0.5,)); "
    work += "child.start(); child.join()"
    assert SIZE < peak_of(work, before=before) < SIZE + 60


def test_an_error_of_the_work_is_raised() -> None:
    def fail() -> None:
        raise OSError("no such file")

    with pytest.raises(OSError, match="no such file"):
        peak_mb(fail)
