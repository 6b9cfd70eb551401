"""A tiny clip of two squares that cross, written and read by PyAV."""

from __future__ import annotations

import json
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from tests.conftest import KilledAt

from soloist.cli import run_command
from soloist.cli.runs import DONE, SOME_FAILED, USER_ERROR
from soloist.config import ReadingConfig, TrackConfig
from soloist.data.coco.read import load_coco
from soloist.data.coco.types import CocoAnnotation, CocoFile
from soloist.errors import DataError
from soloist.inference.label import LabelSummary
from soloist.inference.video.label import label_video
from soloist.inference.video.tracking import Linker
from soloist.ops.masks import masks_to_boxes
from soloist.runtime.error_log import ErrorLog
from soloist.structures import Instances

pytest.importorskip("av")
from soloist.inference.video.files import VideoFacts, VideoReader, VideoWriter  # needs it

SIZE = (64, 128)
FRAMES = 16
RED, BLUE = (250, 10, 10), (10, 10, 250)
Pixels = NDArray[np.uint8]


def image(step: int) -> Pixels:
    """A red square that goes right, and over a blue one that goes left a little lower."""
    pixels = np.full((*SIZE, 3), 120, dtype=np.uint8)
    blue, red = 100 - 6 * step, 6 * step
    pixels[24:44, blue : blue + 20] = BLUE
    pixels[16:36, red : red + 20] = RED
    return pixels


def write(path: Path, frames: int = FRAMES) -> Path:
    with VideoWriter(path, Fraction(10)) as writer:
        for step in range(frames):
            writer.add(image(step))
    return path


@pytest.fixture
def clip(tmp_path: Path) -> Path:
    return write(tmp_path / "clip.mp4")


def find_colours(pixels: Pixels, size: tuple[int, int]) -> Instances:
    """Red and blue, whichever is seen more of first, and something of a low score."""
    far = pixels.astype(int)
    masks = np.stack([far[..., 0] - far[..., 2] > 100, far[..., 2] - far[..., 0] > 100])
    masks = np.concatenate([masks, ~masks.any(axis=0, keepdims=True)])
    kept = np.flatnonzero(masks.sum(axis=(1, 2)) > 20)
    order = kept[np.argsort(-masks[kept].sum(axis=(1, 2)), kind="stable")]
    found = torch.from_numpy(masks[order])
    scores = torch.tensor([0.1 if k == 2 else 0.9 for k in order])
    embeddings = torch.eye(3)[torch.from_numpy(order)]
    return Instances(size, found, scores, masks_to_boxes(found), embeddings)


def label(clip: Path, out: Path, errors: ErrorLog | None = None, **more: Any) -> LabelSummary:
    options = {key: more.pop(key) for key in ("every", "score") if key in more}
    return label_video(
        clip,
        find_colours,
        out,
        config=TrackConfig(**options),
        reading=more.pop("reading", ReadingConfig()),
        settings={"command": "predict"},
        errors=errors or ErrorLog(None),
        **more,
    )


def identities(file: CocoFile) -> dict[str, set[int | None]]:
    """The numbers that red and blue had, by where they are at the beginning and the end."""
    found: dict[str, set[int | None]] = {"red": set(), "blue": set()}
    for image in file.images:
        step = image.id - 1
        for one in file.annotations[image.id]:
            top = one.box_xywh[1] if one.box_xywh[3] > 15 else None
            if top is not None:
                found["red" if abs(top - 16) < 4 else "blue"].add(one.outputs["track_id"])
        assert step < FRAMES
    return found


def test_frames_come_back_one_by_one(clip: Path) -> None:
    with VideoReader(clip, every=1, max_pixels=10**6) as video:
        assert video.facts == VideoFacts(FRAMES, Fraction(10))
        for step, frame in enumerate(video.frames()):
            assert (frame.number, frame.pixels.shape) == (step, (*SIZE, 3))
            assert np.abs(frame.pixels.astype(int) - image(step)).mean() < 8
    with VideoReader(clip, every=5, max_pixels=10**6) as video:
        assert [frame.number for frame in video.frames()] == [0, 5, 10, 15]


