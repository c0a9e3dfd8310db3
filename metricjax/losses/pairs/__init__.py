"""Losses of pairs: an anchor and a reference form a positive or a negative pair."""
