"""Losses that pull a student toward a teacher on the same samples; there are no labels."""
