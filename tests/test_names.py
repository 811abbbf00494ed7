"""The public names: lazily imported, complete, without collisions."""

import importlib
import subprocess
import sys

import pytest

from lightning_rectify import losses, names


@pytest.mark.parametrize("room", [room for room in names.ROOMS if (names.ROOT / room).is_dir()])
def test_every_public_name_of_a_room_is_importable(room):
    package = importlib.import_module(f"lightning_rectify.{room}")
    for name in names.public_names(room):
        assert getattr(package, name).__name__ == name
    assert dir(package) == sorted(names.public_names(room))


def test_unknown_names_are_attribute_errors():
    with pytest.raises(ImportError):
        from lightning_rectify.losses import NoSuchLoss  # noqa: F401
    assert not hasattr(losses, "_private")


def test_a_new_file_is_public_without_registration(tmp_path, monkeypatch):
    (tmp_path / "losses").mkdir()
    (tmp_path / "losses" / "mine.py").write_text("class Mine: ...\nclass _Hidden: ...\ndef twin(): ...\n")
    monkeypatch.setattr(names, "ROOT", tmp_path)
    names.public_names.cache_clear()
    try:
        assert names.public_names("losses") == {
            "Mine": "lightning_rectify.losses.mine",
            "twin": "lightning_rectify.losses.mine",
        }
        (tmp_path / "losses" / "other.py").write_text("class Mine: ...\n")
        names.public_names.cache_clear()
        with pytest.raises(ImportError, match="Mine is defined in both"):
            names.public_names("losses")
        (tmp_path / "losses" / "other.py").write_text("def other(): ...\n")
        names.public_names.cache_clear()
        with pytest.raises(ImportError, match="also the name of a file"):
            names.public_names("losses")
    finally:
        names.public_names.cache_clear()


def test_a_loss_does_not_import_lightning():
    code = "import sys, lightning_rectify.losses as l; l.FMix; print('pytorch_lightning' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout.strip() == "False"
