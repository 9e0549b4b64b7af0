"""Draws the SVG that segno writes: one path of horizontal strokes, one unit a module."""

import re

from PIL import Image

SCALE = 8


def draw_svg(svg: str) -> Image.Image:
    """Black on white, SCALE pixels a module."""
    box = re.search(r'viewBox="0 0 (\d+) (\d+)"', svg)
    strokes = re.search(r'class="qrline"[^>]* d="([^"]+)"|<path[^>]* d="(M[^"]+h\d[^"]*)"[^>]*class="qrline"', svg)
    assert box is not None
    assert strokes is not None, svg[:500]
    image = Image.new("L", (int(box[1]) * SCALE, int(box[2]) * SCALE), 255)
    x = y = 0.0
    for step, first, second in re.findall(r"([Mmh])(-?[\d.]+)(?:[ ,](-?[\d.]+))?", strokes[1] or strokes[2]):
        length = float(first)
        if step == "h":
            image.paste(0, (int(x * SCALE), int((y - 0.5) * SCALE), int((x + length) * SCALE), int((y + 0.5) * SCALE)))
            x += length
        elif step == "M":
            x, y = length, float(second)
        else:
            x, y = x + length, y + float(second)
    return image
