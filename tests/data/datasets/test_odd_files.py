"""Property: whatever oddities a COCO file has, every verb takes the same of it and says the rest.

A file is drawn with sound and odd objects, ids of any kind, names as tools write them and sizes
that are nearly right. The same file without the objects that cannot be used must give the same
figures, the same objects must reach every verb, and every verb's account must name each oddity.
"""

from __future__ import annotations

import copy
import logging
import re
import tempfile
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tests.data.datasets.test_public_reports import HEIGHT, WIDTH, Content, Files, labels

from soloist.cli import run_command
from soloist.cli.runs import DONE, SOME_FAILED
from soloist.data.coco.faults import Effect, Fault, Gate
from soloist.data.coco.read import load_coco
from soloist.data.datasets.find import find_dataset
from soloist.data.datasets.frames import check_stated
from soloist.data.datasets.labels import Reading, read_labels
from soloist.data.sources import find_images
from soloist.errors import DataError
from soloist.evaluation.evaluate import measure
from soloist.training.data.masks_file import read_masks
from soloist.training.finetuning import choose_labelled


class Oddity(NamedTuple):
    """What is done to an object, and how it must be counted."""

    change: Mapping[str, Any]
    fault: Fault | None

    @property
    def is_kept(self) -> bool:
        return self.fault is None or self.fault.effect is not Effect.LEFT_OUT


ODDITIES = [
    Oddity(change, fault)
    for change, fault in (
        ({"segmentation": [], "bbox": [0, 0, 0, 0]}, Fault.EMPTY),
        ({"segmentation": [[5, 5, 5, 5, 5, 5]]}, Fault.EMPTY),
        ({"segmentation": [[500, 500, 530, 500, 530, 530]]}, Fault.BEYOND),
        ({"segmentation": [[0.1, 0.1, 0.5, 0.1, 0.5, 0.5]]}, Fault.FRACTIONS),
        ({"segmentation": None, "bbox": [0.1, 0.1, 0.5, 0.5]}, Fault.FRACTIONS),
        ({"segmentation": "none"}, Fault.BROKEN_MASK),
        ({"segmentation": {"size": [HEIGHT, WIDTH], "counts": "zz"}}, Fault.BROKEN_MASK),
        ({"segmentation": {"size": [HEIGHT, WIDTH + 10], "counts": [5400]}}, Fault.MASK_SIZE),
        ({"image_id": "nowhere"}, Fault.ORPHAN),
        ({"image_id": None}, Fault.BROKEN_ENTRY),
        ({"iscrowd": "0"}, Fault.FIELD),
        ({"iscrowd": None}, Fault.FIELD),
        ({"iscrowd": 3}, Fault.CROWD),
        ({"score": None}, Fault.FIELD),
        ({"bbox": [0, 0, 0, 0]}, Fault.BOX),
        ({"bbox": "none"}, Fault.BOX),
        ({"area": -1}, Fault.AREA),
        ({"area": "much"}, Fault.AREA),
        ({"area": HEIGHT * WIDTH}, Fault.AREA),
        ({"category_id": None}, Fault.NO_CLASS),
        ({"category_id": 77}, Fault.UNKNOWN_CLASS),
        ({"segmentation": []}, None),  # A box alone.
        ({}, None),
    )
]
IDS = st.one_of(
    st.integers(),
    st.integers(min_value=2**53, max_value=2**70),
    st.text(alphabet="abcdef0123456789", min_size=6, max_size=12).map(lambda text: f"h{text}"),
)
NAMES = st.sampled_from(
    [
        "{}.png",
        "{}.PNG",
        "images/{}.png",
        "images\\{}.png",
        "C:\\data\\images\\{}.png",
        "/home/someone/{}.png",
        "/data/local-files/?d=images/{}.png",
    ]
)


def written_as_text(image: dict[str, Any]) -> None:
    image.update(height=str(HEIGHT))


SIZES: list[tuple[Callable[[dict[str, Any]], object], Fault | None]] = [
    (lambda image: None, None),
    (lambda image: image.update(width=WIDTH + 1), Fault.ONE_PIXEL),
    (lambda image: image.pop("height"), Fault.FIELD),
    (written_as_text, Fault.FIELD),
]


