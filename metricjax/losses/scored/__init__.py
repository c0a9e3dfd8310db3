"""Losses of pairs that come with a score: how similar their two sides should be."""
