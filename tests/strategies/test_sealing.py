"""A seal is only good for the folder, the files and the user it was made for."""

import json
from concurrent.futures import ThreadPoolExecutor

import pytest

from lightning_rectify.errors import RectifyError
from lightning_rectify.strategies.sealing import SEAL, _key, check_seal, seal


@pytest.fixture
def sealed(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    folder = tmp_path / "last.ckpt"
    (folder / "checkpoint").mkdir(parents=True)
    (folder / "checkpoint" / "a.pt").write_bytes(b"weights")
    (folder / "latest").write_text("checkpoint")
    seal(folder)
    return folder


def test_a_sealed_folder_passes_also_after_a_move(sealed):
    check_seal(sealed)
    check_seal(sealed.rename(sealed.with_name("best.ckpt")))


def test_the_key_is_private(sealed, tmp_path):
    folder = tmp_path / "config" / "lightning_rectify"
    assert (folder / "seal.key").stat().st_mode & 0o777 == 0o600
    assert [path.name for path in folder.iterdir()] == ["seal.key"]


def test_runs_that_start_together_share_one_key(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path))
    with ThreadPoolExecutor(16) as pool:
        keys = set(pool.map(lambda _: _key(), range(64)))
    assert len(keys) == 1 and len(keys.pop()) == 64


@pytest.mark.parametrize("content", ["", "short"])
def test_a_file_without_a_key_is_refused(sealed, tmp_path, content):
    (tmp_path / "config" / "lightning_rectify" / "seal.key").write_text(content)
    with pytest.raises(RectifyError, match="holds no key of checkpoint seals; delete it"):
        check_seal(sealed)


def test_a_key_that_cannot_be_created_names_the_remedy(sealed, tmp_path, monkeypatch):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "file"))
    with pytest.raises(RectifyError, match="set XDG_CONFIG_HOME to a folder that every node sees"):
        seal(sealed)


@pytest.mark.parametrize(
    ("tamper", "words"),
    [
        (lambda folder: (folder / "latest").write_text("other"), "latest was added, removed or changed"),
        (lambda folder: (folder / "b.pt").write_bytes(b"evil"), "b.pt was added"),
        (lambda folder: (folder / "latest").unlink(), "latest was added, removed"),
        (lambda folder: (folder / "link").symlink_to("/etc/hostname"), "holds the link link"),
        (lambda folder: (folder / SEAL).unlink(), "has no seal"),
        (lambda folder: (folder / SEAL).write_text("{"), "damaged seal"),
        (lambda folder: (folder / SEAL).write_text('{"files": {}}'), "damaged seal"),
    ],
)
def test_tampering_is_refused(sealed, tamper, words):
    tamper(sealed)
    with pytest.raises(RectifyError, match=words):
        check_seal(sealed)


def test_a_seal_of_another_user_is_refused(sealed, monkeypatch, tmp_path):
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "other"))
    with pytest.raises(RectifyError, match="another user's key"):
        check_seal(sealed)


def test_a_rewritten_list_of_files_does_not_help(sealed):
    (sealed / "b.pt").write_bytes(b"evil")
    stored = json.loads((sealed / SEAL).read_text())
    stored["files"]["b.pt"] = stored["files"]["latest"]
    (sealed / SEAL).write_text(json.dumps(stored))
    with pytest.raises(RectifyError, match="another user's key"):
        check_seal(sealed)
