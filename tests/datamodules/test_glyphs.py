"""Letters of real typefaces: what counts as a class, that it is drawn alike each time, and class-disjoint splits."""

from pathlib import Path

import matplotlib
import numpy as np
import pytest
from PIL import ImageFont

from lightning_rectify.datamodules import ShardDataModule, build_shards, covered_letters, find_fonts, glyph_source
from lightning_rectify.errors import RectifyError

FONTS = Path(matplotlib.get_data_path()) / "fonts" / "ttf"
SMALL = {"max_classes": 12, "min_fonts": 12, "size": 16}


@pytest.fixture(scope="module")
def source():
    return glyph_source(**SMALL)


def pixels(font, letter):
    mask = ImageFont.truetype(str(font), 40).getmask(letter, mode="L")
    return mask.size, bytes(mask)


def test_fonts_without_the_letter_do_not_count():
    assert "A" in covered_letters(FONTS / "cmr10.ttf")
    assert not covered_letters(FONTS / "LastResortHE-Regular.ttf")  # maps all of Unicode to a box a script
    assert not covered_letters(FONTS / "cmex10.ttf")  # a bracket where A should be
    assert "A" in covered_letters(FONTS / "cmsy10.ttf") and "a" not in covered_letters(FONTS / "cmsy10.ttf")
    assert {"Δ", "Ω", "Ж", "Ա"} <= covered_letters(FONTS / "DejaVuSans.ttf")


@pytest.mark.parametrize("name", ["DejaVuSerif.ttf", "STIXGeneral.ttf"])
def test_no_covered_letter_is_drawn_as_the_box_of_missing_ones(name):
    box = pixels(FONTS / name, "\U000e0fff")
    letters = sorted(covered_letters(FONTS / name))
    assert len(letters) > 300
    assert all(pixels(FONTS / name, letter) != box for letter in letters[::5])


def test_lookalikes_are_one_class_and_it_is_the_one_to_train_on():
    source = glyph_source(min_fonts=16, size=16)
    letters = [name[0] for name in source.class_names]
    assert {"A", "Ж", "Ω"} <= set(letters)
    assert not {"Α", "А", "Ο", "О"} & set(letters)  # Greek and Cyrillic twins of Latin letters
    font = FONTS / "DejaVuSans.ttf"
    drawn = [pixels(font, letter) for letter in letters if letter in covered_letters(font)]
    assert len(set(drawn)) == len(drawn)


def test_images_are_a_function_of_the_key(source):
    again, other = glyph_source(**SMALL), glyph_source(**SMALL, seed=1)
    places = range(0, len(source.labels), 37)
    assert all((source.image(p) == again.image(p)).all() for p in places)
    assert any((source.image(p) != other.image(p)).any() for p in places)
    for place in places:
        image = source.image(place)
        assert image.shape == (16, 16, 1) and image.dtype == np.uint8 and image.max() > 60
    assert len(set(source.keys)) == len(source.labels)
    assert np.bincount(source.labels).min() >= 12


def test_renderings_differ():
    twice = glyph_source(**SMALL, renderings=2)
    assert len(twice.labels) == 2 * len(glyph_source(**SMALL).labels)
    assert (twice.image(0) != twice.image(1)).any()


def test_splits_share_no_class_and_only_latin_is_trained_on(tmp_path):
    build_shards("glyphs", tmp_path / "g", options=SMALL)
    data = ShardDataModule(str(tmp_path / "g"), batch_size=16)
    data.setup()
    classes = {split: set(data.index.label[ids].tolist()) for split, ids in data.ids.items()}
    assert {split: len(found) for split, found in classes.items()} == {
        "train": 12, "val": 10, "calibration": 10, "test": 28
    }  # fmt: skip
    assert len(set.union(*classes.values())) == sum(map(len, classes.values())) == data.classes
    assert classes["train"] == set(range(12))  # proxies need labels from 0 on
    assert all("LATIN" in data.class_names[label] for label in classes["train"])
    assert not any("LATIN" in data.class_names[label] for label in classes["test"])
    test, calibration = data.test_dataloader()
    seen = [{int(label) for batch in loader for label in batch["label"]} for loader in (test, calibration)]
    assert seen == [classes["test"], classes["calibration"]]
    image = data.images(np.array([3, 0]))
    assert image.shape == (2, 1, 16, 16)


def test_a_set_without_calibration_classes_has_one_test_loader(tmp_path):
    build_shards("glyphs", tmp_path / "g", options=SMALL, calibration=0.0)
    data = ShardDataModule(str(tmp_path / "g"), batch_size=16)
    data.setup()
    assert not isinstance(data.test_dataloader(), list)
    assert "calibration" not in data.manifest.counts


@pytest.mark.parametrize(
    "options, said",
    [
        ({"size": 4}, "size is 4"),
        ({"renderings": 0}, "renderings is 0"),
        ({"min_fonts": 100}, "min_fonts"),
        ({"train_scripts": ["KLINGON"]}, "KLINGON"),
        ({"test_scripts": ["LATIN"]}, "LATIN is in train_scripts and in test_scripts"),
        ({"fonts": "/nowhere"}, "/nowhere holds no .ttf"),
        ({"sise": 24}, "Did you mean size?"),
    ],
)
def test_bad_options(tmp_path, options, said):
    with pytest.raises(RectifyError, match=r"glyphs|fonts") as caught:
        build_shards("glyphs", tmp_path / "g", options=options)
    assert said in str(caught.value)
    assert not list(tmp_path.iterdir())


def test_a_broken_font_is_named(tmp_path):
    (tmp_path / "broken.ttf").write_bytes(b"no font")
    assert tmp_path / "broken.ttf" in find_fonts(tmp_path)
    with pytest.raises(RectifyError, match=r"broken.ttf cannot be read"):
        glyph_source(fonts=tmp_path)


def test_options_and_calibration_belong_to_sets_that_have_them(tmp_path):
    with pytest.raises(RectifyError, match="takes no options"):
        build_shards("digits", tmp_path / "d", options={"size": 8})
    with pytest.raises(RectifyError, match="calibration classes"):
        build_shards("digits", tmp_path / "d", calibration=0.1)
    with pytest.raises(RectifyError, match="at least 2 are needed"):
        build_shards("glyphs", tmp_path / "d", options=SMALL, val=0.99, calibration=0.01)
