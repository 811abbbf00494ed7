"""Text at exact pixels: how wide it is, and shortened to what fits."""

from collections.abc import Iterable
from functools import cache
from pathlib import Path
from typing import Any


@cache
def _font(size: int) -> Any:
    """matplotlib's own font: its wheel carries one that knows more than ASCII."""
    import matplotlib
    from PIL import ImageFont

    return ImageFont.truetype(str(Path(matplotlib.get_data_path()) / "fonts" / "ttf" / "DejaVuSans.ttf"), size)


def _widest(texts: Iterable[tuple[str, int]]) -> int:
    """The pixels of the widest of some (text, size)."""
    return max((int(_font(size).getlength(text)) + 1 for text, size in texts), default=0)


def _shortened(text: str, size: int, width: float, tail: str = "") -> str:
    """As much of a text as fits before `tail` into `width` pixels, with an ellipsis where something is left out."""
    if _font(size).getlength(text + tail) <= width:
        return text + tail
    while text and _font(size).getlength(f"{text}…{tail}") > width:
        text = text[:-1]
    return f"{text.rstrip()}…{tail}"
