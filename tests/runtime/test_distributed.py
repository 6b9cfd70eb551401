from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import torch
import yaml
from safetensors import safe_open

from soloist.checkpoints.files import load_state, load_tensors
from soloist.config import Config
from soloist.config.presets import load_config
from soloist.data.coco.read import load_coco
from soloist.data.sources import find_images
from soloist.errors import ConfigError
from soloist.inference.label import LabelSummary, label_images
from soloist.inference.merge import merge_shards
from soloist.inference.output_file import errors_beside
from soloist.proposals.extract import FreeMaskExtractor
from soloist.runtime.device import Runtime
from soloist.runtime.distributed import (
    all_reduce_max,
    all_reduce_sum,
    gather,
    gather_rare,
    gather_rows,
    is_main,
    join,
    mean,
    on_main,
    rank_slice,
    run_on_all_ranks,
)
from soloist.training.run_folder import RunFolder, open_run, read_metrics
from soloist.training.train import StepPlan, train

# Few: rounding differs with the size of a process's batch, and grows by the step until a maximum
# moves to another pixel, on some processors after seven steps. From there on two right runs differ.
STEPS = 6
RUNTIME = Runtime(device=torch.device("cpu"), precision="fp32")
WORKER = Path(__file__).with_name("two_processes.py")
# Above what a busy machine needs; a run that hangs ends here.
LONGEST = 600


