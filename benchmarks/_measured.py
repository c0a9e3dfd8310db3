"""Tools for what is large, with their time and memory."""

import collections

from benchmarks._text import duration, machine, paragraph, results, size, table


def scale(part):
    """``{(what, n, m): {how: row}}`` of a part of the first device's results."""
    _, rows = next(iter(results("scale").values()))
    out = collections.defaultdict(dict)
    for row in rows:
        if row["part"] == part:
            out[row["what"], row["n"], row["m"]][row["how"]] = row
    return out


def tool(problem, name, row, at_once=None):
    """A row of the table of tools."""
    held = f"{size(row['temp_mib'])}"
    if "process_mib" in row:
        held = f"{size(row['process_mib'])}, the whole process"
    other = ""
    if at_once:
        other = size(at_once["temp_mib"]) + (
            f", {duration(at_once['ms'])}" if "ms" in at_once else ""
        )
    bound = row.get("bound_mib") or row.get("process_bound_mib")
    return {
        "what is large": problem,
        "tool": name,
        "time": duration(row.get("ms")),
        "memory": held,
        "at most": size(bound) if bound else "",
        "at once": other,
    }


def code(how):
    return how if " " in how else f"`{how}`"


def measured():
    """What `docs/scale.md` says: each problem, its tool, time and memory."""
    (environment, _), *_ = results("scale").values()
    found = []
    for part in ("large", "huge", "passes", "classes", "million"):
        for (what, n, m), ways in sorted(scale(part).items()):
            problem = f"`{what}`, N = {n:,}" + (f", C = {m:,}" if m != n else "")
            for how in sorted(ways.keys() - {"dense"}):
                found.append(tool(problem, code(how), ways[how], ways.get("dense")))
    for (_, n, _), ways in scale("embedding").items():
        for how, row in ways.items():
            if how != "whole batch":
                found.append(tool(f"a transformer, N = {n:,}", code(how), row, ways["whole batch"]))
    took = lambda row: f"{size(row['temp_mib'])}, {duration(row['ms'])}"
    spread = [
        {
            "devices": str(m),
            "`jit` over a mesh": took(ways["jit"]),
            "`gather_refs`": took(ways["gather_refs"]),
            "`ring`": took(ways["ring"]),
        }
        for (_, _, m), ways in sorted(scale("devices").items())
    ]
    n = next(iter(scale("devices")))[1]
    parts = [
        "Value and gradient, 64 features. Memory means XLA's temporary buffers unless \"the whole "
        'process" is noted. *At most* is the limit that the tests enforce. *At once* is the loss '
        "without blocks; it has no time where it was only compiled. From "
        "`python -m benchmarks.scale`: "
        f"{machine(environment)}.",
        table(found),
        f"`ntxent`, N = {n:,}: temporary buffers of each device, and time. The devices share one "
        "CPU, so more of them cannot be faster here:",
        table(spread),
    ]
    return "\n\n".join(map(paragraph, parts))
