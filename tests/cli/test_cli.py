from __future__ import annotations

import io
import json
import logging
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch
import yaml
from PIL import Image
from rich.console import Console

import soloist
from soloist.api import plans
from soloist.cli import CLOSED_PIPE, app, run_command
from soloist.cli.options import READING_FLAGS
from soloist.cli.runs import DONE, SOME_FAILED, USER_ERROR, parse_duration
from soloist.config import Config
from soloist.config.presets import load_config_file
from soloist.data.coco.partial import PartialShards
from soloist.data.coco.read import load_coco
from soloist.data.coco.shard_rows import ShardRow
from soloist.data.sources import ImageRef
from soloist.errors import ConfigError, SoloistError
from soloist.inference import label as label_module
from soloist.models import SOLO
from soloist.training import train as train_module

COMMAND = Path(sys.executable).with_name("soloist")


class Outcome(NamedTuple):
    """How a command ended."""

    status: int
    out: str
    err: str


Run = Callable[..., Outcome]


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str]) -> Run:
    """Runs one command in this process."""

    def command(*arguments: str | Path) -> Outcome:
        status = run_command([str(argument) for argument in arguments])
        return Outcome(status, *capsys.readouterr())

    return command


@pytest.fixture(autouse=True)
def _working_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A folder of its own with a few mistakes to make in it."""
    monkeypatch.chdir(tmp_path)
    Path("empty").mkdir()
    put(Path("photos/a.jpg"))
    Path("notes.txt.jpg").write_text("no image")
    Path("no-objects.json").write_text('{"images": [], "annotations": []}')
    Path("typo.yaml").write_text("free_mask: {max_maks: 3}")
    Path("broken.yaml").write_text("free_mask: [")
    Path("foreign").mkdir()
    Path("foreign/mine.txt").write_text("mine")
    before = list(logging.getLogger("soloist").handlers)
    yield
    # No command leaves a log file open, however it ends.
    assert logging.getLogger("soloist").handlers == before


@pytest.fixture
def options(tmp_path: Path, tiny_options: dict[str, Any]) -> Path:
    """A YAML file for networks that train in a second."""
    path = tmp_path / "tiny.yaml"
    path.write_text(yaml.safe_dump(tiny_options), encoding="utf-8")
    return path


@pytest.fixture
def fast(options: Path) -> tuple[str | Path, ...]:
    """Arguments of a verb that builds a network."""
    return "--config", options, "--device", "cpu", "--precision", "fp32"


def put(path: Path, size: tuple[int, int] = (40, 50), seed: int = 0) -> Path:
    """A noisy image of (height, width)."""
    pixels = np.random.default_rng(seed).integers(0, 256, (*size, 3), dtype=np.uint8)
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path)
    return path


def errors_of(path: Path) -> list[str]:
    """Names of the images listed as failed."""
    return sorted(json.loads(line)["image"] for line in path.read_text().splitlines())


# Mistakes


@pytest.mark.parametrize(
    ("command", "message"),
    [
        pytest.param("masks empty --out new.json", "folder 'empty' with none in it", id="empty"),
        pytest.param("masks none.jpg --out new.json", "'none.jpg', which does not exist",
                     id="no-image"),
        pytest.param("masks x*.jpg --out new.json", "pattern 'x*.jpg' that matches 0 paths",
                     id="no-match"),
        pytest.param("masks --out new.json", "--images requires an argument", id="no-source"),
        pytest.param("masks photos", "--out requires an argument", id="no-out"),
        pytest.param("masks photos --out photos", "must be a file such as masks.json",
                     id="out-is-a-folder"),
        pytest.param("masks photos --out .", "must be a file such as masks.json", id="out-is-here"),
        pytest.param("masks photos --out typo.yaml", "'typo.yaml' exists; add --overwrite",
                     id="out-exists"),
        pytest.param("masks photos --out typo.yaml/new.json", "'typo.yaml' is a file;",
                     id="out-in-a-file"),
        pytest.param("fit photos --out typo.yaml/new", "cannot make typo.yaml/new",
                     id="run-in-a-file"),
        pytest.param("fit photos --out typo.yaml", "must be a folder, typo.yaml is a file",
                     id="run-is-a-file"),
        pytest.param("fit photos --out foreign", "not a soloist run", id="run-is-foreign"),
        pytest.param("fit photos --out foreign --overwrite", "not a soloist run",
                     id="foreign-is-never-overwritten"),
        pytest.param("masks photos --out new.json --preset tinny", "did you mean tiny?",
                     id="preset"),
        pytest.param("masks photos --out new.json --preset XXL", "known: paper, paper-r101,",
                     id="far-preset"),
        pytest.param("masks photos --out new.json --free-mask.max-maks 3",
                     "Did you mean --free-mask.max-masks?", id="option"),
        pytest.param("masks photos --outt new.json --out new.json", "Did you mean --out?",
                     id="plain-option"),
        pytest.param("masks photos --out new.json --train.steps 3", "Unknown option",
                     id="option-of-another-verb"),
        pytest.param("mask photos --out new.json", 'Did you mean "masks"?', id="verb"),
        pytest.param("segment photos", "Unknown command", id="far-verb"),
        pytest.param("masks photos --out new.json --free-mask.max-masks many",
                     'unable to convert "many" into int', id="value"),
        pytest.param("masks photos --out new.json --free-mask.max-masks 0",
                     "free_mask.max_masks must be at least 1", id="value-below-its-range"),
        pytest.param("masks photos --out new.json --backbone.output-stride 4",
                     "Choose from: 8, 16, 32", id="choice"),
        pytest.param("masks photos --out new.json --extract.margin 5",
                     "extract.margin must be a multiple of", id="margin"),
        pytest.param("masks photos --out new.json --config none.yaml", "cannot read none.yaml",
                     id="no-config"),
        pytest.param("masks photos --out new.json --config typo.yaml",
                     "typo.yaml: no option 'free_mask.max_maks'; did you mean max_masks?",
                     id="unknown-key"),
        pytest.param("masks photos --out new.json --config broken.yaml", "is not valid YAML",
                     id="no-yaml"),
        pytest.param("masks photos --out new.json --device gpu", "device must be auto, cpu",
                     id="device"),
        pytest.param("masks photos --out new.json --precision fp64", "precision must be auto",
                     id="precision"),
        pytest.param("masks photos --out new.json --backbone.weights none.pth",
                     "no file of weights at none.pth", id="no-weights"),
        pytest.param("masks photos --out new.json --backbone.weights typo.yaml",
                     "typo.yaml is damaged", id="no-weights-in-a-file"),
        pytest.param("masks photos --out new.json --backbone.weights none --backbone.name resnet",
                     "no backbone named 'resnet'", id="backbone"),
        pytest.param("masks photos --out new.json --backbone.feature-stride 64",
                     "no feature map of stride 64", id="feature-stride"),
        pytest.param("masks no-objects.json --out new.json", "a list `images`",
                     id="no-image-in-coco"),
        pytest.param("fit photos --out new --budget soon", "must be a time such as 90m",
                     id="budget"),
        pytest.param("fit photos --out new --budget -5m", "--budget", id="negative-budget"),
        pytest.param("fit photos --out new --rounds -1", "rounds must be at least 0", id="rounds"),
        pytest.param("fit photos --out new --gt none.json", "got 'none.json'", id="no-truth"),
        pytest.param("fit photos --out new --gt no-objects.json", "without any",
                     id="truth-without-objects"),
        pytest.param("train photos --masks none.json --out new", "got 'none.json'", id="no-masks"),
        pytest.param("train photos --masks no-objects.json --out new", "none of the 1 images has",
                     id="masks-of-other-images"),
        pytest.param("train photos --masks no-objects.json --out new --init none",
                     "no trained model in none", id="no-start"),
        pytest.param("predict photos --model none --out new.json", "no trained model in none",
                     id="no-model"),
        pytest.param("predict photos --model foreign --out new.json",
                     "no trained model in foreign", id="foreign-model"),
        pytest.param("eval none.json none.json", "'none.json', which does not", id="eval-none"),
        pytest.param("eval typo.yaml typo.yaml", "got the file 'typo.yaml'", id="eval-no-json"),
        pytest.param("eval no-objects.json no-objects.json", "ground truth with objects",
                     id="eval-nothing"),
        pytest.param("eval a.json b.json --max-dets 5", "max_dets must be more than 10",
                     id="eval-few"),
        pytest.param("report none", "none is not a run with a report", id="no-run"),
        pytest.param("report foreign", "foreign is not a run with a report", id="foreign-run"),
        pytest.param("report foreign --gt no-objects.json", "--gt is for a file of masks",
                     id="report-run-gt"),
        pytest.param("report no-objects.json", "whose `images` are none", id="report-nothing"),
        pytest.param("report no-objects.json --out a.json", "--out must be a page such as",
                     id="report-out"),
        pytest.param("pretrain photos --out new --pretrain.steps 0", "pretrain.steps must be",
                     id="pretrain-steps"),
        pytest.param("pretrain empty --out new", "folder 'empty' with none", id="pretrain-empty"),
        pytest.param("doctor please", "please", id="word-too-many"),
    ],
)  # fmt: skip
def test_a_mistake_ends_in_one_line_and_leaves_nothing(
    run: Run, command: str, message: str
) -> None:
    before = {path: path.read_bytes() for path in Path().rglob("*") if path.is_file()}
    outcome = run(*command.split())
    assert outcome.status == USER_ERROR
    assert outcome.out == ""
    assert outcome.err.startswith("soloist: ")
    assert outcome.err.endswith("\n")
    assert outcome.err.count("\n") == 1
    assert message in outcome.err
    assert "Traceback" not in outcome.err
    after = {path for path in Path().rglob("*") if path.is_file()}
    assert {path for path in after if path.parts[0] != "new"} == set(before)
    assert all(path.read_bytes() == content for path, content in before.items())


@pytest.mark.slow
def test_a_run_that_a_mistake_stopped_does_not_block_the_right_command(
    run: Run, fast: tuple[str | Path, ...], scenes: Path
) -> None:
    arguments = ("train", scenes / "images", "--out", "new", *fast)
    assert run(*arguments, "--masks", "no-objects.json").status == USER_ERROR
    assert run(*arguments, "--masks", scenes / "annotations.json").status == DONE


@pytest.mark.skipif(
    not hasattr(os, "geteuid") or os.geteuid() == 0, reason="root may write anywhere"
)
@pytest.mark.parametrize(
    "command", ["masks photos --out locked/new.json", "fit photos --out locked/new"]
)
def test_a_folder_that_may_not_be_written_is_reported(run: Run, command: str) -> None:
    Path("locked").mkdir(mode=0o500)
    outcome = run(*command.split())
    assert outcome.status == USER_ERROR
    assert outcome.err.count("\n") == 1
    assert "Permission denied" in outcome.err


@pytest.mark.slow
def test_the_installed_command_ends_in_one_line_too() -> None:
    done = subprocess.run(
        [COMMAND, "masks", "empty", "--out", "new.json"], capture_output=True, text=True
    )
    assert done.returncode == USER_ERROR
    assert done.stdout == ""
    assert done.stderr.count("\n") == 1
    assert done.stderr.startswith("soloist: wanted images, got folder 'empty'")


@pytest.mark.slow
def test_the_installed_command_tells_its_progress_on_stderr(options: Path) -> None:
    done = subprocess.run(
        [COMMAND, "masks", "photos", "notes.txt.jpg", "--out", "new.json", "--config", options],
        capture_output=True,
        text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )
    assert done.returncode == SOME_FAILED
    assert done.stdout == "new.json\n"
    assert "1 images failed; they are listed in new.errors.jsonl" in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.slow
def test_a_training_that_cannot_go_on_is_no_mistake_of_the_user(
    run: Run, fast: tuple[str | Path, ...], scenes: Path
) -> None:
    outcome = run(
        "train", scenes / "images", "--masks", scenes / "annotations.json", "--out", "new", *fast,
        "--train.learning-rate", "1e30", "--train.warmup-steps", "0", "--train.steps", "20",
    )  # fmt: skip
    assert outcome.status == SOME_FAILED
    assert outcome.err.count("\n") == 1
    assert "not finite" in outcome.err


def test_a_stopped_command_tells_how_to_go_on(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    def stop(*arguments: object, **options: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(plans, "load_config", stop)
    outcome = run("masks", "photos", "--out", "new.json")
    assert outcome.status == 130
    assert outcome.err == "soloist: stopped; the same command resumes\n"


def test_a_message_of_several_lines_is_joined(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*arguments: object, **options: object) -> None:
        raise SoloistError("one\n  two\tthree\n")

    monkeypatch.setattr(plans, "load_config", fail)
    outcome = run("masks", "photos", "--out", "new.json")
    assert outcome == (USER_ERROR, "", "soloist: one two three\n")


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        pytest.param("90m", 5400, id="minutes"),
        pytest.param("1h", 3600, id="hour"),
        pytest.param("1h30m", 5400, id="both"),
        pytest.param("1.5h", 5400, id="fraction"),
        pytest.param(" 45s ", 45, id="seconds"),
        pytest.param("1h1m1s", 3661, id="all"),
        pytest.param("0m", 0, id="nothing"),
    ],
)
def test_durations(text: str, seconds: float) -> None:
    assert parse_duration(text) == seconds


@pytest.mark.parametrize("text", ["", " ", "5", "m", "1m1h", "-1h", "1 hour", "1h 30", "nan"])
def test_what_is_no_duration_is_refused(text: str) -> None:
    with pytest.raises(ConfigError, match="--budget must be a time such as"):
        parse_duration(text)


# Images that fail


def test_a_truncated_image_is_listed_and_the_others_are_done(
    run: Run, fast: tuple[str | Path, ...]
) -> None:
    whole = put(Path("photos/b.jpg"), (60, 80)).read_bytes()
    Path("photos/c.jpg").write_bytes(whole[: len(whole) // 2])
    outcome = run("masks", "photos", "--out", "new.json", *fast)
    assert outcome.status == SOME_FAILED
    assert outcome.out == "new.json\n"
    assert [image.file_name for image in load_coco("new.json").images] == ["a.jpg", "b.jpg"]
    assert errors_of(Path("new.errors.jsonl")) == ["c.jpg"]


def test_an_image_mended_is_no_failure_any_more(run: Run, fast: tuple[str | Path, ...]) -> None:
    Path("photos/b.jpg").write_text("no image")
    assert run("masks", "photos", "--out", "new.json", *fast).status == SOME_FAILED
    put(Path("photos/b.jpg"))
    outcome = run("masks", "photos", "--out", "new.json", *fast, "--overwrite")
    assert outcome.status == DONE
    assert not Path("new.errors.jsonl").exists()
    assert len(load_coco("new.json").images) == 2


def test_a_refused_output_keeps_its_account_of_failures(
    run: Run, fast: tuple[str | Path, ...]
) -> None:
    Path("photos/b.jpg").write_text("no image")
    run("masks", "photos", "--out", "new.json", *fast)
    other = ("--free-mask.max-masks", "3")
    assert run("masks", "photos", "--out", "new.json", *fast, *other).status == USER_ERROR
    assert errors_of(Path("new.errors.jsonl")) == ["b.jpg"]


def test_when_no_image_can_be_read_it_is_the_users_mistake(
    run: Run, fast: tuple[str | Path, ...]
) -> None:
    outcome = run("masks", "notes.txt.jpg", "--out", "new.json", *fast)
    assert outcome.status == USER_ERROR
    assert "none of the 1 images could be read; see new.errors.jsonl" in outcome.err
    assert errors_of(Path("new.errors.jsonl")) == ["notes.txt.jpg"]
    assert not Path("new.json").exists()


@pytest.mark.slow
@pytest.mark.parametrize(
    "size",
    [
        pytest.param((1, 1), id="one-pixel"),
        pytest.param((1, 40), id="one-row"),
        pytest.param((300, 12_000), id="panorama"),
    ],
)
@pytest.mark.parametrize("verb", ["masks", "predict"])
def test_images_of_any_size_are_done(
    run: Run,
    fast: tuple[str | Path, ...],
    model_folder: Path,
    verb: str,
    size: tuple[int, int],
) -> None:
    put(Path("odd/odd.png"), size)
    how = fast if verb == "masks" else ("--model", model_folder, "--precision", "fp32")
    outcome = run(verb, "odd", "--out", "new.json", *how, "--overlays", "drawn")
    coco = load_coco("new.json")
    # Nothing found shows in the exit status.
    assert outcome.status == (DONE if coco.annotations[1] else SOME_FAILED)
    assert (coco.images[0].height, coco.images[0].width) == size
    for annotation in coco.annotations[1]:
        assert annotation.rle["size"] == list(size)
    with Image.open("drawn/odd.png.overlay.jpg") as drawn:
        assert drawn.size == size[::-1]


def test_missing_images_of_a_coco_file_are_listed_and_ids_are_kept(
    run: Run, fast: tuple[str | Path, ...]
) -> None:
    images = [{"id": 70, "file_name": "gone.jpg"}, {"id": 12, "file_name": "photos/a.jpg"}]
    Path("set.json").write_text(json.dumps({"images": images}))
    outcome = run("masks", "set.json", "--out", "new.json", *fast)
    assert outcome.status == SOME_FAILED
    assert [(one.id, one.file_name) for one in load_coco("new.json").images] == [
        (12, "photos/a.jpg")
    ]
    assert errors_of(Path("new.errors.jsonl")) == ["gone.jpg"]


# Files between the stages


def test_other_options_are_refused_and_overwrite_replaces_a_finished_file(
    run: Run, fast: tuple[str | Path, ...]
) -> None:
    assert run("masks", "photos", "--out", "new.json", *fast).status == DONE
    other = (*fast, "--free-mask.max-masks", "1")
    outcome = run("masks", "photos", "--out", "new.json", *other)
    assert outcome.status == USER_ERROR
    assert "'new.json' exists; add --overwrite" in outcome.err
    assert run("masks", "photos", "--out", "new.json", *other, "--overwrite").status != USER_ERROR
    assert load_coco("new.json").info["free_mask"]["max_masks"] == 1


def files_in(folder: str = ".") -> dict[str, bytes]:
    return {
        path.as_posix(): path.read_bytes()
        for path in sorted(Path(folder).rglob("*"))
        if path.is_file() and path.parts[0] not in ("photos", "whole")
    }


def test_the_same_command_follows_its_folder(
    run: Run, fast: tuple[str | Path, ...], caplog: pytest.LogCaptureFixture
) -> None:
    """New and changed images are labelled, the rest is kept, what vanished is said."""
    put(Path("photos/c.jpg"))
    command = ("masks", "photos", "--out", "new.json", *fast)
    assert run(*command).status == DONE
    before = files_in()
    assert run(*command).status == DONE
    assert files_in() == before
    # Ids are places: those of all others change.
    put(Path("photos/0.jpg"))
    Image.new("RGB", (40, 30), "teal").save("photos/c.jpg")
    Path("photos/a.jpg").rename("photos/z.jpg")
    caplog.clear()
    assert run(*command).status == DONE
    assert "2 new (such as '0.jpg'), 1 changed (such as 'c.jpg'), 1 vanished (such as 'a.jpg')" in (
        caplog.text
    )
    made = files_in()
    assert [one.file_name for one in load_coco("new.json").images] == ["0.jpg", "c.jpg", "z.jpg"]
    for path in ("new.json", "new.embeddings.npy"):
        Path(path).unlink()
    assert run(*command).status == DONE
    assert files_in() == made


def test_only_what_is_new_is_labelled(
    run: Run, fast: tuple[str | Path, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    command = ("masks", "photos", "--out", "new.json", *fast)
    assert run(*command).status == DONE
    put(Path("photos/0.jpg"))
    labelled: list[str] = []
    original = label_module.labelled_rows

    def noted(images: Sequence[ImageRef], *arguments: Any, **options: Any) -> Any:
        labelled.extend(image.name for image in images)
        return original(images, *arguments, **options)

    monkeypatch.setattr(label_module, "labelled_rows", noted)
    assert run(*command).status == DONE
    assert labelled == ["0.jpg"]


def test_an_image_that_failed_is_tried_again_when_it_has_changed(
    run: Run, fast: tuple[str | Path, ...]
) -> None:
    broken = Path("photos/b.jpg")
    broken.write_text("no image")
    command = ("masks", "photos", "--out", "new.json", *fast)
    assert run(*command).status == SOME_FAILED
    made = Path("new.json").stat().st_mtime_ns
    assert run(*command).status == SOME_FAILED
    assert Path("new.json").stat().st_mtime_ns == made
    put(broken)
    assert run(*command).status == DONE
    assert len(load_coco("new.json").images) == 2
    assert not Path("new.errors.jsonl").exists()


@pytest.mark.parametrize("preset", ["paper", "released", "small", "tiny"])
def test_masks_of_every_preset_are_written(
    run: Run, fast: tuple[str | Path, ...], preset: str
) -> None:
    """The paper's has an infinite limit, which JSON has no word for."""
    how = ("--preset", preset, "--extract.margin", "0", *fast)
    assert run("masks", "photos", "--out", "new.json", *how).status == DONE
    info = json.loads(Path("new.json").read_text(), parse_constant=pytest.fail)["info"]
    assert info["command"] == "masks"
    assert info["backbone"]["name"] == "resnet10t"


