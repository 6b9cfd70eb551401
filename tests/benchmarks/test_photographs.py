"""The benchmark on photographs, on a few drawn discs whose masks are known."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from benchmarks.photographs import command as bench
from benchmarks.photographs import entries, rows, sets, tables
from benchmarks.photographs.baselines import felzenszwalb, otsu_watershed
from benchmarks.photographs.proposals import Proposals
from benchmarks.photographs.scores import score
from benchmarks.quality.errors import Overlap
from numpy.typing import NDArray
from PIL import Image

from soloist.config.presets import load_config
from soloist.data.coco.read import load_coco
from soloist.data.coco.rle import encode_masks
from soloist.data.coco.types import CocoFile, CocoImage
from soloist.data.coco.write import write_coco
from soloist.data.images import read_with_size
from soloist.data.sources import ImageRef, find_images
from soloist.errors import ConfigError, DataError
from soloist.evaluation.coco_backends import Backend
from soloist.evaluation.evaluate import evaluate
from soloist.inference.segmenter import load
from soloist.proposals.extract import FreeMaskExtractor
from soloist.runtime.device import choose_runtime

SIZE = (96, 128)
CENTRES = ((25, 30), (30, 90), (70, 60))
RADIUS = 12
NAMES = ("a.png", "b.png", "c.png")
FIGURES = {
    *("ap", "ap50", "ap75", "ap_s", "ap_m", "ap_l", "ar10", "ar100", "ar1000"),
    *("ap_1000", "ap50_1000", "precision_shown", "recall_shown", "calibration_error"),
}
ROW = {
    *("entry", "set", "commit", "changes", "options", "images", "of", "objects"),
    *("figures", "objects_by_kind", "masks_by_kind", "masks", "masks_shown"),
    *("seconds_per_image", "base_mb", "peak_mb", "date", "machine", "versions"),
}


def disc(y: int, x: int, radius: int = RADIUS) -> NDArray[np.bool_]:
    rows, columns = np.ogrid[: SIZE[0], : SIZE[1]]
    return np.asarray((rows - y) ** 2 + (columns - x) ** 2 <= radius**2)


def discs() -> NDArray[np.bool_]:
    return np.array([disc(y, x) for y, x in CENTRES])


def scene(disc_grey: int, ground: int) -> NDArray[np.uint8]:
    pixels = np.full((*SIZE, 3), ground, dtype=np.uint8)
    pixels[discs().any(axis=0)] = disc_grey
    return pixels


def records(masks: NDArray[np.bool_], image_id: int, first: int, **more: Any) -> list[Any]:
    return [
        {"id": first + row, "image_id": image_id, "category_id": 1, "segmentation": rle} | more
        for row, rle in enumerate(encode_masks(masks))
    ]


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    """A set of three images with three discs each."""
    folder = tmp_path / "photos" / "discs"
    (folder / "images").mkdir(parents=True)
    annotations = []
    for number, name in enumerate(NAMES):
        Image.fromarray(scene(200, 40)).save(folder / "images" / name)
        annotations += records(discs(), 7 + number, 1 + 3 * number)
    images = [CocoImage(7 + number, name, *SIZE) for number, name in enumerate(NAMES)]
    write_coco(folder / sets.ANNOTATIONS, images, annotations)
    return folder


def perfect(image: ImageRef) -> Proposals:
    return Proposals.of(discs(), np.array([0.9, 0.8, 0.7], dtype=np.float32))


def nothing(image: ImageRef) -> Proposals:
    return Proposals.of(np.zeros((0, *SIZE), dtype=np.bool_), np.zeros(0, dtype=np.float32))


@pytest.fixture
def own_entries(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Entries `perfect` and `nothing`, measured in this process; what was measured."""
    proposers = {**entries.PROPOSERS, "perfect": lambda: perfect, "nothing": lambda: nothing}
    monkeypatch.setattr(entries, "PROPOSERS", proposers)
    monkeypatch.setattr(rows, "code_version", lambda: {"commit": "abc", "changes": ""})
    monkeypatch.setattr(bench, "code_version", rows.code_version)
    measured: list[str] = []

    def in_this_process(task: dict[str, Any], threads: int) -> dict[str, Any]:
        measured.append(task["entry"])
        return bench.measured_row(json.loads(json.dumps(task)))

    monkeypatch.setattr(bench, "_in_a_process", in_this_process)
    return measured


