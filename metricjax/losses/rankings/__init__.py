"""Losses of rankings: of all references of an anchor, those of its class should come first."""