@pytest.mark.slow
@pytest.mark.parametrize("verb", ["masks", "predict"])
@pytest.mark.parametrize("killed_at", [1, 3, 6])
def test_a_killed_pass_over_images_ends_as_an_unbroken_one(
    run: Run,
    monkeypatch: pytest.MonkeyPatch,
    fast: tuple[str | Path, ...],
    scenes: Path,
    model_folder: Path,
    verb: str,
    killed_at: int,
) -> None:
    how = fast if verb == "masks" else ("--model", model_folder, "--precision", "fp32")
    assert run(verb, scenes / "images", "--out", "whole/out.json", *how).status == DONE
    original = PartialShards.write
    added: list[str] = []

    def noting(shards: PartialShards, shard: int, rows: Sequence[ShardRow]) -> None:
        added.extend(row.file_name for row in rows)
        if len(added) == killed_at:
            raise MemoryError
        original(shards, shard, rows)

    with monkeypatch.context() as patch:
        patch.setattr(PartialShards, "write", noting)
        with pytest.raises(MemoryError):
            run(verb, scenes / "images", "--out", "killed/out.json", *how)
        assert not Path("killed/out.json").exists()
        assert run(verb, scenes / "images", "--out", "killed/out.json", *how).status == DONE
    # The image in work is done again, none of those before it.
    assert len(added) == 7
    assert sorted(path.name for path in Path("killed").iterdir()) == [
        "out.embeddings.npy",
        "out.json",
    ]
    for name in ("out.json", "out.embeddings.npy"):
        assert Path("killed", name).read_bytes() == Path("whole", name).read_bytes()


