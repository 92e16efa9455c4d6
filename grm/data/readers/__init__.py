"""Readers of data sets, a file for each layout on disk."""