@contextmanager
def account() -> Iterator[Counter[Fault]]:
    """The faults that are logged meanwhile, with their numbers."""
    found: Counter[Fault] = Counter()

    class Reader(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            for fault in Fault:
                counted = re.search(
                    rf"(?:^|: )([\d,]+) {re.escape(fault.what)}", record.getMessage()
                )
                if counted is not None:
                    found[fault] += int(counted[1])

    logger, reader = logging.getLogger("soloist"), Reader()
    logger.addHandler(reader)
    try:
        yield found
    finally:
        logger.removeHandler(reader)


@pytest.mark.slow
@settings(
    max_examples=25,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
@given(
    oddities=st.lists(st.sampled_from(ODDITIES), min_size=3, max_size=3),
    image_ids=st.lists(IDS, min_size=2, max_size=2, unique=True),
    name=NAMES,
    size=st.sampled_from(SIZES),
)
def test_an_odd_file_is_its_cleaned_file_and_an_account(
    oddities: list[Oddity],
    image_ids: list[Any],
    name: str,
    size: tuple[Callable[[dict[str, Any]], object], Fault | None],
) -> None:
    boxes = [one for one in oddities if one.change == {"segmentation": []}]
    # Of more, there would be no figures for masks; and the last object is always a sound one.
    oddities = [one for one in oddities if one.change != {"segmentation": []}] + boxes[:1]
    with tempfile.TemporaryDirectory() as folder:
        files = Files(Path(folder))
        (files.folder / "images").mkdir()
        for key in (1, 2):
            path = files.folder / f"{key:04}.png"
            path.rename(files.folder / "images" / path.name)
        content, cleaned = labels(), labels()
        expected: Counter[Fault] = Counter()
        for place, oddity in enumerate(oddities):
            content["annotations"][place].update(copy.deepcopy(oddity.change))
            if oddity.fault is not None:
                expected[oddity.fault] += 1
        rename(content, image_ids, name)
        size[0](content["images"][1])
        if size[1] is not None:
            expected[size[1]] += 1
        kept = [True] * 4
        masked, classed = [True] * 4, [True] * 4
        for place, oddity in enumerate(oddities):
            kept[place] = oddity.is_kept
            masked[place] = oddity.is_kept and oddity.change != {"segmentation": []}
            classed[place] = masked[place] and oddity.fault not in (
                Fault.NO_CLASS,
                Fault.UNKNOWN_CLASS,
            )
        cleaned["annotations"] = [
            one for one, is_masked in zip(cleaned["annotations"], masked, strict=True) if is_masked
        ]
        files.put(cleaned)
        wanted = measure(files.predictions, files.truth).metrics
        files.put(content)
        check_every_verb(files, expected, wanted, sum(kept), sum(masked), sum(classed))


def rename(content: Content, image_ids: list[Any], name: str) -> None:
    new = dict(zip((1, 2), image_ids, strict=True))
    for image in content["images"]:
        image["file_name"] = name.format(f"{image['id']:04}")
        image["id"] = new[image["id"]]
    for one in content["annotations"]:
        one["image_id"] = new.get(one["image_id"], one["image_id"])


def check_every_verb(
    files: Files,
    expected: Counter[Fault],
    wanted: Mapping[str, float | None],
    kept: int,
    masked: int,
    classed: int,
) -> None:
    """All verbs say the same of a file and take the same objects.

    Args:
        files: The file, its predictions and images.
        expected: What must be said.
        wanted: Figures of the cleaned file.
        kept: Objects that can be used.
        masked: Those with a mask.
        classed: Those of a class, too.
    """
    truth, how = files.truth, Reading()
    # data check
    assert files.faults() == dict(expected)
    assert run_command(["data", "check", str(truth)]) == (SOME_FAILED if expected else DONE)
    gate = Gate()
    assert len(find_dataset(truth, report=gate).to_coco(gate)) == kept
    # eval
    with account() as caught:
        evaluation = measure(files.predictions, truth)
    assert caught == expected
    assert evaluation.objects == kept
    figures = {key: value for key, value in wanted.items() if key.startswith("mask")}
    assert {key: evaluation.metrics[key] for key in figures} == pytest.approx(figures)
    boxes_alone = kept - masked
    assert any("true objects are boxes alone" in note for note in evaluation.notes) == (
        boxes_alone > 0
    )
    # finetune
    with account() as caught:
        chosen = choose_labelled(truth, "100%", 0)
    assert caught == expected
    assert len(chosen.labels) == classed
    # train
    images = find_images(str(files.folder / "images"))
    with account() as caught:
        masks = read_masks(truth, images, Reading(images=str(files.folder / "images")))
    assert caught == expected
    assert len(masks) == masked
    # predict and masks
    refs = find_images(truth)
    assert all(ref.path.is_file() for ref in refs)
    check_stated(refs, str(truth))
    # convert
    out = files.folder / "out"
    with account() as caught:
        command = ["convert", str(truth), "--format", "coco", "--out", str(out)]
        assert run_command([*command, "--overwrite"]) == DONE
    assert caught == expected
    written = load_coco(out / "annotations/instances_default.json")
    assert len(written) == masked
    assert len(read_labels(truth, how)[1]) == 2
    # report
    page = files.folder / "page.html"
    with account() as caught:
        assert run_command(["report", str(truth), "--out", str(page)]) == DONE
    assert caught == expected
    text = page.read_text(encoding="utf-8")
    assert text.count("<image ") == 2
    # Strict, all of them stop.
    if expected:
        for read in (
            lambda: measure(files.predictions, truth, how=Reading(strict=True)),
            lambda: choose_labelled(truth, "100%", 0, Reading(strict=True)),
            lambda: read_masks(truth, images, Reading(strict=True)),
        ):
            with pytest.raises(DataError):
                read()