def test_results_of_other_options_are_not_continued(
    run: Run, monkeypatch: pytest.MonkeyPatch, fast: tuple[str | Path, ...], scenes: Path
) -> None:
    def killed(*arguments: object, **options: object) -> None:
        raise MemoryError

    with monkeypatch.context() as patch:
        patch.setattr("soloist.inference.label.write_shards", killed)
        with pytest.raises(MemoryError):
            run("masks", scenes / "images", "--out", "new.json", *fast)
    one = ("--free-mask.max-masks", "1")
    assert run("masks", scenes / "images", "--out", "new.json", *fast, *one).status == DONE
    coco = load_coco("new.json")
    assert max(len(annotations) for annotations in coco.annotations.values()) == 1


def test_predictions_are_evaluated(
    run: Run, scenes: Path, model_folder: Path, fast: tuple[str | Path, ...]
) -> None:
    predicted = run(
        "predict", scenes / "images", "--model", model_folder.parent, "--out", "new.json",
        "--inference.max-per-image", "3", "--precision", "fp32",
    )  # fmt: skip
    assert predicted.status == DONE
    coco = load_coco("new.json")
    assert {len(annotations) for annotations in coco.annotations.values()} == {3}
    outcome = run("eval", "new.json", scenes / "annotations.json", "--out", "figures.json")
    assert outcome.status == DONE
    assert "mask AP" in outcome.out
    figures = json.loads(Path("figures.json").read_text())
    promised = {name: value for name, value in figures.items() if name.startswith(("mask", "box"))}
    assert len(promised) == 19  # The 18 metrics and CorLoc.
    assert all(value is None or 0 <= value <= 1 for value in promised.values())
    assert figures["max_dets"] == 100
    assert "up to 100 an image" in outcome.out


