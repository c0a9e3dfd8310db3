"""Losses of rankings: references of the anchor's class should rank before all others."""
