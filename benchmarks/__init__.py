"""Measurements of the operator and of the tracker, against named baselines, on results that are checked."""
