"""Losses of pairs with a score that says how similar the two sides of each pair should be."""
