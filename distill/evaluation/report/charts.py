"""Draws the report's SVG without any library: `bar_chart`, `line_chart`, `heat_map`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from html import escape

#: Distinguishable with the common colour-vision deficiencies (Okabe & Ito).
COLOURS = ("#0072B2", "#E69F00", "#009E73", "#CC79A7", "#56B4E9", "#D55E00", "#999999")


def bar_chart(
    rows: Sequence[str], series: Mapping[str, Sequence[float]], title: str, height: int = 240
) -> str:
    """Grouped bars: a group per row, a bar per series; values from 0 to 1.

    Args:
        rows: labels of the groups.
        series: name → one value per row.
    """
    bar, gap, left, top = 14, 18, 44, 30
    group = bar * len(series) + gap
    width = left + group * len(rows) + 10
    base = top + height
    parts = [_axis(left, top, width, height)]
    for number, (name, values) in enumerate(series.items()):
        colour = COLOURS[number % len(COLOURS)]
        for place, value in enumerate(values):
            x = left + gap / 2 + place * group + number * bar
            size = height * value
            parts.append(
                f'<rect x="{x:.1f}" y="{base - size:.1f}" width="{bar - 2}" height="{size:.1f}" '
                f'fill="{colour}"><title>{escape(rows[place])}, {escape(name)}: {value:.4f}'
                "</title></rect>"
            )
    for place, row in enumerate(rows):
        x = left + gap / 2 + place * group + bar * len(series) / 2
        parts.append(_text(x, base + 16, row, "middle"))
    return _svg(width, base + 28, title, parts) + _legend(list(series))


def line_chart(
    series: Mapping[str, Sequence[tuple[float, float]]], title: str, height: int = 240
) -> str:
    """Curves of (step, value) points, values from 0 to 1."""
    left, top, inner = 44, 30, 560
    base = top + height
    width = left + inner + 20
    last = max((x for points in series.values() for x, _ in points), default=1) or 1
    parts = [_axis(left, top, width, height)]
    for number, (name, points) in enumerate(series.items()):
        colour = COLOURS[number % len(COLOURS)]
        placed = [(left + inner * x / last, base - height * y, x, y) for x, y in sorted(points)]
        path = " ".join(f"{px:.1f},{py:.1f}" for px, py, _, _ in placed)
        parts.append(f'<polyline points="{path}" fill="none" stroke="{colour}" stroke-width="2"/>')
        parts += [
            f'<circle cx="{px:.1f}" cy="{py:.1f}" r="3" fill="{colour}">'
            f"<title>{escape(name)}, step {x:g}: {y:.4f}</title></circle>"
            for px, py, x, y in placed
        ]
    for share in (0.0, 0.5, 1.0):
        parts.append(_text(left + inner * share, base + 16, f"{last * share:g}", "middle"))
    return _svg(width, base + 28, title, parts) + _legend(list(series))


def heat_map(
    rows: Sequence[str], columns: Sequence[str], values: Sequence[Sequence[float]], title: str
) -> str:
    """Cells from white (0 or less) to blue (1): similarity of row and column tokens."""
    cell = 26
    left = 12 + 8 * max(map(len, rows), default=1)
    top = 34 + 7 * max(map(len, columns), default=1)
    parts = []
    for i, row in enumerate(rows):
        parts.append(_text(left - 6, top + cell * i + 17, row, "end"))
        for j, column in enumerate(columns):
            value = values[i][j]
            strength = min(max(value, 0.0), 1.0)
            red, green = round(255 * (1 - strength)), round(255 - (255 - 114) * strength)
            parts.append(
                f'<rect x="{left + cell * j}" y="{top + cell * i}" width="{cell - 1}" '
                f'height="{cell - 1}" fill="rgb({red},{green},{round(255 - 77 * strength)})">'
                f"<title>{escape(row)} – {escape(column)}: {value:.3f}</title></rect>"
            )
    for j, column in enumerate(columns):
        x, y = left + cell * j + 16, top - 6
        parts.append(
            f'<text x="{x}" y="{y}" transform="rotate(-60 {x} {y})">{escape(column)}</text>'
        )
    # Slanted labels reach to the right of their column.
    width = left + cell * len(columns) + 5 * max(map(len, columns), default=1) + 20
    width = max(width, 8 * len(title) + 8)
    return _svg(width, top + cell * len(rows) + 8, title, parts)


def _axis(left: int, top: int, width: float, height: int) -> str:
    parts = []
    for tick in range(6):
        y = top + height * (1 - tick / 5)
        parts.append(
            f'<line x1="{left}" y1="{y:.1f}" x2="{width - 10:.1f}" y2="{y:.1f}" class="grid"/>'
        )
        parts.append(_text(left - 6, y + 4, f"{tick / 5:.1f}", "end"))
    return "".join(parts)


def _text(x: float, y: float, text: str, anchor: str) -> str:
    return f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}">{escape(text)}</text>'


def _svg(width: float, height: float, title: str, parts: Sequence[str]) -> str:
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{width:.0f}" height="{height:.0f}" '
        f'viewBox="0 0 {width:.0f} {height:.0f}" role="img" aria-label="{escape(title)}">'
        f'<text x="4" y="16" class="title">{escape(title)}</text>{"".join(parts)}</svg>'
    )


def _legend(names: Sequence[str]) -> str:
    items = "".join(
        f'<span><i style="background:{COLOURS[number % len(COLOURS)]}"></i>{escape(name)}</span>'
        for number, name in enumerate(names)
    )
    return f'<p class="legend">{items}</p>'
