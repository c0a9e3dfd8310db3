"""The options that a module takes for its loss, and keeps."""

import inspect

import jax


def defaults(module):
    data = {
        "mined",
        "where",
        "class_ids",
        "refs",
        "match",
        "center",
        "histogram",
        "state",
        "proxy_ids",
        "key",
    }
    parameters = inspect.signature(module.loss).parameters.values()
    options = (p for p in parameters if p.kind == p.KEYWORD_ONLY and p.name not in data)
    return {p.name: p.default for p in options}


def checked(module, options):
    known = defaults(module)
    for name, value in options.items():
        if name not in known:
            raise TypeError(
                f"nn.{module.__name__}: no option {name!r}; there are {', '.join(known)}."
            )
        if isinstance(value, jax.Array):
            raise TypeError(
                f"nn.{module.__name__}: {name!r} is an array; options given here are static. Give "
                f"a Python number, or the array at the call."
            )
    return options
