"""Losses of pairs: an anchor and a reference, alike or not."""
