"""Peak memory of work that is done by several processes."""

from __future__ import annotations

import multiprocessing
import subprocess
import sys
import time

import numpy as np
import pytest
from benchmarks.tree_memory import peak_mb

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")

SIZE = 200
"""MB that one process takes in these tests; a Python alone takes some 10."""
TAKES = f"import time; kept = b'x' * ({SIZE} * 2**20); time.sleep(0.3)"


def started(code: str) -> None:
    subprocess.run([sys.executable, "-c", code], check=True)


def test_a_process_that_is_started_counts_alone() -> None:
    assert SIZE < peak_mb(lambda: started(TAKES), started_only=True) < SIZE + 50


def test_it_counts_beside_the_process_that_starts_it() -> None:
    alone = peak_mb(lambda: time.sleep(0.1))
    assert SIZE - 20 < peak_mb(lambda: started(TAKES)) - alone < SIZE + 50


def test_two_processes_at_a_time_count_both() -> None:
    two = f"import subprocess, sys; child = subprocess.Popen([sys.executable, '-c', {TAKES!r}]); "
    two += f"{TAKES}; child.wait()"
    assert 2 * SIZE < peak_mb(lambda: started(two), started_only=True) < 2 * SIZE + 60


def test_what_this_process_takes_for_a_moment_counts() -> None:
    alone = peak_mb(lambda: time.sleep(0.1))

    def work() -> None:
        kept = np.ones(SIZE * 2**17)
        time.sleep(0.2)
        del kept

    assert SIZE - 20 < peak_mb(work) - alone < SIZE + 50


def test_pages_that_a_forked_process_shares_count_once() -> None:
    kept = np.ones(SIZE * 2**17)
    alone = peak_mb(lambda: time.sleep(0.1))

    def work() -> None:
        child = multiprocessing.get_context("fork").Process(target=time.sleep, args=(0.3,))
        child.start()
        child.join()

    assert peak_mb(work) - alone < 50
    assert kept[0] == 1


def test_an_error_of_the_work_is_raised() -> None:
    with pytest.raises(subprocess.CalledProcessError):
        peak_mb(lambda: started("raise SystemExit(3)"))
