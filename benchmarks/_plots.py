"""Log-log plots as SVG, panels side by side, each line with its name at its end."""

import math
from html import escape

COLORS = ("#5c6bc0", "#e8710a", "#00897b", "#c2185b")
"""Of the series, in order: between light and dark, so that they show on either."""
GRAY = "#808080"
"""All else, and a last series, which is a bound."""
WIDTH, HEIGHT, COLUMNS = 190, 150, 3
LEFT, RIGHT, TOP, BOTTOM = 80, 92, 34, 46
LINE = 13
"""Pixels between two names."""


def loglog(panels, series, x_label, shown):
    """An SVG.

    Args:
        panels: ``{title: {name: [(x, y), ...]}}``, positive numbers.
        series: names in the order of their colors; the first one is drawn on top, and thicker, the
            last one dashed and gray.
        x_label: what x is.
        shown: y as text, with its unit.
    """
    points = [p for lines in panels.values() for line in lines.values() for p in line]
    xs = sorted({x for x, _ in points})
    low, high = (f(math.log10(y) for _, y in points) for f in (min, max))
    decades = range(math.floor(low), max(math.ceil(high), math.floor(low) + 1) + 1)
    across = lambda x: WIDTH * _share(math.log(x), math.log(xs[0]), math.log(xs[-1]))
    down = lambda y: HEIGHT * (1 - _share(math.log10(y), decades[0], decades[-1]))
    columns = min(COLUMNS, len(panels))
    width, height = LEFT + WIDTH + RIGHT, TOP + HEIGHT + BOTTOM
    parts = []
    for i, (title, lines) in enumerate(panels.items()):
        left, top = LEFT + width * (i % columns), TOP + height * (i // columns)
        own = sorted({x for line in lines.values() for x, _ in line})
        drawn = _panel(title, lines, series, across, down, own, decades, shown)
        axis = _text(WIDTH / 2, HEIGHT + 36, x_label, "middle", GRAY)
        parts.append(f'<g transform="translate({left} {top})">{drawn}{axis}</g>')
    total = width * columns, height * math.ceil(len(panels) / columns)
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {total[0]} {total[1]}" '
        'font-family="system-ui, sans-serif" font-size="12">\n' + "\n".join(parts) + "\n</svg>\n"
    )


def _share(x, low, high):
    return 0.5 if low == high else (x - low) / (high - low)


def _panel(title, lines, series, across, down, xs, decades, shown):
    """Grid and numbers, then the lines and their names."""
    out = [_text(0, -12, title, "start", GRAY, bold=True)]
    for decade in decades:
        y = down(10.0**decade)
        out += [_rule(0, y, WIDTH, y), _text(-6, y + 4, shown(10.0**decade), "end", GRAY)]
    for x in xs:
        at = across(x)
        out += [_rule(at, 0, at, HEIGHT), _text(at, HEIGHT + 18, _number(x), "middle", GRAY)]
    color = dict(zip(series, COLORS, strict=False)) | {series[-1]: GRAY}
    ends = {}
    for name in reversed([name for name in series if lines.get(name)]):
        line = [(across(x), down(y)) for x, y in sorted(lines[name])]
        ends[name] = line[-1]
        thick = 2.5 if name == series[0] else 1.5
        dashes = ' stroke-dasharray="4 3"' if name == series[-1] else ""
        path = " ".join(f"{x:.1f},{y:.1f}" for x, y in line)
        out.append(
            f'<polyline points="{path}" fill="none" stroke="{color[name]}" '
            f'stroke-width="{thick}"{dashes}/>'
        )
        fill = f'r="2.5" fill="{color[name]}"'
        out += [f'<circle cx="{x:.1f}" cy="{y:.1f}" {fill}/>' for x, y in line]
    for name, y in _apart({name: y for name, (_, y) in ends.items()}).items():
        x = ends[name][0] + 7
        out.append(_text(x, y + 4, name, "start", color[name]))
    return "".join(out)


def _apart(heights):
    """Heights of names, moved until none is on another."""
    names = sorted(heights, key=heights.get)
    placed = []
    for name in names:
        placed.append(max(heights[name], placed[-1] + LINE if placed else -math.inf))
    over = placed[-1] - HEIGHT if placed else 0
    if over > 0:  # back up from the bottom
        placed[-1] = HEIGHT
        for i in range(len(placed) - 2, -1, -1):
            placed[i] = min(placed[i], placed[i + 1] - LINE)
    return dict(zip(names, placed, strict=True))


def _number(value):
    return f"{value // 1000}k" if value >= 10_000 and value % 1000 == 0 else f"{value:,}"


def _rule(x1, y1, x2, y2):
    return (
        f'<line x1="{x1:.1f}" y1="{y1:.1f}" x2="{x2:.1f}" y2="{y2:.1f}" '
        f'stroke="{GRAY}" stroke-opacity="0.25"/>'
    )


def _text(x, y, text, anchor, color, bold=False):
    font = ' font-weight="bold" font-size="13"' if bold else ""
    return (
        f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}" fill="{color}"{font}>'
        f"{escape(text)}</text>"
    )
