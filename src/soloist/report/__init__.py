"""The report of a run or of a file of masks: one HTML file that needs nothing else."""
