"""Draw a panel of images and their saliency maps at exact pixels, fast enough for every epoch."""

from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

COLUMNS, EDGE, GAP, LEFT, RIGHT, TOP, HEADER, BLOCK = 8, 96, 5, 150, 64, 34, 38, 12
INK, PALE, WRONG = "#222222", "#666666", "#b3261e"


@dataclass
class MapRow:
    """One method's maps (n, H, W), not negative, and the value `scale` of the brightest colour.

    `reference` is the epoch that fixed the scale for good, None while each picture has its own.
    """

    name: str
    maps: Tensor
    scale: float
    reference: int | None = None

    def notes(self) -> tuple[str, str]:
        if not self.maps.any():
            return "zero everywhere", ""
        above = float((self.maps > self.scale).float().mean())
        scale = "own scale" if self.reference is None else f"scale of epoch {self.reference}"
        return scale, f"{above:.1%} above it"


def draw_saliency(images: Tensor, captions: list[tuple[str, str, bool]], rows: list[MapRow], title: str) -> np.ndarray:
    """Return a picture, uint8 (H, W, 3): images (n, C, H, W), eight a line, with a row of maps per method beneath.

    Colours follow the square root of a map, so that small values and values well above the usual stay visible.

    Args:
        captions: per sample the label's name, the prediction, and whether it is right.
    """
    import matplotlib
    from PIL import Image, ImageDraw

    colours = matplotlib.colormaps["inferno"]  # perceptually uniform
    pictures = [_tiles(_as_rgb(images))]
    for row in rows:
        shade = (row.maps / row.scale).clamp(0, 1).sqrt().float().numpy()
        pictures.append(_tiles((colours(shade)[..., :3] * 255).astype(np.uint8)))
    count, (height, width) = len(images), pictures[0].shape[1:3]
    columns = min(COLUMNS, count)
    block = HEADER + len(pictures) * (height + GAP) + BLOCK
    right = LEFT + columns * (width + GAP)
    canvas = np.full((TOP + -(-count // columns) * block, max(right + RIGHT, 480), 3), 255, np.uint8)
    texts: list[tuple[float, float, str, int, str, str]] = [(10, 20, title, 15, INK, "lm")]

    for start in range(0, count, columns):
        top = TOP + start // columns * block + HEADER
        for sample in range(start, min(count, start + columns)):
            left = LEFT + (sample - start) * (width + GAP)
            name, guess, hit = captions[sample]
            texts += [(left + width / 2, top - 25, name, 12, INK, "mm")]
            texts += [(left + width / 2, top - 9, guess, 11, PALE if hit else WRONG, "mm")]
            for place, picture in enumerate(pictures):
                y = top + place * (height + GAP)
                canvas[y : y + height, left : left + width] = picture[sample]
        texts.append((10, top + height / 2, "image", 12, INK, "lm"))
        for place, row in enumerate(rows, start=1):
            y = top + place * (height + GAP)
            first, second = row.notes()
            for shift, text, size, ink in ((-16, row.name, 12, INK), (2, first, 10, PALE), (17, second, 10, PALE)):
                texts.append((10, y + height / 2 + shift, text, size, ink, "lm"))
            ramp = colours(np.linspace(1, 0, height))[:, None, :3] * 255
            canvas[y : y + height, right + 3 : right + 12] = ramp.astype(np.uint8)
            for share in (1, 0.5, 0):
                value = f"{row.scale * share**2:.2g}"
                texts.append((right + 16, y + 5 + (1 - share) * (height - 10), value, 10, PALE, "lm"))

    drawn = Image.fromarray(canvas)
    pen = ImageDraw.Draw(drawn)
    for x, y, text, size, ink, anchor in texts:
        pen.text((x, y), text, fill=ink, font=_font(size), anchor=anchor)
    return np.asarray(drawn)


@cache
def _font(size: int) -> Any:
    """matplotlib's own font: its wheel carries one that knows more than ASCII."""
    import matplotlib
    from PIL import ImageFont

    return ImageFont.truetype(str(Path(matplotlib.get_data_path()) / "fonts" / "ttf" / "DejaVuSans.ttf"), size)


def _as_rgb(images: Tensor) -> np.ndarray:
    """Return uint8 (n, H, W, 3); values outside [0, 1] are stretched over the panel, other channel counts averaged."""
    images = images.detach().float().cpu()
    low, high = images.min(), images.max()
    if low < 0 or high > 1:
        images = (images - low) / (high - low).clamp_min(1e-12)
    if images.shape[1] != 3:
        images = images.mean(1, keepdim=True).expand(-1, 3, -1, -1)
    return (images * 255).round().to(torch.uint8).permute(0, 2, 3, 1).numpy()


def _tiles(pictures: np.ndarray) -> np.ndarray:
    """Enlarge small pictures by a whole factor, so that pixels stay square; shrink large ones."""
    longest = max(pictures.shape[1:3])
    if longest <= EDGE:
        factor = max(1, EDGE // longest)
        return pictures.repeat(factor, axis=1).repeat(factor, axis=2)
    from PIL import Image

    size = (max(1, pictures.shape[2] * EDGE // longest), max(1, pictures.shape[1] * EDGE // longest))
    return np.stack([np.asarray(Image.fromarray(picture).resize(size, Image.Resampling.BOX)) for picture in pictures])
