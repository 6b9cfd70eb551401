"""The verbs that look at what was made: `eval` and `report`."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

from cyclopts import Parameter
from cyclopts.types import PositiveInt

from soloist.cli.arguments import Flat, GroundTruth, Labels, MaskImages
from soloist.cli.runs import DONE

_WORST_SHOWN = 5


def evaluate(
    predictions: Path,
    ground_truth: Path,
    *,
    out: Path | None = None,
    max_dets: int = 100,
    classes: Annotated[bool, Parameter(negative="")] = False,
    how: Annotated[GroundTruth, Flat] = GroundTruth(),
    only: Path | None = None,
    per_image: Path | None = None,
    backend: str = "auto",
) -> int:
    """Average precision and recall of masks and boxes, and CorLoc; classes taken as one or not.

    Args:
        predictions: COCO file with scores, or COCO result list, of this or of another tool;
            masks or boxes alone.
        ground_truth: COCO file of the true objects, or a data set of another format that `soloist
            data check` knows.
        out: JSON file for the figures, as fractions.
        max_dets: Predictions per image that count, best first: 100 as COCO has it, or 1000. With
            --classes, of each class.
        classes: Count each class by itself and give the means over classes, as COCO does; CorLoc
            and the table of images take classes as one all the same.
        only: Text file with the names of the images that count, such as COCO20K's list.
        per_image: CSV file with a row for each image.
        backend: `pycocotools`, `faster-coco-eval` (equal, and faster), or `auto`.
    """
    from soloist import api
    from soloist.data.datasets.labels import Reading
    from soloist.evaluation.per_image import worst_images, write_per_image
    from soloist.report.run import print_results
    from soloist.runtime.files import write_json

    evaluation = api.measure(
        predictions,
        ground_truth,
        max_dets=max_dets,
        classes=classes,
        backend=backend,
        how=Reading(how.format, how.split, how.images, strict=how.strict, exif=how.exif),
        only=only,
    )
    if out is not None:
        write_json(out, evaluation.to_json(), indent=2)
    title = "mean over classes, percent" if classes else "class-agnostic, percent"
    print_results({predictions.stem: evaluation.metrics}, title=title)
    lines = evaluation.protocol()
    if per_image is not None:
        write_per_image(per_image, evaluation.images_scored)
        worst = worst_images(evaluation.images_scored, _WORST_SHOWN)
        if worst:
            lines += ["worst images:", *(f"  {one.summary()}" for one in worst)]
        lines.append(str(per_image))
    sys.stdout.write("\n".join(lines) + "\n")
    return DONE


def report(
    source: Path,
    *,
    out: Path | None = None,
    images: MaskImages = None,
    gt: Path | None = None,
    how: Annotated[Labels, Flat] = Labels(),
    max_images: PositiveInt = 500,
) -> int:
    """Write one page that shows a run or a file of masks: no other file, no network.

    Args:
        source: Run folder of `fit`, `train`, `pretrain`, `finetune` or `demo`; COCO file of masks;
            or the folder of `masks` or `predict` with --shard-size.
        out: The page; without it `report.html` in the run folder, else `NAME.report.html` beside
            the file or folder.
        gt: For a file of masks: COCO file or data set of the true objects, for figures and the
            worst and best images.
        max_images: Most images shown, evenly spread; 500 stay below 30 MB.
    """
    from soloist import api
    from soloist.data.datasets.labels import Reading

    page = api.report(
        source,
        out,
        images=images or [],
        ground_truth=gt,
        how=Reading(split=how.split, strict=how.strict, exif=how.exif),
        max_images=max_images,
    )
    sys.stdout.write(f"{page}\n")
    return DONE
