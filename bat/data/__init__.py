"""Data sets: read, split, augmented."""