def test_identities_through_a_crossing(clip: Path, tmp_path: Path) -> None:
    drawn = tmp_path / "drawn.mp4"
    summary = label(clip, tmp_path / "masks.json", drawn=drawn)
    assert summary.images == FRAMES
    file = load_coco(tmp_path / "masks.json")
    assert [image.file_name for image in file.images[:2]] == [
        "clip.mp4/frame_000000",
        "clip.mp4/frame_000001",
    ]
    found = identities(file)
    assert all(len(numbers) == 1 for numbers in found.values()), found
    assert found["red"] != found["blue"]
    # The background's score is too low.
    assert {one.score for several in file.annotations.values() for one in several} == {0.9}
    assert file.embeddings is not None
    assert file.embeddings.shape == (len(file), 3)
    assert file.info["video"] == {"frames": FRAMES, "frames_per_second": 10.0}
    with VideoReader(drawn, every=1, max_pixels=10**6) as video:
        shown = [frame.pixels.astype(int) for frame in video.frames()]
    assert len(shown) == FRAMES
    # A steady tint: the middle of the red square at the beginning and at the end.
    first, last = shown[0][26, 10], shown[-1][26, 6 * (FRAMES - 1) + 10]
    assert np.abs(first - last).max() < 30
    assert np.abs(first - np.array(RED)).max() > 40


def test_every_nth_frame(clip: Path, tmp_path: Path) -> None:
    drawn = tmp_path / "drawn.mp4"
    assert label(clip, tmp_path / "masks.json", every=3, drawn=drawn).images == 6
    with VideoReader(drawn, every=1, max_pixels=10**6) as video:
        assert video.facts.frames == 6
        assert float(video.facts.rate) == pytest.approx(10 / 3, rel=0.01)


