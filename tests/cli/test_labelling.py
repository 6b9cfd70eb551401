"""`masks`, `predict` and `merge` over shards; what they share with plain files is in `test_cli`."""

from __future__ import annotations

import json
import logging
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile
import yaml

from soloist.api import labelled_sets
from soloist.cli import run_command
from soloist.cli.runs import DONE, SOME_FAILED, USER_ERROR
from soloist.data.coco.partial import head_path
from soloist.data.coco.read import load_coco
from soloist.runtime.launch import Launch


@pytest.fixture(autouse=True)
def _working_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, scenes: Path, tiny_options: dict[str, Any]
) -> None:
    monkeypatch.chdir(tmp_path)
    shutil.copytree(scenes / "images", "photos")
    Path("tiny.yaml").write_text(yaml.safe_dump(tiny_options), encoding="utf-8")


FAST = "--device cpu --precision fp32"


def run(command: str, *more: str | Path) -> int:
    return run_command([*command.split(), *map(str, more)])


@pytest.mark.slow
@pytest.mark.parametrize("verb", ["masks", "predict"])
def test_the_merged_file_is_the_one_without_shards(verb: str, model_folder: Path) -> None:
    how = ["--config", "tiny.yaml"] if verb == "masks" else ["--model", str(model_folder)]
    Path("photos/000003.jpg").write_text("no image")
    plain = run(f"{verb} photos --out plain/all.json {FAST}", *how)
    shards = run(f"{verb} photos --out shards --shard-size 2 {FAST}", *how)
    assert (plain, shards) == (SOME_FAILED, SOME_FAILED)
    assert run("merge shards --out merged/all.json") == DONE
    plain_file, merged_file = Path("plain/all.json"), Path("merged/all.json")
    assert json.loads(merged_file.read_text()) == json.loads(plain_file.read_text())
    sidecar = "all.embeddings.npy"
    assert Path("merged", sidecar).read_bytes() == Path("plain", sidecar).read_bytes()
    for errors in ("shards/errors.jsonl", "plain/all.errors.jsonl"):
        (entry,) = map(json.loads, Path(errors).read_text().splitlines())
        assert (entry["image"], entry["stage"]) == ("000003.jpg", verb)
    # Nothing is missing any more: the same command says the same.
    assert run(f"{verb} photos --out shards --shard-size 2 {FAST}", *how) == SOME_FAILED


@pytest.mark.slow
def test_tiles_are_an_option_of_files_and_shards(model_folder: Path) -> None:
    how = f"--tile 64 --tile-overlap 16 --no-tile-whole --model {model_folder} {FAST}"
    assert run(f"predict photos --out plain/all.json --overlays drawn {how}") == DONE
    assert run(f"predict photos --out shards --shard-size 4 {how}") == DONE
    assert run("merge shards --out merged/all.json") == DONE
    content = json.loads(Path("plain/all.json").read_text())
    assert json.loads(Path("merged/all.json").read_text()) == content
    tiles = content["info"]["tiles"]
    assert (tiles["size"], tiles["overlap"], tiles["whole"]) == (64, 16, False)
    assert len(list(Path("drawn").iterdir())) == len(list(Path("photos").iterdir()))
    whole = run(f"predict photos --out whole.json --model {model_folder} {FAST}")
    assert whole == DONE
    assert json.loads(Path("whole.json").read_text())["annotations"] != content["annotations"]
    # What fits into a tile is segmented as without tiles.
    assert run(f"predict photos --out one.json --tile 4096 --model {model_folder} {FAST}") == DONE
    one, plain = (json.loads(Path(name).read_text()) for name in ("one.json", "whole.json"))
    assert one["annotations"] == plain["annotations"]