@pytest.mark.slow
@pytest.mark.parametrize(
    ("source", "folder"),
    [
        pytest.param("photos/a.jpg", "a", id="file"),
        pytest.param("photos", "photos", id="folder"),
        pytest.param("photos/*.jpg", "photos", id="pattern"),
    ],
)
def test_photographs_alone_are_enough_to_predict(run: Run, source: str, folder: str) -> None:
    out = Path("runs", "predict", folder)
    outcome = run("predict", source)
    assert outcome.status == DONE
    assert outcome.out.splitlines() == [str(out / "masks.json"), str(out / "overlays")]
    assert load_coco(out / "masks.json").images
    assert [path.name for path in (out / "overlays").iterdir()] == ["a.jpg.overlay.jpg"]
    # Predictions that are there are left alone.
    assert run("predict", source).out.startswith(f"{out}-2")


def test_images_show_masks_from_a_score_on(run: Run, model_folder: Path) -> None:
    shown = []
    for score in ("0", "2"):
        how = ("--overlays", f"images-{score}", "--overlay-score", score)
        out = f"new-{score}.json"
        status = run("predict", "photos", "--model", model_folder, "--out", out, *how).status
        assert status == (DONE if score == "0" else SOME_FAILED)
        shown.append(Path(f"images-{score}", "a.jpg.overlay.jpg").read_bytes())
    assert shown[0] != shown[1]
    assert Path("new-0.json").stat().st_size == Path("new-2.json").stat().st_size


