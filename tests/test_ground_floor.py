"""Keyed randomness, atomic files, safe names."""

import pytest
import torch

from lightning_rectify.errors import RectifyError, did_you_mean
from lightning_rectify.files import atomic_path, data_home, safe_name, sha256
from lightning_rectify.losses.objective import Context
from lightning_rectify.randomness import fold, keyed_generator


def test_a_key_gives_one_stream_and_different_keys_different_ones():
    draw = lambda *key: torch.rand(4, generator=keyed_generator(*key)).tolist()  # noqa: E731
    assert draw(0, 1, "a") == draw(0, 1, "a")
    streams = [draw(0, 1, "a"), draw(0, 1, "b"), draw(0, 2, "a"), draw(1, 1, "a"), draw(0, "1", "a"), draw(1, 1, "a")]
    assert len({tuple(stream) for stream in streams[:5]}) == 5 and streams[3] == streams[5]


def test_seeds_are_pinned():
    """Published runs depend on this hash."""
    assert fold(0, 1, 2, 3, "mixing") == 7224409057320556098


def test_context_streams_are_independent_and_repeatable():
    context = Context(key=(0, 1, 2, 3))
    first = torch.rand(3, generator=context.generator("mixing"))
    assert torch.equal(first, torch.rand(3, generator=context.generator("mixing")))
    assert not torch.equal(first, torch.rand(3, generator=context.generator("attack")))


def test_atomic_path_replaces_only_on_success(tmp_path):
    target = tmp_path / "deep" / "file.txt"
    with atomic_path(target) as path:
        path.write_text("old")
    with pytest.raises(KeyError), atomic_path(target) as path:
        path.write_text("new")
        raise KeyError
    assert target.read_text() == "old" and list(target.parent.iterdir()) == [target]


def test_atomic_path_names_an_unwritable_folder(tmp_path):
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(RectifyError, match="cannot be written"), atomic_path(tmp_path / "file" / "x") as path:
        path.write_text("")


@pytest.mark.parametrize("key", ["../../etc/passwd", "/root", "a b/ü", "", "....", "x" * 500])
def test_safe_name_stays_in_its_folder(key, tmp_path):
    name = safe_name(key)
    assert 0 < len(name) <= 120 and (tmp_path / name).resolve().parent == tmp_path.resolve()


def test_sha256_is_the_published_value(tmp_path):
    (tmp_path / "abc").write_text("abc")
    assert sha256(tmp_path / "abc") == "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"


def test_data_home_follows_the_variable(tmp_path, monkeypatch):
    monkeypatch.setenv("RECTIFY_DATA", str(tmp_path))
    assert data_home() == tmp_path


def test_suggestions_ignore_case_and_say_nothing_of_long_lists():
    assert did_you_mean("mixupp", ["Mixup", "FMix"]) == " Did you mean Mixup?"
    assert did_you_mean("zzz", ["a", "b"]) == " Known: a, b."
    assert did_you_mean("zzz", map(str, range(100))) == ""
