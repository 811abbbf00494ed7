"""One adapter for pictures: always a PNG in the run folder, and every logger that can show images."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from pytorch_lightning import Trainer

from ..files import atomic_path, safe_name

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def new_figure(width: float, height: float, dpi: int = 120) -> Figure:
    """Return an empty figure of the given inches that draws by Agg; pyplot and its global state are not involved."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), dpi=dpi)
    FigureCanvasAgg(figure)
    return figure


def figure_path(trainer: Trainer, key: str, step: int) -> Path:
    """The PNG of a key at a step: `<run>/figures/<key, plain>/step_00000120.png`."""
    return Path(trainer.default_root_dir) / "figures" / safe_name(key) / f"step_{step:08d}.png"


def log_figure(trainer: Trainer, key: str, picture: Figure | np.ndarray, step: int) -> Path | None:
    """Write a picture as PNG and show it in each logger that takes images (TensorBoard, W&B, MLflow).

    Only the global rank 0 writes; the other ranks return None at once.

    Args:
        picture: a matplotlib figure, or uint8 of shape (H, W, 3).

    Raises:
        RectifyError: the PNG cannot be written.
    """
    if not trainer.is_global_zero:
        return None
    from PIL import Image

    pixels = picture if isinstance(picture, np.ndarray) else _rendered(picture)
    path = figure_path(trainer, key, step)
    with atomic_path(path) as temporary:
        Image.fromarray(pixels).save(temporary, format="PNG")
    for logger in trainer.loggers:
        _show(logger, key, pixels, step)
    return path


def _rendered(figure: Figure) -> np.ndarray:
    canvas: Any = figure.canvas
    canvas.draw()
    return np.ascontiguousarray(np.asarray(canvas.buffer_rgba())[..., :3])


def _show(logger: Any, key: str, pixels: np.ndarray, step: int) -> None:
    """Dispatch on what the logger can do, so that its package need not be installed here."""
    if hasattr(logger, "log_image"):  # W&B, and any logger that follows it
        from PIL import Image

        logger.log_image(key=key, images=[Image.fromarray(pixels)], step=step)
        return
    experiment: Any = getattr(logger, "experiment", None)
    if hasattr(experiment, "add_image"):  # TensorBoard
        experiment.add_image(key, pixels, step, dataformats="HWC")
    elif hasattr(experiment, "log_image") and hasattr(logger, "run_id"):  # MLflow
        experiment.log_image(logger.run_id, pixels, artifact_file=f"figures/{safe_name(key)}/step_{step:08d}.png")


def short_name(name: str, length: int) -> str:
    """Return a class name of at most `length` characters: its first word and as much of its end as fits."""
    if len(name) <= length:
        return name
    start = name.split()[0][: length // 2]
    return f"{start}…{name[len(name) - (length - len(start) - 1) :].lstrip()}"
