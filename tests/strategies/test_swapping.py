"""A folder is replaced by another, and at no moment is there none to go on from."""

import pytest

from lightning_rectify.strategies import swapping
from lightning_rectify.strategies.swapping import displaced, present, swap


class Killed(BaseException):
    pass


@pytest.fixture
def folders(tmp_path):
    new, target = tmp_path / ".last.ckpt.partial", tmp_path / "last.ckpt"
    for folder in (new, target):
        folder.mkdir()
        (folder / "name").write_text(folder.name)
    return new, target


def names(folder):
    return sorted(path.name for path in folder.iterdir())


@pytest.mark.parametrize("exchange", [True, False])
def test_the_new_folder_takes_the_place_and_nothing_is_left(folders, monkeypatch, exchange):
    new, target = folders
    if not exchange:  # a file system that cannot
        monkeypatch.setattr(swapping, "_exchange", lambda one, other: False)
    swap(new, target)
    assert (target / "name").read_text() == new.name
    assert names(target.parent) == ["last.ckpt"]


def test_this_system_exchanges_in_one_step(folders):
    new, target = folders
    assert swapping._exchange(new, target)
    assert (target / "name").read_text() == new.name and (new / "name").read_text() == target.name


def test_a_file_or_nothing_in_the_place(folders):
    new, target = folders
    swap(target, target.with_name("file.ckpt"))
    target.write_text("a file")
    swap(new, target)
    assert (target / "name").read_text() == new.name


def test_a_kill_between_two_renames_leaves_a_folder_that_is_found(folders, monkeypatch):
    new, target = folders
    monkeypatch.setattr(swapping, "_exchange", lambda one, other: False)
    rename = type(new).rename

    def die(path, to):
        if path == new:
            raise Killed
        return rename(path, to)

    with monkeypatch.context() as patch:
        patch.setattr(type(new), "rename", die)
        with pytest.raises(Killed):
            swap(new, target)
    assert not target.exists()
    assert (present(target) / "name").read_text() == "last.ckpt"
    assert list(target.parent.glob("last*.ckpt")) == [displaced(target)]
    swap(new, target)  # the next life saves again
    assert present(target) == target and names(target.parent) == ["last.ckpt"]
