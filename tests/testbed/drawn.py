"""Figures in a test's hand: what is written in them."""

from __future__ import annotations

from collections.abc import Callable
from itertools import combinations

import pytest
from matplotlib.backend_bases import RendererBase
from matplotlib.figure import Figure
from matplotlib.text import Text

from testbed.report.style import WATERMARK, styled

__all__ = ["words"]


def words(draw: Callable[[], Figure]) -> list[str]:
    """What is written in a figure but the watermark: inside of it, and none over another."""
    seen = list[Text]()
    original = Text.draw

    def heard(text: Text, renderer: RendererBase) -> None:
        if text.get_text() not in ("", WATERMARK) and text.get_visible():
            seen.append(text)
        original(text, renderer)

    with styled(), pytest.MonkeyPatch.context() as patch:
        patch.setattr(Text, "draw", heard)
        made = draw()
        made.draw_without_rendering()
        boxes = [(each.get_text(), each.get_window_extent()) for each in seen]
    for (one, box), (other, there) in combinations(boxes, 2):
        assert not box.overlaps(there), (one, other)
    for word, box in boxes:
        assert made.bbox.x0 <= box.x0 <= box.x1 <= made.bbox.x1, word
        assert made.bbox.y0 <= box.y0 <= box.y1 <= made.bbox.y1, word
    return [word for word, _ in boxes]
