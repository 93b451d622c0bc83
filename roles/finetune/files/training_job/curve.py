"""The loss over the steps as an SVG picture, which needs nothing but a browser.

Runs on the box: standard library alone, Python 3.8.
"""

import math
from typing import List, Tuple
from xml.etree import ElementTree

WIDTH, HEIGHT, LEFT, RIGHT, TOP, BOTTOM = 800, 400, 60, 20, 48, 40
MOST_TICKS = 8
# A background of its own, so that it reads the same on a dark page; fonts that every system has.
STYLE = """
text { font: 12px ui-monospace, Menlo, Consolas, monospace; fill: #1f2328 }
.title { font-size: 15px; font-weight: bold }
.small { font-size: 11px; fill: #59636e }
.background { fill: #ffffff }
.grid { stroke: #d1d9e0 }
.loss { fill: none; stroke: #0969da; stroke-width: 1.5 }
.point { fill: #0969da }
"""

Point = Tuple[int, float]  # (step, loss)


def ticks(most: float) -> List[float]:
    """Return round numbers from 0 on, at most nine, up to a number that is greater than 0."""
    rough = most / MOST_TICKS
    unit = 10.0 ** math.floor(math.log10(rough))
    size = next(unit * factor for factor in (1, 2, 5, 10) if unit * factor >= rough * (1 - 1e-9))
    return [round(number * size, 10) for number in range(int(most / size + 1e-9) + 1)]


def svg(title: str, points: List[Point]) -> str:
    """Return the picture. points: steps and losses in the order of the steps; at least one, all of them finite."""
    last, most = max(step for step, _ in points), max(max(loss for _, loss in points), 1e-6)

    def x(step: float) -> str:
        return "%.2f" % (LEFT + step / max(last, 1) * (WIDTH - LEFT - RIGHT))

    def y(loss: float) -> str:
        return "%.2f" % (HEIGHT - BOTTOM - loss / most * (HEIGHT - TOP - BOTTOM))

    size = {"width": str(WIDTH), "height": str(HEIGHT), "viewBox": "0 0 %d %d" % (WIDTH, HEIGHT)}
    root = ElementTree.Element("svg", {"xmlns": "http://www.w3.org/2000/svg", "role": "img", **size})
    ElementTree.SubElement(root, "title").text = title
    ElementTree.SubElement(root, "style").text = STYLE
    ElementTree.SubElement(root, "rect", {"class": "background", "width": str(WIDTH), "height": str(HEIGHT)})

    def text(left: str, top: str, words: str, kind: str, anchor: str) -> None:
        at = {"x": left, "y": top, "class": kind, "text-anchor": anchor}
        ElementTree.SubElement(root, "text", at).text = words

    text("12", "24", title, "title", "start")
    for loss in ticks(most):
        ends = {"x1": str(LEFT), "x2": str(WIDTH - RIGHT), "y1": y(loss), "y2": y(loss)}
        ElementTree.SubElement(root, "line", {"class": "grid", **ends})
        text(str(LEFT - 8), y(loss), "%g" % loss, "small", "end")
    for step in ticks(max(last, 1)):
        if step == int(step):
            text(x(step), str(HEIGHT - BOTTOM + 18), "%d" % step, "small", "middle")
    text(str(WIDTH - RIGHT), str(HEIGHT - 8), "step", "small", "end")
    line = " ".join("%s,%s" % (x(step), y(loss)) for step, loss in points)
    ElementTree.SubElement(root, "polyline", {"class": "loss", "points": line})
    for step, loss in points:
        point = ElementTree.SubElement(root, "circle", {"class": "point", "cx": x(step), "cy": y(loss), "r": "2"})
        ElementTree.SubElement(point, "title").text = "step %d: loss %g" % (step, loss)
    return ElementTree.tostring(root, encoding="unicode") + "\n"
