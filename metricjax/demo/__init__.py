"""Trains a small network on handwritten digits and shows what it has learned.

Run it with ``python -m metricjax.demo``; ``--help`` lists the options.
"""
