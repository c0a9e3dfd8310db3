"""Packages that only a part of the library needs. They are imported when that part is used."""

import importlib
from typing import Any


def needed(module: str, message: str) -> Any:
    """Imports a module. If it is missing, raises with the `message`, which says how to get it."""
    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise ImportError(message) from error
