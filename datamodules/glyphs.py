"""An open-world set of real typefaces: one class per letter, one script to train on, other scripts never seen."""

import unicodedata
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from ..errors import RectifyError
from ..randomness import keyed_generator
from .sources import Source
from .typefaces import bare_glyph, covered_letters, draw_glyph, find_fonts

TRAIN_SCRIPTS = ("LATIN",)
TEST_SCRIPTS = ("GREEK", "CYRILLIC", "ARMENIAN", "GEORGIAN")
LOOKALIKE_PIXELS = 40


def glyph_source(
    fonts: Path | str | None = None,
    size: int = 24,
    renderings: int = 1,
    min_fonts: int = 8,
    train_scripts: Sequence[str] = TRAIN_SCRIPTS,
    test_scripts: Sequence[str] = TEST_SCRIPTS,
    max_classes: int | None = None,
    seed: int = 0,
) -> Source:
    """Return images (size, size, 1) of every letter in every font that draws it.

    Scripts are the first words of Unicode names. Classes are numbered by script, those to train on first, then by code
    point. Of letters that look the same in a font (Latin A, Greek Alpha, Cyrillic A) only the first is a class, so the
    shapes of unseen classes are really unseen. Size, place and angle of a rendering are a function of (seed, letter,
    font file, number): scale 0.88 to 1.12, up to 2 pixels of shift, up to 8 degrees.

    Args:
        fonts: folder of further fonts.
        renderings: of each letter in each font.
        min_fonts: letters that fewer fonts draw are left out.
        max_classes: at most so many letters a script, spread evenly over it.

    Raises:
        RectifyError: no letter is left of one of the two kinds of script, or an option is out of range.
    """
    for key, value, least in (("size", size, 16), ("renderings", renderings, 1), ("min_fonts", min_fonts, 2)):
        if value < least:
            raise RectifyError(f"glyphs: {key} is {value}; give at least {least}.")
    if shared := set(train_scripts) & set(test_scripts):
        raise RectifyError(f"glyphs: {', '.join(sorted(shared))} is in train_scripts and in test_scripts; choose one.")
    covered = {font: covered_letters(font) for font in find_fonts(fonts)}
    letters, seen_classes = _classes(covered, train_scripts, test_scripts, min_fonts, max_classes)
    samples = [
        (label, font, number)
        for label, letter in enumerate(letters)
        for font, drawn in covered.items()
        if letter in drawn
        for number in range(renderings)
    ]
    labels = np.array([label for label, _, _ in samples], np.int64)

    def image(position: int) -> np.ndarray:
        label, font, number = samples[position]
        draw = keyed_generator("glyphs", seed, letters[label], font.name, number)
        import torch

        scale, right, down, angle = (2 * torch.rand(4, generator=draw) - 1).tolist()
        return draw_glyph(font, letters[label], size, 1 + 0.12 * scale, (2 * right, 2 * down), 8 * angle)

    return Source(
        image,
        labels,
        [f"{letter} {unicodedata.name(letter, '')}".strip() for letter in letters],
        labels >= seen_classes,
        [f"U{ord(letters[label]):04X}/{font.stem}-{number}" for label, font, number in samples],
        val=0.2,
        calibration=0.2,
        by_class="test",
    )


def _classes(
    covered: dict[Path, frozenset[str]],
    train_scripts: Sequence[str],
    test_scripts: Sequence[str],
    min_fonts: int,
    max_classes: int | None,
) -> tuple[list[str], int]:
    """Return the letters in class order and how many of them are trained on."""
    scripts = [*train_scripts, *test_scripts]
    pool: dict[str, list[str]] = {script: [] for script in scripts}
    for letter in sorted(set().union(*covered.values())):
        script = unicodedata.name(letter, "?").split()[0]
        if script in pool and sum(letter in drawn for drawn in covered.values()) >= min_fonts:
            pool[script].append(letter)
    taken: dict[Path, set[bytes]] = {font: set() for font in covered}
    kept: dict[str, list[str]] = {}
    for script in scripts:
        kept[script] = []
        for letter in pool[script]:
            looks = {font: bare_glyph(font, letter, LOOKALIKE_PIXELS) for font, d in covered.items() if letter in d}
            if any(look in taken[font] or not look for font, look in looks.items()):
                continue
            for font, look in looks.items():
                taken[font].add(look)
            kept[script].append(letter)
        if max_classes is not None and len(kept[script]) > max_classes:
            places = np.linspace(0, len(kept[script]) - 1, max_classes).round().astype(int)
            kept[script] = [kept[script][place] for place in places]
    for key, chosen in (("train_scripts", train_scripts), ("test_scripts", test_scripts)):
        if sum(len(kept[script]) for script in chosen) < 2:
            raise RectifyError(
                f"glyphs: fewer than 2 letters of {key} {list(chosen)} stand in {min_fonts} fonts; name other scripts "
                "(the first words of Unicode names, such as GREEK), lower min_fonts or add fonts."
            )
    return [letter for script in scripts for letter in kept[script]], sum(len(kept[s]) for s in train_scripts)
