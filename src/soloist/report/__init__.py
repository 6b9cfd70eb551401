"""The report of a run or of a file of masks: one HTML file that needs nothing else."""

from soloist.report.content import (
    ImageVerdict,
    ReportContent,
    ReportStage,
    StageGallery,
    stage_title,
)
from soloist.report.html import shown_images, write_report

__all__ = [
    "ImageVerdict",
    "ReportContent",
    "ReportStage",
    "StageGallery",
    "shown_images",
    "stage_title",
    "write_report",
]