def test_the_truth_itself_is_perfect(run: Run, scenes: Path) -> None:
    truth = scenes / "annotations.json"
    assert run("eval", truth, truth, "--out", "figures.json").status == DONE
    figures = json.loads(Path("figures.json").read_text())
    assert figures["mask_ap"] == figures["box_ap"] == pytest.approx(1.0)


# Runs


@pytest.fixture
def train_command(scenes: Path, fast: tuple[str | Path, ...]) -> tuple[str | Path, ...]:
    masks = scenes / "annotations.json"
    return "train", scenes / "images", *fast, "--masks", masks, "--out", "new"


@pytest.mark.slow
def test_a_training_leaves_a_whole_run_folder(
    run: Run, caplog: pytest.LogCaptureFixture, train_command: tuple[str | Path, ...]
) -> None:
    caplog.set_level(logging.INFO, logger="soloist")
    outcome = run(*train_command, "--train.steps", "3", "--seed", "5")
    assert outcome.status == DONE
    assert outcome.out == "report: new/report.html\n"
    assert {
        "checkpoints",
        "config.yaml",
        "environment.json",
        "metrics.jsonl",
        "model",
        "report.html",
        "run.log",
        "state.json",
    } <= {path.name for path in Path("new").iterdir()}
    config = load_config_file(Path("new/config.yaml"))
    assert (config.train.steps, config.seed) == (3, 5)
    assert "train: 6 images on cpu, fp32" in Path("new/run.log").read_text()
    # So short a training finds nothing, which the status says.
    assert run("predict", "photos", "--model", "new", "--out", "p.json").status == SOME_FAILED


