"""The one door: a function for every verb, which the command line calls too.

What takes long has a `plan`: `fit.plan(...)` takes what `fit`
takes, checks it, and returns a `soloist.api.plans.Plan`.
"""

from __future__ import annotations

from soloist.api.exploring import cluster, estimate, look_alikes, report
from soloist.api.labelling import extract_masks, merge, predict, predict_video
from soloist.api.learning import finetune, fit, pretrain, train
from soloist.api.writing import convert, convert_predictions, export
from soloist.evaluation.evaluate import evaluate, measure

__all__ = [
    "cluster",
    "convert",
    "convert_predictions",
    "estimate",
    "evaluate",
    "export",
    "extract_masks",
    "finetune",
    "fit",
    "look_alikes",
    "measure",
    "merge",
    "predict",
    "predict_video",
    "pretrain",
    "report",
    "train",
]
