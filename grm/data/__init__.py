"""Data: sequences of videos with boxes, the readers of data sets, training pairs, and synthetic video."""
