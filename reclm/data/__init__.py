"""Data sets: readers of raw files, splits, and the frozen container that everything else takes."""