@pytest.mark.slow
def test_a_finished_run_is_refused_and_overwritten_on_demand(
    run: Run, train_command: tuple[str | Path, ...]
) -> None:
    assert run(*train_command).status == DONE
    weights = Path("new/model/model.safetensors").read_bytes()
    refused = run(*train_command)
    assert refused.status == USER_ERROR
    assert "finished `train` run; add --overwrite" in refused.err
    other = ("--seed", "1")
    assert run(*train_command, *other).status == USER_ERROR
    assert Path("new/model/model.safetensors").read_bytes() == weights
    assert run(*train_command, *other, "--overwrite").status == DONE
    assert Path("new/model/model.safetensors").read_bytes() != weights


@pytest.mark.slow
def test_a_killed_run_goes_on_by_the_same_command_only(
    run: Run, monkeypatch: pytest.MonkeyPatch, train_command: tuple[str | Path, ...]
) -> None:
    assert run(*train_command[:-1], "whole").status == DONE
    original = train_module.batch_losses
    calls = 0

    def killed(*arguments: Any) -> Any:
        nonlocal calls
        calls += 1
        if calls == 4:
            raise MemoryError
        return original(*arguments)

    with monkeypatch.context() as patch:
        patch.setattr(train_module, "batch_losses", killed)
        with pytest.raises(MemoryError):
            run(*train_command)
    other = run(*train_command, "--train.steps", "5")
    assert other.status == USER_ERROR
    assert "train.steps 4 -> 5" in other.err
    assert run(*train_command).status == DONE
    name = "model/model.safetensors"
    assert Path("new", name).read_bytes() == Path("whole", name).read_bytes()


