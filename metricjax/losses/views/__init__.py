"""Losses of two views: row i of both is the same sample, and there are no labels."""
