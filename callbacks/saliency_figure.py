"""Draw a panel of images and their saliency maps at exact pixels, fast enough for every epoch."""

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ..attribution.aggregation import AggregateMaps
from .fitted_text import _font, _shortened, _widest

COLUMNS, EDGE, GAP, LEFT, RIGHT, TOP, HEADER, BLOCK = 8, 96, 5, 150, 64, 34, 38, 12
HEADROOM = 4.0
INK, PALE, WRONG = "#222222", "#666666", "#b3261e"


@dataclass
class MapRow:
    """One method's maps (n, H, W) and the magnitude `scale` of the strongest colour.

    `reference` is the epoch that fixed the scale for good, None while each picture has its own. Signed maps get
    diverging colours with 0 in the middle, NaN a grey: there is nothing to show.
    """

    name: str
    maps: Tensor
    scale: float
    reference: int | None = None
    signed: bool = False
    of: str = ""

    def notes(self) -> tuple[str, str]:
        if not self.maps.nan_to_num().any():
            return self.of or "zero everywhere", "zero everywhere" if self.of else ""
        above = float((self.maps.abs() > self.scale).float().mean())
        scale = "own scale" if self.reference is None else f"scale of epoch {self.reference}"
        return (self.of, scale) if self.of else (scale, f"{above:.1%} above it")