@pytest.mark.slow
def test_a_report_is_written_again(run: Run, train_command: tuple[str | Path, ...]) -> None:
    assert run(*train_command).status == DONE
    page = Path("new/report.html").read_text(encoding="utf-8")
    Path("new/report.html").unlink()
    outcome = run("report", "new")
    assert outcome == (DONE, "new/report.html\n", "")
    assert Path("new/report.html").read_text(encoding="utf-8")[:200] == page[:200]


@pytest.mark.slow
def test_a_report_finds_images_that_were_moved(
    run: Run, scenes: Path, train_command: tuple[str | Path, ...]
) -> None:
    assert run(*train_command).status == DONE
    recipe = json.loads(Path("new/report.json").read_text())
    masks = str(scenes / "annotations.json")
    recipe["images"] = [["gone/" + name, name] for _, name in recipe["images"]]
    recipe["stages"] = [["segmenter", "SOLO", masks]]
    Path("new/report.json").write_text(json.dumps(recipe))
    assert run("report", "new").status == DONE
    assert Path("new/report.html").read_text(encoding="utf-8").count("<image ") == 0
    moved = run("report", "new", "--images", scenes / "images", "--out", "there/page.html")
    assert moved == (DONE, "there/page.html\n", "")
    page = Path("there/page.html").read_text(encoding="utf-8")
    assert page.count("<image ") == len(recipe["images"])
    other = run("report", "new", "--images", "photos")
    assert (other.status, "found none of them" in other.err) == (USER_ERROR, True)


def test_a_file_of_masks_is_reported(run: Run, scenes: Path) -> None:
    masks, images = scenes / "annotations.json", scenes / "images"
    outcome = run("report", masks, "--images", images, "--out", "page.html", "--max-images", "2")
    assert outcome == (DONE, "page.html\n", "")
    assert Path("page.html").read_text(encoding="utf-8").count("<image ") == 2


@pytest.mark.slow
def test_a_backbone_is_learned_and_used(
    run: Run, fast: tuple[str | Path, ...], scenes: Path
) -> None:
    learned = run("pretrain", scenes / "images", "--out", "new", *fast)
    assert learned.status == DONE
    assert Path("new/matches.jpg").is_file()
    assert Path("new/report.html").is_file()
    used = run("masks", "photos", "--out", "m.json", *fast, "--backbone.weights", "new")
    assert used.status == DONE


# Doctor


@pytest.mark.parametrize(
    ("threads", "status", "message"),
    [
        pytest.param("", DONE, "all is well", id="unset"),
        pytest.param("64", DONE, "all is well", id="enough"),
        pytest.param("64,2", DONE, "all is well", id="nested-levels"),
        pytest.param("1", SOME_FAILED, "OMP_NUM_THREADS is 1 on 2 cores", id="few"),
        pytest.param("many", SOME_FAILED, "'many', which is not a number", id="no-number"),
    ],
)
def test_doctor(
    run: Run, monkeypatch: pytest.MonkeyPatch, threads: str, status: int, message: str
) -> None:
    monkeypatch.setattr("soloist.runtime.doctor.usable_cores", lambda: 2)
    monkeypatch.setattr("soloist.runtime.doctor._free_gb", lambda: 50.0)
    monkeypatch.setenv("OMP_NUM_THREADS", threads)
    before = torch.get_num_threads()
    outcome = run("doctor")
    assert torch.get_num_threads() == before
    assert outcome.status == status
    assert message in outcome.out
    assert "torch " in outcome.out
    assert outcome.err == ""


