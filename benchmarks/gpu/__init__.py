"""The record of a machine with a GPU: what is run, in which order, by which processes, and what follows from it."""