def draw_saliency(images: Tensor, captions: list[tuple[str, str, bool]], rows: list[MapRow], title: str) -> np.ndarray:
    """Return a picture, uint8 (H, W, 3): images (n, C, H, W), eight a line, with a row of maps per method beneath.

    Colours follow the square root of a map, so that small values and values well above the usual stay visible.

    Args:
        captions: per sample the label's name, the prediction, and whether it is right.
    """
    from PIL import Image, ImageDraw

    pictures = [_tiles(_as_rgb(images)), *(_tiles(coloured(row.maps, row.scale, row.signed)) for row in rows)]
    count, (height, width) = len(images), pictures[0].shape[1:3]
    columns = min(COLUMNS, count)
    block = HEADER + len(pictures) * (height + GAP) + BLOCK
    margin = _margin([(row.name, 12) for row in rows] + [(note, 10) for row in rows for note in row.notes()])
    right = margin + columns * (width + GAP)
    canvas = np.full((TOP + -(-count // columns) * block, _room(right, title), 3), 255, np.uint8)
    texts: list[tuple[float, float, str, int, str, str]] = [(10, 20, title, 15, INK, "lm")]

    for start in range(0, count, columns):
        top = TOP + start // columns * block + HEADER
        for sample in range(start, min(count, start + columns)):
            left = margin + (sample - start) * (width + GAP)
            name, guess, hit = captions[sample]
            guessed, space, sure = guess.rpartition(" ")
            texts += [(left + width / 2, top - 25, _shortened(name, 12, width), 12, INK, "mm")]
            guess = _shortened(guessed, 11, width, space + sure)
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
            canvas[y : y + height, right + 3 : right + 12] = colour_ramp(height, row.signed)
            for share in (1, 0.5, 0):
                value = f"{row.scale * ((2 * share - 1) if row.signed else share**2):.2g}"
                texts.append((right + 16, y + 5 + (1 - share) * (height - 10), value, 10, PALE, "lm"))

    drawn = Image.fromarray(canvas)
    pen = ImageDraw.Draw(drawn)
    for x, y, text, size, ink, anchor in texts:
        pen.text((x, y), text, fill=ink, font=_font(size), anchor=anchor)
    return np.asarray(drawn)


def draw_aggregate(aggregates: dict[str, tuple[AggregateMaps, bool]], title: str, score: str) -> np.ndarray:
    """Return a picture, uint8 (H, W, 3): a row a method, the mean maps of the bins from the best score to the worst.

    Args:
        aggregates: by title: the bins, and whether the maps are signed.
        score: what the maps are sorted by, in words.
    """
    from PIL import Image, ImageDraw

    rows = []
    for bins, signed in aggregates.values():
        scale = bins.scale if bins.scale > 0 else 1.0
        rows.append((_tiles(coloured(bins.maps, scale, signed)), scale, signed))
    height, width = rows[0][0].shape[1:3]
    line = height + GAP + 13  # with the mean score under each tile
    columns = len(rows[0][0])
    margin = _margin([(name, 12) for name in aggregates])
    right = margin + columns * (width + GAP)
    canvas = np.full((TOP + HEADER + len(rows) * line + BLOCK, _room(right, title), 3), 255, np.uint8)
    drawn = Image.fromarray(canvas)
    pen = ImageDraw.Draw(drawn)
    pen.text((10, 20), title, fill=INK, font=_font(15), anchor="lm")
    first = next(iter(aggregates.values()))[0]
    pen.text((10, TOP + 13), f"by {score}", fill=INK, font=_font(12), anchor="lm")
    for column, (name, count) in enumerate(zip(first.names(), first.counts, strict=True)):
        middle = margin + column * (width + GAP) + width / 2
        pen.text((middle, TOP + 8), name, fill=INK, font=_font(10), anchor="mm")
        pen.text((middle, TOP + 24), f"{count} map{'s' * (count != 1)}", fill=PALE, font=_font(10), anchor="mm")
    for place, (name, (tiles, scale, signed)) in enumerate(zip(aggregates, rows, strict=True)):
        y = TOP + HEADER + place * line
        pen.text((10, y + height / 2 - 8), name, fill=INK, font=_font(12), anchor="lm")
        pen.text((10, y + height / 2 + 9), "one scale for all bins", fill=PALE, font=_font(10), anchor="lm")
        for column, (tile, value) in enumerate(zip(tiles, aggregates[name][0].scores, strict=True)):
            left = margin + column * (width + GAP)
            drawn.paste(Image.fromarray(tile), (left, y))
            text = "" if value != value else f"{value:.2f}"
            pen.text((left + width / 2, y + height + 7), text, fill=PALE, font=_font(10), anchor="mm")
        ramp = np.ascontiguousarray(np.broadcast_to(colour_ramp(height, signed), (height, 9, 3)))
        drawn.paste(Image.fromarray(ramp), (right + 3, y))
        pen.text((right + 16, y + 5), f"{scale:.2g}", fill=PALE, font=_font(10), anchor="lm")
        pen.text((right + 16, y + height - 5), f"{-scale if signed else 0:.2g}", fill=PALE, font=_font(10), anchor="lm")
    return np.asarray(drawn)


def _margin(texts: list[tuple[str, int]]) -> int:
    """Pixels to the left of the pictures: `LEFT`, or what the widest (text, size) there needs."""
    return max(LEFT, 10 + _widest(texts) + GAP)


def _room(right: int, title: str) -> int:
    """The width of a figure whose pictures end at `right`."""
    return max(right + RIGHT, 480, 20 + _widest([(title, 15)]))


def usual_scale(maps: Tensor) -> float:
    """The magnitude for the strongest colour: four times the 99.5 % quantile, 1 if the maps are 0."""
    usual = float(np.quantile(maps.abs().numpy(), 0.995))  # torch.quantile takes 16 million values at most
    return HEADROOM * usual if usual > 0 else 1.0


def coloured(maps: Tensor, scale: float, signed: bool = False) -> np.ndarray:
    """Return maps (n, H, W) as uint8 (n, H, W, 3); the square root of a magnitude keeps small values visible.

    NaN becomes light grey.
    """
    empty = maps.isnan().numpy()
    shade = (maps.float().nan_to_num() / scale).clamp(-1, 1)
    shade = 0.5 + 0.5 * shade.sign() * shade.abs().sqrt() if signed else shade.clamp_min(0).sqrt()
    colours = (_colours(signed)(shade.numpy())[..., :3] * 255).astype(np.uint8)
    colours[empty] = 235
    return colours


def colour_ramp(height: int, signed: bool) -> np.ndarray:
    """The colours from the scale down to 0 (or to its negative), uint8 (height, 1, 3)."""
    if signed:
        share = np.linspace(1, -1, height)
        ramp = _colours(signed)(0.5 + 0.5 * np.sign(share) * np.sqrt(np.abs(share)))
    else:
        ramp = _colours(signed)(np.linspace(1, 0, height))
    return (ramp[:, None, :3] * 255).astype(np.uint8)


def _colours(signed: bool) -> Any:
    import matplotlib

    return matplotlib.colormaps["RdBu_r" if signed else "inferno"]  # diverging, or perceptually uniform


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