def test_doctor_sees_a_full_disk(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("soloist.runtime.doctor._free_gb", lambda: 0.5)
    outcome = run("doctor")
    assert outcome.status == SOME_FAILED
    assert "less than 2 GB free here" in outcome.out


# Help


def test_without_a_verb_the_verbs_are_listed(run: Run) -> None:
    outcome = run()
    assert outcome.status == DONE
    assert "Usage: soloist COMMAND" in outcome.out


def test_the_version_is_printed(run: Run) -> None:
    outcome = run("--version")
    assert outcome.status == DONE
    assert outcome.out.split() == [soloist.__version__]


def test_every_option_of_a_verb_is_in_its_help() -> None:
    printed = io.StringIO()
    app.help_print(["fit"], console=Console(file=printed, width=200))
    text = printed.getvalue()
    names = [
        f"--{section}.{option} ".replace("_", "-")
        for section, options in asdict(Config()).items()
        if isinstance(options, dict) and section not in ("pretrain", "reading")
        for option in options
    ]
    names += [f"{flag} " for flag in READING_FLAGS]
    assert len(names) > 60
    assert [name for name in names if name not in text] == []


@pytest.mark.slow
def test_nothing_is_left_behind_by_the_commands(
    run: Run, fast: tuple[str | Path, ...], scenes: Path
) -> None:
    shutil.copytree(scenes / "images", "images")
    # So short a training finds nothing, which the status says.
    fit = ("fit", "images", "--out", "new", "--preset", "tiny", *fast, "--train.steps", "2")
    assert run(*fit).status == SOME_FAILED
    names = [path.name for path in Path().rglob("*")]
    assert not [name for name in names if name.startswith(".") or ".partial" in name]


# Public weights


@pytest.mark.slow
def test_the_released_file_is_used_by_its_preset(run: Run, official_r101: Path) -> None:
    how = ("--preset", "paper-r101", "--inference.short-side", "32", "--device", "cpu")
    outcome = run("predict", "photos", "--model", official_r101, "--out", "new.json", *how)
    assert (outcome.status, outcome.out) == (DONE, "new.json\n")
    assert len(load_coco("new.json").images) == 1


@pytest.mark.slow
@pytest.mark.parametrize(
    ("more", "message"),
    [
        pytest.param((), "add a preset; use the preset paper-r101", id="no-preset"),
        pytest.param(("--preset", "paper-r50"), "use the preset paper-r101", id="shallow"),
        pytest.param(("--preset", "paper-r11"), "did you mean paper-r101", id="unknown"),
    ],
)
def test_a_preset_that_does_not_fit_ends_in_one_line(
    run: Run, official_r101: Path, more: tuple[str, ...], message: str
) -> None:
    outcome = run("predict", "photos", "--model", official_r101, "--out", "new.json", *more)
    assert outcome.status == USER_ERROR
    assert message in outcome.err
    assert outcome.err.count("\n") == 1
    assert not Path("new.json").exists()


@pytest.mark.slow
def test_a_second_class_that_no_mask_has_is_learned_as_background(
    run: Run, train_command: tuple[str | Path, ...]
) -> None:
    losses = []
    for classes in (1, 2):
        how = ("--model.num-classes", str(classes), "--train.steps", "1", "--overwrite")
        assert run(*train_command, *how).status == DONE
        assert soloist.load("new").config.model.num_classes == classes
        first = json.loads(Path("new/metrics.jsonl").read_text().splitlines()[0])
        losses.append(first["loss_category"])
    # It adds cells without objects; taken for objects they would cost a hundred times as much.
    assert losses[0] < losses[1] < 3 * losses[0]


@pytest.mark.slow
@pytest.mark.usefixtures("narrow")
def test_objects_are_found_by_an_official_file(
    run: Run, official_narrow: tuple[Path, SOLO], caplog: pytest.LogCaptureFixture
) -> None:
    how = ("--preset", "narrow", "--device", "cpu", "--precision", "fp32")
    with caplog.at_level(logging.INFO, "soloist"):
        outcome = run("predict", "photos", "--model", official_narrow[0], "--out", "new.json", *how)
    assert outcome.status == DONE
    assert "FreeSOLO segmenter (detectron2 names); " in caplog.text
    assert len(load_coco("new.json")) > 0


def test_free_masks_from_the_backbone_of_an_official_file(
    run: Run, official_narrow: tuple[Path, SOLO], fast: tuple[str | Path, ...]
) -> None:
    how = (*fast, "--backbone.name", "resnet18", "--backbone.weights", official_narrow[0])
    assert run("masks", "photos", "--out", "new.json", *how).status == DONE


# Several processes


@pytest.mark.parametrize(
    ("local_rank", "expected"),
    [pytest.param("0", True, id="first"), pytest.param("1", False, id="second")],
)
def test_a_mistake_is_reported_once_on_each_machine(
    monkeypatch: pytest.MonkeyPatch, run: Run, local_rank: str, expected: bool
) -> None:
    for name, value in {"RANK": "3", "WORLD_SIZE": "4", "LOCAL_WORLD_SIZE": "2"}.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("LOCAL_RANK", local_rank)
    outcome = run("masks", "empty", "--out", "new.json", "--device", "none")
    assert outcome.status == USER_ERROR
    assert ("device must be" in outcome.err) == expected


def test_libraries_are_heard_only_when_they_warn() -> None:
    code = """
import contextlib, logging, sys
from soloist.cli import main
sys.argv = ["soloist", "--version"]
with contextlib.suppress(SystemExit):
    main()
logging.getLogger("library").info("news")
logging.getLogger("library").warning("trouble")
logging.getLogger("soloist.training").info("progress")
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stderr == "trouble\nprogress\n"


@pytest.mark.slow
@pytest.mark.skipif(sys.platform == "win32", reason="pipes of POSIX")
def test_a_closed_pipe_ends_a_command_quietly(scenes: Path) -> None:
    command = [sys.executable, "-m", "soloist", "data", "check", str(scenes / "annotations.json")]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        process.stdout.close()
        assert process.stderr.read() == b""
        assert process.wait() == CLOSED_PIPE
