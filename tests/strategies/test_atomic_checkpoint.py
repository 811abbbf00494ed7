"""A folder where a file is expected is named for what it is."""

import re

import pytest
import torch

from lightning_rectify.commands.starting_weights import read_checkpoint
from lightning_rectify.errors import RectifyError
from lightning_rectify.strategies import AtomicCheckpoint
from lightning_rectify.strategies.atomic_checkpoint import read_file


@pytest.mark.parametrize(
    "read", [AtomicCheckpoint().load_checkpoint, read_file, lambda path: read_checkpoint(path, "--init_from")]
)
def test_a_sharded_folder_names_what_gathers_it(read, tmp_path):
    with pytest.raises(RectifyError, match=r"folder.*lightning_rectify\.strategies\.consolidate"):
        read(tmp_path)


def test_what_it_says_to_run_can_be_run(tmp_path):
    folder = tmp_path / "last.ckpt"
    folder.mkdir()
    with pytest.raises(RectifyError) as said:
        read_checkpoint(folder, "--ckpt_path")
    call = re.search(r'python -c "(.*)"\.$', str(said.value))[1]
    assert call.endswith(f"('{folder}', '{tmp_path / 'last.whole.ckpt'}')")
    with pytest.raises(RectifyError, match="seal"):  # this folder is empty: nothing of it would be opened
        exec(call)


def test_a_file_is_opened_without_being_read(tmp_path):
    torch.save({"w": torch.arange(3)}, tmp_path / "a.ckpt")
    assert read_file(tmp_path / "a.ckpt", mmap=True)["w"].tolist() == [0, 1, 2]
    (tmp_path / "a.ckpt").write_bytes((tmp_path / "a.ckpt").read_bytes()[:100])
    with pytest.raises(RectifyError, match="cannot be read"):
        read_file(tmp_path / "a.ckpt", mmap=True)
