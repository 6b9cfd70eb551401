from __future__ import annotations

import errno
import json
import logging
import os
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import replace
from itertools import count
from pathlib import Path
from typing import Any

import pytest

from soloist.config import Config
from soloist.config.presets import load_config_file
from soloist.data.sources import ImageRef
from soloist.errors import RunError
from soloist.runtime.environment import environment
from soloist.runtime.lock import Lock
from soloist.training.run_folder import Metrics, RunFolder, open_run, read_metrics

CONFIG = Config()
INPUTS = {"images": "photos", "masks": "masks.json"}


def opened(
    path: Path,
    *,
    command: str = "train",
    inputs: Mapping[str, str] = INPUTS,
    config: Config = CONFIG,
    overwrite: bool = False,
    images: Sequence[ImageRef] = (),
    labels: Path | None = None,
) -> RunFolder:
    """Opens a run as a command would that ends at once."""
    run = open_run(
        path,
        command=command,
        inputs=inputs,
        config=config,
        overwrite=overwrite,
        images=images,
        labels_file=labels,
    )
    run.close()
    return run


def begun(path: Path) -> RunFolder:
    """A run that has made something."""
    run = opened(path)
    (run.checkpoints / "round-0.pt").write_text("kept")
    return run


def refusal(path: Path, **changes: object) -> str:
    """The one line that refuses a folder."""
    with pytest.raises(RunError) as caught:
        opened(path, **changes)  # type: ignore[arg-type]  # keywords of `opened`
    assert "\n" not in str(caught.value)
    return str(caught.value)


# Opening


def test_a_new_folder_holds_settings_and_machine(tmp_path: Path) -> None:
    run = opened(tmp_path / "runs" / "first")
    assert sorted(file.name for file in run.path.iterdir()) == [
        "checkpoints",
        "config.yaml",
        "environment.json",
        "run.log",
        "state.json",
    ]
    assert run.state == {"command": "train", "inputs": INPUTS, "finished": False}
    facts = json.loads((run.path / "environment.json").read_text(encoding="utf-8"))
    assert facts.keys() == environment().keys()
    assert {"soloist", "torch", "numpy"} <= set(facts["packages"])


def test_an_empty_folder_is_taken(tmp_path: Path) -> None:
    (tmp_path / "run").mkdir()
    assert opened(tmp_path / "run").state["command"] == "train"


def test_the_same_command_resumes_and_keeps_everything(tmp_path: Path) -> None:
    run = begun(tmp_path / "run")
    run.update_state(plan={"steps of round 0": 70})
    again = opened(tmp_path / "run")
    assert (again.checkpoints / "round-0.pt").read_text() == "kept"
    assert again.state["plan"] == {"steps of round 0": 70}
    assert again.state["finished"] is False


def test_a_finished_run_is_refused(tmp_path: Path) -> None:
    opened(tmp_path / "run").finish()
    message = refusal(tmp_path / "run")
    assert "finished `train` run" in message
    assert "--overwrite" in message


def test_overwrite_throws_a_run_away(tmp_path: Path) -> None:
    run = opened(tmp_path / "run")
    (run.path / "results.json").write_text("old")
    run.errors.add("a.jpg", "train", ValueError("broken"))
    run.finish()
    new = opened(tmp_path / "run", command="fit", overwrite=True)
    assert new.state == {"command": "fit", "inputs": INPUTS, "finished": False}
    assert not (new.path / "results.json").exists()
    assert new.errors.count == 0


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        pytest.param({"config": replace(CONFIG, seed=1)}, "seed 0 -> 1", id="option"),
        pytest.param({"command": "fit"}, "command train -> fit", id="command"),
        pytest.param({"inputs": {**INPUTS, "images": "x"}}, "images photos -> x", id="input"),
        pytest.param({"inputs": {**INPUTS, "init": "old"}}, "init None -> old", id="new-input"),
        pytest.param({"inputs": {"images": "photos"}}, "masks masks.json -> None", id="gone-input"),
    ],
)
def test_an_unfinished_run_with_other_settings_is_refused(
    tmp_path: Path, changes: Mapping[str, object], reason: str
) -> None:
    begun(tmp_path / "run")
    message = refusal(tmp_path / "run", **changes)
    assert reason in message
    assert "--overwrite" in message
    again = opened(tmp_path / "run")
    assert (again.checkpoints / "round-0.pt").read_text() == "kept"


def photos(folder: Path, *names: str) -> list[ImageRef]:
    folder.mkdir(exist_ok=True)
    for name in names:
        if not (folder / name).exists():
            (folder / name).write_text(name)
    return [ImageRef(folder / name, name) for name in names]


