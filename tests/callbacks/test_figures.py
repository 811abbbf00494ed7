"""Pictures reach the PNG always and each logger that can show them."""

import numpy as np
import pytest
from foreign import trainer
from PIL import Image
from pytorch_lightning.loggers import CSVLogger, Logger, TensorBoardLogger
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from lightning_rectify.callbacks import figure_path, log_figure, new_figure, short_name
from lightning_rectify.errors import RectifyError

PICTURE = np.random.default_rng(0).integers(0, 256, (20, 30, 3), dtype=np.uint8)


class _Recorder(Logger):
    """The two methods that W&B's logger adds or overrides; the package itself is no dependency."""

    name = version = "recorder"

    def __init__(self):
        super().__init__()
        self.images = []

    def log_image(self, key, images, step=None, **kwargs):
        self.images.append((key, [np.asarray(image) for image in images], step))

    def log_metrics(self, metrics, step=None):
        pass

    def log_hyperparams(self, *args, **kwargs):
        pass


def test_png_and_every_logger_that_shows_images(tmp_path):
    tensorboard, recorder = TensorBoardLogger(tmp_path, name="tb"), _Recorder()
    run = trainer(tmp_path, logger=[tensorboard, CSVLogger(tmp_path, name="csv"), recorder])
    path = log_figure(run, "val/../odd key", PICTURE, 12)
    assert path == figure_path(run, "val/../odd key", 12)
    assert path.parent.parent == tmp_path / "figures"
    assert path.name == "step_00000012.png"
    assert np.array_equal(np.asarray(Image.open(path)), PICTURE)
    assert [entry.name for entry in path.parent.iterdir()] == [path.name]  # no temporary file is left
    tensorboard.experiment.flush()
    events = EventAccumulator(tensorboard.log_dir).Reload()
    (event,) = events.Images("val/../odd key")
    assert (event.step, event.width, event.height) == (12, 30, 20)
    ((key, images, step),) = recorder.images
    assert (key, step) == ("val/../odd key", 12)
    assert np.array_equal(images[0], PICTURE)


def test_a_figure_is_drawn_without_pyplot(tmp_path):
    import matplotlib.pyplot as plt

    figure = new_figure(2, 1, dpi=50)
    figure.subplots().plot([0, 1], [1, 0])
    path = log_figure(trainer(tmp_path), "plain", figure, 0)
    assert Image.open(path).size == (100, 50)
    assert np.asarray(Image.open(path)).std() > 0
    assert plt.get_fignums() == []


def test_a_file_in_the_place_of_the_folder_is_one_sentence(tmp_path):
    (tmp_path / "figures").write_text("in the way")
    with pytest.raises(RectifyError, match="cannot be written"):
        log_figure(trainer(tmp_path), "key", PICTURE, 0)


@pytest.mark.parametrize(
    "name, length, shown",
    [
        ("cat", 5, "cat"),
        ("Q LATIN CAPITAL LETTER Q", 10, "Q…LETTER Q"),
        ("GEORGIAN LETTER JHAN", 10, "GEORG…JHAN"),
        ("abcdefghij", 10, "abcdefghij"),
    ],
)
def test_a_long_name_keeps_its_beginning_and_its_end(name, length, shown):
    assert short_name(name, length) == shown and len(shown) <= length
