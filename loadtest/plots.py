"""Line charts as SVG that stands in a page: no script, no font and no image from elsewhere."""

from collections.abc import Mapping, Sequence
from html import escape
from math import floor, log10

WIDTH, HEIGHT, LEFT, RIGHT, TOP, BOTTOM = 860, 220, 60, 130, 24, 24

COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#7f7f7f")
"""Told apart by colour-blind readers (Okabe and Ito 2008)."""

Series = Mapping[str, Sequence[float | None]]


def chart(title: str, places: Sequence[float], series: Series, steps: bool = False) -> str:
    """Return a chart of some series over the same places; a line is broken where a value is None.

    With `steps` a value holds until the next, and lines that would lie on one another are drawn side by side.
    """
    known = [value for values in series.values() for value in values if value is not None]
    if not known or not places:
        return f"<figure><figcaption>{escape(title)}: nothing measured</figcaption></figure>"
    low, high, top = min(places), max(max(places), min(places) + 1), _round(max(known))

    def point(place: float, value: float) -> tuple[float, float]:
        x = LEFT + (place - low) / (high - low) * (WIDTH - LEFT - RIGHT)
        return x, HEIGHT - BOTTOM - value / top * (HEIGHT - TOP - BOTTOM)

    parts = [f'<text x="{LEFT}" y="14" font-weight="bold">{escape(title)}</text>']
    for value in (0, top / 2, top):
        _, y = point(low, value)
        parts.append(f'<line x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{y:.1f}" y2="{y:.1f}" stroke="#ddd"/>')
        parts.append(f'<text x="{LEFT - 6}" y="{y + 4:.1f}" text-anchor="end">{value:g}</text>')
    for place in (low, (low + high) / 2, high):
        x, _ = point(place, 0)
        parts.append(f'<text x="{x:.1f}" y="{HEIGHT - 8}" text-anchor="middle">{place:.0f} s</text>')
    for index, (name, values) in enumerate(series.items()):
        colour = COLOURS[index % len(COLOURS)]
        path = _path([None if value is None else point(place, value) for place, value in zip(places, values, strict=True)], steps)
        beside = f' transform="translate(0 {-2 * index})"' if steps else ""
        parts.append(f'<path d="{path}"{beside} fill="none" stroke="{colour}" stroke-width="1.5"/>')
        y = TOP + 14 * index + 6
        parts.append(f'<text x="{WIDTH - RIGHT + 10}" y="{y}" fill="{colour}">{escape(name)}</text>')
    return f'<figure><svg viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="{escape(title)}">{"".join(parts)}</svg></figure>'


def _path(points: Sequence[tuple[float, float] | None], steps: bool) -> str:
    words: list[str] = []
    down = False
    for point in points:
        if point is not None:
            x, y = point
            words.append(f"M{x:.1f} {y:.1f}" if not down else f"H{x:.1f}V{y:.1f}" if steps else f"L{x:.1f} {y:.1f}")
            words += [] if down else ["h0.1"]  # a point between two gaps shows as well
        down = point is not None
    return "".join(words)


def _round(value: float) -> float:
    """The next 1, 2 or 5 times a power of ten."""
    if value <= 0:
        return 1.0
    power = 10 ** floor(log10(value))
    return next(step * power for step in (1, 2, 5, 10) if value <= step * power * (1 + 1e-9))
