"""The speed benchmark, on cases that sleep."""

from __future__ import annotations

import importlib
import json
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

FOLDER = Path(__file__).parents[2] / "benchmarks"


@pytest.fixture
def bench(monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """The script as a module; what it imports from beside it is forgotten afterwards."""
    monkeypatch.syspath_prepend(str(FOLDER))
    before = set(sys.modules)
    yield importlib.import_module("bench")
    for name in set(sys.modules) - before:
        if Path(getattr(sys.modules[name], "__file__", None) or "").parent == FOLDER:
            del sys.modules[name]


def test_a_floor_is_timed_by_turns_with_its_case(bench: Any) -> None:
    done = []

    def work(name: str, seconds: float) -> None:
        done.append(name)
        time.sleep(seconds)

    cases = sys.modules["cases"]
    prepared = cases.Prepared(lambda watch: work("case", 0.2), floor=lambda: work("floor", 0.1))
    bench.CASES["sleeps"] = cases.Case("sleeps", "", lambda: prepared, repeats=3, warm_ups=1)
    row = {"case": "sleeps", "threads": 2, **bench._case("sleeps")}
    assert done == ["case", "floor", *("floor", "case") * 3]
    row |= bench._compared(row, {})
    assert row["ratio"] == row["seconds"] / row["floor"]
    assert 0.2 <= row["least"] <= row["seconds"] <= row["most"]
    assert row["floor"] >= 0.1
    assert row["peak_mb"] > 0
    # Of one thread it is that of processor time.
    row |= {"threads": 1, "processor_seconds": 0.6, "floor_processor_seconds": 0.2}
    assert bench._compared(row, {})["ratio"] == pytest.approx(3)


def test_without_photographs_their_cases_are_left_out(
    bench: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys.modules["photograph_cases"], "PHOTOS", tmp_path / "absent")
    measured: list[str] = []

    def child(name: str, threads: int) -> dict[str, Any]:
        measured.append(name)
        row = dict.fromkeys(("floor", "floor_processor_seconds", "ceiling", "foreign"))
        return {**row, "seconds": 1.0, "least": 1.0, "most": 1.0, "parts": {}, "peak_mb": 1.0}

    monkeypatch.setattr(bench, "_child", child)
    monkeypatch.setattr(bench, "_ceilings_line", lambda ceilings, threads: "")
    assert bench.main(threads=(1,), cases=("coco_file", "photo"), out=tmp_path) == 0
    assert measured == ["ceilings", "coco_file"]
    assert "put shared/photos beside the checkout" in capsys.readouterr().err


def test_kept_ratios_are_of_cases_that_there_are(bench: Any) -> None:
    known = {f"{name}, {threads} threads" for name in bench.CASES for threads in (1, 2)}
    assert set(json.loads(bench.RATIOS.read_text(encoding="utf-8"))) <= known


@pytest.mark.parametrize(
    ("stages", "cores", "expected"),
    [
        pytest.param((0.1, 0.02, 0.5), 1, 1 / 0.12, id="one-core-does-both"),
        pytest.param((0.1, 0.0125, 0.0), 4, 4 / 0.1125, id="all-cores-are-busy"),
        pytest.param((0.1, 0.05, 0.0), 32, 20.0, id="the-network-is-the-narrow-place"),
        pytest.param((0.1, 0.05, 1.0), 32, 80.0, id="helpers-are-the-narrow-place"),
    ],
)
def test_simulated_throughput_is_that_of_the_narrow_place(
    bench: Any, stages: tuple[float, float, float], cores: int, expected: float
) -> None:
    throughput = importlib.import_module("throughput")
    found = throughput.images_per_second(throughput.Stages(*stages), cores)
    # Queues fill and empty.
    assert found == pytest.approx(expected, rel=0.05)
