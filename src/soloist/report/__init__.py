"""The report of a run: one HTML file that needs nothing else."""

from soloist.report.content import ReportContent, StageGallery, WorstImage, stage_title
from soloist.report.html import write_report

__all__ = ["ReportContent", "StageGallery", "WorstImage", "stage_title", "write_report"]