def test_what_comes_before_the_damage_is_kept(tmp_path: Path) -> None:
    """Bytes of a noisy clip, whose frames are of one size, are overwritten in the middle."""
    rng = np.random.default_rng(0)
    clip = tmp_path / "noise.mp4"
    with VideoWriter(clip, Fraction(10)) as writer:
        for _ in range(30):
            writer.add(rng.integers(0, 255, (*SIZE, 3), dtype=np.uint8))
    content = bytearray(clip.read_bytes())
    half = len(content) // 2
    content[half : half + len(content) // 10] = bytes(len(content) // 10)
    clip.write_bytes(content)
    errors = ErrorLog(tmp_path / "errors.jsonl")
    summary = label(clip, tmp_path / "masks.json", errors)
    assert 0 < summary.images < 20
    assert len(load_coco(tmp_path / "masks.json").images) == summary.images
    (line,) = map(json.loads, (tmp_path / "errors.jsonl").read_text().splitlines())
    assert (line["image"], line["stage"]) == ("noise.mp4", "predict")
    assert "cannot read or write the video" in line["error"]


def test_fewer_frames_than_promised_are_reported(
    clip: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with VideoReader(clip, every=1, max_pixels=10**6) as video:
        monkeypatch.setattr(video, "facts", VideoFacts(FRAMES + 4, Fraction(10)))
        with pytest.raises(DataError, match="ends after 16 of 20 frames; what was read is kept"):
            list(video.frames())


@pytest.mark.parametrize(
    ("content", "message"),
    [
        pytest.param(b"", "cannot read or write the video", id="empty"),
        pytest.param(b"no video at all " * 50, "cannot read or write the video", id="text"),
    ],
)
def test_what_is_no_video_is_reported_in_one_line(
    tmp_path: Path, content: bytes, message: str
) -> None:
    (tmp_path / "a.mp4").write_bytes(content)
    with pytest.raises(DataError, match=message) as caught:
        label(tmp_path / "a.mp4", tmp_path / "masks.json")
    assert "\n" not in str(caught.value)


def test_large_frames_are_refused(clip: Path, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"at most 100 pixels, got .*128 x 64; raise --max-pixels"):
        label(clip, tmp_path / "masks.json", reading=ReadingConfig(max_pixels=100))


def test_after_a_kill_it_starts_over(clip: Path, tmp_path: Path, killed_at: KilledAt) -> None:
    out = tmp_path / "masks.json"
    with killed_at(Linker, "__call__", 5):
        label(clip, out, drawn=tmp_path / "drawn.mp4")
    assert not out.exists()
    assert not (tmp_path / "drawn.mp4").exists()
    assert label(clip, out).images == FRAMES
    assert not list(tmp_path.glob("*partial*"))


# The command


def test_the_command_segments_a_video(
    clip: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, model_folder: Path
) -> None:
    monkeypatch.chdir(tmp_path)
    how = f"--model {model_folder} --device cpu --precision fp32"
    command = f"predict clip.mp4 --out masks.json --every 4 --track-score 0 {how}"
    assert run_command(f"{command} --overlay-video drawn.mp4".split()) == DONE
    file = load_coco(tmp_path / "masks.json")
    assert len(file.images) == 4
    assert (file.info["track"]["every"], file.info["command"]) == (4, "predict")
    several: list[tuple[CocoAnnotation, ...]] = list(file.annotations.values())
    assert all(len({one.outputs["track_id"] for one in each}) == len(each) for each in several)
    assert (tmp_path / "drawn.mp4").stat().st_size > 0
    assert run_command(["convert", "masks.json", "--format", "coco", "--out", "coco"]) == DONE
    kept = load_coco(tmp_path / "coco" / "annotations" / "instances_default.json")
    assert [one.outputs["track_id"] for each in kept.annotations.values() for one in each] == [
        one.outputs["track_id"] for each in several for one in each
    ]


def test_a_damaged_video_ends_with_one(
    clip: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, model_folder: Path
) -> None:
    monkeypatch.chdir(tmp_path)

    def one_frame(self: VideoReader) -> Any:
        yield from [next(frames(self))]
        raise DataError("it is damaged here")

    frames = VideoReader.frames
    monkeypatch.setattr(VideoReader, "frames", one_frame)
    how = f"--model {model_folder} --device cpu --precision fp32"
    assert run_command(f"predict clip.mp4 --out masks.json {how}".split()) == SOME_FAILED
    assert "it is damaged here" in (tmp_path / "masks.errors.jsonl").read_text()


@pytest.mark.parametrize(
    ("command", "message"),
    [
        pytest.param("a.mp4 b.mp4", "wanted a single video, got 2 sources", id="two"),
        pytest.param("a.mp4 --overlays o", "--overlays is for images, not", id="overlays"),
        pytest.param("a.mp4 --shard-size 5", "--shard-size is for images", id="shards"),
        pytest.param("a.png --overlay-video o.mp4", "--overlay-video is for a video", id="drawn"),
        pytest.param("a.png --every 5", "--every is for a video, such as clip.mp4", id="every"),
        pytest.param("absent.mp4", "No such file", id="absent"),
    ],
)  # fmt: skip
def test_a_mistake_ends_in_one_line(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    command: str,
    message: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    assert run_command(["predict", *command.split(), "--out", "masks.json"]) == USER_ERROR
    err = capsys.readouterr().err
    assert message in err
    assert err.count("\n") == 1
    assert not (tmp_path / "masks.json").exists()


def test_an_absent_package_is_reported_with_its_remedy(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("soloist.errors.find_spec", lambda name: None)
    assert run_command(["predict", "a.mp4", "--out", "masks.json"]) == USER_ERROR
    assert capsys.readouterr().err.endswith(
        "needs av; pip install '.[video]' in Soloist's folder\n"
    )
