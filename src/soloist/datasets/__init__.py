"""Labelled data sets of the common formats, read into one shape and checked."""

from soloist.datasets.dataset import Dataset, DatasetImage
from soloist.datasets.find import FORMATS, find_dataset, find_format

__all__ = ["FORMATS", "Dataset", "DatasetImage", "find_dataset", "find_format"]
