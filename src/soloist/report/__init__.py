"""The report of a run: one HTML file that needs nothing else."""

from soloist.report.content import ReportContent, StageGallery, stage_title
from soloist.report.html import write_report

__all__ = ["ReportContent", "StageGallery", "stage_title", "write_report"]
