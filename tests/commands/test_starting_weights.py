"""Files that are no checkpoint end in one sentence, whatever they hold."""

import pytest
import torch

from lightning_rectify.backbones import PlainNet
from lightning_rectify.commands.starting_weights import load_starting_weights
from lightning_rectify.errors import RectifyError


@pytest.mark.parametrize(
    "name, content, said",
    [
        ("a.ckpt", [torch.zeros(2)], "holds a list; give a checkpoint or a state_dict"),
        ("a.ckpt", {"state_dict": None}, "holds no weights; its state_dict is NoneType"),
        ("a.ckpt", {}, "holds no weights"),
        ("a.safetensors", b"words", "is no checkpoint"),
        ("a.ckpt", b"", "is no checkpoint"),
    ],
)
def test_what_is_no_checkpoint(tmp_path, name, content, said):
    path = tmp_path / name
    if isinstance(content, bytes):
        path.write_bytes(content)
    else:
        torch.save(content, path)
    net = PlainNet(3, size=8, width=2)
    before = {key: value.clone() for key, value in net.state_dict().items()}
    with pytest.raises(RectifyError, match=said):
        load_starting_weights(net, path)
    assert all(torch.equal(value, before[key]) for key, value in net.state_dict().items())
