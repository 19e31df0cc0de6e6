"""Line charts as SVG text, without anything but the standard library."""

import math
from html import escape

WIDTH, HEIGHT = 720, 340
LEFT, RIGHT, TOP, BOTTOM = 58, 240, 30, 46
COLOURS = ("#1b6ca8", "#c8442b", "#3a8f3a", "#8a4fa8", "#b8860b", "#2aa0a0", "#555555", "#d26aa0")


def ticks(low, high, count=5):
    """Round numbers from `low` to `high`."""
    if high <= low:
        return [low]
    rough = (high - low) / count
    unit = 10 ** math.floor(math.log10(rough))
    step = next(unit * m for m in (1, 2, 5, 10) if unit * m >= rough)
    first = math.ceil(low / step - 1e-9)
    return [round(step * i, 12) for i in range(first, math.floor(high / step + 1e-9) + 1)]


def line_chart(title, x_name, y_name, series, log_x=False, percent=False):
    """`series`: `{name: [(x, y, low, high), …]}`, where low to high is drawn as a bar where they differ."""
    points = [p for line in series.values() for p in line if not log_x or p[0] > 0]
    if not points:
        return ""
    place = math.log2 if log_x else float
    xs, ys = [place(p[0]) for p in points], [v for p in points for v in p[1:]]
    x_low, x_high = min(xs), max(xs)
    y_low, y_high = min(ys), max(ys)
    x_pad, y_pad = (x_high - x_low) * 0.04 or 0.5, (y_high - y_low) * 0.06 or 0.01
    x_low, x_high, y_low, y_high = x_low - x_pad, x_high + x_pad, y_low - y_pad, y_high + y_pad
    at_x = lambda x: LEFT + (place(x) - x_low) / (x_high - x_low) * (WIDTH - LEFT - RIGHT)
    at_y = lambda y: HEIGHT - BOTTOM - (y - y_low) / (y_high - y_low) * (HEIGHT - TOP - BOTTOM)
    label = lambda y: f"{100 * y:g} %" if percent else f"{y:g}"
    text = lambda x, y, what, more="": f'<text x="{x:.1f}" y="{y:.1f}" {more}>{escape(what)}</text>'
    out = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" width="{WIDTH}" height="{HEIGHT}" '
        f'font-family="sans-serif" font-size="11" role="img" aria-label="{escape(title)}">',
        f'<rect width="{WIDTH}" height="{HEIGHT}" fill="#ffffff"/>',
        text(LEFT, 18, title, 'font-size="13" font-weight="bold"'),
    ]
    for y in ticks(y_low, y_high):
        out.append(f'<line x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{at_y(y):.1f}" y2="{at_y(y):.1f}" stroke="#e4e4e4"/>')
        out.append(text(LEFT - 6, at_y(y) + 4, label(y), 'text-anchor="end"'))
    for x in sorted({p[0] for p in points}):
        out.append(text(at_x(x), HEIGHT - BOTTOM + 16, f"{x:.3g}", 'text-anchor="middle"'))
    out.append(text((LEFT + WIDTH - RIGHT) / 2, HEIGHT - 10, x_name, 'text-anchor="middle"'))
    out.append(text(14, HEIGHT / 2, y_name, f'text-anchor="middle" transform="rotate(-90 14 {HEIGHT / 2})"'))
    for index, (name, line) in enumerate(series.items()):
        colour = COLOURS[index % len(COLOURS)]
        line = sorted(p for p in line if not log_x or p[0] > 0)
        path = " ".join(f"{at_x(p[0]):.1f},{at_y(p[1]):.1f}" for p in line)
        out.append(f'<polyline points="{path}" fill="none" stroke="{colour}" stroke-width="1.6"/>')
        for x, y, low, high in line:
            if low != high:
                out.append(f'<line x1="{at_x(x):.1f}" x2="{at_x(x):.1f}" y1="{at_y(low):.1f}" y2="{at_y(high):.1f}" stroke="{colour}"/>')
            out.append(f'<circle cx="{at_x(x):.1f}" cy="{at_y(y):.1f}" r="3" fill="{colour}"/>')
        y = TOP + 14 + 16 * index
        out.append(f'<rect x="{WIDTH - RIGHT + 12}" y="{y - 8}" width="10" height="10" fill="{colour}"/>')
        out.append(text(WIDTH - RIGHT + 28, y + 1, name))
    return "".join(out) + "</svg>"
