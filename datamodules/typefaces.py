"""Fonts as a source of images: which characters a font really draws, and how a character is drawn."""

import hashlib
import re
import unicodedata
from functools import lru_cache
from pathlib import Path

import numpy as np

from ..errors import RectifyError

SUFFIXES = {".ttf", ".otf"}
_ANONYMOUS = re.compile(r"(g|gid|glyph|cid|index)[._]?\d+$", re.IGNORECASE)
_SAME = {"\u2206": "\u0394"}  # the Adobe list reads the glyph name Delta as INCREMENT


def find_fonts(folder: Path | str | None = None) -> list[Path]:
    """Return the fonts that ship with matplotlib and, below `folder`, the user's own; sorted by file name.

    Raises:
        RectifyError: the folder holds no font.
    """
    import matplotlib

    found = list((Path(matplotlib.get_data_path()) / "fonts" / "ttf").glob("*.ttf"))
    if folder is not None:
        own = [path for path in Path(folder).expanduser().rglob("*") if path.suffix.lower() in SUFFIXES]
        if not own:
            raise RectifyError(f"fonts: {folder} holds no .ttf or .otf file; give a folder of fonts.")
        found += own
    return sorted(found, key=lambda path: (path.name, str(path)))


@lru_cache(maxsize=1024)
def covered_letters(font: Path) -> frozenset[str]:
    """Return the letters a font draws as themselves.

    An entry in the character map is not enough. Some fonts map every character of a script to one placeholder, and the
    symbol fonts of TeX put arrows in the places of letters. So the glyph's own name must mean the character, or be a
    mere number, and no two letters may share a glyph.

    Raises:
        RectifyError: the file is no font.
    """
    from fontTools import agl
    from fontTools.ttLib import TTFont, TTLibError

    try:
        with TTFont(font, lazy=True) as opened:
            glyphs = opened.getBestCmap() or {}
    except (TTLibError, OSError) as error:
        raise RectifyError(f"fonts: {font} cannot be read as a font ({error}); remove it from the folder.") from error
    if len(set(glyphs.values())) * 10 < len(glyphs):  # a font of last resort: one placeholder a script
        return frozenset()
    users: dict[str, int] = {}
    for glyph in glyphs.values():
        users[glyph] = users.get(glyph, 0) + 1
    letters = set()
    for code, glyph in glyphs.items():
        letter = chr(code)
        if unicodedata.category(letter)[0] != "L" or users[glyph] > 1:
            continue
        meant = agl.toUnicode(glyph)
        if _plain(meant) == _plain(letter) or _ANONYMOUS.match(glyph):
            letters.add(letter)
    return frozenset(letters)


def _plain(text: str) -> str:
    return unicodedata.normalize("NFKC", _SAME.get(text, text))


@lru_cache(maxsize=4096)
def _opened(font: Path, pixels: int):
    from PIL import ImageFont

    return ImageFont.truetype(str(font), pixels, layout_engine=ImageFont.Layout.BASIC)


@lru_cache(maxsize=2**16)
def bare_glyph(font: Path, letter: str, pixels: int) -> bytes:
    """Return a hash of the glyph's pixels without margins, equal for two letters that look the same; empty if blank."""
    mask = _opened(font, pixels).getmask(letter, mode="L")
    pixels_of = np.asarray(mask, np.uint8).reshape(mask.size[::-1])
    rows, columns = np.flatnonzero(pixels_of.any(1)), np.flatnonzero(pixels_of.any(0))
    if not len(rows):
        return b""
    cut = pixels_of[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]
    return hashlib.blake2b(np.array(cut.shape, np.int32).tobytes() + cut.tobytes(), digest_size=16).digest()


def draw_glyph(
    font: Path,
    letter: str,
    size: int,
    scale: float = 1.0,
    shift: tuple[float, float] = (0.0, 0.0),
    degrees: float = 0.0,
) -> np.ndarray:
    """Draw a letter white on black, its box centred, and return (size, size, 1) uint8.

    Args:
        scale: of the type size, which is 0.66 of the image at 1; a letter too large for the image is made to fit.
        shift: of the centre to the right and down, in pixels.
        degrees: rotation, anticlockwise.
    """
    from PIL import Image, ImageDraw

    pixels = max(6, round(0.66 * size * scale))
    left, top, right, bottom = _opened(font, pixels).getbbox(letter)
    longest = max(right - left, bottom - top)
    if longest > size - 4:
        pixels = max(6, int(pixels * (size - 4) / longest))
        left, top, right, bottom = _opened(font, pixels).getbbox(letter)
    image = Image.new("L", (size, size))
    place = (round((size - left - right) / 2 + shift[0]), round((size - top - bottom) / 2 + shift[1]))
    ImageDraw.Draw(image).text(place, letter, fill=255, font=_opened(font, pixels))
    if degrees:
        image = image.rotate(degrees, Image.Resampling.BILINEAR)
    return np.asarray(image)[..., None]
