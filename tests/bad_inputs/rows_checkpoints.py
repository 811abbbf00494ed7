"""Mistakes in a checkpoint."""

import pickle
from pathlib import Path

import torch
from table import FIT, Row, write


class _Evil:
    def __reduce__(self):
        return (Path("pwned").touch, ())


def _pickle(folder):
    (folder / "evil.ckpt").write_bytes(pickle.dumps({"state_dict": _Evil()}))


def _torch_pickle(folder):
    torch.save({"state_dict": {}, "x": _Evil()}, folder / "evil.ckpt")


def _cut(folder):
    (folder / "cut.ckpt").write_bytes((folder / "base.ckpt").read_bytes()[:5000])


def _bare(folder):
    torch.save({"epoch": 3}, folder / "empty.ckpt")


TEST = ("test", *FIT[1:])
ROWS = [
    Row("missing file", (*FIT, "--init_from", "no.ckpt"), ("--init_from", "no.ckpt does not exist")),
    Row("nothing to resume", (*FIT, "--ckpt_path", "no.ckpt"), ("--ckpt_path", "no.ckpt does not exist")),
    Row("URL", (*FIT, "--init_from", "https://x.org/a.ckpt"), ("URL", "local file")),
    Row("URL to resume", (*FIT, "--ckpt_path", "s3://bucket/a.ckpt"), ("URL", "local file")),
    Row("folder", (*FIT, "--init_from", "shards"), ("shards is a folder",)),
    Row("text", (*FIT, "--init_from", "a.ckpt"), ("a.ckpt is no checkpoint",), write("a.ckpt", "words")),
    Row("cut short", (*FIT, "--init_from", "cut.ckpt"), ("cut.ckpt is no checkpoint",), _cut),
    Row("pickle", (*FIT, "--init_from", "evil.ckpt"), ("evil.ckpt is no checkpoint", "not opened"), _pickle),
    Row("pickle in torch's format", (*FIT, "--init_from", "evil.ckpt"), ("not opened",), _torch_pickle),
    Row("pickle to resume", (*FIT, "--ckpt_path", "evil.ckpt"), ("not opened",), _torch_pickle),
    Row("without weights", (*FIT, "--init_from", "empty.ckpt"), ("holds no weights",), _bare),
    Row("another width", (*FIT, "--init_from", "base.ckpt", "--model.backbone.width", 16),
        ("another architecture", "there and", "model.backbone")),
    Row("another depth", (*FIT, "--init_from", "base.ckpt", "--model.backbone.depth", 14),
        ("another architecture", "lacks")),
    Row("another head", (*FIT, "--init_from", "base.ckpt", "--model.backbone.classes", 12), ("--replace_head true",)),
    Row("another architecture to test", (*TEST, "--ckpt_path", "base.ckpt", "--model.backbone.width", 16),
        ("--ckpt_path", "another architecture")),
    Row("last of no run", (*FIT, "--ckpt_path", "last"), ("--ckpt_path last", "no run quickstart")),
    Row("best of no run", (*TEST, "--ckpt_path", "best"), ("--ckpt_path best", "no run quickstart")),
    Row("test of untrained weights", TEST, ("untrained", "--ckpt_path", "--init_from")),
    Row("missing pretrained weights", (*FIT, "--model.backbone", "TimmBackbone", "--model.backbone.name", "resnet18",
        "--model.backbone.classes", 10, "--model.backbone.weights", "no.safetensors"), ("weights", "no.safetensors")),
]  # fmt: skip
