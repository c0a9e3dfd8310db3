"""Losses of triplets: an anchor should be nearer to its positive than to its negative."""