@pytest.mark.slow
def test_channels_and_stretch_are_options_of_all_that_reads(
    model_folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rng = np.random.default_rng(0)
    for number in range(2):
        values = rng.integers(0, 4000, (60, 80, 5), dtype=np.uint16)
        options: dict[str, Any] = {"photometric": "minisblack", "planarconfig": "contig"}
        tifffile.imwrite(Path("photos") / f"{number}.tif", values, **options)
    how = f"--channels 4 2 0 --stretch percentile {FAST}"
    drawn = f"--overlays drawn --format overlays --model {model_folder}"
    assert run(f"predict photos/?.tif --out plain.json {drawn} {how}") == DONE
    info = json.loads(Path("plain.json").read_text())["info"]
    assert info["reading"]["channels"] == [4, 2, 0]
    assert info["reading"]["stretch"] == "percentile"
    assert len(list(Path("drawn").iterdir())) == 2
    assert len(list(Path("plain-overlays").glob("*.jpg"))) == 2
    assert run(f"predict photos/?.tif --out s --shard-size 1 --model {model_folder} {how}") == DONE
    assert run("merge s --out merged.json") == DONE
    merged, plain = (json.loads(Path(name).read_text()) for name in ("merged.json", "plain.json"))
    assert merged["annotations"] == plain["annotations"]
    assert run(f"masks photos/?.tif --out masks.json --config tiny.yaml {how}") == DONE
    capsys.readouterr()
    # Without, each is an image that cannot be read.
    assert run(f"predict photos/?.tif --out none.json --model {model_folder} {FAST}") == USER_ERROR
    assert "none of the 2 images could be read" in capsys.readouterr().err
    for line in Path("none.errors.jsonl").read_text().splitlines():
        assert "it has 5 channels; choose three or one, as by --channels 0 1 2" in line


def test_overlays_are_drawn_from_shards_too() -> None:
    command = f"masks photos --out shards --shard-size 4 --overlays drawn --config tiny.yaml {FAST}"
    assert run(command) == DONE
    assert len(list(Path("drawn").iterdir())) == len(list(Path("photos").iterdir()))


@pytest.mark.parametrize(
    ("command", "message"),
    [
        pytest.param("masks photos --out new.json --shard-size 5", "--shard-size makes a folder",
                     id="json"),
        pytest.param("masks photos --out new --shard-size 0", "from 1 to 10,000, got 0",
                     id="no-size"),
        pytest.param("masks photos --out photos --shard-size 5", "holds files that are no shards",
                     id="foreign"),
        pytest.param("masks photos --out tiny.yaml --shard-size 5", "is a file", id="file"),
        pytest.param("masks photos --out new.json --engine ray", "add --shard-size", id="ray"),
        pytest.param("masks photos --out new --shard-size 5 --engine ray --ray-workers 0",
                     "at least 1", id="no-worker"),
        pytest.param("masks photos --out new --engine spark", "Choose from", id="engine"),
        pytest.param("predict photos --out new.jsn", "masks.json or a folder, got 'new.jsn'",
                     id="misspelt"),
        pytest.param("masks photos --out new.csv", "got 'new.csv'; --format writes", id="table"),
        pytest.param("predict photos --out new.json --tile 20", "at least 64, got 20", id="tile"),
        pytest.param("predict photos --out new.json --tile-overlap 20", "need --tile, such as",
                     id="overlap-alone"),
        pytest.param("merge photos --out new.json", "without manifest.parquet", id="no-shards"),
        pytest.param("merge none --out new.json", "without manifest.parquet", id="none"),
        pytest.param("merge photos --out tiny.yaml", "exists; add --overwrite", id="exists"),
    ],
)  # fmt: skip
def test_a_mistake_ends_in_one_line(
    capsys: pytest.CaptureFixture[str], command: str, message: str
) -> None:
    assert run(command) == USER_ERROR
    err = capsys.readouterr().err
    assert message in err
    assert err.startswith("soloist: ")
    assert err.count("\n") == 1
    assert not any(Path(name).exists() for name in ("new", "new.jsn", "new.csv"))


def test_ray_is_not_started_once_for_each_process_of_a_launcher(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("soloist.errors.find_spec", lambda name: object())
    monkeypatch.setattr("soloist.api.labelled_sets.launched", lambda: Launch(world_size=2))
    assert run("masks photos --out new --shard-size 5 --engine ray") == USER_ERROR
    assert capsys.readouterr().err.endswith("run it without torchrun\n")


@pytest.mark.parametrize(
    ("command", "package", "extra"),
    [
        pytest.param("masks photos --out new --shard-size 5", "pyarrow", "parquet", id="shards"),
        pytest.param("merge new --out new.json", "pyarrow", "parquet", id="merge"),
        pytest.param("masks photos --out new --shard-size 5 --engine ray", "ray", "ray", id="ray"),
    ],
)
def test_an_absent_package_is_reported_with_its_remedy(
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    command: str,
    package: str,
    extra: str,
) -> None:
    absent = {package}
    monkeypatch.setattr(
        "soloist.errors.find_spec", lambda name: None if name in absent else object()
    )
    assert run(command) == USER_ERROR
    message = f"needs {package}; pip install '.[{extra}]' in Soloist's folder\n"
    assert capsys.readouterr().err.endswith(message)


def test_shards_are_proposed_for_very_many_images(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.WARNING, logger="soloist")
    many = len(list(Path("photos").iterdir()))
    for most, proposed in ((many, False), (many - 1, True)):
        monkeypatch.setattr(labelled_sets, "MAX_IMAGES_IN_ONE_FILE", most)
        assert run(f"masks photos --out {most}.json --config tiny.yaml {FAST}") == DONE
        assert ("--shard-size 1000" in caplog.text) == proposed


# What is shown


def scored_model(model_folder: Path, **inference: float) -> Path:
    """The model, with other values in its record."""
    folder = Path("scored")
    shutil.copytree(model_folder, folder, dirs_exist_ok=True)
    record = json.loads((folder / "config.json").read_text())
    record["inference"] |= inference
    (folder / "config.json").write_text(json.dumps(record))
    return folder


def scores_of(path: str) -> list[float]:
    annotations = load_coco(path).annotations.values()
    return sorted(one.score for several in annotations for one in several)


@pytest.mark.slow
def test_images_and_formats_show_what_the_model_recommends(
    model_folder: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, logger="soloist")
    assert run(f"predict photos --out all.json --model {model_folder} {FAST}") in (0, 1)
    scores = scores_of("all.json")
    middle = scores[len(scores) // 2]
    good = sum(score >= middle for score in scores)
    model = scored_model(model_folder, recommended_score=middle)
    caplog.clear()
    command = f"predict photos --out some.json --overlays drawn --model {model} {FAST}"
    assert run(f"{command} --format coco") == DONE
    assert scores_of("some.json") == scores  # All, as precision and recall need them.
    assert f"{good} masks of score {middle:g} or more are drawn; some.json has all" in caplog.text
    assert len(load_coco("some-coco/annotations/instances_default.json")) == good
    assert run("convert some.json --format coco --min-score 0 --out every") == DONE
    assert len(load_coco("every/annotations/instances_default.json")) == len(scores)
    assert run(f"{command} --min-score {middle} --overwrite") == DONE
    assert len(scores_of("some.json")) == good


@pytest.mark.slow
def test_nothing_found_or_shown_is_reported_and_in_the_exit_status(
    model_folder: Path, caplog: pytest.LogCaptureFixture
) -> None:
    how = f"--model {scored_model(model_folder, recommended_score=1.0)} {FAST}"
    assert run(f"predict photos --out low.json {how}") == SOME_FAILED
    assert "has the score 1 that is shown, the best has" in caplog.text
    assert run(f"predict photos --out none.json --min-score 1 {how}") == SOME_FAILED
    assert "predict: done, but nothing was found; try another --model" in caplog.text
    assert len(load_coco("none.json")) == 0


def test_lines_of_json_are_all_that_is_printed(
    model_folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    Path("photos/000003.jpg").write_text("no image")
    how = f"--model {scored_model(model_folder, recommended_score=0.0)} {FAST}"
    assert run(f"predict photos --out new.json --json {how}") == SOME_FAILED
    lines = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    file = load_coco("new.json")
    assert [one["image"] for one in lines] == [
        *(one.file_name for one in file.images),
        "000003.jpg",
    ]
    assert "it is not an image" in lines[-1]["error"]
    assert Path(lines[0]["path"]).is_file()
    found = file.annotations[file.images[0].id]
    assert [one["id"] for one in lines[0]["objects"]] == [one.id for one in found]
    assert lines[0]["objects"][0]["mask"]["counts"] == found[0].rle["counts"]


# Where it goes


@pytest.mark.slow
def test_a_name_that_does_not_end_in_json_is_a_folder(
    model_folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    model = scored_model(model_folder, recommended_score=0.0)
    command = f"predict photos/*1.jpg --out found/v0.1 --model {model} {FAST}"
    assert run(command) == DONE
    assert capsys.readouterr().out.split() == ["found/v0.1/masks.json", "found/v0.1/overlays"]
    assert load_coco("found/v0.1/masks.json").images[0].file_name == "000001.jpg"
    # A file of such a name is one.
    Path("labels").write_text("{}")
    assert run(command.replace("found/v0.1", "labels")) == 2
    assert "'labels' exists" in capsys.readouterr().err


@pytest.mark.slow
def test_predictions_of_other_images_do_not_collide(
    model_folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    how = f"--model {scored_model(model_folder, recommended_score=0.0)} {FAST}"
    for pattern in ("photos/*1.jpg", "photos/*2.jpg", "photos/*1.jpg"):
        assert run(f"predict {pattern} {how}") == DONE
    folders = [f"runs/predict/{name}" for name in ("photos", "photos-2", "photos-3")]
    printed = capsys.readouterr().out.splitlines()
    assert printed == [
        f"{folder}/{what}" for folder in folders for what in ("masks.json", "overlays")
    ]
    assert run(f"predict photos/*2.jpg --overwrite {how}") == DONE
    assert [one.file_name for one in load_coco(f"{folders[0]}/masks.json").images] == ["000002.jpg"]
    # What the same command began is resumed, what another one began is left.
    for images, folder in (
        ("photos/*4.jpg", folders[0]),
        ("photos/*5.jpg", "runs/predict/photos-4"),
    ):
        Path("runs/predict/photos-4").mkdir(exist_ok=True)
        begun = {"images": ["photos/*5.jpg"], "model": str(how.split()[1])}
        head = head_path(Path("runs/predict/photos-4/masks.json"))
        head.parent.mkdir(exist_ok=True)
        head.write_text(json.dumps(begun))
        capsys.readouterr()
        assert run(f"predict {images} {how}") == DONE
        wanted = "runs/predict/photos-5" if images == "photos/*4.jpg" else folder
        assert capsys.readouterr().out.startswith(f"{wanted}/masks.json")


def test_an_output_that_is_there_is_reported_before_the_model_is_loaded(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def load(*arguments: object, **options: object) -> None:
        raise AssertionError("loaded")

    monkeypatch.setattr("soloist.api.labelling.load", load)
    Path("there.json").write_text("{}")
    assert run("predict photos --out there.json") == USER_ERROR
    assert "'there.json' exists; add --overwrite" in capsys.readouterr().err
