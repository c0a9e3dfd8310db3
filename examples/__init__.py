"""Short scripts, each of which trains something and measures it: ``python -m examples.supervised``.

They run offline, in less than a minute on one core, and need ``pip install 'metricjax[demo]'``.
"""
