"""Writes a bar chart as SVG without a library, so that every machine generates the same file and can check it."""

from xml.sax.saxutils import escape

# Narrow enough that its text is readable on a phone.
WIDTH, LEFT, RIGHT = 560, 158, 64
TOP, BAR, GAP, BOTTOM = 74, 24, 10, 36
FONT = "font-family=\"system-ui, -apple-system, 'Segoe UI', 'DejaVu Sans', sans-serif\""
# Background, text, faint text, echoring's bar, the others' bars: for pages with a light and with a dark background.
SCHEMES = {
    "light": ("#f6f8fa", "#1f2328", "#59636e", "#c2410c", "#9db4cc"),
    "dark": ("#0d1117", "#f0f6fc", "#9198a1", "#fb923c", "#3f5873"),
}


def bars(title, subtitle, note, values, number, scheme, left=LEFT, at=0):
    """`values` are name, value, and whether the bar is echoring's. The longest bar takes the full width. `left` is the room for names, and
    `at` the distance from the top of an image that has several charts."""
    background, text, faint, ours, others = SCHEMES[scheme]
    height = TOP + len(values) * (BAR + GAP) + BOTTOM
    most = max(value for _, value, _ in values)
    place = f' y="{at}"' if at else ""
    lines = [
        f'<svg xmlns="http://www.w3.org/2000/svg"{place} width="{WIDTH}" height="{height}" viewBox="0 0 {WIDTH} {height}" role="img">',
        f"<title>{escape(title)}</title>",
        f'<rect width="{WIDTH}" height="{height}" rx="6" fill="{background}"/>',
        f'<g {FONT} font-size="16" fill="{text}">',
        f'<text x="16" y="30" font-size="18" font-weight="600">{escape(title)}</text>',
        f'<text x="16" y="54">{escape(subtitle)}</text>',
    ]
    for row, (name, value, is_ours) in enumerate(values):
        y = TOP + row * (BAR + GAP)
        length = round((WIDTH - left - RIGHT) * value / most, 1)
        weight = ' font-weight="600"' if is_ours else ""
        lines += [
            f'<text x="{left - 10}" y="{y + 18}" text-anchor="end"{weight}>{escape(name)}</text>',
            f'<rect x="{left}" y="{y}" width="{length}" height="{BAR}" rx="2" fill="{ours if is_ours else others}"/>',
            f'<text x="{left + length + 8}" y="{y + 18}"{weight}>{number(value)}</text>',
        ]
    lines += [
        f'<text x="16" y="{height - 12}" font-size="13" fill="{faint}">{escape(note)}</text>',
        "</g>",
        "</svg>",
    ]
    return "\n".join(lines) + "\n"


def stacked(charts):
    """One image of several charts below each other, each given as the arguments of `bars`."""
    parts, height = [], 0
    for title, subtitle, note, values, *more in charts:
        parts.append(bars(title, subtitle, note, values, *more, at=height))
        height += TOP + len(values) * (BAR + GAP) + BOTTOM
    return f'<svg xmlns="http://www.w3.org/2000/svg" width="{WIDTH}" height="{height}">\n{"".join(parts)}</svg>\n'