def test_a_resumed_run_keeps_to_its_images(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    first = photos(tmp_path / "photos", "a.jpg", "b.jpg", "c.jpg")
    run = opened(tmp_path / "run", images=first)
    (run.checkpoints / "round-0.pt").write_text("kept")
    assert opened(tmp_path / "run", images=first).own(first) == first
    assert "since the run began" not in caplog.text
    (tmp_path / "photos" / "b.jpg").write_text("another image")
    (tmp_path / "photos" / "a.jpg").unlink()
    now = photos(tmp_path / "photos", "b.jpg", "c.jpg", "d.jpg")
    again = opened(tmp_path / "run", images=now)
    assert [one.name for one in again.own(now)] == ["b.jpg", "c.jpg"]
    reason = "1 new (such as 'd.jpg'), 1 changed (such as 'b.jpg'), 1 vanished (such as 'a.jpg')"
    assert reason in caplog.text
    again.finish()
    with pytest.raises(RunError, match=r"finished `train` run; since then, of its images 1 new"):
        opened(tmp_path / "run", images=now)
    assert opened(tmp_path / "run", images=now, overwrite=True).own(now) == now


def test_a_run_is_not_resumed_with_other_labels(tmp_path: Path) -> None:
    images, labels = photos(tmp_path / "photos", "a.jpg"), tmp_path / "masks.json"
    labels.write_text("old")
    run = opened(tmp_path / "run", images=images, labels=labels)
    (run.checkpoints / "round-0.pt").write_text("kept")
    os.utime(labels)
    opened(tmp_path / "run", images=images, labels=labels)
    labels.write_text("new")
    with pytest.raises(RunError, match=r"masks\.json' was changed since it began"):
        opened(tmp_path / "run", images=images, labels=labels)


def test_a_run_of_an_earlier_version_takes_what_is_there(tmp_path: Path) -> None:
    begun(tmp_path / "run")
    images = photos(tmp_path / "photos", "a.jpg")
    assert opened(tmp_path / "run", images=images, labels=tmp_path / "x.json").own(images) == images


def test_a_run_stopped_before_it_made_anything_is_no_obstacle(tmp_path: Path) -> None:
    run = opened(tmp_path / "run", config=replace(CONFIG, seed=1))
    run.errors.add("a.jpg", "masks", ValueError("broken"))
    again = opened(tmp_path / "run", command="fit")
    assert again.state["command"] == "fit"
    assert again.errors.count == 0
    assert load_config_file(again.path / "config.yaml") == CONFIG


@pytest.mark.parametrize(
    "name", ["free_masks.partial/settings.json", "metrics.jsonl", "model/a", "mine.txt"]
)
def test_anything_made_is_an_obstacle(tmp_path: Path, name: str) -> None:
    made = opened(tmp_path / "run").path / name
    made.parent.mkdir(exist_ok=True)
    made.write_text("x")
    refusal(tmp_path / "run", command="fit")
    assert made.read_text() == "x"


def test_many_changes_are_not_all_listed(tmp_path: Path) -> None:
    begun(tmp_path / "run")
    changed = replace(CONFIG, train=replace(CONFIG.train, steps=1, batch_size=2, warmup_steps=3))
    message = refusal(tmp_path / "run", config=replace(changed, seed=1))
    assert message.count("->") == 3


@pytest.mark.parametrize("overwrite", [False, True])
def test_a_folder_of_something_else_is_never_touched(tmp_path: Path, overwrite: bool) -> None:
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos" / "holiday.jpg").write_text("mine")
    message = refusal(tmp_path / "photos", overwrite=overwrite)
    assert "files that are not a soloist run" in message
    assert [file.name for file in (tmp_path / "photos").iterdir()] == ["holiday.jpg"]
    assert (tmp_path / "photos" / "holiday.jpg").read_text() == "mine"


@pytest.mark.parametrize("overwrite", [False, True])
def test_a_file_is_never_replaced(tmp_path: Path, overwrite: bool) -> None:
    (tmp_path / "notes").write_text("mine")
    assert "must be a folder" in refusal(tmp_path / "notes", overwrite=overwrite)
    assert (tmp_path / "notes").read_text() == "mine"


def test_a_place_that_takes_no_folder_is_told(tmp_path: Path) -> None:
    (tmp_path / "notes").write_text("mine")
    message = refusal(tmp_path / "notes" / "run")
    assert message.startswith(f"cannot make {tmp_path / 'notes' / 'run'} (")


# Log


def test_the_log_is_kept_in_the_folder_until_the_run_is_closed(tmp_path: Path) -> None:
    log = logging.getLogger("soloist.training.train")
    with open_run(
        tmp_path / "run", command="train", inputs={}, config=CONFIG, overwrite=False
    ) as run:
        log.warning("while it runs")
    log.warning("afterwards")
    text = (run.path / "run.log").read_text(encoding="utf-8")
    assert "WARNING while it runs" in text
    assert "afterwards" not in text


def test_a_run_that_raises_stops_writing_its_log(tmp_path: Path) -> None:
    before = list(logging.getLogger("soloist").handlers)
    run = open_run(tmp_path / "run", command="train", inputs={}, config=CONFIG, overwrite=False)
    with pytest.raises(KeyError), run:
        raise KeyError
    assert logging.getLogger("soloist").handlers == before
    assert run.state["finished"] is False


# Metrics


def rows(path: Path) -> list[tuple[float, float]]:
    return [(row["round"], row["step"]) for row in read_metrics(path)]


@pytest.mark.parametrize(
    ("round_number", "resume_step", "kept"),
    [
        pytest.param(0, 0, [], id="from-the-start"),
        pytest.param(0, 20, [(0, 10), (0, 20)], id="later-lines-are-dropped"),
        pytest.param(0, 15, [(0, 10)], id="between-lines"),
        pytest.param(1, 0, [(0, 10), (0, 20), (0, 30)], id="earlier-rounds-stay"),
        pytest.param(1, 10, [(0, 10), (0, 20), (0, 30), (1, 10)], id="second-round"),
        pytest.param(1, 99, [(0, 10), (0, 20), (0, 30), (1, 10), (1, 20)], id="everything"),
    ],
)
def test_resuming_drops_lines_later_than_the_checkpoint(
    tmp_path: Path, round_number: int, resume_step: int, kept: list[tuple[int, int]]
) -> None:
    path = tmp_path / "metrics.jsonl"
    written = Metrics(path, resume_step=0)
    for step in (10, 20, 30):
        written.write({"step": step, "loss": 1.5})
    written = Metrics(path, resume_step=0, round_number=1)
    for step in (10, 20):
        written.write({"step": step, "loss": 0.5})
    Metrics(path, resume_step=resume_step, round_number=round_number)
    assert rows(path) == kept


def test_a_line_cut_short_by_a_kill_is_left_out(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    path.write_text('{"round": 0, "step": 1}\n{"round": 0, "st')
    assert rows(path) == [(0, 1)]
    resumed = Metrics(path, resume_step=1)
    resumed.write({"step": 2})
    assert path.read_text() == '{"round": 0, "step": 1}\n{"round": 0, "step": 2}\n'


def test_no_metrics_are_no_rows(tmp_path: Path) -> None:
    assert read_metrics(tmp_path / "metrics.jsonl") == []


# Company and interruptions


def test_a_second_command_is_refused_while_the_first_has_the_folder(tmp_path: Path) -> None:
    first = open_run(tmp_path / "run", command="fit", inputs={}, config=CONFIG, overwrite=False)
    for overwrite in (False, True):
        message = refusal(tmp_path / "run", command="fit", overwrite=overwrite)
        assert f"is being written by process {os.getpid()} on " in message
    first.close()
    assert not (tmp_path / "run" / ".lock").exists()
    opened(tmp_path / "run", command="fit")


def test_a_refused_command_leaves_no_lock(tmp_path: Path) -> None:
    begun(tmp_path / "run")
    refusal(tmp_path / "run", command="fit")
    assert not (tmp_path / "run" / ".lock").exists()


@pytest.mark.parametrize("made", [1, 2, 3])
def test_a_run_killed_while_it_was_made_is_no_obstacle(
    tmp_path: Path,
    killed_at: Callable[[Any, str, int], AbstractContextManager[None]],
    monkeypatch: pytest.MonkeyPatch,
    made: int,
) -> None:
    # A kill leaves the lock's file, and the system lets go of it.
    monkeypatch.setattr(Lock, "release", lambda self: self._lock.release(force=True))
    with killed_at(os, "replace", made):
        opened(tmp_path / "run")
    assert (tmp_path / "run" / ".lock").exists()
    assert opened(tmp_path / "run").state["finished"] is False


@pytest.mark.parametrize("made", [1, 2, 3])
def test_a_run_that_found_no_room_leaves_an_empty_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, made: int
) -> None:
    original = os.replace
    calls = count(1)

    def full(*paths: Any) -> None:
        if next(calls) == made:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        original(*paths)

    monkeypatch.setattr(os, "replace", full)
    assert "No space left on device; free some space" in refusal(tmp_path / "run")
    assert list((tmp_path / "run").iterdir()) == []
    opened(tmp_path / "run")


def test_leftovers_of_a_killed_writer_are_removed(tmp_path: Path) -> None:
    run = begun(tmp_path / "run")
    half = run.checkpoints / ".round-0.0123456789abcdef.pt"
    half.write_text("half")
    opened(tmp_path / "run")
    assert not half.exists()


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="a device that is always full")
def test_a_log_that_cannot_be_written_ends_without_the_work(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    log = logging.getLogger("soloist.training.train")
    with open_run(
        tmp_path / "run", command="fit", inputs={}, config=CONFIG, overwrite=False
    ) as run:
        handler = run._handler
        assert isinstance(handler, logging.FileHandler)
        assert handler.stream is not None
        handler.stream.close()
        handler.stream = Path("/dev/full").open("w", encoding="utf-8")  # noqa: SIM115  # closed by it
        log.warning("one")
        log.warning("two")
    assert "Traceback" not in capsys.readouterr().err
    assert caplog.text.count("run.log' cannot be written any more") == 1