def run(*names: str, photos: Path, out: Path, **options: Any) -> int:
    return bench.main(*names, sets=(str(photos),), out=out, **options)


def test_perfect_masks_have_all_and_no_masks_have_nothing(
    photos: Path, tmp_path: Path, own_entries: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "rows.jsonl"
    assert run("perfect", "nothing", photos=photos, out=out) == 0
    best, none = rows.read_rows(out)
    assert best.keys() == none.keys() == ROW
    assert best["figures"].keys() == none["figures"].keys() == FIGURES
    assert {key: value for key, value in best["figures"].items() if value != 1} == {
        "ap_m": None,
        "ap_l": None,
        # Its scores are from 0.5 to 0.9.
        "calibration_error": pytest.approx(0.2),
    }
    assert best["objects_by_kind"] == {"found": 9}
    assert best["masks_by_kind"] == {"right": 9}
    assert (best["images"], best["of"], best["objects"]) == (3, 3, 9)
    assert (best["masks"], best["masks_shown"]) == (9, 9)
    assert best["seconds_per_image"] > 0
    assert best["peak_mb"] > 0
    assert none["figures"]["ap50"] == none["figures"]["ar1000"] == 0
    assert none["figures"]["precision_shown"] is None
    assert none["objects_by_kind"] == {"missed": 9}
    assert none["masks"] == 0
    printed = capsys.readouterr().out
    assert "### discs: 3 images, 9 objects" in printed
    assert "| `perfect` | 100.0 | 100.0 | 100.0 | 100.0 | – | – |" in printed
    assert "| `nothing` | 0.0 | 0.0 | 0.0 | 0.0 | – | – |" in printed


def test_what_is_measured_is_not_measured_again(
    photos: Path, tmp_path: Path, own_entries: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "rows.jsonl"
    run("perfect", photos=photos, out=out)
    first = capsys.readouterr().out
    run("perfect", photos=photos, out=out)
    assert own_entries == ["perfect"]
    assert capsys.readouterr().out == first
    run("perfect", "nothing", photos=photos, out=out)
    assert own_entries == ["perfect", "nothing"]
    run("perfect", photos=photos, out=out, again=True)
    run("perfect", photos=photos, out=out, limit=2)
    assert own_entries[2:] == ["perfect", "perfect"]
    assert [row["images"] for row in rows.read_rows(out)] == [3, 3, 3, 2]
    assert "2 of 3 images, drawn evenly" in capsys.readouterr().out
    # Other true masks are another measurement.
    file = photos / sets.ANNOTATIONS
    file.write_text(file.read_text() + "\n")
    run("perfect", photos=photos, out=out)
    assert own_entries[4:] == ["perfect"]


def test_other_code_is_measured_anew(
    photos: Path, tmp_path: Path, own_entries: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "rows.jsonl"
    run("perfect", photos=photos, out=out)
    for version in ({"commit": "abc+", "changes": "1"}, {"commit": "abc+", "changes": "2"}):
        monkeypatch.setattr(bench, "code_version", lambda version=version: version)
        run("perfect", photos=photos, out=out)
    assert [row["changes"] for row in rows.read_rows(out)] == ["", "1", "2"]


def test_a_missing_sheet_is_drawn_though_the_row_is_there(
    photos: Path, tmp_path: Path, own_entries: list[str]
) -> None:
    out, folder = tmp_path / "rows.jsonl", tmp_path / "sheets"
    run("nothing", photos=photos, out=out)
    run("nothing", photos=photos, out=out, sheets=folder, keep=tmp_path / "masks")
    with Image.open(folder / "discs-nothing.jpg") as sheet:
        assert sheet.width == 4 * 326 + 6
    assert len(load_coco(tmp_path / "masks" / "discs" / "nothing.json").images) == 3
    run("nothing", photos=photos, out=out, sheets=folder)
    assert len(own_entries) == 2


def test_a_sheet_shows_true_masks_and_found_ones(
    photos: Path, tmp_path: Path, own_entries: list[str]
) -> None:
    out = tmp_path / "rows.jsonl"
    for name in ("perfect", "nothing"):
        run(name, photos=photos, out=out, sheets=tmp_path)
    images = []
    for name in ("perfect", "nothing"):
        with Image.open(tmp_path / f"discs-{name}.jpg") as sheet:
            images.append(np.asarray(sheet).astype(int))
    # Centre of the first disc of the first image: image, true, best, shown.
    top = 48
    colours = np.array(
        [[one[top + 25, 6 + 326 * column + 30] for column in range(4)] for one in images]
    )
    grey = np.ptp(colours, axis=2) < 20  # (2, 4)
    assert grey.tolist() == [[True, False, False, False], [True, False, True, True]]


@pytest.mark.parametrize("kind", ["ids", "names", "path"])
def test_results_of_others_are_matched(
    kind: str, photos: Path, tmp_path: Path, own_entries: list[str]
) -> None:
    out, file = tmp_path / "rows.jsonl", tmp_path / "theirs.json"
    other = tmp_path / "photos" / "others"
    (other / "images").mkdir(parents=True)
    Image.fromarray(scene(200, 40)).save(other / "images" / "other.png")
    write_coco(
        other / sets.ANNOTATIONS, [CocoImage(70, "other.png", *SIZE)], records(discs(), 70, 1)
    )
    if kind == "ids":
        found = [one for number in range(3) for one in records(discs(), 7 + number, 1, score=0.5)]
        file.write_text(json.dumps(found))
    else:
        # Other ids, in another order, with folders.
        prefix = "images/" if kind == "path" else ""
        images = [CocoImage(3 - n, f"{prefix}{name}", *SIZE) for n, name in enumerate(NAMES)]
        found = [one for image in images for one in records(discs(), image.id, 1, score=0.5)]
        write_coco(file, images, [{**one, "id": n} for n, one in enumerate(found, start=1)])
    code = bench.main(f"results:{file}", sets=(str(other), str(photos)), out=out)
    assert code == 0
    (row,) = rows.read_rows(out)
    assert row["set"] == "discs"
    assert row["figures"]["ap"] == 1
    assert row["seconds_per_image"] is row["peak_mb"] is None
    assert row["options"]["digests"][0] == entries.digest(file)


def test_results_that_fit_no_set_or_two(photos: Path, tmp_path: Path) -> None:
    file = tmp_path / "theirs.json"
    file.write_text(json.dumps(records(discs(), 99, 1, score=0.5)))
    with pytest.raises(DataError, match=r"fits none.*image_id 99"):
        sets.fitting_set(file, [photos])
    file.write_text(json.dumps(records(discs(), 7, 1, score=0.5)))
    with pytest.raises(DataError, match="fits discs and discs; name the set by --sets"):
        sets.fitting_set(file, [photos, photos])


@pytest.mark.parametrize(
    ("disc_grey", "ground"), [pytest.param(220, 30, id="bright"), pytest.param(30, 220, id="dark")]
)
@pytest.mark.parametrize("find", [otsu_watershed, felzenszwalb])
def test_baselines_find_discs_of_either_polarity(find: Any, disc_grey: int, ground: int) -> None:
    found = find(scene(disc_grey, ground))
    rles = list(found.masks.rles)
    # Felzenszwalb's segmentations make segments of blurred outlines too, which score better.
    best, least = (rles[:3], 0.9) if find is otsu_watershed else (rles, 0.75)
    assert (np.diff(found.scores) <= 0).all()
    assert (found.scores >= 0).all()
    assert (found.scores <= 1).all()
    overlap = Overlap.of(encode_masks(discs()), best)
    assert (overlap.iou.max(axis=1) > least).all()


def test_touching_discs_are_parted() -> None:
    pixels = np.full((*SIZE, 3), 20, dtype=np.uint8)
    # Of different sizes: half-way between the peaks is not where they touch.
    pair = np.array([disc(40, 40, 22), disc(40, 69, 9)])
    pixels[pair.any(axis=0)] = 200
    found = otsu_watershed(pixels)
    assert len(found.masks) == 2
    assert (Overlap.of(encode_masks(pair), list(found.masks.rles)).iou.max(axis=1) > 0.8).all()


@pytest.mark.parametrize("find", [otsu_watershed, felzenszwalb])
def test_baselines_take_an_even_image(find: Any) -> None:
    found = find(np.full((*SIZE, 3), 90, dtype=np.uint8))
    assert found.masks.shape[1:] == SIZE
    assert (found.scores == 0).all()


def truth_and_found(
    folder: Path, masks: Sequence[tuple[NDArray[np.bool_], float]], **crowd: NDArray[np.bool_]
) -> tuple[CocoFile, CocoFile]:
    image = CocoImage(1, "a.png", *SIZE)
    true = records(discs(), 1, 1)
    for mask in crowd.values():
        true += records(mask[None], 1, 50, iscrowd=1)
    write_coco(folder / "truth.json", [image], true)
    found = [
        one
        for number, (mask, value) in enumerate(masks, start=1)
        for one in records(mask[None], 1, number, score=value)
    ]
    write_coco(folder / "found.json", [image], found)
    return load_coco(folder / "truth.json"), load_coco(folder / "found.json")


@pytest.mark.parametrize("backend", ["pycocotools", "faster-coco-eval"])
def test_one_matching_gives_what_the_evaluator_gives_for_each_limit(
    backend: Backend, tmp_path: Path
) -> None:
    if backend == "faster-coco-eval":
        pytest.importorskip("faster_coco_eval")
    # 150 wrong masks before the right ones: found among 1,000, not among 100.
    rng = np.random.default_rng(0)
    wrong = [(disc(*rng.integers(0, SIZE)) & ~discs()[0], 0.9 - n / 1000) for n in range(150)]
    right = [(mask, 0.1 - n / 100) for n, mask in enumerate(discs())]
    truth, found = truth_and_found(tmp_path, [*wrong, *right])
    own = score(found, truth, backend=backend)["figures"]
    for limit, suffix in ((100, ""), (1000, "_1000")):
        theirs = evaluate(found, truth, max_dets=limit, backend="pycocotools")
        for name in ("ap", "ap50"):
            assert own[name + suffix] == theirs[f"mask_{name}"], name
        assert own[f"ar{limit}"] == theirs[f"mask_ar{limit}"]
    assert own["ar1000"] == 1
    assert own["ar100"] < own["ar1000"]


def test_precision_is_that_of_the_masks_shown(tmp_path: Path) -> None:
    empty = np.zeros(SIZE, dtype=np.bool_)
    empty[-8:, -8:] = True
    truth, found = truth_and_found(
        tmp_path, [(disc(*CENTRES[0]), 0.9), (empty, 0.8), (disc(*CENTRES[1]), 0.3)]
    )
    scored = score(found, truth, shown={1, 2})
    assert scored["figures"]["precision_shown"] == 1 / 2
    assert scored["figures"]["recall_shown"] == 1 / 3
    assert (scored["masks"], scored["masks_shown"]) == (3, 2)
    # Two are right, as 0.9 and 0.3 nearly say and nearly do not; the third is not.
    assert scored["figures"]["calibration_error"] == pytest.approx((0.1 + 0.8 + 0.7) / 3)
    # The kinds are of all masks.
    assert scored["objects_by_kind"] == {"found": 2, "missed": 1}


def test_masks_in_a_crowd_do_not_count(tmp_path: Path) -> None:
    crowd = np.zeros(SIZE, dtype=np.bool_)
    crowd[60:, 90:] = True
    inside = np.zeros(SIZE, dtype=np.bool_)
    inside[70:80, 95:105] = True
    masks = [(mask, 0.5) for mask in discs()]
    truth, found = truth_and_found(tmp_path, [(inside, 0.9), *masks], crowd=crowd)
    scored = score(found, truth)
    assert scored["figures"]["ap"] == scored["figures"]["precision_shown"] == 1
    assert scored["masks_by_kind"] == {"right": 3}
    assert scored["objects_by_kind"] == {"found": 3}


def test_kinds_of_many_masks() -> None:
    # pycocotools counts areas of up to 255 masks at a time.
    many = encode_masks(np.repeat(disc(30, 30)[None], 300, axis=0))
    overlap = Overlap.of(many[:1], many)
    np.testing.assert_allclose(overlap.of_mask, np.ones((1, 300)))


@pytest.mark.slow
def test_shown_coarse_masks_are_those_of_the_preset(scenes: Path) -> None:
    config = load_config("soloist")
    extract, propose = FreeMaskExtractor(config, choose_runtime()), entries.coarse_masks("soloist")
    hidden = 0
    for image in find_images(scenes / "images"):
        found = propose(image)
        pixels, size = read_with_size(image.path, short_side=config.extract.short_side)
        default = extract(pixels, size)
        shown = [rle for rle, seen in zip(found.masks.rles, found.shown, strict=True) if seen]
        assert shown == encode_masks(default.masks)
        assert len(shown) > 0
        np.testing.assert_allclose(found.scores[found.shown], default.scores.numpy(), rtol=1e-6)
        hidden += int((~found.shown).sum())
    assert hidden > 0


@pytest.mark.slow
def test_a_model_folder_is_an_entry(
    photos: Path, tmp_path: Path, model_folder: Path, own_entries: list[str]
) -> None:
    out = tmp_path / "rows.jsonl"
    assert run(str(model_folder), photos=photos, out=out) == 0
    (row,) = rows.read_rows(out)
    image = ImageRef(photos / "images" / "a.png", "a.png")
    assert row["masks"] == 3 * len(load(model_folder).predict_file(image)) > 0
    assert row["options"]["digests"][0]


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("bundeld", "no entry named 'bundeld'; did you mean bundled"),
        ("preset:solist", "no preset named 'solist'; did you mean soloist"),
        ("results:absent.json", "no file 'absent.json'"),
    ],
)
def test_an_unknown_entry_is_said_in_one_line(
    name: str, message: str, photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(name, photos=photos, out=tmp_path / "rows.jsonl") == 2
    printed = capsys.readouterr().err.strip()
    assert message in printed
    assert "\n" not in printed


def test_missing_photographs_are_said_with_the_remedy(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sets, "DEV", tmp_path / "dev")
    with pytest.raises(DataError, match="put shared/photos beside the checkout"):
        sets.find_sets([])
    (tmp_path / "dev" / "nuclei").mkdir(parents=True)
    (tmp_path / "dev" / "nuclei" / sets.ANNOTATIONS).touch()
    with pytest.raises(ConfigError, match="did you mean nuclei"):
        sets.find_sets(["nucli"])
    assert sets.find_sets(["nuclei"]) == sets.find_sets([]) == [tmp_path / "dev" / "nuclei"]


def test_a_missing_image_is_said(photos: Path) -> None:
    (photos / "images" / "b.png").unlink()
    with pytest.raises(DataError, match=r"1 without a file, such as 'b.png'"):
        sets.read_set(photos)
    assert [image.name for image in sets.read_set(photos, 2).images] == ["a.png", "c.png"]


@pytest.mark.parametrize(
    ("count", "wanted", "expected"),
    [(3, 5, [0, 1, 2]), (10, 1, [5]), (10, 5, [1, 3, 5, 7, 9]), (343, 2, [85, 257])],
)
def test_places_are_spread_evenly(count: int, wanted: int, expected: list[int]) -> None:
    assert sets.evenly(count, wanted) == expected


def test_a_broken_line_of_the_results_is_said(tmp_path: Path) -> None:
    (tmp_path / "rows.jsonl").write_text('{"entry": "a"}\n')
    with pytest.raises(DataError, match="none on line 1"):
        rows.read_rows(tmp_path / "rows.jsonl")


def test_published_figures_stand_in_the_table_of_coco(
    photos: Path, tmp_path: Path, own_entries: list[str]
) -> None:
    out = tmp_path / "rows.jsonl"
    run("perfect", photos=photos, out=out)
    (row,) = rows.read_rows(out)
    assert "FreeSOLO" not in tables.all_tables([row])
    both = tables.all_tables([row, {**row, "set": "coco"}])
    reported = "FreeSOLO (reported, all of val2017; arXiv 2202.12181)"
    assert f"| {reported} | 4.0 | 9.8 | – |" in both
    assert f"| {reported} | – | 9.8 / – |" in both
    assert "(reported, all of val2017; arXiv 2301.11320) | 9.7 | 18.9 | – |" in both
    assert "| `perfect` | 100.0 / 100.0 | 100.0 / 100.0 |" in both


@pytest.mark.slow
def test_an_entry_runs_in_a_process_of_its_own(photos: Path, tmp_path: Path) -> None:
    out = tmp_path / "rows.jsonl"
    assert run("otsu-watershed", photos=photos, out=out) == 0
    (row,) = rows.read_rows(out)
    assert row["figures"]["ap50"] == 1
    assert 0 < row["base_mb"] <= row["peak_mb"]
    assert row["machine"]["threads"] == row["machine"]["cores"]


@pytest.mark.slow
def test_an_entry_that_fails_is_said_and_the_rest_goes_on(
    photos: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    broken = tmp_path / "model"
    broken.mkdir()
    out = tmp_path / "rows.jsonl"
    assert run(str(broken), "otsu-watershed", photos=photos, out=out) == 1
    assert [row["entry"] for row in rows.read_rows(out)] == ["otsu-watershed"]
    assert "Traceback" not in capfd.readouterr().err
