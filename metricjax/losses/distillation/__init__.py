"""Losses of a student against what a teacher says of the same samples; there are no labels."""
