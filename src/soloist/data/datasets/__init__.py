"""Labelled data sets of the common formats, read into one shape and checked."""