def launch(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
    """Runs a Python program in two processes that know of each other."""
    launcher = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    source = str(Path(__file__).parents[2] / "src")
    with subprocess.Popen(
        [sys.executable, *launcher, *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": source},
    ) as process:
        try:
            out, err = process.communicate(timeout=LONGEST)
        except subprocess.TimeoutExpired:
            # Not killed: the launcher is to end its processes.
            process.terminate()
            raise
    return subprocess.CompletedProcess(process.args, process.returncode, out, err)


# One process


def test_alone_everything_is_what_it_was() -> None:
    values = torch.tensor([1.0, 2.0])
    join(torch.device("cpu"))
    assert not torch.distributed.is_initialized()
    assert is_main()
    assert all_reduce_sum(values) is values
    assert gather_rows(values) is values
    assert torch.equal(mean(values), values)
    assert gather((1, 2)) == gather_rare((1, 2)) == all_reduce_max((1, 2)) == [1, 2]
    assert rank_slice(5, "train.batch_size") == range(5)
    assert on_main(lambda: 3) == run_on_all_ranks(lambda: 3) == 3


def test_alone_errors_pass_through() -> None:
    def fail() -> None:
        raise ConfigError("wrong")

    with pytest.raises(ConfigError, match="wrong"):
        on_main(fail)
    with pytest.raises(ConfigError, match="wrong"):
        run_on_all_ranks(fail)


# Two processes


class Launched(NamedTuple):
    """What two processes left.

    Attributes:
        folder: Where.
        facts: What they saw, see `two_processes.py`.
        config: Their options.
        scenes: Their images.
    """

    folder: Path
    facts: dict[str, Any]
    config: Config
    scenes: Path


@pytest.fixture(scope="module")
def two(
    tmp_path_factory: pytest.TempPathFactory, scenes: Path, tiny_defaults: Mapping[str, Any]
) -> Launched:
    """Everything two processes do in these tests, by one launch."""
    folder = tmp_path_factory.mktemp("two")
    options = {
        **tiny_defaults,
        # Views of different sizes: what one process pads depends on the other.
        "augment": {**tiny_defaults["augment"], "crop_size": 0},
        "train": {
            **tiny_defaults["train"],
            "steps": STEPS,
            "batch_size": 4,
            "freeze_norm": True,
            # At larger rates, and with AdamW, rounding grows sooner.
            "optimizer": "sgd",
            "learning_rate": 0.002,
            "ema_decay": 0.9,
            "checkpoint_every": 3,
        },
    }
    (folder / "tiny.yaml").write_text(yaml.safe_dump(options), encoding="utf-8")
    shutil.copytree(scenes / "images", folder / "images")
    (folder / "images" / "000002.jpg").write_text("no image")
    config = load_config("tiny", folder / "tiny.yaml")
    # One process began a file, and was killed after three images.
    with pytest.raises(KeyboardInterrupt):
        label(folder / "begun.json", folder, config, images_until_killed=3)
    # It finished another, of fewer images.
    label(folder / "kept.json", folder, config, first=4)
    done = launch(WORKER, folder, scenes)
    assert done.returncode == 0, done.stderr
    facts = json.loads((folder / "facts.json").read_text(encoding="utf-8"))
    return Launched(folder, facts, config, scenes)


def label(
    out: Path, folder: Path, config: Config, *, first: int = 100, images_until_killed: int = 100
) -> LabelSummary:
    """Labels the first of the folder's images on this one process."""

    def count(*_: object) -> None:
        nonlocal images_until_killed
        images_until_killed -= 1
        if images_until_killed == 0:
            raise KeyboardInterrupt

    return label_images(
        find_images(folder / "images")[:first],
        FreeMaskExtractor(config, RUNTIME),
        out,
        title="masks",
        short_side=config.extract.short_side,
        settings={"by": "test"},
        errors=errors_beside(out, overwrite=False),
        on_result=count,
    )


@pytest.fixture(scope="module")
def one(tmp_path_factory: pytest.TempPathFactory, two: Launched) -> RunFolder:
    """The training of the two processes on one."""
    path = tmp_path_factory.mktemp("one") / "run"
    threads = torch.get_num_threads()
    # As many as each of the two has: more of them add up in another order.
    torch.set_num_threads(1)
    try:
        with open_run(path, command="train", inputs={}, config=two.config, overwrite=False) as run:
            train(
                find_images(two.scenes / "images"),
                load_coco(two.scenes / "annotations.json"),
                run,
                two.config,
                RUNTIME,
                model_folder=run.model,
            )
    finally:
        torch.set_num_threads(threads)
    return run


def test_losses_and_weights_equal_those_of_one_process(two: Launched, one: RunFolder) -> None:
    expected = read_metrics(one.path / "metrics.jsonl")
    rows = read_metrics(two.folder / "train" / "metrics.jsonl")
    assert [row["step"] for row in rows] == list(range(1, STEPS + 1))
    for row, wanted in zip(rows, expected, strict=True):
        assert row.keys() == wanted.keys()
        for name in row.keys() - {"seconds_per_step"}:
            assert row[name] == pytest.approx(wanted[name], rel=1e-5), (name, row["step"])
    weights = load_tensors(two.folder / "train" / "model" / "model.safetensors")
    for name, tensor in load_tensors(one.model / "model.safetensors").items():
        torch.testing.assert_close(weights[name], tensor, rtol=2e-3, atol=1e-5, msg=name)


def test_a_checkpoint_of_two_processes_is_one_of_one_process(two: Launched, one: RunFolder) -> None:
    states = [
        load_state(path / "checkpoints" / "round-0.pt") for path in (two.folder / "train", one.path)
    ]
    assert states[0]["step"] == states[1]["step"] == STEPS
    for part in ("model", "average"):
        for name, tensor in states[1][part].items():
            torch.testing.assert_close(
                states[0][part][name], tensor, rtol=1e-4, atol=1e-6, msg=name
            )


def test_the_main_process_alone_writes(two: Launched) -> None:
    run = two.folder / "train"
    log = (run / "run.log").read_text(encoding="utf-8")
    assert log.count("images have masks") == 1
    assert not [path for path in two.folder.rglob(".*")]
    assert [path.name for path in two.folder.rglob("*.partial*")] == ["cut.partial"]
    assert json.loads((run / "state.json").read_text())["finished"] is True


def test_processes_know_of_each_other(two: Launched) -> None:
    assert two.facts["processes"] == 2
    assert two.facts["runtime"] == ["cpu, fp32, 1 threads in each of 2 processes"] * 2


@pytest.mark.parametrize(
    ("trouble", "message"),
    [
        pytest.param("finished", "RunError: .* holds a finished `train` run", id="main-alone"),
        pytest.param("not finite", "TrainingError: loss_semantic is not finite", id="one-loss"),
        pytest.param("failed alone", "ConfigError: the second process fails", id="second-alone"),
        pytest.param("uneven", "ConfigError: train.batch_size must be a multiple", id="uneven"),
    ],
)
def test_an_error_of_one_process_ends_both(two: Launched, trouble: str, message: str) -> None:
    first, second = two.facts[trouble]
    assert first == second
    assert re.match(message, first)


def test_a_process_asked_to_stop_stops_both(two: Launched) -> None:
    first, second = two.facts["stopped"]
    assert first == second
    assert first.startswith("StoppedError: stopped")
    state = load_state(two.folder / "stopped" / "checkpoints" / "round-0.pt")
    assert state["step"] == 1


def test_a_bad_step_of_one_process_is_left_out_by_both(two: Launched) -> None:
    assert two.facts["one bad step"] == ["nothing", "nothing"]
    run = two.folder / "bad"
    assert load_state(run / "checkpoints" / "round-0.pt")["bad_steps"]["skipped"] == 1
    with safe_open(run / "bad_batch.safetensors", "pt") as file:
        facts = json.loads(file.metadata()["soloist"])
    assert (facts["step"], facts["process"]) == (1, 1)


@pytest.mark.parametrize("name", ["masks", "begun", "kept"])
def test_labels_equal_those_of_one_process(tmp_path: Path, two: Launched, name: str) -> None:
    """From the start, after a run of one process that was killed, and where images are new."""
    summary = label(tmp_path / f"{name}.json", two.folder, two.config)
    for file in (f"{name}.json", f"{name}.embeddings.npy", f"{name}.errors.jsonl"):
        assert (two.folder / file).read_bytes() == (tmp_path / file).read_bytes()
    expected = [[summary.images, summary.instances, 1, 1]] * 2
    assert (summary.images, summary.failed) == (5, 1)
    assert two.facts["labels"] == expected


def test_one_process_resumes_what_two_left(tmp_path: Path, two: Launched) -> None:
    # All of the first process; of the second the image that is none and one before its failure.
    assert len(list(two.folder.glob("cut.partial/*.rows"))) == 5
    label(two.folder / "cut.json", two.folder, two.config)
    label(tmp_path / "cut.json", two.folder, two.config)
    for file in ("cut.json", "cut.embeddings.npy"):
        assert (two.folder / file).read_bytes() == (tmp_path / file).read_bytes()
    assert not list(two.folder.glob("*.partial*"))


def test_merged_shards_equal_the_labels_of_one_process(tmp_path: Path, two: Launched) -> None:
    summary = label(tmp_path / "masks.json", two.folder, two.config)
    expected = [[summary.images, summary.instances, summary.failed]] * 2
    assert two.facts["shards"] == expected
    merge_shards(two.folder / "shards", tmp_path / "merged" / "masks.json")
    for file in ("masks.json", "masks.embeddings.npy"):
        assert (tmp_path / "merged" / file).read_bytes() == (tmp_path / file).read_bytes()


def test_pretraining_leaves_equal_weights_and_queues_everywhere(two: Launched) -> None:
    first, second = two.facts["pretrained"]
    assert {"image_queue", "cell_queue", "queue_position"} < first.keys()
    assert first == second
    rows = read_metrics(two.folder / "pretrain" / "metrics.jsonl")
    assert [row["step"] for row in rows] == [1, 2, 3, 4]
    assert (two.folder / "pretrain" / "model" / "backbone.safetensors").is_file()


def test_keys_and_queues_are_those_of_one_process(two: Launched) -> None:
    for differences in two.facts["densecl"]:
        assert differences.keys() > {"loss_global", "loss_dense", "image_queue", "cell_queue"}
        assert max(differences.values()) < 1e-4, differences


# The command


@pytest.mark.slow
def test_fit_by_torchrun(tmp_path: Path, scenes: Path, tiny_defaults: Mapping[str, Any]) -> None:
    """All stages, with steps planned by the main process, and each thing logged once."""
    sure_of_all = {
        "inference": {"category_threshold": 0.0, "score_threshold": 0.0},
        "self_training": {"score_threshold": 0.0, "max_per_image": 3, "max_box_width": 2.0},
    }
    options = tmp_path / "tiny.yaml"
    train = {**tiny_defaults["train"], "steps": 50}
    content = {**tiny_defaults, **sure_of_all, "train": train}
    options.write_text(yaml.safe_dump(content), encoding="utf-8")
    truth = scenes / "annotations.json"
    command: list[str | Path] = ["-m", "soloist", "fit", scenes / "images", "--gt", truth]
    command += [
        "--out",
        tmp_path / "run",
        "--config",
        options,
        "--budget",
        "1s",
        "--preset",
        "tiny",
    ]
    done = launch(*command, "--device", "cpu", "--precision", "fp32")
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("report:") == done.stdout.count("class-agnostic") == 1
    run = tmp_path / "run"
    results = json.loads((run / "results.json").read_text(encoding="utf-8"))
    assert list(results) == ["free_masks", "segmenter", "self_trained"]
    rows = read_metrics(run / "metrics.jsonl")
    planned = StepPlan.LEAST
    assert [(row["round"], row["step"]) for row in rows] == [
        (number, step) for number in (0, 1) for step in range(1, planned + 1)
    ]
    for text in (done.stderr, (run / "run.log").read_text(encoding="utf-8")):
        assert text.count("free masks: ") == text.count("pseudo-labels: ") == 1
        assert text.count(f"planned {planned} steps") == 2
    assert (run / "model" / "model.safetensors").is_file()
    assert not list(run.rglob("*.partial*"))
