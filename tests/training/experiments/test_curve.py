"""The learning curve: its points, that it resumes, and its arithmetic."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from soloist.errors import ConfigError, RunError
from soloist.training.experiments import curve
from soloist.training.experiments.curve import Point, make_curve, markdown, plan_points, plot
from soloist.training.run_folder import STATE


@pytest.fixture
def listed(tmp_path: Path) -> Path:
    path = tmp_path / "e.selected.txt"
    path.write_text("c.png\na.png\nb.png\n")
    return path


def test_small_points_come_first_and_lists_have_as_many_as_they_are_long(listed: Path) -> None:
    points = plan_points((4, 1), (0, 1), (listed,))
    assert [point.name for point in points] == [
        *("random-1-seed0", "random-1-seed1", "e-selected-1-seed0", "e-selected-1-seed1"),
        *("random-4-seed0", "random-4-seed1"),
    ]
    assert points[2].chosen == ("c.png",)
    assert plan_points((2,), (0,), (listed,))[1].chosen == ("c.png", "a.png")


@pytest.mark.parametrize(
    ("counts", "seeds", "said"),
    [
        ((1, 1), (0,), "--labels must be different"),
        ((0,), (0,), "--labels must be at least 1"),
        ((1,), (), "--seeds must be different"),
    ],
)
def test_points_that_make_no_curve_are_refused(
    counts: tuple[int, ...], seeds: tuple[int, ...], said: str
) -> None:
    with pytest.raises(ConfigError, match=said):
        plan_points(counts, seeds)


def test_a_list_that_is_not_there_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="--lists: cannot read"):
        plan_points((1,), (0,), (tmp_path / "none.txt",))


def test_table_and_plot_show_means() -> None:
    done = [
        (Point("random", 1, 0), 0.2),
        (Point("random", 1, 1), 0.4),
        (Point("mine", 1, 0), 0.5),
        (Point("random", 4, 0), 0.6),
    ]
    text = markdown(done)
    assert "| labelled images | 1 | 4 |\n|---|---|---|\n" in text
    assert "| random | 30.0 ± 14.1 | 60.0 |\n| mine | 50.0 | – |\n" in text
    drawn = plot(done)
    assert drawn.startswith("<svg")
    assert "random" in drawn
    assert "mine" in drawn


def test_a_curve_that_was_stopped_does_what_is_left(
    tmp_path: Path, listed: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls: list[dict[str, Any]] = []

    def stand_in(data: Path, folder: Path, **options: Any) -> None:
        calls.append({"folder": folder.name, **options})
        if len(calls) == 2:
            raise KeyboardInterrupt
        folder.mkdir(parents=True)
        (folder / STATE).write_text('{"finished": true}')
        figures = {"finetuned": {"mask_ap50": 0.1 * len(calls)}}
        (folder / "results.json").write_text(json.dumps(figures))

    monkeypatch.setattr(curve, "finetune", stand_in)
    monkeypatch.setattr(curve, "choose_labelled", lambda *_: SimpleNamespace(total=3))
    points, out = plan_points((1, 2), (0,), (listed,)), tmp_path / "out"

    def make(**more: Any) -> Path:
        return make_curve(points, Path("t.json"), Path("v.json"), out, init="bundled", **more)

    with pytest.raises(KeyboardInterrupt):
        make()
    assert "| random | 10.0 |" in (out / "curve.md").read_text()
    assert make() == out / "curve.md"
    assert (out / "curve.svg").is_file()
    assert [call["folder"] for call in calls] == [
        *("random-1-seed0", "e-selected-1-seed0"),
        *("e-selected-1-seed0", "random-2-seed0", "e-selected-2-seed0"),
    ]
    assert calls[3]["labels"] == "2"
    assert Path(calls[4]["labels"]).read_text() == "c.png\na.png\n"
    assert calls[4]["options"] == {"seed": 0}
    make()
    assert len(calls) == 5
    with pytest.raises(RunError, match="other settings than those asked for"):
        make(learn="network")


def test_numbers_beyond_the_labelled_images_are_left_out_before_any_learning(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(curve, "results_of", lambda *_: {"finetuned": {"mask_ap50": 0.5}})
    monkeypatch.setattr(curve, "choose_labelled", lambda *_: SimpleNamespace(total=6))
    points = plan_points((4, 64), (0, 1))
    table = make_curve(points, Path("t.json"), Path("v.json"), tmp_path)
    assert "| labelled images | 4 |" in table.read_text()
    assert "2 points of more than the 6 labelled images are left out" in caplog.text
    with pytest.raises(ConfigError, match="--labels must be at most 6"):
        make_curve(points[2:], Path("t.json"), Path("v.json"), tmp_path)
