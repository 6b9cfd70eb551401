"""The verbs that look at what was made: `eval` and `report`."""

from __future__ import annotations

import sys
from pathlib import Path

from soloist.cli.runs import DONE


def evaluate(
    predictions: Path,
    ground_truth: Path,
    *,
    out: Path | None = None,
    max_dets: int = 100,
) -> int:
    """Class-agnostic average precision and recall of masks and boxes.

    Args:
        predictions: COCO file of masks with scores, of this or of another tool.
        ground_truth: COCO file of the true masks.
        out: JSON file for the figures, as fractions.
        max_dets: Predictions per image that count, best first.
    """
    from soloist.engine.evaluate import evaluate as run_evaluate
    from soloist.files import write_json
    from soloist.run_report import print_results

    metrics = run_evaluate(predictions, ground_truth, max_dets=max_dets)
    if out is not None:
        write_json(out, metrics, indent=2)
    print_results({predictions.stem: metrics})
    return DONE


def report(run: Path) -> int:
    """Write the run's report.html again from its files.

    Args:
        run: Run folder of `fit`, `train`, `pretrain` or `demo`.
    """
    from soloist.run_report import rewrite_report

    sys.stdout.write(f"{rewrite_report(run)}\n")
    return DONE
