"""Property: whatever oddities a COCO file has, nothing is lost without a count.

A file is drawn with sound and odd objects; the same file without the odd ones must give the same
figures, and the account must name each of them.
"""

from __future__ import annotations

import copy
import tempfile
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tests.data.datasets.test_public_reports import Files, labels

from soloist.data.coco.faults import Effect, Fault, Gate
from soloist.data.datasets.find import find_dataset
from soloist.data.datasets.labels import read_labels
from soloist.errors import DataError
from soloist.evaluation.evaluate import measure
from soloist.training.finetuning import choose_labelled

# What is done to an object, and how it must be counted.
LEFT_OUT: tuple[tuple[dict[str, Any], Fault], ...] = (
    ({"segmentation": [], "bbox": [0, 0, 0, 0]}, Fault.EMPTY),
    ({"segmentation": [[5, 5, 5, 5, 5, 5]]}, Fault.EMPTY),
    ({"segmentation": [[500, 500, 530, 500, 530, 530]]}, Fault.BEYOND),
    ({"segmentation": [[0.1, 0.1, 0.5, 0.1, 0.5, 0.5]]}, Fault.FRACTIONS),
    ({"segmentation": "none"}, Fault.BROKEN_MASK),
    ({"segmentation": {"size": [60, 80], "counts": "zz"}}, Fault.BROKEN_MASK),
    ({"segmentation": {"size": [60, 90], "counts": [5400]}}, Fault.MASK_SIZE),
    ({"image_id": "nowhere"}, Fault.ORPHAN),
    ({"image_id": None}, Fault.BROKEN_ENTRY),
)
CORRECTED: tuple[tuple[dict[str, Any], Fault], ...] = (
    ({"iscrowd": "0"}, Fault.FIELD),
    ({"iscrowd": None}, Fault.FIELD),
    ({"bbox": [0, 0, 0, 0]}, Fault.BOX),
    ({"bbox": "none"}, Fault.BOX),
    ({"area": -1}, Fault.AREA),
    ({"area": "much"}, Fault.AREA),
)
odd = st.sampled_from((*LEFT_OUT, *CORRECTED, None))
ids = st.one_of(
    st.integers(),
    st.integers(min_value=2**53, max_value=2**70),
    st.text(alphabet="abcdef0123456789", min_size=6, max_size=12).map(lambda text: f"h{text}"),
)


@pytest.mark.slow
@settings(
    max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(
    oddities=st.lists(odd, min_size=3, max_size=3),
    image_ids=st.lists(ids, min_size=2, max_size=2, unique=True),
)
def test_an_odd_file_is_its_cleaned_file_and_an_account(
    oddities: list[tuple[dict[str, Any], Fault] | None], image_ids: list[Any]
) -> None:
    with tempfile.TemporaryDirectory() as folder:
        files = Files(Path(folder))
        content, cleaned = labels(), labels()
        kept = copy.deepcopy(cleaned["annotations"])
        new = dict(zip((1, 2), image_ids, strict=True))
        for image in content["images"]:
            image["id"] = new[image["id"]]
        for one in content["annotations"]:
            one["image_id"] = new[one["image_id"]]
        expected: dict[Fault, int] = {}
        # The last object is always a sound one.
        for place, drawn in enumerate(oddities):
            if drawn is None:
                continue
            change, fault = drawn
            content["annotations"][place].update(copy.deepcopy(change))
            expected[fault] = expected.get(fault, 0) + 1
            if fault.effect is Effect.LEFT_OUT:
                kept[place] = None
        cleaned["annotations"] = [one for one in kept if one is not None]
        files.put(cleaned)
        wanted = measure(files.predictions, files.truth).metrics
        files.put(content)
        gate = Gate()
        file = find_dataset(files.truth, report=gate).to_coco(gate)
        assert gate.counts == expected
        assert len(file) == len(cleaned["annotations"])
        assert files.faults() == expected
        assert measure(files.predictions, files.truth).metrics == pytest.approx(wanted)
        assert len(read_labels(files.truth)[0]) == len(file)
        assert len(choose_labelled(files.truth, "100%", 0).labels) == len(file)
        strict = Gate(strict=True)
        if expected:
            with pytest.raises(DataError):
                find_dataset(files.truth, report=strict).to_coco(strict)
